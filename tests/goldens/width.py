#!/usr/bin/env python3
"""width.py: what PyTorch computes for networks of several widths, forward and backward, in float64.

    python tests/goldens/width.py        writes width.hpp

A slimmable network of two hidden layers at half and at full width, a convolution whose gate boosts
the strongest channels, and masks by mass, written as three lines of sorting.
"""

from pathlib import Path

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
torch.manual_seed(11)


def draw(*shape: int) -> torch.Tensor:
    return (torch.round(torch.randn(*shape) * 64) / 64).requires_grad_()


lines = [
    "#pragma once",
    f"// Made by width.py with PyTorch {torch.__version__.split('+')[0]}, float64.",
    "// clang-format off",
    "",
    "namespace goldens::width {",
]


def write(arrays: dict) -> None:
    for key, value in arrays.items():
        text = ",".join(f"{v:.13g}" for v in value.detach().reshape(-1).tolist())
        lines.append(f"inline constexpr double {key}[] = {{{text}}};")


def case(name: str, x, y, parameters: dict, layout=lambda t: t) -> None:
    dy = draw(*y.shape).detach()
    dx, *gradients = torch.autograd.grad(y, [x, *parameters.values()], dy)
    lines.append(f"\nnamespace {name} {{")
    write({"x": layout(x), "y": layout(y), "dy": layout(dy), "dx": layout(dx), **parameters})
    write({"d_" + key: gradient for key, gradient in zip(parameters, gradients, strict=True)})
    lines.append(f"}}  // namespace {name}")


x = draw(7, 3)
first, deep, last, bias = draw(16, 3), draw(1, 16, 16), draw(2, 16), draw(2)
scale, shift = draw(2, 2, 16), draw(2, 2, 16)


def at_width(k: int, n: int) -> torch.Tensor:
    h = x
    for layer, w in enumerate([first[:n], deep[0, :n, :n]]):
        z = h @ w.T
        h = F.relu(F.batch_norm(z, None, None, scale[layer, k, :n], shift[layer, k, :n], True))
    return h @ last[:, :n].T + bias


y = torch.cat([at_width(0, 8), at_width(1, 16)], 1)
case("slim", x, y, {"first": first, "deep": deep, "last": last, "bias": bias, "scale": scale,
                    "shift": shift})  # fmt: skip

x = draw(3, 2, 4, 3)
weight, conv_bias, shift = draw(6, 2, 3, 3), draw(6), draw(6)
gate_weight, gate_bias = draw(6, 2), draw(6)
e = x.abs().mean((2, 3)) @ gate_weight.T + gate_bias
kept = torch.zeros_like(e).scatter(1, e.topk(3).indices, 1.0)
gate = F.relu(e) * kept
z = F.batch_norm(F.conv2d(x, weight, conv_bias, padding=1), None, None, None, shift, True)
y = F.relu(gate[:, :, None, None] * z)
parameters = {"weight": weight, "conv_bias": conv_bias, "shift": shift,
              "gate_weight": gate_weight, "gate_bias": gate_bias}  # fmt: skip
case("top", x, y, parameters, lambda t: t.movedim(1, -1))

a = draw(4, 6).detach().abs()
share, order = (a / a.sum(1, keepdim=True)).sort(dim=1, descending=True, stable=True)
targets = torch.zeros_like(a).scatter(1, order, (share.cumsum(1) - 0.7 <= 1e-5).double())
lines.append("\nnamespace mask {")
write({"a": a, "targets": targets})
lines.append("}  // namespace mask")

# hard-concrete gates without noise, with what being open costs
x = draw(5, 3)
weight, gate_bias = draw(4, 3), draw(4)
e = x.abs() @ weight.T + gate_bias
y = (1.2 * torch.sigmoid(e) - 0.1).clamp(0, 1)
shift = 2 / 3 * torch.log(torch.tensor(0.1 / 1.1))
cost = torch.sigmoid(e - shift).sum(1).mean()
dy = draw(5, 4).detach()
parameters = [x, weight, gate_bias]
dx, d_weight, d_gate_bias = torch.autograd.grad((y * dy).sum() + 0.3 * cost, parameters)
lines.append("\nnamespace hard {")
write({"x": x, "y": y, "dy": dy, "cost": cost, "weight": weight, "gate_bias": gate_bias,
       "dx": dx, "d_weight": d_weight, "d_gate_bias": d_gate_bias})  # fmt: skip
lines.append("}  // namespace hard")

# fire together, wire together, jointly: what the gate learns flows into x
x = draw(3, 2, 4, 3)
weight, conv_bias = draw(6, 2, 3, 3), draw(6)
gate_weight, gate_bias = draw(6, 2), draw(6)
z = F.relu(F.conv2d(x, weight, conv_bias, padding=1))
e = F.softmax(x.mean((2, 3)), 1) @ gate_weight.T + gate_bias
share, order = F.normalize(z.detach().amax((2, 3)), p=1).sort(dim=1, descending=True, stable=True)
target = torch.zeros_like(e).scatter(1, order, (share.cumsum(1) - 0.7 <= 1e-5).double())
own = F.binary_cross_entropy_with_logits(e, target, reduction="none").sum(1).mean()
y = z * (e > 0)[:, :, None, None]
dy = draw(*y.shape).detach()
parameters = {"x": x, "weight": weight, "conv_bias": conv_bias, "gate_weight": gate_weight,
              "gate_bias": gate_bias}  # fmt: skip
gradients = torch.autograd.grad((y * dy).sum() + 0.4 * own, list(parameters.values()))
lines.append("\nnamespace joint {")
last = {"x", "y", "dy", "dx"}
arrays = {"y": y, "dy": dy, "own": own, **parameters}
arrays |= {
    "dx" if key == "x" else "d_" + key: d for key, d in zip(parameters, gradients, strict=True)
}
write({key: v.movedim(1, -1) if key in last else v for key, v in arrays.items()})
lines.append("}  // namespace joint")

# a slimmable network of convolutions
x = draw(4, 2, 5, 4)
first, deep, last_map, bias = draw(16, 2, 4), draw(1, 16, 16, 4), draw(3, 16), draw(3)
scale, shift = draw(2, 2, 16), draw(2, 2, 16)


def convs_at_width(k: int, n: int) -> torch.Tensor:
    h = x
    for layer, w in enumerate([first[:n], deep[0, :n, :n]]):
        z = F.conv2d(h, w.reshape(n, -1, 2, 2), padding=1, stride=layer + 1)
        h = F.relu(F.batch_norm(z, None, None, scale[layer, k, :n], shift[layer, k, :n], True))
    return h.mean((2, 3)) @ last_map[:, :n].T + bias


y = torch.cat([convs_at_width(0, 8), convs_at_width(1, 16)], 1)
case("convs", x, y, {"first": first, "deep": deep, "last": last_map, "bias": bias, "scale": scale,
                     "shift": shift}, lambda t: t.movedim(1, -1) if t.dim() == 4 else t)  # fmt: skip

lines.append("\n}  // namespace goldens::width")
Path(__file__).with_name("width.hpp").write_text("\n".join(lines) + "\n", encoding="utf-8")
