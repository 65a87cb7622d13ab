//! Named queues: labels on tasks. Nobody claims by them.

use rusqlite::params;
use serde::Serialize;

use super::{Filter, Number, Outcome, Store, Task, existing, is_blank, refused};

/// What `get_queue_stats` answers.
#[derive(Debug, Serialize)]
pub(in crate::taskd) struct Stats {
    queue_name: String,
    total_tasks: i64,
    by_status: ByStatus,
    assigned: i64,
    unassigned: i64,
    agents: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ByStatus {
    idle: i64,
    working: i64,
    complete: i64,
}

/// The name without the blanks around it.
fn trimmed(name: &str) -> Outcome<&str> {
    if is_blank(name) {
        return refused("Queue name cannot be empty");
    }
    Ok(name.trim())
}

impl Store {
    pub(in crate::taskd) fn queues(&self) -> Outcome<Vec<String>> {
        self.read(|db| {
            Ok(db
                .prepare_cached(
                    "SELECT DISTINCT queue_name FROM tasks WHERE queue_name IS NOT NULL AND archived_at IS NULL \
                     ORDER BY queue_name",
                )?
                .query_map([], |row| row.get(0))?
                .collect::<Result<_, _>>()?)
        })
    }

    pub(in crate::taskd) fn queue_stats(&self, name: &str) -> Outcome<Stats> {
        let name = trimmed(name)?;
        self.read(|db| {
            let agents = db
                .prepare_cached(
                    "SELECT DISTINCT assigned_to FROM tasks WHERE queue_name = ?1 AND assigned_to IS NOT NULL \
                     AND archived_at IS NULL ORDER BY assigned_to",
                )?
                .query_map([name], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            Ok(db
                .prepare_cached(
                    "SELECT COUNT(*), COALESCE(SUM(status = 'idle'), 0), COALESCE(SUM(status = 'working'), 0), \
                     COALESCE(SUM(status = 'complete'), 0), COUNT(assigned_to), COUNT(*) - COUNT(assigned_to) \
                     FROM tasks WHERE queue_name = ?1 AND archived_at IS NULL",
                )?
                .query_row([name], |row| {
                    Ok(Stats {
                        queue_name: name.to_owned(),
                        total_tasks: row.get(0)?,
                        by_status: ByStatus {
                            idle: row.get(1)?,
                            working: row.get(2)?,
                            complete: row.get(3)?,
                        },
                        assigned: row.get(4)?,
                        unassigned: row.get(5)?,
                        agents,
                    })
                })?)
        })
    }

    pub(in crate::taskd) fn queue_tasks<T>(
        &self,
        name: &str,
        filter: Filter<'_>,
        each: impl FnMut(Task<&str>) -> T,
    ) -> Outcome<Vec<T>> {
        let filter = Filter {
            queue_name: Some(trimmed(name)?),
            ..filter
        };
        self.list(&filter, each)
    }

    /// Puts a task into a named queue, whichever it is in now.
    pub(in crate::taskd) fn put_into_queue(&self, id: &Number, name: &str) -> Outcome<Task> {
        let name = trimmed(name)?;
        if name.encode_utf16().count() > 255 {
            return refused("the name of a queue has at most 255 characters; take a shorter one");
        }
        self.set_queue(id, Some(name))
    }

    pub(in crate::taskd) fn take_from_queue(&self, id: &Number) -> Outcome<Task> {
        self.set_queue(id, None)
    }

    fn set_queue(&self, id: &Number, name: Option<&str>) -> Outcome<Task> {
        self.write(|db| {
            let before = existing(db, id)?;
            db.prepare_cached(
                "UPDATE tasks SET queue_name = ?1, updated_at = CURRENT_TIMESTAMP WHERE id = ?2",
            )?
            .execute(params![name, before.id])?;
            existing(db, id)
        })
    }

    /// How many left the queue.
    pub(in crate::taskd) fn clear_queue(&self, name: &str) -> Outcome<usize> {
        let name = trimmed(name)?;
        self.write(|db| {
            Ok(db
                .prepare_cached(
                    "UPDATE tasks SET queue_name = NULL, updated_at = CURRENT_TIMESTAMP \
                     WHERE queue_name = ?1 AND archived_at IS NULL",
                )?
                .execute([name])?)
        })
    }
}
