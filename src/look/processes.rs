//! The runs on record, what is alive of each, pid files that are not ours, and what agents at work use up.
//!
//! Does not know what a trace means (`core::verdict` tells), and ends nothing.

use super::{Error, Looker, chain};
use crate::core::layout::RunDir;
use crate::core::model::{Millis, Now, Outcome, RunId, RunState, StoppedBy, Timestamp};
use crate::core::record::Marks;
use crate::core::{Alive, Observed, ObservedState, Run, Snapshot, Stranger, Vitals};
use crate::edge::{clock, control, files, process, runs};

/// Sweeps of one run; what is left then cannot be ended.
const SWEEPS: u32 = 3;

impl Looker {
    pub(super) fn processes(&mut self, seen: &mut Snapshot, now: &Now) -> Result<(), Error> {
        let (live, odd) = runs::list_live(&self.layout)?;
        seen.troubles.extend(
            odd.into_iter()
                .map(|name| format!(".calypso/live/{name} is no run's entry")),
        );
        let names = &mut self.memory.pid_files;
        let (strangers, odd) = runs::foreign_pid_files(&self.layout, &live, names, now.wall)?;
        seen.odd_pid_names = odd;
        for (subject, file) in strangers {
            let what = process::stranger(file.pid, file.modified, file.uid);
            seen.strangers.insert(
                subject,
                Stranger {
                    what,
                    modified: file.modified,
                    inode: file.inode,
                },
            );
        }
        self.memory.specs.keep(&live);
        for dir in live {
            match self.run(&dir) {
                Ok(run) => seen.runs.push(run),
                Err(error) => {
                    seen.cannot_read(dir.id.subject, chain(&error));
                    seen.runs.push(unreadable(dir));
                }
            }
        }
        let is_live = |run: &RunId| seen.runs.iter().any(|live| live.dir.id == *run);
        self.memory.swept.retain(|run, _| is_live(run));
        self.memory.leftovers.retain(|run, _| is_live(run));
        self.alive(seen);
        self.stopped(seen);
        Ok(())
    }

    /// A run that died unrecorded while somebody's `stop` lies there was stopped, not lost: `stop` signals an orphan's agent itself,
    /// which may be dead before any daemon has noted whose word that was.
    ///
    /// Interleaving survived: the wish is written before the signal, and asked for here after what is alive was seen, so a death
    /// that it caused always finds it.
    fn stopped(&self, seen: &mut Snapshot) {
        for run in seen
            .runs
            .iter_mut()
            .filter(|run| run.ended_by_daemon.is_none())
        {
            let wish = control::Control::Stop(run.dir.id.subject);
            let stopped = |uid| Outcome::Stopped(StoppedBy { uid, pid: None });
            run.ended_by_daemon = control::owner(&self.layout, &wish).map(stopped);
        }
    }

    fn run(&mut self, dir: &RunDir) -> Result<Run, runs::Error> {
        let runs::Seen {
            spec,
            state,
            observed,
        } = runs::observe_again(&self.layout, dir, &mut self.memory.specs)?;
        Ok(Run {
            spec,
            state,
            observed,
            ended_by_daemon: runs::read_ended(&self.layout, dir)?.map(|ended| ended.outcome),
            verdict: runs::read_verdict(&self.layout, dir)?,
            evidence: None,
            in_hand: self.memory.in_hand.contains(&dir.id),
            // What a process starts while it is being ended is seen by the next look only, and is worth another sweep.
            swept: self.memory.swept.get(&dir.id).is_some_and(|n| *n >= SWEEPS),
            vitals: Vitals::default(),
            dir: dir.clone(),
        })
    }

