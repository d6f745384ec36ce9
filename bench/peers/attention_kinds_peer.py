#!/usr/bin/env python3
"""PyTorch beside attention.unit.whole|unit.chunks|linear.elu|linear.random|local|perceiver.forward/TxD
and attention.gman.forward|backward/NxKxdxPxQ: the same layers, as one would write them with
nn.functional, float32. No library has them; what is summed up over the past goes in chunks of 128
rows, which is what PyTorch does fastest.
"""

import math

import common
import torch
import torch.nn.functional as F

CHUNK = 128  # of sums over the past


def weight(o: int, i: int) -> torch.Tensor:
    return torch.randn(o, i) * i**-0.5


def summed_up(q, k, v):
    """Σ_{s <= t} (q_t·k_s) v_s; q, k [H, T, F], v [H, T, P]."""
    q, k, v = (x.unflatten(1, (-1, CHUNK)) for x in (q, k, v))
    here = (q @ k.mT).tril() @ v
    sums = (k.mT @ v).cumsum(1)
    before = F.pad(sums[:, :-1], (0, 0, 0, 0, 1, 0))
    return (here + q @ before).flatten(1, 2)


def linear(kind: str, rows: int, d_model: int):
    heads, d = 4, d_model // 4
    w, w_o, x = weight(3 * d_model, d_model), weight(d_model, d_model), torch.randn(rows, d_model)
    omega = torch.randn(128, d)

    def drawn(v, c):
        v = v * d**-0.25
        p = v @ omega.T
        top = p.amax(-1, keepdim=True) if c is None else c
        return (p - top - v.square().sum(-1, keepdim=True) / 2).exp() * 128**-0.5

    @torch.inference_mode()
    def call():
        q, k, v = (t.unflatten(-1, (heads, d)).transpose(0, 1) for t in F.linear(x, w).chunk(3, -1))
        if kind == "elu":
            q, k = F.elu(q) + 1, F.elu(k) + 1
        else:
            # One c for all keys. (Ours follows the largest so far, as a stream must.)
            q, k = drawn(q, None), drawn(k, (k * d**-0.25 @ omega.T).amax((-2, -1), keepdim=True))
        both = summed_up(q, k, F.pad(v, (0, 1), value=1.0))
        o = both[..., :-1] / (both[..., -1:] + 1e-6)
        return F.linear(o.transpose(0, 1).flatten(1), w_o)

    return call


def unit(kind: str, rows: int, d_model: int):
    e, s, c = 2 * d_model, 128, 256
    w, w_o, x = weight(2 * e + s, d_model), weight(d_model, e), torch.randn(rows, d_model)
    scale, shift = torch.ones(4, s), torch.zeros(4, s)
    seen = torch.arange(1, rows + 1)[:, None]

    @torch.inference_mode()
    def call():
        u, v, z = F.silu(F.linear(x, w)).split([e, e, s], -1)
        if kind == "whole":
            q, k = (z * scale[i] + shift[i] for i in range(2))
            o = F.relu(q @ k.T / seen).square().tril() @ v
        else:
            q, k, p, l = (  # noqa: E741
                (z * scale[i] + shift[i]).unflatten(0, (-1, c)) for i in range(4)
            )
            v = v.unflatten(0, (-1, c))
            o = F.relu(q @ k.mT / c).square().tril() @ v
            sums = (l.mT @ v / c).cumsum(0)
            o = (o + p @ F.pad(sums[:-1], (0, 0, 0, 0, 1, 0))).flatten(0, 1)
        return F.linear(u * o, w_o)

    return call


def local(rows: int, d_model: int):
    heads, d, behind = 4, d_model // 4, 6
    x, query, by_place = torch.randn(rows, d_model), torch.randn(heads, d), torch.zeros(heads, 7)
    w_k, w_v, w_o = (weight(d_model, d_model) for _ in range(3))
    b_v, b_o = torch.zeros(d_model), torch.zeros(d_model)
    q = query / query.norm(dim=-1, keepdim=True) / math.sqrt(d)
    asked = (w_k.view(heads, d, d_model) * q[..., None]).sum(1)  # made once, as ours

    @torch.inference_mode()
    def call():
        s = F.pad(F.linear(x, asked), (0, 0, behind, 0), value=-math.inf).unfold(0, behind + 1, 1)
        v = F.pad(F.linear(x, w_v, b_v), (0, 0, behind, 0)).unfold(0, behind + 1, 1)
        p = (s + by_place).softmax(-1)
        o = (v.unflatten(1, (heads, d)) * p[:, :, None]).sum(-1)
        return F.linear(o.flatten(1), w_o, b_o)

    return call


