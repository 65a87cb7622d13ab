use std::sync::Arc;

use super::*;
use crate::core::decide::decide;
use crate::core::given::spec_of;
use crate::core::model::{FileKey, Leftover, ProcessId, RunSubject, TaskStatus};
use crate::core::record::{Failure, FailureClass, Verdict, Write};
use crate::core::{
    Alive, InboundEntry, InboundState, ObservedState, QueuePolicy, Stranger, StrangerKind, Tinytask,
};
use crate::view::sample::{
    assert_fits, at, id, live_run, moment, now, policy, queue, task, time, verdict_record,
    with_task, world,
};
use crate::view::status_json;

fn alive() -> Daemon {
    Daemon::Alive {
        pid: 4121,
        since: moment(-11_520),
        watch: "inotify".into(),
        note: None,
    }
}

fn line() -> TinytaskLine {
    TinytaskLine {
        name: "v2".into(),
        endpoint: "http://127.0.0.1:3000/mcp".into(),
        disagreement: None,
    }
}

struct Scene {
    seen: Snapshot,
    policy: Policy,
    daemon: Daemon,
    tinytask: TinytaskLine,
    today: Today,
    warnings: Vec<String>,
}

impl Scene {
    fn of(seen: Snapshot) -> Self {
        Self {
            seen,
            policy: policy(),
            daemon: alive(),
            tinytask: line(),
            today: Today::default(),
            warnings: Vec::new(),
        }
    }

    fn with<R>(&self, show: impl Fn(&StatusInput) -> R) -> R {
        let now = now();
        let decision = decide(&self.seen, &self.policy, &now);
        show(&StatusInput {
            base: "/srv/calypso",
            seen: &self.seen,
            decision: &decision,
            policy: &self.policy,
            now: &now,
            daemon: self.daemon.clone(),
            tinytask: self.tinytask.clone(),
            today: self.today.clone(),
            warnings: self.warnings.clone(),
            time: &time,
        })
    }

    fn screen(&self) -> String {
        let screen = self.with(status);
        assert_fits(&screen);
        screen
    }
}

fn file(name: &str, state: InboundState) -> InboundEntry {
    InboundEntry {
        key: FileKey {
            name: name.into(),
            inode: 1,
            modified: 0,
        },
        is_dir: false,
        state,
    }
}

