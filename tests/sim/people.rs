//! What comes from outside: people and programs that edit, and every kind of fault. A history is a list of these, and nothing else
//! tells one world of a seed from another, so that lines can be taken out of it until only those that matter are left.

use calypso_watch::core::model::{FileKey, ProcessId, QueueName, RunSubject, TaskStatus};

use crate::chance::{Chance, mix};
use crate::disk::{PidFile, Request};
use crate::processes::Kind;
use crate::tinytask::{Db, QUEUES, id};
use crate::world::{Item, Wake, World};

/// One thing, so many milliseconds after the one before; `which` picks whom it meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) after: u32,
    pub(crate) what: usize,
    pub(crate) which: u32,
}

/// What there is, with how often it comes.
pub(crate) const KINDS: [(&str, u64); 48] = [
    ("request dropped", 10),
    ("request edited", 2),
    ("request taken back", 2),
    ("odd request", 1),
    ("task created", 30),
    ("subtask created", 5),
    ("task created without a folder", 3),
    ("task edited", 5),
    ("task assigned", 6),
    ("task archived", 2),
    ("task deleted", 2),
    ("task commented", 4),
    ("task blocked", 4),
    ("task reopened", 2),
    ("task worked on by a person", 3),
    ("put back by a person", 2),
    ("retry", 6),
    ("release", 3),
    ("hold", 3),
    ("hold lifted", 3),
    ("pause", 2),
    ("pause lifted", 3),
    ("stop", 4),
    ("pid file removed by hand", 3),
    ("odd pid file", 1),
    ("agent run by hand", 3),
    ("pid file of a dead process", 3),
    ("tinytask down", 3),
    ("tinytask slow", 3),
    ("tinytask loses answers", 3),
    ("tinytask backed up", 2),
    ("tinytask restored from a backup", 2),
    ("tinytask swapped for another", 1),
    ("release tinytask", 6),
    ("daemon to die soon", 14),
    ("daemon killed", 5),
    ("daemon stopped for a while", 2),
    ("trap for a shim", 16),
    ("agent killed", 4),
    ("process numbers used up", 4),
    ("events lost for a while", 3),
    ("events late for a while", 3),
    ("disk full for a while", 2),
    ("recipe broken", 2),
    ("program gone", 1),
    ("clock stepped", 3),
    ("machine suspended", 1),
    ("reboot", 3),
];

/// The histories of a seed.
pub(crate) fn history(seed: u64) -> Vec<Event> {
    let mut chance = Chance::new(mix(seed, 2));
    let n = 20 + chance.below(120);
    let all: u64 = KINDS.iter().map(|(_, weight)| weight).sum();
    // Some stories come thick and fast, some are slow.
    let pace = chance.pick(&[300, 3_000, 20_000, 60_000]);
    (0..n)
        .map(|_| {
            let mut at = chance.below(all);
            let what = KINDS.iter().position(|(_, weight)| {
                let is_it = at < *weight;
                at = at.saturating_sub(*weight);
                is_it
            });
            Event {
                after: chance.below(pace) as u32,
                what: what.unwrap_or(0),
                which: chance.next() as u32,
            }
        })
        .collect()
}

impl World {
    pub(crate) fn event(&mut self, event: Event) {
        let name = KINDS[event.what % KINDS.len()].0;
        let mut chance = Chance::new(u64::from(event.which));
        if self.edit(name, &mut chance)
            || self.say(name, &mut chance)
            || self.disturb(name, &mut chance)
            || self.disturb_machine(name, &mut chance)
        {
            self.counts.hit(name);
        }
    }

    fn some_task(&self, chance: &mut Chance) -> Option<i64> {
        let open: Vec<i64> = self
            .tiny
            .db
            .open(None)
            .iter()
            .map(|t| t.id.number())
            .collect();
        (!open.is_empty()).then(|| chance.pick(&open))
    }

    fn some_subject(&self, chance: &mut Chance) -> Option<RunSubject> {
        if chance.one_in(8) {
            return Some(RunSubject::Inbound);
        }
        Some(RunSubject::Task(id(self.some_task(chance)?)))
    }

