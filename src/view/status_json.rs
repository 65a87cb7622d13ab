//! `status --json`: every field of the screen and more. Key names are promised; new ones may be added.
//!
//! Absolute times are UTC (`2026-11-22T18:38:55.123Z`), spans are milliseconds (`…_ms`), memory is kB; what is not known is
//! null. A hold is an object `{hold: "parked", …, text: "parked after …"}`: the name, its data, and the words of the screen.
//!
//! | key | what |
//! |---|---|
//! | `format` | 1 |
//! | `base_path`, `now` | |
//! | `daemon` | `alive`, then `pid`, `since`, `watch`, `note`, or `last_look` |
//! | `tinytask` | `state` (`ok`, `unreachable`, `suspicious`, `not_asked`), `name`, `endpoint`, `disagreement`, `took_ms`, `since`, `error`, `vanished`, `of` |
//! | `holds` | what holds everything |
//! | `providers[]` | `provider`, `hold` |
//! | `queues[]` | `queue`, `recipe`, `recipe_error`, `has_command`, `paused`, `asked`, `slots`, `provider`, `waiting`, `holds`, `runs[]`, `tasks[]` |
//! | `runs[]` | `run`, `task`, `title`, `queue`, `state`, `attempt`, `stay`, `provider`, `cause`, `pid`, `started`, `age_ms`, `limit_left_ms`, `cpu_percent`, `rss_kb`, `last_sign`, `quiet`, `doubtful`, `holds` |
//! | `tasks[]` | `task`, `title`, `status`, `priority`, `kind` (`starts`, `waits`, `elsewhere`, `stuck`), `hold` |
//! | `unassigned[]` | as `tasks[]` |
//! | `inbound[]` | `name`, `is_dir`, `state`, `hold` |
//! | `last[]` | `run`, `title`, `queue`, `attempt`, `outcome`, `verdicts[]`, `files_left`, `failure`, `late`, `started`, `ended`, `judged`, `took_ms`, `tokens`, `cost`, `text` |
//! | `today` | `runs`, `handed_on`, `done`, `failed`, `cost`, `start_p50_ms`, `start_p99_ms` |
//! | `odd`, `warnings` | sentences |

use std::cell::RefCell;
use std::io::{self, Write};

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::core::model::{
    Millis, Moment, Now, Outcome, ProviderName, QueueName, RunId, TaskId, TaskStatus, Timestamp,
};
use crate::core::record::{Failure, TaskVerdict, Verdict, VerdictRecord};
use crate::core::{Hold, InboundState, Snapshot, Subject, Tinytask};
use crate::view::board::{
    Board, Kind, LiveRun, Row, Waiting, doubtful, verdict_subject, verdict_words,
};
use crate::view::hold::words_of_all;
use crate::view::hold_words;
use crate::view::status::{Daemon, StatusInput};
use crate::view::text;

/// The object. What there are hundreds or thousands of, verdicts, tasks and their holds, is never held as a [`Value`].
#[derive(Serialize)]
struct StatusJson<'a> {
    format: u32,
    base_path: &'a str,
    now: String,
    daemon: Value,
    tinytask: Value,
    holds: Vec<Value>,
    providers: Vec<Value>,
    queues: Vec<QueueJson<'a>>,
    unassigned: Vec<TaskJson<'a>>,
    inbound: Vec<Value>,
    last: Vec<VerdictJson<'a>>,
    today: Value,
    odd: &'a [String],
    warnings: &'a [String],
}

#[derive(Serialize)]
struct QueueJson<'a> {
    queue: &'a QueueName,
    recipe: Option<&'a str>,
    recipe_error: Option<&'a String>,
    has_command: bool,
    paused: bool,
    asked: bool,
    slots: u32,
    provider: ProviderName,
    waiting: usize,
    holds: Vec<Value>,
    runs: Vec<Value>,
    tasks: Vec<TaskJson<'a>>,
}

#[derive(Serialize)]
struct TaskJson<'a> {
    task: TaskId,
    title: &'a str,
    status: TaskStatus,
    priority: f64,
    kind: Kind,
    hold: Option<Held<'a>>,
}

#[derive(Serialize)]
struct VerdictJson<'a> {
    run: RunId,
    title: Option<&'a str>,
    queue: &'a QueueName,
    attempt: u32,
    outcome: &'a Outcome,
    verdicts: Vec<ToldTask<'a>>,
    files_left: Vec<&'a str>,
    failure: Option<&'a Failure>,
    late: bool,
    started: Option<String>,
    ended: Option<String>,
    judged: String,
    took_ms: Option<Millis>,
    tokens: Option<u64>,
    cost: Option<f64>,
    text: String,
}

#[derive(Serialize)]
struct ToldTask<'a> {
    task: TaskId,
    verdict: &'a Verdict,
}

/// A hold, written as it is met.
pub(super) struct Held<'a> {
    pub(super) holds: &'a HoldJson<'a>,
    pub(super) subject: Subject,
    pub(super) hold: &'a Hold,
}

