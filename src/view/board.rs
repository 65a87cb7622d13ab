//! A snapshot and its decision, sorted by queue: what `status` prints and its JSON holds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;

use crate::core::model::{
    Leftover, Millis, Now, ProviderName, QueueName, Recipe, RunId, RunSubject, Task, TaskId,
    TaskStatus,
};
use crate::core::record::{Verdict, VerdictRecord};
use crate::core::verdict::Meaning;
use crate::core::{
    Action, Decision, Hold, InboundEntry, InboundState, Policy, Run, Snapshot, StrangerKind,
    Subject,
};
use crate::view::text::{clean, plural};

/// Everything a screen needs, sorted.
pub(super) struct Board<'a> {
    pub(super) rows: Vec<Row<'a>>,
    /// Tasks in no queue of ours.
    pub(super) unassigned: Vec<Waiting<'a>>,
    pub(super) everything: Vec<&'a Hold>,
    pub(super) providers: Vec<(&'a ProviderName, &'a Hold)>,
    pub(super) inbound: Vec<(&'a InboundEntry, Option<&'a Hold>)>,
    pub(super) odd: Vec<String>,
}

/// One queue.
pub(super) struct Row<'a> {
    pub(super) queue: QueueName,
    pub(super) recipe: Option<&'a Result<Recipe, String>>,
    pub(super) has_command: bool,
    pub(super) is_paused: bool,
    /// Was tinytask asked about it?
    pub(super) is_known: bool,
    pub(super) holds: Vec<&'a Hold>,
    pub(super) runs: Vec<LiveRun<'a>>,
    /// Its tasks but those its runs are named after, next one first.
    pub(super) tasks: Vec<Waiting<'a>>,
}

/// A run that is not judged yet.
pub(super) struct LiveRun<'a> {
    pub(super) run: &'a Run,
    pub(super) meaning: Meaning,
    pub(super) holds: Vec<&'a Hold>,
}

/// A task and what it waits for.
pub(super) struct Waiting<'a> {
    pub(super) task: &'a Task,
    pub(super) kind: Kind,
    pub(super) hold: Option<&'a Hold>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// To be launched by this very decision.
    Starts,
    Waits,
    /// Somebody works on it, but no run of ours is named after it.
    Elsewhere,
    /// Nothing happens before a person says so.
    Stuck,
}

impl Row<'_> {
    pub(super) fn waiting(&self) -> usize {
        self.tasks
            .iter()
            .filter(|t| matches!(t.kind, Kind::Starts | Kind::Waits))
            .count()
    }
    /// Neither recipe nor command: a person's queue.
    pub(super) fn is_of_people(&self) -> bool {
        self.recipe.is_none() && !self.has_command
    }
    /// Nothing to tell.
    pub(super) fn is_idle(&self) -> bool {
        self.runs.is_empty()
            && self.tasks.iter().all(|t| t.kind == Kind::Stuck)
            && !self.is_paused
            && self.holds.is_empty()
            && !matches!(self.recipe, Some(Err(_)))
    }
}

impl LiveRun<'_> {
    /// How long the agent has run, or the launch is on its way.
    pub(super) fn age(&self, now: &Now) -> Option<Millis> {
        let state = self.run.state.as_ref();
        let began = state
            .and_then(|s| s.running.as_ref())
            .or(state.map(|s| &s.started));
        began
            .or(self.run.spec.as_ref().map(|spec| &spec.times.written))
            .map(|at| at.age(now))
    }
    /// Its agent may be at work.
    pub(super) fn is_at_work(&self) -> bool {
        matches!(
            self.meaning,
            Meaning::Running | Meaning::SignalledAlive | Meaning::Orphan
        )
    }
    /// For how long nothing was heard of it, once that is too long.
    pub(super) fn quiet(&self, policy: &Policy, now: &Now) -> Option<Millis> {
        let silence = now.wall.since(self.run.vitals.last_sign?);
        (self.is_at_work() && silence >= policy.quiet_after).then_some(silence)
    }
    /// Until its time limit.
    pub(super) fn limit_left(&self, now: &Now) -> Option<Millis> {
        let limit = self.run.spec.as_ref()?.limits.time;
        Some(Millis(limit.0.saturating_sub(self.age(now)?.0)))
    }
    /// The pid a person would look for.
    pub(super) fn pid(&self) -> Option<i32> {
        let alive = self
            .run
            .observed
            .alive
            .as_ref()
            .and_then(|a| a.agent.as_ref());
        self.run.vitals.agent_pid.or(alive.map(|agent| agent.pid))
    }
}

