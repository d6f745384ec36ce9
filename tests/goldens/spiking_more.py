#!/usr/bin/env python3
"""spiking_more.py: what SpikingJelly, Norse and plain Python compute for further neurons.

    python tests/goldens/spiking_more.py        writes spiking_izhikevich.hpp, spiking_more.hpp

Versions and the form of a case are those of spiking.py.


Izhikevich's trains come from the lines of the paper's program, computed with 900 digits: the map is
chaotic, so two programs in double that add in another order part after a dozen spikes.
"""

from decimal import Decimal, getcontext
from pathlib import Path

import torch
from norse.torch.functional import lif_adex as norse_adex
from norse.torch.functional import lif_ex as norse_ex
from norse.torch.functional import lsnn as norse_lsnn
from spiking import case, draw, lines, number
from spikingjelly.activation_based import surrogate
from spikingjelly.activation_based.functional import neuron as sj

here = Path(__file__).parent


# ── Izhikevich, no library ───────────────────────────────────────────────────────────────────────

TYPES = {
    "regular_spiking": ("0.02", "0.2", "-65", "8"),
    "intrinsically_bursting": ("0.02", "0.2", "-55", "4"),
    "chattering": ("0.02", "0.2", "-50", "2"),
    "fast_spiking": ("0.1", "0.2", "-65", "2"),
    "low_threshold_spiking": ("0.02", "0.25", "-65", "2"),
    "thalamo_cortical": ("0.02", "0.25", "-65", "0.05"),
    "resonator": ("0.1", "0.26", "-65", "2"),
}


def izhikevich_train(*neuron: str) -> list[int]:
    """The times of all spikes in a second, with I = 10 from 100 ms on."""
    a, b, c, d = map(Decimal, neuron)
    half, square = Decimal("0.5"), Decimal("0.04")
    v = Decimal(-65)
    u, times = b * v, []
    for t in range(1000):
        current = 10 if t >= 100 else 0
        if v >= 30:
            times.append(t)
            v, u = c, u + d
        v += half * (square * v**2 + 5 * v + 140 - u + current)
        v += half * (square * v**2 + 5 * v + 140 - u + current)
        u += a * (b * v - u)
    return times


def izhikevich() -> None:
    getcontext().prec = 900
    lines = ["#pragma once", "// Written by tests/goldens/spiking_more.py.", ""]
    lines.append("namespace spiking_izhikevich {")
    lines.append("struct Train {\n  int count, first[10];\n};")
    for name, numbers in TYPES.items():
        times = izhikevich_train(*numbers)
        first = ", ".join(str(t) for t in times[:10])
        lines.append(f"inline constexpr Train {name}{{{len(times)}, {{{first}}}}};")
    lines.append("}  // namespace spiking_izhikevich")
    (here / "spiking_izhikevich.hpp").write_text("\n".join(lines) + "\n")


# ── SpikingJelly ─────────────────────────────────────────────────────────────────────────────────


def spikingjelly() -> None:
    phi = surrogate.ATan(2.0)
    for reset, called in [(-0.125, "value"), (None, "soft")]:
        for detach in [False, True]:
            for decay_input in [False, True]:
                rest = reset or 0.0
                w = number(-0.75).requires_grad_()

                def plif(x, v, w=w, reset=reset, rest=rest, detach=detach, decay=decay_input):
                    s, v = sj.plif_step(x, v + rest, w, decay, 0.75, reset, phi, detach)
                    return s, v - rest

                name = f"plif_{called}{'_detached' if detach else ''}{'_decayed' if decay_input else ''}"
                case(name, plif, 1, {"w": w})

            def eif(x, v, reset=reset, detach=detach):
                return sj.eif_step(x, v, 2.0, 1.0, 0.8, 0.0, 1.0, reset, phi, detach)

            def qif(x, v, reset=reset, detach=detach):
                return sj.qif_step(x, v, 2.0, 1.0, 0.0, 0.8, 1.0, reset, phi, detach)

            name = f"{called}{'_detached' if detach else ''}"
            case("eif_" + name, eif, 1, mean=0.0)
            case("qif_" + name, qif, 1)

    names = ["alpha", "beta", "gamma", "tau", "threshold", "linear_decay", "reset_by"]
    raw = {key: draw(3, scale=0.5) for key in names}
    raw["conductance"] = draw(12, 3, scale=0.5)
    at = 0

    def glif(x, v, s):
        nonlocal at
        p = {key: value.sigmoid() for key, value in raw.items()}
        s, v = sj.gated_lif_step(
            x,
            v,
            s,
            p["alpha"],
            p["beta"],
            p["gamma"],
            p["tau"],
            p["threshold"],
            p["linear_decay"],
            p["reset_by"],
            p["conductance"][at % 12],
            phi,
        )
        at += 1
        return s, v, s

    case("glif", glif, 2, raw)


