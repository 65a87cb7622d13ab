#!/usr/bin/env python3
"""Writes what `scripts/bench.sh --json` printed into the tables of docs/performance.md.

    scripts/bench.sh --json > bench.json && scripts/tables.py bench.json [--to docs/performance.md] [--print]

Several files are read as one, a later one's keys before an earlier one's, so that a row can be measured again by itself. Everything
between a pair of comments `<!-- NAME: … -->` and `<!-- /NAME -->` is replaced, nothing else. Needs Python alone.
"""

import argparse
import json
import pathlib
import re
import sys


def get(data, path):
    """`idle.cpu_ms` of the object; None where it was not measured."""
    for key in path.split("."):
        if not isinstance(data, dict) or data.get(key) is None:
            return None
        data = data[key]
    return data


def told(number, digits=1):
    if number is None:
        return "–"
    if isinstance(number, (int, float)):
        return f"{number:,.{digits}f}"
    return str(number)


def ms(number):
    """Fractions of a millisecond count only where there are few of them."""
    return told(number, 2 if number is not None and abs(number) < 10 else 1)


class Targets:
    """What issue and README promise, beside what was measured."""

    def __init__(self, data):
        self.data = data
        self.lines = []

    def add(self, what, wanted, shown, holds):
        """`holds`: yes, no, or None where something was not measured."""
        verdict = {True: "yes", False: "**no**", None: "–"}[holds]
        self.lines.append(f"| {what} | {wanted} | {shown} | {verdict} |")

    def most(self, what, path, most, unit="", digits=1, per=1):
        value = get(self.data, path)
        value = None if value is None else value / per
        shown = "–" if value is None else f"{told(value, digits)}{unit}"
        self.add(what, f"≤ {most}{unit}", shown, None if value is None else value <= most)

    def least(self, what, path, least, unit="", digits=0):
        value = get(self.data, path)
        shown = "–" if value is None else f"{told(value, digits)}{unit}"
        self.add(what, f"≥ {least:,}{unit}", shown, None if value is None else value >= least)

    def latency(self, what, key, p50, p99):
        found = [get(self.data, f"{key}.{part}") for part in ("p50_ms", "p99_ms", "n")]
        if None in found:
            self.add(what, f"p50 ≤ {p50} ms, p99 ≤ {p99} ms", "–", None)
            return
        shown = f"p50 {ms(found[0])} ms, p99 {ms(found[1])} ms (n = {found[2]})"
        self.add(what, f"p50 ≤ {p50} ms, p99 ≤ {p99} ms", shown, found[0] <= p50 and found[1] <= p99)

    def twice(self, what, key):
        small, large = get(self.data, f"{key}_10k.empty.p50_ms"), get(self.data, f"{key}_10k.p50_ms")
        if None in (small, large):
            self.add(what, "≤ 2 ×", "–", None)
            return
        times = large / small
        tail = get(self.data, f"{key}_10k.p99_ms")
        self.add(what, "≤ 2 ×", f"{times:.2f} × (p50 {ms(large)} ms beside {ms(small)} ms, p99 {ms(tail)} ms)", times <= 2)


