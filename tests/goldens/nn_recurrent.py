#!/usr/bin/env python3
"""nn_recurrent.py: what torch.nn.GRU and torch.nn.LSTM compute, forward and backward, in float64.

    python tests/goldens/nn_recurrent.py        writes nn_recurrent.hpp

Each case starts from a given state and gives the layer's parameters, input, output and last state,
the gradients that came from above, of the last state too, and all gradients. What is drawn is a
multiple of 1/64: float and double start from the same numbers.
"""

from pathlib import Path

import torch

torch.set_default_dtype(torch.float64)
torch.manual_seed(16)


def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.round(torch.randn(*shape) * scale * 64) / 64).requires_grad_()


lines: list[str] = []


def write(arrays: dict) -> None:
    for key, value in arrays.items():
        text = ",".join(f"{v:.13g}" for v in value.detach().reshape(-1).tolist())
        lines.append(f"inline constexpr double {key}[] = {{{text}}};")


def case(kind: str, i: int, h: int, t: int, bias: bool = True) -> None:
    layer = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[kind](i, h, bias=bias)
    parameters = {}
    for name, value in layer.named_parameters():
        value.data = draw(*value.shape, scale=0.7).detach()
        parameters[name.removesuffix("_l0")] = value
    x, h_0 = draw(t, i), draw(1, h, scale=0.5)
    states = {"h": h_0}
    if kind == "lstm":
        states["c"] = draw(1, h, scale=0.5)
    y, last = layer(x, h_0 if kind == "gru" else (h_0, states["c"]))
    last = dict(zip(states, [last] if kind == "gru" else last, strict=True))
    dy, d_last = draw(t, h).detach(), {k: draw(1, h).detach() for k in states}
    dx, *gradients = torch.autograd.grad(
        [y, *last.values()],
        [x, *states.values(), *parameters.values()],
        [dy, *d_last.values()],
    )
    d_first, gradients = gradients[: len(states)], gradients[len(states) :]
    lines.append(f"\nnamespace {kind}_{h} {{")
    write({"x": x, **parameters, "y": y, "dy": dy, "dx": dx})
    for k, d in zip(states, d_first, strict=True):
        write({f"{k}_first": states[k], f"{k}_last": last[k]})
        write({f"d_{k}_last": d_last[k], f"d_{k}_first": d})
    write({"d_" + key: d for key, d in zip(parameters, gradients, strict=True)})
    lines.append(f"}}  // namespace {kind}_{h}")


for kind in ("gru", "lstm"):
    case(kind, 1, 1, 2)
    case(kind, 3, 5, 6)
    case(kind, 2, 9, 3, bias=False)

with open(Path(__file__).parent / "nn_recurrent.hpp", "w", encoding="utf-8") as out:
    out.write(
        "\n".join(
            [
                "#pragma once",
                f"// Made by nn_recurrent.py with PyTorch {torch.__version__.split('+')[0]}, float64.",
                "// clang-format off",
                "\nnamespace goldens::nn {",
                *lines,
                "\n}  // namespace goldens::nn",
            ]
        )
        + "\n"
    )
