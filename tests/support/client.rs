//! As much of an MCP client as the tests need: a few lines of HTTP, not ours from `edge`, so that what goose and our client
//! agree on is checked by a third reader.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

/// A tinytask at `127.0.0.1:PORT`.
pub(crate) struct Client {
    pub(crate) address: String,
}

impl Client {
    /// The text of a tool's answer.
    #[track_caller]
    pub(crate) fn text(&self, tool: &str, args: &Value) -> String {
        self.try_text(tool, args)
            .unwrap_or_else(|error| panic!("{tool} {args}: {error}"))
    }

    /// The text of a tool's answer, or of its refusal.
    #[track_caller]
    pub(crate) fn try_text(&self, tool: &str, args: &Value) -> Result<String, String> {
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
        let text = result["content"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("{tool}: {message}"))
            .to_owned();
        if result["isError"] == true {
            Err(text)
        } else {
            Ok(text)
        }
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
