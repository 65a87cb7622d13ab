//! Does the first thing a newcomer types work, from the binary alone?

use std::process::{Command, Output};

fn demo(arguments: &[&str], temporary: &std::path::Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_calypso-watch"))
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", temporary)
        // Whatever the caller has set must not reach the demo's own base path.
        .env_remove("CALYPSO_BASE_PATH")
        .output()
        .expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Processes whose command line names `path`.
fn processes_at(path: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc")
        .expect("/proc is there")
        .flatten();
    entries
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| text(&line).replace('\0', " "))
        .filter(|line| line.contains(path))
        .collect()
}

#[test]
fn a_request_crosses_the_team_and_nothing_is_left_behind() {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let output = demo(&[], temporary.path());
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
    for queue in ["dispatcher", "architect", "product", "devops", "coder"] {
        assert!(
            said.contains(&format!("  {queue} ")),
            "{queue} is missing in:\n{said}"
        );
    }
    assert!(said.contains("complete in "), "{said}");
    assert!(
        said.contains("story-1.md") && said.contains("technical.md"),
        "{said}"
    );
    assert!(
        said.lines().all(|line| line.chars().count() <= 80),
        "{said}"
    );
    let left: Vec<_> = std::fs::read_dir(temporary.path())
        .expect("readable")
        .flatten()
        .map(|e| e.path())
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    let running = processes_at(&temporary.path().display().to_string());
    assert!(running.is_empty(), "still running: {running:?}");
}

#[test]
fn several_requests_arrive_and_a_kept_base_path_can_be_looked_at() {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let output = demo(&["--requests", "3", "--keep"], temporary.path());
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    let kept = std::fs::read_dir(temporary.path())
        .expect("readable")
        .flatten()
        .next()
        .expect("the base path is kept");
    let history = std::fs::read_to_string(kept.path().join(".calypso/history.jsonl"))
        .expect("there is a history");
    assert_eq!(history.matches("\"done\"").count(), 3, "{history}");
    let status = Command::new(env!("CARGO_BIN_EXE_calypso-watch"))
        .arg("--base-path")
        .arg(kept.path())
        .arg("status")
        .output()
        .expect("the program runs");
    assert_eq!(status.status.code(), Some(3), "{}", text(&status.stdout));
    assert!(
        text(&status.stdout).contains("NOT RUNNING"),
        "{}",
        text(&status.stdout)
    );
}
