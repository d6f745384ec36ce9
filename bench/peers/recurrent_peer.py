#!/usr/bin/env python3
"""PyTorch beside gru... and lstm...: torch.nn.GRU and LSTM in float32, [B, T, width]."""

import common
import torch

KINDS = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}


def forward(kind: str, h: int, t: int, b: int):
    layer, x = KINDS[kind](h, h, batch_first=True).eval(), torch.randn(b, t, h)

    @torch.inference_mode()
    def call():
        return layer(x)

    return call


def training(kind: str, what: str, h: int, t: int, b: int):
    i = 8 if what == "digits" else h
    layer = KINDS[kind](i, h, batch_first=True)
    x, dy = torch.randn(b, t, i, requires_grad=True), torch.randn(b, t, h)

    def call():
        y, _ = layer(x)
        return torch.autograd.grad(y, [x, *layer.parameters()], dy)

    return call


def unit_step(kind: str, h: int):
    layer, x = KINDS[kind](h, h, batch_first=True).eval(), torch.randn(1, 1, h)
    state = torch.zeros(1, 1, h)
    if kind == "lstm":
        state = (state, state)

    @torch.inference_mode()
    def call():
        nonlocal state
        y, state = layer(x, state)
        return y

    return call


def stream(kind: str, h: int):
    """One sample in, one out: gru.step and lstm.step run 256 of them."""
    layer, head = KINDS[kind](1, h, batch_first=True).eval(), torch.nn.Linear(h, 1).eval()
    x, state = torch.randn(256, 1, 1, 1), torch.zeros(1, 1, h)
    if kind == "lstm":
        state = (state, state)

    @torch.inference_mode()
    def call():
        s = state
        for x_t in x:
            y, s = layer(x_t, s)
            head(y)

    return call


if __name__ == "__main__":
    common.run(
        {
            r"(gru|lstm)\.forward/(\d+)x(\d+)x(\d+)": forward,
            r"(gru|lstm)\.(training|digits)/(\d+)x(\d+)x(\d+)": training,
            r"(gru|lstm)\.unit_step/(\d+)": unit_step,
            r"(gru|lstm)\.step/(\d+)": stream,
        }
    )
