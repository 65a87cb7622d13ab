//! tinytask down, dying, hanging, or another server altogether.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::world::World;

/// Answers each request with what `answer` makes of its body; nothing at all where that is `None`.
struct Fake {
    url: String,
    end: Arc<AtomicBool>,
}

impl Fake {
    fn serve(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let end = Arc::new(AtomicBool::new(false));
        let (is_over, answer) = (Arc::clone(&end), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || talk(stream, &*answer));
            }
        });
        Self {
            url: format!("http://{address}/mcp"),
            end,
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let address = self
            .url
            .trim_start_matches("http://")
            .trim_end_matches("/mcp");
        drop(std::net::TcpStream::connect(address));
    }
}

fn talk(mut stream: std::net::TcpStream, answer: &dyn Fn(&str) -> Option<String>) {
    let mut seen = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        let Ok(n @ 1..) = stream.read(&mut buffer) else {
            return;
        };
        seen.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().ok())?
        });
        if body.len() < length.unwrap_or(0) {
            continue;
        }
        seen.clear();
        match answer(&text) {
            Some(answer) if stream.write_all(answer.as_bytes()).is_ok() => {}
            Some(_) => return,
            // Silent until the other side gives up.
            None => while stream.read(&mut buffer).is_ok_and(|n| n > 0) {},
        }
    }
}

