//! tinytask, spoken to over MCP: rows in, [`Task`] and [`Detail`] out.
//!
//! Owns one connection for the program's life and rebuilds it when it breaks. Knows both generations of tinytask and gives
//! each only what it understands. Every call has a time-out; reads are tried once more over a new connection, writes never.
//! Between calls nothing ticks: no pool, no keep-alive, no poll.
//!
//! Knows nothing of runs, recipes or policy, and decides nothing. Only the files in this folder know rmcp as a client.
//!
//! Known gap: tinytask has no compare-and-set, so between the read and the write of [`Tinytask::put_back`] an agent may act.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;
use futures_util::{StreamExt as _, stream};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::core::model::{Detail, Task, TaskId, TaskStatus};
use crate::edge::kill_point;

mod connect;
pub mod database;
mod error;
mod hint;
mod http;
mod stdio;
pub mod wire;

pub use error::{Cause, Error};
pub use hint::Hint;
pub use wire::{Comment, Link, Page};

use connect::Session;

/// Author of the comments this program writes.
pub const AUTHOR: &str = "calypso-watch";

/// v2 refuses a body above about 100 KB with a bare "500".
const BODY_LIMIT: usize = 90_000;
const LOCKED_TRIES: u32 = 5;
/// Tasks asked about at the same time.
const AT_ONCE: usize = 8;

/// Where a tinytask is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Streamable HTTP.
    Http { url: String },
    /// A program to start, spoken to over its standard input and output.
    Stdio {
        command: Vec<String>,
        env: Vec<(String, String)>,
        cwd: Option<Utf8PathBuf>,
    },
}

impl fmt::Display for Endpoint {
    /// For messages: the address without a password in it, or the command without its environment.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { url } => match url.split_once("://") {
                Some((scheme, rest)) => {
                    let authority = rest.find('/').unwrap_or(rest.len());
                    let start = rest[..authority].rfind('@').map_or(0, |at| at + 1);
                    write!(f, "{scheme}://{}", &rest[start..])
                }
                None => f.write_str(url),
            },
            Self::Stdio { command, .. } => f.write_str(&command.join(" ")),
        }
    }
}

/// Which generation answers. They name themselves alike, so the list of tools tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    V1,
    V2,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// A task to create.
#[derive(Debug, Clone, Default)]
pub struct NewTask {
    pub title: String,
    /// The agent whose queue it starts in.
    pub queue: Option<String>,
    pub description: Option<String>,
    pub priority: Option<i64>,
    /// Who asks.
    pub by: String,
}

/// What a failed call may do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Asked again, once, over a new connection.
    Read,
    /// Perhaps done although no answer came: never repeated here.
    Write,
}

/// One tinytask. Connects when first asked.
pub struct Tinytask {
    endpoint: Endpoint,
    timeout: Duration,
    link: Mutex<Connection>,
    odd: wire::OddRows,
}

/// The connection and its past. The lock is held while connecting, so that parallel calls share one attempt.
#[derive(Default)]
struct Connection {
    session: Option<Arc<Session>>,
    /// Failures in a row since the last call that worked.
    failures: u32,
    not_before: Option<Instant>,
    last: Option<Error>,
}

impl Connection {
    /// The first failure costs no wait: a server that was restarted is there again. Then 0.1 s, doubling up to 5 s.
    fn failed(&mut self, error: &Error) {
        self.failures += 1;
        let wait = match self.failures {
            1 => Duration::ZERO,
            n => connect::jitter(
                Duration::from_millis(100 << (n - 2).min(6)).min(Duration::from_secs(5)),
            ),
        };
        self.not_before = Some(Instant::now() + wait);
        self.last = Some(error.clone());
    }
}

