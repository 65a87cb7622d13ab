//! The benchmarks run from a clean checkout and print what is promised. How fast anything is, is no test's business.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn a_quick_benchmark_prints_its_row_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let said = Command::new(root.join("scripts/bench.sh"))
        .args([
            "--quick",
            "--json",
            "--times",
            "1",
            "--only",
            "drop_to_exec",
        ])
        .env("CALYPSO_WATCH_BIN", env!("CARGO_BIN_EXE_calypso-watch"))
        .env("TMPDIR", folder.path())
        .output()
        .expect("bash is there");
    let errors = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{}: {errors}", said.status);
    let row: Value = serde_json::from_slice(&said.stdout).expect("one JSON object");
    for key in ["machine", "date", "version"] {
        assert!(row[key].is_string(), "{key}: {row}");
    }
    // A file that was closed and one that was renamed, once each; the floor beside them, as it needs nothing installed.
    let drops = &row["drop_to_exec"];
    assert_eq!(drops["n"], 2, "{row}");
    for times in [drops, &drops["closed"], &drops["renamed"], &drops["floor"]] {
        let [p50, p99] = ["p50_ms", "p99_ms"].map(|key| times[key].as_f64().unwrap_or_default());
        assert!(0.0 < p50 && p50 <= p99, "{row}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .expect("it is ours")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_row_that_does_not_exist_is_refused() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let said = Command::new(root.join("scripts/bench.sh"))
        .args(["--only", "everything"])
        .output()
        .expect("bash is there");
    assert_eq!(said.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&said.stderr);
    assert!(errors.contains("drop_to_exec"), "{errors}");
}