class Perceiver:
    """Cells read latents with one narrow head; latents read cells, then each other."""

    def __init__(self, d: int):
        self.d = d
        n = d // 8
        self.to_cells = [weight(n, d), weight(n, d), weight(n, d), weight(d, n)]
        self.to_latents = [weight(d, d) for _ in range(4)]
        self.self_in, self.self_out = weight(3 * d, d), weight(d, d)
        self.mlps = [(weight(w * d, d), weight(d, w * d)) for w in (1, 1, 4)]

    def norm(self, x):
        return F.layer_norm(x, (self.d,))

    def mlp(self, x, i: int):
        up, down = self.mlps[i]
        return x + F.linear(F.gelu(F.linear(self.norm(x), up)), down)

    def cross(self, q, c, w, i: int):
        n, m = self.norm(q), self.norm(c)
        heads = (F.linear(n, w[0]), F.linear(m, w[1]), F.linear(m, w[2]))
        o = F.scaled_dot_product_attention(*(t[None, None] for t in heads))[0, 0]
        return self.mlp(q + F.linear(o, w[3]), i)

    def __call__(self, z, x):
        x = self.cross(x, z, self.to_cells, 0)
        z = self.cross(z, x, self.to_latents, 1)
        heads = F.linear(self.norm(z), self.self_in).chunk(3, -1)
        o = F.scaled_dot_product_attention(*(t[None, None] for t in heads))[0, 0]
        return self.mlp(z + F.linear(o, self.self_out), 2), x


def perceiver(rows: int, d_model: int):
    layer, z, x = Perceiver(d_model), torch.randn(128, d_model), torch.randn(rows - 128, d_model)

    @torch.inference_mode()
    def call():
        return layer(z, x)

    return call


class Gman(torch.nn.Module):
    """arXiv:1911.08415 without batch norms and with one block on each side."""

    def __init__(self, nodes: int, heads: int, d: int, slots: int):
        super().__init__()
        self.heads, self.d, w = heads, d, heads * d
        linear = torch.nn.Linear
        two = lambda i, o: torch.nn.Sequential(linear(i, w), torch.nn.ReLU(), linear(w, o))  # noqa: E731
        self.nodes = torch.nn.Parameter(torch.randn(nodes, w))
        self.node_fc, self.times = two(w, w), torch.nn.Parameter(torch.randn(7 + slots, w))
        self.times_out, self.input, self.output = linear(w, w), two(1, w), two(w, 1)
        self.q, self.k, self.v = linear(w, w), linear(w, w), linear(w, w)
        self.transform = two(w, w)
        self.blocks = torch.nn.ModuleList(
            torch.nn.ModuleDict(
                {
                    "spatial": linear(2 * w, 3 * w),
                    "spatial_out": two(w, w),
                    "temporal": linear(2 * w, 3 * w),
                    "temporal_out": two(w, w),
                    "fusion_s": linear(w, w, bias=False),
                    "fusion_t": linear(w, w),
                    "output": two(w, w),
                }
            )
            for _ in range(2)
        )

    def attend(self, q, k, v):
        q, k, v = (t.unflatten(-1, (self.heads, self.d)).transpose(-2, -3) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2)

    def mixed(self, block, x, e):
        both = torch.cat([x, e], -1)
        hs = block["spatial_out"](self.attend(*F.relu(block["spatial"](both)).chunk(3, -1)))
        over_time = F.relu(block["temporal"](both)).transpose(0, 1).chunk(3, -1)
        ht = block["temporal_out"](self.attend(*over_time).transpose(0, 1))
        z = torch.sigmoid(block["fusion_s"](hs) + block["fusion_t"](ht))
        return x + block["output"](z * hs + (1 - z) * ht)

    def forward(self, values, day, slot):
        past = values.shape[0]
        when = self.times_out(F.relu(self.times[day] + self.times[7 + slot]))
        e = self.node_fc(self.nodes) + when[:, None]
        h = self.mixed(self.blocks[0], self.input(values[..., None]), e[:past])
        q, k, v = (
            F.relu(layer(t)).transpose(0, 1)
            for layer, t in ((self.q, e[past:]), (self.k, e[:past]), (self.v, h))
        )
        h = self.transform(self.attend(q, k, v).transpose(0, 1))
        return self.output(self.mixed(self.blocks[1], h, e[past:])).squeeze(-1)


def gman(what: str, nodes: int, heads: int, d: int, past: int, ahead: int):
    model, rows = Gman(nodes, heads, d, 288), past + ahead
    values, t = torch.randn(past, nodes), torch.arange(rows)
    if what == "forward":

        @torch.inference_mode()
        def call():
            return model(values, t % 7, t)

        return call
    values.requires_grad_()
    y = model(values, t % 7, t)
    dy, wanted = torch.randn_like(y), [values, *model.parameters()]
    return lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True)


if __name__ == "__main__":
    common.run(
        {
            r"attention\.linear\.(elu|random)\.forward/(\d+)x(\d+)": linear,
            r"attention\.unit\.(whole|chunks)\.forward/(\d+)x(\d+)": unit,
            r"attention\.local\.forward/(\d+)x(\d+)": local,
            r"attention\.perceiver\.forward/(\d+)x(\d+)": perceiver,
            r"attention\.gman\.(forward|backward)/(\d+)x(\d+)x(\d+)x(\d+)x(\d+)": gman,
        }
    )
