#!/usr/bin/env python3
"""spiking_io.py: encoders, losses and delays of snnTorch, SpikingJelly and DCLS, in float64.

    pip install torch==2.13.0 snntorch==1.0.0 spikingjelly==2.0.0 dcls==0.1.1
    python tests/goldens/spiking_io.py        writes spiking_io.hpp

The last three without their dependencies (--no-deps) do, beside torch and numpy.
"""

from pathlib import Path

import snntorch.functional as snn_loss
import torch
from DCLS.construct.modules import ConstructKernel1d
from snntorch import spikegen
from spikingjelly.activation_based.encoding import LatencyEncoder

torch.set_default_dtype(torch.float64)
lines: list[str] = []


def case(name: str, **arrays) -> None:
    lines.append(f"\nnamespace {name} {{")
    for key, value in arrays.items():
        text = ",".join(f"{v:.14g}" for v in value.detach().to(torch.float64).reshape(-1).tolist())
        lines.append(f"inline constexpr double {key}[] = {{{text}}};")
    lines.append(f"}}  // namespace {name}")


def encoders() -> None:
    x = torch.round(torch.rand(6, 5) * 64) / 64  # [B, D]; no time is half-way between two steps
    x[0, 0], x[1, 1] = 0.0, 1.0
    steps = 12

    def rows(s: torch.Tensor) -> torch.Tensor:
        """[T, B, D] as limen has it: [B, T, D]."""
        return s.transpose(0, 1)

    xc = x.clamp(min=0.0625)  # what snnTorch does below its threshold is not what limen does
    charge = spikegen.latency(xc, num_steps=steps, threshold=0.0125, tau=20.0, clip=True)
    times, _ = spikegen.latency_code(xc, num_steps=steps, threshold=0.0125, tau=20.0)
    case("latency_charge", x=xc, s=rows(charge), times=times)
    linear = spikegen.latency(xc, num_steps=steps, threshold=0.0125, linear=True, normalize=True)
    case("latency_linear", x=xc, s=rows(linear))
    for kind in ("linear", "log"):
        encoder = LatencyEncoder(steps, enc_function=kind)
        s = torch.stack([encoder(x) for _ in range(steps)])
        case(f"latency_jelly_{kind}", x=x, s=rows(s))
    walk = torch.cumsum(torch.round(torch.randn(20, 3) * 8) / 64, 0)
    case("delta_on", x=walk, s=spikegen.delta(walk, threshold=0.125))
    case("delta_on_off", x=walk, s=spikegen.delta(walk, threshold=0.125, off_spike=True))
    padded = spikegen.delta(walk, threshold=0.125, off_spike=True, padding=True)
    case("delta_padded", x=walk, s=padded)


def losses() -> None:
    steps, batch, classes = 8, 4, 3
    labels = torch.tensor([0, 2, 1, 1])
    spikes = (torch.rand(steps, batch, classes) < 0.4).to(torch.float64)
    spikes[-1] = 1.0  # nobody is silent
    membrane = torch.randn(steps, batch, classes)
    kinds = {
        "ce_count": (snn_loss.ce_count_loss(), spikes),
        "ce_membrane": (snn_loss.ce_rate_loss(), membrane),
        "ce_first_spike": (snn_loss.ce_temporal_loss(), spikes),
    }
    for name, (loss_of, values) in kinds.items():
        x = values.clone().requires_grad_()
        loss = loss_of(x, labels)
        (dx,) = torch.autograd.grad(loss, x)
        case(name, x=x.transpose(0, 1), dx=dx.transpose(0, 1), loss=loss)


def dcls() -> None:
    outs, ins, steps = 2, 3, 12
    for version, name in (("gauss", "gaussian"), ("v1", "linear"), ("max", "triangle")):
        for taps in (1, 3):
            width = 9
            w = torch.randn(outs, ins, taps).requires_grad_()
            p = (torch.rand(1, outs, ins, taps) * 7 - 3.5).requires_grad_()
            sig = (torch.rand(1, outs, ins, taps) * 2 - 0.2).requires_grad_()
            x, dy = torch.randn(1, ins, steps).requires_grad_(), torch.randn(steps, outs)
            build = ConstructKernel1d(outs, ins, 1, taps, (width,), version)
            kernel = build(w, p, sig)
            padded = torch.nn.functional.pad(x, (width - 1, 0))
            y = torch.nn.functional.conv1d(padded, kernel)[0].T
            parameters = [w, p] if version == "v1" else [w, p, sig]
            dx, *d = torch.autograd.grad((y * dy).sum(), [x, *parameters])
            arrays = {"x": x[0].T, "y": y, "dy": dy, "dx": dx[0].T, "kernel": kernel}
            names = ["w", "p", "sig"][: len(parameters)]
            for key, value, slope in zip(names, parameters, d, strict=True):
                arrays |= {key: value, "d_" + key: slope}
            case(f"dcls_{name}_{taps}", **arrays)


def conv3d() -> None:
    """Delays over a frame: a causal convolution in time, a true one in space."""
    steps, ins, outs, high, wide, longest = 7, 2, 3, 3, 4, 2
    w = torch.randn(ins, longest + 1, 3, 5, outs).requires_grad_()  # as it is stamped
    b = torch.randn(outs).requires_grad_()
    x = (torch.rand(steps, high, wide, ins) < 0.3).to(torch.float64).requires_grad_()
    dy = torch.randn(steps, high, wide, outs)
    padded = torch.nn.functional.pad(x.permute(3, 0, 1, 2)[None], (2, 2, 1, 1, longest, 0))
    kernel = w.permute(4, 0, 1, 2, 3).flip(2, 3, 4)
    y = torch.nn.functional.conv3d(padded, kernel, b)[0].permute(1, 2, 3, 0)
    dx, d_w, d_b = torch.autograd.grad((y * dy).sum(), [x, w, b])
    case("conv3d", x=x, y=y, dy=dy, dx=dx, w=w, b=b, d_w=d_w, d_b=d_b)


def main() -> None:
    torch.manual_seed(3)
    encoders()
    losses()
    dcls()
    conv3d()
    path = Path(__file__).parent / "spiking_io.hpp"
    path.write_text(
        "#pragma once\n"
        "// Made by spiking_io.py: snnTorch 1.0.0, SpikingJelly 2.0.0, DCLS 0.1.1, PyTorch 2.13.\n"
        "// clang-format off\n\n"
        "namespace goldens::spiking_io {\n"
        + "\n".join(lines)
        + "\n\n}  // namespace goldens::spiking_io\n"
    )


if __name__ == "__main__":
    main()
