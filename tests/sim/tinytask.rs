//! tinytask as it was measured: queues by assignee, sign-up by priority and age, blockers that hide nothing, parents that roll up.
//!
//! A database is plain data, so that a backup is a clone of it.

use std::collections::BTreeMap;

use calypso_watch::core::model::{
    Detail, FoundDetail, RunMark, Task, TaskId, TaskStatus, Text, Timestamp,
};

use crate::chance::mix;

pub(crate) const QUEUES: [&str; 6] = [
    "dispatcher",
    "architect",
    "coder",
    "tester",
    "person",
    "broken",
];

#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) text: u32,
    pub(crate) status: TaskStatus,
    pub(crate) assigned: Option<&'static str>,
    pub(crate) previous: Option<&'static str>,
    pub(crate) priority: i64,
    pub(crate) parent: Option<i64>,
    pub(crate) blocked_by: Option<i64>,
    /// Seconds.
    pub(crate) created: i64,
    pub(crate) updated: i64,
    pub(crate) archived: bool,
    /// Number, and whose it is: ours, or somebody's.
    pub(crate) comments: Vec<(i64, Option<RunMark>)>,
    /// Who set it working last, which tinytask does not know: an agent of ours, or a person.
    pub(crate) worked_by_ours: bool,
}

impl Row {
    pub(crate) fn is_open(&self) -> bool {
        self.status != TaskStatus::Complete && !self.archived
    }
}

