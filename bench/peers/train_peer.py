#!/usr/bin/env python3
"""PyTorch beside train.step/digits and train.<optimizer>/digits: the same model, batch and number
of threads, eager (peer torch) and compiled (peer torch.compile).

Compiled are forward and loss as one graph, the backward that belongs to it, and in some of the ways
that are tried clipping and the optimizer as another.
"""

from collections.abc import Callable

import common
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import nn

BATCH, ROWS, D, H, CLASSES = 64, 8, 8, 64, 10


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(D, H, batch_first=True)
        self.head = nn.Linear(H, CLASSES)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])  # the last row is all that the loss looks at


class Unrolled(nn.Module):
    """The same without nn.GRU, which torch.compile would leave as it is."""

    def __init__(self):
        super().__init__()
        self.input, self.state = nn.Linear(D, 3 * H), nn.Linear(H, 3 * H)
        self.head = nn.Linear(H, CLASSES)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], H)
        inputs = self.input(x)
        for t in range(ROWS):
            r, z, n = inputs[:, t].chunk(3, -1)
            p, q, s = self.state(h).chunk(3, -1)
            z = torch.sigmoid(z + q)
            h = (1 - z) * torch.tanh(n + torch.sigmoid(r + p) * s) + z * h
        return self.head(h)


def step(model: nn.Module, fused: bool, compile_loss=None, compile_learning=False):
    x, labels = torch.rand(BATCH, ROWS, D), torch.randint(0, CLASSES, (BATCH,))
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=fused)

    def loss_of(x, labels):
        return F.cross_entropy(model(x), labels)

    def learn():
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    if compile_loss:
        loss_of = torch.compile(loss_of, mode=compile_loss)
    if compile_learning:
        learn = torch.compile(learn)

    def call():
        loss = loss_of(x, labels)
        loss.backward()
        learn()
        optimizer.zero_grad()
        return loss

    return call


def fastest(ways: list) -> Callable:
    """PyTorch is given the way that suits it best here."""
    calls = [step(*way) for way in ways]
    return min(calls, key=lambda call: min(common.median_ns(call, 5) for _ in range(2)))


def eager():
    return fastest([(Reader(), True), (Reader(), False)])


def compiled():
    return fastest(
        [
            (Unrolled(), True, "default"),
            (Unrolled(), False, "default", True),
            (Unrolled(), True, "max-autotune"),
            (Unrolled(), False, "max-autotune", True),
        ]
    )


def optimizer(kind: str):
    model = Reader()
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    makers = {
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, fused=True),
        "adamw": lambda: torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True),
    }
    return makers[kind]().step if kind in makers else None


if __name__ == "__main__":
    torch._dynamo.config.recompile_limit = 64  # many models and thread counts share one function
    common.run({r"train\.step/digits": eager, r"train\.(\w+)/digits": optimizer})
    common.run({r"train\.step/digits": compiled}, peer="torch.compile")
