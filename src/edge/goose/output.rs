//! What a run's output says of it: tokens, cost, last words, and known failure texts.
//!
//! A text counts only where goose itself says it, not where an agent's shell printed it or its model repeats it:
//! - in a stream of JSON, what tools print is inside `toolResponse` parts and is not looked at;
//! - a `systemNotification` part is goose's alone; what it says counts unless work went on afterwards;
//! - goose puts a failure into a message of its own, in one piece, as the last one; a model's words come in fragments of a
//!   few letters, so a fragment that *begins* with the whole text is goose's;
//! - a line that is not JSON comes from standard error, of goose or of a server it started. `Error:` there is goose's last
//!   word only when no `complete` line came; "Failed to start extension" is goose's anywhere.
//!
//! Known gap: a model that answers in one piece and begins its last answer with goose's own words is taken for goose. In
//! plain text (an old goose, another program) only the last lines are looked at, and a shell's output may stand there.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;

use camino::Utf8Path;
use serde_json::Value;

use super::render::clean;
use crate::core::record::{Failure, FailureClass};

/// Read at the start, where extensions fail to start.
const HEAD: u64 = 128 << 10;
/// Read at the end, where the last message and the sum stand.
const TAIL: u64 = 2 << 20;
/// Lines at the end of a plain text where goose's last word may stand.
const LAST_LINES: usize = 12;

/// What the output says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    pub tokens: Option<u64>,
    /// US dollars.
    pub cost: Option<f64>,
    /// A known failure text. The work may have been done all the same: only tinytask knows.
    pub sign: Option<Failure>,
    /// The last words hold a question.
    pub asked: bool,
    /// The agent's last words, of one message.
    pub last_text: Option<String>,
}

/// Reads output.log, at most some two megabytes of it. What cannot be read says nothing.
pub fn read_output(path: &Utf8Path) -> Output {
    match read_ends(path) {
        Ok((head, tail)) => judge(&head, &tail),
        Err(_) => Output::default(),
    }
}

/// The first and the last part, each of whole lines; where the file is small the tail is all of it and the head is empty.
fn read_ends(path: &Utf8Path) -> io::Result<(String, String)> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
        .open(path)?;
    let size = file.metadata()?.len();
    if size <= TAIL {
        return Ok((String::new(), read_some(&mut file, 0, TAIL)?));
    }
    let head = read_some(&mut file, 0, HEAD)?;
    let tail = read_some(&mut file, size - TAIL, TAIL)?;
    let head_end = head.rfind('\n').unwrap_or(0);
    let tail_start = tail.find('\n').map_or(tail.len(), |at| at + 1);
    Ok((head[..head_end].to_owned(), tail[tail_start..].to_owned()))
}