/// The day that UX examples tell of, and a bit more trouble.
fn crowd() -> Scene {
    let mut seen = world(&[
        "dispatcher",
        "architect",
        "product",
        "devops",
        "coder",
        "blogger",
        "writer",
    ]);
    seen.recipes
        .insert(queue("writer"), Err("no `prompt`".into()));
    for (number, queue, title) in [
        (42, "architect", "Add OAuth login"),
        (45, "architect", "Billing export"),
        (
            46,
            "architect",
            "Rate limits for the public API, with a report",
        ),
        (39, "devops", "Fix CI\u{1b}[31m on main"),
        (31, "coder", "Story: parser"),
        (32, "coder", "Story: printer"),
        (
            28,
            "coder",
            "日本語のタイトルはとても長いので切られるべきです",
        ),
        (50, "blogger", "Release notes"),
        (60, "human", "Sign the contract"),
        (61, "human", "Call back"),
    ] {
        with_task(&mut seen, number, queue, title);
    }
    for number in [42, 31] {
        let task = seen.tasks.get_mut(&id(number)).expect("above");
        task.status = TaskStatus::Working;
    }
    seen.tasks.insert(
        id(33),
        task(33, "devops", "Taken by hand", TaskStatus::Working),
    );
    let mut nobody = task(70, "x", "Nobody's", TaskStatus::Idle);
    nobody.assigned_to = None;
    seen.tasks.insert(id(70), nobody);
    seen.tasks.get_mut(&id(32)).expect("above").is_blocked = true;
    seen.tasks.get_mut(&id(32)).expect("above").blocked_by = Some(id(31));

    seen.runs
        .push(live_run("42/2", "architect", "Add OAuth login", 360, 5120));
    let mut quiet = live_run("31/1", "coder", "Story: parser", 3060, 4877);
    quiet.vitals.last_sign = Some(at(-840));
    spec_of(&mut quiet).attempt = 2;
    seen.runs.push(quiet);

    seen.controls.paused.insert(queue("blogger"));
    let mut failed = verdict_record("39/1", "devops", Some(Verdict::NoProgress), 4);
    failed.failure = Some(Failure {
        class: FailureClass::Task,
        reason: "made no progress".into(),
    });
    let mut parked = verdict_record("28/3", "coder", Some(Verdict::NoProgress), 7200);
    parked.failure = Some(Failure {
        class: FailureClass::Task,
        reason: "asked a question and stopped".into(),
    });
    parked.tasks[0].attempt = 3;
    parked.tasks[0].write = Some(Write::Park {
        comment: String::new(),
        put_back: false,
    });
    for record in [&failed, &parked] {
        let history = seen
            .histories
            .entry(record.run.subject)
            .or_default()
            .make_mut();
        history.verdicts.push(Arc::new(record.clone()));
        history.last_run = record.run.number;
    }
    let mut done = verdict_record("38/1", "coder", Some(Verdict::Done), 540);
    done.tokens = Some(1_912_000);
    done.cost = Some(4.1);
    let handed = verdict_record(
        "41/1",
        "product",
        Some(Verdict::HandedOff {
            to: Some("devops".into()),
        }),
        120,
    );
    let mut killed = failed.clone();
    killed.outcome = crate::core::model::Outcome::Signaled(9);
    killed.tokens = None;
    killed.cost = None;
    seen.recent = [parked, done, handed, killed].map(Arc::new).into();
    seen.inbound = vec![
        file("notes\u{202e}.md", InboundState::Settling { until: at(1) }),
        file("pipe", InboundState::Odd("a FIFO".into())),
    ];
    seen.odd_pid_names = vec!["notes.txt".into()];
    seen.controls.odd = vec!["restart".into()];
    seen.strangers.insert(
        RunSubject::Task(id(9)),
        Stranger {
            what: StrangerKind::Alive {
                process: ProcessId { pid: 77, start: 1 },
                comm: "goose".into(),
                younger: false,
            },
            modified: at(-60),
            inode: 4,
        },
    );
    let mut scene = Scene::of(seen);
    scene.today = Today {
        runs: 23,
        handed_on: 19,
        done: 2,
        failed: 2,
        cost: Some(31.4),
        start: Some(Percentiles {
            p50: Millis(4),
            p99: Millis(11),
        }),
    };
    scene.policy.queues.insert(
        queue("architect"),
        QueuePolicy {
            provider: Some("openai".into()),
            ..QueuePolicy::default()
        },
    );
    scene.warnings = vec!["`max_run` in calypso.toml is no setting; is `max_runs` meant?".into()];
    scene
}

#[test]
fn a_busy_day() {
    insta::assert_snapshot!(crowd().screen());
}

#[test]
fn a_quiet_system_prints_little() {
    let seen = world(&["dispatcher", "architect", "coder"]);
    let mut scene = Scene::of(seen);
    let quiet = scene.screen();
    scene.seen.recipes.clear();
    let empty = scene.screen();
    insta::assert_snapshot!([quiet, empty].join("--\n"));
}

#[test]
fn with_the_daemon_dead_the_rest_is_as_true_as_before() {
    let mut scene = crowd();
    scene.daemon = Daemon::Dead {
        last_look: Some(at(-840)),
    };
    let alive = crowd().screen();
    let busy = scene.screen();
    let below = |screen: &str| screen.split_once("\n\n").map(|(_, rest)| rest.to_owned());
    assert_eq!(below(&busy), below(&alive));
    assert!(busy.starts_with("calypso-watch · /srv/calypso · NOT RUNNING (last look 14m ago)"));
    assert!(busy.contains("calypso-watch run\n"));
    scene.seen = world(&["coder"]);
    with_task(&mut scene.seen, 7, "coder", "Story: parser");
    scene.daemon = Daemon::Dead { last_look: None };
    insta::assert_snapshot!(scene.screen());
}

