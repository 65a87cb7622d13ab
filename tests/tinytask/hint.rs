//! Does reading the database tell what changed, and in which queue? Else a task would wait for the slow look.

use std::path::{Path, PathBuf};

use calypso_watch::core::attention::News;
use calypso_watch::edge::tinytask::Hint;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::client::Client;
use super::server::{Server, elsewhere, folder};

struct Told {
    _folder: tempfile::TempDir,
    db: PathBuf,
    server: Server,
    client: Client,
    hint: Hint,
}

/// A server with an empty database, and a hint that has read it.
fn told() -> Told {
    let (folder, db) = folder();
    let server = Server::on(&db);
    let client = server.client();
    let mut hint = hint_on(&db);
    assert_eq!(hint.changes(true), None, "nothing was read before");
    assert_eq!(hint.changes(true), Some(vec![]));
    Told {
        _folder: folder,
        db,
        server,
        client,
        hint,
    }
}

fn hint_on(db: &Path) -> Hint {
    Hint::new(camino::Utf8Path::from_path(db).expect("a test's path is UTF-8"))
}

fn queues(names: &[&str]) -> Option<Vec<News>> {
    let queue = |name: &&str| News::Queue(name.parse().expect("a queue's name"));
    Some(names.iter().map(queue).collect())
}

impl Told {
    /// Calls a tool; then exactly these queues have changed, and none at the next asking.
    #[track_caller]
    fn changes(&mut self, tool: &str, arguments: Value, expected: &[&str]) {
        self.client.text(tool, arguments);
        assert_eq!(self.hint.changes(true), queues(expected), "{tool}");
        assert_eq!(self.hint.changes(true), Some(vec![]), "{tool}, again");
    }
    fn create(&mut self, arguments: Value) -> i64 {
        let mut arguments = arguments;
        arguments["title"] = "a task".into();
        arguments["created_by"] = "a test".into();
        let task = self.client.json("create_task", arguments);
        task["id"].as_i64().expect("a number")
    }
}

#[test]
fn whatever_makes_a_task_runnable_is_told_by_its_queue() {
    if elsewhere() {
        return;
    }
    let mut told = told();
    let one = told.create(json!({ "assigned_to": "architect" }));
    assert_eq!(told.hint.changes(true), queues(&["architect"]));
    let moved = json!({ "task_id": one, "current_agent": "architect", "new_agent": "coder", "comment": "yours" });
    told.client.text("move_task", moved);
    let news = told.hint.changes(true).expect("told");
    let task = News::Task(one.try_into().expect("positive"));
    assert_eq!(
        news,
        [queues(&["architect", "coder"]).expect("two"), vec![task]].concat()
    );
    told.changes(
        "signup_for_task",
        json!({ "agent_name": "coder" }),
        &["coder"],
    );
    told.changes(
        "update_task",
        json!({ "id": one, "status": "idle" }),
        &["coder"],
    );
    told.changes(
        "update_task",
        json!({ "id": one, "priority": 3 }),
        &["coder"],
    );
    // A parked task is lifted by clearer words: be they in the same second as the last, or as long.
    for description in ["a word", "a path", "a team", "a dog"] {
        let clearer = json!({ "id": one, "description": description });
        told.changes("update_task", clearer, &["coder"]);
    }
    told.changes("archive_task", json!({ "id": one }), &["coder"]);
    // Nobody's task is nobody's news, until somebody gets it.
    let two = told.create(json!({}));
    assert_eq!(told.hint.changes(true), Some(vec![]));
    told.changes(
        "update_task",
        json!({ "id": two, "assigned_to": "devops" }),
        &["devops"],
    );
}

#[test]
fn a_part_is_news_of_the_whole_and_a_blocker_of_what_it_blocks() {
    if elsewhere() {
        return;
    }
    let mut told = told();
    let whole = told.create(json!({ "assigned_to": "architect" }));
    let blocker = told.create(json!({ "assigned_to": "devops" }));
    told.create(json!({ "assigned_to": "product", "blocked_by_task_id": blocker }));
    told.hint.changes(true);
    let part = told.create(json!({ "assigned_to": "coder", "parent_task_id": whole }));
    assert_eq!(told.hint.changes(true), queues(&["architect", "coder"]));
    told.changes(
        "delete_task",
        json!({ "id": part }),
        &["architect", "coder"],
    );
    told.changes(
        "update_task",
        json!({ "id": blocker, "status": "complete" }),
        &["devops", "product"],
    );
}

#[test]
fn a_comment_is_told_by_its_task_and_reading_is_no_news() {
    if elsewhere() {
        return;
    }
    let mut told = told();
    let one = told.create(json!({ "assigned_to": "architect" }));
    told.hint.changes(true);
    let comment = json!({ "task_id": one, "content": "a word", "created_by": "a person" });
    told.client.text("add_comment", comment);
    let task = News::Task(one.try_into().expect("positive"));
    assert_eq!(told.hint.changes(true), Some(vec![task]));
    told.client
        .text("get_my_queue", json!({ "agent_name": "architect" }));
    assert_eq!(told.hint.changes(true), Some(vec![]));
    // What was let go is read again.
    told.hint.rest();
    assert_eq!(told.hint.changes(true), Some(vec![]));
    told.hint.rest();
    told.changes(
        "signup_for_task",
        json!({ "agent_name": "architect" }),
        &["architect"],
    );
}