impl<'a> Board<'a> {
    pub(super) fn of(seen: &'a Snapshot, decision: &'a Decision, policy: &Policy) -> Self {
        // Of ten thousand tasks, each is looked for once.
        let mut task_holds: HashMap<TaskId, (usize, &Hold)> =
            HashMap::with_capacity(decision.holds.len());
        let mut file_holds = BTreeMap::new();
        let mut run_holds: BTreeMap<RunId, Vec<&Hold>> = BTreeMap::new();
        let mut queue_holds: BTreeMap<&QueueName, Vec<&Hold>> = BTreeMap::new();
        let (mut everything, mut providers) = (Vec::new(), Vec::new());
        for (n, (subject, hold)) in decision.holds.iter().enumerate() {
            match subject {
                Subject::Everything => everything.push(hold),
                Subject::Provider(name) => providers.push((name, hold)),
                Subject::Queue(queue) => queue_holds.entry(queue).or_default().push(hold),
                Subject::Task(id) => {
                    task_holds.entry(*id).or_insert((n, hold));
                }
                Subject::Inbound(key) => {
                    file_holds.insert(key, hold);
                }
                Subject::Run(run) => run_holds.entry(*run).or_default().push(hold),
            }
        }
        let launches = decision.actions.iter().filter_map(|action| match action {
            Action::Launch(launch) => launch.subject.task(),
            _ => None,
        });
        // Whose launch it is, and its place among them.
        let starts: BTreeMap<TaskId, usize> = launches.zip(0..).collect();
        let live: Vec<LiveRun> = seen
            .runs
            .iter()
            .filter(|run| run.verdict.is_none())
            .map(|run| LiveRun {
                run,
                meaning: run.meaning(),
                holds: run_holds.remove(&run.dir.id).unwrap_or_default(),
            })
            .filter(|live| live.meaning != Meaning::Litter)
            .collect();
        let running: BTreeMap<RunSubject, QueueName> = live
            .iter()
            .map(|l| (l.run.dir.id.subject, l.run.dir.queue.clone()))
            .collect();

        let mut rows: BTreeMap<QueueName, Row> = BTreeMap::new();
        let mut row = |queue: &QueueName| {
            if !rows.contains_key(queue) {
                let row = Row {
                    queue: queue.clone(),
                    recipe: seen.recipes.get(queue),
                    has_command: policy.queue(queue).has_command,
                    is_paused: seen.controls.paused.contains(queue),
                    is_known: seen.coverage.has(queue),
                    holds: queue_holds.get(queue).cloned().unwrap_or_default(),
                    runs: Vec::new(),
                    tasks: Vec::new(),
                };
                rows.insert(queue.clone(), row);
            }
        };
        for queue in seen
            .recipes
            .keys()
            .chain(&seen.controls.paused)
            .chain(queue_holds.keys().copied())
        {
            row(queue);
        }
        for (queue, settings) in &policy.queues {
            if settings.has_command {
                row(queue);
            }
        }
        for live in &live {
            row(&live.run.dir.queue);
        }
        let mut unassigned = Vec::new();
        // Of each queue, with what each task is sorted by.
        let mut queued: BTreeMap<QueueName, Vec<_>> = BTreeMap::new();
        for task in seen.tasks.values() {
            let (place, hold) = task_holds.get(&task.id).copied().unzip();
            let Some(queue) = task.queue() else {
                unassigned.push(Waiting {
                    task,
                    kind: Kind::Waits,
                    hold,
                });
                continue;
            };
            let first = starts.get(&task.id);
            let kind = kind(task, hold, first.is_some());
            // Its row has its run, unless it was handed on already: then it waits in the other row for the run's end.
            let is_running = running.get(&RunSubject::Task(task.id)) == Some(&queue);
            let tasks = queued.entry(queue).or_default();
            if !is_running {
                let key = (kind, !needs_only_a_slot(hold), first, place);
                tasks.push((key, Waiting { task, kind, hold }));
            }
        }
        for queue in queued.keys() {
            row(queue);
        }
        for live in live {
            if let Some(row) = rows.get_mut(&live.run.dir.queue) {
                row.runs.push(live);
            }
        }
        for (queue, mut tasks) in queued {
            tasks.sort_by_key(|(key, _)| *key);
            if let Some(row) = rows.get_mut(&queue) {
                row.tasks = tasks.into_iter().map(|(_, waiting)| waiting).collect();
            }
        }
        let inbound = seen
            .inbound
            .iter()
            .map(|entry| (entry, file_holds.get(&entry.key).copied()))
            .collect();
        Self {
            rows: rows.into_values().collect(),
            unassigned,
            everything,
            providers,
            inbound,
            odd: odd(seen),
        }
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &LiveRun<'a>> {
        self.rows.iter().flat_map(|row| &row.runs)
    }
}

