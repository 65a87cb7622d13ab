//! The calm after the strikes, and the reckoning.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use camino::Utf8Path;

use super::Round;
use crate::edge::{clock, runs};
use crate::selftest::world::{Error, STAMPS, Stranger, within};

/// Within this everything is over once the faults have stopped. On a quiet machine it takes seconds.
const CALM_LIMIT: Duration = Duration::from_secs(180);

impl Round<'_> {
    /// No more faults. First everything but the stranger's task comes to its end, then that too; false where it does not.
    pub(super) fn calm(&mut self) -> Result<bool, Error> {
        let before = self
            .strangers
            .iter()
            .filter_map(Stranger::harm)
            .collect::<Vec<_>>();
        self.tally.wrong_kills += before.len() as u64;
        self.tally.findings.extend(before);
        let mut is_calm = self.settle(1)?;
        let harm = self.strangers.iter().filter_map(Stranger::harm).count() as u64;
        if harm > self.tally.wrong_kills {
            self.tally
                .findings
                .push("a bystander was harmed while all was calm".to_owned());
            self.tally.wrong_kills = harm;
        }
        // Nobody of ours may have started the task that a stranger works on.
        self.stamps
            .read(&self.world.layout.base().join(STAMPS))
            .ok();
        let taken = self.taken.to_string();
        if self.stamps.lives.values().any(|life| life.subject == taken) {
            self.tally.doubled += 1;
            self.tally.findings.push(format!(
                "task {taken} was started beside somebody's own run of it"
            ));
        }
        for mut stranger in std::mem::take(&mut self.strangers) {
            stranger.end(self.shared.nursery);
        }
        is_calm &= self.settle(0)?;
        Ok(is_calm)
    }

    /// Until at most `left` tasks are open and nothing runs.
    fn settle(&mut self, left: usize) -> Result<bool, Error> {
        let end = clock::boot_us() + CALM_LIMIT.as_micros() as u64;
        let pid_files = self.strangers.len().saturating_sub(1);
        loop {
            self.revive()?;
            self.look();
            let is_over = self.open.len() <= left
                && self.world.open_tasks().is_ok_and(|open| open.len() <= left)
                && self.world.requests().is_empty()
                && self
                    .world
                    .left_files()
                    .iter()
                    .filter(|file| !file.starts_with('.'))
                    .count()
                    <= pid_files;
            if is_over {
                return Ok(true);
            }
            if clock::boot_us() > end {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(super) fn judge(&mut self, is_calm: bool) {
        let limit = CALM_LIMIT.as_secs();
        if !is_calm {
            for id in self.open.keys() {
                self.tally.lost += 1;
                self.tally.findings.push(format!(
                    "task {id} is not complete {limit} s after the last death"
                ));
            }
            for name in self.world.requests() {
                self.tally.lost += 1;
                self.tally.findings.push(format!(
                    "request {name} is not taken {limit} s after the last death"
                ));
            }
        }
        if !self.world.quit() {
            self.tally.exits += 1;
            self.tally
                .findings
                .push("daemon or tinytask did not end on TERM".to_owned());
        }
        // What is on its way out gets the time that takes.
        within(Duration::from_secs(10), || self.world.marked().is_empty());
        let processes = self.world.marked();
        let files = self.world.left_files();
        self.tally.leftovers += (processes.len() + files.len()) as u64;
        for process in processes {
            let line = crate::edge::process::cmdline(process.pid).join(" ");
            self.tally
                .findings
                .push(format!("process {} is left: {line}", process.pid));
        }
        self.tally
            .findings
            .extend(files.into_iter().map(|file| format!("left behind: {file}")));

        self.stamps
            .read(&self.world.layout.base().join(STAMPS))
            .ok();
        self.tally.runs += self.stamps.lives.len() as u64;
        for life in self.stamps.lives.values().filter(|life| life.is_double) {
            self.tally.doubled += 1;
            self.tally.findings.push(format!(
                "two agents at once on {} ({}, at {} µs)",
                life.subject, life.queue, life.began
            ));
        }
        for (process, life) in self.stamps.cut_short() {
            if !self.killed.contains(&process) {
                self.tally.wrong_kills += 1;
                self.tally.findings.push(format!(
                    "agent {} of {} was ended by somebody else",
                    process.pid, life.subject
                ));
            }
        }
        // It ended by itself in the instant before the signal.
        let by_itself = self
            .dead_agents
            .iter()
            .filter(|agent| self.stamps.has_ended(agent))
            .count() as u64;
        if let Some(agents) = self.tally.deaths.get_mut("agent") {
            *agents -= by_itself;
            // Others die in their place, so that as many are killed as were asked for.
            self.shared.deaths.fetch_sub(by_itself, Ordering::Relaxed);
        }
        let recorded = recorded_tokens(self.world.layout.base());
        for token in self.stamps.tokens() {
            if !recorded.contains(token) {
                self.tally.lost += 1;
                self.tally.findings.push(format!(
                    "an agent ran, and no record shows its run ({token})"
                ));
            }
        }
    }
}

/// The tokens of all runs on record.
fn recorded_tokens(base: &Utf8Path) -> HashSet<String> {
    let layout = crate::core::layout::Layout::new(base);
    let subjects = runs::subjects(&layout).unwrap_or_default();
    let all = subjects
        .into_iter()
        .flat_map(|of| runs::list_runs(&layout, of).unwrap_or_default());
    all.filter_map(|dir| Some(runs::read_spec(&layout, &dir).ok()??.token))
        .collect()
}
