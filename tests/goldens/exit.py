#!/usr/bin/env python3
"""exit.py: what automatic differentiation of PyTorch says of limen/exit, in float64.

    python tests/goldens/exit.py      writes exit_losses.hpp, exit_layers.hpp

Losses of many heads with a detached teacher, JEI-DNN with a detached ratio, PonderNet with both
divergences, gradient equilibrium, adaptive computation time: written down here from the papers, so
that only the forward ways are ours, and none of the gradients.
"""

from pathlib import Path

import torch
import torch.nn.functional as F

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


def finish(name: str) -> None:
    text = (
        "#pragma once\n"
        f"// Made by exit.py with PyTorch {torch.__version__.split('+')[0]}, float64.\n"
        "// clang-format off\n\n"
        f"namespace goldens::{name} {{\n"
        + "\n".join(lines)
        + f"\n\n}}  // namespace goldens::{name}\n"
    )
    (Path(__file__).parent / f"{name}.hpp").write_text(text)
    lines.clear()


# ── Losses: heads side by side, K of C classes ───────────────────────────────────────────────────

K, C = 3, 4


def heads(y: torch.Tensor) -> list[torch.Tensor]:
    return list(y.reshape(-1, K, C).unbind(1))


def with_gradient(key: str, y: torch.Tensor, f) -> None:
    y = y.clone().requires_grad_()
    value = f(y)
    value.backward()
    write(key, value)
    write(f"d_{key}", y.grad)


def joint(y, labels, weights, distill, tau):
    z = heads(y)
    teacher = (z[-1].detach() / tau).softmax(-1)
    loss = 0.0
    for k in range(K):
        a = distill if k + 1 < K else 0.0
        loss = loss + weights[k] * (1 - a) * F.cross_entropy(z[k], labels)
        kl = F.kl_div((z[k] / tau).log_softmax(-1), teacher, reduction="batchmean")
        loss = loss + weights[k] * a * tau**2 * kl
    return loss


def features(z: torch.Tensor) -> torch.Tensor:
    p = z.softmax(-1)
    two = p.topk(2, -1).values
    q = p**2 / (p**2).sum(-1, keepdim=True)
    entropy = -(p * p.log()).sum(-1)
    return torch.stack(
        [two[:, 0], entropy, two[:, 0] - two[:, 1], -(q * q.log()).sum(-1)], -1
    ).detach()


def exit_law(g: torch.Tensor) -> torch.Tensor:
    before = F.pad(g.cumsum(-1), (1, 0))[:, :-1]
    p = torch.minimum(g, 1 - before).clamp(min=0)
    return torch.cat([p, (1 - g.sum(-1, keepdim=True)).clamp(min=0)], -1)


def jei(y, labels) -> None:
    cost, price, ratio = torch.tensor([0.2, 0.6, 1.0]), 0.7, torch.tensor([2.0, 3.0])
    w, b = draw(K - 1, 4), draw(K - 1)
    write("w", w)
    write("b", b)
    w.requires_grad_()
    b.requires_grad_()
    z = heads(y)
    ce = torch.stack([F.cross_entropy(v, labels, reduction="none") for v in z], -1)
    tau = (ce + price * cost).argmin(-1)
    target = (tau[:, None] <= torch.arange(K - 1)).double()
    a = torch.stack([features(z[k]) @ w[k] + b[k] for k in range(K - 1)], -1)
    mask = target * ratio + (1 - target)
    loss = F.binary_cross_entropy_with_logits(a, target, weight=mask)
    loss.backward()
    write("gate_loss", loss)
    write("dw", w.grad)
    write("db", b.grad)

    def head_loss(y, ratio_too):
        z = heads(y)
        g = torch.stack([features(z[k]) @ w[k] + b[k] for k in range(K - 1)], -1).sigmoid()
        p = exit_law(g.detach())[:, : K - 1]
        ce = torch.stack([F.cross_entropy(v, labels, reduction="none") for v in z[: K - 1]], -1)
        if not ratio_too:
            return (p * ce).sum(-1).mean()
        rho = (ce.sum(-1) / (p * ce).sum(-1)).detach()
        return (rho[:, None] * p * ce).mean()

    with_gradient("head_plain", y, lambda v: head_loss(v, False))
    with_gradient("head_ratio", y, lambda v: head_loss(v, True))


def ponder(y, labels, beta, prior, forward):
    steps = y.reshape(y.shape[0], -1, C + 1)
    n = steps.shape[1]
    lam = torch.cat([steps[:, :-1, C].sigmoid(), torch.ones(y.shape[0], 1)], -1)
    going = F.pad((1 - lam).cumprod(-1), (1, 0), value=1.0)[:, :-1]
    p = lam * going
    own = torch.stack(
        [F.cross_entropy(steps[:, i, :C], labels, reduction="none") for i in range(n)], -1
    )
    q = prior * (1 - prior) ** torch.arange(n)
    q = (q / q.sum()).expand_as(p)
    kl = (p * (p / q).log()) if forward else (q * (q / p).log())
    return ((p * own).sum(-1) + beta * kl.sum(-1)).mean()


