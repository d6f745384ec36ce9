#!/usr/bin/env python3
"""PyTorch's scaled_dot_product_attention beside attention.forward|backward/HxDxT.full|causal and
attention.decode/H:HkxDxT, float32.
"""

import common
import torch
import torch.nn.functional as F


def inputs(h: int, d: int, t: int, hk: int | None = None, queries: int | None = None):
    q = torch.randn(1, h, queries or t, d)
    return q, torch.randn(1, hk or h, t, d), torch.randn(1, hk or h, t, d)


def forward(h: int, d: int, t: int, mask: str):
    q, k, v = inputs(h, d, t)

    @torch.inference_mode()
    def call():
        return F.scaled_dot_product_attention(q, k, v, is_causal=mask == "causal")

    return call


def backward(h: int, d: int, t: int, mask: str):
    """Only the way back: the graph is kept."""
    q, k, v = (x.requires_grad_() for x in inputs(h, d, t))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=mask == "causal")
    dy = torch.randn_like(y)
    return lambda: torch.autograd.grad(y, (q, k, v), dy, retain_graph=True)


def decode(h: int, hk: int, d: int, t: int):
    q, k, v = inputs(h, d, t, hk, 1)

    @torch.inference_mode()
    def call():
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    return call


if __name__ == "__main__":
    size = r"(\d+)x(\d+)x(\d+)"
    common.run(
        {
            rf"attention\.forward/{size}\.(full|causal)": forward,
            rf"attention\.backward/{size}\.(full|causal)": backward,
            r"attention\.decode/(\d+):(\d+)x(\d+)x(\d+)": decode,
        }
    )
