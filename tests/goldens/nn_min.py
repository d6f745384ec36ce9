#!/usr/bin/env python3
"""nn_min.py: what PyTorch computes for minGRU, minLSTM and the leaky RNN, in float64.

    python tests/goldens/nn_min.py        writes nn_min.hpp

minGRU and minLSTM with positive candidates are computed in log space (a cumulative sum and a
logcumsumexp, no loop), the plain ones and the leaky RNN by a loop over time, the RNN without leak
by torch.nn.RNN; gradients by automatic differentiation. Each case gives the first state, input,
parameters, output, the gradients that came from above and that of the last state, and all
gradients. What is drawn is a multiple of 1/64: float and double start from the same numbers.
"""

from pathlib import Path

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
torch.manual_seed(14)

lines: list[str] = []


def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.round(torch.randn(*shape) * scale * 64) / 64).requires_grad_()


def write(arrays: dict) -> None:
    for key, value in arrays.items():
        text = ",".join(f"{v:.13g}" for v in value.detach().reshape(-1).tolist())
        lines.append(f"inline constexpr double {key}[] = {{{text}}};")


def case(name: str, x, first, y, parameters: dict) -> None:
    """y [T, H] holds all states, so its last row is the last state."""
    dy, d_last = draw(*y.shape).detach(), draw(*first.shape).detach()
    inputs = [x, first, *parameters.values()]
    loss = (y * dy).sum() + (y[-1] * d_last).sum()
    dx, d_first, *gradients = torch.autograd.grad(loss, inputs)
    lines.append(f"\nnamespace {name} {{")
    write({"x": x, "first": first, **parameters, "y": y, "dy": dy, "d_last": d_last})
    write({"dx": dx, "d_first": d_first})
    write({"d_" + key: gradient for key, gradient in zip(parameters, gradients, strict=True)})
    lines.append(f"}}  // namespace {name}")


def log_g(a):
    return torch.where(a >= 0, (a.clamp(min=0) + 0.5).log(), F.logsigmoid(a))


def scan_in_log_space(log_a, log_b, first):
    """h_t = exp(A_t + log(h_0 + Σ_{s<=t} b_s / exp(A_s))), A the cumulative sum of log a."""
    total = torch.cat([torch.zeros(1, log_a.shape[1]), log_a.cumsum(0)])
    terms = torch.cat([first.log()[None], log_b]) - total
    return (total + terms.logcumsumexp(0)).exp()[1:]


def scan(a, b, h):
    rows = []
    for a_t, b_t in zip(a, b, strict=True):
        h = a_t * h + b_t
        rows.append(h)
    return torch.stack(rows)


def positive_state(h: int) -> torch.Tensor:
    return (draw(h).detach().abs() + 1 / 64).requires_grad_()


def min_gru(t: int, i: int, h: int, positive: bool) -> None:
    x, w, b = draw(t, i), draw(2 * h, i), draw(2 * h)
    first = positive_state(h) if positive else draw(h)
    hidden, gate = F.linear(x, w, b).chunk(2, dim=1)
    if positive:
        y = scan_in_log_space(-F.softplus(gate), -F.softplus(-gate) + log_g(hidden), first)
    else:
        z = gate.sigmoid()
        y = scan(1 - z, z * hidden, first)
    case(f"min_gru_{h}", x, first, y, {"weight": w, "bias": b})


def min_lstm(t: int, i: int, h: int, positive: bool) -> None:
    x, w, b = draw(t, i), draw(3 * h, i), draw(3 * h)
    first = positive_state(h) if positive else draw(h)
    hidden, f, i = F.linear(x, w, b).chunk(3, dim=1)
    if positive:
        difference = F.softplus(-f) - F.softplus(-i)
        log_f, log_i = -F.softplus(difference), -F.softplus(-difference)
        y = scan_in_log_space(log_f, log_i + log_g(hidden), first)
    else:
        total = f.sigmoid() + i.sigmoid()
        y = scan(f.sigmoid() / total, i.sigmoid() / total * hidden, first)
    case(f"min_lstm_{h}", x, first, y, {"weight": w, "bias": b})


def rnn(t: int, i: int, h: int, outside: bool, phi, hold: int, softplus: bool) -> None:
    x, first = draw(t, i), draw(h)
    p = {
        "weight_ih": draw(h, i),
        "weight_hh": draw(h, h, scale=0.5),
        "bias_ih": draw(h),
        "bias_hh": draw(h),
        ("rho" if softplus else "tau"): draw(h, scale=2),
    }
    w = p["weight_hh"] * (1 - torch.eye(h))
    if softplus:
        tau = hold * (1 + F.softplus(p["rho"]))
    else:
        tau = (hold * p["tau"]).clamp(min=1)
    state, rows = first, []
    for x_t in x:
        s = F.linear(state, w, p["bias_hh"]) + F.linear(x_t, p["weight_ih"], p["bias_ih"])
        if outside:
            state = (1 - 1 / tau) * state + phi(s) / tau
        else:
            state = phi((1 - 1 / tau) * state + s / tau)
        rows.append(state)
    case(f"rnn_{h}", x, first, torch.stack(rows), p)


def torch_rnn(t: int, i: int, h: int) -> None:
    x, first = draw(t, i), draw(h)
    layer = torch.nn.RNN(i, h)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(draw(*parameter.shape))
    y, _ = layer(x, first[None])
    p = {name.removesuffix("_l0"): value for name, value in layer.named_parameters()}
    case(f"rnn_{h}", x, first, y, p)


for make in (min_gru, min_lstm):
    make(5, 1, 1, True)
    make(9, 3, 5, True)
    make(7, 4, 17, False)
rnn(6, 1, 1, False, F.leaky_relu, 1, False)
rnn(9, 3, 5, False, F.leaky_relu, 1, False)
rnn(8, 2, 17, True, F.leaky_relu, 1, False)
rnn(7, 3, 18, True, torch.tanh, 2, True)
rnn(7, 2, 6, False, F.relu, 3, False)
torch_rnn(7, 3, 19)

text = [
    "#pragma once",
    f"// Made by nn_min.py with PyTorch {torch.__version__.split('+')[0]}, float64.",
    "// clang-format off",
    "\nnamespace goldens::nn_min {",
    *lines,
    "\n}  // namespace goldens::nn_min",
]
with open(Path(__file__).parent / "nn_min.hpp", "w", encoding="utf-8") as out:
    out.write("\n".join(text) + "\n")
