//! A world for the tests of the core, built in sentences: `given(world().task(1, "coder")).at(0).then(["launch 1/1 coder"])`.
//!
//! Time is in seconds from an arbitrary moment.

use std::sync::Arc;

use crate::core::decide::decide;
use crate::core::layout::RunDir;
use crate::core::model::{
    Detail, FileKey, FoundDetail, Leftover, Millis, Moment, Now, Outcome, Parameter, ProcessId,
    QueueName, Recipe, RunId, RunState, RunSubject, Task, TaskId, TaskKey, TaskStatus, Timestamp,
};
use crate::core::record::{
    Baseline, BaselineTask, Failure, FailureClass, FileVerdict, Limits, Marks, Spec, SpecTimes,
    StateRecord, TaskVerdict, Verdict, VerdictRecord, Write,
};
use crate::core::{
    Action, Alive, Coverage, Decision, Evidence, History, Hold, InboundEntry, InboundState, Mark,
    Observed, ObservedState, Policy, Run, Snapshot, StopCause, Stranger, StrangerKind, Subject,
    Tinytask, Vitals,
};

const WALL: i64 = 1_763_838_000_000;
const BOOT: i64 = 1_000_000_000;

pub(super) fn time(seconds: i64) -> Timestamp {
    Timestamp(WALL + seconds * 1000)
}

pub(super) fn moment(seconds: i64) -> Moment {
    Moment {
        wall: time(seconds),
        boot_id: "this boot".into(),
        boot: Millis((BOOT + seconds * 1000) as u64),
    }
}

pub(super) fn now(seconds: i64) -> Now {
    let Moment {
        wall,
        boot_id,
        boot,
    } = moment(seconds);
    Now {
        wall,
        boot_id,
        boot,
    }
}

/// Its spec, to be changed.
pub(crate) fn spec_of(run: &mut Run) -> &mut Spec {
    Arc::make_mut(run.spec.as_mut().expect("a spec"))
}

pub(crate) fn id(number: i64) -> TaskId {
    TaskId::try_from(number).expect("positive")
}

pub(crate) fn queue(name: &str) -> QueueName {
    name.parse().expect("a queue's name")
}

pub(super) fn run_id(text: &str) -> RunId {
    text.parse().expect("a run's id")
}

/// All tasks of these tests were born long ago, each at its own second.
pub(super) fn key(number: i64) -> TaskKey {
    TaskKey {
        id: id(number),
        created_at: time(-100_000 + number).seconds(),
    }
}

pub(crate) fn task(number: i64, queue: &str) -> Task {
    Task {
        id: id(number),
        title: format!("task {number}"),
        status: TaskStatus::Idle,
        assigned_to: Some(queue.into()),
        previous_assigned_to: None,
        created_by: None,
        priority: 0.0,
        parent: None,
        queue_name: None,
        blocked_by: None,
        is_blocked: false,
        created_at: time(-100_000 + number),
        updated_at: time(-50_000),
        is_archived: false,
        fields: 1,
    }
}

pub(super) fn file(name: &str) -> FileKey {
    FileKey {
        name: name.into(),
        inode: 1,
        modified: 0,
    }
}

pub(super) fn process(pid: i32) -> ProcessId {
    ProcessId { pid, start: 1 }
}

pub(super) fn leftover(pid: i32) -> Leftover {
    Leftover {
        process: process(pid),
        comm: "node".into(),
    }
}

pub(super) fn failure(class: FailureClass, reason: &str) -> Option<Failure> {
    Some(Failure {
        class,
        reason: reason.into(),
    })
}