#[test]
fn the_newest_task_is_told_and_another_file_in_the_same_place_is_not_taken_for_it() {
    if elsewhere() {
        return;
    }
    let mut told = told();
    assert_eq!(told.hint.newest(), Some(None));
    told.create(json!({ "assigned_to": "architect" }));
    let two = told.create(json!({}));
    for _ in 0..3 {
        let comment = json!({ "task_id": two, "content": "a word", "created_by": "a person" });
        told.client.text("add_comment", comment);
    }
    told.client
        .text("update_task", json!({ "id": two, "status": "complete" }));
    let newest = told.hint.newest().flatten().expect("there are two");
    assert_eq!(newest.id.number(), two);
    told.hint.changes(true);
    told.server.signal(nix::sys::signal::Signal::SIGKILL);
    told.server.wait();
    let db = told._folder.path().join("tinytask.db");
    for name in ["tinytask.db", "tinytask.db-wal", "tinytask.db-shm"] {
        std::fs::remove_file(db.with_file_name(name)).ok();
    }
    assert_eq!(told.hint.changes(true), None, "there is none");
    let server = Server::on(&db);
    assert_eq!(told.hint.changes(true), None, "another one");
    assert_eq!(told.hint.changes(true), Some(vec![]));
    // Its comments count from one again.
    let mut client = server.client();
    let made = json!({ "title": "a task", "created_by": "a test" });
    let one = client.json("create_task", made)["id"]
        .as_i64()
        .expect("a number");
    told.hint.changes(true);
    let comment = json!({ "task_id": one, "content": "a word", "created_by": "a person" });
    client.text("add_comment", comment);
    let task = News::Task(one.try_into().expect("positive"));
    assert_eq!(told.hint.changes(true), Some(vec![task]));
}

#[test]
fn what_is_no_database_with_a_log_tells_nothing() {
    let (_folder, db) = folder();
    let mut hint = hint_on(&db);
    assert_eq!((hint.changes(true), hint.newest()), (None, None), "no file");
    std::fs::write(&db, "no database").expect("ours");
    assert_eq!(
        (hint.changes(true), hint.newest()),
        (None, None),
        "no database"
    );
    std::fs::remove_file(&db).expect("ours");
    let connection = Connection::open(&db).expect("a new file");
    connection
        .execute_batch("CREATE TABLE tasks (id INTEGER PRIMARY KEY)")
        .expect("good SQL");
    assert_eq!((hint.changes(true), hint.newest()), (None, None), "no log");
    // A server that has ended leaves no log behind, and none is made beside its file.
    let names = || {
        std::fs::read_dir(db.parent().expect("a folder"))
            .expect("ours")
            .count()
    };
    connection
        .execute_batch("PRAGMA journal_mode = wal")
        .expect("good SQL");
    drop(connection);
    let before = names();
    assert_eq!(
        (hint.changes(true), hint.newest()),
        (None, None),
        "it has ended"
    );
    assert_eq!(names(), before);
}

#[test]
fn the_first_generation_is_read_too() {
    let (_folder, db) = folder();
    let connection = Connection::open(&db).expect("a new file");
    connection
        .execute_batch(
            "PRAGMA journal_mode = wal;
             CREATE TABLE tasks (id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT, status TEXT, assigned_to TEXT,
                 priority INTEGER, created_at TEXT DEFAULT CURRENT_TIMESTAMP, updated_at TEXT DEFAULT CURRENT_TIMESTAMP,
                 archived_at TEXT);
             CREATE TABLE comments (id INTEGER PRIMARY KEY AUTOINCREMENT, task_id INTEGER);
             INSERT INTO tasks (title, status, assigned_to) VALUES ('old', 'idle', 'crew');",
        )
        .expect("good SQL");
    let mut hint = hint_on(&db);
    assert_eq!(hint.changes(true), None, "nothing was read before");
    connection
        .execute_batch("UPDATE tasks SET status = 'working'")
        .expect("good SQL");
    assert_eq!(hint.changes(true), queues(&["crew"]));
    assert_eq!(hint.newest().flatten().map(|key| key.id.number()), Some(1));
}

#[test]
fn what_the_time_of_a_change_does_not_tell_is_found_once_the_burst_is_over() {
    if elsewhere() {
        return;
    }
    let mut told = told();
    let whole = told.create(json!({ "assigned_to": "architect" }));
    let part = told.create(json!({ "assigned_to": "devops", "parent_task_id": whole }));
    told.create(json!({ "assigned_to": "devops", "parent_task_id": whole }));
    let blocked = json!({ "assigned_to": "coder", "blocked_by_task_id": part });
    let blocked = told.create(blocked);
    let all = &["architect", "coder", "devops"];
    assert_eq!(told.hint.changes(false), queues(all));
    assert_eq!(told.hint.changes(false), Some(vec![]));
    // With all that it matters to.
    let done = json!({ "id": part, "status": "complete" });
    told.client.text("update_task", done);
    assert_eq!(told.hint.changes(false), queues(all));
    assert_eq!(told.hint.changes(false), Some(vec![]));
    assert_eq!(told.hint.changes(true), queues(all));
    assert_eq!(told.hint.changes(true), Some(vec![]));

    told.client.text("delete_task", json!({ "id": blocked }));
    assert_eq!(told.hint.changes(false), Some(vec![]));
    assert_eq!(told.hint.changes(true), queues(&["coder"]));
    let db = Connection::open(&told.db).expect("it is there");
    let set_back = "UPDATE tasks SET description = 'a word', updated_at = '2001-01-01 00:00:00'";
    db.execute(set_back, []).expect("changed");
    assert_eq!(told.hint.changes(false), Some(vec![]));
    assert_eq!(told.hint.changes(true), queues(&["architect", "devops"]));
    assert_eq!(told.hint.changes(true), Some(vec![]));
}
