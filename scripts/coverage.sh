#!/bin/sh
# rustc, for scripts/fuzz.sh: our own crates tell libFuzzer which branches were taken and what was compared
# (https://clang.llvm.org/docs/SanitizerCoverage.html); all others are built as ever.
case " $* " in
*" --crate-name calypso_watch "* | *" --crate-name parsers "*)
    exec "$@" --cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$@" ;;
esac
