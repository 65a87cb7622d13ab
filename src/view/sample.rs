//! Pieces of a world for the tests of the views.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::layout::RunDir;
use crate::core::model::{
    Millis, Moment, Now, Outcome, Parameter, ProcessId, QueueName, Recipe, RunId, RunState, Task,
    TaskId, TaskKey, TaskStatus, Timestamp,
};
use crate::core::record::{
    Baseline, Limits, Spec, SpecTimes, StateRecord, TaskVerdict, Verdict, VerdictRecord,
};
use crate::core::{
    Alive, Coverage, Observed, ObservedState, Policy, Run, Snapshot, Tinytask, Vitals,
};

const WALL: i64 = 1_763_838_000_000;

pub(super) fn now() -> Now {
    Now {
        wall: Timestamp(WALL),
        boot_id: "boot".into(),
        boot: Millis::secs(1_000_000),
    }
}

/// `seconds` from now.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp(WALL + seconds * 1000)
}

pub(super) fn moment(seconds: i64) -> Moment {
    Moment {
        wall: at(seconds),
        boot_id: "boot".into(),
        boot: Millis(1_000_000_000u64.saturating_add_signed(seconds * 1000)),
    }
}

/// Absolute times, as the tests want them: seconds of that day, UTC.
pub(super) fn time(at: Timestamp) -> String {
    let ms = at.0.rem_euclid(86_400_000);
    let (s, ms) = (ms / 1000, ms % 1000);
    format!("{:02}:{:02}:{:02}.{ms:03}", s / 3600, s / 60 % 60, s % 60)
}

pub(super) fn id(number: i64) -> TaskId {
    TaskId::try_from(number).expect("positive")
}

pub(super) fn queue(name: &str) -> QueueName {
    name.parse().expect("a queue's name")
}

pub(super) fn run(id: &str) -> RunId {
    id.parse().expect("a run's id")
}

pub(super) fn task(number: i64, queue: &str, title: &str, status: TaskStatus) -> Task {
    Task {
        id: id(number),
        title: title.into(),
        status,
        assigned_to: Some(queue.into()),
        previous_assigned_to: None,
        created_by: None,
        priority: 0.0,
        parent: None,
        queue_name: None,
        blocked_by: None,
        is_blocked: false,
        created_at: at(-86_400 + number),
        updated_at: at(-3600),
        is_archived: false,
        fields: 1,
    }
}

pub(super) fn recipe(name: &str) -> Recipe {
    Recipe {
        queue: queue(name),
        file: format!("{name}.yaml"),
        title: name.into(),
        parameters: vec![Parameter {
            key: "task_id".into(),
            is_required: false,
            default: None,
        }],
        provider: None,
        modified: at(-90_000),
    }
}

/// A run of `queue` that has been at it for `age` seconds.
pub(super) fn live_run(id: &str, queue_name: &str, title: &str, age: i64, pid: i32) -> Run {
    let id = run(id);
    let agent = ProcessId { pid, start: 9 };
    let spec = Spec {
        format: 1,
        token: "token".into(),
        run: id,
        task: id.subject.task().map(|id| TaskKey {
            id,
            created_at: at(-86_400 + id.number()).seconds(),
        }),
        title: Some(title.to_owned()).filter(|t| !t.is_empty()),
        queue: queue(queue_name),
        attempt: 1,
        stay: 1,
        argv: vec!["goose".into()],
        cwd: "/srv/calypso".into(),
        env: Vec::new(),
        provider: None,
        limits: Limits {
            time: Millis::secs(3600),
            grace: Millis::secs(10),
            log: 1,
            sweep: true,
        },
        cause: "request.md in inbound".into(),
        times: SpecTimes {
            event: None,
            look: moment(-age),
            decided: moment(-age),
            written: moment(-age),
        },
        baseline: Baseline::default(),
    };
    Run {
        dir: RunDir {
            id,
            queue: queue(queue_name),
        },
        spec: Some(Arc::new(spec)),
        state: Some(StateRecord {
            format: 1,
            token: "token".into(),
            state: RunState::Running {
                agent: agent.clone(),
            },
            shim: ProcessId {
                pid: pid - 1,
                start: 8,
            },
            boot_id: "boot".into(),
            started: moment(-age),
            running: Some(moment(-age)),
            ended: None,
            usage: None,
        }),
        observed: Observed {
            spec: true,
            pid_file: true,
            shim: true,
            state: ObservedState::Running,
            alive: Some(Alive::default()),
        },
        ended_by_daemon: None,
        verdict: None,
        evidence: None,
        in_hand: false,
        swept: false,
        vitals: Vitals {
            agent_pid: Some(pid),
            cpu_percent: Some(3.2),
            rss_kb: Some(177_734),
            last_sign: Some(at(-4)),
        },
    }
}

/// The verdict of a run that ended `ago` seconds ago.
pub(super) fn verdict_record(
    id: &str,
    queue_name: &str,
    verdict: Option<Verdict>,
    ago: i64,
) -> VerdictRecord {
    let id = run(id);
    let key = id.subject.task().map(|id| TaskKey {
        id,
        created_at: at(-86_400 + id.number()).seconds(),
    });
    VerdictRecord {
        format: 1,
        run: id,
        title: None,
        queue: queue(queue_name),
        attempt: 1,
        stay: 1,
        provider: Some("default".into()),
        outcome: Outcome::Exited(0),
        tasks: (key.zip(verdict))
            .map(|(key, verdict)| TaskVerdict {
                key,
                attempt: 1,
                stay: 1,
                verdict,
                fields: 1,
                last_comment: 0,
                previous_assigned_to: None,
                updated_at: None,
                write: None,
            })
            .into_iter()
            .collect(),
        files: Vec::new(),
        failure: None,
        tokens: Some(182_300),
        cost: Some(0.61),
        started: Some(moment(-ago - 251)),
        ended: Some(moment(-ago)),
        judged: moment(-ago),
        late: false,
    }
}

/// Settings as they are by default.
pub(super) fn policy() -> Policy {
    Policy {
        max_runs: 8,
        max_attempts: 3,
        max_runs_per_task: 30,
        time_limit: Millis::secs(3600),
        quiet_after: Millis::secs(600),
        provider: None,
        inbound_queue: queue("dispatcher"),
        create_folders: false,
        queues: BTreeMap::new(),
    }
}

/// tinytask is well and was asked about everything; these queues have recipes.
pub(super) fn world(recipes: &[&str]) -> Snapshot {
    Snapshot {
        tinytask: Tinytask::Fresh { took: Millis(1) },
        coverage: Coverage::Everything,
        recipes: recipes
            .iter()
            .map(|name| (queue(name), Ok(recipe(name))))
            .collect(),
        ..Snapshot::default()
    }
}

/// With a task and its folder.
pub(super) fn with_task(seen: &mut Snapshot, number: i64, queue: &str, title: &str) {
    seen.tasks
        .insert(id(number), task(number, queue, title, TaskStatus::Idle));
    seen.folders.insert(id(number), at(-3600));
}

/// No line is wider than the screen; nothing steers the terminal.
#[track_caller]
pub(super) fn assert_fits(screen: &str) {
    for line in screen.lines() {
        assert!(
            crate::view::text::width(line) <= crate::view::text::WIDTH,
            "too wide: {line}"
        );
        assert!(!line.chars().any(char::is_control), "control: {line:?}");
        assert_eq!(line.trim_end(), line, "white space at the end");
    }
}
