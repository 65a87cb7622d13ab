//! The database file: its tables, and which files may be opened.
//!
//! Column names, their order and defaults are those of tinytask v2, so that either server opens the other's file. A file with v1's
//! tables gets v2's columns; anything else is left untouched and refused.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

/// Why a database file cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open the database `{path}`: the directory `{directory}` does not exist")]
    NoDirectory {
        path: Utf8PathBuf,
        directory: Utf8PathBuf,
    },
    #[error("cannot open the database `{path}`: it is a directory")]
    IsDirectory { path: Utf8PathBuf },
    #[error("cannot open the database `{path}`")]
    Create {
        path: Utf8PathBuf,
        source: std::io::Error,
    },
    #[error("`{path}` is not a SQLite database, or is damaged")]
    NotADatabase {
        path: Utf8PathBuf,
        source: rusqlite::Error,
    },
    #[error("the database `{path}` cannot be written to")]
    ReadOnly { path: Utf8PathBuf },
    #[error("`{path}` is the database of something else: {why}")]
    Foreign { path: Utf8PathBuf, why: String },
    #[error("the database `{path}` was made by a newer tinytask: {why}")]
    Newer { path: Utf8PathBuf, why: String },
    #[error("cannot use the database `{path}`")]
    Sqlite {
        path: Utf8PathBuf,
        source: rusqlite::Error,
    },
}

