#!/usr/bin/env python3
"""spiking_more.py: what SpikingJelly, Norse and plain Python compute for further neurons.

    python tests/goldens/spiking_more.py        writes spiking_izhikevich.hpp

Izhikevich's trains come from the lines of the paper's program, computed with 900 digits: the map is
chaotic, so two programs in double that add in another order part after a dozen spikes.
"""

from decimal import Decimal, getcontext
from pathlib import Path

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


if __name__ == "__main__":
    izhikevich()