def targets(data):
    table = Targets(data)
    table.latency("file closed or renamed in inbound/ → agent's first instruction", "drop_to_exec", 6, 20)
    ours, incron = get(data, "drop_to_exec.p50_ms"), get(data, "drop_to_exec.incron.p50_ms")
    if None in (ours, incron):
        table.add("the same, beside incron", "not slower (p50)", "–", None)
    else:
        table.add("the same, beside incron", "not slower (p50)", f"{ms(ours)} ms, incron {ms(incron)} ms", ours <= incron)
    table.latency("task landed in tinytask → agent", "landed_to_exec", 12, 40)
    table.latency("pid file deleted → next agent (verdict written)", "pid_to_exec", 12, 40)
    full = "with 10,000 open tasks in 50 queues and 50,000 finished runs"
    table.twice(f"drop → agent, {full}", "drop_to_exec")
    table.twice(f"landed → agent, {full}", "landed_to_exec")
    table.twice(f"pid file → next agent, {full}", "pid_to_exec")
    table.least("50 tasks over 50 queues landing at once", "launches_per_s", 200, " launches/s")
    table.most("idle, 10 queues, 100 waiting tasks: wakeups a minute", "idle.wakeups_per_min", 2)
    minutes = get(data, "idle.minutes")
    table.most(f"idle: CPU in {told(minutes, 0)} minutes", "idle.cpu_ms", 20, " ms")
    table.most("idle: forks", "idle.forks", 0, digits=0)
    table.most("daemon, idle", "idle.daemon_rss_kb", 12, " MB RSS", per=1024)
    table.most("daemon's peak with 10,000 tasks", "memory.daemon_peak_kb", 40, " MB RSS", per=1024)
    table.most("daemon after that", "memory.daemon_after_kb", 16, " MB RSS", per=1024)
    table.most("built-in tinytask, idle", "idle.tinytask_rss_kb", 15, " MB RSS", per=1024)
    table.most("shim", "idle.shim_private_kb", 2, " MB private", per=1024)
    table.most("shim", "idle.shim_rss_kb", 4, " MB RSS", per=1024)
    growth = [get(data, f"memory.{key}") for key in ("daemon_growth_kb", "daemon_anon_growth_kb", "events", "runs")]
    what = f"daemon's growth over {told(growth[2], 0)} events and {told(growth[3], 0)} runs"
    # What an allocator keeps at hand differs by some pages from one moment to the next.
    reached = None if growth[0] is None else growth[0] <= 512
    table.add(what, "none", f"{told(growth[0], 0)} kB RSS, {told(growth[1], 0)} kB of it anonymous", reached)
    lost, runs, took = (get(data, f"burst_100k.{key}") for key in ("lost", "dispatcher_runs", "seconds"))
    files = told(get(data, "burst_100k.files"), 0)
    what = f"{files} files dropped while the daemon is stopped"
    shown = f"{told(runs, 0)} run, {told(lost, 0)} lost, {told(took, 2)} s"
    holds = None if None in (lost, runs, took) else (lost, runs) == (0, 1) and took <= 2
    table.add(what, "one dispatcher run, all seen, ≤ 2 s", shown, holds)
    agents = told(get(data, "adopt.agents"), 0)
    table.most(f"restart with {agents} live agents", "adopt_500_ms", 250, " ms")
    table.most("`status` with 10,000 open tasks and 50,000 past runs, beside tinytask's own answer", "status_ms", 30, " ms")
    asked = [cell for cell in data.get("tinytask", []) if cell["tasks"] == 10_000]
    queues = {cell["changed"]: cell["p50_ms"] for cell in asked if (cell["call"], cell["clients"]) == ("get_my_queue", 1)}
    queue, changed = queues.get(False), queues.get(True)
    signup = next((cell["calls_per_s"] for cell in asked if (cell["call"], cell["clients"]) == ("signup_for_task", 8)), None)
    table.add("get_my_queue at 10,000 tasks over HTTP", "p50 ≤ 0.5 ms", f"{ms(queue)} ms ({ms(changed)} ms right after each change)", None if queue is None else queue <= 0.5)
    table.add("8 clients signing up at once", "≥ 2,000 calls/s", f"{told(signup, 0)} calls/s", None if signup is None else signup >= 2000)
    table.most("binary, stripped", "build.binary_bytes", 12, " MB", per=1e6)
    cores = told(get(data, "build.cores"), 0)
    table.most(f"cold release build, {cores} cores", "build.cold_release_build_s", 300, " s", digits=0)
    return "\n".join(["| what | to reach | measured | reached |", "| --- | --- | --- | --- |", *table.lines])


# Where a row's object has these below it, each is a line of its own.
PARTS = {
    "drop_to_exec": {
        "": "calypso-watch, both",
        "empty": "in an empty world, in turn with the full one",
        "closed": "calypso-watch, file closed",
        "renamed": "calypso-watch, file renamed in",
        "incron": "incron",
        "inotifywait": "`inotifywait -m \\| while read`",
        "floor": "the floor: inotify, then posix_spawn",
    },
    "landed_to_exec": {
        "": "from the answer, both",
        "empty": "in an empty world, in turn with the full one",
        "created": "created in the queue",
        "handed_over": "handed over from another queue",
        "from_call": "both, from the sending of the call",
    },
    "pid_to_exec": {
        "": "handed to the next queue, the agent ends 0.3 s later",
        "empty": "in an empty world, in turn with the full one",
        "same_queue": "the next task waits in the same queue",
        "handed_over_and_gone_at_once": "handed to the next queue, the agent ends at once",
        "from_last_act_of_agent": "the first, from the agent's last act instead of the pid file's removal",
    },
}


