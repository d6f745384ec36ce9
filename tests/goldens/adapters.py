#!/usr/bin/env python3
"""adapters.py: LoRA as the peft library computes it, and mixtures of adapters (Polytropon, MHR) as
PyTorch differentiates them, in float64.

    python tests/goldens/adapters.py        writes moe_adapters.hpp

Mixtures follow the shapes of microsoft/mttl: A [skills, heads, in / heads, rank], B [skills, rank,
heads, out / heads], logits [tasks, heads * skills]. What is drawn is a multiple of 1/64, so that
float and double start from the same numbers.
"""

import math
from pathlib import Path

import peft
import torch

torch.set_default_dtype(torch.float64)
lines: list[str] = []


def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.round(torch.randn(*shape) * scale * 64) / 64).requires_grad_()


def write(name: str, x, y, parameters: dict) -> None:
    dy = draw(*y.shape)
    dx, *gradients = torch.autograd.grad(y, [x, *parameters.values()], dy)
    arrays = {"x": x, "y": y, "dy": dy, "dx": dx, **parameters}
    arrays |= {"d_" + key: g for key, g in zip(parameters, gradients, strict=True)}
    lines.append(f"\nnamespace {name} {{")
    for key, value in arrays.items():
        text = ",".join(f"{v:.15g}" for v in value.detach().reshape(-1).tolist())
        lines.append(f"inline constexpr double {key}[] = {{{text}}};")
    lines.append(f"}}  // namespace {name}")


def lora() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(6, 5))
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=["0"], lora_dropout=0)
    layer = peft.get_peft_model(net, config).base_model.model[0].double()
    parameters = {
        "weight": layer.base_layer.weight,
        "bias": layer.base_layer.bias,
        "a": layer.lora_A["default"].weight,
        "b": layer.lora_B["default"].weight,
    }
    with torch.no_grad():
        for p in parameters.values():
            p.copy_(draw(*p.shape)).requires_grad_()
    for p in parameters.values():
        p.requires_grad_()
    x = draw(7, 6)
    write("lora", x, layer(x), parameters)
    layer.merge()
    text = ",".join(f"{v:.15g}" for v in layer.base_layer.weight.detach().reshape(-1).tolist())
    lines.insert(-1, f"inline constexpr double merged[] = {{{text}}};")


def mixture(
    name: str, skills: int, heads: int, rank: int, width: int, out: int, weigh="shares", hard=False
) -> None:
    weight, bias = draw(out, width), draw(out)
    a, b = draw(skills, heads, width // heads, rank), draw(skills, rank, heads, out // heads)
    z = draw(3, heads * skills)
    tasks = torch.tensor([2, 0, 2, 2, 0, 1])
    x = draw(len(tasks), width)
    alpha = torch.sigmoid(z[tasks]).view(-1, heads, skills)
    if hard:
        alpha = alpha + (torch.round(alpha) - alpha).detach()
        assert (alpha.sum(-1) >= 1).all() and (alpha.sum(-1) > 1).any(), name
    if weigh == "scaled":
        alpha = alpha * math.sqrt(heads / skills)
    elif weigh == "unit":
        alpha = torch.nn.functional.normalize(z[tasks].view(-1, heads, skills), dim=-1)
    else:
        alpha = alpha / (alpha.sum(-1, keepdim=True) + 1e-12)
    mixed_a = torch.einsum("tqs,sqdr->tqdr", alpha, a).reshape(-1, width, rank)
    mixed_b = torch.einsum("tqs,srqd->trqd", alpha, b).reshape(-1, rank, out)
    change = torch.einsum("ti,tir,tro->to", x, mixed_a, mixed_b)
    y = torch.nn.functional.linear(x, weight, bias) + 5 / rank * change
    write(name, x, y, {"weight": weight, "bias": bias, "a": a, "b": b, "z": z})


if __name__ == "__main__":
    torch.manual_seed(7)
    lora()
    mixture("polytropon", skills=4, heads=1, rank=2, width=6, out=5)
    mixture("mhr", skills=3, heads=2, rank=2, width=6, out=4)
    torch.manual_seed(2)
    mixture("rounded", skills=5, heads=2, rank=2, width=6, out=4, hard=True)
    mixture("scaled", skills=3, heads=2, rank=2, width=6, out=4, weigh="scaled")
    mixture("rounded_scaled", skills=3, heads=1, rank=2, width=6, out=4, weigh="scaled", hard=True)
    mixture("unit", skills=3, heads=2, rank=2, width=6, out=4, weigh="unit")
    made = f"peft {peft.__version__}, PyTorch {torch.__version__.split('+')[0]}"
    header = f"""#pragma once
// Made by adapters.py with {made}, float64.
// clang-format off

namespace goldens::adapters {{
"""
    path = Path(__file__).parent / "moe_adapters.hpp"
    path.write_text(header + "\n".join(lines) + "\n\n}  // namespace goldens::adapters\n")
