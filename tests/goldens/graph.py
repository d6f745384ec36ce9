#!/usr/bin/env python3
"""graph.py: what PyTorch Geometric computes for limen/attention's layers along edges, in float64.

    python tests/goldens/graph.py        writes graph_attention.hpp

GATConv and GATv2Conv, with heads side by side or their mean, self loops put in or not, and features
of edges.
"""

from pathlib import Path

import torch
import torch_geometric
from torch_geometric.nn import GATConv, GATv2Conv

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


torch.manual_seed(31)
lines[:] = [
    "#pragma once",
    f"// Made by graph.py with PyTorch {torch.__version__.split('+')[0]} and PyTorch Geometric "
    f"{torch_geometric.__version__}.",
    "// clang-format off",
    "\nnamespace goldens::graph {",
]
for kind, prefix in [(GATConv, "gat"), (GATv2Conv, "gatv2")]:
    case(kind, f"{prefix}_least", 3, 5, 1, 0, d_head=1, add_self_loops=False)
    case(kind, f"{prefix}_heads", 7, 20, 5, 0, d_head=6, heads=3, negative_slope=0.4)
    case(kind, f"{prefix}_mean", 6, 16, 3, 0, d_head=17, heads=2, concat=False, bias=False)
    case(kind, f"{prefix}_edges", 6, 18, 4, 3, d_head=4, heads=4)
    case(kind, f"{prefix}_bare", 5, 12, 2, 2, d_head=3, heads=2, add_self_loops=False)
lines.append("\n}  // namespace goldens::graph")
path = Path(__file__).parent / "graph_attention.hpp"
path.write_text("\n".join(lines) + "\n", encoding="utf-8")
