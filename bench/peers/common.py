"""What the peer scripts share: which names to run, how to time, what to print.

A peer script knows one or more families of our benchmarks. It gets the list of our names, runs
those it can parse, and prints one JSON line for each. Sizes are thus listed once, by us.

    import common

    def gemm(m: int, n: int, k: int):
        x, w = torch.randn(m, k), torch.randn(n, k)
        return lambda: F.linear(x, w)

    if __name__ == "__main__":
        common.run({r"gemm/(\\d+)x(\\d+)x(\\d+)": gemm})

The groups of the pattern are passed on, as int where they look like one. A maker returns what is
timed, or None if it cannot do this size.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

SAMPLE_SECONDS = 2e-3  # long against the clock and a call of Python, short against a context switch
SAMPLES = 9
ENOUGH_SECONDS = 0.5  # of samples; a call that takes longer is timed once, without warming up


def median_ns(call: Callable[[], object], samples: int = SAMPLES) -> float:
    """The median time of one call, over samples of about 2 ms each."""
    calls = 1
    while True:  # also warms up
        start = time.perf_counter()
        for _ in range(calls):
            call()
        seconds = time.perf_counter() - start
        if seconds >= SAMPLE_SECONDS / 2:
            break
        calls *= 2
    if seconds >= ENOUGH_SECONDS:
        return seconds / calls * 1e9
    samples = min(samples, max(3, int(ENOUGH_SECONDS / max(seconds, SAMPLE_SECONDS))))
    calls = max(1, round(calls * SAMPLE_SECONDS / seconds))
    times = []
    for _ in range(samples):
        start = time.perf_counter_ns()
        for _ in range(calls):
            call()
        times.append((time.perf_counter_ns() - start) / calls)
    return statistics.median(times)


def run(makers: dict[str, Callable], peer: str = "torch", version: str = torch.__version__) -> None:
    """Times what `makers` make for each of our names, round by round, and prints JSON lines.

    A name may end in /threads:N; without it PyTorch runs on one thread, as we do.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", type=Path, required=True, help="our names, one a line")
    parser.add_argument("--filter", default=".", help="regular expression")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    cases = []
    for name in arguments.names.read_text().split():
        if not re.search(arguments.filter, name):
            continue
        bare = re.sub(r"/(real_time|process_time|manual_time|iterations:\d+)\b", "", name)
        threads = re.search(r"/threads:(\d+)", bare)
        bare_name = re.sub(r"/threads:\d+", "", bare)
        for pattern, make in makers.items():
            match = re.fullmatch(pattern, bare_name)
            if match:
                values = [int(g) if g and g.isdigit() else g for g in match.groups()]
                cases.append((bare, int(threads[1]) if threads else 1, make, values))

    torch.manual_seed(0)
    ready = []
    for name, threads, make, values in cases:
        torch.set_num_threads(threads)  # what is compiled is compiled for so many
        call = make(*values)
        if call is not None:
            ready.append((name, threads, call, []))
    for _ in range(arguments.rounds):
        for _, threads, call, times in ready:
            if times and times[-1] > 2e9 * ENOUGH_SECONDS:
                continue  # a loop of seconds is not worth three
            torch.set_num_threads(threads)
            times.append(median_ns(call))
    for name, _, _, times in ready:
        ns = statistics.median(times)
        print(json.dumps({"name": name, "peer": peer, "peer_version": version, "ns": ns}))