impl Tinytask {
    /// Touches nothing yet. `timeout` bounds each single call.
    pub fn new(endpoint: Endpoint, timeout: Duration) -> Self {
        Self {
            endpoint,
            timeout,
            link: Mutex::default(),
            odd: wire::OddRows::default(),
        }
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Connects, if need be, and says which generation answers.
    ///
    /// # Errors
    /// While backing off, the last error again, at once.
    pub async fn connect(&self) -> Result<Dialect, Error> {
        Ok(self.session().await?.dialect)
    }

    /// Ends the connection; a child is given its end-of-file, then the time to leave.
    pub async fn close(&self) {
        let session = self.link.lock().await.session.take();
        if let Some(session) = session.and_then(Arc::into_inner) {
            session.close().await;
        }
    }

    /// The open tasks of one agent, highest priority first.
    pub async fn queue(&self, agent: &str) -> Result<Vec<Task>, Error> {
        let text = self
            .read("get_my_queue", json!({ "agent_name": agent }))
            .await?;
        wire::tasks("get_my_queue", &text, &self.odd)
    }

    /// Every open task.
    pub async fn open_tasks(&self) -> Result<Vec<Task>, Error> {
        let mut tasks: Vec<Task> = Vec::new();
        for text in self.open_texts().await? {
            let later = wire::tasks("list_tasks", &text, &self.odd)?;
            let ids: HashSet<TaskId> = later.iter().map(|task| task.id).collect();
            tasks.retain(|task| !ids.contains(&task.id));
            tasks.extend(later);
        }
        Ok(tasks)
    }

    /// Every task, complete and archived ones too.
    pub async fn all_tasks(&self) -> Result<Vec<Task>, Error> {
        let text = self
            .read("list_tasks", json!({ "include_archived": true }))
            .await?;
        wire::tasks("list_tasks", &text, &self.odd)
    }

    /// One task with what only `get_task` and `get_subtasks` show.
    pub async fn detail(&self, id: TaskId) -> Result<Detail, Error> {
        let (found, open_subtasks) = match self.connect().await? {
            Dialect::V1 => (self.get(id).await, Ok(0)),
            Dialect::V2 => tokio::join!(self.get(id), self.open_subtasks(id)),
        };
        match (found, open_subtasks) {
            // Deleted before, or between, the two.
            (Err(Error::NotFound(_)), _) | (_, Err(Error::NotFound(_))) => Ok(Detail::NotFound),
            (found, open_subtasks) => wire::detail(&found?, open_subtasks?),
        }
    }

    /// [`Self::detail`] of each. A few at a time: the time limit of a call counts from its making, and thousands made at once would wait
    /// for each other until it has passed.
    pub async fn details<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a TaskId>,
    ) -> Vec<(TaskId, Result<Detail, Error>)> {
        stream::iter(ids)
            .map(async |id| (*id, self.detail(*id).await))
            .buffered(AT_ONCE)
            .collect()
            .await
    }

