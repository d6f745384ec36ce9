#!/usr/bin/env python3
"""graph.py: what PyTorch and PyTorch Geometric compute for layers on graphs, in float64.

    python tests/goldens/graph.py        writes graph_{attention,block,gman}.hpp

GATConv and GATv2Conv, with heads side by side or their mean, self loops put in or not, and features
of edges. GMAN is in no library; it is written here from the equations of its paper
(arXiv:1911.08415, 1 to 12), without batch norms. The block of HPNet (arXiv:2404.06351) is written
edge by edge.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
import torch_geometric
from torch_geometric.nn import GATConv, GATv2Conv
from torch_geometric.utils import scatter, softmax

torch.set_default_dtype(torch.float64)
lines: list[str] = []


def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.round(torch.randn(*shape) * scale * 64) / 64).requires_grad_()


def write(arrays: dict, kind: str = "double") -> None:
    for key, value in arrays.items():
        text = ",".join(f"{v:.13g}" for v in value.detach().reshape(-1).tolist())
        lines.append(f"inline constexpr {kind} {key}[] = {{{text}}};")


def edges_of(nodes: int, count: int) -> torch.Tensor:
    """In no order; some twice, some from a node to itself; none to the last node."""
    to = torch.randint(0, max(nodes - 1, 1), (count,))
    return torch.stack([torch.randint(0, nodes, (count,)), to])


ORDER = {
    GATv2Conv: ["lin_l.weight", "lin_l.bias", "lin_r.weight", "lin_r.bias", "att"],
    GATConv: ["lin.weight", "att_src", "att_dst", "att_edge"],
}


def case(kind, name: str, nodes: int, count: int, d_in: int, d_edge: int, **options) -> None:
    layer = kind(d_in, options.pop("d_head"), edge_dim=d_edge or None, **options)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(draw(*p.shape, scale=0.5))
    edges, x = edges_of(nodes, count), draw(nodes, d_in)
    f = draw(count, d_edge) if d_edge else None
    y = layer(x, edges, f)
    dy = draw(*y.shape).detach()
    held = dict(layer.named_parameters())
    parameters = {n: held[n] for n in [*ORDER[kind], "lin_edge.weight", "bias"] if n in held}
    wanted = [x, *([f] if d_edge else []), *parameters.values()]
    slopes = list(torch.autograd.grad(y, wanted, dy))
    lines.append(f"\nnamespace {name} {{")
    write({"from": edges[0], "to": edges[1]}, "int")
    write({"x": x, "y": y, "dy": dy, "dx": slopes.pop(0)})
    if d_edge:
        write({"features": f, "d_features": slopes.pop(0)})
    names = {n: n.replace(".", "_") for n in parameters}
    write({names[n]: p for n, p in parameters.items()})
    write({"d_" + names[n]: s for n, s in zip(parameters, slopes, strict=True)})
    lines.append(f"}}  // namespace {name}")


class Gman:
    """All weights are drawn where they are first asked for, in the order of limen's visit."""

    def __init__(self, nodes: int, heads: int, d: int, blocks: int, ahead: int, slots: int):
        self.nodes, self.heads, self.d, self.ahead = nodes, heads, d, ahead
        width = self.width = heads * d
        self.list: list[torch.Tensor] = []
        self.se, self.node_fc = self.new(nodes, width), self.two(width, width)
        self.times, self.times_bias = self.new(7 + slots, width), self.new(width)
        self.times_out = self.linear(width, width)
        self.input = self.two(1, width)
        self.encoder = [self.block() for _ in range(blocks)]
        self.qkv = [self.linear(width, width) for _ in range(3)]
        self.transform = self.two(width, width)
        self.decoder = [self.block() for _ in range(blocks)]
        self.output = self.two(width, 1)

    def new(self, *shape: int) -> torch.Tensor:
        self.list.append(draw(*shape, scale=0.6))
        return self.list[-1]

    def linear(self, i: int, o: int):
        return self.new(o, i), self.new(o)

    def two(self, i: int, o: int):
        return self.linear(i, self.width), self.linear(self.width, o)

    def block(self) -> dict:
        w = self.width
        return {
            "spatial": (self.linear(2 * w, 3 * w), self.two(w, w)),
            "temporal": (self.linear(2 * w, 3 * w), self.two(w, w)),
            "fusion": (self.new(w, w), self.new(w, w), self.new(w)),
            "output": self.two(w, w),
        }

    @staticmethod
    def through(two, x):
        return F.linear(F.relu(F.linear(x, *two[0])), *two[1])

    def attend(self, q, k, v, causal: bool = False):
        """[..., T, K d] -> the same, head by head."""
        q, k, v = (t.unflatten(-1, (self.heads, self.d)).transpose(-2, -3) for t in (q, k, v))
        s = q @ k.transpose(-1, -2) / math.sqrt(self.d)
        if causal:
            s = s.masked_fill(~torch.ones(s.shape[-2:], dtype=torch.bool).tril(), -math.inf)
        return (s.softmax(-1) @ v).transpose(-2, -3).flatten(-2)

    def mixed(self, block: dict, x, e, causal: bool):
        """x, e [T, N, D]"""
        y = torch.cat([x, e], -1)
        spatial, temporal = block["spatial"], block["temporal"]
        hs = self.attend(*F.relu(F.linear(y, *spatial[0])).chunk(3, -1))
        hs = self.through(spatial[1], hs)
        q, k, v = F.relu(F.linear(y, *temporal[0])).transpose(0, 1).chunk(3, -1)
        ht = self.through(temporal[1], self.attend(q, k, v, causal).transpose(0, 1))
        ws, wt, b = block["fusion"]
        z = torch.sigmoid(F.linear(hs, ws) + F.linear(ht, wt) + b)
        return x + self.through(block["output"], z * hs + (1 - z) * ht)

    def __call__(self, x, causal: bool):
        past = x.shape[0] - self.ahead
        day, slot = x[:, self.nodes].long(), x[:, self.nodes + 1].long()
        when = F.relu(self.times[day] + self.times[7 + slot] + self.times_bias)
        e = self.through(self.node_fc, self.se) + F.linear(when, *self.times_out)[:, None]
        h = self.through(self.input, x[:past, : self.nodes, None])
        for block in self.encoder:
            h = self.mixed(block, h, e[:past], causal)
        q, k, v = (
            F.relu(F.linear(t, *w)).transpose(0, 1)
            for t, w in zip((e[past:], e[:past], h), self.qkv, strict=True)
        )
        h = self.through(self.transform, self.attend(q, k, v).transpose(0, 1))
        for block in self.decoder:
            h = self.mixed(block, h, e[past:], causal)
        return self.through(self.output, h).squeeze(-1)


