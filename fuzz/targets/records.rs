//! Records in `.calypso/`: read without trust, written back alike, decided upon and shown.

use std::collections::BTreeMap;
use std::fmt::Debug;

use calypso_watch::core::decide::decide;
use calypso_watch::core::layout::{Layout, RunDir};
use calypso_watch::core::model::{Millis, Now, RunState, RunSubject, Task, TaskId, Timestamp};
use calypso_watch::core::record::{EndedRecord, FORMAT, Marks, Spec, StateRecord, VerdictRecord};
use calypso_watch::core::{
    Alive, Coverage, History, Hold, InboundEntry, InboundState, Observed, ObservedState, Policy,
    Run, Snapshot, Tinytask, Vitals,
};
use calypso_watch::daemon::{DaemonRecord, LockRecord, StoryEvent, read_story};
use calypso_watch::edge::runs;
use calypso_watch::view::{self, Daemon, StatusInput, TinytaskLine, Today, WhyInput};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{assert_printable, folder};

/// Any of them; the first byte does not choose, as a file may stand in another's place.
pub(super) fn record(data: &[u8]) {
    reads_back::<Spec>(data);
    reads_back::<StateRecord>(data);
    reads_back::<EndedRecord>(data);
    reads_back::<VerdictRecord>(data);
    reads_back::<Marks>(data);
    same_again::<DaemonRecord>(serde_json::from_slice(data).ok());
    same_again::<LockRecord>(serde_json::from_slice(data).ok());
    same_again::<StoryEvent>(serde_json::from_slice(data).ok());
    same_again::<Hold>(serde_json::from_slice(data).ok());
}

fn reads_back<T: DeserializeOwned + Serialize + PartialEq + Debug>(data: &[u8]) {
    match runs::parse::<T>(data, || "1/1".into()) {
        Ok(record) => same_again(record),
        Err(runs::Error::Newer { format, .. }) => assert!(format > FORMAT),
        Err(error) => panic!("nothing else is an error: {error}"),
    }
}

/// What is read and written again is the same to its next reader.
fn same_again<T: DeserializeOwned + Serialize + PartialEq + Debug>(record: Option<T>) {
    if let Some(record) = record {
        let text = serde_json::to_vec(&record).expect("a record can be written");
        let again: T = serde_json::from_slice(&text).expect("what was written can be read");
        assert_eq!(again, record);
    }
}

/// log.jsonl and history.jsonl: whatever stands in them, lines after a torn one are read.
pub(super) fn story(data: &[u8]) {
    let layout = Layout::new(folder("story"));
    std::fs::create_dir_all(layout.state()).expect("ours");
    let line = r#"{"at":1,"event":"left","text":"the last line"}"#;
    let mut text = data.to_vec();
    text.extend(format!("\n{line}\n").as_bytes());
    std::fs::write(layout.log(), &text).expect("ours");
    std::fs::write(layout.history(), data).expect("ours");
    let story = read_story(&layout, |_| true);
    assert_eq!(
        story.last().map(|event| event.text.as_str()),
        Some("the last line")
    );
    let recent = runs::recent(&layout, 10).expect("it can be read");
    assert!(recent.len() <= 10);
}

/// Records of one task's run, as five texts with `--` between them: task, spec, state, verdict, marks. Whatever they say, a decision is
/// made twice alike, and what people are shown of it is fit for a terminal.
pub(super) fn decide_on_records(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split("\n--\n").map(str::as_bytes);
    let mut next = || parts.next().unwrap_or_default();
    let task: Option<Task> = serde_json::from_slice(next()).ok();
    let spec = read::<Spec>(next());
    let state = read::<StateRecord>(next());
    let verdict = read::<VerdictRecord>(next());
    let marks = read::<Marks>(next()).unwrap_or_default();
    let names = String::from_utf8_lossy(next()).into_owned();

    let id = task
        .as_ref()
        .map_or(TaskId::try_from(7).expect("positive"), |task| task.id);
    let subject = RunSubject::Task(id);
    let mut seen = Snapshot {
        tinytask: Tinytask::Fresh { took: Millis(1) },
        coverage: Coverage::Everything,
        tasks: task.iter().map(|task| (task.id, task.clone())).collect(),
        folders: [(id, Timestamp(0))].into(),
        troubles: names.lines().map(str::to_owned).collect(),
        odd_pid_names: names.lines().map(str::to_owned).collect(),
        recent: verdict.iter().cloned().map(Into::into).collect(),
        ..Snapshot::default()
    };
    seen.inbound = names
        .lines()
        .map(|name| InboundEntry {
            key: calypso_watch::core::model::FileKey {
                name: calypso_watch::edge::inbound::escape(name.as_ref()),
                inode: 1,
                modified: 1,
            },
            is_dir: false,
            state: InboundState::Settled { endless: false },
        })
        .collect();
    let history = History {
        verdicts: verdict.iter().cloned().map(Into::into).collect(),
        marks,
        last_run: 1,
    };
    seen.histories.insert(subject, history.into());
    if let Some(spec) = &spec {
        seen.runs.push(Run {
            dir: RunDir {
                id: spec.run,
                queue: spec.queue.clone(),
            },
            observed: Observed {
                spec: true,
                pid_file: data.len().is_multiple_of(2),
                shim: data.len().is_multiple_of(3),
                state: match state.as_ref().map(|state| &state.state) {
                    None => ObservedState::None,
                    Some(RunState::Starting) => ObservedState::Starting,
                    Some(RunState::Running { .. }) => ObservedState::Running,
                    Some(RunState::Ended { .. }) => ObservedState::Ended,
                },
                alive: Some(Alive::default()),
            },
            spec: Some(spec.clone().into()),
            state: state.clone(),
            ended_by_daemon: None,
            verdict: None,
            evidence: None,
            in_hand: false,
            swept: false,
            vitals: Vitals::default(),
        });
    }
    let now = Now {
        wall: Timestamp(1_795_378_380_000),
        boot_id: "6e0a6d2c-9f0b-4a7e-8d2c-000000000001".into(),
        boot: Millis(10_000),
    };
    let policy = policy();
    let decision = decide(&seen, &policy, &now);
    let again = decide(&seen, &policy, &now);
    assert_eq!(decision.actions, again.actions);
    assert_eq!(decision.holds, again.holds);
    assert!(decision.wake_at.is_none_or(|at| at > Timestamp(0)));

    let time = |at: Timestamp| at.0.to_string();
    let daemon = || Daemon::Dead { last_look: None };
    assert_printable(&view::status(&StatusInput {
        base: "/srv/calypso",
        seen: &seen,
        decision: &decision,
        policy: &policy,
        now: &now,
        daemon: daemon(),
        tinytask: TinytaskLine::default(),
        today: Today::default(),
        warnings: names.lines().map(str::to_owned).collect(),
        time: &time,
    }));
    assert_printable(&view::why(&WhyInput {
        task: id,
        seen: &seen,
        decision: &decision,
        policy: &policy,
        now: &now,
        daemon: daemon(),
        story: Vec::new(),
        start: None,
        time: &time,
    }));
}

fn read<T: DeserializeOwned>(data: &[u8]) -> Option<T> {
    runs::parse(data, String::new).ok().flatten()
}

fn policy() -> Policy {
    Policy {
        max_runs: 8,
        max_attempts: 3,
        max_runs_per_task: 30,
        time_limit: Millis::secs(3600),
        quiet_after: Millis::secs(600),
        provider: None,
        inbound_queue: "dispatcher".parse().expect("a queue's name"),
        create_folders: false,
        queues: BTreeMap::new(),
    }
}
