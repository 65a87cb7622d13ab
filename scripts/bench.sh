#!/usr/bin/env bash
# Measures what the docs say about speed, each row with a program of its own, and prints tables (`--json`: one object).
#
#   scripts/bench.sh [--only ROW]... [--json] [--quick] [--times N]
#
# `--quick` measures each a few times and in a smaller world, `--times` so many times. The base paths lie in a folder of their own below
# $TMPDIR, else below target/bench; it goes with the script. incron and inotifywait are measured where they are installed; without
# --quick, root on Debian gets them installed.
#
# CALYPSO_WATCH_BIN=/path/to/calypso-watch measures that one instead of building a release.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A row is a function `row_NAME` that prints a table, or with --json one JSON value, and is named here. Where the value is a plain
# number, a second key after it says how it came about.
rows=(drop_to_exec landed_to_exec pid_to_exec drop_to_exec_10k landed_to_exec_10k pid_to_exec_10k launches_per_s idle memory
    fsync_ms burst_100k adopt_500_ms status_ms tinytask build)
# What scripts/plots.py draws; measured only where --only names it.
more=(curves day)

# From an event to the agent's first instruction, on a base path at rest: a file closed or renamed into inbound/ (with incron, a pipe of
# inotifywait and the floor beside it), a task that landed in a queue, the pid file of the run before.
row_drop_to_exec() { measured drop_to_exec "$@"; }
row_landed_to_exec() { measured landed_to_exec "$@"; }
row_pid_to_exec() { measured pid_to_exec "$@"; }

# The same with 10,000 open tasks in 50 queues and 50,000 finished runs on disk.
row_drop_to_exec_10k() { measured drop_to_exec_10k "$@"; }
row_landed_to_exec_10k() { measured landed_to_exec_10k "$@"; }
row_pid_to_exec_10k() { measured pid_to_exec_10k "$@"; }

# Fifty tasks land in fifty queues at once.
row_launches_per_s() { measured launches_per_s "$@"; }

# Ten queues, a hundred waiting tasks, ten minutes (one with --quick): wakeups, CPU, forks, memory of daemon, shim and tinytask.
row_idle() { measured idle "$@"; }

# Daemon and tinytask with 10,000 tasks; growth over 100,000 events and 10,000 runs.
row_memory() { measured memory "$@"; }

# What one durable record costs on this disk.
row_fsync_ms() { measured fsync_ms "$@"; }

# 100,000 files dropped while the daemon is stopped.
row_burst_100k() { measured burst_100k "$@"; }

# The daemon is killed under 500 live agents.
row_adopt_500_ms() { measured adopt_500_ms "$@"; }

# `status` with 10,000 open tasks and 50,000 past runs, less what tinytask takes to list them.
row_status_ms() { measured status_ms "$@"; }

# The three latencies with more and more open tasks, past runs and queues (ten minutes).
row_curves() { measured curves "$@"; }

# CPU and memory over a day of 2,000 launches, replayed within five minutes.
row_day() { measured day "$@"; }