fn needs_only_a_slot(hold: Option<&Hold>) -> bool {
    matches!(
        hold,
        None | Some(
            Hold::NoSlot { .. }
                | Hold::MaxRuns { .. }
                | Hold::Provider { .. }
                | Hold::Environment { .. }
                | Hold::NoProgram { .. }
        )
    )
}

fn kind(task: &Task, hold: Option<&Hold>, does_start: bool) -> Kind {
    match hold {
        _ if does_start => Kind::Starts,
        Some(
            Hold::Parked { .. }
            | Hold::TooManyRuns { .. }
            | Hold::StoppedByPerson { .. }
            | Hold::HeldByFile,
        ) => Kind::Stuck,
        Some(Hold::RunningOutside { .. } | Hold::WorkingElsewhere) => Kind::Elsewhere,
        _ if task.status == TaskStatus::Working => Kind::Elsewhere,
        _ => Kind::Waits,
    }
}

/// What a person should look at, though no queue's row tells it.
fn odd(seen: &Snapshot) -> Vec<String> {
    let mut odd: Vec<String> = Vec::new();
    for name in &seen.odd_pid_names {
        odd.push(format!(
            "running_tasks/{}: not the name of a pid file",
            clean(name)
        ));
    }
    odd.extend(seen.troubles.iter().map(|trouble| clean(trouble)));
    for name in &seen.controls.odd {
        odd.push(format!(".calypso/control/{}: no such command", clean(name)));
    }
    for (subject, stranger) in &seen.strangers {
        let (file, is_told) = match subject {
            RunSubject::Inbound => ("inbound.pid".to_owned(), !seen.inbound.is_empty()),
            RunSubject::Task(id) => (format!("task_{id}.pid"), seen.tasks.contains_key(id)),
        };
        if is_told {
            continue;
        }
        let what = match &stranger.what {
            StrangerKind::Alive { process, comm, .. } => {
                format!(
                    "{} (pid {}), not started from here",
                    clean(comm),
                    process.pid
                )
            }
            StrangerKind::Dead { pid } => format!("left by process {pid}, which is gone"),
            StrangerKind::Odd(what) => clean(what),
        };
        let whose = match subject {
            RunSubject::Inbound => String::new(),
            RunSubject::Task(id) => format!("; no open task #{id}"),
        };
        odd.push(format!("running_tasks/{file}: {what}{whose}"));
    }
    for entry in &seen.inbound {
        if entry.state == (InboundState::Settled { endless: true }) {
            odd.push(format!(
                "inbound/{}: written to without end; taken as it is",
                clean(&entry.key.name)
            ));
        }
    }
    // Both are in the order of the tasks' numbers.
    let mut tasks = seen.tasks.values().peekable();
    for (subject, history) in &seen.histories {
        let Some(id) = subject.task() else { continue };
        while tasks.next_if(|task| task.id < id).is_some() {}
        let Some(task) = tasks.next_if(|task| task.id == id) else {
            continue;
        };
        let Some((first, last)) = history.gist(*subject).born else {
            continue;
        };
        let born = task.key().created_at;
        if (first, last) == (born, born) {
            continue;
        }
        let is_earlier = |v: &&Arc<VerdictRecord>| {
            let mut entries = v.tasks.iter();
            entries.any(|t| t.key.id == task.id && t.key != task.key())
        };
        let earlier = history.verdicts.iter().filter(is_earlier).count();
        if earlier > 0 {
            odd.push(format!(
                "#{}: {} of an earlier task with this number, not counted",
                task.id,
                plural(earlier, "record")
            ));
        }
    }
    odd
}

