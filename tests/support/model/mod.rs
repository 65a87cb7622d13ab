//! A scripted model behind an OpenAI-compatible address, so that the real goose can be run without a provider.
//!
//! It plays the agent that the recipe's instructions name ("You are the `X` agent"), and does what that recipe asks for
//! with real tool calls. It keeps no state about a session: like a real model it sees the whole conversation each time and
//! says what comes next. Per agent it can be told to fail or to lie instead ([`Part`]).
//!
//! Plain threads and hand-written HTTP: half an answer, or none at all, is what a proper server library refuses to send.
//!
//! Known gap: streaming only, as goose never asks otherwise.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use serde_json::{Value, json};

mod script;

use self::script::{after_claim, script, script_after};

/// What the model does when it plays an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Part {
    /// What the recipe asks for.
    #[default]
    Works,
    /// 429, the account is empty.
    Quota,
    /// 429, too many requests.
    RateLimit,
    /// 401.
    Unauthorized,
    /// 404, no such model.
    NoSuchModel,
    /// 500.
    Broken,
    /// 400, the conversation is too long.
    ContextFull,
    /// No answer until the agent gets another part; then it plays that one.
    Waits,
    /// Works until the task is handed over or complete, then no closing sentence until the agent gets another part.
    Lingers,
    /// The connection ends in the middle of the answer.
    Cuts,
    /// Tool calls without end.
    Repeats,
    /// Claims the task, then asks the user.
    Asks,
    /// An answer with nothing in it.
    Empty,
    /// Says that all is done; did nothing.
    SaysDone,
    /// Claims the task, writes a file, and stops.
    LeavesWorking,
    /// Claims the task, then no answer until the agent gets another part.
    Stalls,
    /// Starts a process that nobody waits for, in a session of its own, then works.
    Litters,
    /// Creates the task of a request, then says that all is done, although the request lies where it lay.
    Forgets,
}

