//! Two small MCP clients, written without rmcp: another reading of the protocol.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// Longest wait for one answer.
const LIMIT: Duration = Duration::from_secs(60);

/// What an HTTP server said.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
    /// The messages of an event stream.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.body
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(|data| serde_json::from_str(data).expect("an event is JSON"))
            .collect()
    }
}

/// One request on a connection of its own; `None` when there was no whole answer.
pub(crate) fn exchange(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<Reply> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    let mut request = format!("{method} {path} HTTP/1.1\r\n");
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"))
    {
        request += &format!("Host: {address}\r\n");
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!(
        "Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // A server that refuses a large body may stop reading it; its answer is there all the same.
    stream.write_all(request.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok();
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let head = head.to_ascii_lowercase();
    let body = if head.contains("transfer-encoding: chunked") {
        unchunked(rest)?
    } else {
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        if let Some(length) = length
            && rest.len() < length.parse().ok()?
        {
            return None;
        }
        if length.is_none() && ended.is_err() {
            return None;
        }
        rest.to_owned()
    };
    Some(Reply { status, head, body })
}

fn unchunked(mut rest: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole += after.get(..size)?;
        rest = after.get(size + 2..)?;
    }
}

pub(crate) const MCP_HEADERS: [(&str, &str); 2] = [
    ("Content-Type", "application/json"),
    ("Accept", "application/json, text/event-stream"),
];

/// A client over one of the two transports.
pub(crate) enum Client {
    Http {
        address: String,
        path: String,
    },
    Stdio {
        child: Child,
        to: Option<ChildStdin>,
        from: BufReader<ChildStdout>,
    },
}

impl Client {
    /// `http://127.0.0.1:3000/mcp`
    pub(crate) fn http(url: &str) -> Self {
        let rest = url.strip_prefix("http://").expect("a plain http URL");
        let (address, path) = rest.split_once('/').unwrap_or((rest, "mcp"));
        Self::Http {
            address: address.to_owned(),
            path: format!("/{path}"),
        }
    }
    pub(crate) fn stdio(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server's command starts");
        Self::Stdio {
            to: child.stdin.take(),
            from: BufReader::new(child.stdout.take().expect("piped above")),
            child,
        }
    }
    /// The whole answer to one request, or `None` when the server is gone.
    pub(crate) fn ask(&mut self, method: &str, params: Option<&Value>) -> Option<Value> {
        let mut request = json!({"jsonrpc": "2.0", "id": 7, "method": method});
        if let Some(params) = params {
            request["params"] = params.clone();
        }
        match self {
            Self::Http { address, path } => {
                let reply = exchange(address, "POST", path, &MCP_HEADERS, &request.to_string())?;
                assert_eq!(reply.status, 200, "{method}: {}", reply.body);
                reply.events().pop()
            }
            Self::Stdio { to, from, .. } => {
                writeln!(to.as_mut()?, "{request}").ok()?;
                let mut line = String::new();
                from.read_line(&mut line).ok()?;
                serde_json::from_str(&line).ok()
            }
        }
    }
    /// A tool's text, and whether it is an error. `None` when the server is gone.
    pub(crate) fn try_tool(
        &mut self,
        name: &str,
        arguments: Option<&Value>,
    ) -> Option<(String, bool)> {
        let mut params = json!({"name": name});
        if let Some(arguments) = arguments {
            params["arguments"] = arguments.clone();
        }
        let answer = self.ask("tools/call", Some(&params))?;
        let result = &answer["result"];
        let content = result["content"]
            .as_array()
            .unwrap_or_else(|| panic!("{name}: {answer}"));
        assert_eq!(content.len(), 1, "{answer}");
        assert_eq!(content[0]["type"], "text", "{answer}");
        assert!(result.get("structuredContent").is_none(), "{answer}");
        // A success does not say that it is none.
        assert_ne!(result.get("isError"), Some(&Value::Bool(false)), "{answer}");
        let text = content[0]["text"].as_str().expect("a text").to_owned();
        Some((text, result.get("isError").is_some()))
    }
    /// A tool's text; it must succeed.
    #[track_caller]
    pub(crate) fn text(&mut self, name: &str, arguments: Value) -> String {
        let (text, is_error) = self
            .try_tool(name, Some(&arguments))
            .unwrap_or_else(|| panic!("{name}: no answer"));
        assert!(!is_error, "{name} {arguments}: {text}");
        text
    }
    /// The JSON of a tool's text; it must succeed.
    #[track_caller]
    pub(crate) fn json(&mut self, name: &str, arguments: Value) -> Value {
        let text = self.text(name, arguments);
        json_of(&text).unwrap_or_else(|| panic!("{name}: {text}"))
    }
    /// What a tool refuses with.
    #[track_caller]
    pub(crate) fn refusal(&mut self, name: &str, arguments: Value) -> String {
        let (text, is_error) = self.try_tool(name, Some(&arguments)).expect("an answer");
        assert!(is_error, "{name} {arguments} did not fail: {text}");
        text
    }
    /// Closes the input and waits for the end of a child.
    pub(crate) fn end(mut self) -> Option<i32> {
        match &mut self {
            Self::Http { .. } => None,
            Self::Stdio { child, to, .. } => {
                drop(to.take());
                child.wait().expect("our child").code()
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Self::Stdio { child, to, .. } = self {
            drop(to.take());
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// The JSON of a text, or what follows its first empty line.
pub(crate) fn json_of(text: &str) -> Option<Value> {
    serde_json::from_str(text)
        .or_else(|_| serde_json::from_str(text.split_once("\n\n").map_or("", |(_, json)| json)))
        .ok()
}
