//! Starting, finding, stopping; what is written for others to read.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::client::Client;
use super::server::{BINARY, Server, elsewhere, eventually, folder, serve};

fn base(dir: &Path) -> Server {
    Server::start(&mut base_command(
        dir,
        &["serve", "--listen", "127.0.0.1:0"],
    ))
}

fn base_command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .arg("--base-path")
        .arg(dir)
        .arg("tinytask")
        .args(arguments)
        .env_remove("CALYPSO_BASE_PATH");
    command
}

fn stop(dir: &Path) -> Output {
    base_command(dir, &["stop"]).output().expect("it runs")
}

fn told(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn record(dir: &Path) -> Option<Value> {
    let bytes = std::fs::read(dir.join(".calypso/tinytask/server.json")).ok()?;
    Some(serde_json::from_slice(&bytes).expect("whole at any moment"))
}

#[test]
fn a_base_path_has_one_server_that_can_be_found_and_stopped() {
    if elsewhere() {
        return;
    }
    let (dir, _) = folder();
    let mut server = base(dir.path());
    let pid = server.child.id();
    let found = record(dir.path()).expect("written before it says that it listens");
    assert_eq!(found["pid"], pid);
    assert_eq!(found["address"], server.address);
    assert_eq!(found["version"], env!("CARGO_PKG_VERSION"));
    assert!(
        found["start"].as_u64().is_some_and(|start| start > 0),
        "{found}"
    );
    assert!(dir.path().join(".calypso/tinytask/tinytask.db").is_file());

    let second = base_command(dir.path(), &["serve", "--listen", "127.0.0.1:0"])
        .output()
        .expect("it runs");
    assert_eq!(second.status.code(), Some(1), "{}", told(&second));
    assert!(
        told(&second).contains(&format!("(pid {pid})")),
        "{}",
        told(&second)
    );
    assert!(told(&second).contains("tinytask stop"), "{}", told(&second));
    assert_eq!(
        record(dir.path()),
        Some(found),
        "the second one has left no trace"
    );

    let stopped = stop(dir.path());
    assert_eq!(stopped.status.code(), Some(0), "{}", told(&stopped));
    assert!(String::from_utf8_lossy(&stopped.stdout).contains(&format!("(pid {pid})")));
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(record(dir.path()), None);

    let again = stop(dir.path());
    assert_eq!(again.status.code(), Some(3), "{}", told(&again));
    drop(base(dir.path()));
}

#[test]
fn the_record_of_a_killed_server_stops_nobody() {
    if elsewhere() {
        return;
    }
    let (dir, _) = folder();
    let mut server = base(dir.path());
    server.signal(Signal::SIGKILL);
    server.wait();
    let mut stale = record(dir.path()).expect("nobody removed it");
    assert_eq!(stop(dir.path()).status.code(), Some(3));

    // The number is another process's by now: one of ours, which must live on.
    let mut other = Command::new("sleep")
        .arg("60")
        .spawn()
        .expect("sleep is there");
    stale["pid"] = json!(other.id());
    std::fs::write(
        dir.path().join(".calypso/tinytask/server.json"),
        stale.to_string(),
    )
    .expect("writable");
    assert_eq!(stop(dir.path()).status.code(), Some(3));
    assert!(
        other.try_wait().expect("our child").is_none(),
        "a stranger was ended"
    );
    other.kill().expect("our child");
    other.wait().expect("our child");

    // And it is in nobody's way.
    let server = base(dir.path());
    assert_eq!(
        record(dir.path()).expect("replaced")["pid"],
        server.child.id()
    );
}

#[test]
fn the_base_path_is_found_from_a_folder_below() {
    if elsewhere() {
        return;
    }
    let (dir, _) = folder();
    let below = dir.path().join("workqueue/task_1");
    std::fs::create_dir_all(&below).expect("writable");
    std::fs::write(dir.path().join("calypso.toml"), "").expect("writable");
    let server = Server::start(serve(&["--listen", "127.0.0.1:0"]).current_dir(&below));
    let found = record(dir.path()).expect("of the base path above");
    assert_eq!(found["pid"], server.child.id());
}

#[test]
fn started_by_hand_it_is_served_where_the_settings_say() {
    if elsewhere() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let settings = |listen: &str| {
        let settings = format!("[tinytask]\nbuiltin = true\nlisten = '{listen}'\n");
        std::fs::write(dir.path().join("calypso.toml"), settings).expect("writable");
    };
    settings("127.0.0.1:0");
    let free = base(dir.path()).address.clone();
    settings(&free);
    let mut command = base_command(dir.path(), &["serve"]);
    assert_eq!(Server::start(&mut command).address, free);
    settings("everywhere");
    let refused = command
        .output()
        .expect("the binary was built for this test");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(told(&refused).contains("listen"), "{refused:?}");
}

#[test]
fn a_taken_port_and_a_public_address_are_refused() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    let server = Server::on(&db);
    let db = db.to_str().expect("UTF-8");
    let out = serve(&["--listen", &server.address, "--db", db])
        .output()
        .expect("it runs");
    assert_eq!(out.status.code(), Some(1));
    assert!(
        told(&out).contains("in use") && told(&out).contains("127.0.0.1:0"),
        "{}",
        told(&out)
    );
    let out = serve(&["--listen", "0.0.0.0:0", "--db", db])
        .output()
        .expect("it runs");
    assert_eq!(out.status.code(), Some(2), "{}", told(&out));
    assert!(
        told(&out).contains("not a loopback address"),
        "{}",
        told(&out)
    );
}