def losses() -> None:
    y, labels = 2 * draw(5, K * C), torch.randint(0, C, (5,))
    write("y", y)
    write("labels", labels)
    with_gradient("joint", y, lambda v: joint(v, labels, [0.5, 1.0, 2.0], 0.0, 1.0))
    with_gradient("distilled", y, lambda v: joint(v, labels, [0.5, 1.0, 2.0], 0.4, 2.5))
    jei(y, labels)
    steps = 2 * draw(5, 6 * (C + 1))
    write("steps", steps)
    with_gradient("ponder", steps, lambda v: ponder(v, labels, 0.3, 0.2, True))
    with_gradient("ponder_reverse", steps, lambda v: ponder(v, labels, 0.3, 0.2, False))
    finish("exit_losses")


# ── Layers ───────────────────────────────────────────────────────────────────────────────────────


class Scaled(torch.autograd.Function):
    """The identity whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx, x, by):
        ctx.by = by
        return x.clone()

    @staticmethod
    def backward(ctx, d):
        return d * ctx.by, None


def run(name: str, x: torch.Tensor, parameters: dict[str, torch.Tensor], f, extra=None) -> None:
    """y = f(x), a random dy, and the gradients of Σ dy y + extra()."""
    space(name)
    x = x.clone().requires_grad_()
    for p in parameters.values():
        p.requires_grad_()
    y = f(x)
    dy = draw(*y.shape)
    loss = (dy * y).sum()
    if extra is not None:
        loss = loss + extra()
    loss.backward()
    for key, value in {"x": x, "y": y, "dy": dy, "dx": x.grad}.items():
        write(key, value)
    for key, p in parameters.items():
        write(key, p)
        write(f"d_{key}", p.grad)
    close(name)


def equilibrium() -> None:
    """Layers 3 -> 5 -> 5 -> 5 with tanh, heads of two classes after each."""
    p = {}
    for k in range(3):
        p |= {f"w{k}": draw(5, 3 if k == 0 else 5), f"b{k}": draw(5)}
        p |= {f"h{k}": draw(2, 5), f"c{k}": draw(2)}

    def forward(x, even):
        out, h = [], x
        for k in range(3):
            h = torch.tanh(F.linear(h, p[f"w{k}"], p[f"b{k}"]))
            deeper = 2 - k
            seen, passed = h, h
            if even and deeper > 0:
                seen = Scaled.apply(h, 1 / (deeper + 1))
                passed = Scaled.apply(h, deeper / (deeper + 1))
            out.append(F.linear(seen, p[f"h{k}"], p[f"c{k}"]))
            h = passed
        return torch.cat(out, -1)

    x = draw(4, 3)
    run("even", x, p, lambda v: forward(v, True))
    for v in p.values():
        v.grad = None
    run("plain", x, p, lambda v: forward(v, False))


def act() -> None:
    most, epsilon, tau = 6, 0.01, 0.05
    cell = torch.nn.GRUCell(3, 4)
    halt, urgency = draw(4), torch.tensor([-0.5])
    p = dict(cell.named_parameters()) | {"halt": halt, "urgency": urgency}
    ponder = []
    steps = []

    def forward(x):
        rows = []
        for t in range(x.shape[0]):
            state, y, total = torch.zeros(1, 4), 0.0, torch.zeros(())
            for n in range(1, most + 1):
                state = cell(x[t : t + 1], state)
                lam = (state[0] @ halt + urgency[0]).sigmoid()
                if n == most or (total + lam).item() >= 1 - epsilon:
                    rest = 1 - total
                    y = y + rest * state[0]
                    ponder.append(n + rest)
                    steps.append(n)
                    break
                y, total = y + lam * state[0], total + lam
            rows.append(y)
        return torch.stack(rows)

    run("act", 2 * draw(7, 3), p, forward, lambda: tau * torch.stack(ponder).mean())
    space("act_steps")
    write("steps", torch.tensor(steps))
    write("ponder", torch.stack(ponder).mean())
    close("act_steps")


def pondering() -> None:
    """A GRU cell and a map to C + 1 numbers, four steps, all side by side."""
    cell = torch.nn.GRUCell(3, 4)
    p = dict(cell.named_parameters()) | {"w": draw(C + 1, 4), "b": draw(C + 1)}

    def forward(x):
        state, out = torch.zeros(x.shape[0], 4), []
        for _ in range(4):
            state = cell(x, state)
            out.append(F.linear(state, p["w"], p["b"]))
        return torch.cat(out, -1)

    run("pondering", 2 * draw(5, 3), p, forward)


def layers() -> None:
    equilibrium()
    act()
    pondering()
    finish("exit_layers")


losses()
layers()
