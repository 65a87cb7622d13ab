//! `why`: one task's present state, what comes then, and how it got there.

use serde::Serialize;
use serde_json::{Value, json};

use crate::core::model::{
    Detail, Millis, Now, RunId, RunSubject, Task, TaskId, TaskStatus, Timestamp,
};
use crate::core::record::{Spec, StateRecord};
use crate::core::verdict::Meaning;
use crate::core::{Action, Decision, Hold, Policy, Snapshot, Subject, Tinytask};
use crate::view::board::{Board, Kind, LiveRun, meaning_word};
use crate::view::hold::words;
use crate::view::status::Daemon;
use crate::view::status_json::HoldJson;
use crate::view::text::{
    self, WIDTH, ago, beside, clean, cut, gap, left, right, unbroken, wait, width, wrap,
};

/// All that `why` tells.
pub struct WhyInput<'a> {
    pub task: TaskId,
    pub seen: &'a Snapshot,
    pub decision: &'a Decision,
    pub policy: &'a Policy,
    pub now: &'a Now,
    pub daemon: Daemon,
    /// What happened to the task, oldest first.
    pub story: Vec<StoryLine>,
    /// How its newest run came to be.
    pub start: Option<Start>,
    /// An absolute time in words: of the day for [`why`], UTC for [`why_json`].
    pub time: &'a dyn Fn(Timestamp) -> String,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoryLine {
    pub at: Timestamp,
    pub text: String,
}

/// The steps from an event to an agent at work, each with its moment: as far as the run got, and as its records tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub run: RunId,
    /// In order. Without an event, a timer or another run's end led to it.
    pub steps: Vec<(Step, Timestamp)>,
}

/// One of the steps of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    Event,
    Look,
    Decided,
    Recorded,
    Shim,
    Agent,
}

impl Start {
    /// From the records of one run.
    pub fn of(spec: &Spec, state: Option<&StateRecord>) -> Self {
        let times = &spec.times;
        let shim = state.map(|state| &state.started);
        let agent = state.and_then(|state| state.running.as_ref());
        let steps = [
            (Step::Event, times.event.as_ref()),
            (Step::Look, Some(&times.look)),
            (Step::Decided, Some(&times.decided)),
            (Step::Recorded, Some(&times.written)),
            (Step::Shim, shim),
            (Step::Agent, agent),
        ];
        let steps = steps.into_iter();
        Self {
            run: spec.run,
            steps: steps
                .filter_map(|(step, at)| Some((step, at?.wall)))
                .collect(),
        }
    }

    /// `event, look +1 ms, decided +2 ms, recorded +1 ms, shim +1 ms, agent +1 ms: 6 ms in all`.
    fn words(&self) -> String {
        let mut parts = Vec::new();
        let mut before: Option<Timestamp> = None;
        for (step, at) in &self.steps {
            let word = match step {
                Step::Event => "event",
                Step::Look => "look",
                Step::Decided => "decided",
                Step::Recorded => "recorded",
                Step::Shim => "shim",
                Step::Agent => "agent",
            };
            parts.push(match before {
                Some(before) => format!("{word} +{}", gap(at.since(before))),
                None => word.to_owned(),
            });
            before = Some(*at);
        }
        let first = self.steps.first().map(|(_, at)| *at);
        let all = first
            .zip(before)
            .map_or(Millis(0), |(first, last)| last.since(first));
        format!("{}: {} in all", parts.join(", "), gap(all))
    }
}

/// What can be said of the task now.
struct Account {
    state: String,
    then: String,
    /// What else stands in the way, of all tasks.
    besides: Vec<String>,
}

/// The screen.
pub fn why(input: &WhyInput) -> String {
    let account = account(input);
    let mut out = String::new();
    for line in wrap(&account.state, WIDTH) {
        out += &line;
        out.push('\n');
    }
    out += &beside("  then: ", &account.then);
    for text in &account.besides {
        out += &beside("  but:  ", text);
    }
    if input.story.is_empty() {
        return out;
    }
    out += &story(input);
    if let Some(start) = &input.start {
        out += &format!("\nhow run {} started\n", start.run);
        out += &beside("  ", &start.words());
    }
    out
}

