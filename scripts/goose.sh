#!/usr/bin/env bash
# Prints the path of the goose that the tests run, and fetches it first where it is missing.
#
# Pinned: the tests know this version's texts and exit codes. CALYPSO_TEST_GOOSE=/path takes another binary instead.
set -euo pipefail

version=1.52.0
package=@aaif/goose-binary-linux-x64
sha256=6588bd326d97f6d3c868b9d1267c4d23b56d7a477ddb9b3748640c7982d4398b

if [[ -n ${CALYPSO_TEST_GOOSE:-} ]]; then
    [[ -x $CALYPSO_TEST_GOOSE ]] || { echo "error: CALYPSO_TEST_GOOSE names \`$CALYPSO_TEST_GOOSE\`, which is not a program" >&2; exit 2; }
    printf '%s\n' "$CALYPSO_TEST_GOOSE"
    exit 0
fi

cache=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.cache
goose=$cache/goose-$version/goose

is_right() { [[ -x $1 ]] && echo "$sha256  $1" | sha256sum --check --status; }

# The checksum of 300 MB costs 1 s; it was checked when the file got this name, which no half-written file ever has.
if [[ ! -x $goose ]]; then
    [[ $(uname -sm) == "Linux x86_64" ]] || { echo "error: the pinned goose is for Linux on x86-64; set CALYPSO_TEST_GOOSE" >&2; exit 1; }
    command -v npm >/dev/null || { echo "error: npm is needed to fetch goose; install it, or set CALYPSO_TEST_GOOSE" >&2; exit 1; }
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "fetching goose $version (97 MB) from npm" >&2
    (cd "$work" && npm pack --silent "$package@$version" >/dev/null)
    tar -xzf "$work"/*.tgz -C "$work" package/bin/goose
    is_right "$work/package/bin/goose" || { echo "error: what npm sent is not goose $version: its checksum differs" >&2; exit 1; }
    mkdir -p "$cache/goose-$version"
    mv -f "$work/package/bin/goose" "$goose"
fi
printf '%s\n' "$goose"
