//! Which files are taken, which are refused, and that a refused one is not touched.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;
use serde_json::json;

use super::server::{BINARY, Server, elsewhere, folder, serve};

/// tinytask v1's tables, as far as they matter here.
const FIRST_GENERATION: &str = "
CREATE TABLE tasks (id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, description TEXT,
    status TEXT NOT NULL CHECK (status IN ('idle', 'working', 'complete')), assigned_to TEXT, created_by TEXT,
    priority INTEGER DEFAULT 0, tags TEXT, created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    updated_at DATETIME DEFAULT CURRENT_TIMESTAMP, archived_at DATETIME);
CREATE TABLE comments (id INTEGER PRIMARY KEY AUTOINCREMENT, task_id INTEGER NOT NULL, content TEXT NOT NULL,
    created_by TEXT, created_at DATETIME DEFAULT CURRENT_TIMESTAMP, updated_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    FOREIGN KEY (task_id) REFERENCES tasks (id) ON DELETE CASCADE);
INSERT INTO tasks (title, status, assigned_to, tags, priority) VALUES ('old', 'idle', 'crew', '[\"a\"]', 4);
INSERT INTO comments (task_id, content) VALUES (1, 'said long ago');
";

fn make(db: &Path, sql: &str) {
    let connection = Connection::open(db).expect("a new file");
    connection.execute_batch(sql).expect("good SQL");
}

/// Serving this file ends at once, with exit code 1 and these words, and changes nothing.
#[track_caller]
fn refused(db: &Path, words: &str) {
    let before = std::fs::read(db).ok();
    let out = serve(&[
        "--listen",
        "127.0.0.1:0",
        "--db",
        db.to_str().expect("UTF-8"),
    ])
    .output()
    .expect("it runs");
    let told = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{told}");
    assert!(told.contains(words), "{told}");
    assert!(
        told.starts_with("error: ") && told.contains("\nhint: "),
        "{told}"
    );
    assert_eq!(out.stdout, b"", "it listened");
    assert!(before == std::fs::read(db).ok(), "the file was changed");
}

#[test]
fn what_is_no_tinytask_database_is_refused_and_left_alone() {
    if elsewhere() {
        return;
    }
    let (dir, db) = folder();
    refused(&dir.path().join("nowhere/tinytask.db"), "does not exist");
    refused(dir.path(), "it is a directory");
    refused(Path::new("/proc/tinytask.db"), "cannot open the database");

    std::fs::write(&db, "These are notes, and no database.\n".repeat(50)).expect("writable");
    refused(&db, "not a SQLite database, or is damaged");

    let whole = dir.path().join("whole.db");
    make(&whole, FIRST_GENERATION);
    let mut bytes = std::fs::read(&whole).expect("readable");
    let header = 100;
    bytes[header..].fill(0xff);
    std::fs::write(&db, bytes).expect("writable");
    refused(&db, "not a SQLite database, or is damaged");

    let other = dir.path().join("other.db");
    make(&other, "CREATE TABLE songs (name TEXT)");
    refused(
        &other,
        "the database of something else: it has a table `songs`",
    );
    let other = dir.path().join("todo.db");
    make(&other, "CREATE TABLE tasks (id INTEGER, what TEXT)");
    refused(
        &other,
        "the database of something else: its table `tasks` has no `title`",
    );
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    if elsewhere() {
        return;
    }
    let (dir, db) = folder();
    make(&db, &format!("{FIRST_GENERATION} PRAGMA user_version = 7;"));
    refused(&db, "made by a newer tinytask: its schema has the number 7");
    let db = dir.path().join("column.db");
    let sql =
        FIRST_GENERATION.replace("description TEXT,", "description TEXT, team TEXT NOT NULL,");
    make(&db, sql.split("INSERT").next().expect("split gives one"));
    refused(&db, "made by a newer tinytask: its tasks need a `team`");
}

#[test]
fn a_file_that_cannot_be_written_is_refused() {
    if elsewhere() {
        return;
    }
    let (dir, db) = folder();
    make(&db, FIRST_GENERATION);
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("our own");
    };
    mode(&db, 0o444);
    mode(dir.path(), 0o555);
    let mut command = serve(&[
        "--listen",
        "127.0.0.1:0",
        "--db",
        db.to_str().expect("UTF-8"),
    ]);
    // To root nothing is read-only: be nobody, where nobody may run the binary at all.
    if nix::unistd::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let ran = command.output();
    mode(dir.path(), 0o755);
    let Ok(out) = ran else { return };
    let told = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{told}");
    assert!(told.contains("cannot be written to"), "{told}");
}

#[test]
fn a_first_generation_file_is_brought_up_to_date() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    make(&db, FIRST_GENERATION);
    let server = Server::on(&db);
    let mut client = server.client();
    let task = client.json("get_task", json!({"id": 1}));
    assert_eq!(task["title"], "old");
    assert_eq!(task["tags"], json!(["a"]));
    assert_eq!(task["queue_name"], json!(null));
    assert_eq!(task["is_currently_blocked"], false);
    assert_eq!(task["comments"][0]["content"], "said long ago");
    client.json(
        "add_task_to_queue",
        json!({"task_id": 1, "queue_name": "dev"}),
    );
    let child = client.json(
        "create_subtask",
        json!({"parent_task_id": 1, "title": "c", "created_by": "b"}),
    );
    assert_eq!(child["queue_name"], "dev");
    client.text("delete_task", json!({"id": 1}));
    assert_eq!(client.json("list_tasks", json!({}))["count"], 0);
    // A first-generation server can go on with it: all its columns are where they were.
    let old = Connection::open(&db).expect("opens");
    old.execute(
        "INSERT INTO tasks (title, status) VALUES ('by the old one', 'idle')",
        [],
    )
    .expect("as before");
    assert_eq!(client.json("list_tasks", json!({}))["count"], 1);
}

