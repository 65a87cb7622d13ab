//! `plan`: what would be started now, with the exact command, and why the rest waits.

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::core::layout::subject_dir;
use crate::core::model::{Now, RunSubject, Timestamp};
use crate::core::{Action, Decision, Launch, Mark, Snapshot, StopCause, Subject};
use crate::view::board::verdict_words;
use crate::view::hold::{shared_words, words};
use crate::view::status_json::{Held, HoldJson};
use crate::view::text::{self, WIDTH, beside, clean, cut, list, shell_word, width};

/// All that `plan` tells.
pub struct PlanInput<'a> {
    pub seen: &'a Snapshot,
    pub decision: &'a Decision,
    pub now: &'a Now,
    /// The decision's launches, each with its argv, or the reason why it cannot be written.
    pub launches: Vec<(Launch, Result<Vec<String>, String>)>,
    /// An absolute time in words; UTC for [`plan_json`].
    pub time: &'a dyn Fn(Timestamp) -> String,
}

const LABEL: usize = 13;

/// The screen.
pub fn plan(input: &PlanInput) -> String {
    let indent = " ".repeat(LABEL);
    let mut out = String::new();
    for (launch, argv) in &input.launches {
        let what = match launch.subject {
            RunSubject::Inbound => "inbound".into(),
            RunSubject::Task(id) => {
                let title = launch.title.as_deref().unwrap_or_default();
                format!("#{id} {}", cut(&clean(title), 36))
            }
        };
        let said = format!(
            "{} · {} · {}",
            what.trim_end(),
            launch.queue,
            clean(&launch.cause)
        );
        match argv {
            Ok(argv) => {
                out += &beside("would start  ", &said);
                out += &command(argv, &indent);
            }
            Err(why) => out += &beside("cannot start ", &format!("{said}: {}", clean(why))),
        }
    }
    for action in &input.decision.actions {
        if let Some(deed) = deed(action) {
            out += &beside("would do     ", &deed);
        }
    }
    for (who, said) in waits(input) {
        out += &beside("would wait   ", &format!("{who} · {said}"));
    }
    if out.is_empty() {
        out += "there is nothing to do\n";
    }
    out += "nothing was started\n";
    out
}

/// An argv over several lines that can be pasted as they are.
fn command(argv: &[String], indent: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in argv.iter().map(|word| shell_word(word)) {
        match lines.last_mut() {
            // Two columns are kept for ` \`.
            Some(line) if width(line) + 1 + width(&word) + 2 <= WIDTH => {
                line.push(' ');
                line.push_str(&word);
            }
            Some(_) => lines.push(format!("{indent}  {word}")),
            None => lines.push(format!("{indent}{word}")),
        }
    }
    lines.join(" \\\n") + "\n"
}

/// What else the daemon would do, where a person might want to know.
fn deed(action: &Action) -> Option<String> {
    Some(match action {
        Action::Launch(_) | Action::FinishVerdict { .. } | Action::ClearLitter { .. } => {
            return None;
        }
        Action::Stop { run, cause } => {
            let why = match cause {
                StopCause::Asked => "a person asked for it",
                StopCause::TimeLimit => "its time is over",
            };
            format!("end run {}: {why}", run.id)
        }
        Action::Sweep { run, .. } => format!("end what run {} left behind", run.id),
        Action::ClearPidFile { run } => {
            format!("remove the pid file of run {}, which is over", run.id)
        }
        Action::ClearStranger { subject, .. } => {
            let file = subject_dir(*subject);
            format!("remove running_tasks/{file}.pid: its process is gone, or was released")
        }
        Action::RecordVerdict { run, verdict } => {
            format!(
                "record what became of run {}: {}",
                run.id,
                verdict_words(verdict)
            )
        }
        Action::RecordMark { subject, mark } => {
            let verb = match mark {
                Mark::Retry { .. } => "retry",
                Mark::Release { .. } => "release",
            };
            format!("take down the `{verb}` of {subject}")
        }
        Action::ClearStop { subject } => {
            format!("take away the `stop` of {subject}: nothing of it runs")
        }
        Action::PutBack { task, run } => {
            format!("put #{task} back to idle: run {run} left it working")
        }
        Action::CreateFolder { task } => format!("make workqueue/task_{task}"),
    })
}