fn story(input: &WhyInput) -> String {
    let mut out = String::from("\nhow it got here\n");
    let mut before: Option<Timestamp> = None;
    for line in &input.story {
        let gap = before
            .map(|before| format!("+{}", gap(line.at.since(before))))
            .unwrap_or_default();
        before = Some(line.at);
        let time = (input.time)(line.at);
        let head = format!("  {time}  ");
        let room = WIDTH - width(&head) - 12;
        let mut lines = wrap(&clean(&line.text), room).into_iter();
        let first = format!(
            "{head}{} {}",
            left(&lines.next().unwrap_or_default(), room),
            right(&gap, 11)
        );
        out += first.trim_end();
        out.push('\n');
        for rest in lines {
            out += &format!("{}{}\n", " ".repeat(width(&head)), cut(&rest, room));
        }
    }
    out
}

/// `{task, title, status, queue, state, then, besides, holds, run, story: [{at, text}], start: {run, steps: [{step, at}]}}`.
pub fn why_json(input: &WhyInput) -> String {
    let account = account(input);
    let holds = HoldJson::new(input.seen, input.now, input.time);
    let found = found(input);
    let subject = Subject::Task(input.task);
    let told: Vec<Value> = (input.decision.holds.iter())
        .filter(|(of, _)| *of == subject)
        .map(|(of, hold)| holds.value(of, hold))
        .collect();
    let story: Vec<Value> = input
        .story
        .iter()
        .map(|line| json!({ "at": (input.time)(line.at), "text": line.text }))
        .collect();
    let start = input.start.as_ref().map(|start| {
        let steps = start.steps.iter();
        let steps = steps.map(|(step, at)| json!({ "step": step, "at": (input.time)(*at) }));
        json!({ "run": start.run, "steps": steps.collect::<Vec<_>>() })
    });
    let board = Board::of(input.seen, input.decision, input.policy);
    let run = board
        .live()
        .find(|live| live.run.dir.id.subject == RunSubject::Task(input.task));
    text::json(&json!({
        "format": 1,
        "task": input.task,
        "title": found.map(|t| &t.title),
        "status": found.map(|t| t.status),
        "queue": found.and_then(|t| t.assigned_to.as_ref()),
        "run": run.map(|live| live.run.dir.id),
        "pid": run.and_then(LiveRun::pid),
        "holds": told,
        "state": account.state,
        "then": account.then,
        "besides": account.besides,
        "story": story,
        "start": start,
    }))
}

/// tinytask's present word on the task.
fn found<'a>(input: &'a WhyInput) -> Option<&'a Task> {
    input
        .seen
        .tasks
        .get(&input.task)
        .or_else(|| match input.seen.details.get(&input.task) {
            Some(Detail::Found(found)) => Some(&found.task),
            _ => None,
        })
}

