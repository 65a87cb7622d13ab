#!/usr/bin/env python3
"""Draws docs/plots/*.svg from what `scripts/bench.sh --json --only curves --only day` printed.

    scripts/bench.sh --json --only curves --only day > plots.json && scripts/plots.py plots.json [--to docs/plots]

matplotlib comes from PyPI, into a virtual environment below target/ that this script makes and then runs itself in.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLACE = ROOT / "target/plots-venv"
NEEDS = "matplotlib==3.10.*"


def library():
    """matplotlib, after a new start in the virtual environment where that is called for."""
    try:
        import matplotlib
    except ImportError:
        if pathlib.Path(sys.prefix) == PLACE:
            raise
        python = PLACE / "bin/python"
        if not python.exists():
            venv.create(PLACE, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", NEEDS], check=True)
        os.execv(python, [python, __file__, *sys.argv[1:]])
    matplotlib.use("svg")
    return matplotlib


LINES = [
    ("drop_ms", "file dropped → agent", "#0b6e99", "o"),
    ("landed_ms", "task landed → agent", "#b5452c", "s"),
    ("pid_ms", "pid file gone → next agent", "#4b7f3a", "^"),
]
AXES = [
    ("open_tasks", "open tasks", "latency-open-tasks"),
    ("past_runs", "finished runs on disk", "latency-past-runs"),
    ("queues", "queues", "latency-queues"),
]


def style(matplotlib):
    matplotlib.rcParams.update({
        # Text stays text: small files, and the reader's own font.
        "svg.fonttype": "none",
        # The same numbers give the same file.
        "svg.hashsalt": "calypso-watch",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.6,
        "figure.figsize": (5.2, 3.0),
        "figure.constrained_layout.use": True,
        "legend.frameon": False,
    })


def save(figure, folder, name, pyplot):
    path = folder / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    print(path)


def curves(data, folder, pyplot):
    # One scale for all three, so that they can be compared.
    points = [point for key, _, _ in AXES for point in data[key]]
    highest = max(point[line] for point in points for line, *_ in LINES)
    for key, label, name in AXES:
        figure, axes = pyplot.subplots()
        at = [point["at"] for point in data[key]]
        for line, told, colour, marker in LINES:
            axes.plot(at, [point[line] for point in data[key]], color=colour, marker=marker, markersize=4, label=told)
        axes.set(xlabel=label, ylabel="ms (median)", ylim=(0, highest * 1.1))
        axes.xaxis.set_major_formatter(lambda number, _: f"{number:,.0f}")
        axes.legend()
        save(figure, folder, name, pyplot)


def day(data, folder, pyplot):
    samples = data["samples"]
    hours = [sample["hour"] for sample in samples]
    figure, (cpu, memory) = pyplot.subplots(2, 1, sharex=True, figsize=(5.2, 4.4))
    for who, colour in (("daemon", "#0b6e99"), ("tinytask", "#b5452c")):
        cpu.plot(hours, [sample[f"{who}_cpu_ms"] / 1000 for sample in samples], color=colour, label=f"{who}: CPU so far")
        memory.plot(hours, [sample[f"{who}_rss_kb"] / 1024 for sample in samples], color=colour, label=who)
    cpu.set(ylabel="CPU, s")
    cpu.legend(loc="upper left")
    launches = cpu.twinx()
    launches.plot(hours, [sample["launches"] for sample in samples], color="#888888", linestyle=":", label="launches so far")
    launches.set(ylabel="launches")
    launches.grid(False)
    launches.legend(loc="lower right")
    memory.set(ylabel="RSS, MB", xlabel="hour of the day", xlim=(0, 24), xticks=range(0, 25, 4))
    memory.set_ylim(bottom=0)
    memory.legend(loc="lower right")
    save(figure, folder, "day", pyplot)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", nargs="+", type=pathlib.Path)
    parser.add_argument("--to", type=pathlib.Path, default=ROOT / "docs/plots")
    asked = parser.parse_args()
    data = {}
    for path in asked.json:
        data.update(json.loads(path.read_text()))
    matplotlib = library()
    from matplotlib import pyplot

    style(matplotlib)
    asked.to.mkdir(parents=True, exist_ok=True)
    for key, draw in (("curves", curves), ("day", day)):
        if key in data:
            draw(data[key], asked.to, pyplot)


if __name__ == "__main__":
    main()