/// Who waits, and for what; those who wait for the same in one line.
fn waits(input: &PlanInput) -> Vec<(String, String)> {
    const MOST: usize = 6;
    let mut groups: Vec<(Vec<String>, String, String)> = Vec::new();
    for (subject, hold) in &input.decision.holds {
        let who = match subject {
            Subject::Everything => "everything".into(),
            Subject::Queue(queue) => format!("queue {queue}"),
            Subject::Provider(name) => format!("provider {}", clean(name)),
            Subject::Inbound(key) => format!("inbound/{}", cut(&clean(&key.name), 40)),
            Subject::Run(run) => format!("run {run}"),
            Subject::Task(id) => match input.seen.tasks.get(id).and_then(|t| t.queue()) {
                Some(queue) => format!("#{id} {queue}"),
                None => format!("#{id}"),
            },
        };
        let shared = shared_words(input.seen, subject, hold, input.now).text();
        match groups.iter_mut().find(|(_, _, other)| *other == shared) {
            Some((names, said, shared)) => {
                names.push(who);
                said.clone_from(shared);
            }
            None => {
                let said = words(input.seen, subject, hold, input.now).text();
                groups.push((vec![who], said, shared));
            }
        }
    }
    (groups.into_iter())
        .map(|(names, said, _)| (list(&names, MOST), said))
        .collect()
}

/// What [`plan_json`] writes; its holds, of which there may be thousands, as they are met.
#[derive(Serialize)]
struct PlanJson<'a> {
    format: u32,
    launches: Vec<Value>,
    deeds: Vec<String>,
    holds: Vec<WaitJson<'a>>,
    wake_at: Option<String>,
}

#[derive(Serialize)]
struct WaitJson<'a> {
    #[serde(serialize_with = "subject_json")]
    subject: &'a Subject,
    hold: Held<'a>,
}

/// `{launches: [{run, task, title, queue, attempt, stay, cause, provider, argv, error}], holds: [{subject, hold}], wake_at}`.
pub fn plan_json(input: &PlanInput) -> String {
    let holds = HoldJson::new(input.seen, input.now, input.time);
    let launches: Vec<Value> = (input.launches.iter())
        .map(|(launch, argv)| {
            json!({
                "run": launch.dir().id,
                "task": launch.subject.task(),
                "title": launch.title,
                "queue": launch.queue,
                "attempt": launch.attempt,
                "stay": launch.stay,
                "cause": launch.cause,
                "provider": launch.provider,
                "time_limit_ms": launch.time_limit,
                "argv": argv.as_ref().ok(),
                "error": argv.as_ref().err(),
            })
        })
        .collect();
    let deeds = input.decision.actions.iter().filter_map(deed);
    let waits = input.decision.holds.iter().map(|(subject, hold)| {
        let held = Held {
            holds: &holds,
            subject: subject.clone(),
            hold,
        };
        WaitJson {
            subject,
            hold: held,
        }
    });
    text::json(&PlanJson {
        format: 1,
        launches,
        deeds: deeds.collect(),
        holds: waits.collect(),
        wake_at: input.decision.wake_at.map(input.time),
    })
}

/// `{"task": 7}`, `{"queue": "coder"}`, `{"everything": true}` …
fn subject_json<S: Serializer>(subject: &&Subject, to: S) -> Result<S::Ok, S::Error> {
    match subject {
        Subject::Everything => json!({ "everything": true }),
        Subject::Queue(queue) => json!({ "queue": queue }),
        Subject::Provider(provider) => json!({ "provider": provider }),
        Subject::Task(task) => json!({ "task": task }),
        Subject::Inbound(key) => json!({ "inbound": key.name }),
        Subject::Run(run) => json!({ "run": run }),
    }
    .serialize(to)
}

#[cfg(test)]
mod tests;