impl OpenError {
    /// The way out.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoDirectory { .. } => "make it with `mkdir -p`, or name another file with `--db`",
            Self::IsDirectory { .. } => "name a file in it, such as `--db DIR/tinytask.db`",
            Self::Create { .. } | Self::ReadOnly { .. } => {
                "make the file and its directory writable, or name another file with `--db`"
            }
            Self::NotADatabase { .. } => {
                "nothing was changed; move the file away and put a backup in its place, or name another one with `--db`"
            }
            Self::Foreign { .. } => "nothing was changed; name another file with `--db`",
            Self::Newer { .. } => {
                "nothing was changed; update calypso-watch, or name another file with `--db`"
            }
            Self::Sqlite { .. } => "is the disk full, or another program holding the file?",
        }
    }
}

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS tasks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    title TEXT NOT NULL,
    description TEXT,
    status TEXT NOT NULL CHECK (status IN ('idle', 'working', 'complete')),
    assigned_to TEXT,
    previous_assigned_to TEXT,
    created_by TEXT,
    priority INTEGER DEFAULT 0,
    tags TEXT,
    parent_task_id INTEGER REFERENCES tasks (id) ON DELETE CASCADE,
    queue_name TEXT,
    blocked_by_task_id INTEGER REFERENCES tasks (id) ON DELETE SET NULL,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    updated_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    archived_at DATETIME
);
CREATE TABLE IF NOT EXISTS comments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    content TEXT NOT NULL,
    created_by TEXT,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    updated_at DATETIME DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS links (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    url TEXT NOT NULL,
    description TEXT,
    created_by TEXT,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS task_history (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    field_name TEXT NOT NULL,
    old_value TEXT,
    new_value TEXT,
    changed_by TEXT,
    changed_at DATETIME DEFAULT CURRENT_TIMESTAMP
);
";

/// What is searched for. The columns are those tinytask has indexes on; the names are ours, as nobody asks for an index by name.
const INDEXES: [(&str, &str); 12] = [
    ("tasks", "assigned_to"),
    ("tasks", "status"),
    ("tasks", "assigned_to, status"),
    ("tasks", "archived_at"),
    ("tasks", "parent_task_id"),
    ("tasks", "queue_name"),
    ("tasks", "queue_name, status"),
    ("tasks", "queue_name, assigned_to"),
    ("tasks", "blocked_by_task_id"),
    ("comments", "task_id"),
    ("links", "task_id"),
    ("task_history", "task_id"),
];

/// An agent's open tasks in the order they are handed out: `get_my_queue` reads them without sorting, `signup_for_task` the
/// first one of them, however many there are. tinytask has none like it, and is not disturbed by it.
const OPEN_TASKS: &str = "CREATE INDEX IF NOT EXISTS tasks_open ON tasks (assigned_to, priority DESC, created_at) \
    WHERE archived_at IS NULL AND status <> 'complete'";

/// All tasks by when they were last changed, so that a reader of the file finds what changed since it last looked.
const CHANGED_TASKS: &str = "CREATE INDEX IF NOT EXISTS tasks_changed ON tasks (updated_at)";

/// What every generation has, and what later ones added, as ALTER TABLE adds it.
const FIRST_COLUMNS: [&str; 11] = [
    "id",
    "title",
    "description",
    "status",
    "assigned_to",
    "created_by",
    "priority",
    "tags",
    "created_at",
    "updated_at",
    "archived_at",
];
const ADDED_COLUMNS: [(&str, &str); 4] = [
    ("previous_assigned_to", "TEXT"),
    (
        "parent_task_id",
        "INTEGER REFERENCES tasks (id) ON DELETE CASCADE",
    ),
    ("queue_name", "TEXT"),
    (
        "blocked_by_task_id",
        "INTEGER REFERENCES tasks (id) ON DELETE SET NULL",
    ),
];

/// Longest wait for another program that writes to the same file; tinytask's own figure.
pub(super) const BUSY: Duration = Duration::from_secs(30);

/// Opens the file, makes it when there is none, brings an older one up to date. Nothing is written into a file that is
/// refused.
pub(super) fn open(path: &Utf8Path) -> Result<Connection, OpenError> {
    let path = path.to_owned();
    let directory = match path.parent() {
        Some(parent) if !parent.as_str().is_empty() => parent.to_owned(),
        _ => ".".into(),
    };
    if !directory.is_dir() {
        return Err(OpenError::NoDirectory { path, directory });
    }
    if path.is_dir() {
        return Err(OpenError::IsDirectory { path });
    }
    // Made here and not by SQLite, as tasks are nobody else's business: SQLite gives -wal and -shm the mode of the file.
    if !path.exists() {
        let made = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        if let Err(source) = made {
            return Err(OpenError::Create { path, source });
        }
    }
    let told = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => OpenError::NotADatabase {
            path: path.clone(),
            source,
        },
        Some(ErrorCode::ReadOnly) => OpenError::ReadOnly { path: path.clone() },
        _ => OpenError::Sqlite {
            path: path.clone(),
            source,
        },
    };
    let mut db = Connection::open_with_flags(
        &path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(told)?;
    db.busy_timeout(BUSY).map_err(told)?;
    // Else a statement that might use a partial index is prepared anew for each agent's name (measured: a tenth of a long answer).
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map_err(told)?;
    let known = look(&db, &path).map_err(|error| match error {
        Look::Refused(refused) => refused,
        Look::Sqlite(error) => told(error),
    })?;
    if db.is_readonly("main").map_err(told)? {
        return Err(OpenError::ReadOnly { path });
    }
    // Readers and one writer at once; a commit is one append, and survives the death of this process.
    db.pragma_update(None, "journal_mode", "WAL")
        .map_err(told)?;
    db.pragma_update(None, "synchronous", "NORMAL")
        .map_err(told)?;
    db.pragma_update(None, "foreign_keys", true).map_err(told)?;
    if known != Known::UpToDate {
        bring_up_to_date(&mut db).map_err(told)?;
    }
    db.set_prepared_statement_cache_capacity(64);
    // From here on waiting is the caller's (`patiently`): SQLite would put the whole server to sleep.
    db.busy_timeout(Duration::ZERO).map_err(told)?;
    Ok(db)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Empty,
    Older,
    UpToDate,
}

enum Look {
    Refused(OpenError),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Look {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Reads what the file is, and writes nothing.
fn look(db: &Connection, path: &Utf8Path) -> Result<Known, Look> {
    let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables = db
        .prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
        )?
        .query_map([], |row| row.get::<_, String>(0))?
        .collect::<Result<Vec<_>, _>>()?;
    let foreign = |why: String| {
        Look::Refused(OpenError::Foreign {
            path: path.to_owned(),
            why,
        })
    };
    if tables.is_empty() {
        return Ok(Known::Empty);
    }
    if !tables.iter().any(|table| table == "tasks") {
        return Err(foreign(format!(
            "it has a table `{}` and no table `tasks`",
            tables[0]
        )));
    }
    let columns = db
        .prepare("SELECT name, \"notnull\", dflt_value FROM pragma_table_info('tasks')")?
        .query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, bool>(1)? && row.get::<_, Option<String>>(2)?.is_none(),
            ))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    let has = |name: &str| columns.iter().any(|(column, _)| column == name);
    if let Some(missing) = FIRST_COLUMNS.iter().find(|name| !has(name)) {
        return Err(foreign(format!("its table `tasks` has no `{missing}`")));
    }
    let newer = |why: String| {
        Look::Refused(OpenError::Newer {
            path: path.to_owned(),
            why,
        })
    };
    if version != 0 {
        return Err(newer(format!(
            "its schema has the number {version}, this one knows 0"
        )));
    }
    // A column more does no harm, unless every new row must fill it.
    let is_known = |name: &str| {
        FIRST_COLUMNS.contains(&name) || ADDED_COLUMNS.iter().any(|(added, _)| *added == name)
    };
    if let Some((name, _)) = columns
        .iter()
        .find(|(name, must_be_given)| *must_be_given && !is_known(name))
    {
        return Err(newer(format!("its tasks need a `{name}`")));
    }
    let complete = ADDED_COLUMNS.iter().all(|(name, _)| has(name))
        && ["comments", "links", "task_history"]
            .iter()
            .all(|name| tables.iter().any(|table| table == name))
        && db.query_row(
            "SELECT count(*) = 2 FROM sqlite_schema WHERE type = 'index' AND name IN ('tasks_open', 'tasks_changed')",
            [],
            |row| row.get(0),
        )?;
    Ok(if complete {
        Known::UpToDate
    } else {
        Known::Older
    })
}

