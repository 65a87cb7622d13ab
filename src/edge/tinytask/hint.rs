//! What tinytask's own SQLite file tells, where that is on this machine: in which queues something changed, and the newest task.
//!
//! A hint, never the truth: it says whom to ask about, and every answer that counts comes from the server. The file is only read, by a
//! connection that lives for a burst of commits, and is given up at the first sign of anything unexpected; then everything is asked.
//!
//! Interleaving survived: inotify tells of a write to the log before the commit is visible (measured: 200 of 200 immediate looks were
//! stale, 2 of 200 after 1 ms). So [`Hint::changes`] is asked again, at growing distances, until a while after the last event; a commit
//! that is not visible yet is found by one of these, as each compares what is there with what was there when it was last read.
//!
//! Ten thousand rows take tens of milliseconds. Where the built-in server's index of them by `updated_at` is there, what changed lately
//! is read by it, and all of them only once the burst is over: that finds what `updated_at` does not tell (a task that was deleted, a
//! clock that was set back).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _};
use siphasher::sip::SipHasher13;

use super::wire;
use crate::core::attention::News;
use crate::core::model::{TaskId, TaskKey};
use crate::edge::clock;

/// Under writes without end, all rows are read this often.
const ALL_AGAIN: Duration = Duration::from_secs(2);

/// Something of each queue's open tasks, that does not depend on their order.
type Digests = BTreeMap<String, u64>;

/// Reads one database.
pub struct Hint {
    path: Utf8PathBuf,
    open: Option<Open>,
    /// A digest of all there is to each queue's open tasks, as last read; none: nothing was read yet, or it cannot be relied on.
    queues: Option<Digests>,
    /// Since when there is more to be read than was, by [`clock::monotonic`].
    behind_since: Option<Duration>,
    lately: Option<Lately>,
    last_comment: i64,
}

/// The tasks that were changed in the last second in which any was, by the server's clock.
struct Lately {
    /// `updated_at` of the last.
    second: String,
    /// A digest of each by its number.
    tasks: BTreeMap<i64, u64>,
}

struct Open {
    connection: Connection,
    /// Device and inode of the file that was opened.
    identity: Option<(u64, u64)>,
    /// SQLite's `data_version`, which another's commit raises, when all rows were read; none: not read yet.
    version: Option<i64>,
    /// The same, when the last ones were.
    version_lately: Option<i64>,
    is_indexed: bool,
    /// SQL.
    open_tasks: String,
}

impl Hint {
    /// Touches nothing yet.
    pub fn new(path: &Utf8Path) -> Self {
        Self {
            path: path.to_owned(),
            open: None,
            queues: None,
            behind_since: None,
            lately: None,
            last_comment: 0,
        }
    }

    /// What changed since this was last called, by queue and task; `None`: it cannot be told, so it may be anything. `is_last`: it will
    /// not be asked again until more is written, so nothing may be left for later.
    pub fn changes(&mut self, is_last: bool) -> Option<Vec<News>> {
        let found = self.try_changes(is_last);
        if let Err(error) = &found {
            tracing::debug!(path = %self.path, %error, "tinytask's database tells nothing");
            self.open = None;
            (self.queues, self.lately) = (None, None);
        }
        found.ok().flatten()
    }

    /// The task with the highest number; `Some(None)`: there is none; `None`: it cannot be told.
    pub fn newest(&mut self) -> Option<Option<TaskKey>> {
        let sql = "SELECT id, created_at FROM tasks ORDER BY id DESC LIMIT 1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?));
        let open = self.opened().ok()?;
        let found = open.connection.query_row(sql, [], read).optional().ok()?;
        let Some((id, created_at)) = found else {
            return Some(None);
        };
        Some(Some(TaskKey {
            id: id.try_into().ok()?,
            created_at: wire::parse_time(&created_at)?.0 / 1000,
        }))
    }

    /// Nothing was written for a while: the file is let go, as a server that ends wants to tidy it up. What was read is kept.
    pub fn rest(&mut self) {
        self.open = None;
    }

