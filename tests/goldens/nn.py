#!/usr/bin/env python3
"""nn.py: what PyTorch computes for the layers of limen/nn, forward and backward, in float64.

    python tests/goldens/nn.py        writes nn_norms.hpp, nn_convs.hpp, nn_pools.hpp, nn_gates.hpp

Each case gives its layer's parameters, input, output, the gradient that came from above, and all
gradients. Images are written with their channels last, as limen has them; weights as PyTorch
stores them. What is drawn is a multiple of 1/64: float and double start from the same numbers.
"""

from pathlib import Path

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)


def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.round(torch.randn(*shape) * scale * 64) / 64).requires_grad_()


def rows(image: torch.Tensor) -> torch.Tensor:
    """[T, C, positions...] -> [T, positions..., C]"""
    return image.movedim(1, -1)


lines: list[str] = []


def write(arrays: dict) -> None:
    for key, value in arrays.items():
        text = ",".join(f"{v:.13g}" for v in value.detach().reshape(-1).tolist())
        lines.append(f"inline constexpr double {key}[] = {{{text}}};")


def case(name: str, x, y, parameters: dict, layout=lambda t: t, shared=False) -> None:
    """With `shared`, x and the parameters were written before."""
    dy = draw(*y.shape).detach()
    dx, *gradients = torch.autograd.grad(y, [x, *parameters.values()], dy)
    lines.append(f"\nnamespace {name} {{")
    if not shared:
        write({"x": layout(x), **parameters})
    write({"y": layout(y), "dy": layout(dy), "dx": layout(dx)})
    write({"d_" + key: gradient for key, gradient in zip(parameters, gradients, strict=True)})
    lines.append(f"}}  // namespace {name}")


def norms() -> None:
    for n, d in [(1, 1), (3, 5), (4, 19)]:
        x, w = draw(n, d), draw(d)
        case(f"rms_norm_{d}", x, F.rms_norm(x, (d,), w, eps=1e-5), {"weight": w})
    for n, d in [(1, 2), (3, 5), (4, 19)]:
        x, w, b = draw(n, d), draw(d), draw(d)
        y = F.layer_norm(x, (d,), w, b, eps=1e-5)
        case(f"layer_norm_{d}", x, y, {"weight": w, "bias": b})
    for n, d, groups in [(2, 4, 2), (3, 15, 3), (4, 18, 1)]:
        x, w, b = draw(n, d), draw(d), draw(d)
        y = F.group_norm(x, groups, w, b, eps=1e-3)
        case(f"group_norm_{d}", x, y, {"weight": w, "bias": b})
    for n, d, positions in [(4, 1, 1), (5, 7, 1), (3, 3, 4)]:
        x, w, b = draw(n, d, positions), draw(d), draw(d)
        mean, var = torch.zeros(d), torch.ones(d)
        y = F.batch_norm(x, mean, var, w, b, training=True, momentum=0.1, eps=1e-5)
        case(f"batch_norm_{d}", x, y, {"weight": w, "bias": b}, rows)
        write({f"batch_norm_{d}_mean": mean, f"batch_norm_{d}_var": var})


def convs() -> None:
    for n, d, width, silu in [(2, 1, 4, False), (7, 5, 3, True), (19, 3, 4, True)]:
        x, w, b = draw(1, d, n), draw(d, 1, width), draw(d)
        y = F.conv1d(F.pad(x, (width - 1, 0)), w, b, groups=d)
        case(f"depthwise_{d}", x, F.silu(y) if silu else y, {"weight": w, "bias": b}, rows)
    for n, i, o, width, dilation in [(3, 1, 2, 2, 1), (9, 3, 2, 3, 2), (8, 2, 17, 3, 1)]:
        x, w, b = draw(1, i, n), draw(o, i, width), draw(o)
        y = F.conv1d(F.pad(x, ((width - 1) * dilation, 0)), w, b, dilation=dilation)
        case(f"causal_{i}", x, y, {"weight": w, "bias": b}, rows)
    shapes = [
        (1, 1, 1, (3, 4), (2, 3), (1, 1), (0, 0), (1, 1)),
        (2, 3, 4, (5, 4), (3, 2), (2, 1), (1, 0), (1, 1)),
        (2, 2, 3, (6, 5), (3, 3), (1, 2), (2, 1), (2, 1)),
    ]
    for k, (n, i, o, image, kernel, stride, padding, dilation) in enumerate(shapes):
        x, w, b = draw(n, i, *image), draw(o, i, *kernel), draw(o)
        y = F.conv2d(x, w, b, stride=stride, padding=padding, dilation=dilation)
        case(f"conv2d_{k}", x, y, {"weight": w, "bias": b}, rows)
    x, w, b = draw(2, 3, 9), draw(2, 3, 3), draw(2)
    y = F.conv1d(x, w, b, stride=2, padding=1)
    case("conv1d", x, y, {"weight": w, "bias": b}, rows)


def pools() -> None:
    shapes = [
        (1, (4, 4), (2, 2), (2, 2), (0, 0)),
        (3, (5, 4), (3, 2), (2, 1), (1, 1)),
        (5, (4, 5), (3, 3), (1, 2), (1, 0)),
    ]
    for k, (c, image, *how) in enumerate(shapes):
        x = draw(2, c, *image)
        case(f"max_pool_{k}", x, F.max_pool2d(x, *how), {}, rows)
        case(f"average_pool_{k}", x, F.avg_pool2d(x, *how), {}, rows)
        case(f"inside_pool_{k}", x, F.avg_pool2d(x, *how, count_include_pad=False), {}, rows)
    for k, (v, d, tokens) in enumerate(
        [(2, 1, [1, 0]), (5, 3, [4, 1, 1, 0]), (4, 17, [3, 2, 3, 3])]
    ):
        w = draw(v, d)
        x = torch.tensor(tokens, dtype=torch.float64).reshape(-1, 1).requires_grad_()
        y = F.embedding(torch.tensor(tokens), w)
        case(f"embedding_{k}", x, y + 0 * x, {"weight": w})


def gates() -> None:
    forms = {
        "sigmoid": torch.sigmoid,
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu_tanh": lambda a: F.gelu(a, approximate="tanh"),
        "relu": F.relu,
        "identity": lambda a: a,
    }
    for n, d, h in [(1, 1, 2), (3, 5, 4), (2, 4, 17)]:
        x = draw(n, d)
        p = {"gate": draw(h, d), "up": draw(h, d), "down": draw(d, h, scale=0.3)}
        lines.append(f"\nnamespace glu_{d} {{")
        write({"x": x, **p})
        for name, a in forms.items():
            y = F.linear(a(F.linear(x, p["gate"])) * F.linear(x, p["up"]), p["down"])
            case(name, x, y, p, shared=True)
        lines.append(f"\n}}  // namespace glu_{d}")


for make in (norms, convs, pools, gates):
    torch.manual_seed(20)
    lines = [
        "#pragma once",
        f"// Made by nn.py with PyTorch {torch.__version__.split('+')[0]}, float64.",
        "// clang-format off",
        "\nnamespace goldens::nn {",
    ]
    make()
    lines.append("\n}  // namespace goldens::nn")
    with open(Path(__file__).parent / f"nn_{make.__name__}.hpp", "w", encoding="utf-8") as out:
        out.write("\n".join(lines) + "\n")