/// The server. It ends when this is dropped; requests that wait then end without an answer.
#[derive(Debug)]
pub(crate) struct Model {
    address: SocketAddr,
    stage: Arc<Stage>,
    door: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Stage {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    parts: HashMap<String, Part>,
    /// What an agent calls, one after the other, whatever it is told.
    lists: HashMap<String, Vec<(&'static str, Value)>>,
    asked: Vec<Asked>,
    is_over: bool,
}

/// Tools, each with the names of its parameters.
pub(crate) type Offered = HashMap<String, Vec<String>>;
/// Tools that were called, each with its answer.
pub(crate) type Answered = Vec<(String, String)>;

/// One request for an answer.
#[derive(Debug, Clone)]
struct Asked {
    agent: String,
    path: String,
    /// Nothing was said before it.
    is_first: bool,
    /// The tools it might call: names, and the names of their parameters.
    offered: HashMap<String, Vec<String>>,
    /// The tools it called, and what they answered.
    answered: Vec<(String, String)>,
}

impl Model {
    /// Starts it on a free port of 127.0.0.1.
    pub(crate) fn start() -> Self {
        let door = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let address = door.local_addr().expect("a bound socket has an address");
        let stage = Arc::new(Stage::default());
        let behind = Arc::clone(&stage);
        let door = std::thread::spawn(move || {
            for visitor in door.incoming() {
                if behind.state().is_over {
                    break;
                }
                let Ok(visitor) = visitor else { continue };
                let stage = Arc::clone(&behind);
                std::thread::spawn(move || {
                    // An error here is goose having gone away, as in the tests that kill it.
                    stage.serve(visitor).ok();
                });
            }
        });
        Self {
            address,
            stage,
            door: Some(door),
        }
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn host(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What goose needs in its environment to come here, and to keep its own files below `root`.
    pub(crate) fn env(&self, root: &str) -> Vec<(String, String)> {
        [
            ("OPENAI_HOST", self.host()),
            ("OPENAI_API_KEY", "sk-not-a-key".into()),
            ("GOOSE_PATH_ROOT", root.into()),
            ("GOOSE_DISABLE_KEYRING", "1".into()),
            ("GOOSE_TELEMETRY_ENABLED", "false".into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// From now on `agent` plays `part`; a request that waits is woken by it.
    pub(crate) fn play(&self, agent: &str, part: Part) {
        self.stage.state().parts.insert(agent.to_owned(), part);
        self.stage.changed.notify_all();
    }

    /// `agent` calls these tools one after the other, whatever they answer, and says that it is done.
    pub(crate) fn recite(&self, agent: &str, calls: Vec<(&'static str, Value)>) {
        self.stage.state().lists.insert(agent.to_owned(), calls);
    }

    /// When `agent` was last asked for: the tools it might call, with the names of their parameters.
    pub(crate) fn offered(&self, agent: &str) -> Offered {
        self.last_asked(agent).offered
    }

    /// When `agent` was last asked for: the tools it had called, and what they answered.
    pub(crate) fn answered(&self, agent: &str) -> Answered {
        self.last_asked(agent).answered
    }

    #[track_caller]
    fn last_asked(&self, agent: &str) -> Asked {
        let state = self.stage.state();
        let last = state.asked.iter().rfind(|asked| asked.agent == agent);
        last.expect("it was asked").clone()
    }

    /// How many answers were asked for `agent`.
    pub(crate) fn requests(&self, agent: &str) -> usize {
        let state = self.stage.state();
        state.asked.iter().filter(|a| a.agent == agent).count()
    }

    /// How many sessions of `agent` began, as long as none is asked twice for its first answer.
    pub(crate) fn sessions(&self, agent: &str) -> usize {
        let state = self.stage.state();
        let of_agent = state.asked.iter().filter(|a| a.agent == agent);
        of_agent.filter(|a| a.is_first).count()
    }

    /// The HTTP paths at which answers were asked for, each once.
    pub(crate) fn paths(&self) -> Vec<String> {
        let state = self.stage.state();
        let mut paths: Vec<_> = state.asked.iter().map(|a| a.path.clone()).collect();
        paths.sort();
        paths.dedup();
        paths
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.stage.state().is_over = true;
        self.stage.changed.notify_all();
        // One last visitor, so that the door is answered and sees that it is over.
        drop(TcpStream::connect(self.address));
        if let Some(door) = self.door.take() {
            door.join().ok();
        }
    }
}

impl Stage {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nobody panics while holding this lock")
    }

    /// One request, one answer, one connection.
    fn serve(&self, mut visitor: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(visitor.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, path) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let mut length = 0;
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? <= 2 {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;

        let dialect = match (method.as_str(), path.as_str()) {
            ("GET", "/v1/models") => {
                let models = ["gpt-4o", "gpt-5.2"].map(|id| json!({"id": id, "object": "model"}));
                return send(
                    &mut visitor,
                    200,
                    &json!({"object": "list", "data": models}),
                );
            }
            ("POST", "/v1/chat/completions") => Dialect::Chat,
            ("POST", "/v1/responses") => Dialect::Responses,
            _ => return send(&mut visitor, 404, &failure("unknown_url", "no such page")),
        };
        let request: Value = match serde_json::from_slice(&body) {
            Ok(request) => request,
            Err(error) => {
                return send(
                    &mut visitor,
                    400,
                    &failure("bad_request", &error.to_string()),
                );
            }
        };
        let conversation = dialect.conversation(&request);
        self.state().asked.push(Asked {
            agent: conversation.agent.clone(),
            path,
            is_first: conversation.calls.is_empty(),
            offered: offered(&request),
            answered: conversation
                .calls
                .iter()
                .map(|call| (call.tool.clone(), call.result.clone()))
                .collect(),
        });
        let Some(answer) = self.answer(&conversation) else {
            return Ok(());
        };
        match answer {
            Answer::Refuse(status, error) => send(&mut visitor, status, &error),
            Answer::Say(say) => stream(&mut visitor, &dialect.events(&say), true),
            Answer::HalfOf(say) => {
                let events = dialect.events(&say);
                stream(&mut visitor, &events[..events.len() / 2], false)
            }
        }
    }

    /// Waits while the agent's part says so; `None` when the test is over.
    fn answer(&self, conversation: &Conversation) -> Option<Answer> {
        let mut state = self.state();
        loop {
            if state.is_over {
                return None;
            }
            let part = state
                .parts
                .get(&conversation.agent)
                .copied()
                .unwrap_or_default();
            if let Some(list) = state.lists.get(&conversation.agent) {
                let next = list.get(conversation.calls.len()).cloned();
                let say = next.map_or_else(
                    || Say::text("All of them called."),
                    |(tool, args)| Say::Call { tool, args },
                );
                return Some(Answer::Say(say));
            }
            // Nobody's agent: goose's own request to summarise a conversation that got too long.
            let answer = if conversation.agent.is_empty() {
                Some(Answer::Say(Say::text("Nothing happened so far.")))
            } else {
                answer(part, conversation)
            };
            if let Some(answer) = answer {
                return Some(answer);
            }
            state = self
                .changed
                .wait(state)
                .expect("nobody panics while holding this lock");
        }
    }
}

#[derive(Debug)]
enum Answer {
    Refuse(u16, Value),
    Say(Say),
    HalfOf(Say),
}

/// What the model says next.
#[derive(Debug, Clone, PartialEq)]
enum Say {
    Text(String),
    Call { tool: &'static str, args: Value },
}

impl Say {
    fn text(text: &str) -> Self {
        Self::Text(text.into())
    }
}

/// `None`: no answer while the agent has this part.
fn answer(part: Part, conversation: &Conversation) -> Option<Answer> {
    let refuse = |status, code, message| Some(Answer::Refuse(status, failure(code, message)));
    match part {
        Part::Works => Some(Answer::Say(script(conversation))),
        Part::Quota => refuse(
            429,
            "insufficient_quota",
            "You exceeded your current quota, please check your plan and billing details.",
        ),
        Part::RateLimit => refuse(
            429,
            "rate_limit_exceeded",
            "Rate limit reached for requests per minute.",
        ),
        Part::Unauthorized => refuse(401, "invalid_api_key", "Incorrect API key provided."),
        Part::NoSuchModel => refuse(404, "model_not_found", "The model does not exist."),
        Part::Broken => refuse(500, "server_error", "The server had an error."),
        Part::ContextFull => refuse(
            400,
            "context_length_exceeded",
            "This model's maximum context length is 128000 tokens.",
        ),
        Part::Waits => None,
        Part::Lingers => match script(conversation) {
            Say::Text(_) => None,
            call @ Say::Call { .. } => Some(Answer::Say(call)),
        },
        Part::Cuts => Some(Answer::HalfOf(Say::text(
            "I will now look at the task and then",
        ))),
        Part::Repeats => Some(Answer::Say(Say::Call {
            tool: "shell",
            args: json!({"command": "true"}),
        })),
        Part::Asks => Some(Answer::Say(after_claim(conversation, |_| {
            Say::text(
                "Before I continue: which database should I use, PostgreSQL or SQLite? Please let me know.",
            )
        }))),
        Part::Empty => Some(Answer::Say(Say::text(""))),
        Part::SaysDone => Some(Answer::Say(Say::text(
            "I have completed the task and handed it over to the next agent.",
        ))),
        Part::Stalls => match after_claim(conversation, |_| Say::text("")) {
            Say::Text(_) => None,
            call @ Say::Call { .. } => Some(Answer::Say(call)),
        },
        Part::Litters => Some(Answer::Say(script_after(
            conversation,
            "setsid --fork sleep 1000 >/dev/null 2>&1",
        ))),
        Part::Forgets => Some(Answer::Say(match script(conversation) {
            Say::Call {
                tool: "shell",
                args,
            } if args.to_string().contains("mv -n") => Say::text("All requests are dispatched."),
            say => say,
        })),
        Part::LeavesWorking => Some(Answer::Say(after_claim(
            conversation,
            |replay| match replay.shell("echo 'half of it' >> notes.md") {
                Ok(_) => Say::text("That is it for now."),
                Err(say) => say,
            },
        ))),
    }
}

/// What the API says when it refuses.
fn failure(code: &str, message: &str) -> Value {
    json!({"error": {"message": message, "type": code, "code": code, "param": null}})
}

fn send(visitor: &mut TcpStream, status: u16, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    write!(
        visitor,
        "HTTP/1.1 {status} .\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Chunked, so that an end without the last chunk is seen as a cut.
fn stream(visitor: &mut TcpStream, events: &[Value], is_whole: bool) -> std::io::Result<()> {
    write!(
        visitor,
        "HTTP/1.1 200 .\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    )?;
    let mut chunk = |text: &str| write!(visitor, "{:x}\r\n{text}\r\n", text.len());
    for event in events {
        chunk(&format!("data: {event}\n\n"))?;
    }
    if is_whole {
        chunk("data: [DONE]\n\n")?;
        write!(visitor, "0\r\n\r\n")?;
    }
    Ok(())
}

/// The two forms in which goose talks to OpenAI; the model's name decides.
#[derive(Debug, Clone, Copy)]
enum Dialect {
    Chat,
    Responses,
}

/// What was said so far, in either form.
#[derive(Debug)]
struct Conversation {
    /// From the instructions; empty when they name none.
    agent: String,
    base: String,
    /// The task that the session was started for.
    task: Option<i64>,
    /// Tool calls that have their result.
    calls: Vec<Call>,
}

#[derive(Debug)]
struct Call {
    tool: String,
    result: String,
}

/// The tools a request offers, in either form.
fn offered(request: &Value) -> HashMap<String, Vec<String>> {
    let tools = request["tools"].as_array().into_iter().flatten();
    tools
        .filter_map(|tool| {
            let function = tool.get("function").unwrap_or(tool);
            let properties = function["parameters"]["properties"].as_object();
            let names = properties
                .into_iter()
                .flatten()
                .map(|(name, _)| name.clone());
            Some((function["name"].as_str()?.to_owned(), names.collect()))
        })
        .collect()
}

/// The text of a message, whether it is a string or a list of parts.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .collect::<Vec<_>>()
            .join("\n"),
        _ => String::new(),
    }
}

impl Dialect {
    fn conversation(self, request: &Value) -> Conversation {
        let list = match self {
            Self::Chat => &request["messages"],
            Self::Responses => &request["input"],
        };
        let mut told = text_of(&request["instructions"]);
        let mut names: HashMap<&str, &str> = HashMap::new();
        let mut calls = Vec::new();
        let mut result = |names: &HashMap<&str, &str>, id: &Value, content: &Value| {
            if let Some(tool) = id.as_str().and_then(|id| names.get(id)) {
                calls.push(Call {
                    tool: (*tool).to_owned(),
                    result: text_of(content),
                });
            }
        };
        for item in list.as_array().into_iter().flatten() {
            match (item["type"].as_str(), item["role"].as_str()) {
                (Some("function_call"), _) => {
                    if let (Some(id), Some(name)) =
                        (item["call_id"].as_str(), item["name"].as_str())
                    {
                        names.insert(id, name);
                    }
                }
                (Some("function_call_output"), _) => {
                    result(&names, &item["call_id"], &item["output"]);
                }
                (_, Some("tool")) => result(&names, &item["tool_call_id"], &item["content"]),
                (_, Some("assistant")) => {
                    for call in item["tool_calls"].as_array().into_iter().flatten() {
                        if let (Some(id), Some(name)) =
                            (call["id"].as_str(), call["function"]["name"].as_str())
                        {
                            names.insert(id, name);
                        }
                    }
                }
                _ => {
                    told.push('\n');
                    told.push_str(&text_of(&item["content"]));
                }
            }
        }
        let line = |start: &str| {
            told.lines()
                .find_map(|line| line.trim().strip_prefix(start))
                .map(|rest| rest.trim().to_owned())
        };
        Conversation {
            agent: told
                .split("You are the ")
                .skip(1)
                .find_map(|rest| rest.split_once(" agent").map(|(name, _)| name))
                .filter(|name| !name.contains(char::is_whitespace))
                .unwrap_or_default()
                .to_owned(),
            base: line("Base path: ").unwrap_or_default(),
            task: line("Task: ").and_then(|id| id.parse().ok()),
            calls,
        }
    }

    /// The server-sent events that say it. Each answer claims the same tokens, so that totals can be checked.
    fn events(self, say: &Say) -> Vec<Value> {
        match self {
            Self::Chat => chat_events(say),
            Self::Responses => response_events(say),
        }
    }
}

/// Tokens each answer claims to have cost: in and out.
pub(crate) const TOKENS: (u32, u32) = (1000, 20);

/// Two halves, cut at a character.
fn halves(text: &str) -> (&str, &str) {
    let middle = (text.len() / 2..text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    text.split_at(middle)
}

/// No two calls in the same process share it.
fn fresh_id() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("call_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn chat_events(say: &Say) -> Vec<Value> {
    let event = |choices: Value, usage: Value| {
        json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o",
               "choices": choices, "usage": usage})
    };
    let delta = |delta: Value, finish: Value| {
        event(
            json!([{"index": 0, "delta": delta, "finish_reason": finish}]),
            Value::Null,
        )
    };
    let mut events = vec![];
    match say {
        Say::Text(text) => {
            let (first, second) = halves(text);
            events.push(delta(
                json!({"role": "assistant", "content": first}),
                Value::Null,
            ));
            events.push(delta(json!({"content": second}), Value::Null));
            events.push(delta(json!({}), json!("stop")));
        }
        Say::Call { tool, args } => {
            let call = json!({"index": 0, "id": fresh_id(), "type": "function",
                              "function": {"name": tool, "arguments": args.to_string()}});
            events.push(delta(
                json!({"role": "assistant", "content": null, "tool_calls": [call]}),
                Value::Null,
            ));
            events.push(delta(json!({}), json!("tool_calls")));
        }
    }
    let (input, output) = TOKENS;
    events.push(event(
        json!([]),
        json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output}),
    ));
    events
}

fn response_events(say: &Say) -> Vec<Value> {
    let (input, output) = TOKENS;
    let response = |status: &str, items: Value| {
        json!({"id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": "gpt-5.2", "output": items,
               "usage": {"input_tokens": input, "output_tokens": output, "total_tokens": input + output}})
    };
    let mut events =
        vec![json!({"type": "response.created", "response": response("in_progress", json!([]))})];
    let item = match say {
        Say::Text(text) => {
            let message = |status: &str, text: &str| {
                json!({"type": "message", "id": "msg_1", "status": status, "role": "assistant",
                       "content": [{"type": "output_text", "text": text, "annotations": []}]})
            };
            let (first, second) = halves(text);
            events.push(json!({"type": "response.output_item.added", "output_index": 0, "item": message("in_progress", "")}));
            for part in [first, second] {
                events.push(json!({"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0,
                                   "content_index": 0, "delta": part}));
            }
            message("completed", text)
        }
        Say::Call { tool, args } => {
            let id = fresh_id();
            let call = |status: &str, args: &str| json!({"type": "function_call", "id": id, "call_id": id, "status": status, "name": tool, "arguments": args});
            events.push(json!({"type": "response.output_item.added", "output_index": 0, "item": call("in_progress", "")}));
            events.push(
                json!({"type": "response.function_call_arguments.done", "item_id": id,
                               "output_index": 0, "arguments": args.to_string()}),
            );
            call("completed", &args.to_string())
        }
    };
    events.push(json!({"type": "response.output_item.done", "output_index": 0, "item": &item}));
    events.push(
        json!({"type": "response.completed", "response": response("completed", json!([item]))}),
    );
    for (number, event) in events.iter_mut().enumerate() {
        event["sequence_number"] = json!(number);
    }
    events
}
