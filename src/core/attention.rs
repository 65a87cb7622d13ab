//! Which queues the next look asks tinytask about: those that something happened to.
//!
//! Where nobody tells which tasks changed (tinytask is on another machine, say), every wake is about all of them, and this is no more
//! than a flag. Where its database is at hand, a look costs what changed and not what there is.
//!
//! No wake may be lost by asking less. A task that waits does so for one of these, and each is heard of:
//!
//! | waits for | its queue is asked |
//! |---|---|
//! | tinytask to say something else | when its rows change ([`News::Queue`]) |
//! | its folder, or a comment | when that comes or changes ([`News::Task`]) |
//! | a run: its own, one that touched it, the one with the slot, the one that probes a provider, somebody else's | when a run, or a pid file, changes ([`News::Runs`]) |
//! | a program to be there, a record to be readable, a process to be seen | at each rescan ([`News::Machine`]) |
//! | a time | when that has come ([`News::Time`]) |
//! | a person's word, a recipe, a program, tinytask itself | with all others |
//!
//! Queues of runs that are over, and the dispatcher's while requests wait, are asked by each look of its own accord. And a slow look at
//! everything corrects whatever this has wrong.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{QueueName, TaskId, Timestamp};
use super::{Action, Coverage, Decision, Hold, Snapshot, Subject, Tinytask};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum News {
    /// Nobody can tell what it changes.
    Anything,
    /// Open tasks of this queue came, went or changed.
    Queue(QueueName),
    /// The folder of this task came, went or changed; somebody commented on it.
    Task(TaskId),
    /// A run or a pid file came, went or changed.
    Runs,
    /// Time for what no event tells of.
    Machine,
    /// It is this late.
    Time(Timestamp),
}

/// The queues to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    All,
    Only(BTreeSet<QueueName>),
}

/// What has happened since tinytask was last asked, and what it could matter to.
#[derive(Debug)]
pub struct Attention {
    is_all: bool,
    queues: BTreeSet<QueueName>,
    /// Queues with a task that waits for a run.
    for_runs: BTreeSet<QueueName>,
    /// Queues with a task that waits for something on this machine that no event tells of.
    for_machine: BTreeSet<QueueName>,
    /// Tasks that wait for something that is told by their number; when their folders last changed.
    tasks: BTreeMap<TaskId, (QueueName, Option<Timestamp>)>,
    /// The earliest time that tasks of a queue wait for.
    times: BTreeMap<QueueName, Timestamp>,
    /// The earliest time that anything waits for that the last look knew of; what runs and files wait for is told anew by each.
    wake_at: Option<Timestamp>,
}

impl Default for Attention {
    /// Nothing was ever asked.
    fn default() -> Self {
        Self {
            is_all: true,
            queues: BTreeSet::new(),
            for_runs: BTreeSet::new(),
            for_machine: BTreeSet::new(),
            tasks: BTreeMap::new(),
            times: BTreeMap::new(),
            wake_at: None,
        }
    }
}

impl Attention {
    /// Takes it in, for the next look.
    pub fn hear(&mut self, news: News) {
        match news {
            News::Anything => self.is_all = true,
            News::Queue(queue) => drop(self.queues.insert(queue)),
            News::Task(task) => {
                let queue = self.tasks.get(&task).map(|(queue, _)| queue);
                self.queues.extend(queue.cloned());
            }
            News::Runs => self.queues.extend(self.for_runs.iter().cloned()),
            News::Machine => self.queues.extend(self.for_machine.iter().cloned()),
            News::Time(now) => {
                let due = self.times.extract_if(.., |_, at| *at <= now);
                self.queues.extend(due.map(|(queue, _)| queue));
                self.wake_at = self.wake_at.filter(|at| *at > now);
            }
        }
    }

    /// Would a look now ask tinytask about something that happened?
    pub fn is_called_for(&self) -> bool {
        self.is_all || !self.queues.is_empty()
    }

