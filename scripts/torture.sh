#!/usr/bin/env bash
# Kills daemons, shims, agents and tinytask at every kill point and then at random for as long as you like, in a pid namespace of its
# own, and prints what was lost, doubled, wrongly killed or left over: all zeros, or it fails.
#
#   scripts/torture.sh [--deaths N] [--minutes N] [--seed S] [--json] [--storms | --matrix] [--in DIR] [--bases N] [--debug]
#
# 1,000 deaths where nothing is said. `--storms` leaves the matrix of kill points out, `--matrix` the storms. Ctrl-C ends the storms
# with the table so far. `--debug` takes what `cargo test --features kill-points` has built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile=torture
args=()
for word in "$@"; do
    if [[ $word == --debug ]]; then profile=dev; else args+=("$word"); fi
done

# Cargo says where it put the driver; what it has to say to people goes to standard error.
driver=$(cargo build --locked --profile "$profile" --features kill-points --test torture --message-format=json-render-diagnostics |
    sed -n 's/.*"executable":"\([^"]*\/torture-[^"]*\)".*/\1/p' | tail -n 1)
[[ -x $driver ]] || { echo "error: cargo built no driver" >&2; exit 1; }

# Its own pid 1: whatever goes astray ends with it, and no process of this machine can be met.
space=(unshare --pid --fork --mount-proc)
if ! "${space[@]}" true 2>/dev/null; then
    space=(unshare --user --map-root-user --pid --fork --mount-proc)
    if "${space[@]}" true 2>/dev/null; then
        echo "not root: in a user namespace" >&2
    else
        echo "no namespaces here: among the processes of this machine" >&2
        space=()
    fi
fi
exec "${space[@]}" "$driver" "${args[@]}"