fn account(input: &WhyInput) -> Account {
    let id = input.task;
    let board = Board::of(input.seen, input.decision, input.policy);
    let besides = besides(input);
    let live = board
        .live()
        .find(|live| live.run.dir.id.subject == RunSubject::Task(id));
    let title = found(input).map(|task| task.title.clone());
    let title = title.or_else(|| live.and_then(|live| live.run.spec.as_ref()?.title.clone()));
    let name = match title {
        Some(title) => format!("#{id} “{}”", cut(&clean(&title), 60)),
        None => format!("#{id}"),
    };
    if let Some(live) = live {
        return running(input, live, &name, besides);
    }
    let Some(task) = found(input) else {
        return absent(input, &name, besides);
    };
    let place = match (&task.assigned_to, task.status) {
        (_, TaskStatus::Complete) => String::new(),
        (Some(queue), _) => format!(" in {}", clean(queue)),
        (None, _) => ", assigned to nobody".into(),
    };
    let archived = if task.is_archived {
        " and archived"
    } else {
        ""
    };
    let is = format!("{name} is {}{archived}{place}", task.status);
    if !task.is_open() {
        return Account {
            state: format!("{is}."),
            then: "nothing: it is done.".into(),
            besides: Vec::new(),
        };
    }
    let row = board
        .rows
        .iter()
        .find(|row| Some(&row.queue) == task.queue().as_ref());
    let place = row.and_then(|row| {
        row.tasks
            .iter()
            .position(|t| t.task.id == id)
            .map(|n| (row, n))
    });
    let Some((row, n)) = place else {
        let hold = hold_of(input);
        let said = hold.map_or_else(String::new, |hold| {
            format!(" and waits: {}", said(input, hold))
        });
        return Account {
            state: format!("{is}{said}."),
            then: then(hold),
            besides,
        };
    };
    let waiting = &row.tasks[n];
    match (waiting.kind, waiting.hold) {
        (Kind::Starts, _) => {
            let cause = input
                .decision
                .actions
                .iter()
                .find_map(|action| match action {
                    Action::Launch(launch) if launch.subject == RunSubject::Task(id) => {
                        Some(clean(&launch.cause))
                    }
                    _ => None,
                });
            let cause = cause.map_or_else(String::new, |cause| format!(" ({cause})"));
            Account {
                state: format!("{is}; nothing stands in its way{cause}."),
                then: if input.daemon.is_alive() {
                    "it is started now.".into()
                } else {
                    "it is started as soon as somebody watches.".into()
                },
                besides,
            }
        }
        (_, None) => Account {
            state: format!("{is}; nothing of its own stands in its way."),
            then: "it is started when what holds everything is over.".into(),
            besides,
        },
        (_, Some(hold)) => {
            let ahead: Vec<String> = row.tasks[..n]
                .iter()
                .filter(|other| other.kind <= Kind::Waits && needs_slot(other.hold))
                .map(|other| format!("#{}", other.task.id))
                .collect();
            let then = match (needs_slot(Some(hold)), ahead.len()) {
                (true, 0) => "nothing else stands in its way; it is next.".into(),
                (true, _) => {
                    let verb = if ahead.len() == 1 { "goes" } else { "go" };
                    format!(
                        "nothing else stands in its way; {} {verb} first.",
                        text::list(&ahead, 5)
                    )
                }
                (false, _) => then(Some(hold)),
            };
            Account {
                state: format!("{is} and waits: {}.", said(input, hold)),
                then,
                besides,
            }
        }
    }
}

fn needs_slot(hold: Option<&Hold>) -> bool {
    matches!(
        hold,
        None | Some(Hold::NoSlot { .. } | Hold::MaxRuns { .. })
    )
}

fn hold_of<'a>(input: &'a WhyInput) -> Option<&'a Hold> {
    let subject = Subject::Task(input.task);
    input
        .decision
        .holds
        .iter()
        .find(|(of, _)| *of == subject)
        .map(|(_, hold)| hold)
}

fn said(input: &WhyInput, hold: &Hold) -> String {
    let mut said = words(input.seen, &Subject::Task(input.task), hold, input.now).text();
    // Whoever has the slot is worth a look: for how long, and does it do anything?
    if let Hold::NoSlot { by, .. } = hold {
        let board = Board::of(input.seen, input.decision, input.policy);
        for live in board.live().filter(|live| by.contains(&live.run.dir.id)) {
            let mut parts = vec![format!("run {}", live.run.dir.id)];
            parts.extend(live.age(input.now).map(|age| format!("since {}", ago(age))));
            parts.extend(live.pid().map(|pid| format!("pid {pid}")));
            parts.extend(last_sign(input, live));
            said += &format!(" ({})", parts.join(", "));
        }
    }
    said
}

fn last_sign(input: &WhyInput, live: &LiveRun) -> Option<String> {
    let at = live.run.vitals.last_sign?;
    Some(format!(
        "last sign of life {} ago",
        ago(input.now.wall.since(at))
    ))
}

