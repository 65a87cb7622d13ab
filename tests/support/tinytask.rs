//! The built-in tinytask as a process of its own, and as much of a client as the tests need to ask it.
//!
//! The client is a few lines of HTTP, not ours from `edge`: what goose and our client agree on is checked by a third reader.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

/// A server on a free port; it ends with this.
pub(crate) struct Tinytask {
    server: Child,
    address: String,
}

impl Tinytask {
    /// Serves a database in this folder.
    pub(crate) fn serve(folder: &Path) -> Self {
        Self::serve_at(folder, "127.0.0.1:0")
    }

    /// As [`Tinytask::serve`], on this address.
    pub(crate) fn serve_at(folder: &Path, address: &str) -> Self {
        let mut server = Command::new(env!("CARGO_BIN_EXE_calypso-watch"))
            .args(["tinytask", "serve", "--listen", address, "--db"])
            .arg(folder.join("tinytask.db"))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("our own binary starts");
        let mut line = String::new();
        let out = server.stdout.as_mut().expect("it is piped");
        BufReader::new(out)
            .read_line(&mut line)
            .expect("it says where it listens");
        let address = line
            .trim()
            .strip_prefix("listening on http://")
            .and_then(|rest| rest.strip_suffix("/mcp"))
            .unwrap_or_else(|| panic!("where does it listen? {line:?}"))
            .to_owned();
        Self { server, address }
    }

    /// What recipes name.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// The text of a tool's answer.
    #[track_caller]
    pub(crate) fn text(&self, tool: &str, args: &Value) -> String {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                          "params": {"name": tool, "arguments": args}})
        .to_string();
        let mut stream = TcpStream::connect(&self.address).expect("tinytask listens");
        write!(
            stream,
            "POST /mcp HTTP/1.1\r\nhost: {}\r\naccept: application/json, text/event-stream\r\n\
             content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .expect("it listens");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .expect("an answer in UTF-8");
        // One event in one line; a line that begins with a length or `data:` is the wrapping around it.
        let message: Value = answer
            .lines()
            .map(|line| line.trim_start_matches("data:").trim())
            .find_map(|line| {
                serde_json::from_str::<Value>(line)
                    .ok()
                    .filter(Value::is_object)
            })
            .unwrap_or_else(|| panic!("{tool}: {answer}"));
        let result = &message["result"];
        assert_ne!(result["isError"], true, "{tool} {args}: {result}");
        result["content"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("{tool}: {message}"))
            .to_owned()
    }

    /// An answer that is JSON.
    #[track_caller]
    pub(crate) fn call(&self, tool: &str, args: &Value) -> Value {
        let text = self.text(tool, args);
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{tool}: {text}"))
    }

    /// A new task, and its number.
    #[track_caller]
    pub(crate) fn create(&self, title: &str, queue: &str) -> i64 {
        let args = json!({"title": title, "assigned_to": queue, "created_by": "a test"});
        let task = self.call("create_task", &args);
        task["id"].as_i64().expect("a task has a number")
    }

    /// Sets one field of a task.
    #[track_caller]
    pub(crate) fn update(&self, id: i64, key: &str, value: &str) {
        let mut args = json!({"id": id});
        args[key] = json!(value);
        self.call("update_task", &args);
    }

    /// One task with its comments.
    #[track_caller]
    pub(crate) fn task(&self, id: i64) -> Value {
        self.call("get_task", &json!({"id": id}))
    }

    /// All tasks, complete ones too.
    #[track_caller]
    pub(crate) fn tasks(&self) -> Vec<Value> {
        let list = self.call("list_tasks", &json!({}));
        list["tasks"].as_array().cloned().expect("a list")
    }
}

impl Drop for Tinytask {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}
