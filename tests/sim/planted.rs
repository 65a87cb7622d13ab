//! Worlds with a planted bug, one for each law: a law that cannot be broken proves nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use calypso_watch::core::decide::decide;
use calypso_watch::core::layout::RunDir;
use calypso_watch::core::model::{Leftover, Now, RunId, RunSubject};
use calypso_watch::core::{
    Action, Alive, Decision, Evidence, Hold, Policy, Snapshot, StrangerKind, Subject,
};

use crate::world::Decide;

/// The shim links over another's pid file.
pub(crate) const SHIM_TAKES_ANY_TASK: u8 = 1;
/// A write is repeated without a look whether it was made.
pub(crate) const SAYS_IT_AGAIN: u8 = 2;
/// Nothing is ever launched.
pub(crate) const SHIM_FAILS: u8 = 3;
/// The agent's first instruction comes before its pid file.
pub(crate) const GATE_LEFT_OPEN: u8 = 4;
/// Agents that cost money and do nothing, whatever they are.
pub(crate) const AGENTS_DO_NOTHING: u8 = 5;
/// Agents of two queues that send each other's work back for ever.
pub(crate) const AGENTS_SEND_BACK: u8 = 6;
/// What changed in a queue's rows is read and not passed on.
pub(crate) const DEAF_TO_QUEUES: u8 = 7;

/// The law that has to be found broken, and what breaks it.
pub(crate) const PLANTED: [(&str, Decide, u8); 20] = [
    (
        "one live run for a task",
        launches_twice,
        SHIM_TAKES_ANY_TASK,
    ),
    ("never above a queue's limit", forgets_limits, 0),
    ("never above max_runs", forgets_max_runs, 0),
    (
        "a pid file before the first instruction",
        decide,
        GATE_LEFT_OPEN,
    ),
    (
        "the next hop waits for the run that touched the task",
        forgets_who_touched,
        0,
    ),
    ("files and tinytask agree on a launch", forgets_strangers, 0),
    ("a wait that only time ends has a wake", never_wakes, 0),
    (
        "deciding again after acting adds nothing",
        repeats_itself,
        0,
    ),
    ("acting comes to an end", never_rests, 0),
    ("no wake is lost by asking less", decide, DEAF_TO_QUEUES),
    ("every wait has a hold", forgets_a_hold, 0),
    ("a live stranger's pid file stays", clears_strangers, 0),
    ("no signal to a stranger", sweeps_strangers, 0),
    ("nothing is said twice", decide, SAYS_IT_AGAIN),
    ("no run is ended before its time", trusts_the_wall_clock, 0),
    ("no verdict before the end", judges_early, 0),
    (
        "few runs an hour fail through our fault",
        forgets_the_past,
        SHIM_FAILS,
    ),
    ("work converges once faults stop", holds_for_ever, 0),
    (
        "attempts of a stay are bounded",
        has_no_caps,
        AGENTS_DO_NOTHING,
    ),
    ("runs of a task are bounded", has_no_caps, AGENTS_SEND_BACK),
];

fn launches_twice(seen: &Snapshot, policy: &Policy, now: &Now) -> Decision {
    let mut decision = decide(seen, policy, now);
    let again: Vec<Action> = decision
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Launch(launch) => {
                let mut again = launch.clone();
                again.number += 1;
                Some(Action::Launch(again))
            }
            _ => None,
        })
        .collect();
    decision.actions.extend(again);
    decision
}

fn forgets_limits(seen: &Snapshot, policy: &Policy, now: &Now) -> Decision {
    let mut policy = policy.clone();
    for queue in policy.queues.values_mut() {
        queue.concurrency = queue.concurrency.map(|n| n + 1);
    }
    decide(seen, &policy, now)
}

fn forgets_max_runs(seen: &Snapshot, policy: &Policy, now: &Now) -> Decision {
    let policy = Policy {
        max_runs: policy.max_runs + 1,
        ..policy.clone()
    };
    decide(seen, &policy, now)
}

fn has_no_caps(seen: &Snapshot, policy: &Policy, now: &Now) -> Decision {
    let policy = Policy {
        max_attempts: u32::MAX,
        max_runs_per_task: u32::MAX,
        ..policy.clone()
    };
    decide(seen, &policy, now)
}

fn forgets_who_touched(seen: &Snapshot, policy: &Policy, now: &Now) -> Decision {
    let mut seen = seen.clone();
    for run in &mut seen.runs {
        if let Some(spec) = &mut run.spec
            && run.dir.id.subject != RunSubject::Inbound
        {
            let spec = Arc::make_mut(spec);
            (spec.baseline.tasks).retain(|task| Some(task.key) == spec.task);
        }
    }
    for task in seen.tasks.values_mut() {
        task.previous_assigned_to = None;
    }
    decide(&seen, policy, now)
}

