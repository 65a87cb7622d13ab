//! Many at once, several servers on one file, and sudden death.

use std::collections::BTreeSet;
use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};

use nix::sys::signal::Signal;
use serde_json::json;

use super::client::{Client, json_of};
use super::server::{Server, elsewhere, eventually, folder, serve};

fn create_tasks(client: &mut Client, agent: &str, count: usize) {
    for n in 0..count {
        let task = json!({"title": format!("{n}"), "created_by": "boss", "assigned_to": agent, "priority": n % 3});
        client.json("create_task", task);
    }
}

/// Signs up until there is nothing left; the ids it got.
fn claim_all(client: &mut Client, agent: &str) -> Vec<i64> {
    let mut claimed = Vec::new();
    loop {
        let text = client.text("signup_for_task", json!({"agent_name": agent}));
        match json_of(&text) {
            Some(task) => claimed.push(task["id"].as_i64().expect("an id")),
            None => return claimed,
        }
    }
}

/// Each task is claimed, and none twice.
#[track_caller]
fn assert_once(claims: Vec<i64>, count: usize) {
    let different: BTreeSet<i64> = claims.iter().copied().collect();
    assert_eq!(different.len(), claims.len(), "a task was claimed twice");
    assert_eq!(claims.len(), count);
}

fn assert_sound(db: &Path) {
    let db = rusqlite::Connection::open(db).expect("the file opens");
    let told: String = db
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .expect("a check");
    assert_eq!(told, "ok");
}

#[test]
fn eight_clients_never_claim_a_task_twice() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    let server = Server::on(&db);
    create_tasks(&mut server.client(), "crew", 160);
    let together = Barrier::new(8);
    let claims = std::thread::scope(|scope| {
        let claimers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    together.wait();
                    claim_all(&mut server.client(), "crew")
                })
            })
            .collect();
        claimers
            .into_iter()
            .flat_map(|claimer| claimer.join().expect("no panic"))
            .collect()
    });
    assert_once(claims, 160);
}

#[test]
fn several_servers_share_one_file() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    // Started together on a file that is not there yet, too.
    let servers: Vec<Server> = std::thread::scope(|scope| {
        let starting: Vec<_> = (0..2).map(|_| scope.spawn(|| Server::on(&db))).collect();
        starting
            .into_iter()
            .map(|starting| starting.join().expect("it starts"))
            .collect()
    });
    let child = || {
        Client::stdio(&mut serve(&[
            "--stdio",
            "--db",
            db.to_str().expect("UTF-8"),
        ]))
    };
    create_tasks(&mut servers[0].client(), "crew", 240);
    let claims = Mutex::new(Vec::new());
    let together = Barrier::new(6);
    std::thread::scope(|scope| {
        for at in 0..6 {
            let (servers, claims, together) = (&servers, &claims, &together);
            scope.spawn(move || {
                let mut client = match at {
                    0..2 => servers[0].client(),
                    2..4 => servers[1].client(),
                    _ => child(),
                };
                client.json("list_queues", json!({}));
                together.wait();
                let mine = claim_all(&mut client, "crew");
                // Any refusal, such as `database is locked`, fails the test here.
                for id in &mine {
                    client.json(
                        "add_comment",
                        json!({"task_id": id, "content": "mine", "created_by": "crew"}),
                    );
                    client.json("update_task", json!({"id": id, "status": "complete"}));
                }
                claims.lock().expect("no panic").extend(mine);
            });
        }
    });
    assert_once(claims.into_inner().expect("no panic"), 240);
    let left = servers[1]
        .client()
        .json("list_tasks", json!({"exclude_status": ["complete"]}));
    assert_eq!(left["count"], 0);
    drop(servers);
    assert_sound(&db);
}