    /// Fills in what is alive of each run: nothing needs to be asked while the shim lives, or once it has told that nothing is
    /// left; the others share one scan of /proc.
    fn alive(&mut self, seen: &mut Snapshot) {
        let mut orphaned = Vec::new();
        for (index, run) in seen.runs.iter_mut().enumerate() {
            let sweeps = run.spec.as_ref().is_none_or(|spec| spec.limits.sweep);
            match run.state.as_ref().map(|state| &state.state) {
                Some(RunState::Ended { leftovers, .. }) => {
                    let is_same_boot = run
                        .state
                        .as_ref()
                        .is_some_and(|state| state.boot_id == clock::boot_id());
                    let leftovers = leftovers
                        .iter()
                        .filter(|l| sweeps && is_same_boot && process::is_alive(&l.process));
                    run.observed.alive = Some(Alive {
                        leftovers: leftovers.cloned().collect(),
                        ..Alive::default()
                    });
                }
                _ if run.observed.shim => run.observed.alive = Some(Alive::default()),
                // Nothing ran yet, or a record cannot be read by this version, and then nothing of it can be told.
                _ if run.spec.is_none() && !self.has_agent_lock(&run.dir) => {
                    run.observed.alive = (!run.observed.spec).then(Alive::default);
                }
                _ if run.spec.is_none() && run.observed.spec => {}
                _ => orphaned.push(index),
            }
        }
        let known = &self.memory.leftovers;
        let dead: Vec<_> = (orphaned.iter())
            .map(|index| {
                let run = &seen.runs[*index];
                process::DeadShim {
                    dir: &run.dir,
                    token: run.spec.as_ref().map(|spec| spec.token.as_str()),
                    state: run.state.as_ref(),
                    known: known.get(&run.dir.id).map_or(&[][..], Vec::as_slice),
                }
            })
            .collect();
        let found = process::leftovers(&self.layout, &dead);
        for (index, alive) in orphaned.into_iter().zip(found) {
            let run = &mut seen.runs[index];
            if let Some(alive) = &alive {
                let sure = alive.leftovers.iter().map(|l| l.process.clone()).collect();
                self.memory.leftovers.insert(run.dir.id, sure);
            }
            run.observed.alive = alive.map(|mut alive| {
                if run.spec.as_ref().is_some_and(|spec| !spec.limits.sweep) {
                    alive.leftovers.clear();
                    alive.doubtful.clear();
                }
                alive
            });
        }
        for run in &mut seen.runs {
            let marks = || {
                runs::read_marks(&self.layout, run.dir.id.subject)
                    .ok()
                    .flatten()
                    .unwrap_or_default()
            };
            if let Some(alive) = run
                .observed
                .alive
                .as_mut()
                .filter(|alive| !alive.is_nothing())
            {
                let Marks { released, .. } = marks();
                alive.leftovers.retain(|l| !released.contains(&l.process));
                alive.doubtful.retain(|l| !released.contains(&l.process));
            }
        }
    }

    /// Where it is missing, no agent of that run ever was.
    fn has_agent_lock(&self, dir: &RunDir) -> bool {
        let lock = self.layout.run(dir).agent_lock();
        files::identity(&lock).map_or(true, |found| found.is_some())
    }

    /// What the agents of live runs are up to, for `status`.
    pub fn vitals(&self, seen: &mut Snapshot, now: &Now) {
        for run in &mut seen.runs {
            let Some(state) = &run.state else { continue };
            let RunState::Running { agent } = &state.state else {
                continue;
            };
            if state.boot_id != now.boot_id {
                continue;
            }
            let since = state.running.as_ref().map_or(Millis(0), |m| m.age(now));
            let vitals = process::vitals(agent);
            run.vitals = Vitals {
                agent_pid: Some(agent.pid),
                cpu_percent: vitals
                    .filter(|_| since.0 > 0)
                    .map(|(cpu, _)| cpu.0 as f64 * 100.0 / since.0 as f64),
                rss_kb: vitals.map(|(_, rss)| rss),
                last_sign: self.last_sign(run),
            };
        }
    }

    fn last_sign(&self, run: &Run) -> Option<Timestamp> {
        let output = files::modified(&self.layout.run(&run.dir).output());
        let folder = run
            .dir
            .id
            .subject
            .task()
            .and_then(|id| files::modified(&self.layout.task_folder(id)));
        output.max(folder)
    }
}

/// A run whose records this program cannot read: nothing is known, so nothing is done.
fn unreadable(dir: RunDir) -> Run {
    Run {
        dir,
        spec: None,
        state: None,
        observed: Observed {
            spec: true,
            pid_file: false,
            shim: false,
            state: ObservedState::None,
            alive: None,
        },
        ended_by_daemon: None,
        verdict: None,
        evidence: None,
        in_hand: false,
        swept: false,
        vitals: Vitals::default(),
    }
}
