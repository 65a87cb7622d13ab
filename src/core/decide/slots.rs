//! Who gets a slot: launches, the queues' turns, and the holds of a provider or of a queue's recipe and machine.
//!
//! Does not know why a task or a file was not ready: what comes here only needs a slot.

use std::collections::{BTreeMap, BTreeSet};

use super::outage::in_a_row;
use super::{Candidate, Deciding, Requests};
use crate::core::model::{
    FileKey, Outcome, ProviderName, QueueName, Recipe, RunId, RunSubject, Task,
};
use crate::core::policy::{MOST_REQUEST_BYTES, probe_backoff, request_bytes};
use crate::core::record::{FailureClass, VerdictRecord};
use crate::core::{Action, Hold, Launch, Run, Subject};

impl<'a> Deciding<'a> {
    pub(super) fn launches(
        &mut self,
        requests: Requests,
        mut candidates: BTreeMap<QueueName, Vec<Candidate<'a>>>,
    ) {
        let mut used: BTreeMap<QueueName, Vec<RunId>> = BTreeMap::new();
        for (run, _) in self.live() {
            used.entry(run.dir.queue.clone())
                .or_default()
                .push(run.dir.id);
        }
        let mut total = used.values().map(Vec::len).sum::<usize>() as u32;
        for subject in self.seen.strangers.keys() {
            // Somebody's own run takes the place of ours, also one whose task's queue was not asked: else this look would start
            // what a look at everything holds.
            let hold = self.stranger_hold(*subject);
            if !matches!(hold, Some(Hold::RunningOutside { .. })) {
                continue;
            }
            total += 1;
            let queue = match subject {
                RunSubject::Inbound => Some(self.policy.inbound_queue.clone()),
                RunSubject::Task(id) => self.seen.tasks.get(id).and_then(Task::queue),
            };
            if let Some(queue) = queue {
                used.entry(queue).or_default().push(RunId {
                    subject: *subject,
                    number: 0,
                });
            }
        }
        let mut probing: BTreeSet<ProviderName> = BTreeSet::new();

        for queue in self.turns(&requests, &candidates) {
            let mut waiting = candidates.remove(&queue).unwrap_or_default().into_iter();
            let mut files = (queue == self.policy.inbound_queue)
                .then_some(&requests)
                .filter(|r| !r.files.is_empty());
            let recipe = self.seen.recipes.get(&queue).and_then(|r| r.as_ref().ok());
            let no_program = self
                .seen
                .no_program
                .get(&queue)
                .map(|why| Hold::NoProgram { why: why.clone() });
            if let Some(hold) = no_program.or_else(|| self.environment_hold(&queue, recipe)) {
                self.hold_rest(waiting, files, &hold);
                self.hold(Subject::Queue(queue), hold);
                continue;
            }
            let slots = self.policy.slots(&queue, recipe);
            let provider = self.policy.provider_of(&queue, recipe);
            let taken = used.entry(queue.clone()).or_default();
            // The dispatcher's two kinds of work take turns.
            let inbound_first = !self.last_was_inbound(&queue) || waiting.len() == 0;
            loop {
                if files.is_none() && waiting.len() == 0 {
                    break;
                }
                let hold = if taken.len() as u32 >= slots {
                    Some(Hold::NoSlot {
                        by: taken.clone(),
                        limit: slots,
                    })
                } else if total >= self.policy.max_runs {
                    Some(Hold::MaxRuns {
                        limit: self.policy.max_runs,
                    })
                } else {
                    self.provider_hold(&queue, &provider, &mut probing)
                };
                if let Some(hold) = hold {
                    self.hold_rest(waiting, files, &hold);
                    break;
                }
                let launch = if let Some(requests) =
                    files.take_if(|_| inbound_first || waiting.len() == 0)
                {
                    let launch = self.inbound_launch(&queue, requests, &provider);
                    let hold = Hold::NoSlot {
                        by: vec![launch.dir().id],
                        limit: 1,
                    };
                    for file in &requests.files[launch.files.len()..] {
                        self.hold(Subject::Inbound(file.clone()), hold.clone());
                    }
                    launch
                } else {
                    let Some(candidate) = waiting.next() else {
                        break;
                    };
                    self.task_launch(candidate, &provider)
                };
                taken.push(launch.dir().id);
                total += 1;
                self.out.actions.push(Action::Launch(launch));
            }
        }
    }

    /// Queues with work, the one whose last launch is longest ago first: when `max_runs` binds, all get their turn.
    fn turns(
        &self,
        requests: &Requests,
        candidates: &BTreeMap<QueueName, Vec<Candidate>>,
    ) -> Vec<QueueName> {
        let mut queues: BTreeSet<QueueName> = candidates.keys().cloned().collect();
        if !requests.files.is_empty() {
            queues.insert(self.policy.inbound_queue.clone());
        }
        let last = |queue: &QueueName| {
            let judged = self
                .seen
                .recent
                .iter()
                .filter(|v| v.queue == *queue)
                .filter_map(|v| v.started.as_ref())
                .map(|m| m.wall);
            let live = self
                .live()
                .filter(|(run, _)| run.dir.queue == *queue)
                .filter_map(|(run, _)| run.spec.as_ref());
            judged.chain(live.map(|spec| spec.times.written.wall)).max()
        };
        let mut queues: Vec<_> = queues
            .into_iter()
            .map(|queue| (last(&queue), queue))
            .collect();
        queues.sort();
        queues.into_iter().map(|(_, queue)| queue).collect()
    }

    fn newest_first(&self) -> impl Iterator<Item = &'a VerdictRecord> + use<'a> {
        self.seen.recent.iter().rev().map(AsRef::as_ref)
    }

