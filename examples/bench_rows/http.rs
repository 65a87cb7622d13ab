//! One connection to tinytask that stays open; plain calls below `/api/v1`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::Failure;

/// See the module.
pub struct Client {
    stream: BufReader<TcpStream>,
    port: u16,
}

/// A task as a call answered it.
#[derive(Debug, Clone)]
pub struct Task {
    pub id: u64,
    /// `2026-11-23 02:15:42` or with a T; as it stands there.
    pub created_at: String,
}

impl Client {
    pub fn connect(port: u16) -> Result<Self, Failure> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self {
            stream: BufReader::with_capacity(64 * 1024, stream),
            port,
        })
    }

    /// A new task, blocked by another or by none.
    pub fn create(&mut self, queue: &str, blocked_by: Option<u64>) -> Result<Task, Failure> {
        let blocked =
            blocked_by.map_or_else(String::new, |id| format!(r#","blocked_by_task_id":{id}"#));
        let body = format!(
            r#"{{"title":"Write the parser","description":"Read the specification, write the parser, test both.","assigned_to":"{queue}","created_by":"bench"{blocked}}}"#
        );
        let answer = self.call("POST", "tasks", &body)?;
        let id = field(&answer, "id").ok_or("a task without a number")?;
        Ok(Task {
            id: id.parse()?,
            created_at: field(&answer, "created_at").unwrap_or_default(),
        })
    }

    pub fn hand_over(&mut self, task: u64, from: &str, to: &str) -> Result<(), Failure> {
        let body = format!(r#"{{"current_agent":"{from}","new_agent":"{to}","comment":"next"}}"#);
        self.call("POST", &format!("tasks/{task}/transfer"), &body)?;
        Ok(())
    }

    pub fn complete(&mut self, task: u64) -> Result<(), Failure> {
        self.call(
            "PATCH",
            &format!("tasks/{task}"),
            r#"{"status":"complete"}"#,
        )?;
        Ok(())
    }

    /// The body of an answer of the two hundreds.
    pub fn call(&mut self, method: &str, path: &str, body: &str) -> Result<String, Failure> {
        self.send(method, &format!("/api/v1/{path}"), "", body)
    }

    /// A call of an MCP tool; the answer as it came.
    pub fn tool(&mut self, name: &str, arguments: &str) -> Result<String, Failure> {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}","arguments":{arguments}}}}}"#
        );
        self.send(
            "POST",
            "/mcp",
            "accept: application/json, text/event-stream\r\n",
            &body,
        )
    }

    fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Result<String, Failure> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n{headers}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (mut length, mut status, mut line) = (None, String::new(), String::new());
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err("tinytask closed the connection".into());
            }
            let text = line.trim_end();
            if text.is_empty() {
                break;
            }
            if status.is_empty() {
                text.clone_into(&mut status);
            } else if let Some((name, value)) = text.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse::<usize>()?);
            }
        }
        let mut answer = vec![0; length.ok_or("an answer without a length")?];
        self.stream.read_exact(&mut answer)?;
        let answer = String::from_utf8(answer)?;
        // A refusal would be measured as a fast answer.
        if !status.starts_with("HTTP/1.1 2") || answer.contains("\"isError\":true") {
            return Err(format!("{method} {path}: {status} {answer}").into());
        }
        Ok(answer)
    }
}

/// The first field of this name in a JSON text whose values have no commas, quotes or braces in them.
pub fn field(json: &str, name: &str) -> Option<String> {
    let at = json.find(&format!("\"{name}\":"))?;
    let rest = json[at..].split_once(':')?.1.trim_start();
    let value = match rest.strip_prefix('"') {
        Some(text) => text.split('"').next()?,
        None => rest.split([',', '}', ']', '\n']).next()?.trim(),
    };
    Some(value.to_owned())
}