/// What became of a run, in a few words: `→ devops`, `done`, `made no progress`.
pub fn verdict_words(record: &VerdictRecord) -> String {
    let main = record
        .tasks
        .iter()
        .find(|t| RunSubject::Task(t.key.id) == record.run.subject)
        .or(record.tasks.first());
    let reason = || {
        record
            .failure
            .as_ref()
            .map_or_else(|| record.outcome.to_string(), |f| clean(&f.reason))
    };
    let words = match main.map(|t| &t.verdict) {
        Some(Verdict::HandedOff { to: Some(to) }) => format!("→ {}", clean(to)),
        Some(Verdict::HandedOff { to: None }) => "→ nobody".into(),
        Some(Verdict::Done) => "done".into(),
        Some(Verdict::Gone) => "task deleted".into(),
        Some(Verdict::Progress) => "went on".into(),
        Some(Verdict::NoProgress | Verdict::LeftWorking) => reason(),
        None if record.failure.is_some() => reason(),
        None if record.files.is_empty() => record.outcome.to_string(),
        None => {
            let taken = record.files.iter().filter(|f| !f.left).count();
            let all = record.files.len();
            if taken == all {
                format!("took {}", plural(all, "request"))
            } else {
                format!("took {taken} of {}", plural(all, "request"))
            }
        }
    };
    let outcome = clean(&record.outcome.to_string());
    if outcome == "exit 0" || words.contains(&outcome) {
        words
    } else {
        format!("{words}; {outcome}")
    }
}

/// Whose run it was: `#41`, with the task it touched where that is another; `inbound`.
pub(super) fn verdict_subject(record: &VerdictRecord) -> String {
    match (record.run.subject, record.tasks.first()) {
        (RunSubject::Task(id), _) if record.tasks.iter().any(|t| t.key.id == id) => {
            format!("#{id}")
        }
        (RunSubject::Task(_), Some(other)) => format!("#{}", other.key.id),
        (RunSubject::Task(id), None) => format!("#{id}"),
        (RunSubject::Inbound, _) => "inbound".into(),
    }
}

/// What a run means, as a word for its row.
pub(super) fn meaning_word(meaning: Meaning) -> &'static str {
    match meaning {
        Meaning::Litter => "litter",
        Meaning::Starting => "starting",
        Meaning::Running => "running",
        Meaning::Ending => "ending",
        Meaning::SignalledAlive => "signalled",
        Meaning::Orphan => "orphan",
        Meaning::OrphanLeftovers => "leftovers",
        Meaning::StillAlive => "still alive",
        Meaning::Unknown => "unknown",
        Meaning::Clear | Meaning::Complete => "over",
    }
}

/// Processes that may be the run's and may not.
pub(super) fn doubtful(run: &Run) -> &[Leftover] {
    run.observed
        .alive
        .as_ref()
        .map_or(&[], |alive| &alive.doubtful)
}
