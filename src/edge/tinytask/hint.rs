//! What tinytask's own SQLite file tells, where that is on this machine: in which queues something changed, and the newest task.
//!
//! A hint, never the truth: it says whom to ask about, and every answer that counts comes from the server. The file is only read, by a
//! connection that lives for a burst of commits, and is given up at the first sign of anything unexpected; then everything is asked.
//!
//! Interleaving survived: inotify tells of a write to the log before the commit is visible (measured: 200 of 200 immediate looks were
//! stale, 2 of 200 after 1 ms). So [`Hint::changes`] is asked again, at growing distances, until a while after the last event; a commit
//! that is not visible yet is found by one of these, as each compares what is there with what was there when it was last read. Where
//! the first of them tells of numbers only ([`MANY`]), what else that commit changed is told by the next, and the last asks twice.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use siphasher::sip::SipHasher13;

use super::wire;
use crate::core::attention::News;
use crate::core::model::{TaskId, TaskKey};

/// Enough for the pages of one reading; the default of 2 MB would stay with us.
const CACHE_KIB: i64 = 512;

/// Open tasks whose rows take longer to read than anybody wants to wait for.
const MANY: usize = 1000;

/// Something of each queue's open tasks, that does not depend on their order.
type Digests = BTreeMap<String, u64>;

/// Reads one database.
pub struct Hint {
    path: Utf8PathBuf,
    open: Option<Open>,
    /// A digest of all there is to each queue's open tasks, as last read; none: nothing was read yet, or it cannot be relied on.
    queues: Option<Digests>,
    /// The same of their numbers only, where they are [`MANY`].
    members: Option<Digests>,
    /// Something was told by the numbers, and the rows were not read since.
    is_behind: bool,
    last_comment: i64,
}

