//! The plain HTTP calls under `/api/v1` that scripts use: tasks, comments, links, agents' queues, named queues.
//!
//! Answers are bare JSON with proper status codes, errors `{"error": …}`. What is read carries an ETag, so that a script may poll
//! with If-None-Match and get an empty 304 while nothing changed.
//!
//! Known gap: no subtasks and no OpenAPI page; MCP has all of it.

use std::collections::HashMap;
use std::hash::Hasher as _;
use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{Query, Request};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::http::{MAX_BODY, refusal};
use super::resources::decoded;
use super::store::{Changes, Filter, NewTask, Number, Store, Trouble, patiently};

const STATUSES: [&str; 3] = ["idle", "working", "complete"];

/// A status code and what is told with it.
type Told = (StatusCode, Value);

impl From<Trouble> for Told {
    fn from(trouble: Trouble) -> Self {
        let status = match &trouble {
            Trouble::Missing(_) => StatusCode::NOT_FOUND,
            Trouble::Refused(_) => StatusCode::BAD_REQUEST,
            Trouble::Read(_) | Trouble::Write(_) if trouble.is_busy() => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Trouble::Read(_) | Trouble::Write(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        error(status, trouble.to_string())
    }
}

fn error(status: StatusCode, why: impl Into<String>) -> Told {
    (status, json!({"error": why.into()}))
}

fn invalid(why: impl Into<String>) -> Told {
    error(StatusCode::BAD_REQUEST, why)
}

fn ok(value: impl Serialize) -> Result<Told, Told> {
    told(StatusCode::OK, value)
}

fn told(status: StatusCode, value: impl Serialize) -> Result<Told, Told> {
    Ok((status, json!(value)))
}

/// Answers one call below `/api/v1`.
pub async fn answer(store: Arc<Store>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return refusal(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large");
    };
    let body = match body.is_empty() {
        true => Ok(Map::new()),
        false => serde_json::from_slice::<Map<String, Value>>(&body),
    };
    let Ok(body) = body else {
        return refusal(StatusCode::BAD_REQUEST, "Invalid JSON body");
    };
    let Ok(Query(query)) = Query::<HashMap<String, String>>::try_from_uri(&parts.uri) else {
        return refusal(
            StatusCode::BAD_REQUEST,
            "the part of the address after `?` cannot be read; it is NAME=VALUE, joined by `&`",
        );
    };
    let path = parts.uri.path().trim_start_matches("/api/v1");
    let steps: Vec<String> = path.split('/').skip(1).map(decoded).collect();
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let call = Call {
        store: &store,
        body: &body,
        query: &query,
    };
    let is_busy = |told: &Told| told.0 == StatusCode::SERVICE_UNAVAILABLE;
    let (status, value) = patiently(|| call.route(&parts.method, &steps), is_busy)
        .await
        .unwrap_or_else(|told| told);
    respond(&parts.method, &parts.headers, status, &value)
}

fn respond(method: &Method, headers: &HeaderMap, status: StatusCode, value: &Value) -> Response {
    let text = value.to_string();
    let json = (
        header::CONTENT_TYPE,
        "application/json; charset=utf-8".to_owned(),
    );
    if *method != Method::GET || status != StatusCode::OK {
        return (status, [json], text).into_response();
    }
    let mut hash = siphasher::sip::SipHasher13::new();
    hash.write(text.as_bytes());
    let tag = format!("W/\"{:x}-{:016x}\"", text.len(), hash.finish());
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|tags| tags.to_str().ok());
    if known.is_some_and(|tags| tags.split(',').any(|known| known.trim() == tag)) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    (status, [json, (header::ETAG, tag)], text).into_response()
}

struct Call<'a> {
    store: &'a Store,
    body: &'a Map<String, Value>,
    query: &'a HashMap<String, String>,
}

