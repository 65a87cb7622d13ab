//! The SQL, and all rules about tasks.
//!
//! One connection behind one lock: a call is one short transaction, IMMEDIATE where it writes. Two servers on one file are
//! safe: a writer begins after the other's commit, before it reads what it decides by, so nobody claims a task twice.
//!
//! Nothing here waits. Where another program writes at this moment, a call has done nothing and says so; [`patiently`] repeats
//! it while others are served.
//!
//! Knows nothing of MCP, HTTP or texts that only one tool has; its refusals are the words tinytask uses where clients know them.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use camino::Utf8Path;
use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, Type, Value as Sql, ValueRef};
use rusqlite::{
    Connection, ErrorCode, OptionalExtension as _, Row, Transaction, TransactionBehavior,
};
use serde::{Serialize, Serializer};
use serde_json::Value;
use tokio::time::Instant;

use super::schema;
use super::text::{Fields, Object};
use crate::edge::kill_point;
use kept::Kept;

pub use super::schema::OpenError;

mod kept;
mod notes;
mod queues;
mod tasks;

pub(super) use tasks::{Changes, Filter, NewTask};

/// A number as clients send it: an id, a priority, a limit. Whole ones are integers; SQLite finds no row by another.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct Number(serde_json::Number);

impl Number {
    pub(super) const fn from_json(number: serde_json::Number) -> Self {
        Self(number)
    }
    pub(super) fn as_i64(&self) -> Option<i64> {
        self.0.as_i64()
    }
    fn is_zero(&self) -> bool {
        self.0.as_f64() == Some(0.0)
    }
}

impl From<i64> for Number {
    fn from(number: i64) -> Self {
        Self(number.into())
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ToSql for Number {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Owned(match self.0.as_i64() {
            Some(whole) => Sql::Integer(whole),
            None => Sql::Real(self.0.as_f64().unwrap_or(f64::MAX)),
        }))
    }
}

impl FromSql for Number {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(match value {
            ValueRef::Real(real) => Self(serde_json::Number::from_f64(real).unwrap_or(0.into())),
            ValueRef::Integer(whole) => whole.into(),
            // Another program's file may hold anything; a priority of nothing sorts like none.
            _ => 0.into(),
        })
    }
}

/// A task as clients see it, in the order of its keys. Its texts are its own, or lie in the row it was read from.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Task<T: AsRef<str> = String> {
    pub(super) id: i64,
    title: T,
    description: Option<T>,
    pub(super) status: T,
    assigned_to: Option<T>,
    previous_assigned_to: Option<T>,
    created_by: Option<T>,
    pub(super) priority: Number,
    tags: Value,
    parent_task_id: Option<i64>,
    queue_name: Option<T>,
    blocked_by_task_id: Option<i64>,
    created_at: Option<Time<T>>,
    updated_at: Option<Time<T>>,
    pub(super) archived_at: Option<Time<T>>,
    is_currently_blocked: bool,
}

/// `select!("WHERE …")`: the columns [`Task::read`] reads, of `tasks` under the name `t`. Blocking is computed here, on each
/// read; the CASE spares most rows a search.
macro_rules! select {
    ($($rest:expr),*) => {
        concat!(
            "SELECT t.id, t.title, t.description, t.status, t.assigned_to, t.previous_assigned_to, t.created_by, ",
            "t.priority, t.tags, t.parent_task_id, t.queue_name, t.blocked_by_task_id, t.created_at, t.updated_at, ",
            "t.archived_at, CASE WHEN t.blocked_by_task_id IS NULL THEN 0 ELSE EXISTS ",
            "(SELECT 1 FROM tasks b WHERE b.id = t.blocked_by_task_id AND b.status <> 'complete') END ",
            "FROM tasks t ",
            $($rest),*
        )
    };
}
use select;