    /// What a look that begins now has to ask.
    pub fn asked(&self) -> Asked {
        if self.is_all {
            Asked::All
        } else {
            Asked::Only(self.queues.clone())
        }
    }

    /// The same, for a look that begins now. What happens from here on is for the one after it.
    pub fn take(&mut self) -> Asked {
        let asked = self.asked();
        self.queues.clear();
        self.is_all = false;
        asked
    }

    /// Learns from a look, and from what was decided on it, what its tasks wait for.
    pub fn looked(&mut self, seen: &Snapshot, decision: &Decision) {
        if let Tinytask::Unreachable { .. } | Tinytask::Suspicious { .. } = seen.tinytask {
            self.is_all = true;
        }
        self.wake_at = decision.wake_at;
        match &seen.coverage {
            Coverage::Nothing => return,
            Coverage::Queues(covered) => {
                self.for_runs.retain(|queue| !covered.contains(queue));
                self.for_machine.retain(|queue| !covered.contains(queue));
                self.times.retain(|queue, _| !covered.contains(queue));
                self.tasks.retain(|_, (queue, _)| !covered.contains(queue));
            }
            Coverage::Everything => {
                self.for_runs.clear();
                self.for_machine.clear();
                self.times.clear();
                self.tasks.clear();
            }
        }
        let told = decision.wake_queues.iter();
        self.times
            .extend(told.map(|(queue, at)| (queue.clone(), *at)));
        for (subject, hold) in &decision.holds {
            let Subject::Task(id) = subject else { continue };
            let Some(queue) = seen.tasks.get(id).and_then(|task| task.queue()) else {
                continue;
            };
            let waits = Waits::of(hold);
            if waits.run {
                self.for_runs.insert(queue.clone());
            }
            if waits.machine {
                self.for_machine.insert(queue.clone());
            }
            if waits.task {
                let changed = seen.folders.get(id).copied();
                self.tasks.insert(*id, (queue, changed));
            }
        }
    }

    /// Tasks that wait for something in their folders, and when these had last changed when they were looked at; `None`: they were
    /// not there.
    pub fn folders(&self) -> impl Iterator<Item = (TaskId, Option<Timestamp>)> + '_ {
        self.tasks.iter().map(|(id, (_, changed))| (*id, *changed))
    }

    /// Learns what a round did, or tried: the next look finds what follows from it.
    pub fn acted(&mut self, seen: &Snapshot, decision: &Decision) {
        for action in &decision.actions {
            match action {
                // All that could be started was decided on together with it.
                Action::Launch(_) => {}
                Action::RecordVerdict { run, verdict } | Action::FinishVerdict { run, verdict } => {
                    self.hear(News::Queue(run.queue.clone()));
                    self.hear(News::Runs);
                    for task in &verdict.tasks {
                        let queue = seen.task_now(task.key.id).and_then(|task| task.queue());
                        self.queues.extend(queue);
                    }
                }
                // It was the attempt of a launch: what it was for has no run and no hold.
                Action::ClearLitter { run } => {
                    self.hear(News::Queue(run.queue.clone()));
                    self.hear(News::Runs);
                }
                Action::Stop { .. }
                | Action::Sweep { .. }
                | Action::ClearPidFile { .. }
                | Action::ClearStranger { .. }
                | Action::ClearStop { .. } => self.hear(News::Runs),
                Action::CreateFolder { task } => self.hear(News::Task(*task)),
                Action::RecordMark { .. } | Action::PutBack { .. } => self.hear(News::Anything),
            }
        }
    }

    /// When to look again although nothing was heard; then [`News::Time`] is to be heard.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.times.values().copied().chain(self.wake_at).min()
    }
}

/// What can end the wait of a task, besides tinytask, a time, and a person.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Waits {
    run: bool,
    task: bool,
    machine: bool,
}