# ── Norse ────────────────────────────────────────────────────────────────────────────────────────


def norse() -> None:
    """With a current that lasts one step, which x then is."""
    ex = norse_ex.LIFExParameters(tau_syn_inv=number(1000.0), tau_mem_inv=number(125.0))
    ex = ex._replace(delta_T=number(0.5), v_leak=number(0.0), v_th=number(1.0), v_reset=number(0.0))

    def lif_ex(x, v):
        state = norse_ex.LIFExFeedForwardState(v, torch.zeros_like(x))
        s, state = norse_ex.lif_ex_feed_forward_step(x, state, ex)
        return s, state.v

    case("norse_lif_ex", lif_ex, 1, mean=1.0, scale=2.0)
    ada = norse_adex.LIFAdExParameters(tau_syn_inv=number(1000.0), tau_mem_inv=number(125.0))
    ada = ada._replace(tau_ada_inv=number(62.5), adaptation_current=number(0.25))
    ada = ada._replace(adaptation_spike=number(0.5), delta_T=number(0.5), v_leak=number(0.0))
    ada = ada._replace(v_th=number(1.0), v_reset=number(0.0))

    def lif_adex(x, v, w):
        state = norse_adex.LIFAdExFeedForwardState(v, torch.zeros_like(x), w)
        s, state = norse_adex.lif_adex_feed_forward_step(x, state, ada)
        return s, state.v, state.a

    case("norse_lif_adex", lif_adex, 2, mean=2.0, scale=2.0)
    lsnn = norse_lsnn.LSNNParameters(tau_syn_inv=number(1000.0), tau_mem_inv=number(125.0))
    lsnn = lsnn._replace(tau_adapt_inv=number(62.5), v_leak=number(0.0), v_th=number(1.0))
    lsnn = lsnn._replace(v_reset=number(0.0), beta=number(0.5))

    def adaptive(x, v, b):
        """x is the current that was there before; b, in units of beta, above the threshold."""
        state = norse_lsnn.LSNNFeedForwardState(v, x, 1.0 + 0.5 * b)
        s, state = norse_lsnn.lsnn_feed_forward_step(torch.zeros_like(x), state, lsnn)
        return s, state.v, (state.b - 1.0) / 0.5

    case("norse_lsnn", adaptive, 2, mean=6.0, scale=6.0)


def bellec() -> None:
    """The equations of the paper, by automatic differentiation."""
    phi = surrogate.PiecewiseQuadratic(1.0)
    a, rho, beta, theta = (number(p).requires_grad_() for p in (0.75, 0.875, 0.5, 0.625))
    parameters = {"a": a, "rho": rho, "beta": beta, "theta": theta}
    for detach in [False, True]:

        def lsnn(x, v, b, s, detach=detach):
            b = rho * b + s
            v = a * v + x - theta * (s.detach() if detach else s)
            s = phi(v - theta - beta * b)
            return s, v, b, s

        case("lsnn" + ("_detached" if detach else ""), lsnn, 3, parameters)


def main() -> None:
    izhikevich()
    torch.manual_seed(11)
    spikingjelly()
    norse()
    bellec()
    (here / "spiking_more.hpp").write_text(
        "#pragma once\n"
        "// Made by spiking_more.py: SpikingJelly 2.0.0, Norse 1.1.0, PyTorch 2.13.\n"
        "// clang-format off\n\n"
        "namespace goldens::spiking_more {\n" + "\n".join(lines) + "\n\n"
        "}  // namespace goldens::spiking_more\n"
    )


if __name__ == "__main__":
    main()