    fn some_process(&self, chance: &mut Chance, wanted: fn(&Kind) -> bool) -> Option<ProcessId> {
        let found: Vec<&ProcessId> = self
            .processes
            .values()
            .filter(|p| wanted(&p.kind))
            .map(|p| &p.id)
            .collect();
        (!found.is_empty()).then(|| chance.pick(&found).clone())
    }

    fn some_queue(chance: &mut Chance) -> &'static str {
        chance.pick(&[
            "architect",
            "architect",
            "coder",
            "coder",
            "coder",
            "tester",
            "tester",
            "dispatcher",
            "person",
        ])
    }

    // ── people at tinytask and in the folders ──────────────────────────────────────────────────────────────────────────

    fn edit(&mut self, name: &str, chance: &mut Chance) -> bool {
        let (now, mono) = (self.seconds(), self.mono);
        match name {
            "request dropped" | "odd request" => {
                let key = FileKey {
                    name: format!("request {}", chance.below(6)),
                    inode: self.disk.inode(),
                    modified: self.wall().0,
                };
                let is_odd = name == "odd request";
                self.disk
                    .inbound
                    .retain(|request| request.key.name != key.name);
                let settled = mono + chance.below(4_000);
                self.disk.inbound.push(Request {
                    key,
                    settled,
                    is_odd,
                });
                self.ring(Wake::Inbound);
                return true;
            }
            "request edited" | "request taken back" => {
                if self.disk.inbound.is_empty() {
                    return false;
                }
                let at = chance.below(self.disk.inbound.len() as u64) as usize;
                if name == "request edited" {
                    let modified = self.wall().0;
                    let request = &mut self.disk.inbound[at];
                    request.key.modified = modified;
                    request.settled = mono + 1_000;
                } else {
                    self.disk.inbound.remove(at);
                }
                self.ring(Wake::Inbound);
                return true;
            }
            "task created" | "subtask created" | "task created without a folder" => {
                let parent = if name == "subtask created" {
                    self.some_task(chance)
                } else {
                    None
                };
                if self.tiny.db.open(None).len() > 12 {
                    return false;
                }
                let blocker = if chance.one_in(6) {
                    self.some_task(chance)
                } else {
                    None
                };
                let queue = Self::some_queue(chance);
                let priority = chance.below(3) as i64;
                let queue = (!chance.one_in(15)).then_some(queue);
                let task = self.tiny.db.create(queue, priority, parent, blocker, now);
                // Its number may have been another's, in a database that was restored since.
                self.laws.moved(task, mono);
                if let Some(parent) = parent {
                    self.laws.moved(parent, mono);
                }
                if name != "task created without a folder" {
                    let delay = chance.seldom(4, 5_000, 30);
                    self.after(delay, Item::FolderComes(task));
                }
                self.ring_database();
                return true;
            }
            _ => {}
        }
        let Some(task) = self.some_task(chance) else {
            return false;
        };
        let db = &mut self.tiny.db;
        match name {
            "task edited" => {
                let is_text = chance.one_in(2);
                let priority = chance.below(3) as i64;
                db.update(task, now, |row| {
                    if is_text {
                        row.text += 1;
                    } else {
                        row.priority = priority;
                    }
                });
            }
            "task assigned" => {
                let queue = Self::some_queue(chance);
                db.assign(task, (!chance.one_in(8)).then_some(queue), now);
                db.update(task, now, |row| row.worked_by_ours = false);
            }
            "task archived" => db.archive(task, now),
            "task deleted" => db.delete(task, now),
            "task commented" => {
                db.comment(task, None);
            }
            "task blocked" => {
                let blocker = (!chance.one_in(3))
                    .then_some(task + 1)
                    .filter(|b| db.rows.contains_key(b));
                db.update(task, now, |row| row.blocked_by = blocker);
            }
            "task reopened" => {
                let closed = db
                    .rows
                    .values()
                    .find(|row| row.status == TaskStatus::Complete && !row.archived);
                let Some(closed) = closed.map(|row| row.id) else {
                    return false;
                };
                db.update(closed, now, |row| row.status = TaskStatus::Idle);
                self.laws.moved(closed, mono);
            }
            "task worked on by a person" => {
                if db.rows[&task].status != TaskStatus::Idle {
                    return false;
                }
                db.update(task, now, |row| {
                    row.status = TaskStatus::Working;
                    row.worked_by_ours = false;
                });
                let span = chance.below(120_000);
                self.after(span, Item::PersonEnds(task));
            }
            "put back by a person" => {
                db.update(task, now, |row| row.status = TaskStatus::Idle);
            }
            _ => return false,
        }
        self.laws.moved(task, mono);
        self.ring_database();
        true
    }

    pub(crate) fn person_ends(&mut self, task: i64) {
        let (now, mono) = (self.seconds(), self.mono);
        let is_theirs =
            |row: &crate::tinytask::Row| row.status == TaskStatus::Working && !row.worked_by_ours;
        if self.tiny.db.rows.get(&task).is_some_and(is_theirs) {
            self.tiny
                .db
                .update(task, now, |row| row.status = TaskStatus::Complete);
            self.laws.moved(task, mono);
            self.ring_database();
        }
    }

    // ── people at the control files and in running_tasks/ ──────────────────────────────────────────────────────────────

    fn say(&mut self, name: &str, chance: &mut Chance) -> bool {
        let queue: QueueName = Self::some_queue(chance).parse().expect("a queue's name");
        match name {
            "pause" => {
                let is_all = chance.one_in(3);
                self.control(|controls| {
                    if is_all {
                        controls.pause_all = true;
                    } else {
                        controls.paused.insert(queue);
                    }
                });
                return true;
            }
            "pause lifted" => {
                self.control(|controls| {
                    controls.pause_all = false;
                    controls.paused.clear();
                });
                return true;
            }
            "hold lifted" => {
                self.control(|controls| controls.held.clear());
                return true;
            }
            // As its hold tells a person to, who may err.
            "release tinytask" => {
                let is_doubted = self.is_doubting();
                if is_doubted {
                    self.control(|controls| controls.trust_tinytask = true);
                }
                return is_doubted;
            }
            _ => {}
        }
        let Some(subject) = self.some_subject(chance) else {
            return false;
        };
        match name {
            "retry" => self.control(|controls| {
                controls.retry.insert(subject);
            }),
            "release" => self.control(|controls| {
                controls.release.insert(subject);
            }),
            "hold" => self.control(|controls| {
                controls.held.insert(subject);
            }),
            "stop" => self.control(|controls| {
                controls.stop.insert(subject);
            }),
            "pid file removed by hand" => {
                let there: Vec<RunSubject> = self.disk.pid_files.keys().copied().collect();
                if there.is_empty() {
                    return false;
                }
                self.disk.pid_files.remove(&chance.pick(&there));
                self.laws.pid_file_removed(self.mono);
                self.ring(Wake::Running);
            }
            "odd pid file" | "agent run by hand" | "pid file of a dead process" => {
                if self.disk.pid_files.contains_key(&subject) {
                    return false;
                }
                let pid = match name {
                    "odd pid file" => None,
                    "agent run by hand" => {
                        let id = self.spawn_outsider("goose");
                        let lives = 1_000 + chance.below(200_000);
                        let end = calypso_watch::core::model::Outcome::Exited(0);
                        self.after(lives, Item::Dies(id.clone(), end));
                        Some(id.pid)
                    }
                    _ => Some(100 + chance.below(400) as i32),
                };
                let file = PidFile {
                    inode: self.disk.inode(),
                    pid,
                    modified: self.wall(),
                    linked: self.mono,
                };
                // Whoever writes it says that the task is his: what a run of ours left working is his then to put back.
                let is_alive = pid.is_none_or(|pid| self.processes.contains_key(&pid));
                if is_alive
                    && let Some(task) = subject.task()
                    && let Some(row) = self.tiny.db.rows.get_mut(&task.number())
                {
                    row.worked_by_ours = false;
                }
                self.disk.pid_files.insert(subject, file);
                self.ring(Wake::Running);
            }
            _ => return false,
        }
        true
    }

    // ── programs that fail ─────────────────────────────────────────────────────────────────────────────────────────────

    fn disturb(&mut self, name: &str, chance: &mut Chance) -> bool {
        let span = 500 + chance.seldom(4, 600_000, 20_000);
        match name {
            "tinytask down" => {
                self.tiny.is_up = false;
                self.after(span, Item::TinytaskUp);
            }
            "tinytask slow" => {
                self.tiny.slowness = 200 + chance.below(9_000);
                self.after(span, Item::TinytaskUp);
            }
            "tinytask loses answers" => {
                self.tiny.loses = 2 + chance.below(12);
                self.after(span, Item::TinytaskUp);
            }
            "tinytask backed up" => self.tiny.backup = Some(self.tiny.db.clone()),
            "tinytask restored from a backup" => {
                let Some(backup) = self.tiny.backup.clone() else {
                    return false;
                };
                self.tiny.db = backup;
                self.forget_workers();
                self.database_replaced();
            }
            "tinytask swapped for another" => {
                let now = self.seconds();
                let mut other = Db::starting_after(chance.below(3) as i64);
                for _ in 0..chance.below(6) {
                    other.create(Some("coder"), 0, None, None, now - 1_000);
                }
                let right = std::mem::replace(&mut self.tiny.db, other);
                self.tiny.swapped.get_or_insert(right);
                self.database_replaced();
            }
            "daemon to die soon" => self.dies_in = Some(chance.below(40) as u32),
            "daemon killed" => self.kill_daemon(),
            "daemon stopped for a while" => {
                let until = self.mono + span;
                match &mut self.daemon {
                    Some(daemon) => daemon.asleep_until = until,
                    None => return false,
                }
            }
            "trap for a shim" => {
                self.trap = Some((chance.below(11) as u8, !chance.one_in(4)));
            }
            "agent killed" => {
                let agents = |kind: &Kind| matches!(kind, Kind::Agent(_));
                let Some(agent) = self.some_process(chance, agents) else {
                    return false;
                };
                self.die(&agent, calypso_watch::core::model::Outcome::Signaled(9));
            }
            "recipe broken" => {
                let queue: QueueName = Self::some_queue(chance).parse().expect("a queue's name");
                if !self.disk.recipes.contains_key(&queue) {
                    return false;
                }
                self.disk
                    .recipes
                    .insert(queue.clone(), Err("no prompt".into()));
                self.after(span, Item::Mended(queue));
                self.ring(Wake::Everything);
            }
            "program gone" => {
                self.programs_gone_until = self.mono + span;
                self.after(span, Item::ProgramsBack);
            }
            _ => return false,
        }
        true
    }

    pub(crate) fn mend_recipe(&mut self, queue: &QueueName) {
        let modified = self.wall();
        if let Some(Err(_)) = self.disk.recipes.get(queue) {
            let recipe = crate::world::recipe(queue.as_str(), queue.as_str() == "tester", modified);
            self.disk.recipes.insert(queue.clone(), Ok(recipe));
            self.ring(Wake::Everything);
        }
    }

    /// Another file has its name now.
    fn database_replaced(&mut self) {
        self.laws.database_replaced();
        if let Some(daemon) = &mut self.daemon {
            daemon.hint = None;
            daemon.has_missed = true;
        }
    }

    /// Nobody can tell any more whose work a working task is.
    pub(crate) fn forget_workers(&mut self) {
        for row in self.tiny.db.rows.values_mut() {
            row.worked_by_ours = false;
        }
    }

    // ── the machine ────────────────────────────────────────────────────────────────────────────────────────────────────

    fn disturb_machine(&mut self, name: &str, chance: &mut Chance) -> bool {
        let span = 500 + chance.seldom(4, 300_000, 10_000);
        match name {
            "process numbers used up" => {
                for _ in 0..chance.below(300) {
                    let id = self.spawn_outsider("stranger");
                    if !chance.one_in(20) {
                        self.processes.remove(&id.pid);
                    }
                    self.next_pid = self.next_pid.max(101);
                }
                let strangers: Vec<i32> = self
                    .processes
                    .values()
                    .filter(|p| p.comm == "stranger")
                    .map(|p| p.id.pid)
                    .collect();
                // No more than a few stay.
                for pid in strangers.iter().skip(40) {
                    self.processes.remove(pid);
                }
            }
            "events lost for a while" => self.lost_until = self.mono + span,
            "events late for a while" => self.late_until = self.mono + span,
            "disk full for a while" => self.disk.full_until = self.mono + span / 4,
            "clock stepped" => {
                let step = chance.seldom(3, 90_000_000, 60_000) as i64;
                let step = if chance.one_in(2) { step } else { -step };
                self.wall_offset += step;
                if step < 0 {
                    // Known gap: what others of its queue left working looks changed since, by times of a clock that has been set back.
                    self.forget_workers();
                }
                self.laws.clock_stepped();
                if let Some(daemon) = &mut self.daemon {
                    daemon.has_missed = true;
                }
            }
            "machine suspended" => {
                // The boot clock counts it; nothing that was due happens before it is over.
                self.mono += span * 4;
            }
            "reboot" => {
                let is_power_cut = chance.one_in(2);
                self.counts.hit(if is_power_cut {
                    "power cut"
                } else {
                    "clean reboot"
                });
                self.reboot(is_power_cut);
                if is_power_cut {
                    self.forget_workers();
                }
            }
            _ => return false,
        }
        true
    }

    /// The end of all faults: what people and programs can mend is mended, and agents do right from now on.
    pub(crate) fn heal(&mut self) {
        self.is_healed = true;
        if let Some(right) = self.tiny.swapped.take() {
            self.tiny.db = right;
            self.database_replaced();
            // What became of tasks meanwhile was asked of another database.
            self.forget_workers();
        }
        (self.tiny.is_up, self.tiny.slowness, self.tiny.loses) = (true, 5, 0);
        (self.lost_until, self.late_until) = (0, 0);
        self.disk.full_until = 0;
        self.programs_gone_until = 0;
        (self.dies_in, self.trap) = (None, None);
        let queues: Vec<QueueName> = self.disk.recipes.keys().cloned().collect();
        for queue in queues {
            self.mend_recipe(&queue);
        }
        let controls = &mut self.disk.controls;
        controls.pause_all = false;
        controls.paused.clear();
        controls.held.clear();
        self.disk.pid_files.retain(|_, file| file.pid.is_some());
        let end = calypso_watch::core::model::Outcome::Signaled(9);
        let mut over = Vec::new();
        for process in self.processes.values_mut() {
            if let Kind::Shim(shim) = &mut process.kind {
                shim.frozen_until = 0;
            }
            if process.is_stuck || matches!(process.kind, Kind::Outsider) {
                over.push(process.id.clone());
            }
            process.is_stuck = false;
        }
        for process in over {
            self.die(&process, end.clone());
        }
        let shims: Vec<ProcessId> = self
            .processes
            .values()
            .filter(|p| matches!(p.kind, Kind::Shim(_)))
            .map(|p| p.id.clone())
            .collect();
        for shim in shims {
            self.after(1, Item::Shim(shim));
        }
        if let Some(daemon) = &mut self.daemon {
            daemon.asleep_until = 0;
        }
        // Working tasks that a backup, or another database, left behind are for a person to put back.
        let now = self.seconds();
        let theirs: Vec<i64> = self
            .tiny
            .db
            .rows
            .values()
            .filter(|row| row.status == TaskStatus::Working && !row.worked_by_ours)
            .map(|row| row.id)
            .collect();
        for task in theirs {
            self.tiny
                .db
                .update(task, now, |row| row.status = TaskStatus::Complete);
            self.laws.moved(task, self.mono);
        }
        self.ring(Wake::Everything);
    }

    /// Does `status` say that tinytask is perhaps another server?
    pub(crate) fn is_doubting(&self) -> bool {
        self.daemon.as_ref().is_some_and(|daemon| daemon.doubts)
    }

    /// Queues that somebody looks after.
    pub(crate) fn has_recipe(queue: Option<&str>) -> bool {
        queue.is_some_and(|name| QUEUES[..4].contains(&name))
    }
}