fn read_some(file: &mut File, from: u64, limit: u64) -> io::Result<String> {
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A line of goose's stream, or `None`. After SIGINT goose puts a sentence before the JSON on the same line.
pub(super) fn parse_line(line: &str) -> Option<Value> {
    let start = line.find("{\"type\":\"")?;
    let value: Value = serde_json::from_str(line[start..].trim_end()).ok()?;
    matches!(
        value["type"].as_str(),
        Some("message" | "complete" | "error" | "notification")
    )
    .then_some(value)
}

#[derive(Default)]
struct Reading {
    output: Output,
    is_stream: bool,
    is_complete: bool,
    /// Of the last message by the agent: its id and its text in fragments.
    last_id: Option<String>,
    fragments: Vec<String>,
    /// A failure that goose told beside the conversation.
    notice: Option<Failure>,
    /// The `error` line.
    error: Option<String>,
    extension: Option<Failure>,
    plain: Vec<String>,
}

/// What an output says of which these are the first and the last part, each of whole lines; a small one is all `tail`.
pub fn judge(head: &str, tail: &str) -> Output {
    let mut reading = Reading::default();
    for line in head.lines() {
        if parse_line(line).is_none() {
            reading.extension(&clean(line));
        }
    }
    for line in tail.lines() {
        match parse_line(line) {
            Some(value) => reading.value(&value),
            None => {
                let line = clean(line).trim().to_owned();
                if !line.is_empty() {
                    reading.extension(&line);
                    reading.plain.push(line);
                }
            }
        }
    }
    reading.finish()
}

impl Reading {
    fn value(&mut self, value: &Value) {
        self.is_stream = true;
        match value["type"].as_str() {
            Some("message") => self.message(&value["message"]),
            Some("complete") => {
                self.is_complete = true;
                let part = |name: &str| value[name].as_u64();
                let sum = || Some(part("input_tokens")?.saturating_add(part("output_tokens")?));
                self.output.tokens = value["total_tokens"].as_u64().or_else(sum);
                self.output.cost = value["cost_usd"].as_f64();
            }
            Some("error") => self.error = value["error"].as_str().map(str::to_owned),
            _ => {}
        }
    }

    fn message(&mut self, message: &Value) {
        let parts = message["content"].as_array().map_or(&[][..], Vec::as_slice);
        let is_agent = message["role"] == "assistant";
        for part in parts {
            match part["type"].as_str() {
                Some("text") if is_agent => {
                    let id = message["id"].as_str().map(str::to_owned);
                    if id != self.last_id {
                        self.last_id = id;
                        self.fragments.clear();
                    }
                    self.fragments
                        .extend(part["text"].as_str().map(str::to_owned));
                }
                // Work went on after those words, so they were not the last ones.
                Some("toolRequest" | "toolResponse") => {
                    self.fragments.clear();
                    self.notice = None;
                }
                Some("systemNotification") => {
                    let told = part["msg"].as_str().and_then(classify);
                    self.notice = told.or(self.notice.take());
                }
                Some("error") => {
                    self.error = part["error"]
                        .as_str()
                        .or(part["message"].as_str())
                        .map(str::to_owned);
                }
                _ => {}
            }
        }
    }

    fn extension(&mut self, line: &str) {
        let Some(at) = line.find("Failed to start extension") else {
            return;
        };
        // At the start of the line, but for goose's warning sign.
        if self.extension.is_none() && line[..at].chars().all(|c| !c.is_alphanumeric()) {
            let name = line[at..].split('\'').nth(1).unwrap_or("?");
            self.extension = Some(Failure {
                class: FailureClass::Environment,
                reason: format!("extension `{}` failed to start", short(name)),
            });
        }
    }

    fn finish(mut self) -> Output {
        let words = self.fragments.concat();
        let own = if self.is_stream {
            let of_stderr = (!self.is_complete)
                .then(|| {
                    self.plain
                        .iter()
                        .rev()
                        .take(LAST_LINES)
                        .find_map(|l| error_line(l))
                })
                .flatten();
            self.error
                .as_deref()
                .map(|error| classify(error).unwrap_or_else(|| unknown(error)))
                .or(self.notice)
                .or_else(|| self.fragments.iter().rev().find_map(|f| classify(f)))
                .or(of_stderr)
        } else {
            self.plain
                .iter()
                .rev()
                .take(LAST_LINES)
                .find_map(|line| classify(line).or_else(|| error_line(line)))
        };
        // A missing extension explains an agent that gave up; a provider's failure explains more.
        self.output.sign = match (own, self.extension) {
            (Some(own), Some(extension)) if own.class == FailureClass::Task => Some(extension),
            (Some(own), _) => Some(own),
            (None, extension) => extension,
        };
        let last = if self.is_stream {
            words.trim().to_owned()
        } else {
            self.plain.pop().unwrap_or_default()
        };
        self.output.asked = asks(&last);
        self.output.last_text = (!last.is_empty()).then(|| clean(&last));
        self.output
    }
}

/// Do these last words hold a question? It need not be the very end: "Which one? Please let me know." It only gives a name to a
/// run that failed, so a question too many does no harm.
fn asks(words: &str) -> bool {
    const LAST: usize = 400;
    let from = words
        .char_indices()
        .rev()
        .nth(LAST - 1)
        .map_or(0, |(at, _)| at);
    let mut rest = &words[from..];
    // Chinese and Japanese put no space between sentences.
    if rest.contains('？') {
        return true;
    }
    while let Some(at) = rest.find(['?', '؟']) {
        rest = rest[at..].trim_start_matches(['?', '؟', '!']);
        let after = rest.trim_start_matches(|c| "*_`\"')]}”’»".contains(c));
        // Not the one of a URL or a pattern.
        if after.is_empty() || after.starts_with(char::is_whitespace) {
            return true;
        }
    }
    false
}

/// A line of standard error that begins as goose's last word does.
fn error_line(line: &str) -> Option<Failure> {
    if line.starts_with("thread '") && line.contains("panicked at") {
        return Some(failure(FailureClass::Environment, "goose crashed"));
    }
    let text = line
        .strip_prefix("Error: ")
        .or_else(|| line.strip_prefix("error: "))?;
    classify(text).or_else(|| environment(text))
}

fn failure(class: FailureClass, reason: &str) -> Failure {
    Failure {
        class,
        reason: reason.to_owned(),
    }
}

/// goose named an error we do not know: an attempt, as those are bounded.
fn unknown(text: &str) -> Failure {
    let text = text.strip_prefix("Ran into this error:").unwrap_or(text);
    failure(
        FailureClass::Task,
        &format!("goose failed: {}", short(text)),
    )
}

fn short(text: &str) -> String {
    let text = clean(text.trim().lines().next().unwrap_or_default());
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A text that begins with goose's own words for a failure while it worked (seen in 1.37 to 1.52).
fn classify(text: &str) -> Option<Failure> {
    use FailureClass::{Environment, Provider, Task};
    let text = text.trim_start();
    let (is_own, inner) = match text.strip_prefix("Ran into this error:") {
        Some(inner) => (true, inner.trim_start()),
        None => (false, text),
    };
    let lower = inner.to_ascii_lowercase();
    let found = if lower.starts_with("network error:") {
        failure(Provider, "the model's server cannot be reached")
    } else if is_own || lower.starts_with("authentication error:") {
        provider_error(&lower).unwrap_or_else(|| unknown(inner))
    } else if text.starts_with("I've reached the maximum number of actions") {
        failure(Task, "reached its most turns")
    } else if text.starts_with("Unable to continue: Context limit") {
        failure(Task, "its context is full")
    } else if text.starts_with("Unable to continue:") {
        unknown(text)
    } else if text.starts_with("Maximum retry attempts") {
        failure(Task, "the recipe's own checks failed")
    } else if text.starts_with("The model returned an empty response") {
        failure(Task, "the model answered nothing")
    } else if text.starts_with("Tool approval required in non-interactive mode") {
        failure(
            Environment,
            "GOOSE_MODE asks for approval, and nobody is there",
        )
    } else {
        return None;
    };
    Some(found)
}

/// What follows "Ran into this error:", in lower case.
fn provider_error(lower: &str) -> Option<Failure> {
    use FailureClass::{Environment, Provider, Task};
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let found = if has(&[
        "insufficient_quota",
        "quota",
        "credits",
        "billing",
        "usage limit",
    ]) {
        failure(Provider, "quota exceeded")
    } else if lower.starts_with("rate limit") || has(&["too many requests"]) {
        failure(Provider, "rate limit exceeded")
    } else if lower.starts_with("authentication") || has(&["unauthorized", "invalid api key"]) {
        failure(Provider, "authentication failed")
    } else if lower.starts_with("network error") || has(&["could not connect", "timed out"]) {
        failure(Provider, "the model's server cannot be reached")
    } else if lower.starts_with("server error") || has(&["overloaded"]) {
        failure(Provider, "the model's server failed")
    } else if has(&["context length", "context limit", "context window"]) {
        failure(Task, "its context is full")
    } else if has(&["model"]) && has(&["not found", "does not exist", "not_found"]) {
        failure(Environment, "the model does not exist")
    } else {
        return None;
    };
    Some(found)
}

/// What goose says on standard error before it asks a model anything.
fn environment(text: &str) -> Option<Failure> {
    const KNOWN: [(&str, &str); 16] = [
        ("No provider configured", "goose has no provider configured"),
        ("Error Unknown provider", "unknown provider"),
        ("Unknown provider", "unknown provider"),
        (
            "Please provide the following parameters",
            "a recipe parameter is missing",
        ),
        ("Failed to read recipe file", "the recipe cannot be read"),
        ("Failed to retrieve", "the recipe cannot be found"),
        ("Invalid recipe", "the recipe is invalid"),
        ("Recipe must specify", "the recipe is invalid"),
        ("no text provided for prompt", "the recipe has no prompt"),
        (
            "Missing definitions for parameters",
            "the recipe uses a parameter it does not declare",
        ),
        (
            "Unnecessary parameter definitions",
            "the recipe declares a parameter it does not use",
        ),
        (
            "Optional parameters missing default",
            "an optional recipe parameter has no default",
        ),
        (
            "Failed to read parameter file",
            "a recipe parameter's file cannot be read",
        ),
        (
            "invalid value",
            "goose does not understand its command line",
        ),
        (
            "unexpected argument",
            "goose does not understand its command line",
        ),
        (
            "Failed to create session database",
            "goose cannot write its session database",
        ),
    ];
    KNOWN
        .iter()
        .find(|(known, _)| text.starts_with(known))
        .map(|(_, reason)| failure(FailureClass::Environment, reason))
}