#[test]
fn an_older_files_own_indexes_are_not_doubled() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    make(
        &db,
        &format!("{FIRST_GENERATION} CREATE INDEX by_who_and_how ON tasks (assigned_to, status);"),
    );
    drop(Server::on(&db));
    drop(Server::on(&db));
    let indexes: Vec<String> = {
        let made = Connection::open(&db).expect("opens");
        let mut names = made
            .prepare(
                "SELECT group_concat(i.name) FROM pragma_index_list('tasks') l, pragma_index_info(l.name) i GROUP BY l.name",
            )
            .expect("good SQL");
        let rows = names.query_map([], |row| row.get(0)).expect("rows");
        rows.collect::<Result<_, _>>().expect("texts")
    };
    let of_both = indexes
        .iter()
        .filter(|columns| *columns == "assigned_to,status");
    assert_eq!((of_both.count(), indexes.len()), (1, 11), "{indexes:?}");
}

#[test]
fn the_file_has_tinytasks_own_columns_and_indexes() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    drop(Server::on(&db));
    let made = Connection::open(&db).expect("opens");
    let list = |sql: &str| -> Vec<String> {
        let mut statement = made.prepare(sql).expect("good SQL");
        let rows = statement.query_map([], |row| row.get(0)).expect("rows");
        rows.collect::<Result<_, _>>().expect("texts")
    };
    let columns = |table: &str| {
        list(&format!(
            "SELECT name || ' ' || type || coalesce(' = ' || dflt_value, '') || iif(\"notnull\", ' !', '') \
             FROM pragma_table_info('{table}')"
        ))
        .join(", ")
    };
    assert_eq!(
        columns("tasks"),
        "id INTEGER, title TEXT !, description TEXT, status TEXT !, assigned_to TEXT, previous_assigned_to TEXT, \
         created_by TEXT, priority INTEGER = 0, tags TEXT, parent_task_id INTEGER, queue_name TEXT, \
         blocked_by_task_id INTEGER, created_at DATETIME = CURRENT_TIMESTAMP, updated_at DATETIME = CURRENT_TIMESTAMP, \
         archived_at DATETIME"
    );
    assert_eq!(
        columns("comments"),
        "id INTEGER, task_id INTEGER !, content TEXT !, created_by TEXT, created_at DATETIME = CURRENT_TIMESTAMP, \
         updated_at DATETIME = CURRENT_TIMESTAMP"
    );
    assert_eq!(
        columns("links"),
        "id INTEGER, task_id INTEGER !, url TEXT !, description TEXT, created_by TEXT, \
         created_at DATETIME = CURRENT_TIMESTAMP"
    );
    assert_eq!(
        columns("task_history"),
        "id INTEGER, task_id INTEGER !, field_name TEXT !, old_value TEXT, new_value TEXT, changed_by TEXT, \
         changed_at DATETIME = CURRENT_TIMESTAMP"
    );
    let indexes = list(
        "SELECT m.tbl_name || '(' || (SELECT group_concat(name) FROM pragma_index_info(m.name)) || ')' \
         FROM sqlite_schema m WHERE m.type = 'index' ORDER BY 1",
    );
    assert_eq!(
        indexes.join(" "),
        "comments(task_id) links(task_id) task_history(task_id) tasks(archived_at) tasks(assigned_to) \
         tasks(assigned_to,priority,created_at) tasks(assigned_to,status) tasks(blocked_by_task_id) tasks(parent_task_id) tasks(queue_name) \
         tasks(queue_name,assigned_to) tasks(queue_name,status) tasks(status) tasks(updated_at)"
    );
    assert_eq!(list("PRAGMA journal_mode"), ["wal"]);
    let mode = std::fs::metadata(&db).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "tasks are nobody else's business");
}

#[test]
fn a_full_disk_refuses_the_write_and_keeps_what_was_there() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    // A limit on the size of files stands in for a full disk; the signal that comes with it is ignored.
    let script =
        "trap '' XFSZ; ulimit -f 600; exec \"$0\" tinytask serve --listen 127.0.0.1:0 --db \"$1\"";
    let server = Server::start(
        Command::new("sh")
            .args(["-c", script, BINARY])
            .arg(&db)
            .current_dir(std::env::temp_dir()),
    );
    let mut client = server.client();
    let long = "x".repeat(40_000);
    let mut kept = Vec::new();
    let told = loop {
        let task = json!({"title": "t", "description": long, "created_by": "b"});
        let (text, is_error) = client
            .try_tool("create_task", Some(&task))
            .expect("it lives");
        if is_error {
            break text;
        }
        kept.push(text);
        assert!(kept.len() < 100, "the disk never filled");
    };
    assert!(
        told.starts_with("Error creating task: Execute failed: "),
        "{told}"
    );
    assert!(!kept.is_empty());
    assert_eq!(client.json("list_tasks", json!({}))["count"], kept.len());
    drop(server);
    let again = Server::on(&db);
    assert_eq!(
        again.client().json("list_tasks", json!({}))["count"],
        kept.len()
    );
}