struct Open {
    connection: Connection,
    /// Device and inode of the file that was opened.
    identity: Option<(u64, u64)>,
    /// SQLite's `data_version`, which another's commit raises; none: not read yet.
    version: Option<i64>,
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
            members: None,
            is_behind: false,
            last_comment: 0,
        }
    }

    /// What changed since this was last called, by queue and task; `None`: it cannot be told, so it may be anything.
    pub fn changes(&mut self) -> Option<Vec<News>> {
        let found = self.try_changes();
        if let Err(error) = &found {
            tracing::debug!(path = %self.path, %error, "tinytask's database tells nothing");
            self.open = None;
            (self.queues, self.members) = (None, None);
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

    /// Has [`Hint::changes`] more to tell than it did, whatever happens?
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Nothing was written for a while: the file is let go, as a server that ends wants to tidy it up. What was read is kept.
    pub fn rest(&mut self) {
        self.open = None;
    }

    /// `Ok(None)`: read for the first time.
    fn try_changes(&mut self) -> rusqlite::Result<Option<Vec<News>>> {
        let identity = identity(&self.path);
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.identity != identity)
        {
            // Another file has the name now: a restored backup, or a database made anew.
            self.open = None;
            (self.queues, self.members) = (None, None);
        }
        self.opened()?;
        let Some(open) = &mut self.open else {
            return Ok(None);
        };
        let version = open.version()?;
        if open.version == Some(version) && self.queues.is_some() {
            return Ok(Some(Vec::new()));
        }
        // Ten thousand rows take tens of milliseconds. Which of them are in which queue, which is what starts an agent, is told sooner, and
        // first; what it does not tell (a task that is put back, edited, not blocked any more) is told by the rows when this is
        // called again, as the version is not noted yet.
        if let Some(before) = &self.members {
            let members = open.members()?;
            let changed = changed(before, &members);
            if !changed.is_empty() {
                self.members = Some(members);
                self.is_behind = true;
                return Ok(Some(changed));
            }
        }
        self.is_behind = false;
        let (queues, tasks) = open.digests()?;
        self.members = if tasks > MANY {
            Some(open.members()?)
        } else {
            None
        };
        let mut commented = Vec::new();
        match self.queues {
            None => self.last_comment = open.last_comment()?,
            // Only up to what this very reading saw: another one may be made right after it.
            Some(_) => {
                for (comment, task) in open.comments_after(self.last_comment)? {
                    self.last_comment = self.last_comment.max(comment);
                    commented.extend(TaskId::try_from(task).ok());
                }
            }
        }
        open.version = Some(version);
        let before = self.queues.replace(queues);
        let (Some(before), Some(now)) = (before, &self.queues) else {
            return Ok(None);
        };
        let mut news = changed(&before, now);
        news.extend(commented.into_iter().map(News::Task));
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
        // Without its log, opening the file would make one, which the server could perhaps not write.
        if !Utf8PathBuf::from(format!("{path}-wal")).exists() {
            return Err(rusqlite::Error::InvalidQuery);
        }
        let identity = identity(path);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        // The daemon has better things to do than to wait here: it can ask the server.
        connection.busy_timeout(Duration::ZERO)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        // Without a write-ahead log a reader would keep the server's writes waiting.
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        if mode != "wal" {
            return Err(rusqlite::Error::InvalidQuery);
        }
        let mut columns = BTreeSet::new();
        connection.pragma(None, "table_info", "tasks", |row| {
            columns.insert(row.get::<_, String>("name")?);
            Ok(())
        })?;
        Ok(Self {
            open_tasks: open_tasks(&columns),
            connection,
            identity,
            version: None,
        })
    }

    fn version(&self) -> rusqlite::Result<i64> {
        (self.connection).pragma_query_value(None, "data_version", |row| row.get(0))
    }

    /// A digest of each queue's open tasks, and how many there are. A part of another task counts for that one's queue too, as it keeps
    /// it from being runnable.
    fn digests(&self) -> rusqlite::Result<(Digests, usize)> {
        let (mut queues, mut tasks) = (Digests::new(), 0);
        let mut statement = self.connection.prepare_cached(&self.open_tasks)?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let mut hasher = SipHasher13::new();
            for column in 0..columns {
                digest(row.get_ref(column)?, &mut hasher);
            }
            add(&mut queues, row.get_ref(0)?, hasher.finish());
            // Else a part in its whole's own queue would count like two of its kind.
            add(&mut queues, row.get_ref(1)?, hasher.finish().rotate_left(1));
            tasks += 1;
        }
        Ok((queues, tasks))
    }

    /// A digest of the numbers of each queue's open tasks. In the words of the built-in server's index of them, where there is one.
    fn members(&self) -> rusqlite::Result<Digests> {
        let mut queues = Digests::new();
        let sql =
            "SELECT assigned_to, id FROM tasks WHERE archived_at IS NULL AND status <> 'complete'";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let mut hasher = SipHasher13::new();
            digest(row.get_ref(1)?, &mut hasher);
            add(&mut queues, row.get_ref(0)?, hasher.finish());
        }
        Ok(queues)
    }

    /// The comments above `last`, each with its task.
    fn comments_after(&self, last: i64) -> rusqlite::Result<Vec<(i64, i64)>> {
        let mut statement =
            (self.connection).prepare_cached("SELECT id, task_id FROM comments WHERE id > ?")?;
        let comments = statement.query_map([last], |row| Ok((row.get(0)?, row.get(1)?)))?;
        comments.collect()
    }

    fn last_comment(&self) -> rusqlite::Result<i64> {
        let sql = "SELECT coalesce(max(id), 0) FROM comments";
        (self.connection).query_row(sql, [], |row| row.get(0))
    }
}

/// The open tasks with everything that stands in their rows, as `updated_at` counts seconds: first the queue they are in, then the queue
/// of what they are a part of. The first generation of the table has neither parts nor blockers.
fn open_tasks(columns: &BTreeSet<String>) -> String {
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
    format!(
        "SELECT task.assigned_to, {whole}, {blocker}, task.* \
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

fn digest(value: ValueRef<'_>, hasher: &mut SipHasher13) {
    match value {
        ValueRef::Null => 0_u8.hash(hasher),
        ValueRef::Integer(number) => (1_u8, number).hash(hasher),
        ValueRef::Real(number) => (2_u8, number.to_bits()).hash(hasher),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => (3_u8, bytes).hash(hasher),
    }
}

fn identity(path: &Utf8Path) -> Option<(u64, u64)> {
    std::fs::metadata(path)
        .ok()
        .map(|meta| (meta.dev(), meta.ino()))
}