fn running(input: &WhyInput, live: &LiveRun, name: &str, besides: Vec<String>) -> Account {
    let run = live.run;
    let mut parts = vec![format!("run {}", run.dir.id)];
    parts.extend(live.age(input.now).map(|age| format!("since {}", ago(age))));
    parts.extend(live.pid().map(|pid| format!("pid {pid}")));
    if let Some(attempt) = run.spec.as_ref().map(|spec| spec.attempt) {
        parts.push(format!(
            "attempt {attempt} of {}",
            input.policy.max_attempts
        ));
    }
    parts.extend(last_sign(input, live));
    if live.is_at_work() {
        parts.extend(
            live.limit_left(input.now)
                .map(|left| format!("limit in {}", wait(left))),
        );
    }
    let parts = parts.join(", ");
    let queue = &run.dir.queue;
    let state = match live.meaning {
        Meaning::Running => format!("{name} runs in {queue}: {parts}."),
        Meaning::Orphan => format!("{name} runs in {queue}, without its shim: {parts}."),
        Meaning::SignalledAlive => {
            format!("{name}: its pid file was removed, but its agent in {queue} lives: {parts}.")
        }
        meaning => format!(
            "{name} has a run in {queue} that is {}: {parts}.",
            meaning_word(meaning)
        ),
    };
    let holds: Vec<String> = live
        .holds
        .iter()
        .map(|hold| words(input.seen, &Subject::Run(run.dir.id), hold, input.now).text())
        .collect();
    let then = match (live.meaning, holds.is_empty()) {
        (_, false) => holds.join("; ") + ".",
        (Meaning::Clear | Meaning::Complete, true) => {
            "tinytask is asked what became of the task.".into()
        }
        (Meaning::OrphanLeftovers, true) => {
            "what it left behind is ended, then tinytask is asked.".into()
        }
        _ => "when it is over, tinytask is asked what became of the task, and the next run starts."
            .into(),
    };
    Account {
        state,
        then,
        besides,
    }
}

fn absent(input: &WhyInput, name: &str, besides: Vec<String>) -> Account {
    let (state, then) = match (&input.seen.tinytask, input.seen.details.get(&input.task)) {
        (Tinytask::Fresh { .. }, Some(Detail::NotFound)) => (
            format!("tinytask knows no task {name}."),
            "nothing: it was deleted, or never there.".to_owned(),
        ),
        (Tinytask::Fresh { .. }, _) => (
            format!("{name} is not among tinytask's open tasks."),
            "nothing is started for it.".to_owned(),
        ),
        _ => (
            format!("what became of {name} is not known: tinytask did not answer."),
            "it is asked again until it does.".to_owned(),
        ),
    };
    Account {
        state,
        then,
        besides,
    }
}

/// What follows once the hold is over.
fn then(hold: Option<&Hold>) -> String {
    match hold {
        Some(Hold::Parked { .. }) => {
            "nothing before that, or before its title, description, priority, assignee, tags or blocker change, or \
             somebody comments on it."
        }
        Some(Hold::TooManyRuns { .. } | Hold::StoppedByPerson { .. } | Hold::HeldByFile) => "nothing before that.",
        Some(Hold::NoRecipe) => "nothing by itself; with a recipe of that name its agent starts at once.",
        Some(Hold::NotAssigned { .. }) => "nothing before it is assigned to an agent.",
        Some(Hold::WorkingElsewhere | Hold::RunningOutside { .. }) => "nothing while somebody else is at it.",
        Some(Hold::OpenSubtasks { .. }) => "its subtasks are worked on; a parent is not started while any is open.",
        _ => "it is looked at again, and started unless something else stands in its way.",
    }
    .into()
}

/// What stands in the way of all tasks.
fn besides(input: &WhyInput) -> Vec<String> {
    let mut besides: Vec<String> = (input.decision.holds.iter())
        .filter(|(subject, _)| *subject == Subject::Everything)
        .map(|(subject, hold)| words(input.seen, subject, hold, input.now).text() + ".")
        .collect();
    if !input.daemon.is_alive() {
        besides.push(format!(
            "nobody watches: the daemon is not running ({}).",
            unbroken("calypso-watch run")
        ));
    }
    besides
}

#[cfg(test)]
mod tests;
