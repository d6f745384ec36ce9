#!/usr/bin/env python3
"""bench_table.py FOLDER [--json FILE]

Reads the rounds of scripts/bench and prints one row per benchmark and peer.

    <round>.ours.json    Google Benchmark; `peer:<peer>:<name>` is the peer of `<name>`
    <round>.*.jsonl      lines {"name", "peer", "peer_version", "ns"} of peers of their own process
    compile.json         rows of scripts/compile_time

Times are medians over rounds. A ratio is the median of the ratios of single rounds, peer over ours:
above 1 we are faster.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections import defaultdict
from pathlib import Path

UNITS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}
# What Google Benchmark appends to a name to say how it was measured.
HOW = re.compile(r"/(repeats:\d+|min_time:[\d.]+s?|iterations:\d+|(real|process|manual)_time)\b")


def read_ours(path: Path) -> tuple[dict, dict]:
    """The context, and per name the median run: wall time in ns, work, threads."""
    document = json.loads(path.read_text())
    runs = {}
    for run in document["benchmarks"]:
        if run.get("error_occurred"):
            raise SystemExit(f"{run['name']}: {run.get('error_message')}")
        if run.get("aggregate_name") != "median":
            continue
        name = HOW.sub("", run["run_name"])
        in_name = re.search(r"/threads:(\d+)", name)
        runs[name] = {
            "ns": run["real_time"] * UNITS[run["time_unit"]],
            "work": run.get("work"),
            "threads": int(in_name[1]) if in_name else round(run.get("threads", 1)),
        }
    return document["context"], runs


def read_rounds(folder: Path) -> list[dict]:
    isa = None
    versions: dict[str, str] = {}
    facts: dict[str, dict] = {}  # of our benchmarks: work, threads
    ours: dict[str, dict[int, float]] = defaultdict(dict)  # name -> round -> ns
    theirs: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))

    for path in sorted(folder.glob("*.ours.json")):
        turn = int(path.name.split(".")[0])
        context, runs = read_ours(path)
        isa = context.get("isa")
        for key, value in context.items():
            if key.startswith("peer:"):
                versions[key.removeprefix("peer:")] = value
        for name, run in runs.items():
            if name.startswith("peer:"):
                _, peer, name = name.split(":", 2)
                theirs[name][peer][turn] = run["ns"]
            else:
                facts[name] = run
                ours[name][turn] = run["ns"]
    for path in sorted(folder.glob("*.jsonl")):
        turn = int(path.name.split(".")[0])
        for line in path.read_text().splitlines():
            row = json.loads(line)
            theirs[row["name"]][row["peer"]][turn] = row["ns"]
            versions[row["peer"]] = row["peer_version"]

    unknown = sorted(set(theirs) - set(ours))
    if unknown:
        raise SystemExit("peers of no benchmark of ours: " + ", ".join(unknown))

    rows = []
    for name in ours:
        family, _, size = name.partition("/")
        row = {
            "name": family,
            "size": size,
            "threads": facts[name]["threads"],
            "isa": isa,
            "ours_ns": statistics.median(ours[name].values()),
            "work": facts[name]["work"],
            "peer": None,
            "peer_version": None,
            "peer_ns": None,
            "ratio": None,
        }
        for peer, times in theirs[name].items():
            ratios = [times[turn] / ours[name][turn] for turn in times if turn in ours[name]]
            rows.append(
                row
                | {
                    "peer": peer,
                    "peer_version": versions.get(peer),
                    "peer_ns": statistics.median(times.values()),
                    "ratio": statistics.median(ratios),
                }
            )
        if not theirs[name]:
            rows.append(row)
    return rows


def duration(ns: float | None) -> str:
    if ns is None:
        return ""
    for unit, scale in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= scale:
            return f"{ns / scale:.3g} {unit}"
    return f"{ns:.3g} ns"


def table(rows: list[dict]) -> str:
    """As Markdown, so that it can be pasted into a document."""
    lines = [["benchmark", "size", "thr", "ours", "G/s", "peer", "time", "ratio"]]
    for row in rows:
        work = row["work"]
        per_second = f"{work / row['ours_ns']:.3g}" if work and row["isa"] else ""
        version = f"{row['peer']} {row['peer_version'] or ''}".strip() if row["peer"] else ""
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else ""
        lines.append(
            [row["name"], row["size"], str(row["threads"]), duration(row["ours_ns"]), per_second]
            + [version, duration(row["peer_ns"]), ratio]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    text = ""
    for line in lines:
        cells = [
            cell.ljust(width) if i in (0, 1, 5) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text += "| " + " | ".join(cells) + " |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    rows = read_rounds(arguments.folder)
    compiled = arguments.folder / "compile.json"
    if compiled.exists():
        rows += json.loads(compiled.read_text())
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join("  " + json.dumps(row) for row in rows)
        arguments.json.write_text(f"[\n{lines}\n]\n")
    print(table(rows), end="")


if __name__ == "__main__":
    main()