def latencies(data):
    lines = ["| | p50 ms | p99 ms | n | p50 ms, full | p99 ms, full |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    names = {
        "drop_to_exec": "a file in inbound/",
        "landed_to_exec": "a task landed",
        "pid_to_exec": "a run is over",
    }
    for row, parts in PARTS.items():
        lines.append(f"| **{names[row]}** | | | | | |")
        for part, name in parts.items():
            at = f".{part}" if part else ""
            found = [get(data, f"{row}{at}.{key}") for key in ("p50_ms", "p99_ms", "n")]
            full = [get(data, f"{row}_10k{at}.{key}") for key in ("p50_ms", "p99_ms")]
            if found[0] is None and full[0] is None:
                continue
            cells = [ms(found[0]), ms(found[1]), told(found[2], 0), ms(full[0]), ms(full[1])]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def steps(data):
    """Means of each step of a start; they add up to the mean, which a few slow ones lift above the median."""
    rows = [row + end for row in PARTS for end in ("", "_10k") if get(data, f"{row}{end}.steps_ms")]
    if not rows:
        return ""
    found = {row: data[row]["steps_ms"] for row in rows}
    names = list(found[rows[0]])
    lines = ["| ms, mean | " + " | ".join(f"`{row}`" for row in rows) + " |", "| --- |" + " ---: |" * len(rows)]
    for name in names:
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(ms(found[row].get(name)) for row in rows) + " |")
    return "\n".join(lines)


def flat(value, above=""):
    for key, part in value.items():
        name = f"{above} {key}".strip().replace("_", " ")
        if isinstance(part, dict):
            yield from flat(part, name)
        else:
            yield name, part


def details(data):
    """Every other row, with all of its numbers."""
    titles = {
        "launches": "50 tasks at once, launches a second",
        "idle": "idle",
        "memory": "memory",
        "burst_100k": "a burst",
        "adopt": "restart with live agents",
        "status": "status, ms",
        "fsync": "one fsync on this disk, ms",
        "build": "build",
    }
    tables = []
    for key, title in titles.items():
        if key in data:
            lines = [f"| {title} | |", "| --- | ---: |"]
            for name, number in flat(data[key]):
                whole = isinstance(number, int) or (isinstance(number, float) and number == int(number))
                lines.append(f"| {name} | {told(number, 0 if whole else 2)} |")
            tables.append("\n".join(lines))
    cells = data.get("tinytask", [])
    if cells:
        lines = ["| built-in tinytask | changed | tasks | clients | p50 ms | p99 ms | calls/s | reply KB | server MB |"]
        lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for cell in cells:
            parts = [cell["call"], "yes" if cell["changed"] else "", told(cell["tasks"], 0), cell["clients"], ms(cell["p50_ms"]), ms(cell["p99_ms"])]
            parts += [told(cell["calls_per_s"], 0), told(cell["reply_bytes"] / 1000), told(cell["server_mb"])]
            lines.append("| " + " | ".join(map(str, parts)) + " |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def machine(data):
    quick = ", measured with `--quick`" if get(data, "burst_100k.files") not in (None, 100_000) else ""
    return f"{data.get('version', '')}; {data.get('machine', '')}; {data.get('date', '')}{quick}."


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", nargs="+", type=pathlib.Path)
    parser.add_argument("--to", type=pathlib.Path, default=pathlib.Path(__file__).parent.parent / "docs/performance.md")
    parser.add_argument("--print", action="store_true", help="print the tables, change nothing")
    asked = parser.parse_args()
    data = {}
    for path in asked.json:
        data.update(json.loads(path.read_text()))
    blocks = {"machine": machine(data), "targets": targets(data), "latencies": latencies(data), "steps": steps(data), "details": details(data)}
    if getattr(asked, "print"):
        print("\n\n".join(blocks.values()))
        return
    page = asked.to.read_text()
    for name, text in blocks.items():
        pattern = rf"(<!-- {name}: [^>]*-->\n).*?(<!-- /{name} -->)"
        page, count = re.subn(pattern, lambda found: f"{found[1]}{text}\n{found[2]}", page, flags=re.DOTALL)
        if count != 1:
            sys.exit(f"error: {asked.to} has no place for `{name}`")
    asked.to.write_text(page)


if __name__ == "__main__":
    main()