impl Waits {
    fn of(hold: &Hold) -> Self {
        let nothing = Self::default();
        match hold {
            // Rows of tinytask, people, settings or times end these, and each of them is heard of by itself.
            Hold::TinytaskUnreachable { .. }
            | Hold::TinytaskSuspicious { .. }
            | Hold::Paused
            | Hold::QueuePaused { .. }
            | Hold::NoRecipe
            | Hold::BrokenRecipe { .. }
            | Hold::NoTaskId { .. }
            | Hold::BlockedBy { .. }
            | Hold::OpenSubtasks { .. }
            | Hold::NotAssigned { .. }
            | Hold::BackingOff { .. }
            | Hold::TooManyRuns { .. }
            | Hold::LostTooOften { .. }
            | Hold::StoppedByPerson { .. }
            | Hold::HeldByFile => nothing,
            Hold::NoProgram { .. } | Hold::UnreadableRecords { .. } => Self {
                machine: true,
                ..nothing
            },
            Hold::NoFolder | Hold::Parked { .. } => Self {
                task: true,
                ..nothing
            },
            Hold::AwaitingFiles { .. } => Self {
                run: true,
                task: true,
                ..nothing
            },
            Hold::Unknown { .. } | Hold::RunningOutside { .. } | Hold::OddPidFile { .. } => Self {
                run: true,
                machine: true,
                ..nothing
            },
            Hold::Environment { .. }
            | Hold::Provider { .. }
            | Hold::Running { .. }
            | Hold::NoSlot { .. }
            | Hold::MaxRuns { .. }
            | Hold::StopAsked
            | Hold::RunNotOver { .. }
            | Hold::StillAlive { .. }
            | Hold::VerdictWaits { .. }
            // It may be put back once no verdict is under way.
            | Hold::WorkingElsewhere => Self {
                run: true,
                ..nothing
            },
            // Files in inbound/ are looked at by each look.
            Hold::Settling { .. }
            | Hold::OddFile { .. }
            | Hold::DispatchedNotMoved { .. }
            | Hold::FileBackingOff { .. }
            | Hold::FileParked { .. }
            | Hold::NoDispatcher { .. }
            | Hold::DispatcherNeedsTask { .. } => nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::decide::decide;
    use crate::core::given::{World, ended, id, now, queue, run, time, world};
    use crate::core::model::Outcome;

    /// Looks at this world once, as if only these queues had been asked; says what was decided.
    fn look(attention: &mut Attention, world: World, asked: &[&str]) -> (Snapshot, Decision) {
        let covered = asked.iter().map(|name| queue(name)).collect();
        let World { seen, policy } = world.but(|seen| {
            seen.coverage = Coverage::Queues(covered);
            seen.tasks
                .retain(|_, task| asked.contains(&task.assigned_to.as_deref().unwrap_or_default()));
        });
        let decision = decide(&seen, &policy, &now(0));
        attention.looked(&seen, &decision);
        (seen, decision)
    }

    fn only(names: &[&str]) -> Asked {
        Asked::Only(names.iter().map(|name| queue(name)).collect())
    }

    #[test]
    fn at_first_everything_is_asked_then_only_what_is_heard_of() {
        let mut attention = Attention::default();
        assert_eq!(attention.take(), Asked::All);
        assert!(!attention.is_called_for());
        assert_eq!(attention.take(), only(&[]));
        attention.hear(News::Queue(queue("coder")));
        assert!(attention.is_called_for());
        assert_eq!(attention.take(), only(&["coder"]));
    }

    #[test]
    fn a_task_that_waits_for_a_run_is_asked_about_when_one_changes() {
        let mut attention = Attention::default();
        attention.take();
        let world = world()
            .recipe("coder", &[])
            .recipe("devops", &[])
            .run(run("1/1", "coder"))
            .task(1, "coder")
            .task(2, "coder")
            .task(3, "devops");
        drop(look(&mut attention, world, &["coder", "devops"]));
        attention.hear(News::Machine);
        assert_eq!(attention.take(), only(&[]));
        attention.hear(News::Runs);
        assert_eq!(attention.take(), only(&["coder"]));
    }

    #[test]
    fn a_task_that_waits_for_its_folder_is_asked_about_when_that_comes_and_no_more_once_it_has_it()
    {
        let mut attention = Attention::default();
        attention.take();
        let without = world()
            .recipe("coder", &[])
            .task(1, "coder")
            .but(|seen| seen.folders.clear());
        drop(look(&mut attention, without, &["coder"]));
        assert_eq!(attention.folders().collect::<Vec<_>>(), [(id(1), None)]);
        attention.hear(News::Task(id(2)));
        assert_eq!(attention.take(), only(&[]));
        attention.hear(News::Task(id(1)));
        assert_eq!(attention.take(), only(&["coder"]));
        let with = world().recipe("coder", &[]).task(1, "coder");
        drop(look(&mut attention, with, &["coder"]));
        attention.hear(News::Task(id(1)));
        assert_eq!(attention.take(), only(&[]));
    }

    #[test]
    fn a_queue_is_asked_when_the_time_has_come_that_its_tasks_wait_for_and_no_other_is() {
        let mut attention = Attention::default();
        attention.take();
        let covering = |asked: &[&str]| Snapshot {
            coverage: Coverage::Queues(asked.iter().map(|name| queue(name)).collect()),
            ..world().seen
        };
        let waits = |queues: &[(&str, i64)], any: Option<i64>| Decision {
            wake_at: any.map(time),
            wake_queues: (queues.iter())
                .map(|(name, at)| (queue(name), time(*at)))
                .collect(),
            ..Decision::default()
        };
        let both = waits(&[("coder", 9), ("devops", 20)], Some(9));
        attention.looked(&covering(&["coder", "devops"]), &both);
        // A look at another queue, while a run waits for a time of its own, and one after that is over.
        attention.looked(&covering(&["product"]), &waits(&[], Some(5)));
        assert_eq!(attention.wake_at(), Some(time(5)));
        attention.hear(News::Time(time(5)));
        assert_eq!(attention.wake_at(), Some(time(9)));
        attention.looked(&covering(&["product"]), &waits(&[], None));
        attention.hear(News::Time(time(9)));
        assert_eq!(attention.take(), only(&["coder"]));
        assert_eq!(attention.wake_at(), Some(time(20)));
        attention.looked(&covering(&["coder", "devops"]), &waits(&[], None));
        assert_eq!(attention.wake_at(), None, "they wait no more");
    }

    #[test]
    fn after_a_verdict_the_queues_of_its_tasks_and_whoever_waited_for_a_run_are_asked() {
        let mut attention = Attention::default();
        attention.take();
        let over = ended("1/1", "architect", Outcome::Exited(0));
        let world = world()
            .recipe("architect", &[])
            .recipe("product", &[])
            .run(over)
            .task(1, "product")
            .detail(1, 3);
        let (seen, decision) = look(&mut attention, world, &["architect", "product"]);
        assert!(
            matches!(decision.actions[..], [Action::RecordVerdict { .. }]),
            "{:?}",
            decision.actions
        );
        attention.acted(&seen, &decision);
        assert_eq!(attention.take(), only(&["architect", "product"]));
    }

    #[test]
    fn what_a_failed_launch_left_behind_is_news_of_its_queue_once_it_is_cleared() {
        let mut attention = Attention::default();
        attention.take();
        let litter = Action::ClearLitter {
            run: run("1/1", "coder").dir,
        };
        let decision = Decision {
            actions: vec![litter],
            ..Decision::default()
        };
        attention.acted(&world().seen, &decision);
        assert_eq!(attention.take(), only(&["coder"]));
    }

    #[test]
    fn a_tinytask_that_does_not_answer_makes_everything_news() {
        let mut attention = Attention::default();
        attention.take();
        let seen = Snapshot {
            tinytask: Tinytask::Unreachable {
                since: crate::core::given::moment(0),
                error: "refused".into(),
                hint: None,
            },
            ..Snapshot::default()
        };
        attention.looked(&seen, &Decision::default());
        assert_eq!(attention.take(), Asked::All);
    }
}