impl<T: AsRef<str>> Fields for Task<T> {
    fn write(&self, to: &mut Object<'_>) {
        fn text<T: AsRef<str>>(text: &Option<T>) -> Option<&str> {
            text.as_ref().map(AsRef::as_ref)
        }
        to.value("id", &self.id);
        to.text("title", Some(self.title.as_ref()));
        to.text("description", text(&self.description));
        to.text("status", Some(self.status.as_ref()));
        to.text("assigned_to", text(&self.assigned_to));
        to.text("previous_assigned_to", text(&self.previous_assigned_to));
        to.text("created_by", text(&self.created_by));
        to.value("priority", &self.priority);
        to.value("tags", &self.tags);
        to.value("parent_task_id", &self.parent_task_id);
        to.text("queue_name", text(&self.queue_name));
        to.value("blocked_by_task_id", &self.blocked_by_task_id);
        for (key, time) in [
            ("created_at", &self.created_at),
            ("updated_at", &self.updated_at),
            ("archived_at", &self.archived_at),
        ] {
            let time = time.as_ref().map(Time::as_clients_see_it);
            to.text(key, time.as_deref());
        }
        to.value("is_currently_blocked", &self.is_currently_blocked);
    }
}

impl<'row, T: AsRef<str> + From<&'row str>> Task<T> {
    fn read(row: &'row Row<'_>) -> rusqlite::Result<Self> {
        let tags: Option<&str> = text(row, 8)?;
        Ok(Self {
            id: row.get(0)?,
            title: needed(row, 1)?,
            description: text(row, 2)?,
            status: needed(row, 3)?,
            assigned_to: text(row, 4)?,
            previous_assigned_to: text(row, 5)?,
            created_by: text(row, 6)?,
            priority: row.get(7)?,
            tags: tags
                .and_then(|tags| serde_json::from_str(tags).ok())
                .unwrap_or_else(|| Value::Array(Vec::new())),
            parent_task_id: row.get(9)?,
            queue_name: text(row, 10)?,
            blocked_by_task_id: row.get(11)?,
            created_at: time(row, 12)?,
            updated_at: time(row, 13)?,
            archived_at: time(row, 14)?,
            is_currently_blocked: row.get(15)?,
        })
    }
}

/// A text of the row, or null.
fn text<'row, T: From<&'row str>>(
    row: &'row Row<'_>,
    column: usize,
) -> rusqlite::Result<Option<T>> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text.into())),
            Err(error) => Err(rusqlite::Error::Utf8Error(column, error)),
        },
        other => Err(wrong_type(row, column, other.data_type())),
    }
}

fn needed<'row, T: From<&'row str>>(row: &'row Row<'_>, column: usize) -> rusqlite::Result<T> {
    text(row, column)?.ok_or_else(|| wrong_type(row, column, Type::Null))
}

fn wrong_type(row: &Row<'_>, column: usize, found: Type) -> rusqlite::Error {
    let name = row.as_ref().column_name(column).unwrap_or_default();
    rusqlite::Error::InvalidColumnType(column, name.to_owned(), found)
}

/// A time as SQLite writes it, always UTC: `2026-11-22 18:38:55`; clients get `2026-11-22T18:38:55Z`.
#[derive(Debug, Clone)]
pub(super) struct Time<T>(T);

impl<T: AsRef<str>> Time<T> {
    fn as_clients_see_it(&self) -> Cow<'_, str> {
        let text = self.0.as_ref();
        // Another program's file may hold anything.
        if text.contains('T') {
            return Cow::Borrowed(text);
        }
        let mut iso = text.replacen(' ', "T", 1);
        iso.push('Z');
        Cow::Owned(iso)
    }
}

impl<T: AsRef<str>> Serialize for Time<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.as_clients_see_it())
    }
}

fn time<'row, T: AsRef<str> + From<&'row str>>(
    row: &'row Row<'_>,
    column: usize,
) -> rusqlite::Result<Option<Time<T>>> {
    let text: Option<T> = text(row, column)?;
    Ok(text.filter(|text| !text.as_ref().is_empty()).map(Time))
}

/// A comment on a task.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Comment {
    pub(super) id: i64,
    pub(super) task_id: i64,
    content: String,
    created_by: Option<String>,
    created_at: Option<Time<String>>,
    updated_at: Option<Time<String>>,
}

/// A link on a task.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Link {
    pub(super) id: i64,
    pub(super) task_id: i64,
    url: String,
    description: Option<String>,
    created_by: Option<String>,
    created_at: Option<Time<String>>,
}

/// A task with what hangs on it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct FullTask {
    #[serde(flatten)]
    pub(super) task: Task,
    comments: Vec<Comment>,
    links: Vec<Link>,
}

/// A task with its children.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Family<T> {
    #[serde(flatten)]
    pub(super) task: Task,
    subtasks: Vec<T>,
    subtask_count: usize,
}

/// What `move_task` answers.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Handover {
    pub(super) task: Task,
    comment: Comment,
}