pub(crate) fn id(number: i64) -> TaskId {
    TaskId::try_from(number).expect("tasks are numbered from 1")
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Db {
    pub(crate) rows: BTreeMap<i64, Row>,
    last: i64,
    last_comment: i64,
}

impl Db {
    /// A database in which the numbers up to `last` are gone.
    pub(crate) fn starting_after(last: i64) -> Self {
        Self {
            last,
            ..Self::default()
        }
    }

    fn is_blocked(&self, row: &Row) -> bool {
        row.blocked_by
            .and_then(|by| self.rows.get(&by))
            .is_some_and(|by| by.status != TaskStatus::Complete)
    }

    pub(crate) fn open_children(&self, of: i64) -> u32 {
        let open = |row: &&Row| row.parent == Some(of) && row.is_open();
        self.rows.values().filter(open).count() as u32
    }

    fn task(&self, row: &Row) -> Task {
        Task {
            id: id(row.id),
            title: String::new(),
            status: row.status,
            assigned_to: row.assigned.map(Text::from),
            previous_assigned_to: row.previous.map(Text::from),
            created_by: None,
            priority: row.priority as f64,
            parent: row.parent.map(id),
            queue_name: None,
            blocked_by: row.blocked_by.map(id),
            is_blocked: self.is_blocked(row),
            created_at: Timestamp(row.created * 1000),
            updated_at: Timestamp(row.updated * 1000),
            is_archived: row.archived,
            fields: fields(row),
        }
    }

    /// Open tasks, of one queue or of all.
    pub(crate) fn open(&self, queue: Option<&str>) -> Vec<Task> {
        let wanted = |row: &&Row| row.is_open() && (queue.is_none() || row.assigned == queue);
        self.rows
            .values()
            .filter(wanted)
            .map(|row| self.task(row))
            .collect()
    }

    pub(crate) fn detail(&self, number: i64) -> Detail {
        let Some(row) = self.rows.get(&number) else {
            return Detail::NotFound;
        };
        let theirs = |(id, by): &(i64, Option<RunMark>)| by.is_none().then_some(*id);
        Detail::Found(FoundDetail {
            task: self.task(row),
            last_comment: row.comments.iter().filter_map(theirs).max().unwrap_or(0),
            our_comments: (row.comments.iter())
                .filter_map(|(_, by)| by.clone())
                .collect(),
            open_subtasks: self.open_children(number),
        })
    }

    pub(crate) fn highest(&self) -> i64 {
        self.rows.keys().next_back().copied().unwrap_or(0)
    }

    /// Of each queue's open tasks, as `edge::tinytask::Hint` reads them.
    pub(crate) fn digests(&self) -> BTreeMap<&'static str, u64> {
        let mut queues: BTreeMap<&str, u64> = BTreeMap::new();
        for row in self.rows.values().filter(|row| row.is_open()) {
            let whole = row.parent.and_then(|parent| self.rows.get(&parent));
            let whole = whole.and_then(|whole| whole.assigned);
            let blocker = row.blocked_by.and_then(|by| self.rows.get(&by));
            let digest = [
                row.id,
                row.parent.unwrap_or(0),
                row.status as i64,
                row.priority,
                row.created,
                row.updated,
                row.blocked_by.unwrap_or(0),
                blocker.map_or(9, |blocker| blocker.status as i64),
            ];
            let digest = digest.into_iter().fold(1, |sum, n| mix(sum, n as u64));
            for (queue, digest) in [(row.assigned, digest), (whole, digest.rotate_left(1))] {
                if let Some(queue) = queue {
                    let sum = queues.entry(queue).or_default();
                    *sum = sum.wrapping_add(digest);
                }
            }
        }
        queues
    }

    pub(crate) fn last_comment(&self) -> i64 {
        self.last_comment
    }

    pub(crate) fn commented_after(&self, last: i64) -> Vec<TaskId> {
        let is_new = |row: &&Row| row.comments.iter().any(|(comment, _)| *comment > last);
        let rows = self.rows.values().filter(is_new);
        rows.map(|row| id(row.id)).collect()
    }

    // ── writes ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn create(
        &mut self,
        queue: Option<&'static str>,
        priority: i64,
        parent: Option<i64>,
        blocked_by: Option<i64>,
        now: i64,
    ) -> i64 {
        self.last += 1;
        let parent = parent.filter(|p| self.rows.get(p).is_some_and(|p| p.parent.is_none()));
        let row = Row {
            id: self.last,
            text: 0,
            status: TaskStatus::Idle,
            assigned: queue,
            previous: None,
            priority,
            parent,
            blocked_by: blocked_by.filter(|by| self.rows.contains_key(by)),
            created: now,
            updated: now,
            archived: false,
            comments: Vec::new(),
            worked_by_ours: false,
        };
        self.rows.insert(self.last, row);
        self.roll_up(parent, now);
        self.last
    }

    /// Changes one row, and what follows from it; `false` where it is gone.
    pub(crate) fn update(&mut self, number: i64, now: i64, change: impl FnOnce(&mut Row)) -> bool {
        let Some(row) = self.rows.get_mut(&number) else {
            return false;
        };
        change(row);
        row.updated = now;
        let parent = row.parent;
        self.roll_up(parent, now);
        true
    }

    pub(crate) fn assign(&mut self, number: i64, to: Option<&'static str>, now: i64) -> bool {
        self.update(number, now, |row| {
            if row.assigned != to {
                row.previous = row.assigned;
                row.assigned = to;
            }
        })
    }

    /// `signup_for_task`: the highest priority, then the oldest, blocked or not.
    pub(crate) fn sign_up(&mut self, queue: &str, now: i64) -> Option<i64> {
        let idle = |row: &&Row| {
            row.assigned == Some(queue) && row.status == TaskStatus::Idle && !row.archived
        };
        let next = self
            .rows
            .values()
            .filter(idle)
            .min_by_key(|row| (-row.priority, row.created, row.id))?
            .id;
        self.update(next, now, |row| row.status = TaskStatus::Working);
        Some(next)
    }

    pub(crate) fn hand_over(
        &mut self,
        number: i64,
        from: &str,
        to: &'static str,
        now: i64,
    ) -> bool {
        let may = self
            .rows
            .get(&number)
            .is_some_and(|row| row.assigned == Some(from) && row.status != TaskStatus::Complete);
        if !may {
            return false;
        }
        self.last_comment += 1;
        let comment = self.last_comment;
        self.update(number, now, |row| {
            row.previous = row.assigned;
            row.assigned = Some(to);
            row.status = TaskStatus::Idle;
            row.comments.push((comment, None));
        })
    }

    pub(crate) fn comment(&mut self, number: i64, by: Option<RunMark>) -> bool {
        self.last_comment += 1;
        let comment = self.last_comment;
        self.rows
            .get_mut(&number)
            .map(|row| row.comments.push((comment, by)))
            .is_some()
    }

    pub(crate) fn archive(&mut self, number: i64, now: i64) {
        if let Some(row) = self.rows.get_mut(&number) {
            row.archived = true;
            let parent = row.parent;
            self.roll_up(parent, now);
        }
    }

    pub(crate) fn delete(&mut self, number: i64, now: i64) {
        let Some(gone) = self.rows.remove(&number) else {
            return;
        };
        self.rows.retain(|_, row| row.parent != Some(number));
        for row in self.rows.values_mut() {
            if row.blocked_by.is_some_and(|by| by == number) {
                row.blocked_by = None;
            }
        }
        self.roll_up(gone.parent, now);
    }

    /// A parent's status is its unarchived children's.
    fn roll_up(&mut self, parent: Option<i64>, now: i64) {
        let Some(parent) = parent else { return };
        let children = || {
            self.rows
                .values()
                .filter(|row| row.parent == Some(parent) && !row.archived)
        };
        if children().next().is_none() {
            return;
        }
        let status = if children().all(|row| row.status == TaskStatus::Complete) {
            TaskStatus::Complete
        } else if children().any(|row| row.status == TaskStatus::Working) {
            TaskStatus::Working
        } else {
            TaskStatus::Idle
        };
        if let Some(row) = self.rows.get_mut(&parent)
            && row.status != status
        {
            row.status = status;
            row.updated = now;
        }
    }
}

fn fields(row: &Row) -> u64 {
    let assigned = row
        .assigned
        .map_or(0, |name| name.bytes().fold(7, |h, b| mix(h, u64::from(b))));
    let blocker = row.blocked_by.map_or(0, |by| by as u64 + 1);
    [row.priority as u64, assigned, blocker]
        .into_iter()
        .fold(u64::from(row.text) + 1, mix)
}