/// All in one transaction: two servers that start on one old file do it once, and a killed one has done nothing.
fn bring_up_to_date(db: &mut Connection) -> rusqlite::Result<()> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(TABLES)?;
    let present = transaction
        .prepare("SELECT name FROM pragma_table_info('tasks')")?
        .query_map([], |row| row.get::<_, String>(0))?
        .collect::<Result<Vec<_>, _>>()?;
    for (name, definition) in ADDED_COLUMNS {
        if !present.iter().any(|column| column == name) {
            transaction
                .execute_batch(&format!("ALTER TABLE tasks ADD COLUMN {name} {definition}"))?;
        }
    }
    for (table, columns) in INDEXES {
        if !has_index(&transaction, table, columns)? {
            let name = format!("{table}_by_{}", columns.replace(", ", "_and_"));
            transaction.execute_batch(&format!("CREATE INDEX {name} ON {table} ({columns})"))?;
        }
    }
    transaction.execute_batch(OPEN_TASKS)?;
    transaction.execute_batch(CHANGED_TASKS)?;
    transaction.commit()
}

/// Is there one on just these columns, whatever its name? An older file has its own.
fn has_index(db: &Connection, table: &str, columns: &str) -> rusqlite::Result<bool> {
    db.query_row(
        "SELECT EXISTS (SELECT 1 FROM pragma_index_list(?1) l WHERE l.partial = 0 AND ?2 = \
         (SELECT group_concat(i.name, ', ' ORDER BY i.seqno) FROM pragma_index_info(l.name) i))",
        [table, columns],
        |row| row.get(0),
    )
}
