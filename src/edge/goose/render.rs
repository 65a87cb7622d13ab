//! A run's output, made readable while it grows: the agent's words joined, each tool call one line, its results shortened.

use std::fmt::Write as _;

use serde_json::Value;

use super::output::parse_line;

/// Longest tool call or result line.
const WIDTH: usize = 160;
/// Most lines shown of one tool result.
const RESULT_LINES: usize = 6;

/// Turns lines of output.log into text. Keeps the one thing that spans lines: whether the agent is in mid-sentence.
#[derive(Debug, Default)]
pub struct Renderer {
    is_mid_line: bool,
    message: Option<String>,
}

impl Renderer {
    /// At the start of a log.
    pub fn new() -> Self {
        Self::default()
    }

    /// What to print for one line of the log, given without its newline; empty for nothing. Fragments of one message come
    /// without a newline at their end, so that they join.
    pub fn line(&mut self, line: &[u8]) -> String {
        let text = String::from_utf8_lossy(line);
        let mut out = String::new();
        match parse_line(&text) {
            Some(value) => self.value(&value, &mut out),
            None => {
                self.end_line(&mut out);
                out.push_str(&clean(&text));
                out.push('\n');
            }
        }
        out
    }

    /// What to print at the end of the log.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        self.end_line(&mut out);
        out
    }

    fn end_line(&mut self, out: &mut String) {
        if self.is_mid_line {
            out.push('\n');
            self.is_mid_line = false;
        }
        self.message = None;
    }

    fn value(&mut self, value: &Value, out: &mut String) {
        match value["type"].as_str() {
            Some("message") => {
                let message = &value["message"];
                for part in message["content"].as_array().into_iter().flatten() {
                    self.part(message, part, out);
                }
            }
            Some("error") => {
                self.end_line(out);
                let _ = writeln!(
                    out,
                    "✗ {}",
                    clean(value["error"].as_str().unwrap_or("error"))
                );
            }
            Some("complete") => {
                self.end_line(out);
                let tokens = value["total_tokens"].as_u64().unwrap_or(0);
                let _ = match value["cost_usd"].as_f64() {
                    Some(cost) => writeln!(out, "── over: {tokens} tokens, ${cost:.2}"),
                    None => writeln!(out, "── over: {tokens} tokens"),
                };
            }
            _ => {}
        }
    }

    fn part(&mut self, message: &Value, part: &Value, out: &mut String) {
        match part["type"].as_str() {
            Some("text") if message["role"] == "assistant" => {
                let id = message["id"].as_str().map(str::to_owned);
                if self.is_mid_line && self.message != id {
                    self.end_line(out);
                }
                self.message = id;
                let text = clean(part["text"].as_str().unwrap_or_default());
                if !text.is_empty() {
                    self.is_mid_line = !text.ends_with('\n');
                    out.push_str(&text);
                }
            }
            Some("toolRequest") => {
                self.end_line(out);
                let call = &part["toolCall"];
                let call = if call["value"].is_object() {
                    &call["value"]
                } else {
                    call
                };
                let name = clean(call["name"].as_str().unwrap_or("a tool"));
                let _ = writeln!(out, "→ {name}{}", arguments(&call["arguments"]));
            }
            Some("toolResponse") => {
                self.end_line(out);
                result(&part["toolResult"], out);
            }
            Some("error") => {
                self.end_line(out);
                let text = part["error"].as_str().or(part["message"].as_str());
                let _ = writeln!(out, "✗ {}", clean(text.unwrap_or("error")));
            }
            _ => {}
        }
    }
}

/// `: npm test` for a lone command, `: id=1 to=coder` else.
fn arguments(arguments: &Value) -> String {
    let Some(arguments) = arguments.as_object().filter(|a| !a.is_empty()) else {
        return String::new();
    };
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let text = match arguments.get("command") {
        Some(command) if arguments.len() == 1 => word(command),
        _ => arguments
            .iter()
            .map(|(key, value)| format!("{key}={}", word(value)))
            .collect::<Vec<_>>()
            .join(" "),
    };
    format!(": {}", shorten(&text))
}

fn result(result: &Value, out: &mut String) {
    let value = if result["value"].is_null() {
        result
    } else {
        &result["value"]
    };
    let is_error = result["status"] == "error" || value["isError"] == true;
    let content = value.as_array().or_else(|| value["content"].as_array());
    let mut text: String = content
        .into_iter()
        .flatten()
        .filter_map(|part| part["text"].as_str())
        .collect::<Vec<_>>()
        .join("\n");
    if let Some(error) = result["error"].as_str() {
        text.push_str(error);
    }
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    for line in lines.iter().take(RESULT_LINES) {
        let _ = writeln!(
            out,
            "  {} {}",
            if is_error { "✗" } else { "│" },
            shorten(line)
        );
    }
    if lines.len() > RESULT_LINES {
        let _ = writeln!(out, "  │ … {} more lines", lines.len() - RESULT_LINES);
    }
}

fn shorten(text: &str) -> String {
    let text = clean(text).replace('\n', " ⏎ ");
    match text.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Without anything that moves the cursor, colours, or reorders text: what an agent prints must not draw on a person's
/// terminal. Escape sequences go; other control characters are shown as `\xNN`.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' | '\t' => out.push(c),
            '\r' if matches!(chars.peek(), None | Some('\n')) => {}
            '\u{1b}' => match chars.peek() {
                Some('[') => {
                    chars.next();
                    // Parameters and intermediates, up to the final byte (ECMA-48, 5.4).
                    while let Some(c) = chars.next_if(|c| ('\u{20}'..='\u{7e}').contains(c)) {
                        if c >= '@' {
                            break;
                        }
                    }
                }
                Some(']') => {
                    // An operating system command ends with BEL or ESC \.
                    while let Some(c) = chars.next_if(|c| *c != '\n') {
                        if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                _ => drop(chars.next_if(|c| c.is_ascii_graphic())),
            },
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            // Marks that turn the direction of text could make a line read as something else.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}
