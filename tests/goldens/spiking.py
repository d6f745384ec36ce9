#!/usr/bin/env python3
"""spiking.py: the spike trains and gradients of snnTorch, SpikingJelly and Norse, in float64.

    pip install torch==2.13.0 snntorch==1.0.0 spikingjelly==2.0.0 norse==1.1.0 nir==1.0.8 \
        nirtorch==2.6
    python tests/goldens/spiking.py        writes spiking_neurons.hpp

The last five without their dependencies (--no-deps) do, beside torch and numpy.

Each case is a neuron with every convention its library has for it, from a given state, with a
gradient that arrives at the spikes and at the last state. What is drawn is a multiple of 1/64.
States are written as limen has them: membranes above rest, currents before their decay. snnTorch
makes float32 spikes, so sums over them and what passes through a matrix are as exact as that. Norse
1.1.0 ignores the `alpha` of its spike function: 1 / (1 + |u|)^2.
"""

from pathlib import Path

import snntorch as snn
import torch
from norse.torch.functional import leaky_integrator as norse_li
from norse.torch.functional import lif as norse_lif
from norse.torch.functional import lif_box as norse_box
from norse.torch.functional import lif_refrac as norse_refrac
from snntorch import surrogate as snn_surrogate
from spikingjelly.activation_based import surrogate as sj_surrogate
from spikingjelly.activation_based.functional import neuron as sj

torch.set_default_dtype(torch.float64)
T, D = 12, 3
lines: list[str] = []


