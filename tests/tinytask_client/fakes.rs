//! Two programs that look like tinytask from outside: one over HTTP, one over stdio. They say what a test tells them to.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use calypso_watch::edge::tinytask::{Endpoint, Tinytask};
use camino::Utf8PathBuf;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Long enough for a debug build on a loaded machine.
pub(crate) const PATIENT: Duration = Duration::from_secs(60);
/// For calls that are never answered.
pub(crate) const SHORT: Duration = Duration::from_secs(1);

pub(crate) const V1: &str = include_str!("../data/tinytask_wire/v1.jsonl");
pub(crate) const V2: &str = include_str!("../data/tinytask_wire/v2.jsonl");

/// A recorded call and its answer.
#[derive(Debug, Clone, serde::Deserialize)]
pub(crate) struct Recorded {
    pub case: String,
    #[serde(default)]
    pub tool: String,
    #[serde(default)]
    pub text: String,
    #[serde(default)]
    pub is_error: bool,
    #[serde(default)]
    pub tools: Vec<String>,
}

pub(crate) fn recorded(of: &str) -> Vec<Recorded> {
    of.lines()
        .map(|line| serde_json::from_str(line).expect("a line of the recording"))
        .collect()
}

/// The answer recorded under that name.
#[track_caller]
pub(crate) fn case(of: &str, name: &str) -> Reply {
    let found = recorded(of).into_iter().find(|r| r.case == name);
    let found = found.unwrap_or_else(|| panic!("no case `{name}`"));
    Reply::Tool(found.text, found.is_error)
}

pub(crate) fn tools(of: &str) -> Vec<String> {
    recorded(of).remove(0).tools
}

/// What the fake does with one call.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A tool's text, and whether it is an error.
    Tool(String, bool),
    /// The same, and the body's end a moment after its last words, as a server does that does not know its length ahead.
    Chunked(String),
    /// A JSON-RPC error.
    Rpc(i64, &'static str),
    /// Status line and headers, then a body, then the end.
    Raw(String),
    /// Nothing, for ever.
    Hang,
    /// Headers, and never a body.
    HangInBody,
    /// Half a body.
    Cut,
}

pub(crate) fn ok(value: Value) -> Reply {
    Reply::Tool(format!("{value:#}"), false)
}
pub(crate) fn refused(text: &str) -> Reply {
    Reply::Tool(text.to_owned(), true)
}
pub(crate) fn http(status: &str, kind: &str, body: &str) -> Reply {
    Reply::Raw(format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    ))
}

#[derive(Default)]
struct Script {
    tools: Vec<String>,
    /// Answers by tool (or MCP method); the last one is given for ever.
    answers: HashMap<String, VecDeque<Reply>>,
    /// What to say to everything.
    always: Option<Reply>,
    calls: Vec<(String, Value)>,
}

/// tinytask over streamable HTTP, stateless as v2 is.
pub(crate) struct Fake {
    pub port: u16,
    script: Arc<Mutex<Script>>,
    connections: Arc<AtomicUsize>,
    server: Option<JoinHandle<()>>,
}

