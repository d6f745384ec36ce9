#!/usr/bin/env python3
"""PyTorch beside attention.layer.forward.plain|gated|headwise/DxH:KxT and
attention.layer.step.plain|gated/DxH:KxT: the same layer from nn.Linear, rms_norm, a rotation and
scaled_dot_product_attention, float32.
"""

import common
import torch
import torch.nn.functional as F


class Layer:
    def __init__(self, d_model: int, heads: int, kv: int, form: str):
        self.heads, self.kv, self.form = heads, kv, form
        self.d = d_model // heads
        wide, narrow = heads * self.d, kv * self.d
        gate = {"plain": 0, "gated": wide, "headwise": heads}[form]
        # One product for all projections of x is what a user of PyTorch would write.
        self.sizes = [wide, narrow, narrow, gate]
        self.w_in = torch.randn(sum(self.sizes), d_model) * d_model**-0.5
        self.w_out = torch.randn(d_model, wide) * wide**-0.5
        self.norm = torch.ones(self.d)

    def turned(self, x, first: int):
        p = torch.arange(first, first + x.shape[-2])[:, None]
        a = p * 1e4 ** (-torch.arange(0, self.d, 2) / self.d)
        c, s = a.cos(), a.sin()
        low, high = x.chunk(2, -1)
        return torch.cat([low * c - high * s, high * c + low * s], -1)

    def heads_of(self, x, first: int):
        rows = x.shape[0]
        q, k, v, z = F.linear(x, self.w_in).split(self.sizes, -1)
        q = F.rms_norm(q.view(1, rows, self.heads, self.d), (self.d,), self.norm, 1e-6)
        k = F.rms_norm(k.view(1, rows, self.kv, self.d), (self.d,), self.norm, 1e-6)
        v = v.view(1, rows, self.kv, self.d).transpose(1, 2)
        q, k = self.turned(q.transpose(1, 2), first), self.turned(k.transpose(1, 2), first)
        return q, k, v, z

    def output(self, o, z):
        o = o.transpose(1, 2)
        if self.form == "headwise":
            o = o * torch.sigmoid(z)[None, ..., None]
        o = o.reshape(z.shape[0], -1)
        if self.form == "gated":
            o = o * torch.sigmoid(z)
        return F.linear(o, self.w_out)


def forward(form: str, d_model: int, heads: int, kv: int, rows: int):
    layer, x = Layer(d_model, heads, kv, form), torch.randn(rows, d_model)

    @torch.inference_mode()
    def call():
        q, k, v, z = layer.heads_of(x, 0)
        # Its fast path wants as many heads of keys as of queries.
        k, v = (t.repeat_interleave(heads // kv, 1) for t in (k, v))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return layer.output(o, z)

    return call


def step(form: str, d_model: int, heads: int, kv: int, rows: int):
    layer, x = Layer(d_model, heads, kv, form), torch.randn(1, d_model)
    keys, values = (torch.randn(1, kv, rows + 1, layer.d) for _ in range(2))

    @torch.inference_mode()
    def call():
        q, k, v, z = layer.heads_of(x, rows)
        keys[:, :, rows], values[:, :, rows] = k[:, :, 0], v[:, :, 0]
        o = F.scaled_dot_product_attention(q, keys, values, enable_gqa=True)
        return layer.output(o, z)

    return call


if __name__ == "__main__":
    size = r"(\d+)x(\d+):(\d+)x(\d+)"
    common.run(
        {
            rf"attention\.layer\.forward\.(plain|gated|headwise)/{size}": forward,
            rf"attention\.layer\.step\.(plain|gated)/{size}": step,
        }
    )
