#!/usr/bin/env python3
"""PyTorch beside nn.<norm>.forward|backward/TxD, nn.depthwise_conv..., nn.causal_conv... and
nn.conv2d...: float32, each in the layout PyTorch likes ([T, D] rows, channels first in convolutions).
"""

import common
import torch
import torch.nn.functional as F


def forward(f, *inputs):
    @torch.inference_mode()
    def call():
        return f(*inputs)

    return call


def backward(f, *inputs):
    """Only the way back: the graph is kept."""
    for x in inputs:
        x.requires_grad_()
    y = f(*inputs)
    dy = torch.randn_like(y)
    return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)


WAYS = {"forward": forward, "backward": backward}


def norm(kind: str, way: str, t: int, d: int):
    x, w, b = torch.randn(t, d), torch.randn(d), torch.randn(d)
    if kind == "rms_norm":
        return WAYS[way](lambda x, w: F.rms_norm(x, (d,), w, 1e-5), x, w)
    if kind == "layer_norm":
        return WAYS[way](lambda x, w, b: F.layer_norm(x, (d,), w, b), x, w, b)
    if kind == "group_norm":
        return WAYS[way](lambda x, w, b: F.group_norm(x, 12, w, b), x, w, b)
    mean, var = torch.zeros(d), torch.ones(d)
    training = way == "backward"
    return WAYS[way](lambda x, w, b: F.batch_norm(x, mean, var, w, b, training), x, w, b)


def depthwise_conv(way: str, silu: str, t: int, d: int):
    x, w, b = torch.randn(1, d, t), torch.randn(d, 1, 4), torch.randn(d)

    def f(x, w, b):
        y = F.conv1d(x, w, b, padding=3, groups=d)[:, :, :t]
        return F.silu(y) if silu else y

    return WAYS[way](f, x, w, b)


def causal_conv(way: str, t: int, i: int, o: int, k: int, dilation: int):
    x, w, b = torch.randn(1, i, t), torch.randn(o, i, k), torch.randn(o)
    pad = (k - 1) * dilation
    return WAYS[way](
        lambda x, w, b: F.conv1d(x, w, b, padding=pad, dilation=dilation)[:, :, :t], x, w, b
    )


def conv2d(way: str, t: int, height: int, width: int, i: int, o: int, k: int):
    x, w, b = torch.randn(t, i, height, width), torch.randn(o, i, k, k), torch.randn(o)
    return WAYS[way](lambda x, w, b: F.conv2d(x, w, b, padding=k // 2), x, w, b)


if __name__ == "__main__":
    way = r"(forward|backward)"
    common.run(
        {
            rf"nn\.(rms_norm|layer_norm|group_norm|batch_norm)\.{way}/(\d+)x(\d+)": norm,
            rf"nn\.depthwise_conv\.{way}(\.silu)?/(\d+)x(\d+)": depthwise_conv,
            rf"nn\.causal_conv\.{way}/(\d+)x(\d+)x(\d+)x(\d+)d(\d+)": causal_conv,
            rf"nn\.conv2d\.{way}/(\d+)x(\d+)x(\d+)x(\d+)to(\d+)k(\d+)": conv2d,
        }
    )
