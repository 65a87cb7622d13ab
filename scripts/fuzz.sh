#!/usr/bin/env bash
# Fuzzes every parser that reads what others write; installs what it needs first. Exits 1 on a find.
#
#   scripts/fuzz.sh [--seconds N] [TARGET…]     N seconds for each target, 5 unless given; all targets unless named
#
# A find is written to fuzz/found/TARGET/. Mend its cause, then move the file to fuzz/regressions/TARGET/: `cargo test --test security`
# runs every target over those and over fuzz/corpus/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=5
targets=()
while (($#)); do
    case $1 in
    --seconds)
        seconds=${2:?--seconds takes a number}
        shift 2
        ;;
    -*)
        sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
    *)
        targets+=("$1")
        shift
        ;;
    esac
done
((${#targets[@]})) || mapfile -t targets < <(ls fuzz/corpus)

command -v c++ >/dev/null || { echo "error: a C++ compiler is missing (Debian: build-essential); libFuzzer is built with it" >&2; exit 1; }
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-fuzz

# Coverage needs compiler flags that stable Rust keeps back. No sanitizer: nearly all is safe Rust, and this way it builds and runs fast.
RUSTC_BOOTSTRAP=1 cargo fuzz build --sanitizer none parsers
program=fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release/parsers

failed=0
for target in "${targets[@]}"; do
    # What is learnt on the way stays out of the repository.
    mkdir -p "fuzz/target/learnt/$target" "fuzz/found/$target"
    log=fuzz/target/learnt/$target.log
    inputs=("fuzz/corpus/$target")
    [[ ! -d fuzz/regressions/$target ]] || inputs+=("fuzz/regressions/$target")
    if CALYPSO_FUZZ=$target "$program" "fuzz/target/learnt/$target" "${inputs[@]}" -artifact_prefix="fuzz/found/$target/" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1500 -max_len=4096 -print_final_stats=1 >"$log" 2>&1; then
        printf '%-12s %9s executions\n' "$target" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
    else
        failed=1
        printf '%-12s FOUND: %s\n' "$target" "$(ls "fuzz/found/$target" | tr '\n' ' ')"
        grep -m1 -A2 'panicked at\|ERROR: libFuzzer' "$log" | sed 's/^/    /'
    fi
done
exit "$failed"