# The binary's size; without --quick also a cold release build, for which cargo has fetched everything before.
row_build() {
    local bytes seconds=null
    bytes=$(stat -L -c %s "$bin")
    if [[ " $* " != *" --quick "* ]]; then
        cargo fetch --locked >&2
        local begun=$EPOCHREALTIME
        CARGO_TARGET_DIR=$scratch/cold cargo build --release --locked --bins >&2
        seconds=$(awk -v a="$begun" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.0f", b - a }')
        rm -rf "$scratch/cold"
    fi
    if [[ " $* " == *" --json "* ]]; then
        printf '{"binary_bytes": %s, "cold_release_build_s": %s, "cores": %s}\n' "$bytes" "$seconds" "$(nproc)"
    else
        printf '| what | |\n| --- | ---: |\n| binary bytes | %s |\n| cold release build s | %s |\n' "$bytes" "$seconds"
    fi
}

# get_my_queue and signup_for_task of the built-in tinytask: 0, 1,000 and 10,000 tasks, 1 and 8 clients.
row_tinytask() { program bench_tinytask "$bin" "$@"; }

# Builds examples/NAME.rs, which uses the standard library only, and runs it.
program() {
    local name=$1
    shift
    rustc --edition 2024 -O -A unknown_lints -o "$scratch/$name" "examples/$name.rs" >&2
    "$scratch/$name" "$@"
}

# A row of examples/bench_rows, with its agent, which has neither libc nor runtime.
measured() {
    local row=$1
    shift
    # Optimized, it takes longer to build than to run quickly.
    local optimized=(-O)
    [[ -z ${quick[*]} ]] || optimized=()
    [[ -x $scratch/bench_rows ]] ||
        rustc --edition 2024 "${optimized[@]}" -A unknown_lints -o "$scratch/bench_rows" examples/bench_rows/main.rs >&2
    [[ -x $scratch/agent ]] || rustc --edition 2024 -O -A unknown_lints -C panic=abort -C strip=symbols -C relocation-model=static \
        -C link-arg=-nostartfiles -C link-arg=-nostdlib -C link-arg=-static -o "$scratch/agent" examples/bench_rows/agent.rs >&2
    "$scratch/bench_rows" "$row" "$bin" "$scratch/agent" "$scratch" "$@" "${times[@]}"
}

fail() {
    echo "error: $1" >&2
    echo "hint: scripts/bench.sh [--only ROW]... [--json] [--quick] [--times N]; rows: ${rows[*]}; for the plots: ${more[*]}" >&2
    exit 2
}

only=() json=() quick=() times=()
while (($#)); do
    case $1 in
    --only)
        [[ -n ${2:-} && " ${rows[*]} ${more[*]} " == *" $2 "* ]] || fail "\`--only\` takes one of the rows"
        only+=("$2")
        shift
        ;;
    --json) json=(--json) ;;
    --quick) quick=(--quick) ;;
    --times)
        [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || fail "\`--times\` takes a number"
        times=(--times "$2")
        shift
        ;;
    *) fail "\`$1\` is not known" ;;
    esac
    shift
done
((${#only[@]})) || only=("${rows[@]}")

bin=${CALYPSO_WATCH_BIN:-}
if [[ -z $bin ]]; then
    cargo build --release --locked --bins >&2
    bin=${CARGO_TARGET_DIR:-target}/release/calypso-watch
fi

# Whatever happens, nothing that was started goes on, and no base path stays.
mkdir -p target/bench
scratch=$(mktemp -d "${TMPDIR:-$PWD/target/bench}/bench.XXXXXX")
clean() {
    [[ ! -x $scratch/bench_rows ]] || "$scratch/bench_rows" end "$scratch"
    rm -rf "$scratch"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [[ -z ${quick[*]} && " ${only[*]}" == *" drop_to_exec"* && $(id -u) == 0 ]] && ! command -v incrond inotifywait >/dev/null && command -v apt-get >/dev/null; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends incron inotify-tools; } >/dev/null ||
        echo "incron and inotify-tools cannot be installed" >&2
fi

cpu=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1 | tr -d '"\\')
machine="${cpu:-unknown CPU}, $(nproc) cores, $(uname -srm), $(stat -f -c %T "$scratch")"
day=$(date -u +%Y-%m-%d)
version=$("$bin" --version)

if ((${#json[@]})); then
    printf '{"machine": "%s", "date": "%s", "version": "%s"' "$machine" "$day" "$version"
    for row in "${only[@]}"; do
        value=$("row_$row" --json "${quick[@]}")
        printf ',\n"%s": %s' "$row" "$value"
    done
    printf '}\n'
else
    printf '%s\n%s, %s\n' "$version" "$machine" "$day"
    for row in "${only[@]}"; do
        printf '\n## %s\n\n' "$row"
        "row_$row" "${quick[@]}"
    done
fi
