//! `.calypso/log.jsonl`: what the daemon saw and did, a line each. `why` tells stories from it; nothing is ever decided by it.
//!
//! Lines are written only when something changed since the last look, so a quiet day writes nothing. A full disk costs lines,
//! never work.

use std::collections::BTreeMap;
use std::mem::{Discriminant, discriminant};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::core::layout::Layout;
use crate::core::model::{Moment, Now, RunId, Task, TaskId, TaskStatus, Text, Timestamp};
use crate::core::record::{Spec, VerdictRecord};
use crate::core::{Coverage, Decision, Hold, InboundState, Snapshot, Subject, Tinytask};
use crate::edge::{clock, files, kill_point};

/// The file is turned over at this size; one older one is kept.
const ROTATE: u64 = 16 << 20;
/// Longest line that is read back.
const LIMIT: u64 = 64 << 20;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoryEvent {
    pub at: Timestamp,
    /// `started left lost inbound seen hold free launch verdict mark stop sweep put_back tinytask`
    pub event: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Text>,
    /// In plain words, or a file's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

impl StoryEvent {
    fn new(at: Timestamp, event: &str) -> Self {
        Self {
            at,
            event: event.to_owned(),
            task: None,
            run: None,
            queue: None,
            text: String::new(),
            hold: None,
        }
    }
}

/// What was last said of a subject: a hold without its figures, which change at each look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Held(Discriminant<Hold>),
    /// A file in inbound/ that only waits for its run.
    Settled,
}

/// Writes the story.
pub(super) struct Journal {
    layout: Layout,
    /// What was last said of each task's hold.
    task_holds: BTreeMap<TaskId, Said>,
    /// And of all others.
    holds: BTreeMap<Subject, Said>,
    tasks: BTreeMap<TaskId, (Option<Text>, TaskStatus)>,
    tinytask: Option<&'static str>,
    is_failing: bool,
}

impl Journal {
    pub(super) fn open(layout: &Layout) -> Self {
        Self {
            layout: layout.clone(),
            task_holds: BTreeMap::new(),
            holds: BTreeMap::new(),
            tasks: BTreeMap::new(),
            tinytask: None,
            is_failing: false,
        }
    }

    fn write(&mut self, event: &StoryEvent) {
        self.write_all(std::slice::from_ref(event));
    }

