//! A pidfd for each process whose death no file tells.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tracing::warn;

use super::Daemon;
use crate::core::model::{Millis, RunId, RunState};
use crate::core::verdict::Meaning;
use crate::core::{Decision, Snapshot};
use crate::edge::{clock, process};

/// A shim that was just started says who it is within this, or refuses its spec, or is ended; and is looked at this often until then.
const SHIM_SAYS: Millis = Millis::secs(15);
const SHIM_LOOK: Duration = Duration::from_millis(100);

impl Daemon {
    /// A pidfd for each process whose death no file tells: shims, agents whose shim is dead, and what outlived its run.
    pub(super) fn watch_processes(&mut self, seen: &Snapshot, decision: &Decision) {
        let now = clock::now();
        let live: BTreeMap<RunId, _> = seen
            .runs
            .iter()
            .zip(&decision.meanings)
            .filter_map(|(run, meaning)| {
                let Some(state) = &run.state else {
                    // Not even begun to say who it is: nothing but another look tells whether it does, or ends without a word.
                    let spec = run.spec.as_ref().filter(|_| run.observed.shim)?;
                    let is_new = spec.times.written.age(&now) < SHIM_SAYS;
                    let mut is_watched = is_new;
                    if !is_new && let Some(shim) = self.shims.get_mut(&run.dir.id) {
                        // It stands still before its first record, and would refuse its spec if it went on. Not collected yet, so its
                        // number is its own.
                        warn!(run = %run.dir.id, "its shim does not say that it starts; it is ended");
                        shim.kill().ok();
                        is_watched = true;
                    }
                    return is_watched.then_some((run.dir.id, None));
                };
                let agent = run
                    .observed
                    .alive
                    .as_ref()
                    .and_then(|alive| alive.agent.clone());
                let left = || {
                    let alive = run.observed.alive.as_ref()?;
                    let first = alive.leftovers.first().or(alive.doubtful.first())?;
                    Some(first.process.clone())
                };
                let process = match (meaning, &state.state) {
                    // One after the other: the look after an end finds the next.
                    (Meaning::OrphanLeftovers | Meaning::StillAlive, _) => left()?,
                    (Meaning::Orphan | Meaning::SignalledAlive, _) if agent.is_some() => agent?,
                    (_, RunState::Starting | RunState::Running { .. }) if run.observed.shim => {
                        state.shim.clone()
                    }
                    _ => return None,
                };
                Some((run.dir.id, Some(process)))
            })
            .collect();
        self.watched.retain(|run, watching| {
            let keep = live.contains_key(run) && !watching.is_finished();
            if !keep {
                watching.abort();
            }
            keep
        });
        for (run, of) in live {
            if self.watched.contains_key(&run) {
                continue;
            }
            let bell = Rc::clone(&self.bell);
            let Some(of) = of else {
                let waiting = tokio::task::spawn_local(async move {
                    tokio::time::sleep(SHIM_LOOK).await;
                    bell.notify_one();
                });
                self.watched.insert(run, waiting);
                continue;
            };
            let pidfd = match process::Pidfd::open_checked(&of) {
                Ok(Some(pidfd)) => pidfd,
                Ok(None) => {
                    // Dead already, since the look: look again.
                    self.bell.notify_one();
                    continue;
                }
                Err(error) => {
                    warn!(%run, %error, "cannot watch its process; the rescan looks after it");
                    continue;
                }
            };
            let Ok(pidfd) = pidfd.watch() else { continue };
            let watching = tokio::task::spawn_local(async move {
                pidfd.over().await;
                bell.notify_one();
            });
            self.watched.insert(run, watching);
        }
    }
}