impl<'a> Call<'a> {
    fn route(&self, method: &Method, steps: &[&str]) -> Result<Told, Told> {
        let store = self.store;
        match (method.as_str(), steps) {
            ("POST", ["tasks"]) => told(StatusCode::CREATED, store.create(&self.new_task()?)?),
            ("GET", ["tasks"]) => {
                let queue_name = self.query.get("queue_name").map(String::as_str);
                let filter = Filter {
                    queue_name,
                    ..self.filter()?
                };
                ok(store.list(&filter, |task| json!(task))?)
            }
            ("GET", ["tasks", id]) => {
                let id = task_id(id)?;
                let task = store.get(&id)?;
                ok(task
                    .ok_or_else(|| error(StatusCode::NOT_FOUND, format!("Task {id} not found")))?)
            }
            ("PATCH", ["tasks", id]) => ok(store.update(&task_id(id)?, &self.changes()?)?),
            ("DELETE", ["tasks", id]) => {
                let id = task_id(id)?;
                store.delete(&id)?;
                ok(json!({"success": true, "id": id}))
            }
            ("POST", ["tasks", id, "archive"]) => ok(store.archive(&task_id(id)?)?),
            ("POST", ["tasks", id, "transfer"]) => ok(store.hand_over(
                &task_id(id)?,
                self.needed("current_agent")?,
                self.needed("new_agent")?,
                self.needed("comment")?,
            )?),
            ("GET", ["tasks", id, "comments"]) => ok(store.comments(&task_id(id)?)?),
            ("POST", ["tasks", id, "comments"]) => {
                let (id, content) = (task_id(id)?, self.needed("content")?);
                let by = self.text("created_by")?;
                told(StatusCode::CREATED, store.add_comment(&id, content, by)?)
            }
            ("GET", ["tasks", id, "links"]) => ok(store.links(&task_id(id)?)?),
            ("POST", ["tasks", id, "links"]) => {
                let (id, url) = (task_id(id)?, self.needed("url")?);
                let (about, by) = (self.text("description")?, self.text("created_by")?);
                told(StatusCode::CREATED, store.add_link(&id, url, about, by)?)
            }
            ("GET", ["agents", agent, "queue"]) => {
                ok(store.agent_queue(agent, |task| json!(task))?)
            }
            ("POST", ["agents", agent, "signup"]) => {
                ok(store.sign_up(agent)?.ok_or_else(|| {
                    error(StatusCode::NOT_FOUND, "No idle tasks available for signup")
                })?)
            }
            ("GET", ["queues"]) => ok(store.queues()?),
            ("GET", ["queues", name, "stats"]) => ok(store.queue_stats(name)?),
            ("GET", ["queues", name, "tasks"]) => {
                ok(store.queue_tasks(name, self.filter()?, |task| json!(task))?)
            }
            _ => Err(error(StatusCode::NOT_FOUND, "Not found")),
        }
    }

