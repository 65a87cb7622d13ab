use std::fmt::Write as _;

use crate::core::Hold;
use crate::core::model::Leftover;
use crate::core::model::{FileKey, ProcessId, TaskStatus};
use crate::core::{Snapshot, Subject};
use crate::view::hold_words;
use crate::view::sample::{at, id, moment, now, queue, run, task};

fn leftover(pid: i32, comm: &str) -> Leftover {
    Leftover {
        process: ProcessId { pid, start: 1 },
        comm: comm.into(),
    }
}

/// The name of a variant, so that the test below can tell that none was forgotten.
fn name(hold: &Hold) -> String {
    let json = serde_json::to_value(hold).expect("a hold is plain data");
    json["hold"].as_str().expect("tagged").to_owned()
}

fn each() -> Vec<(Subject, Hold)> {
    let seven = || Subject::Task(id(7));
    let file = || {
        Subject::Inbound(FileKey {
            name: "request.md".into(),
            inode: 1,
            modified: 0,
        })
    };
    let all = Subject::Everything;
    let coder = || Subject::Queue(queue("coder"));
    vec![
        (
            all.clone(),
            Hold::TinytaskUnreachable {
                since: moment(-180),
                error: "connection refused".into(),
                hint: None,
            },
        ),
        (
            all.clone(),
            Hold::TinytaskSuspicious {
                vanished: 12,
                of: 14,
            },
        ),
        (all, Hold::Paused),
        (
            seven(),
            Hold::QueuePaused {
                queue: "coder".parse().expect("a queue"),
            },
        ),
        (
            coder(),
            Hold::QueuePaused {
                queue: "coder".parse().expect("a queue"),
            },
        ),
        (seven(), Hold::NoRecipe),
        (
            seven(),
            Hold::BrokenRecipe {
                error: "no `prompt`".into(),
            },
        ),
        (
            seven(),
            Hold::NoProgram {
                why: "`goose` is not on PATH".into(),
            },
        ),
        (
            coder(),
            Hold::Environment {
                reason: "goose is not on PATH".into(),
                until: at(38),
            },
        ),
        (coder(), Hold::NoTaskId { asked: 3 }),
        (
            Subject::Provider("openai".into()),
            Hold::Provider {
                reason: "quota exceeded".into(),
                until: at(240),
                probing: None,
            },
        ),
        (
            Subject::Provider("openai".into()),
            Hold::Provider {
                reason: "quota exceeded".into(),
                until: at(0),
                probing: Some(run("3/2")),
            },
        ),
        (
            seven(),
            Hold::Provider {
                reason: "quota exceeded".into(),
                until: at(0),
                probing: None,
            },
        ),
        (seven(), Hold::Running { run: run("7/2") }),
        (
            seven(),
            Hold::NoSlot {
                by: vec![run("42/1")],
                limit: 1,
            },
        ),
        (
            seven(),
            Hold::NoSlot {
                by: vec![run("42/1"), run("43/0"), run("inbound/9")],
                limit: 3,
            },
        ),
        (seven(), Hold::MaxRuns { limit: 8 }),
        (seven(), Hold::BlockedBy { task: Some(id(5)) }),
        (seven(), Hold::BlockedBy { task: None }),
        (seven(), Hold::OpenSubtasks { open: 1 }),
        (seven(), Hold::NotAssigned { queue_name: None }),
        (
            seven(),
            Hold::NotAssigned {
                queue_name: Some("ready for\u{1b} work".into()),
            },
        ),
        (
            seven(),
            Hold::AwaitingFiles {
                run: run("inbound/7"),
            },
        ),
        (seven(), Hold::NoFolder),
        (
            seven(),
            Hold::BackingOff {
                until: at(38),
                attempt: 2,
                of: 3,
                reason: "made no progress".into(),
            },
        ),
        (
            seven(),
            Hold::Parked {
                attempts: 3,
                reason: "asked a question and stopped".into(),
            },
        ),
        (seven(), Hold::TooManyRuns { runs: 30 }),
        (
            seven(),
            Hold::LostTooOften {
                runs: 5,
                until: at(720),
            },
        ),
        (seven(), Hold::StoppedByPerson { run: run("7/2") }),
        (seven(), Hold::HeldByFile),
        (file(), Hold::HeldByFile),
        (seven(), Hold::StopAsked),
        (seven(), Hold::RunNotOver { run: run("6/1") }),
        (
            seven(),
            Hold::StillAlive {
                run: run("7/2"),
                leftovers: vec![leftover(77, "node")],
            },
        ),
        (
            Subject::Run(run("inbound/2")),
            Hold::StillAlive {
                run: run("inbound/2"),
                leftovers: vec![],
            },
        ),
        (seven(), Hold::Unknown { run: run("7/2") }),
        (
            seven(),
            Hold::UnreadableRecords {
                error: "record of run `7/2` was written by a newer calypso-watch".into(),
            },
        ),
        (seven(), Hold::VerdictWaits { run: run("7/2") }),
        (
            seven(),
            Hold::RunningOutside {
                process: ProcessId { pid: 77, start: 1 },
                comm: "goose".into(),
                since: at(-240),
                younger: false,
            },
        ),
        (
            seven(),
            Hold::RunningOutside {
                process: ProcessId { pid: 77, start: 1 },
                comm: "vim".into(),
                since: at(-240),
                younger: true,
            },
        ),
        (
            seven(),
            Hold::OddPidFile {
                what: "empty".into(),
            },
        ),
        (
            file(),
            Hold::OddPidFile {
                what: "a directory".into(),
            },
        ),
        (seven(), Hold::WorkingElsewhere),
        (file(), Hold::Settling { until: at(1) }),
        (
            file(),
            Hold::OddFile {
                what: "a FIFO".into(),
            },
        ),
        (
            file(),
            Hold::DispatchedNotMoved {
                tasks: vec![id(12), id(13)],
            },
        ),
        (
            file(),
            Hold::FileBackingOff {
                until: at(11),
                attempt: 2,
                of: 3,
            },
        ),
        (
            file(),
            Hold::FileParked {
                attempts: 3,
                reason: "left 1 of 1 requests in inbound".into(),
            },
        ),
        (
            file(),
            Hold::NoDispatcher {
                queue: queue("dispatcher"),
            },
        ),
        (
            file(),
            Hold::DispatcherNeedsTask {
                queue: queue("dispatcher"),
            },
        ),
    ]
}

#[test]
fn each_hold_is_one_clear_phrase_with_the_way_out() {
    let mut seen = Snapshot::default();
    seen.tasks
        .insert(id(7), task(7, "coder", "Story: parser", TaskStatus::Idle));
    let mut said = String::new();
    for (subject, hold) in each() {
        writeln!(
            said,
            "{:22} {}",
            name(&hold),
            hold_words(&seen, &subject, &hold, &now())
        )
        .expect("a string");
    }
    insta::assert_snapshot!(said);
}

#[test]
fn no_hold_is_forgotten_above() {
    // The derive names all variants in the error for one it does not know.
    let error = serde_json::from_str::<Hold>(r#"{"hold":"?"}"#)
        .expect_err("no such hold")
        .to_string();
    let known: std::collections::BTreeSet<String> = error
        .split('`')
        .skip(3)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    let said: std::collections::BTreeSet<String> =
        each().iter().map(|(_, hold)| name(hold)).collect();
    assert!(known.len() > 30, "{error}");
    assert_eq!(known, said);
}