    /// `Ok(None)`: read for the first time.
    fn try_changes(&mut self, is_last: bool) -> rusqlite::Result<Option<Vec<News>>> {
        let identity = identity(&self.path);
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.identity != identity)
        {
            // Another file has the name now: a restored backup, or a database made anew.
            self.open = None;
            (self.queues, self.lately) = (None, None);
        }
        self.opened()?;
        let Some(open) = &mut self.open else {
            return Ok(None);
        };
        let version = open.version()?;
        if open.version == Some(version) && self.queues.is_some() {
            return Ok(Some(Vec::new()));
        }
        let commented = open.comments_after(&mut self.last_comment, self.queues.is_some())?;
        let now = clock::monotonic();
        let since = *self.behind_since.get_or_insert(now);
        let mut news = commented;
        if let Some(lately) = &mut self.lately {
            if open.version_lately != Some(version) {
                news.extend(open.changed_lately(lately)?);
                open.version_lately = Some(version);
            }
            if !is_last && now.saturating_sub(since) < ALL_AGAIN {
                return Ok(Some(news));
            }
        }
        // First: what is committed between the two is in the digests, and told once more by the next reading, instead of by neither.
        self.lately = if open.is_indexed {
            Some(open.lately()?)
        } else {
            None
        };
        let queues = open.digests()?;
        self.behind_since = None;
        open.version = Some(version);
        let before = self.queues.replace(queues);
        let (Some(before), Some(now)) = (before, &self.queues) else {
            return Ok(None);
        };
        news.extend(changed(&before, now));
        news.sort();
        news.dedup();
        Ok(Some(news))
    }

    fn opened(&mut self) -> rusqlite::Result<&Open> {
        match self.open.take() {
            Some(open) => Ok(self.open.insert(open)),
            None => Ok(self.open.insert(Open::new(&self.path)?)),
        }
    }
}

impl Open {
    fn new(path: &Utf8Path) -> rusqlite::Result<Self> {
        let identity = identity(path);
        let connection = super::database::open(path)?;
        let mut columns = BTreeSet::new();
        connection.pragma(None, "table_info", "tasks", |row| {
            columns.insert(row.get::<_, String>("name")?);
            Ok(())
        })?;
        let is_indexed = connection.query_row(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = 'tasks_changed')",
            [],
            |row| row.get(0),
        )?;
        Ok(Self {
            open_tasks: open_tasks(&columns, is_indexed),
            connection,
            identity,
            version: None,
            version_lately: None,
            is_indexed,
        })
    }

    fn version(&self) -> rusqlite::Result<i64> {
        (self.connection).pragma_query_value(None, "data_version", |row| row.get(0))
    }

    /// A digest of each queue's open tasks. A part of another task counts for that one's queue too, as it keeps it from being runnable.
    fn digests(&self) -> rusqlite::Result<Digests> {
        let mut queues = Digests::new();
        let mut statement = self.connection.prepare_cached(&self.open_tasks)?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let digest = digest(row, columns)?;
            add(&mut queues, row.get_ref(0)?, digest);
            // Else a part in its whole's own queue would count like two of its kind.
            add(&mut queues, row.get_ref(1)?, digest.rotate_left(1));
        }
        Ok(queues)
    }

    /// The tasks of the last second, by the index.
    fn lately(&self) -> rusqlite::Result<Lately> {
        let sql = "SELECT coalesce(max(updated_at), '') FROM tasks";
        let second = (self.connection).query_row(sql, [], |row| row.get(0))?;
        let mut lately = Lately {
            second,
            tasks: BTreeMap::new(),
        };
        self.changed_lately(&mut lately)?;
        Ok(lately)
    }

    /// The queues of the tasks that were changed since `lately`, which is brought up to date: where they are, of what they are a part,
    /// and of what they block.
    fn changed_lately(&self, lately: &mut Lately) -> rusqlite::Result<Vec<News>> {
        let sql = "SELECT updated_at, id, task.assigned_to, \
             (SELECT whole.assigned_to FROM tasks whole WHERE whole.id = task.parent_task_id), task.* \
             FROM tasks task INDEXED BY tasks_changed WHERE updated_at >= ? ORDER BY updated_at";
        let mut statement = self.connection.prepare_cached(sql)?;
        let columns = statement.column_count();
        let mut blocked = (self.connection)
            .prepare_cached("SELECT assigned_to FROM tasks WHERE blocked_by_task_id = ?")?;
        let mut names = BTreeSet::new();
        let mut rows = statement.query([lately.second.clone()])?;
        while let Some(row) = rows.next()? {
            let (second, id): (String, i64) = (row.get(0)?, row.get(1)?);
            if second > lately.second {
                lately.second = second;
                lately.tasks.clear();
            }
            let digest = digest(row, columns)?;
            if lately.tasks.insert(id, digest) == Some(digest) {
                continue;
            }
            for column in 2..4 {
                names.extend(row.get::<_, Option<String>>(column)?);
            }
            for queue in blocked.query_map([id], |row| row.get::<_, Option<String>>(0))? {
                names.extend(queue?);
            }
        }
        let names = names.into_iter().filter_map(|name| name.parse().ok());
        Ok(names.map(News::Queue).collect())
    }

    /// The tasks of the comments above `last`, which is raised to the highest; only that, where nothing `is_wanted` yet.
    fn comments_after(&self, last: &mut i64, is_wanted: bool) -> rusqlite::Result<Vec<News>> {
        if !is_wanted {
            *last = self.last_comment()?;
            return Ok(Vec::new());
        }
        let mut statement =
            (self.connection).prepare_cached("SELECT id, task_id FROM comments WHERE id > ?")?;
        let mut news = Vec::new();
        for comment in statement.query_map([*last], |row| Ok((row.get(0)?, row.get(1)?)))? {
            let (comment, task): (i64, i64) = comment?;
            *last = comment.max(*last);
            news.extend(TaskId::try_from(task).ok().map(News::Task));
        }
        Ok(news)
    }

    fn last_comment(&self) -> rusqlite::Result<i64> {
        let sql = "SELECT coalesce(max(id), 0) FROM comments";
        (self.connection).query_row(sql, [], |row| row.get(0))
    }
}

