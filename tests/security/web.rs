//! A web page, and another program on this machine, talking to the built-in tinytask.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::json;

use crate::world::World;

/// Sends one request as a browser would, byte by byte ours; the status, and all of the answer.
#[track_caller]
fn send(
    world: &World,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    let url = world.tinytask.url();
    let address = url
        .trim_start_matches("http://")
        .trim_end_matches("/mcp")
        .to_owned();
    let mut stream = TcpStream::connect(&address).expect("tinytask listens");
    let mut request = format!("{method} {path} HTTP/1.1\r\n");
    if headers.iter().all(|(name, _)| *name != "host") {
        request += &format!("host: {address}\r\n");
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!(
        "content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("it listens");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.unwrap_or_else(|| panic!("{answer:?}")), answer)
}

const CREATE: &str = r#"{"title":"owned","created_by":"a page","assigned_to":"good"}"#;

fn rpc() -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
           "params": {"name": "create_task", "arguments": {"title": "owned", "assigned_to": "good"}}})
    .to_string()
}

/// The three kinds of content that a form or a script may send to any site without asking it first.
const SIMPLE: [&str; 3] = [
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
];

#[test]
fn a_web_page_reaches_neither_mcp_nor_rest() {
    let world = World::new();
    let rpc = rpc();
    for origin in [
        "http://evil.example",
        "https://evil.example:3000",
        "null",
        "http://localhost.evil.example",
        "http://127.0.0.1@evil.example",
    ] {
        for kind in SIMPLE.iter().copied().chain(["application/json"]) {
            let headers = [
                ("origin", origin),
                ("content-type", kind),
                ("accept", "application/json, text/event-stream"),
            ];
            assert_eq!(
                send(&world, "POST", "/mcp", &headers, &rpc).0,
                403,
                "{origin} {kind}"
            );
            assert_eq!(
                send(&world, "POST", "/api/v1/tasks", &headers, CREATE).0,
                403,
                "{origin} {kind}"
            );
        }
        for method in ["GET", "PATCH", "DELETE", "OPTIONS"] {
            let (status, _) = send(&world, method, "/api/v1/tasks/1", &[("origin", origin)], "");
            assert_eq!(status, 403, "{method}");
        }
    }
    assert!(world.tinytask.tasks().is_empty(), "a page made a task");
}

/// DNS rebinding: the page's own name leads to 127.0.0.1, so its browser sends no Origin for a GET, but that name as Host.
#[test]
fn a_name_that_was_bound_to_this_machine_is_refused() {
    let world = World::new();
    world.task("good");
    for host in [
        "evil.example",
        "evil.example:3000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "0x7f000001.evil",
        "2130706433",
    ] {
        for path in ["/api/v1/tasks", "/health", "/mcp", "/"] {
            let (status, answer) = send(&world, "GET", path, &[("host", host)], "");
            assert_eq!(status, 403, "{host} {path}");
            assert!(!answer.contains("a task"), "{answer}");
        }
    }
}

/// A page that another program of this machine serves may be no friend either: it cannot act without asking first, and asking is
/// not answered.
#[test]
fn a_page_of_another_program_on_this_machine_cannot_act() {
    let world = World::new();
    let id = world.task("good");
    let origin = "http://localhost:8080";
    for kind in SIMPLE {
        let headers = [
            ("origin", origin),
            ("content-type", kind),
            ("accept", "application/json, text/event-stream"),
        ];
        assert_eq!(
            send(&world, "POST", "/mcp", &headers, &rpc()).0,
            415,
            "{kind}"
        );
        for (path, body) in [
            ("/api/v1/tasks".to_owned(), CREATE),
            (format!("/api/v1/tasks/{id}/archive"), ""),
            ("/api/v1/agents/good/signup".to_owned(), ""),
        ] {
            assert_eq!(
                send(&world, "POST", &path, &headers, body).0,
                415,
                "{kind} {path}"
            );
        }
    }
    let bare = [("origin", origin)];
    assert_eq!(
        send(&world, "POST", "/api/v1/agents/good/signup", &bare, "").0,
        415
    );
    for path in ["/mcp", "/api/v1/tasks"] {
        let asking = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type"),
        ];
        let (_, answer) = send(&world, "OPTIONS", path, &asking, "");
        assert!(
            !answer.to_ascii_lowercase().contains("access-control-allow"),
            "{answer}"
        );
    }
    let (_, answer) = send(&world, "GET", "/api/v1/tasks", &bare, "");
    assert!(
        !answer.to_ascii_lowercase().contains("access-control-allow"),
        "its page may not read it: {answer}"
    );
    assert_eq!(world.status_of(id), "idle");
    assert_eq!(world.tinytask.tasks().len(), 1);
    // A program without a browser is served as before, whatever it calls its content.
    assert_eq!(
        send(
            &world,
            "POST",
            "/api/v1/tasks",
            &[("content-type", "text/plain")],
            CREATE
        )
        .0,
        201
    );
}