    fn last_was_inbound(&self, queue: &QueueName) -> bool {
        self.newest_first()
            .find(|v| v.queue == *queue)
            .is_some_and(|v| v.run.subject == RunSubject::Inbound)
    }

    fn hold_rest(
        &mut self,
        waiting: impl Iterator<Item = Candidate<'a>>,
        files: Option<&Requests>,
        hold: &Hold,
    ) {
        for candidate in waiting {
            self.hold(Subject::Task(candidate.task.id), hold.clone());
        }
        for file in files.iter().flat_map(|requests| &requests.files) {
            self.hold(Subject::Inbound(file.clone()), hold.clone());
        }
    }

    fn task_launch(&self, candidate: Candidate, provider: &ProviderName) -> Launch {
        let Candidate {
            task,
            queue,
            standing,
        } = candidate;
        let subject = RunSubject::Task(task.id);
        let attempt = standing.failed + 1;
        let cause = match (&standing.last_reason, &task.previous_assigned_to) {
            (Some(reason), _) => format!("attempt {attempt}: the last run {reason}"),
            (None, Some(from)) => format!("handed on by {from}"),
            (None, None) => "waiting in its queue".to_owned(),
        };
        Launch {
            subject,
            number: self.next_number(subject),
            attempt,
            stay: standing.stay,
            cause,
            title: Some(task.title.clone()),
            files: Vec::new(),
            provider: Some(provider.clone()),
            time_limit: self.policy.time_limit_of(&queue),
            queue,
        }
    }

    /// At the very last number there is a directory already, which refuses the launch; nothing begins anew at 0.
    fn next_number(&self, subject: RunSubject) -> u32 {
        let last = self.seen.histories.get(&subject).map_or(0, |h| h.last_run);
        last.saturating_add(1)
    }

    fn inbound_launch(
        &self,
        queue: &QueueName,
        requests: &Requests,
        provider: &ProviderName,
    ) -> Launch {
        let subject = RunSubject::Inbound;
        let mut bytes = 0;
        let fits = |file: &&FileKey| {
            bytes += request_bytes(file);
            bytes <= MOST_REQUEST_BYTES
        };
        let files: Vec<FileKey> = requests.files.iter().take_while(fits).cloned().collect();
        let first = files.first().map_or("", |f| f.name.as_str());
        let cause = match files.len() {
            1 => format!("{first} in inbound"),
            n => format!("{first} and {} more in inbound", n - 1),
        };
        Launch {
            subject,
            queue: queue.clone(),
            number: self.next_number(subject),
            attempt: requests.attempts + 1,
            stay: 1,
            cause,
            title: None,
            files,
            provider: Some(provider.clone()),
            time_limit: self.policy.time_limit_of(queue),
        }
    }

    /// The queue's last run failed for a reason that lies in the recipe or the machine, and neither a change of the recipe
    /// nor enough time has come since.
    fn environment_hold(&mut self, queue: &QueueName, recipe: Option<&Recipe>) -> Option<Hold> {
        let failures = in_a_row(
            self.newest_first().filter(|v| v.queue == *queue),
            FailureClass::Environment,
            |_| false,
        );
        let (last, n) = failures?;
        if recipe.is_some_and(|r| r.modified > last.judged.wall) {
            return None;
        }
        let left = last.judged.left_of(probe_backoff(n), self.now);
        if left.0 == 0 {
            return None;
        }
        let until = self.now.wall.plus(left);
        self.wake_queue(queue, until);
        Some(Hold::Environment {
            reason: reason(last),
            until,
        })
    }

    /// One failure of a provider holds all its queues; after the wait one run at a time probes it.
    fn provider_hold(
        &mut self,
        queue: &QueueName,
        provider: &ProviderName,
        probing: &mut BTreeSet<ProviderName>,
    ) -> Option<Hold> {
        let of_provider = self
            .newest_first()
            .filter(|v| v.provider.as_ref() == Some(provider));
        // A run that failed for other reasons than its agent's work says nothing of the provider.
        let silent = |v: &VerdictRecord| {
            v.failure
                .as_ref()
                .is_some_and(|f| matches!(f.class, FailureClass::Environment | FailureClass::Ours))
                || matches!(v.outcome, Outcome::Stopped(_))
        };
        let (last, n) = in_a_row(of_provider, FailureClass::Provider, silent)?;
        let left = last.judged.left_of(probe_backoff(n), self.now);
        let until = self.now.wall.plus(left);
        // By the spec, which is there before the shim: the look right after a launch finds no state yet, and must not take
        // that for no probe.
        let is_probe = |run: &Run| {
            run.spec.as_ref().is_some_and(|spec| {
                let written = spec.times.written.age(self.now);
                spec.provider.as_ref() == Some(provider) && written < last.judged.age(self.now)
            })
        };
        let probe = (self.live())
            .find(|(run, _)| is_probe(run))
            .map(|(run, _)| run.dir.id);
        if left.0 == 0 && probe.is_none() && probing.insert(provider.clone()) {
            return None;
        }
        if left.0 > 0 {
            self.wake_queue(queue, until);
        }
        let hold = Hold::Provider {
            reason: reason(last),
            until,
            probing: probe,
        };
        if !self
            .out
            .holds
            .iter()
            .any(|(subject, _)| *subject == Subject::Provider(provider.clone()))
        {
            self.hold(Subject::Provider(provider.clone()), hold.clone());
        }
        Some(hold)
    }
}

fn reason(verdict: &VerdictRecord) -> String {
    verdict
        .failure
        .as_ref()
        .map_or_else(|| verdict.outcome.to_string(), |f| f.reason.clone())
}