/// A run that began 100 s before the moment zero, its agent at work.
pub(crate) fn run(name: &str, queue_name: &str) -> Run {
    let id = run_id(name);
    let task = id.subject.task().map(|id| key(id.number()));
    let began = moment(-100);
    Run {
        dir: RunDir {
            id,
            queue: queue(queue_name),
        },
        spec: Some(Arc::new(Spec {
            format: 1,
            token: "token".into(),
            run: id,
            task,
            title: None,
            queue: queue(queue_name),
            attempt: 1,
            stay: 1,
            argv: Vec::new(),
            cwd: String::new(),
            env: Vec::new(),
            provider: Some("default".into()),
            limits: Limits {
                time: Millis::secs(3600),
                grace: Millis::secs(10),
                log: 1,
                sweep: true,
            },
            cause: String::new(),
            times: SpecTimes {
                event: None,
                look: began.clone(),
                decided: began.clone(),
                written: began.clone(),
            },
            baseline: Baseline {
                tasks: task.into_iter().map(before).collect(),
                highest_task: 0,
                folder: 7,
                inbound: Vec::new(),
            },
        })),
        state: Some(StateRecord {
            format: 1,
            token: "token".into(),
            state: RunState::Running {
                agent: process(500),
            },
            shim: process(499),
            boot_id: "this boot".into(),
            started: began.clone(),
            running: Some(began),
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
        vitals: Vitals::default(),
    }
}

/// How the baseline knows a task that was idle.
pub(super) fn before(key: TaskKey) -> BaselineTask {
    BaselineTask {
        key,
        status: TaskStatus::Idle,
        fields: 1,
        last_comment: Some(3),
    }
}

/// That run, ended so a second before the moment zero, with nothing left of it and an unchanged folder.
pub(super) fn ended(name: &str, queue_name: &str, outcome: Outcome) -> Run {
    let mut run = run(name, queue_name);
    run.observed.pid_file = false;
    run.observed.shim = false;
    run.observed.state = ObservedState::Ended;
    let state = run.state.as_mut().expect("above");
    state.ended = Some(moment(-1));
    if matches!(outcome, Outcome::NotLaunched(_)) {
        state.running = None;
    }
    state.state = RunState::Ended {
        outcome,
        leftovers: Vec::new(),
    };
    run.evidence = Some(Evidence {
        folder: 7,
        ..Evidence::default()
    });
    run
}

/// That run, whose shim was killed, and what lives of it.
pub(super) fn shimless(name: &str, queue_name: &str, alive: Alive) -> Run {
    let mut run = run(name, queue_name);
    run.observed.shim = false;
    run.observed.alive = Some(alive);
    run
}

pub(super) fn agent_alive() -> Alive {
    Alive {
        agent: Some(process(500)),
        ..Alive::default()
    }
}

pub(super) fn leftovers_alive() -> Alive {
    Alive {
        leftovers: vec![leftover(77)],
        ..Alive::default()
    }
}

/// A verdict on one task, made at `at`; `Exited(0)` unless changed.
pub(crate) fn record(name: &str, queue_name: &str, verdict: Verdict, at: i64) -> VerdictRecord {
    let id = run_id(name);
    let entry = |id: TaskId| TaskVerdict {
        key: key(id.number()),
        attempt: 1,
        stay: 1,
        verdict,
        fields: 1,
        last_comment: 3,
        previous_assigned_to: None,
        updated_at: None,
        write: None,
    };
    VerdictRecord {
        format: 1,
        run: id,
        title: None,
        queue: queue(queue_name),
        attempt: 1,
        stay: 1,
        provider: Some("default".into()),
        outcome: Outcome::Exited(0),
        tasks: id.subject.task().map(entry).into_iter().collect(),
        files: Vec::new(),
        failure: None,
        tokens: None,
        cost: None,
        started: Some(moment(at - 50)),
        ended: Some(moment(at)),
        judged: moment(at),
        late: false,
    }
}

/// An attempt that made no progress.
pub(super) fn attempt(name: &str, queue_name: &str, nth: u32, at: i64) -> VerdictRecord {
    let mut record = record(name, queue_name, Verdict::NoProgress, at);
    record.failure = failure(FailureClass::Task, "made no progress");
    record.attempt = nth;
    record.tasks[0].attempt = nth;
    record
}

/// A run over inbound/ that left `name` lying.
pub(super) fn left_lying(run: &str, name: &str, created: &[i64], at: i64) -> VerdictRecord {
    let mut record = record(run, "dispatcher", Verdict::NoProgress, at);
    record.failure = failure(FailureClass::Task, "left 1 of 1 requests in inbound");
    record.files = vec![FileVerdict {
        file: file(name),
        left: true,
        changed: None,
        created: created.iter().map(|n| id(*n)).collect(),
    }];
    record
}

#[derive(Clone)]
pub(super) struct World {
    pub(super) seen: Snapshot,
    pub(super) policy: Policy,
}

/// tinytask is well; dispatcher, architect, blogger and coder have recipes that declare `task_id`.
pub(super) fn world() -> World {
    let seen = Snapshot {
        tinytask: Tinytask::Fresh { took: Millis(1) },
        coverage: Coverage::Everything,
        ..Snapshot::default()
    };
    let policy = Policy {
        max_runs: 8,
        max_attempts: 3,
        max_runs_per_task: 30,
        time_limit: Millis::secs(3600),
        quiet_after: Millis::secs(600),
        provider: None,
        inbound_queue: queue("dispatcher"),
        create_folders: false,
        queues: Default::default(),
    };
    let world = World { seen, policy };
    ["dispatcher", "architect", "blogger", "coder"]
        .into_iter()
        .fold(world, |world, name| world.recipe(name, &["task_id"]))
}

impl World {
    /// Whatever else.
    pub(super) fn but(mut self, change: impl FnOnce(&mut Snapshot)) -> Self {
        change(&mut self.seen);
        self
    }
    pub(super) fn policy(mut self, change: impl FnOnce(&mut Policy)) -> Self {
        change(&mut self.policy);
        self
    }
    pub(super) fn recipe(self, name: &str, parameters: &[&str]) -> Self {
        let parameters = parameters.iter().map(|key| Parameter {
            key: (*key).into(),
            is_required: false,
            default: None,
        });
        let recipe = Recipe {
            queue: queue(name),
            file: format!("{name}.yaml"),
            title: name.into(),
            parameters: parameters.collect(),
            provider: None,
            modified: time(-90_000),
        };
        self.but(|seen| {
            seen.recipes.insert(queue(name), Ok(recipe));
        })
    }
    /// Idle in `queue`, with a folder.
    pub(super) fn task(self, number: i64, queue: &str) -> Self {
        self.task_but(number, queue, |_| {})
    }
    pub(super) fn task_but(self, number: i64, queue: &str, change: impl FnOnce(&mut Task)) -> Self {
        let mut task = task(number, queue);
        change(&mut task);
        self.but(|seen| {
            seen.tasks.insert(task.id, task);
            seen.folders.insert(id(number), time(-50_000));
        })
    }
    /// tinytask's full answer on a task that is (also) in the list.
    pub(super) fn detail(self, number: i64, last_comment: i64) -> Self {
        self.but(|seen| {
            let task = seen.tasks[&id(number)].clone();
            let found = FoundDetail {
                task,
                last_comment,
                our_comments: Vec::new(),
                open_subtasks: 0,
            };
            seen.details.insert(id(number), Detail::Found(found));
        })
    }
    pub(super) fn run(self, run: Run) -> Self {
        self.but(|seen| {
            let history = seen
                .histories
                .entry(run.dir.id.subject)
                .or_default()
                .make_mut();
            history.last_run = history.last_run.max(run.dir.id.number);
            seen.runs.push(run);
        })
    }
    /// A past verdict: in its subject's history, and among the recent ones.
    pub(super) fn past(self, record: VerdictRecord) -> Self {
        self.but(|seen| {
            let record = Arc::new(record);
            let history = seen
                .histories
                .entry(record.run.subject)
                .or_default()
                .make_mut();
            history.last_run = history.last_run.max(record.run.number);
            history.verdicts.push(record.clone());
            seen.recent.push(record);
        })
    }
    /// A settled file in inbound/.
    pub(super) fn drop(self, name: &str) -> Self {
        self.file(name, InboundState::Settled { endless: false })
    }
    pub(super) fn file(self, name: &str, state: InboundState) -> Self {
        self.but(|seen| {
            seen.inbound.push(InboundEntry {
                key: file(name),
                is_dir: false,
                state,
            });
        })
    }
    pub(super) fn stranger(self, subject: RunSubject, what: StrangerKind) -> Self {
        self.but(|seen| {
            let stranger = Stranger {
                what,
                modified: time(-60),
                inode: 5,
            };
            seen.strangers.insert(subject, stranger);
        })
    }
}

pub(super) fn given(world: World) -> Given {
    Given { world }
}

pub(super) struct Given {
    world: World,
}

impl Given {
    pub(super) fn at(self, seconds: i64) -> Decided {
        self.by(now(seconds))
    }
    pub(super) fn by(self, now: Now) -> Decided {
        let World { seen, policy } = &self.world;
        let decision = decide(seen, policy, &now);
        let again = decide(seen, policy, &now);
        assert_eq!(
            format!("{decision:?}"),
            format!("{again:?}"),
            "deciding twice gives the same"
        );
        Decided { decision }
    }
}

pub(super) struct Decided {
    pub(super) decision: Decision,
}

impl Decided {
    /// Exactly these deeds, in order, each as [`deed`] writes it.
    #[track_caller]
    pub(super) fn then<const N: usize>(self, expected: [&str; N]) -> Self {
        let deeds: Vec<String> = self.decision.actions.iter().map(deed).collect();
        assert_eq!(deeds, expected, "holds: {:#?}", self.decision.holds);
        self
    }
    #[track_caller]
    pub(super) fn holds(self, subject: Subject, hold: Hold) -> Self {
        assert!(
            self.decision
                .holds
                .contains(&(subject.clone(), hold.clone())),
            "{subject:?} is not held so: {hold:?}\nbut: {:#?}",
            self.decision.holds
        );
        self
    }
    #[track_caller]
    pub(super) fn holds_task(self, number: i64, hold: Hold) -> Self {
        self.holds(Subject::Task(id(number)), hold)
    }
    #[track_caller]
    pub(super) fn wakes_at(self, at: Timestamp) -> Self {
        assert_eq!(self.decision.wake_at, Some(at));
        self
    }
    /// The only verdict of this decision.
    #[track_caller]
    pub(super) fn verdict(self) -> VerdictRecord {
        let mut verdicts = self.decision.actions.into_iter().filter_map(|a| match a {
            Action::RecordVerdict { verdict, .. } => Some(*verdict),
            _ => None,
        });
        let verdict = verdicts.next().expect("a verdict");
        assert!(verdicts.next().is_none(), "one verdict only");
        verdict
    }
}

/// An action in a few words.
pub(super) fn deed(action: &Action) -> String {
    match action {
        Action::Launch(launch) => format!("launch {} {}", launch.dir().id, launch.queue),
        Action::Stop { run, cause } => {
            let why = match cause {
                StopCause::Asked => "asked",
                StopCause::TimeLimit => "timed out",
            };
            format!("stop {}: {why}", run.id)
        }
        Action::Sweep { run, leftovers } => format!("sweep {} of {}", run.id, leftovers.len()),
        Action::ClearPidFile { run } => format!("clear pid file of {}", run.id),
        Action::ClearStranger { subject, inode, .. } => format!("clear stranger {subject} {inode}"),
        Action::ClearLitter { run } => format!("clear litter {}", run.id),
        Action::RecordVerdict { run, verdict } => {
            let entries: Vec<String> = verdict.tasks.iter().map(entry).collect();
            format!("judge {}: {}", run.id, entries.join(", "))
        }
        Action::FinishVerdict { run, .. } => format!("finish {}", run.id),
        Action::RecordMark { subject, mark } => match mark {
            Mark::Retry { after } => format!("retry {subject} after {after}"),
            Mark::Release { processes } => {
                let pids: Vec<String> = processes.iter().map(|p| p.pid.to_string()).collect();
                format!("release {subject} from {}", pids.join(" "))
            }
        },
        Action::ClearStop { subject } => format!("clear stop {subject}"),
        Action::PutBack { task, run } => format!("put back {task} of {run}"),
        Action::CreateFolder { task } => format!("create folder {task}"),
    }
}

fn entry(t: &TaskVerdict) -> String {
    let verdict = match &t.verdict {
        Verdict::HandedOff { to: Some(to) } => format!("handed to {to}"),
        Verdict::HandedOff { to: None } => "handed to nobody".into(),
        Verdict::Done => "done".into(),
        Verdict::Gone => "gone".into(),
        Verdict::Progress => "progress".into(),
        Verdict::NoProgress => "no progress".into(),
        Verdict::LeftWorking => "left working".into(),
    };
    let write = match &t.write {
        None => "",
        Some(Write::PutBack { .. }) => " + put back",
        Some(Write::Park { put_back: true, .. }) => " + park + put back",
        Some(Write::Park { .. }) => " + park",
    };
    format!("#{} {verdict}{write}", t.key.id)
}

/// Of task 7: handed on by its first run, and no further by its second; its first is forgiven.
pub(crate) fn history() -> History {
    let verdict = Verdict::HandedOff {
        to: Some("coder".into()),
    };
    let mut second = record("7/2", "coder", Verdict::NoProgress, 20);
    second.tasks[0].updated_at = None;
    second.cost = Some(0.25);
    History {
        verdicts: vec![
            Arc::new(record("7/1", "architect", verdict, 10)),
            Arc::new(second),
        ],
        marks: Marks {
            retried_after: 1,
            ..Marks::default()
        },
        last_run: 2,
    }
}