fn forgets_strangers(seen: &Snapshot, policy: &Policy, now: &Now) -> Decision {
    let mut seen = seen.clone();
    seen.strangers.clear();
    decide(&seen, policy, now)
}

fn never_wakes(seen: &Snapshot, policy: &Policy, now: &Now) -> Decision {
    Decision {
        wake_at: None,
        wake_queues: BTreeMap::new(),
        ..decide(seen, policy, now)
    }
}

fn repeats_itself(seen: &Snapshot, policy: &Policy, now: &Now) -> Decision {
    let mut decision = decide(seen, policy, now);
    decision.actions.push(Action::ClearStop {
        subject: RunSubject::Inbound,
    });
    decision
}

fn never_rests(seen: &Snapshot, policy: &Policy, now: &Now) -> Decision {
    let mut decision = decide(seen, policy, now);
    let folders = seen.folders.keys();
    decision
        .actions
        .extend(folders.map(|task| Action::CreateFolder { task: *task }));
    decision
}

fn forgets_a_hold(seen: &Snapshot, policy: &Policy, now: &Now) -> Decision {
    let mut decision = decide(seen, policy, now);
    let is_no_slot = |hold: &Hold| matches!(hold, Hold::NoSlot { .. });
    decision.holds.retain(|(_, hold)| !is_no_slot(hold));
    decision
}

fn clears_strangers(seen: &Snapshot, policy: &Policy, now: &Now) -> Decision {
    let mut decision = decide(seen, policy, now);
    let alive = seen
        .strangers
        .iter()
        .filter(|(_, stranger)| matches!(stranger.what, StrangerKind::Alive { .. }));
    decision
        .actions
        .extend(alive.map(|(subject, stranger)| Action::ClearStranger {
            subject: *subject,
            inode: stranger.inode,
            modified: stranger.modified,
        }));
    decision
}

fn sweeps_strangers(seen: &Snapshot, policy: &Policy, now: &Now) -> Decision {
    let mut decision = decide(seen, policy, now);
    for (subject, stranger) in &seen.strangers {
        if let StrangerKind::Alive { process, comm, .. } = &stranger.what {
            let id = RunId {
                subject: *subject,
                number: 1,
            };
            decision.actions.push(Action::Sweep {
                run: RunDir {
                    id,
                    queue: policy.inbound_queue.clone(),
                },
                leftovers: vec![Leftover {
                    process: process.clone(),
                    comm: comm.clone(),
                }],
            });
        }
    }
    decision
}

fn judges_early(seen: &Snapshot, policy: &Policy, now: &Now) -> Decision {
    let mut seen = seen.clone();
    for run in &mut seen.runs {
        run.observed.shim = false;
        run.observed.pid_file = false;
        run.observed.alive = Some(Alive::default());
        run.evidence.get_or_insert_with(Evidence::default);
    }
    decide(&seen, policy, now)
}

fn forgets_the_past(seen: &Snapshot, policy: &Policy, now: &Now) -> Decision {
    let mut seen = seen.clone();
    seen.recent.clear();
    for history in seen.histories.values_mut() {
        history.make_mut().verdicts.clear();
    }
    for run in &mut seen.runs {
        if let Some(spec) = &mut run.spec {
            Arc::make_mut(spec).attempt = 1;
        }
    }
    decide(&seen, policy, now)
}

fn trusts_the_wall_clock(seen: &Snapshot, policy: &Policy, now: &Now) -> Decision {
    let mut seen = seen.clone();
    for state in seen.runs.iter_mut().filter_map(|run| run.state.as_mut()) {
        for moment in [Some(&mut state.started), state.running.as_mut()]
            .into_iter()
            .flatten()
        {
            let age = now.wall.since(moment.wall);
            moment.boot.0 = now.boot.0.saturating_sub(age.0);
        }
    }
    decide(&seen, policy, now)
}

fn holds_for_ever(seen: &Snapshot, policy: &Policy, now: &Now) -> Decision {
    let mut decision = decide(seen, policy, now);
    let mut held = Vec::new();
    decision.actions.retain(|action| match action {
        Action::Launch(launch) if launch.queue.as_str() == "tester" => {
            held.extend(launch.subject.task());
            false
        }
        _ => true,
    });
    for task in held {
        let hold = Hold::MaxRuns {
            limit: policy.max_runs,
        };
        decision.holds.push((Subject::Task(task), hold));
    }
    decision
}