def gman(name: str, nodes, heads, d, blocks, ahead, slots, past, causal) -> None:
    model, rows = Gman(nodes, heads, d, blocks, ahead, slots), past + ahead
    values = torch.round(torch.randn(rows, nodes) * 64) / 64
    t = torch.arange(rows, dtype=torch.float64)
    times = torch.stack([(t // slots + 2) % 7, t % slots], -1)
    x = torch.cat([values, times], -1).requires_grad_()
    y = model(x, causal)
    dy = draw(*y.shape).detach()
    dx, *slopes = torch.autograd.grad(y, [x, *model.list], dy)
    lines.append(f"\nnamespace {name} {{")
    write({"x": x, "y": y, "dy": dy, "dx": dx})
    flat = [torch.cat([p.reshape(-1) for p in of]) for of in (model.list, slopes)]
    write({"parameters": flat[0], "gradients": flat[1]})
    lines.append(f"}}  // namespace {name}")


def block(name: str, nodes: int, count: int, d: int, heads: int, d_edge: int, wide: int) -> None:
    edges = edges_of(nodes, count)
    x, f = draw(nodes, d), draw(count, d_edge) if d_edge else None
    p: dict[str, torch.Tensor] = {}

    def norm(name: str, x):
        width = x.shape[-1]
        p[name + "_weight"], p[name + "_bias"] = draw(width), draw(width)
        return F.layer_norm(x, [width], p[name + "_weight"], p[name + "_bias"])

    def linear(name: str, x, wide: int):
        p[name + "_weight"], p[name + "_bias"] = draw(wide, x.shape[-1], scale=0.5), draw(wide)
        return F.linear(x, p[name + "_weight"], p[name + "_bias"])

    n = norm("norm", x)
    said = norm("edge_norm", f) if d_edge else None
    q, k, v = (linear(name, n, d) for name in "qkv")
    q, k, v = q[edges[1]], k[edges[0]], v[edges[0]]
    if d_edge:
        k = k + linear("edge_k", said, d)
        v = v + linear("edge_v", said, d)
    split = (count, heads, d // heads)
    s = (q.reshape(split) * k.reshape(split)).sum(-1) / math.sqrt(d // heads)
    w = softmax(s, edges[1], num_nodes=nodes)
    read = scatter((w[..., None] * v.reshape(split)).reshape(count, d), edges[1], 0, nodes)
    u = n + read
    y = u + linear("ffn_out", F.relu(linear("ffn_in", norm("ffn_norm", u), wide * d)), d)
    dy = draw(*y.shape).detach()
    wanted = [x, *([f] if d_edge else []), *p.values()]
    slopes = list(torch.autograd.grad(y, wanted, dy))
    lines.append(f"\nnamespace {name} {{")
    write({"from": edges[0], "to": edges[1]}, "int")
    write({"x": x, "y": y, "dy": dy, "dx": slopes.pop(0)})
    if d_edge:
        write({"features": f, "d_features": slopes.pop(0)})
    write(p)
    write({"d_" + key: s for key, s in zip(p, slopes, strict=True)})
    lines.append(f"}}  // namespace {name}")


def begin(seed: int, made_with: str) -> None:
    torch.manual_seed(seed)
    lines[:] = [
        "#pragma once",
        f"// Made by graph.py with PyTorch {torch.__version__.split('+')[0]}{made_with}.",
        "// clang-format off",
        "\nnamespace goldens::graph {",
    ]


def finish(name: str) -> None:
    lines.append("\n}  // namespace goldens::graph")
    path = Path(__file__).parent / f"graph_{name}.hpp"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


begin(31, f" and PyTorch Geometric {torch_geometric.__version__}")
for kind, prefix in [(GATConv, "gat"), (GATv2Conv, "gatv2")]:
    case(kind, f"{prefix}_least", 3, 5, 1, 0, d_head=1, add_self_loops=False)
    case(kind, f"{prefix}_heads", 7, 20, 5, 0, d_head=6, heads=3, negative_slope=0.4)
    case(kind, f"{prefix}_mean", 6, 16, 3, 0, d_head=17, heads=2, concat=False, bias=False)
    case(kind, f"{prefix}_edges", 6, 18, 4, 3, d_head=4, heads=4)
    case(kind, f"{prefix}_bare", 5, 12, 2, 2, d_head=3, heads=2, add_self_loops=False)
finish("attention")

begin(32, "")
gman("gman_least", 1, 1, 1, 1, 1, 2, past=1, causal=False)
gman("gman_small", 3, 2, 3, 1, 2, 5, past=4, causal=False)
gman("gman_deep", 5, 3, 2, 2, 3, 9, past=6, causal=True)
finish("gman")

begin(33, f" and PyTorch Geometric {torch_geometric.__version__}")
block("block_bare", 5, 12, 4, 2, 0, wide=1)
block("block_edges", 7, 20, 6, 3, 3, wide=2)
finish("block")
