//! Does `selftest` tell the truth about a disk, and leave nothing behind, however it ends?

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const EXE: &str = env!("CARGO_BIN_EXE_calypso-watch");
/// Only a failure waits for it: a debug build on a machine that is busy takes its time.
const LIMIT: Duration = Duration::from_secs(120);

fn selftest(place: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(EXE);
    command
        .arg("selftest")
        .arg("--base-path")
        .arg(place)
        .args(args)
        .stdin(Stdio::null());
    command
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    #[expect(clippy::disallowed_methods, reason = "a test's limit is real time")]
    let now = Instant::now;
    let end = now() + LIMIT;
    while !is_so() {
        assert!(now() < end, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Processes that have this folder in their arguments or environment.
fn processes_of(place: &Path) -> Vec<String> {
    let place = place.display().to_string();
    let entries = std::fs::read_dir("/proc")
        .expect("/proc is there")
        .flatten();
    entries
        .filter(|entry| entry.file_name() != *std::process::id().to_string())
        .filter_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let is_of =
                line.contains(&place) || String::from_utf8_lossy(&environment).contains(&place);
            is_of.then_some(line)
        })
        .filter(|line| !line.is_empty())
        .collect()
}

fn files_in(place: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(place).expect("it is there").flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[track_caller]
fn nothing_is_left(place: &Path) {
    eventually("no process is left", || processes_of(place).is_empty());
    eventually("no file is left", || files_in(place).is_empty());
}

#[test]
fn a_sound_disk_is_called_sound_and_nothing_is_left_behind() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let output = selftest(place.path(), &["--minutes", "0.1", "--seed", "5", "--json"])
        .output()
        .expect("the program runs");
    let (out, err) = said(&output);
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert_eq!(err, "", "nobody watches");
    let found: Value = serde_json::from_str(&out).expect("one JSON object");
    let storm = &found["storm"];
    assert!(storm["deaths"].as_u64() > Some(0), "{out}");
    assert!(storm["runs"].as_u64() > Some(0), "{out}");
    for bad in ["lost", "doubled", "wrong_kills", "leftovers", "exits"] {
        assert_eq!(storm[bad], 0, "{out}");
    }
    assert_eq!(storm["seed"], 5);
    for check in ["rename", "hard_link", "locks", "inotify", "fsync"] {
        assert_eq!(found["mount"]["checks"][check]["ok"], true, "{out}");
    }
    for latency in ["drop_to_agent", "hand_off_to_agent"] {
        assert!(found["latency"][latency]["n"].as_u64() > Some(0), "{out}");
    }
    nothing_is_left(place.path());
}

#[test]
fn looking_alone_takes_a_screen() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let output = selftest(place.path(), &["--minutes", "0"])
        .output()
        .expect("the program runs");
    let (out, err) = said(&output);
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(out.contains("watching by inotify"), "{out}");
    assert!(
        out.ends_with("verdict: the mount is fit; nothing was killed\n"),
        "{out}"
    );
    let path = place.path().display().to_string();
    let wide = |line: &&str| line.chars().count() > 80 && !line.contains(&path);
    assert_eq!(out.lines().filter(wide).collect::<Vec<_>>(), [""; 0]);
    nothing_is_left(place.path());
}

#[test]
fn a_disk_that_cannot_be_written_is_a_finding_with_a_way_out() {
    let place = tempfile::tempdir().expect("a temporary folder");
    // A mount namespace of its own, in which the folder is read-only; root writes through mere permissions.
    let script = r#"mount -t tmpfs -o ro none "$1" && shift && exec "$@""#;
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(place.path())
        .args([EXE, "selftest", "--minutes", "0", "--base-path"])
        .arg(place.path())
        .output()
        .expect("unshare is there");
    let (out, err) = said(&output);
    assert_eq!(output.status.code(), Some(1), "{out}{err}");
    assert!(err.starts_with("error: cannot make a folder in"), "{err}");
    assert!(err.contains("hint: it is mounted read-only"), "{err}");
}

#[test]
fn nonsense_is_refused() {
    let place = tempfile::tempdir().expect("a temporary folder");
    for wrong in ["-1", "many", "NaN"] {
        let output = selftest(place.path(), &["--minutes", wrong])
            .output()
            .expect("the program runs");
        assert_eq!(
            output.status.code(),
            Some(2),
            "{wrong}: {:?}",
            said(&output)
        );
    }
    let output = selftest(&place.path().join("nowhere"), &[])
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(2), "{:?}", said(&output));
    nothing_is_left(place.path());
}

/// Starts a long selftest and waits until it is killing.
fn storming(place: &Path) -> Child {
    let child = selftest(place, &["--minutes", "30"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    eventually("it storms", || {
        files_in(place).first().is_some_and(|folder| {
            files_in(&place.join(folder))
                .iter()
                .any(|name| name.starts_with("base-"))
        })
    });
    eventually("daemons run", || {
        let daemons = processes_of(place)
            .iter()
            .filter(|line| line.trim_end().ends_with(" run"))
            .count();
        daemons > 0
    });
    child
}

#[test]
fn it_leaves_nothing_behind_when_it_is_interrupted() {
    for (signal, number) in [(Signal::SIGINT, 2), (Signal::SIGTERM, 15)] {
        let place = tempfile::tempdir().expect("a temporary folder");
        let child = storming(place.path());
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("it is ours");
        let output = child.wait_with_output().expect("it ends");
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(output.status.signal(), Some(number), "{:?}", said(&output));
        // At once: it cleaned up before it ended.
        assert_eq!(processes_of(place.path()), [""; 0]);
        assert_eq!(files_in(place.path()), [""; 0]);
    }
}

#[test]
fn even_killed_it_leaves_nothing_behind() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let mut child = storming(place.path());
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    nothing_is_left(place.path());
}