    /// In one piece, as a look may find a hundred thousand files at once.
    fn write_all(&mut self, events: &[StoryEvent]) {
        if events.is_empty() {
            return;
        }
        let path = self.layout.log();
        if files::is_larger(&path, ROTATE) {
            kill_point::reach("log:before-rotation");
            files::turn_over(&path).ok();
            kill_point::reach("log:rotated");
        }
        let lines: Vec<String> = (events.iter())
            .map(|event| serde_json::to_string(event).unwrap_or_default())
            .collect();
        let mut lines = lines.join("\n");
        if self.is_failing {
            // A full disk may have taken the beginning of the last line; this one must not become its end.
            lines.insert(0, '\n');
        }
        match files::append_line(&path, &lines, 0o644) {
            Ok(()) => self.is_failing = false,
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                warn!(error = %error, "cannot write log.jsonl; `why` will miss this part of the story");
            }
            Err(_) => {}
        }
        kill_point::reach("log:appended");
    }

    pub(super) fn started(&mut self, since: &Moment) {
        self.write(&StoryEvent {
            text: format!("pid {}", std::process::id()),
            ..StoryEvent::new(since.wall, "started")
        });
    }

    pub(super) fn left(&mut self, reason: &str) {
        self.write(&StoryEvent {
            text: reason.to_owned(),
            ..StoryEvent::new(clock::wall(), "left")
        });
    }

    pub(super) fn lost(&mut self, what: &str) {
        self.write(&StoryEvent {
            text: what.to_owned(),
            ..StoryEvent::new(clock::wall(), "lost")
        });
    }

    /// A deed that is no launch and no verdict.
    pub(super) fn did(
        &mut self,
        event: &str,
        task: Option<TaskId>,
        run: Option<RunId>,
        text: String,
    ) {
        self.write(&StoryEvent {
            task,
            run,
            text,
            ..StoryEvent::new(clock::wall(), event)
        });
    }

    pub(super) fn launched(&mut self, spec: &Spec) {
        let took = spec
            .times
            .event
            .as_ref()
            .map(|event| spec.times.written.wall.since(event.wall).0);
        let took = took.map_or_else(String::new, |ms| format!(", {ms} ms after the event"));
        info!(run = %spec.run, queue = %spec.queue, attempt = spec.attempt, cause = spec.cause, "run launched");
        self.write(&StoryEvent {
            task: spec.task.map(|key| key.id),
            run: Some(spec.run),
            queue: Some(spec.queue.clone().into()),
            text: format!("{}{took}", spec.cause),
            ..StoryEvent::new(spec.times.written.wall, "launch")
        });
    }

    pub(super) fn judged(&mut self, verdict: &VerdictRecord) {
        let reason = verdict
            .failure
            .as_ref()
            .map_or("", |failure| failure.reason.as_str());
        info!(run = %verdict.run, queue = %verdict.queue, outcome = %verdict.outcome, reason, "run over");
        let subjects = verdict.tasks.iter().map(|task| Some(task.key.id));
        let mut subjects: Vec<_> = subjects.collect();
        if subjects.is_empty() {
            subjects.push(None);
        }
        for task in subjects {
            self.write(&StoryEvent {
                task,
                run: Some(verdict.run),
                queue: Some(verdict.queue.clone().into()),
                text: reason.to_owned(),
                ..StoryEvent::new(verdict.judged.wall, "verdict")
            });
        }
    }

    /// Writes what is new in a look.
    pub(super) fn seen(&mut self, seen: &Snapshot, decision: &Decision, now: &Now) {
        let at = now.wall;
        let health = match &seen.tinytask {
            Tinytask::NotAsked => self.tinytask,
            Tinytask::Fresh { .. } => Some("ok"),
            Tinytask::Unreachable { .. } => Some("unreachable"),
            Tinytask::Suspicious { .. } => Some("suspicious"),
        };
        if health != self.tinytask {
            let text = match &seen.tinytask {
                Tinytask::Unreachable { error, .. } => {
                    warn!(
                        error,
                        "tinytask cannot be reached; nothing is started until it is back"
                    );
                    error.clone()
                }
                Tinytask::Suspicious { vanished, of } => {
                    warn!(
                        vanished,
                        of,
                        "most open tasks vanished at once: another server? nothing is started or judged"
                    );
                    format!("{vanished} of {of} known tasks vanished at once")
                }
                _ => {
                    info!("tinytask answers");
                    String::new()
                }
            };
            self.write(&StoryEvent {
                text,
                ..StoryEvent::new(at, &format!("tinytask {}", health.unwrap_or("ok")))
            });
            self.tinytask = health;
        }
        self.seen_tasks(seen, at);
        self.seen_holds(seen, decision, at);
    }

    fn seen_tasks(&mut self, seen: &Snapshot, at: Timestamp) {
        let news: Vec<&Task> = (seen.tasks.values())
            .filter(|task| {
                let known = self.tasks.get(&task.id);
                known.is_none_or(|known| (&known.0, known.1) != (&task.assigned_to, task.status))
            })
            .collect();
        let mut events = Vec::new();
        for task in news {
            self.tasks
                .insert(task.id, (task.assigned_to.clone(), task.status));
            events.push(StoryEvent {
                task: Some(task.id),
                queue: task.assigned_to.clone(),
                text: task.status.to_string(),
                ..StoryEvent::new(at, "seen")
            });
        }
        self.write_all(&events);
        if seen.coverage == Coverage::Everything {
            self.tasks.retain(|id, _| seen.tasks.contains_key(id));
        }
        for (id, _) in seen.details.iter().filter(|(_, detail)| !detail.is_open()) {
            self.tasks.remove(id);
            self.task_holds.remove(id);
        }
    }

    fn seen_holds(&mut self, seen: &Snapshot, decision: &Decision, at: Timestamp) {
        let (mut said, mut said_of_tasks) = (BTreeMap::new(), BTreeMap::new());
        let mut events = Vec::new();
        for (subject, hold) in &decision.holds {
            // The run's own lines tell these.
            let is_told = matches!(hold, Hold::Running { .. })
                || (matches!(hold, Hold::VerdictWaits { .. })
                    && matches!(seen.tinytask, Tinytask::Fresh { .. }));
            if is_told {
                continue;
            }
            let now = Said::Held(discriminant(hold));
            let before = match subject {
                Subject::Task(id) => self.task_holds.get(id),
                _ => self.holds.get(subject),
            };
            if before != Some(&now) {
                let mut event = StoryEvent {
                    hold: Some(hold.clone()),
                    ..StoryEvent::new(at, "hold")
                };
                match subject {
                    Subject::Task(id) => event.task = Some(*id),
                    Subject::Run(run) => event.run = Some(*run),
                    Subject::Queue(queue) => event.queue = Some(queue.clone().into()),
                    Subject::Provider(provider) => event.text.clone_from(provider),
                    Subject::Inbound(file) => event.text.clone_from(&file.name),
                    Subject::Everything => {}
                }
                events.push(event);
            }
            match subject {
                Subject::Task(id) => drop(said_of_tasks.insert(*id, now)),
                _ => drop(said.insert(subject.clone(), now)),
            }
        }
        for entry in &seen.inbound {
            let subject = Subject::Inbound(entry.key.clone());
            let before = self.holds.get(&subject);
            let is_new = before.is_none() && !said.contains_key(&subject);
            if is_new && matches!(entry.state, InboundState::Settled { .. }) {
                events.push(StoryEvent {
                    text: entry.key.name.clone(),
                    ..StoryEvent::new(at, "inbound")
                });
                said.insert(subject, Said::Settled);
            } else if let Some(before) = before {
                said.entry(subject).or_insert(*before);
            }
        }
        self.write_all(&events);
        self.holds = said;
        if seen.coverage == Coverage::Everything {
            self.task_holds = said_of_tasks;
            return;
        }
        // What a narrower look did not ask about is still as it was said.
        for id in seen.tasks.keys() {
            self.task_holds.remove(id);
        }
        self.task_holds.extend(said_of_tasks);
    }
}

/// The story's lines that `wanted` wants, oldest first; torn and foreign lines are passed over.
pub fn read_story(layout: &Layout, wanted: impl Fn(&StoryEvent) -> bool) -> Vec<StoryEvent> {
    let path = layout.log();
    let mut events = Vec::new();
    for path in [files::turned_over(&path), path] {
        let Ok(bytes) = files::read_bounded(&path, LIMIT) else {
            continue;
        };
        let lines = bytes
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice::<StoryEvent>(line).ok());
        events.extend(lines.filter(&wanted));
    }
    events
}