/// Why a call changed nothing. What [`fmt::Display`] says is what clients read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The rules say no.
    #[error("{0}")]
    Refused(String),
    /// What is asked about is not there.
    #[error("{0}")]
    Missing(String),
    /// SQLite says no; in the words of tinytask, as clients look for `database is locked`.
    #[error("Query failed: {0}")]
    Read(rusqlite::Error),
    #[error("Execute failed: {0}")]
    Write(rusqlite::Error),
}

impl Trouble {
    /// Another program has the file; the call has changed nothing.
    pub(super) fn is_busy(&self) -> bool {
        let (Self::Read(error) | Self::Write(error)) = self else {
            return false;
        };
        matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        )
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Write(error)
    }
}

pub(super) type Outcome<T> = Result<T, Trouble>;

fn refused<T>(why: impl Into<String>) -> Outcome<T> {
    Err(Trouble::Refused(why.into()))
}

fn missing<T>(what: impl Into<String>) -> Outcome<T> {
    Err(Trouble::Missing(what.into()))
}

/// `Task not found: 7`.
fn not_found<T>(what: &str, id: &Number) -> Outcome<T> {
    missing(format!("{what} not found: {id}"))
}

/// The open database.
#[derive(Debug)]
pub struct Store {
    connection: Mutex<Connection>,
    kept: Kept,
}

impl Store {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// See [`OpenError`]; the file is as it was then.
    pub fn open(path: &Utf8Path) -> Result<Self, OpenError> {
        Ok(Self {
            connection: Mutex::new(schema::open(path)?),
            kept: Kept::default(),
        })
    }

    /// Ends with a checkpoint, where nobody else has the file open.
    pub fn close(self) {
        let connection = self
            .connection
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        drop(connection);
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic in the middle of a call has rolled its transaction back; the connection is as good as before.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Several reads that belong together see one state.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> Outcome<T>) -> Outcome<T> {
        let mut connection = self.lock();
        let transaction = connection.transaction().map_err(Trouble::Read)?;
        let done = work(&transaction).map_err(|trouble| match trouble {
            Trouble::Write(error) => Trouble::Read(error),
            other => other,
        });
        drop(transaction);
        done
    }

    /// All or nothing. The write lock is taken before the first read: two servers cannot both see a task as idle.
    fn write<T>(&self, work: impl Fn(&Transaction<'_>) -> Outcome<T>) -> Outcome<T> {
        let mut connection = self.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        kill_point::reach("server:begun");
        let done = work(&transaction)?;
        kill_point::reach("server:before-commit");
        transaction.commit()?;
        kill_point::reach("server:committed");
        Ok(done)
    }
}

/// Does `work`, again and again while another program is writing to the file, for as long as tinytask waits.
///
/// The interleaving it survives: a call finds the file locked, has changed nothing, and sleeps; others read, and write first if
/// the lock is free before this one wakes. Each try is a transaction of its own, so it decides by what is there then. A server
/// that ends meanwhile has answered nothing.
pub(super) async fn patiently<T, E>(
    mut work: impl FnMut() -> Result<T, E>,
    is_busy: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let end = Instant::now() + schema::BUSY;
    let mut pause = Duration::from_millis(1);
    loop {
        match work() {
            Err(trouble) if is_busy(&trouble) && Instant::now() < end => {
                tokio::time::sleep(pause).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
            done => return done,
        }
    }
}

/// Between two tries; a few of them are lost to a program that writes all the time.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// One task, or none.
fn task(db: &Connection, id: &Number) -> Outcome<Option<Task>> {
    Ok(db
        .prepare_cached(select!("WHERE t.id = ?1"))?
        .query_row([id], |row| Task::read(row))
        .optional()?)
}

/// One task, or the refusal.
fn existing(db: &Connection, id: &Number) -> Outcome<Task> {
    match task(db, id)? {
        Some(task) => Ok(task),
        None => not_found("Task", id),
    }
}

/// What `each` makes of the tasks that a statement selects.
fn tasks<T>(
    db: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
    mut each: impl FnMut(Task<&str>) -> T,
) -> Outcome<Vec<T>> {
    Ok(db
        .prepare_cached(sql)?
        .query_map(values, |row| Ok(each(Task::read(row)?)))?
        .collect::<Result<_, _>>()?)
}

/// `""` and nothing are both stored as null, where tinytask does so.
fn or_null(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

/// What a JavaScript client calls blank.
fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}