def number(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def draw(*shape: int, scale: float = 1.0, mean: float = 0.0) -> torch.Tensor:
    return (torch.round((torch.randn(*shape) * scale + mean) * 64) / 64).requires_grad_()


def case(name: str, step, states: int, parameters: dict | None = None, mean=0.5, scale=0.8) -> None:
    """`step(x_t, *states)` gives (s_t, *states)."""
    parameters = parameters or {}

    def run(x, first):
        spikes, now = [], list(first)
        for x_t in x:
            s, *now = step(x_t, *now)
            spikes.append(s.to(torch.float64))
        return torch.stack(spikes), now

    while True:  # nobody near the threshold, so that float fires with double
        x, first = draw(T, D, scale=scale, mean=mean), [draw(D, scale=0.5) for _ in range(states)]
        s, last = run(x, first)
        near = [run(x + d, [f + d for f in first])[0] for d in (-2e-4, 2e-4)]
        fires = 0.1 < s.mean() < 0.8 or name.endswith("integrator")
        if fires and all(torch.equal(s > 0.5, n > 0.5) for n in near):
            break
    ds, d_last = draw(T, D).detach(), [draw(D).detach() for _ in range(states)]
    loss = (s * ds).sum() + sum((v * d).sum() for v, d in zip(last, d_last, strict=True))
    inputs = [x, *first, *parameters.values()]
    dx, *rest = torch.autograd.grad(loss, inputs, allow_unused=True)
    rest = [torch.zeros_like(i) if g is None else g for g, i in zip(rest, inputs[1:], strict=True)]
    arrays = {"x": x, "s": s, "ds": ds, "dx": dx}
    for k in range(states):
        arrays |= {f"first_{k}": first[k], f"last_{k}": last[k]}
        arrays |= {f"d_last_{k}": d_last[k], f"d_first_{k}": rest[k]}
    for (key, value), gradient in zip(parameters.items(), rest[states:], strict=True):
        arrays |= {key: value, "d_" + key: gradient}
    lines.append(f"\nnamespace {name} {{")
    for key, value in arrays.items():
        text = ",".join(f"{v:.13g}" for v in value.detach().reshape(-1).tolist())
        lines.append(f"inline constexpr double {key}[] = {{{text}}};")
    lines.append(f"}}  // namespace {name}")


def snntorch() -> None:
    def leaky(reset: str, **more):
        return snn.Leaky(
            beta=number(0.75),
            spike_grad=snn_surrogate.atan(alpha=2.0),
            reset_mechanism=reset,
            **more,
        )

    for reset in ["subtract", "zero", "none"]:
        n = leaky(reset, learn_beta=True, learn_threshold=True, threshold=number(0.75))
        case(f"snntorch_leaky_{reset}", n, 1, {"beta": n.beta, "threshold": n.threshold})
    for reset in ["subtract", "zero"]:
        n = snn.Lapicque(
            R=number(4.0),
            C=number(0.5),
            time_step=number(1.0),
            spike_grad=snn_surrogate.fast_sigmoid(slope=25),
            reset_mechanism=reset,
        )
        case(f"snntorch_lapicque_{reset}", n, 1, mean=0.3, scale=0.5)
        n = snn.Synaptic(
            alpha=number(0.5),
            beta=number(0.75),
            learn_alpha=True,
            learn_beta=True,
            spike_grad=snn_surrogate.sigmoid(slope=4),
            reset_mechanism=reset,
        )

        def step(x, v, i, n=n):
            s, i, v = n(x, i, v)
            return s, v, i

        case(f"snntorch_synaptic_{reset}", step, 2, {"beta": n.beta, "alpha": n.alpha}, mean=0.1)
        n = snn.RLeaky(
            beta=number(0.75),
            linear_features=D,
            spike_grad=snn_surrogate.atan(alpha=2.0),
            reset_mechanism=reset,
        )
        n.recurrent.weight.data = draw(D, D).detach()
        n.recurrent.bias.data = draw(D, scale=0.2).detach()

        def step(x, v, s, n=n):
            s, v = n(x, s, v)
            s = s.to(torch.float64)
            return s, v, s

        parameters = {"weight": n.recurrent.weight, "bias": n.recurrent.bias}
        case(f"snntorch_rleaky_{reset}", step, 2, parameters, mean=0.1)
    n = snn.Alpha(
        alpha=number(0.75),
        beta=number(0.5),
        spike_grad=snn_surrogate.atan(alpha=2.0),
        reset_mechanism="zero",
    )

    def step(x, v, e, i):
        s, e, i, v = n(x, e, i, v)
        return s, v, e, i

    case("snntorch_alpha", step, 3, mean=0.6)


def spikingjelly() -> None:
    for decay_input in [True, False]:
        for v_reset, called in [(0.0, "zero"), (-0.125, "value"), (None, "soft")]:
            for detach in [False, True]:
                rho = v_reset or 0.0

                def step(x, v, d=decay_input, r=v_reset, detach=detach, rho=rho):
                    tau, phi = 4.0, sj_surrogate.ATan(2.0)
                    s, v = sj.lif_step(x, v + rho, tau, d, 1.0, r, phi, detach)
                    return s, v - rho

                name = "decayed" if decay_input else "whole"
                name = f"spikingjelly_lif_{name}_{called}{'_detached' if detach else ''}"
                case(
                    name, step, 1, mean=2.0 if decay_input else 0.4, scale=3 if decay_input else 0.8
                )
    for v_reset, called in [(0.0, "zero"), (None, "soft")]:
        case(
            f"spikingjelly_if_{called}",
            lambda x, v, r=v_reset: sj.if_step(x, v, 1.0, r, sj_surrogate.Sigmoid(4.0)),
            1,
            mean=0.3,
        )

    def cuba(x, v, i):
        s, i, v = sj.cuba_lif_step(x, i, v, 0.5, 0.75, 0.5, None, sj_surrogate.SoftSign(2.0))
        return s, v, i

    case("spikingjelly_cuba", cuba, 2, mean=0.1)


def norse() -> None:
    more = {"method": "super"}
    box = norse_box.LIFBoxParameters(tau_mem_inv=number(100.0), **more)

    def step(x, v):
        s, state = norse_box.lif_box_feed_forward_step(x, norse_box.LIFBoxFeedForwardState(v), box)
        return s, state.v

    case("norse_lif_box", step, 1, mean=4.0, scale=6.0)
    lif = norse_lif.LIFParameters(tau_mem_inv=number(250.0), tau_syn_inv=number(500.0), **more)
    alpha = 0.5

    def step(x, v, i):
        s, state = norse_lif.lif_feed_forward_step(
            x, norse_lif.LIFFeedForwardState(v, alpha * i), lif
        )
        return s, state.v, state.i / alpha

    case("norse_lif", step, 2, mean=1.5, scale=2.0)
    v_rec = draw(D, D, scale=2.0).detach()
    v_rec.fill_diagonal_(0)
    v_rec.requires_grad_()

    def step(x, v, i, z):
        state = norse_lif.LIFState(z=z, v=v, i=alpha * i)
        s, state = norse_lif.lif_step(x, state, torch.eye(D), v_rec, lif)
        return s, state.v, state.i / alpha, state.z

    case("norse_lif_recurrent", step, 3, {"weight": v_rec}, mean=1.5, scale=2.0)
    refractory = norse_refrac.LIFRefracParameters(lif=lif, rho_reset=number(3.0))

    def step(x, v, i, rho):
        # Without a gradient through the counter: Norse's spike function would send one there.
        inner = norse_lif.LIFFeedForwardState(v, alpha * i)
        steps = torch.clamp(torch.round(rho.detach()), min=0)
        state = norse_refrac.LIFRefracFeedForwardState(inner, steps)
        s, state = norse_refrac.lif_refrac_feed_forward_step(x, state, refractory)
        return s, state.lif.v, state.lif.i / alpha, state.rho.detach()

    case("norse_lif_refractory", step, 3, mean=2.5, scale=2.0)
    li = norse_li.LIParameters(
        tau_mem_inv=number(250.0), tau_syn_inv=number(500.0), v_leak=number(0.0)
    )

    def step(x, v, i):
        y, state = norse_li.li_feed_forward_step(x, norse_li.LIState(v, alpha * i), li)
        return y, state.v, state.i / alpha

    case("norse_leaky_integrator", step, 2)


def main() -> None:
    torch.manual_seed(7)
    snntorch()
    spikingjelly()
    norse()
    path = Path(__file__).parent / "spiking_neurons.hpp"
    path.write_text(
        "#pragma once\n"
        "// Made by spiking.py: snnTorch 1.0.0, SpikingJelly 2.0.0, Norse 1.1.0, PyTorch 2.13.\n"
        "// clang-format off\n\n"
        "namespace goldens::spiking {\n"
        + "\n".join(lines)
        + "\n\n}  // namespace goldens::spiking\n"
    )


if __name__ == "__main__":
    main()