#[test]
fn it_ends_cleanly_while_clients_stay_connected() {
    if elsewhere() {
        return;
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (_dir, db) = folder();
        let mut server = Server::on(&db);
        server
            .client()
            .json("create_task", json!({"title": "t", "created_by": "b"}));
        // One that has asked and keeps its connection, one that is in the middle of asking.
        let mut idle = TcpStream::connect(&server.address).expect("it listens");
        write!(idle, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("open");
        let mut first = [0; 12];
        idle.read_exact(&mut first).expect("an answer");
        let mut slow = TcpStream::connect(&server.address).expect("it listens");
        write!(
            slow,
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n"
        )
        .expect("open");
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal}");
        let wal = db.with_extension("db-wal");
        assert!(!wal.exists(), "a clean end leaves one file");
    }
}

#[test]
fn a_stdio_server_ends_by_signal_too() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    let mut client = Client::stdio(&mut serve(&[
        "--stdio",
        "--db",
        db.to_str().expect("UTF-8"),
    ]));
    client.json("list_queues", json!({}));
    let Client::Stdio { child, .. } = &mut client else {
        unreachable!("made above")
    };
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, Signal::SIGTERM).expect("our child");
    let ended = eventually("the server ends", || child.try_wait().expect("our child"));
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn garbage_on_stdio_is_passed_over() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    let mut command = serve(&["--stdio", "--db", db.to_str().expect("UTF-8")]);
    let mut client = Client::stdio(&mut command);
    let Client::Stdio { to: Some(to), .. } = &mut client else {
        unreachable!("made above")
    };
    writeln!(to, "this is not JSON").expect("open");
    writeln!(to).expect("open");
    assert_eq!(client.json("list_queues", json!({}))["count"], 0);
    assert_eq!(client.end(), Some(0));
}

#[test]
fn the_log_has_a_line_for_each_call() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    let mut command = serve(&[
        "--log",
        "--listen",
        "127.0.0.1:0",
        "--db",
        db.to_str().expect("UTF-8"),
    ]);
    let mut server = Server::start(command.stderr(Stdio::piped()));
    let mut client = server.client();
    client.json(
        "create_task",
        json!({"title": "t", "created_by": "boss", "assigned_to": "crew"}),
    );
    client.text("signup_for_task", json!({"agent_name": "crew"}));
    client.refusal("get_task", json!({"id": 9}));
    client.json("list_queues", json!({}));
    server.signal(Signal::SIGTERM);
    let mut log = String::new();
    let mut err = server.child.stderr.take().expect("piped above");
    err.read_to_string(&mut log).expect("UTF-8");
    server.wait();
    let lines: Vec<&str> = log
        .lines()
        .map(|line| line.split_once(' ').expect("a time").1)
        .collect();
    for (line, begin) in lines.iter().zip([
        "boss  create_task  task 1  ",
        "crew  signup_for_task  task 1  ",
        "-  get_task  task 9  ",
        "-  list_queues  -  ",
    ]) {
        assert!(line.starts_with(begin) && line.contains(" ms"), "{log}");
    }
    assert_eq!(lines.len(), 4, "{log}");
    assert!(lines[2].ends_with("error: Task not found: 9"), "{log}");
}