impl Serialize for Held<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // Thousands wait for the same, one after the other.
        let mut last = self.holds.last.borrow_mut();
        let last = match &mut *last {
            Some(last) if last.hold == *self.hold => last,
            last => last.insert(self.holds.last(&self.subject, self.hold)),
        };
        let mut object = to.serialize_map(None)?;
        for (key, value) in &last.form {
            object.serialize_entry(key, value)?;
        }
        match (&self.subject, &last.text) {
            (Subject::Task(_), Some(text)) => object.serialize_entry("text", text)?,
            (subject, _) => {
                object.serialize_entry("text", &self.holds.text(subject, self.hold))?;
            }
        }
        object.end()
    }
}

/// What a hold's object is made of.
pub(super) struct HoldJson<'a> {
    seen: &'a Snapshot,
    now: &'a Now,
    time: &'a dyn Fn(Timestamp) -> String,
    /// The last one that was written.
    last: RefCell<Option<LastHold>>,
}

struct LastHold {
    hold: Hold,
    form: Map<String, Value>,
    /// Where each task that has it is told the same.
    text: Option<String>,
}

impl<'a> HoldJson<'a> {
    pub(super) fn new(
        seen: &'a Snapshot,
        now: &'a Now,
        time: &'a dyn Fn(Timestamp) -> String,
    ) -> Self {
        Self {
            seen,
            now,
            time,
            last: RefCell::default(),
        }
    }

    /// The hold's own form, with its times written out, and its words.
    pub(super) fn value(&self, subject: &Subject, hold: &Hold) -> Value {
        let mut form = self.form(hold);
        form.insert("text".into(), self.text(subject, hold).into());
        form.into()
    }

    fn last(&self, subject: &Subject, hold: &Hold) -> LastHold {
        LastHold {
            hold: hold.clone(),
            form: self.form(hold),
            text: words_of_all(self.seen, subject, hold, self.now),
        }
    }

    fn form(&self, hold: &Hold) -> Map<String, Value> {
        let Value::Object(mut form) = json!(hold) else {
            unreachable!("an enum with a tag inside is an object");
        };
        for key in ["since", "until"] {
            let Some(time) = form.get_mut(key) else {
                continue;
            };
            let wall = time
                .as_i64()
                .or_else(|| time.get("wall").and_then(Value::as_i64));
            if let Some(wall) = wall {
                *time = json!((self.time)(Timestamp(wall)));
            }
        }
        form
    }

    fn text(&self, subject: &Subject, hold: &Hold) -> String {
        hold_words(self.seen, subject, hold, self.now)
    }
}

/// Writes the object, a few bytes at a time; `input.time` should write UTC.
///
/// # Errors
/// What `to` says.
pub fn status_json(input: &StatusInput, to: &mut impl Write) -> io::Result<()> {
    let board = Board::of(input.seen, input.decision, input.policy);
    let holds = HoldJson::new(input.seen, input.now, input.time);
    let everything: Vec<Value> = board
        .everything
        .iter()
        .map(|hold| holds.value(&Subject::Everything, hold))
        .collect();
    let providers: Vec<Value> = (board.providers.iter())
        .map(|(name, hold)| {
            json!({ "provider": name, "hold": holds.value(&Subject::Provider((*name).clone()), hold) })
        })
        .collect();
    let inbound: Vec<Value> = (board.inbound.iter())
        .map(|(entry, hold)| {
            json!({
                "name": entry.key.name,
                "is_dir": entry.is_dir,
                "state": match &entry.state {
                    InboundState::Settled { endless: true } => "endless",
                    InboundState::Settled { endless: false } => "settled",
                    InboundState::Settling { .. } => "settling",
                    InboundState::Odd(_) => "odd",
                },
                "hold": hold.map(|hold| holds.value(&Subject::Inbound(entry.key.clone()), hold)),
            })
        })
        .collect();
    let last = input.seen.recent.iter().rev();
    let today = &input.today;
    let whole = StatusJson {
        format: 1,
        base_path: input.base,
        now: (input.time)(input.now.wall),
        daemon: daemon(input),
        tinytask: tinytask(input),
        holds: everything,
        providers,
        queues: (board.rows.iter())
            .map(|row| queue(input, &holds, row))
            .collect(),
        unassigned: tasks(&holds, &board.unassigned),
        inbound,
        last: last.map(|record| verdict(input, record)).collect(),
        today: json!({
            "runs": today.runs,
            "handed_on": today.handed_on,
            "done": today.done,
            "failed": today.failed,
            "cost": today.cost,
            "start_p50_ms": today.start.map(|s| s.p50),
            "start_p99_ms": today.start.map(|s| s.p99),
        }),
        odd: &board.odd,
        warnings: &input.warnings,
    };
    text::write_json(&whole, to)
}