impl Fake {
    pub(crate) async fn start(of: &str) -> Self {
        let mut fake = Self {
            port: 0,
            script: Arc::default(),
            connections: Arc::default(),
            server: None,
        };
        fake.script.lock().unwrap().tools = tools(of);
        fake.up().await;
        fake
    }
    /// Listens, on the same port as before.
    pub(crate) async fn up(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.port = listener.local_addr().unwrap().port();
        let (script, connections) = (self.script.clone(), self.connections.clone());
        self.server = Some(tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                open.spawn(serve(stream, script.clone()));
            }
        }));
    }
    /// Dies, with all its connections.
    ///
    /// Interleaving survived: another test forks while the door is still open here, and its child has a copy of it until it execs.
    /// Whoever knocks meanwhile is let in and thrown out, not refused.
    pub(crate) async fn down(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            server.await.unwrap_err();
        }
        let refused = async {
            while TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        (tokio::time::timeout(Duration::from_secs(10), refused).await).expect("nobody listens");
    }
    pub(crate) fn says(&self, tool: &str, replies: impl IntoIterator<Item = Reply>) -> &Self {
        let mut script = self.script.lock().unwrap();
        script
            .answers
            .insert(tool.to_owned(), replies.into_iter().collect());
        self
    }
    pub(crate) fn always(&self, reply: Option<Reply>) {
        self.script.lock().unwrap().always = reply;
    }
    pub(crate) fn offers(&self, tools: &[&str]) {
        self.script.lock().unwrap().tools = tools.iter().map(|&t| t.to_owned()).collect();
    }
    /// The arguments of each call of that tool so far.
    pub(crate) fn asked(&self, tool: &str) -> Vec<Value> {
        let script = self.script.lock().unwrap();
        let of = script.calls.iter().filter(|(name, _)| name == tool);
        of.map(|(_, arguments)| arguments.clone()).collect()
    }
    /// How many were made so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::Http {
            url: format!("http://127.0.0.1:{}/mcp", self.port),
        }
    }
    pub(crate) fn client(&self, timeout: Duration) -> Tinytask {
        Tinytask::new(self.endpoint(), timeout)
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    while let Some(request) = read_request(&mut stream).await {
        let method = request["method"].as_str().unwrap_or_default().to_owned();
        let reply = answer(&mut script.lock().unwrap(), &method, &request);
        let body = |result: Value| {
            let message = json!({ "result": result, "jsonrpc": "2.0", "id": request["id"] });
            format!("event: message\ndata: {message}\n\n")
        };
        let bytes = match reply {
            Answer::Reply(Reply::Hang) => std::future::pending().await,
            Answer::Reply(Reply::HangInBody) => {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent: ";
                stream.write_all(head.as_bytes()).await.ok();
                std::future::pending().await
            }
            Answer::Reply(Reply::Cut) => {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 999\r\n\r\nevent: message\ndata: {\"result\":{\"con";
                stream.write_all(head.as_bytes()).await.ok();
                return;
            }
            Answer::Reply(Reply::Raw(bytes)) => {
                stream.write_all(bytes.as_bytes()).await.ok();
                return;
            }
            Answer::Reply(Reply::Chunked(text)) => {
                let words = body(json!({ "content": [{ "type": "text", "text": text }] }));
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                let most = format!("{head}{:x}\r\n{words}\r\n", words.len());
                if stream.write_all(most.as_bytes()).await.is_err() {
                    return;
                }
                // The client reads that much first.
                tokio::task::yield_now().await;
                "0\r\n\r\n".to_owned()
            }
            Answer::Reply(Reply::Rpc(code, text)) => {
                let message = json!({ "jsonrpc": "2.0", "id": request["id"], "error": { "code": code, "message": text } });
                event(&format!("event: message\ndata: {message}\n\n"))
            }
            Answer::Reply(Reply::Tool(text, is_error)) => {
                let mut result = json!({ "content": [{ "type": "text", "text": text }] });
                if is_error {
                    result["isError"] = true.into();
                }
                event(&body(result))
            }
            Answer::Result(result) => event(&body(result)),
            Answer::Accepted => "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
        if stream.write_all(bytes.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn event(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

enum Answer {
    Reply(Reply),
    Result(Value),
    Accepted,
}

fn answer(script: &mut Script, method: &str, request: &Value) -> Answer {
    let name = match method {
        "tools/call" => request["params"]["name"].as_str().unwrap_or_default(),
        other => other,
    };
    let arguments = request["params"]["arguments"].clone();
    script.calls.push((name.to_owned(), arguments));
    if let Some(reply) = &script.always {
        return Answer::Reply(reply.clone());
    }
    if let Some(replies) = script.answers.get_mut(name) {
        let reply = match replies.len() {
            0 | 1 => replies.front().cloned(),
            _ => replies.pop_front(),
        };
        if let Some(reply) = reply {
            return Answer::Reply(reply);
        }
    }
    match method {
        "initialize" => Answer::Result(json!({
            "protocolVersion": "2025-06-18",
            "capabilities": { "tools": {}, "resources": {} },
            "serverInfo": { "name": "tinytask-mcp", "version": "1.0.0" }
        })),
        "tools/list" => Answer::Result(json!({
            "tools": script.tools.iter().map(|name| json!({ "name": name, "inputSchema": { "type": "object" } })).collect::<Vec<_>>()
        })),
        "tools/call" => Answer::Reply(refused(&format!("Unknown tool: {name}"))),
        _ => Answer::Accepted,
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<Value> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let length: usize = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))?
        .trim()
        .parse()
        .ok()?;
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    serde_json::from_slice(&bytes[head..head + length]).ok()
}

/// tinytask over stdio: a small script in a folder of its own, which also keeps what it was asked.
pub(crate) struct Child {
    pub dir: tempfile::TempDir,
    pub env: Vec<(String, String)>,
}

const PROGRAM: &str = r#"
import json, os, sys
d = os.path.dirname(os.path.abspath(__file__))
script = json.load(open(os.path.join(d, "script.json")))
open(os.path.join(d, "pids"), "a").write("%d\n" % os.getpid())
open(os.path.join(d, "mode"), "w").write(os.environ.get("TINYTASK_MODE", "-") + " " + os.environ.get("TINYTASK_LOG_LEVEL", "-"))
for line in script.get("first", []):
    print(line, flush=True)
if "dies" in script:
    sys.stderr.write("some noise\n" + script["dies"] + "\n\n")
    sys.exit(1)
asked = open(os.path.join(d, "asked"), "a")
for line in sys.stdin:
    m = json.loads(line)
    if m.get("method") == "initialize":
        r = {"protocolVersion": "2024-11-05", "capabilities": {"tools": {}}, "serverInfo": {"name": "tinytask-mcp", "version": "1.0.0"}}
    elif m.get("method") == "tools/list":
        r = {"tools": [{"name": t, "inputSchema": {"type": "object"}} for t in script["tools"]]}
    elif m.get("method") == "tools/call":
        p = m["params"]
        asked.write(json.dumps([p["name"], p.get("arguments")]) + "\n"); asked.flush()
        a = script["answers"].get(p["name"], [])
        if a and a[0] == "die":
            script["answers"][p["name"]] = a[1:]
            if not os.path.exists(os.path.join(d, "died")):
                open(os.path.join(d, "died"), "w").close()
                sys.stderr.write("out of memory\n")
                sys.exit(137)
            a = a[1:]
        if a and isinstance(a[0], int):
            row = script["row"]
            text = json.dumps({"count": a[0], "tasks": [dict(row, id=i + 1) for i in range(a[0])]})
            e = False
        elif a:
            text, e = a[0]
            if len(a) > 1:
                script["answers"][p["name"]] = a[1:]
        else:
            text, e = "Unknown tool: " + p["name"], True
        r = {"content": [{"type": "text", "text": text}], "isError": e}
        for noise in script.get("noise", []):
            print(noise, flush=True)
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": r}), flush=True)
if script.get("stays"):
    import time
    time.sleep(600)
"#;

impl Child {
    /// `script` is what the program does: `tools`, `answers` by tool as `[text, is_error]`, `"die"` or a number of rows.
    pub(crate) fn new(script: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("server.py"), PROGRAM).unwrap();
        std::fs::write(dir.path().join("script.json"), script.to_string()).unwrap();
        Self {
            dir,
            env: Vec::new(),
        }
    }
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::Stdio {
            command: vec!["python3".into(), "server.py".into()],
            env: self.env.clone(),
            cwd: Utf8PathBuf::from_path_buf(self.dir.path().to_owned()).ok(),
        }
    }
    pub(crate) fn client(&self) -> Tinytask {
        Tinytask::new(self.endpoint(), PATIENT)
    }
    pub(crate) fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
    pub(crate) fn asked(&self, tool: &str) -> Vec<Value> {
        self.file("asked")
            .lines()
            .map(|line| serde_json::from_str::<(String, Value)>(line).unwrap())
            .filter(|(name, _)| name == tool)
            .map(|(_, arguments)| arguments)
            .collect()
    }
    pub(crate) fn pids(&self) -> Vec<i32> {
        let pids = self.file("pids");
        pids.lines().map(|pid| pid.parse().unwrap()).collect()
    }
}

/// A script of v1's tools; each tool's answers in order.
pub(crate) fn v1_script(answers: &[(&str, &[Reply])]) -> Value {
    let mut by_tool = serde_json::Map::new();
    for (tool, replies) in answers {
        let list = replies.iter().map(|reply| match reply {
            Reply::Tool(text, is_error) => json!([text, is_error]),
            other => panic!("{other:?} cannot be said over stdio"),
        });
        by_tool.insert((*tool).to_owned(), list.collect());
    }
    json!({ "tools": tools(V1), "answers": by_tool })
}

/// A v2 row.
pub(crate) fn row(id: i64, status: &str) -> Value {
    json!({
        "id": id, "title": format!("task {id}"), "description": null, "status": status, "assigned_to": "coder",
        "previous_assigned_to": null, "created_by": "boss", "priority": 0, "tags": [], "parent_task_id": null,
        "queue_name": null, "blocked_by_task_id": null, "created_at": "2026-11-22T18:38:55Z",
        "updated_at": "2026-11-22T18:38:55Z", "archived_at": null, "is_currently_blocked": false
    })
}

pub(crate) fn with(mut row: Value, key: &str, value: impl Into<Value>) -> Value {
    row[key] = value.into();
    row
}

pub(crate) fn list(rows: &[Value]) -> Reply {
    ok(json!({ "count": rows.len(), "tasks": rows }))
}

/// Waits for a level, with a limit.
pub(crate) async fn eventually(what: &str, mut level: impl AsyncFnMut() -> bool) {
    for _ in 0..4000 {
        if level().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}
