#!/usr/bin/env python3
"""Brian2's C++ standalone mode, one thread, beside spiking.network/NxP/STEPS: N leaky neurons of
which 4 in 5 excite, each pair joined with a probability of P per cent, a delay of 1.5 ms, steps of
0.1 ms. Timed is the simulation alone, neither building nor reading and writing. The program also
prints the mean rate, which must be ours.

Brian2 2.9 wants numpy before 2.4; an environment of its own serves:
    python3 -m venv build/brian && build/brian/bin/pip install numpy==2.2.6 brian2==2.9.0
Without it there are no rows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from pathlib import Path

OWN = Path(__file__).parents[2] / "build/brian/bin/python"

try:
    import brian2 as b
except (ImportError, AttributeError):
    if OWN.exists() and Path(sys.prefix) != OWN.parents[1]:
        os.execv(OWN, [str(OWN), *sys.argv])
    sys.exit(0)


def network(neurons: int, per_cent: int, steps: int):
    """Membranes as shares of the threshold; see bench/spiking/network_bench.cpp."""
    b.set_device("cpp_standalone", build_on_run=False, directory=tempfile.mkdtemp())
    b.prefs.devices.cpp_standalone.openmp_threads = 0
    b.prefs.codegen.cpp.extra_compile_args_gcc = ["-w", "-O3", "-march=native", "-ffast-math"]
    b.seed(1)
    b.defaultclock.dt = 0.1 * b.ms
    group = b.NeuronGroup(
        neurons,
        "dv/dt = (drive - v) / (20*ms) : 1 (unless refractory)\ndrive : 1 (shared, constant)",
        threshold="v >= 1",
        reset="v = 0",
        refractory=2 * b.ms,
        method="exact",
    )
    group.drive = 1.2
    group.v = "rand()"
    excite = 4 * neurons // 5
    parts = [group[:excite], group[excite:]]  # Brian2 looks at them, and does not keep them
    synapses = []
    for part, weight in zip(parts, (0.005, -0.025), strict=True):
        joined = b.Synapses(part, group, on_pre=f"v_post += {weight}", delay=1.5 * b.ms)
        joined.connect(p=per_cent / 100)
        synapses.append(joined)
    monitor = b.SpikeMonitor(group, record=False)
    whole = b.Network(group, monitor, *synapses)
    whole.run(steps * b.defaultclock.dt)
    b.device.build(directory=b.device.project_dir, compile=True, run=False, debug=False)

    def call(kept=(parts, whole)) -> tuple[float, float]:
        b.device.run(b.device.project_dir, with_output=False, run_args=[])
        seconds = b.device._last_run_time
        rate = monitor.num_spikes / neurons / (steps * 1e-4)
        return seconds * 1e9, rate

    return call


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", type=Path, required=True)
    parser.add_argument("--filter", default=".")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.names.read_text().split():
        match = re.fullmatch(r"spiking\.network/(\d+)x(\d+)/(\d+)(/\w+)*", name)
        if not match or not re.search(arguments.filter, name):
            continue
        call = network(*(int(n) for n in match.groups()[:3]))
        results = [call() for _ in range(max(1, arguments.rounds))]
        print(f"mean rate {results[0][1]:.2f} Hz", file=sys.stderr)
        row = {
            "name": re.sub(r"/(real_time|process_time|manual_time|iterations:\d+)\b", "", name),
            "peer": "brian2",
            "peer_version": b.__version__,
            "ns": statistics.median(ns for ns, _ in results),
        }
        print(json.dumps(row))
