#!/usr/bin/env bash
# Measures what the docs say about speed, each row with a program of its own, and prints tables (`--json`: one object).
#
#   scripts/bench.sh [--only ROW] [--json] [--quick]
#
# CALYPSO_WATCH_BIN=/path/to/calypso-watch measures that one instead of building a release.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A row is a function `row_NAME` that prints a table, or with --json one JSON value, and is named here.
rows=(tinytask)

# get_my_queue and signup_for_task of the built-in tinytask: 0, 1,000 and 10,000 tasks, 1 and 8 clients.
row_tinytask() { program bench_tinytask "$bin" "$@"; }

# Builds examples/NAME.rs, which uses the standard library only, and runs it.
program() {
    local name=$1
    shift
    mkdir -p target/bench
    rustc --edition 2024 -O -A unknown_lints -o "target/bench/$name" "examples/$name.rs" >&2
    "target/bench/$name" "$@"
}

fail() {
    echo "error: $1" >&2
    echo "hint: scripts/bench.sh [--only ROW] [--json] [--quick]; rows: ${rows[*]}" >&2
    exit 2
}

only=() json=() quick=()
while (($#)); do
    case $1 in
    --only)
        [[ -n ${2:-} && " ${rows[*]} " == *" $2 "* ]] || fail "\`--only\` takes one of the rows"
        only+=("$2")
        shift
        ;;
    --json) json=(--json) ;;
    --quick) quick=(--quick) ;;
    *) fail "\`$1\` is not known" ;;
    esac
    shift
done
((${#only[@]})) || only=("${rows[@]}")

bin=${CALYPSO_WATCH_BIN:-}
if [[ -z $bin ]]; then
    cargo build --release --locked --bin calypso-watch >&2
    bin=${CARGO_TARGET_DIR:-target}/release/calypso-watch
fi

cpu=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1 | tr -d '"\\')
machine="${cpu:-unknown CPU}, $(nproc) cores, $(uname -srm)"
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