    /// A text of the body; null is none.
    fn text(&self, name: &str) -> Result<Option<&'a str>, Told> {
        match self.body.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(invalid(format!("`{name}` takes a text"))),
        }
    }

    fn needed(&self, name: &str) -> Result<&'a str, Told> {
        self.text(name)?
            .filter(|text| !text.trim().is_empty())
            .ok_or_else(|| invalid(format!("`{name}` is missing or blank")))
    }

    fn number(&self, name: &str) -> Result<Option<Option<Number>>, Told> {
        match self.body.get(name) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(value) => match value.as_i64() {
                Some(number) => Ok(Some(Some(number.into()))),
                None => Err(invalid(format!("`{name}` takes a whole number"))),
            },
        }
    }

    fn priority(&self) -> Result<Option<Number>, Told> {
        match self.number("priority")? {
            Some(None) => Err(invalid("`priority` takes a whole number")),
            given => Ok(given.flatten()),
        }
    }

    fn tags(&self) -> Result<Option<String>, Told> {
        match self.body.get("tags") {
            None | Some(Value::Null) => Ok(None),
            Some(tags @ Value::Array(items)) if items.iter().all(Value::is_string) => {
                Ok(Some(tags.to_string()))
            }
            Some(_) => Err(invalid("`tags` takes a list of texts")),
        }
    }

    fn status(&self) -> Result<Option<&'a str>, Told> {
        match self.body.get("status") {
            None => Ok(None),
            Some(Value::String(status)) if STATUSES.contains(&status.as_str()) => Ok(Some(status)),
            Some(other) => {
                let shown = other
                    .as_str()
                    .map_or_else(|| other.to_string(), str::to_owned);
                Err(invalid(format!(
                    "Invalid status: {shown}. Must be one of: {}",
                    STATUSES.join(", ")
                )))
            }
        }
    }

    fn new_task(&self) -> Result<NewTask<'a>, Told> {
        self.status()?;
        let created_by = self.text("created_by")?.filter(|by| !by.trim().is_empty());
        Ok(NewTask {
            title: self.text("title")?.unwrap_or_default(),
            description: self.text("description")?,
            assigned_to: self.text("assigned_to")?,
            created_by: Some(created_by.ok_or_else(|| invalid("created_by is required"))?),
            priority: self.priority()?,
            tags: self.tags()?,
            parent: self.number("parent_task_id")?.flatten(),
            queue_name: self.text("queue_name")?,
            blocked_by: self.number("blocked_by_task_id")?.flatten(),
        })
    }

    fn changes(&self) -> Result<Changes<'a>, Told> {
        // Null takes a task from its agent, and empties its description.
        let emptied = |name: &str| match self.body.get(name) {
            Some(Value::Null) => Ok(Some("")),
            _ => self.text(name),
        };
        Ok(Changes {
            title: self.text("title")?,
            description: emptied("description")?,
            status: self.status()?,
            assigned_to: emptied("assigned_to")?,
            priority: self.priority()?,
            tags: self.tags()?,
            parent: self.number("parent_task_id")?,
            queue_name: self.text("queue_name")?,
            blocked_by: self.number("blocked_by_task_id")?,
        })
    }

    fn filter(&self) -> Result<Filter<'a>, Told> {
        Ok(Filter {
            assigned_to: self.query.get("assigned_to").map(String::as_str),
            status: self.statuses("status")?,
            exclude_status: self.statuses("exclude_status")?,
            queue_name: None,
            parent: match self.query.get("parent_task_id").map(String::as_str) {
                None => None,
                Some("null") => Some(None),
                Some(text) => {
                    Some(Some(Number::from(text.parse::<i64>().map_err(|_| {
                        invalid("`parent_task_id` takes the number of a task, or null for those without a parent")
                    })?)))
                }
            },
            exclude_subtasks: self.flag("exclude_subtasks")?,
            include_archived: self.flag("include_archived")?,
            limit: self.count("limit")?,
            offset: self.count("offset")?,
        })
    }

    /// `idle,working`
    fn statuses(&self, name: &str) -> Result<Vec<&'a str>, Told> {
        let list = self.query.get(name).map_or("", String::as_str);
        let parts = list
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        parts
            .map(|part| match STATUSES.contains(&part) {
                true => Ok(part),
                false => Err(invalid(format!(
                    "{name} must be one of: {} (got: \"{part}\")",
                    STATUSES.join(", ")
                ))),
            })
            .collect()
    }

    fn flag(&self, name: &str) -> Result<bool, Told> {
        match self.query.get(name).map(String::as_str) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(invalid(format!("`{name}` takes true or false"))),
        }
    }

    fn count(&self, name: &str) -> Result<Option<Number>, Told> {
        let Some(text) = self.query.get(name) else {
            return Ok(None);
        };
        match text.parse::<u32>() {
            Ok(count) => Ok(Some(i64::from(count).into())),
            Err(_) => Err(invalid(format!("`{name}` takes a whole number from 0 up"))),
        }
    }
}

fn task_id(text: &str) -> Result<Number, Told> {
    match text.parse::<i64>() {
        Ok(id) => Ok(id.into()),
        Err(_) => Err(invalid(format!("Invalid task ID: {text}"))),
    }
}
