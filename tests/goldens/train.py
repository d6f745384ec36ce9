#!/usr/bin/env python3
"""train.py: what PyTorch computes for limen/train, in float64.

    python tests/goldens/train.py     writes train_losses.hpp, train_optimizers.hpp,
                                      train_schedules.hpp

Lion, which PyTorch lacks, is written down here from the paper. PyTorch's Muon rounds to bfloat16
on the way; that is taken out, so that every digit can be compared.
"""

from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch.optim import lr_scheduler

torch.set_default_dtype(torch.float64)
torch.manual_seed(1)

lines: list[str] = []


def draw(*shape: int) -> torch.Tensor:
    return torch.round(torch.randn(*shape) * 64) / 64


def write(key: str, value) -> None:
    values = torch.as_tensor(value).detach().reshape(-1).tolist()
    text = ",".join(f"{v:.16g}" for v in values)
    kind = "int" if isinstance(values[0], int) else "double"
    lines.append(f"inline constexpr {kind} {key}[] = {{{text}}};")


def space(name: str) -> None:
    lines.append(f"\nnamespace {name} {{")


def close(name: str) -> None:
    lines.append(f"}}  // namespace {name}")


# ── Losses ───────────────────────────────────────────────────────────────────────────────────────


def loss(name: str, x: torch.Tensor, f) -> None:
    """f(x, reduction), and its gradient: of the mean and of the sum."""
    for reduction in ("mean", "sum"):
        a = x.clone().requires_grad_()
        value = f(a, reduction)
        value.backward()
        write(f"{name}_{reduction}", value)
        write(f"d_{name}_{reduction}", a.grad)


def losses() -> None:
    for rows, width in [(3, 1), (4, 5), (5, 19)]:
        space(f"width_{width}")
        x, target = 3 * draw(rows, width), draw(rows, width)
        labels = torch.randint(0, width, (rows,))
        labels[1] = -1
        share = torch.rand(rows, width)
        q = torch.softmax(draw(rows, width), -1)
        if width > 1:
            q[0, 1] = 0  # 0 log 0
            q = q / q.sum(-1, keepdim=True)
        for key, value in {
            "x": x,
            "labels": labels,
            "target": target,
            "share": share,
            "q": q,
        }.items():
            write(key, value)
        loss("plain", x, lambda a, r, y=labels: F.cross_entropy(a, y, ignore_index=-1, reduction=r))
        loss(
            "smooth",
            x,
            lambda a, r, y=labels: F.cross_entropy(
                a, y, ignore_index=-1, label_smoothing=0.1, reduction=r
            ),
        )
        loss(
            "kl",
            x,
            lambda a, r, q=q: F.kl_div(
                F.log_softmax(a, -1), q, reduction="batchmean" if r == "mean" else r
            ),
        )
        loss("squares", x, lambda a, r, t=target: F.mse_loss(a, t, reduction=r))
        loss(
            "binary",
            x,
            lambda a, r, t=share: F.binary_cross_entropy_with_logits(a, t, reduction=r),
        )
        close(f"width_{width}")


# ── Optimizers: a matrix, which decays, and a vector, which does not ─────────────────────────────


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of arXiv:2302.06675."""

    def __init__(self, groups, lr, betas):
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                c = beta1 * m + (1 - beta1) * p.grad
                p -= group["lr"] * (torch.sign(c) + group["weight_decay"] * p)
                m.copy_(beta2 * m + (1 - beta2) * p.grad)


STEPS = 6


def run(name: str, shape: tuple, make) -> None:
    """The parameters after STEPS given gradients, from `make(matrix, vector)`'s optimizers."""
    space(name)
    matrix, vector = draw(*shape).requires_grad_(), draw(shape[0]).requires_grad_()
    gradients = [(draw(*shape), draw(shape[0])) for _ in range(STEPS)]
    gradients[2][1][0] = 0
    write("matrix", matrix)
    write("vector", vector)
    write("d_matrix", torch.stack([a for a, _ in gradients]))
    write("d_vector", torch.stack([b for _, b in gradients]))
    optimizers = make(matrix, vector)
    for a, b in gradients:
        matrix.grad, vector.grad = a.clone(), b.clone()
        for optimizer in optimizers:
            optimizer.step()
    write("last_matrix", matrix)
    write("last_vector", vector)
    close(name)


def groups(matrix, vector, decay: float) -> list:
    return [{"params": [matrix], "weight_decay": decay}, {"params": [vector], "weight_decay": 0.0}]


class ExactMuon(torch.optim.Muon):
    def step(self):
        with mock.patch.object(torch.Tensor, "bfloat16", torch.Tensor.clone):
            super().step()


def muon(matrix, vector):
    options = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1, "adjust_lr_fn": "original"}
    return [ExactMuon([matrix], **options), torch.optim.AdamW([vector], lr=3e-4, weight_decay=0.0)]


def optimizers() -> None:
    def sgd(nesterov):
        return lambda m, v: [
            torch.optim.SGD(groups(m, v, 0.01), lr=0.1, momentum=0.9, nesterov=nesterov)
        ]

    run("sgd", (5, 3), lambda m, v: [torch.optim.SGD(groups(m, v, 0.01), lr=0.1)])
    run("momentum", (5, 3), sgd(False))
    run("nesterov", (3, 7), sgd(True))
    run("adamw", (5, 3), lambda m, v: [torch.optim.AdamW(groups(m, v, 0.1), lr=0.03)])
    run("lion", (5, 3), lambda m, v: [Lion(groups(m, v, 0.1), 0.03, (0.9, 0.99))])
    run("muon_tall", (5, 3), muon)
    run("muon_wide", (3, 11), muon)

    space("clip")
    g = draw(5, 3).requires_grad_()
    h = draw(5).requires_grad_()
    g.grad, h.grad = draw(5, 3), draw(5)
    write("d_matrix", g.grad)
    write("d_vector", h.grad)
    write("norm", torch.nn.utils.clip_grad_norm_([g, h], 0.5))
    write("clipped_matrix", g.grad)
    write("clipped_vector", h.grad)
    close("clip")


# ── Schedules ────────────────────────────────────────────────────────────────────────────────────


def rates(make) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    result = []
    for _ in range(21):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return result


def schedules() -> None:
    def after(warm_up, make):
        def both(o):
            rise = lr_scheduler.LambdaLR(o, lambda t: (t + 1) / warm_up)
            return lr_scheduler.SequentialLR(o, [rise, make(o)], [warm_up])

        return both

    write("cosine", rates(lambda o: lr_scheduler.CosineAnnealingLR(o, 20, eta_min=0.1)))
    write("late_cosine", rates(after(5, lambda o: lr_scheduler.CosineAnnealingLR(o, 15))))
    write("linear", rates(lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, 20)))
    write("step", rates(lambda o: lr_scheduler.MultiStepLR(o, [3, 4, 11], gamma=0.5)))


if __name__ == "__main__":
    for make in (losses, optimizers, schedules):
        name = make.__name__
        lines = [
            "#pragma once",
            f"// Made by train.py with PyTorch {torch.__version__.split('+')[0]}, float64.",
            "// clang-format off",
            f"\nnamespace goldens::{name} {{",
        ]
        make()
        lines.append(f"\n}}  // namespace goldens::{name}\n")
        (Path(__file__).parent / f"train_{name}.hpp").write_text("\n".join(lines))