    /// One task as lists show it; `None`: there is no such task.
    pub async fn task(&self, id: TaskId) -> Result<Option<Task>, Error> {
        match self.get(id).await {
            Ok(text) => wire::task("get_task", &text).map(Some),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// working → idle. Does nothing unless the task is `working` at this moment, and changes nothing but the status.
    ///
    /// # Errors
    /// [`Error::NotFound`]: deleted, so there is nothing left to put back.
    pub async fn put_back(&self, id: TaskId) -> Result<(), Error> {
        let task = wire::task("get_task", &self.get(id).await?)?;
        if task.status == TaskStatus::Working || kill_point::is_planted("blind-put-back") {
            self.write("update_task", json!({ "id": id, "status": "idle" }))
                .await?;
        }
        Ok(())
    }

    /// Says something on a task as calypso-watch.
    pub async fn comment(&self, id: TaskId, text: &str) -> Result<(), Error> {
        self.comment_as(id, AUTHOR, text).await
    }

    /// Says something on a task. Too long a text loses its middle: the run that the end may name must stay readable.
    pub async fn comment_as(&self, id: TaskId, by: &str, text: &str) -> Result<(), Error> {
        let text = wire::shorten(text, BODY_LIMIT - 5_000);
        self.write(
            "add_comment",
            json!({ "task_id": id, "content": text, "created_by": by }),
        )
        .await?;
        Ok(())
    }

    /// Creates a task; gives its number.
    pub async fn create(&self, new: &NewTask) -> Result<TaskId, Error> {
        let mut arguments = json!({ "title": new.title, "created_by": new.by });
        // What is not set is left out: v2 reads null as the number 0 or refuses it.
        for (key, value) in [
            ("assigned_to", new.queue.as_deref().map(Value::from)),
            ("description", new.description.as_deref().map(Value::from)),
            ("priority", new.priority.map(Value::from)),
        ] {
            if let Some(value) = value {
                arguments[key] = value;
            }
        }
        let text = self.write("create_task", arguments).await?;
        Ok(wire::task("create_task", &text)?.id)
    }

    /// Hands a task from the queue it is in to another. One that nobody has is assigned, since `move_task` cannot take it.
    pub async fn move_task(&self, id: TaskId, to: &str, comment: &str) -> Result<(), Error> {
        let task = wire::task("get_task", &self.get(id).await?)?;
        match task.assigned_to {
            Some(from) => {
                let comment = wire::shorten(comment, BODY_LIMIT - 5_000);
                self.write(
                    "move_task",
                    json!({ "task_id": id, "current_agent": from, "new_agent": to, "comment": comment }),
                )
                .await?;
            }
            None => {
                self.write("update_task", json!({ "id": id, "assigned_to": to }))
                    .await?;
                self.comment_as(id, to, comment).await?;
            }
        }
        Ok(())
    }

    /// Claims the next idle task of an agent's queue, as an agent does.
    pub async fn signup(&self, agent: &str) -> Result<Option<Task>, Error> {
        let text = self
            .write("signup_for_task", json!({ "agent_name": agent }))
            .await?;
        wire::claimed(&text)
    }

    /// Marks a task complete.
    pub async fn complete(&self, id: TaskId) -> Result<(), Error> {
        self.write("update_task", json!({ "id": id, "status": "complete" }))
            .await?;
        Ok(())
    }

    /// One task as a person reads it: with description, tags, comments and links.
    pub async fn show(&self, id: TaskId) -> Result<Page, Error> {
        wire::page(&self.get(id).await?)
    }

    /// tinytask's own answer to `get_task`.
    pub async fn show_raw(&self, id: TaskId) -> Result<Value, Error> {
        wire::raw("get_task", &self.get(id).await?)
    }

    /// tinytask's own list: the open tasks of a queue or of all, or (`all`) complete and archived ones too.
    pub async fn list_raw(&self, queue: Option<&str>, all: bool) -> Result<Value, Error> {
        match queue {
            Some(queue) if !all => {
                let text = self
                    .read("get_my_queue", json!({ "agent_name": queue }))
                    .await?;
                wire::raw("get_my_queue", &text)
            }
            None if !all => {
                let mut lists = Vec::new();
                for text in self.open_texts().await? {
                    lists.push(wire::raw("list_tasks", &text)?);
                }
                Ok(wire::merge(lists))
            }
            queue => {
                let mut arguments = json!({ "include_archived": true });
                if let Some(queue) = queue {
                    arguments["assigned_to"] = queue.into();
                }
                let text = self.read("list_tasks", arguments).await?;
                wire::raw("list_tasks", &text)
            }
        }
    }

    /// The tasks of [`Self::list_raw`].
    pub async fn list(&self, queue: Option<&str>, all: bool) -> Result<Vec<Task>, Error> {
        match (queue, all) {
            (Some(queue), false) => self.queue(queue).await,
            (None, false) => self.open_tasks().await,
            (queue, true) => {
                let mut tasks = self.all_tasks().await?;
                tasks.retain(|task| {
                    queue.is_none_or(|queue| task.assigned_to.as_deref() == Some(queue))
                });
                Ok(tasks)
            }
        }
    }

    async fn get(&self, id: TaskId) -> Result<String, Error> {
        self.read("get_task", json!({ "id": id })).await
    }

    async fn open_subtasks(&self, id: TaskId) -> Result<u32, Error> {
        let text = self
            .read("get_subtasks", json!({ "parent_task_id": id }))
            .await?;
        wire::open_subtasks(&text, &self.odd)
    }

    /// One answer from v2; one for each status from v1, which takes a single status only.
    async fn open_texts(&self) -> Result<Vec<String>, Error> {
        match self.connect().await? {
            Dialect::V2 => Ok(vec![
                self.read("list_tasks", json!({ "status": ["idle", "working"] }))
                    .await?,
            ]),
            Dialect::V1 => {
                // A task claimed between the two is in both lists, and the later one is right. The other way round it would be
                // in neither. (One put back in between is: rarer, and absent is not deleted.)
                let idle = self.read("list_tasks", json!({ "status": "idle" })).await?;
                let working = self
                    .read("list_tasks", json!({ "status": "working" }))
                    .await?;
                Ok(vec![idle, working])
            }
        }
    }

    async fn read(&self, tool: &'static str, arguments: Value) -> Result<String, Error> {
        self.call(Kind::Read, tool, arguments).await
    }

    async fn write(&self, tool: &'static str, arguments: Value) -> Result<String, Error> {
        self.call(Kind::Write, tool, arguments).await
    }

    /// Calls a tool and gives the text of its answer.
    async fn call(
        &self,
        kind: Kind,
        tool: &'static str,
        arguments: Value,
    ) -> Result<String, Error> {
        if matches!(self.endpoint, Endpoint::Http { .. }) {
            let size = arguments.to_string().len();
            if size > BODY_LIMIT {
                return Err(Error::Refused(format!(
                    "{size} bytes are too much for one call, tinytask takes {BODY_LIMIT}"
                )));
            }
        }
        let arguments: Map<String, Value> = match arguments {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        let mut asked: Option<Dialect> = None;
        let mut locked = 0;
        loop {
            let session = self.session().await?;
            // The arguments were made for the generation that answered first. v1 ignores what it does not know, so a v2 filter
            // sent there would fetch everything.
            if asked.is_some_and(|dialect| dialect != session.dialect) {
                return Err(Error::Unreachable {
                    endpoint: self.endpoint.to_string(),
                    source: Cause::new("it was replaced by another version while it was asked"),
                });
            }
            match session.call(tool, arguments.clone(), self.timeout).await {
                Ok(answer) if !answer.is_error => return Ok(answer.text),
                Ok(answer) => match wire::refusal(&answer.text) {
                    // The failed call did nothing: several servers on one database hinder each other.
                    Error::Locked if locked < LOCKED_TRIES => {
                        locked += 1;
                        tokio::time::sleep(connect::between(25, 100)).await;
                    }
                    error => return Err(error),
                },
                Err(error) => {
                    let error = session.explain(&self.endpoint, error).await;
                    self.broke(&session, &error).await;
                    if kind == Kind::Write || asked.is_some() {
                        return Err(error);
                    }
                    asked = Some(session.dialect);
                }
            }
        }
    }

    /// The connection, made if need be.
    async fn session(&self) -> Result<Arc<Session>, Error> {
        let mut link = self.link.lock().await;
        match &link.session {
            Some(session) if session.is_alive() => return Ok(session.clone()),
            _ => link.session = None,
        }
        if let (Some(not_before), Some(error)) = (link.not_before, &link.last)
            && Instant::now() < not_before
        {
            return Err(error.clone());
        }
        match connect::connect(&self.endpoint, self.timeout).await {
            Ok(session) => {
                tracing::debug!(endpoint = %self.endpoint, dialect = %session.dialect, "connected to tinytask");
                let session = Arc::new(session);
                link.session = Some(session.clone());
                Ok(session)
            }
            Err(error) => {
                link.failed(&error);
                Err(error)
            }
        }
    }

    /// Parallel calls fail together when their connection breaks; it counts once, and what another has rebuilt stays.
    async fn broke(&self, session: &Arc<Session>, error: &Error) {
        let mut link = self.link.lock().await;
        if link
            .session
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, session))
        {
            link.session = None;
            if session.has_worked() {
                link.failures = 0;
            }
            link.failed(error);
        }
    }
}