fn http(status: &str, kind: &str, body: &str) -> Option<String> {
    Some(format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// An MCP server, but not tinytask.
fn weather(request: &str) -> Option<String> {
    let body = request.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let message: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let result = match message["method"].as_str() {
        Some("initialize") => {
            serde_json::json!({"protocolVersion": "2025-03-26", "capabilities": {"tools": {}},
            "serverInfo": {"name": "weather", "version": "1"}})
        }
        Some("tools/list") => {
            serde_json::json!({"tools": [{"name": "forecast", "description": "x", "inputSchema": {"type": "object"}}]})
        }
        _ => return http("202 Accepted", "text/plain", ""),
    };
    let answer = serde_json::json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
    http("200 OK", "application/json", &answer.to_string())
}

/// Nothing is started, everything says why and how to mend it; and once the address is right the waiting task runs.
#[track_caller]
fn unreachable(url: &str, error: &str, hint: &str) {
    let mut world = World::new();
    let id = world.task("good");
    let right = world.read("calypso.toml");
    let wrong = right
        .replace(&world.tinytask.url(), url)
        .replace("[tinytask]", "[tinytask]\ntimeout = \"1s\"");
    world.write("calypso.toml", &wrong);
    let said = world.cli(&["run", "--once"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(
        said.err
            .ends_with(&format!("error: {error}\nhint: {hint}\n")),
        "{}",
        said.err
    );
    world.start();
    let status = world.cli(&["status"]);
    status.tells(4, &format!("{error}; nothing is started until it is back"));
    status.tells(4, &crate::world::unwrapped(hint));
    world.cli(&["plan"]).tells(4, error);
    let said = world.cli(&["task", "list"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.ends_with(&format!("hint: {hint}\n")), "{said:?}");
    assert_eq!(world.status_of(id), "idle");
    world.write("calypso.toml", &right);
    world.eventually("the task runs", || world.status_of(id) == "complete");
    // With the daemon dead, that is what is said first.
    world.stop();
    world.write("calypso.toml", &wrong);
    world.cli(&["status"]).tells(3, error);
}

const CHECK: &str = "check `url` or `command` in calypso.toml, [tinytask]; a tinytask address looks like http://127.0.0.1:3000/mcp";
const START: &str =
    "start it, or use the built-in one: in calypso.toml, `[tinytask] builtin = true`";

#[test]
fn nobody_listens() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("it listens");
    drop(free);
    let url = format!("http://{address}/mcp");
    let error = format!("cannot reach tinytask at `{url}`: connection refused (os error 111)");
    unreachable(&url, &error, START);
}

#[test]
fn a_web_site_answers() {
    let fake = Fake::serve(|_| http("200 OK", "text/html", "<html>Welcome to nginx!</html>"));
    let error = format!(
        "what answers at `{}` is not a tinytask that can be used: it answers with text/html",
        fake.url
    );
    unreachable(&fake.url, &error, CHECK);
}

#[test]
fn another_mcp_server_answers() {
    let fake = Fake::serve(weather);
    let error = format!(
        "what answers at `{}` is not a tinytask that can be used: it offers no `get_my_queue`",
        fake.url
    );
    unreachable(&fake.url, &error, CHECK);
}

#[test]
fn nobody_answers() {
    let fake = Fake::serve(|_| None);
    let error = format!(
        "tinytask at `{}` did not answer `initialize` within 1s",
        fake.url
    );
    unreachable(
        &fake.url,
        &error,
        "it is there but busy or stuck; restart it, or raise `timeout` in calypso.toml, [tinytask]",
    );
}

#[test]
fn an_address_of_the_old_transport_is_refused() {
    let fake = Fake::serve(|request| {
        // As v1 was recorded.
        assert!(request.starts_with("POST /mcp"), "{request}");
        http(
            "400 Bad Request",
            "application/json",
            "{\"error\":\"Missing session ID\"}",
        )
    });
    unreachable(
        &fake.url,
        "v1 of tinytask over HTTP cannot be used: it speaks the old SSE transport",
        "start it over stdio: in calypso.toml, [tinytask] command = [\"node\", \"…/build/index.js\"], \
         env = { TINYTASK_MODE = \"stdio\", … }; or move to tinytask v2",
    );
}

#[test]
fn no_tinytask_at_all() {
    let world = World::new();
    world.write("calypso.toml", "");
    let none = "no tinytask is configured, and no recipe names one; in calypso.toml, `[tinytask] builtin = true` takes the built-in one";
    world.cli(&["status"]).tells(3, none);
    world
        .cli(&["task", "list"])
        .fails(4, &format!("error: {none}\n"));
    world.cli(&["run", "--once"]).tells(4, none);
}

#[test]
fn a_command_that_is_none() {
    let world = World::new();
    let cases = [
        (
            "[\"/no/such\"]",
            "error: cannot use tinytask's command `/no/such`\n  caused by: no such file or directory (os error 2)\n",
        ),
        (
            "[\"/bin/true\"]",
            "error: cannot use tinytask's command `/bin/true`\n  caused by: it ended with exit code 0\n",
        ),
        (
            "[\"/bin/echo\", \"hello\"]",
            "error: cannot use tinytask's command `/bin/echo`\n  caused by: it ended with exit code 0\n",
        ),
    ];
    for (command, error) in cases {
        world.write("calypso.toml", format!("[tinytask]\ncommand = {command}\n"));
        let said = world.cli(&["task", "list"]);
        assert!(said.code == 4 && said.err.starts_with(error), "{said:?}");
        assert!(
            said.err
                .contains("hint: run it by hand to see what it says"),
            "{said:?}"
        );
    }
}

/// It dies while an agent works and comes back on the same address: the agent goes on, its verdict waits, nothing is lost or run twice.
#[test]
fn a_tinytask_that_dies_is_waited_for() {
    let mut world = World::new();
    let slow = "[queues.slow]\ncommand = [\"/bin/sh\", \"-c\", \"while [ ! -e go ]; do sleep 0.02; done; exec /bin/sh good.sh $1\", \"sh\", \"{task_id}\"]\n";
    world.settings("", slow);
    let id = world.task("slow");
    world.start();
    world.eventually("its agent runs", || {
        world
            .base
            .join(format!("running_tasks/task_{id}.pid"))
            .exists()
    });
    world.kill_tinytask();
    world.shows("UNREACHABLE");
    assert!(world.is_running());
    assert!(
        world
            .base
            .join(format!("running_tasks/task_{id}.pid"))
            .exists()
    );
    world.restart_tinytask();
    world.write("go", "");
    world.eventually("the task is done", || world.status_of(id) == "complete");
    world.good_works();
    assert_eq!(world.runs_of(&format!("task_{id}")), 1);
}

/// A long backlog is listed, and the one task of a queue with an agent still runs.
#[test]
fn twenty_five_thousand_tasks() {
    let mut world = World::new();
    let db = rusqlite::Connection::open(world.beside("tinytask/tinytask.db")).expect("it is there");
    db.busy_timeout(std::time::Duration::from_secs(10))
        .expect("set");
    let id = world.tinytask.create("a template", "people");
    let columns: Vec<String> = {
        let mut rows = db
            .prepare("SELECT name FROM pragma_table_info('tasks')")
            .expect("SQL");
        let names = rows
            .query_map([], |row| row.get::<_, String>(0))
            .expect("SQL");
        names
            .map(|name| name.expect("a name"))
            .filter(|name| name != "id")
            .collect()
    };
    let columns = columns.join(", ");
    let copy = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 24999) \
         INSERT INTO tasks ({columns}) SELECT {columns} FROM tasks, n WHERE id = {id}"
    );
    assert_eq!(db.execute(&copy, []).expect("SQL"), 24_999);
    world.start();
    world.good_works();
    let status = world.status();
    assert!(status.contains("people 25000"), "{status}");
    assert!(
        world.cli(&["status"]).out.lines().count() < 30,
        "one screen"
    );
    assert_eq!(world.cli(&["task", "list"]).out.lines().count(), 25_001);
}

/// The port of the built-in one is another program's, which answers and even speaks HTTP.
#[test]
fn a_port_of_the_built_in_one_that_is_taken() {
    let mut world = World::new();
    let fake = Fake::serve(weather);
    let address = fake
        .url
        .trim_start_matches("http://")
        .trim_end_matches("/mcp");
    let tables = format!("[tinytask]\nbuiltin = true\nlisten = \"{address}\"\n");
    world.settings("", &tables);
    for args in [&["run"][..], &["run", "--once"]] {
        let said = world.cli(args);
        said.tells(
            4,
            &format!("cannot listen on `{address}`: Address already in use"),
        );
        said.tells(
            4,
            "hint: its own words are in `.calypso/tinytask.log`; `listen` in calypso.toml, [tinytask], gives it another port",
        );
    }
    // Set free again, it is taken.
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("it listens");
    drop(free);
    world.settings(
        "",
        &format!("[tinytask]\nbuiltin = true\nlisten = \"{address}\"\n"),
    );
    world.start();
    world.cli(&["status"]).tells(0, "tinytask built in ok");
    world
        .cli(&["tinytask", "stop"])
        .tells(0, "ended the built-in tinytask");
    world.eventually("it is started again", || {
        world.status().contains("tinytask built in ok")
    });
}