#[test]
fn a_file_that_another_program_holds_stops_writes_only() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    let server = Server::on(&db);
    create_tasks(&mut server.client(), "crew", 1);
    let holder = rusqlite::Connection::open(&db).expect("opens");
    holder
        .execute_batch("BEGIN IMMEDIATE; UPDATE tasks SET title = 'held' WHERE id = 1")
        .expect("nobody else writes");
    let asked = Barrier::new(3);
    std::thread::scope(|scope| {
        let claiming = scope.spawn(|| {
            let mut client = server.client();
            asked.wait();
            client.text("signup_for_task", json!({"agent_name": "crew"}))
        });
        let noting = scope.spawn(|| {
            asked.wait();
            let body = json!({"content": "said while it was held", "created_by": "b"}).to_string();
            server.exchange("POST", "/api/v1/tasks/1/comments", &[], &body)
        });
        asked.wait();
        for _ in 0..20 {
            let queue = server
                .client()
                .json("get_my_queue", json!({"agent_name": "crew"}));
            assert_eq!(
                queue["tasks"][0]["title"], "0",
                "what is not committed is not seen"
            );
            assert_eq!(server.exchange("GET", "/health", &[], "").status, 200);
            assert_eq!(
                server.exchange("GET", "/api/v1/tasks/1", &[], "").status,
                200
            );
        }
        assert!(!claiming.is_finished() && !noting.is_finished());
        holder.execute_batch("COMMIT").expect("held above");
        let claimed = json_of(&claiming.join().expect("no refusal")).expect("a task");
        assert_eq!(
            (&claimed["status"], &claimed["title"]),
            (&json!("working"), &json!("held")),
            "it decided by what was there when it could write"
        );
        assert_eq!(noting.join().expect("no panic").status, 201);
    });
}

#[test]
fn over_stdio_too_a_write_that_waits_lets_a_read_pass() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    let mut client = Client::stdio(&mut serve(&[
        "--stdio",
        "--db",
        db.to_str().expect("UTF-8"),
    ]));
    create_tasks(&mut client, "crew", 1);
    let holder = rusqlite::Connection::open(&db).expect("opens");
    holder
        .execute_batch("BEGIN IMMEDIATE")
        .expect("nobody else writes");
    let Client::Stdio {
        to: Some(to), from, ..
    } = &mut client
    else {
        unreachable!("made above")
    };
    let call = |id: &str, tool: &str| {
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
               "params": {"name": tool, "arguments": {"agent_name": "crew"}}})
    };
    writeln!(to, "{}", call("write", "signup_for_task")).expect("open");
    writeln!(to, "{}", call("read", "get_my_queue")).expect("open");
    let mut answered = || {
        let mut line = String::new();
        from.read_line(&mut line).expect("an answer");
        serde_json::from_str::<serde_json::Value>(&line).expect("JSON")["id"].clone()
    };
    assert_eq!(answered(), "read");
    holder.execute_batch("COMMIT").expect("held above");
    assert_eq!(answered(), "write");
}

/// Writers write until the server is gone; then all they were told must be there.
fn nothing_told_is_lost(signal: Signal) {
    let (_dir, db) = folder();
    let mut server = Server::on(&db);
    let told = Mutex::new(Vec::new());
    let count = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (server, told, count) = (&server, &told, &count);
            scope.spawn(move || {
                let mut client = server.client();
                for n in 0.. {
                    let task = json!({"title": format!("{writer}-{n}"), "created_by": "w"});
                    let Some((text, false)) = client.try_tool("create_task", Some(&task)) else {
                        return;
                    };
                    let task = json_of(&text).expect("a task");
                    told.lock()
                        .expect("no panic")
                        .push((task["id"].clone(), task["title"].clone()));
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        eventually("some writes", || {
            (count.load(Ordering::Relaxed) > 60).then_some(())
        });
        server.signal(signal);
    });
    let ended = server.wait();
    if signal == Signal::SIGTERM {
        assert_eq!(ended.code(), Some(0));
    }
    let told = told.into_inner().expect("no panic");
    let again = Server::on(&db);
    let mut client = again.client();
    for (id, title) in told {
        assert_eq!(client.json("get_task", json!({"id": id}))["title"], title);
    }
    assert_sound(&db);
}

#[test]
fn a_killed_server_has_kept_all_it_answered() {
    if !elsewhere() {
        nothing_told_is_lost(Signal::SIGKILL);
    }
}

#[test]
fn a_terminated_server_has_kept_all_it_answered() {
    if !elsewhere() {
        nothing_told_is_lost(Signal::SIGTERM);
    }
}
