//! Between two looks: what wakes the daemon, and whether that calls for another look.

use std::collections::BTreeSet;
use std::process::Child;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tracing::warn;

use super::timers::Timers;
use super::{Builtin, Daemon, MANY, lock};
use crate::core::attention::News;
use crate::core::model::{Millis, Moment, Now, Timestamp};
use crate::edge::watch::{self, Watch};
use crate::edge::{clock, machine, process};
use crate::look;

/// Milliseconds: by more, the wall clock was set; less is how it is kept right.
const CLOCK_STEP: u64 = 1000;

/// After so long without a look nothing is being started that what can wait would keep from the processor.
const QUIET: Duration = Duration::from_millis(30);

impl Daemon {
    /// Returns when another look is called for; with the reason, when it is time to leave.
    pub(super) async fn wait(
        &mut self,
        signals: &mut Signals,
        watch: &mut Watch,
        timers: &mut Timers,
    ) -> Option<&'static str> {
        let mut is_settled = self.options.shim.spare().is_some()
            && !self.looker.memory.wants_indexing()
            && !self.wants_blank();
        loop {
            // A rescan that calls for no look may have said so.
            is_settled &= !self.has_to_give_back;
            let wake_at = self.attention.wake_at();
            let is_called_for = tokio::select! {
                biased;
                _ = signals.term.recv() => return Some("TERM"),
                _ = signals.int.recv() => return Some("INT"),
                wake = watch.next() => self.woken(&wake, watch, timers),
                () = self.bell.notified() => {
                    self.attention.hear(News::Runs);
                    true
                }
                Some(done) = self.done.1.recv() => {
                    self.is_done(&done);
                    self.attention.hear(News::Runs);
                    true
                }
                () = over(self.builtin.as_ref()) => {
                    if let Some(builtin) = &mut self.builtin {
                        builtin.is_over();
                    }
                    // The look finds it unreachable, and so it is started again.
                    self.wants_everything = true;
                    true
                }
                _ = signals.hup.recv() => {
                    self.stuck.clear();
                    self.reload();
                    self.wants_everything = true;
                    true
                }
                _ = signals.child.recv() => {
                    // By name first, as a shim may die before it is in a session of its own. What runs left, and adopted shims, are in
                    // others than ours, where a tinytask belongs to whoever started it.
                    self.shims.retain(|_, shim| matches!(shim.try_wait(), Ok(None)));
                    let spare = self.options.shim.spare();
                    let named: BTreeSet<u32> = self.shims.values().map(Child::id).chain(spare).collect();
                    process::reap_strays(|stat| {
                        stat.session != self.session && !named.contains(&stat.pid.cast_unsigned())
                    });
                    false
                }
                () = timers.due(wake_at) => self.timed(watch, timers),
                () = tokio::time::sleep(QUIET), if !is_settled => {
                    self.options.shim.have_spare();
                    self.index();
                    // One at a time: something may happen meanwhile.
                    is_settled = !self.make_blank();
                    if std::mem::take(&mut self.has_to_give_back) {
                        self.looks = 0;
                        self.looker.memory.pack();
                        machine::give_back_memory();
                    }
                    false
                }
            };
            if is_called_for {
                return None;
            }
        }
    }

    /// Whether a wake calls for a look; what it is to ask is in `attention`.
    fn woken(&mut self, wake: &watch::Wake, watch: &Watch, timers: &mut Timers) -> bool {
        for what in &wake.lost {
            warn!(what, "watching was disturbed");
            if self.lock.place() == lock::Place::Ours {
                self.journal.lost(what);
            }
        }
        self.event = wake.first_event.map(at_moment);
        let areas = wake.areas;
        let is_told = self.is_told(watch);
        // Also after a look at everything, which may come before the commit is visible; and what was lost may have told of one.
        if areas.database || areas.rescan {
            timers.database(is_told);
        }
        if areas.config || areas.recipes || areas.rescan {
            self.stuck.clear();
            self.reload();
            self.wants_everything = true;
            return true;
        }
        if areas.database && is_told {
            // Mostly too early, but not always: a server that does not wait for its disk is as quick as we are.
            self.read_hint(timers, false);
        }
        if !is_told || areas.control {
            self.attention.hear(News::Anything);
            return true;
        }
        if areas.running {
            self.attention.hear(News::Runs);
        }
        for task in &wake.tasks {
            self.attention.hear(News::Task(*task));
        }
        areas.inbound || areas.running || self.attention.is_called_for()
    }

    /// Whether a timer that came calls for a look.
    fn timed(&mut self, watch: &mut Watch, timers: &mut Timers) -> bool {
        let is_told = self.is_told(watch);
        let (is_rescan_due, is_everything_due) = timers.slow_ones(Instant::now());
        let mut is_called_for = is_everything_due;
        if is_rescan_due {
            watch.verify();
            is_called_for |= self.rescan(timers);
        }
        if is_everything_due {
            self.stuck.clear();
            self.wants_everything = true;
        }
        if is_rescan_due || is_everything_due {
            return is_called_for;
        }
        match timers.take_database() {
            Some(is_last) if is_told => {
                self.read_hint(timers, is_last);
                if is_last && let Some(hint) = &mut self.looker.hint {
                    hint.rest();
                }
                self.attention.is_called_for()
            }
            Some(_) => {
                self.attention.hear(News::Anything);
                true
            }
            None => {
                if timers.is_time_to_retry() {
                    self.attention.hear(News::Anything);
                }
                self.attention.hear(News::Time(clock::wall()));
                true
            }
        }
    }

    /// Is every change of tinytask's told, by its database? Else each wake is about everything.
    pub(super) fn is_told(&self, watch: &Watch) -> bool {
        watch.hears_database(self.looker.server.db.as_deref())
    }

    /// Hears what changed in tinytask's database.
    fn read_hint(&mut self, timers: &mut Timers, is_last: bool) {
        let Some(hint) = &mut self.looker.hint else {
            return;
        };
        match hint.changes(is_last) {
            Some(news) => news.into_iter().for_each(|news| self.attention.hear(news)),
            None => {
                timers.cannot_read_database();
                self.attention.hear(News::Anything);
            }
        }
    }

    /// What no event told: files that changed, folders of tasks that wait for something in them, and what has no events. Whether it calls
    /// for a look; where it does not, this was one as far as others can tell.
    fn rescan(&mut self, timers: &mut Timers) -> bool {
        self.attention.hear(News::Machine);
        let changed: Vec<_> = (self.attention.folders())
            .filter(|(task, known)| self.looker.folder(*task) != *known)
            .collect();
        for (task, _) in changed {
            self.attention.hear(News::Task(task));
        }
        let now = clock::now();
        // Waits are told as times of the wall clock.
        let clocks = now.wall.0 - now.boot.0.cast_signed();
        if self
            .clocks
            .replace(clocks)
            .is_some_and(|before| before.abs_diff(clocks) > CLOCK_STEP)
        {
            self.attention.hear(News::Anything);
        }
        self.looker.memory.pack();
        let is_watched = |run| {
            let watching = self.watched.get(&run);
            watching.is_some_and(|watching| !watching.is_finished())
        };
        let found = self.looker.rescan(&now, is_watched);
        match found {
            look::Rescan::Settings => {
                self.stuck.clear();
                self.reload();
                self.wants_everything = true;
            }
            // A person's word, or a pid file, that no event told of.
            look::Rescan::Control => self.attention.hear(News::Anything),
            look::Rescan::PidFiles => self.attention.hear(News::Runs),
            look::Rescan::Files | look::Rescan::Still => {}
        }
        let is_still = found == look::Rescan::Still
            && self.lock.place() == lock::Place::Ours
            && self.trouble.is_none()
            && self.failing.is_empty()
            && !self.attention.is_called_for();
        if is_still {
            self.lock.touch();
            self.has_to_give_back |= self.looks > MANY;
        }
        timers.rescanned(self.looker.config.rescan);
        !is_still
    }
}

/// The end of the built-in tinytask, where there is one.
async fn over(builtin: Option<&Builtin>) {
    match builtin {
        Some(builtin) => builtin.over().await,
        None => std::future::pending().await,
    }
}

fn at_moment(wall: Timestamp) -> Moment {
    let now: Now = clock::now();
    let boot = Millis(now.boot.0.saturating_sub(now.wall.since(wall).0));
    Moment {
        wall,
        boot_id: now.boot_id,
        boot,
    }
}

/// What people and systemd say.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    child: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            child: signal(SignalKind::child())?,
        })
    }
}
