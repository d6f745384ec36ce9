#!/usr/bin/env python3
"""PyTorch beside min_gru, min_lstm and rnn, in float32: .forward and .training (forward and the
gradients of input and weights).

peer torch-loop goes through time row by row; torch-log is the parallel form of the paper (in logs,
a cumulative sum and a logcumsumexp), for minGRU and minLSTM only.
"""

import common
import torch
import torch.nn.functional as F


def loop(a, b):
    h, rows = torch.zeros_like(b[:, 0]), []
    for t in range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
        rows.append(h)
    return torch.stack(rows, dim=1)


def in_log_space(log_a, log_b):
    total = log_a.cumsum(1)
    return (total + (log_b - total).logcumsumexp(1)).exp()


def g(a):
    return torch.where(a >= 0, a + 0.5, a.sigmoid())


def log_g(a):
    return torch.where(a >= 0, (F.relu(a) + 0.5).log(), -F.softplus(-a))


def min_gru(x, w, log: bool):
    hidden, gate = F.linear(x, w).chunk(2, dim=-1)
    if log:
        return in_log_space(-F.softplus(gate), -F.softplus(-gate) + log_g(hidden))
    z = gate.sigmoid()
    return loop(1 - z, z * g(hidden))


def min_lstm(x, w, log: bool):
    hidden, f, i = F.linear(x, w).chunk(3, dim=-1)
    difference = F.softplus(-f) - F.softplus(-i)
    if log:
        return in_log_space(-F.softplus(difference), -F.softplus(-difference) + log_g(hidden))
    keep = torch.sigmoid(-difference)
    return loop(keep, (1 - keep) * g(hidden))


def rnn(x, w_i, w_h, b, tau):
    u, k = F.linear(x, w_i, b), 1 / tau.clamp(min=1)
    h, rows = torch.zeros_like(u[:, 0]), []
    for t in range(u.shape[1]):
        h = F.leaky_relu(torch.lerp(h, u[:, t] + h @ w_h, k))
        rows.append(h)
    return torch.stack(rows, dim=1)


def timed(f, inputs, way: str):
    if way == "forward":

        @torch.inference_mode()
        def forward():
            return f(*inputs)

        return forward
    for x in inputs:
        x.requires_grad_()
    dy = torch.randn_like(f(*inputs))
    return lambda: torch.autograd.grad(f(*inputs), inputs, dy)


def gated(log: bool):
    def make(kind: str, way: str, h: int, t: int, b: str | int | None):
        groups, f = (2, min_gru) if kind == "min_gru" else (3, min_lstm)
        inputs = [torch.randn(b or 1, t, h), torch.randn(groups * h, h) / h**0.5]
        return timed(lambda x, w: f(x, w, log), inputs, way)

    return make


def leaky(way: str, h: int, t: int, b: str | int | None):
    w = [torch.randn(h, h) / h**0.5 / 2 for _ in range(2)]
    return timed(rnn, [torch.randn(b or 1, t, h), *w, torch.randn(h), 1 + torch.rand(h)], way)


if __name__ == "__main__":
    sizes = r"(forward|training)/(\d+)x(\d+)(?:x(\d+))?"
    gates = rf"(min_gru|min_lstm)\.{sizes}"
    common.run({gates: gated(log=False), rf"rnn\.{sizes}": leaky}, peer="torch-loop")
    common.run({gates: gated(log=True)}, peer="torch-log")