fn daemon(input: &StatusInput) -> Value {
    match &input.daemon {
        Daemon::Alive {
            pid,
            since,
            watch,
            note,
        } => json!({
            "alive": true,
            "pid": pid,
            "since": (input.time)(since.wall),
            "watch": watch,
            "note": note,
        }),
        Daemon::Dead { last_look } => {
            json!({ "alive": false, "last_look": last_look.map(input.time) })
        }
    }
}

fn tinytask(input: &StatusInput) -> Value {
    let line = &input.tinytask;
    let mut value = match &input.seen.tinytask {
        Tinytask::Fresh { took } => json!({ "state": "ok", "took_ms": took }),
        Tinytask::NotAsked => json!({ "state": "not_asked" }),
        Tinytask::Unreachable { since, error, hint } => {
            json!({ "state": "unreachable", "since": (input.time)(since.wall), "error": error, "hint": hint })
        }
        Tinytask::Suspicious { vanished, of } => {
            json!({ "state": "suspicious", "vanished": vanished, "of": of })
        }
    };
    value["name"] = json!(line.name);
    value["endpoint"] = json!(line.endpoint);
    value["disagreement"] = json!(line.disagreement);
    value
}

fn queue<'a>(input: &StatusInput, holds: &'a HoldJson, row: &'a Row) -> QueueJson<'a> {
    let subject = Subject::Queue(row.queue.clone());
    let recipe = row.recipe.and_then(|r| r.as_ref().ok());
    let held = row.holds.iter().map(|hold| holds.value(&subject, hold));
    let runs = row.runs.iter().map(|live| run(input, holds, live));
    QueueJson {
        queue: &row.queue,
        recipe: recipe.map(|r| r.file.as_str()),
        recipe_error: row.recipe.and_then(|r| r.as_ref().err()),
        has_command: row.has_command,
        paused: row.is_paused,
        asked: row.is_known,
        slots: input.policy.slots(&row.queue, recipe),
        provider: input.policy.provider_of(&row.queue, recipe),
        waiting: row.waiting(),
        holds: held.collect(),
        runs: runs.collect(),
        tasks: tasks(holds, &row.tasks),
    }
}

/// One live run.
pub(super) fn run(input: &StatusInput, holds: &HoldJson, live: &LiveRun) -> Value {
    let run = live.run;
    let spec = run.spec.as_ref();
    let started = run.state.as_ref().and_then(|s| s.running.as_ref());
    let subject = Subject::Run(run.dir.id);
    json!({
        "run": run.dir.id,
        "task": run.dir.id.subject.task(),
        "title": spec.and_then(|s| s.title.as_ref()),
        "queue": run.dir.queue,
        "state": live.meaning,
        "attempt": spec.map(|s| s.attempt),
        "stay": spec.map(|s| s.stay),
        "provider": spec.and_then(|s| s.provider.as_ref()),
        "cause": spec.map(|s| &s.cause),
        "pid": live.pid(),
        "started": started.map(|at| (input.time)(at.wall)),
        "age_ms": live.age(input.now),
        "limit_left_ms": live.limit_left(input.now),
        "cpu_percent": run.vitals.cpu_percent,
        "rss_kb": run.vitals.rss_kb,
        "last_sign": run.vitals.last_sign.map(input.time),
        "quiet": live.quiet(input.policy, input.now).is_some(),
        "doubtful": doubtful(run),
        "holds": live.holds.iter().map(|hold| holds.value(&subject, hold)).collect::<Vec<_>>(),
    })
}

fn tasks<'a>(holds: &'a HoldJson, waiting: &'a [Waiting]) -> Vec<TaskJson<'a>> {
    let task = |Waiting { task, kind, hold }: &Waiting<'a>| TaskJson {
        task: task.id,
        title: &task.title,
        status: task.status,
        priority: task.priority,
        kind: *kind,
        hold: hold.map(|hold| Held {
            holds,
            subject: Subject::Task(task.id),
            hold,
        }),
    };
    waiting.iter().map(task).collect()
}

fn verdict<'a>(input: &StatusInput, record: &'a VerdictRecord) -> VerdictJson<'a> {
    let time = |at: &Moment| (input.time)(at.wall);
    let told = |entry: &'a TaskVerdict| ToldTask {
        task: entry.key.id,
        verdict: &entry.verdict,
    };
    let left = record.files.iter().filter(|file| file.left);
    let span = record.started.as_ref().zip(record.ended.as_ref());
    VerdictJson {
        run: record.run,
        title: record.title.as_deref(),
        queue: &record.queue,
        attempt: record.attempt,
        outcome: &record.outcome,
        verdicts: record.tasks.iter().map(told).collect(),
        files_left: left.map(|file| file.file.name.as_str()).collect(),
        failure: record.failure.as_ref(),
        late: record.late,
        started: record.started.as_ref().map(time),
        ended: record.ended.as_ref().map(time),
        judged: time(&record.judged),
        took_ms: span.map(|(from, to)| to.wall.since(from.wall)),
        tokens: record.tokens,
        cost: record.cost,
        text: format!(
            "{} {} {}",
            verdict_subject(record),
            record.queue,
            verdict_words(record)
        ),
    }
}