/// The open tasks with everything that stands in their rows, as `updated_at` counts seconds: first the queue they are in, then the queue
/// of what they are a part of. The first generation of the table has neither parts nor blockers.
///
/// Where `updated_at` is indexed, no more than keeps a task from being started, or tells one change from another: the last second's rows
/// were read in full by the index, and with all texts this reading takes half as long again (perf, ten thousand rows).
fn open_tasks(columns: &BTreeSet<String>, is_indexed: bool) -> String {
    let whole = if columns.contains("parent_task_id") {
        "(SELECT whole.assigned_to FROM tasks whole WHERE whole.id = task.parent_task_id)"
    } else {
        "NULL"
    };
    let blocker = if columns.contains("blocked_by_task_id") {
        "(SELECT blocker.status FROM tasks blocker WHERE blocker.id = task.blocked_by_task_id)"
    } else {
        "NULL"
    };
    let row = if is_indexed {
        "task.id, task.status, task.priority, task.parent_task_id, task.blocked_by_task_id, task.updated_at"
    } else {
        "task.*"
    };
    format!(
        "SELECT task.assigned_to, {whole}, {blocker}, {row} \
         FROM tasks task WHERE task.status IN ('idle', 'working') AND task.archived_at IS NULL"
    )
}

fn add(queues: &mut Digests, queue: ValueRef<'_>, digest: u64) {
    let ValueRef::Text(queue) = queue else { return };
    let Ok(queue) = std::str::from_utf8(queue) else {
        return;
    };
    match queues.get_mut(queue) {
        Some(sum) => *sum = sum.wrapping_add(digest),
        None => drop(queues.insert(queue.to_owned(), digest)),
    }
}

/// The queues that differ.
fn changed(before: &Digests, now: &Digests) -> Vec<News> {
    let names = before.keys().chain(now.keys()).collect::<BTreeSet<_>>();
    names
        .into_iter()
        .filter(|name| before.get(*name) != now.get(*name))
        .filter_map(|name| name.parse().ok())
        .map(News::Queue)
        .collect()
}

fn digest(row: &rusqlite::Row<'_>, columns: usize) -> rusqlite::Result<u64> {
    let mut hasher = SipHasher13::new();
    for column in 0..columns {
        match row.get_ref(column)? {
            ValueRef::Null => 0_u8.hash(&mut hasher),
            ValueRef::Integer(number) => (1_u8, number).hash(&mut hasher),
            ValueRef::Real(number) => (2_u8, number.to_bits()).hash(&mut hasher),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => (3_u8, bytes).hash(&mut hasher),
        }
    }
    Ok(hasher.finish())
}

fn identity(path: &Utf8Path) -> Option<(u64, u64)> {
    std::fs::metadata(path)
        .ok()
        .map(|meta| (meta.dev(), meta.ino()))
}
