//! The SQLite file of the built-in tinytask, read past the server: how it is opened, and all open tasks in it.
//!
//! The server's word is the truth. Whoever reads here has it vouch for what was read (`look/asking.rs`), and asks it for everything at the
//! first sign of anything unexpected, which is every error here.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use rusqlite::types::{FromSql, ValueRef};
use rusqlite::{Connection, Error, OpenFlags, Result, Row, Statement};

use super::wire;
use crate::core::model::{Task, TaskId, TaskStatus, Text};

/// Enough for the pages of one reading; the default of 2 MB would stay with us.
const CACHE_KIB: i64 = 512;

/// The columns in the order of [`read`]: the built-in server's own words, but for the order of the rows and [`BLOCKS`].
const OPEN_TASKS: &str = "SELECT t.id, t.title, t.description, t.status, t.assigned_to, t.previous_assigned_to, t.created_by, t.priority, \
     t.tags, t.parent_task_id, t.queue_name, t.blocked_by_task_id, t.created_at, t.updated_at \
     FROM tasks t WHERE t.status IN ('idle', 'working') AND t.archived_at IS NULL";

/// What keeps a task waiting is a blocker that is there and not complete.
const BLOCKS: &str =
    "SELECT EXISTS (SELECT 1 FROM tasks b WHERE b.id = ?1 AND b.status <> 'complete')";

/// For reading only, and without ever waiting.
pub(super) fn open(path: &Utf8Path) -> Result<Connection> {
    // Without its log, opening the file would make one, which the server could perhaps not write.
    if !Utf8PathBuf::from(format!("{path}-wal")).exists() {
        return Err(Error::InvalidQuery);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // Whoever reads here has better things to do than to wait: it can ask the server.
    connection.busy_timeout(Duration::ZERO)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    // Without a write-ahead log a reader would keep the server's writes waiting.
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Error::InvalidQuery);
    }
    Ok(connection)
}

/// All open tasks as of one moment.
///
/// # Errors
/// It is not there, not of the second generation, or has anything in it that the server's answers would show otherwise.
pub fn open_tasks(path: &Utf8Path) -> Result<BTreeMap<TaskId, Task>> {
    let connection = open(path)?;
    let mut statement = connection.prepare(OPEN_TASKS)?;
    let mut blockers = Blockers {
        statement: connection.prepare(BLOCKS)?,
        known: HashMap::new(),
    };
    let mut rows = statement.query([])?;
    let mut tasks = Vec::new();
    while let Some(row) = rows.next()? {
        let row = read(row, &mut blockers)?;
        let task = row.into_task().map_err(|_| Error::InvalidQuery)?;
        tasks.push((task.id, task));
    }
    Ok(tasks.into_iter().collect())
}

/// Which tasks keep others waiting. Thousands may wait for the same one, which is asked about once; while the rows are read, and so as of
/// the same moment.
struct Blockers<'a> {
    statement: Statement<'a>,
    known: HashMap<i64, bool>,
}

impl Blockers<'_> {
    fn blocks(&mut self, id: i64) -> Result<bool> {
        if let Some(known) = self.known.get(&id) {
            return Ok(*known);
        }
        let blocks = self.statement.query_row([id], |row| row.get(0))?;
        self.known.insert(id, blocks);
        Ok(blocks)
    }
}

/// One row, as the server would write it.
fn read<'a>(row: &'a Row<'_>, blockers: &mut Blockers<'_>) -> Result<wire::Row<'a>> {
    let shared = |column| Ok::<_, Error>(text(row, column)?.map(Text::from));
    let needed = |column| text(row, column)?.ok_or(Error::InvalidQuery);
    let status = match needed(3)? {
        "idle" => TaskStatus::Idle,
        "working" => TaskStatus::Working,
        _ => return Err(Error::InvalidQuery),
    };
    let priority = match row.get_ref(7)? {
        ValueRef::Null => None,
        number => Some(f64::column_result(number)?),
    };
    let tags = match text(row, 8)? {
        Some(tags) => Some(serde_json::from_str(tags).map_err(|_| Error::InvalidQuery)?),
        None => None,
    };
    let blocked_by: Option<i64> = row.get(11)?;
    let is_blocked = blocked_by.map_or(Ok(false), |id| blockers.blocks(id))?;
    Ok(wire::Row {
        id: row.get(0)?,
        title: needed(1)?.to_owned(),
        description: text(row, 2)?.map(|text| wire::Words(Cow::Borrowed(text))),
        status,
        assigned_to: shared(4)?,
        previous_assigned_to: shared(5)?,
        created_by: shared(6)?,
        priority,
        tags,
        parent_task_id: row.get(9)?,
        queue_name: shared(10)?,
        blocked_by_task_id: blocked_by,
        created_at: needed(12)?.into(),
        updated_at: needed(13)?.into(),
        archived_at: None,
        is_currently_blocked: Some(is_blocked),
    })
}

fn text<'a>(row: &'a Row<'_>, column: usize) -> Result<Option<&'a str>> {
    Ok(row.get_ref(column)?.as_str_or_null()?)
}