#[test]
fn tinytask_away_or_another_is_said_loudly() {
    let mut scene = Scene::of(world(&["coder"]));
    scene.seen.coverage = crate::core::Coverage::Nothing;
    scene
        .seen
        .runs
        .push(live_run("31/1", "coder", "Story: parser", 60, 4877));
    scene.seen.tinytask = Tinytask::Unreachable {
        since: moment(-180),
        error: "connection refused".into(),
        hint: None,
    };
    let away = scene.screen();
    scene.seen.tinytask = Tinytask::Suspicious {
        vanished: 12,
        of: 14,
    };
    scene.tinytask.disagreement = Some(
        "recipes/coder.yaml talks to http://127.0.0.1:4000/mcp, which is another server".into(),
    );
    scene.seen.controls.pause_all = true;
    let other = scene.screen();
    insta::assert_snapshot!([away, other].join("--\n"));
}

#[test]
fn what_is_odd_about_a_run_is_said_beside_it() {
    let mut scene = Scene::of(world(&["coder", "dispatcher"]));
    let seen = &mut scene.seen;
    let agent = ProcessId {
        pid: 4877,
        start: 9,
    };
    let node = Leftover {
        process: ProcessId {
            pid: 5001,
            start: 3,
        },
        comm: "node".into(),
    };
    let mut orphan = live_run("31/1", "coder", "Story: parser", 60, 4877);
    orphan.observed.shim = false;
    orphan.observed.alive = Some(Alive {
        agent: Some(agent),
        ..Alive::default()
    });
    let mut over = live_run("32/1", "coder", "Story: printer", 60, 4900);
    over.observed.shim = false;
    over.observed.pid_file = false;
    over.observed.state = ObservedState::Ended;
    over.observed.alive = Some(Alive {
        leftovers: vec![node],
        ..Alive::default()
    });
    let mut hidden = live_run("33/1", "coder", "Story: lexer", 60, 4910);
    hidden.observed.shim = false;
    hidden.observed.alive = None;
    let mut signalled = live_run("34/1", "coder", "Story: linker", 60, 4920);
    signalled.observed.pid_file = false;
    let mut torn = live_run("inbound/3", "dispatcher", "", 2, 4930);
    torn.observed.state = ObservedState::Starting;
    torn.vitals = crate::core::Vitals::default();
    seen.runs = vec![orphan, over, hidden, signalled, torn];
    insta::assert_snapshot!(scene.screen());
}

#[test]
fn two_hundred_queues_fit() {
    let names: Vec<String> = (0..200)
        .map(|n| format!("queue-{n:03}-with-a-long-name"))
        .collect();
    let mut scene = Scene::of(world(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    let idle = scene.screen();
    assert!(idle.lines().count() < 20, "{idle}");
    for (n, name) in names.iter().enumerate() {
        for task in 1..=30 {
            with_task(
                &mut scene.seen,
                n as i64 * 100 + task,
                name,
                "x".repeat(500).as_str(),
            );
        }
    }
    let busy = scene.screen();
    assert!(busy.lines().count() < 200 * 8, "{}", busy.lines().count());
}

#[test]
fn many_odd_things_do_not_drown_the_rest() {
    let mut scene = Scene::of(world(&["coder"]));
    scene.seen.odd_pid_names = (0..100).map(|n| format!("{n}\n.pid")).collect();
    scene.seen.inbound = (0..100)
        .map(|n| file(&format!("{n}.md"), InboundState::Settling { until: at(n) }))
        .collect();
    insta::assert_snapshot!(scene.screen());
}

#[test]
fn what_cannot_be_read_is_told_once() {
    let mut scene = Scene::of(world(&["coder"]));
    scene
        .seen
        .cannot_read(RunSubject::Task(id(7)), "task 7's records are torn".into());
    assert_eq!(scene.screen().matches("records are torn").count(), 1);
}

#[test]
fn json_holds_every_field_of_the_screen() {
    let json = |input: &StatusInput| {
        let mut text = Vec::new();
        status_json(input, &mut text).expect("a vector takes anything");
        String::from_utf8(text).expect("JSON is UTF-8")
    };
    insta::assert_snapshot!(crowd().with(json));
}

#[test]
fn percentiles_are_of_the_nearest_rank() {
    let expected = Percentiles {
        p50: Millis(50),
        p99: Millis(99),
    };
    let starts = (1..=100).rev().map(Millis).collect();
    assert_eq!(Percentiles::of(starts), Some(expected));
    assert_eq!(
        Percentiles::of(vec![Millis(7)]).map(|p| p.p99),
        Some(Millis(7))
    );
    assert_eq!(Percentiles::of(Vec::new()), None);
}
