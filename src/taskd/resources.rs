//! What can be read by URI, always as JSON. Tools give all of it too.

use serde_json::json;

use super::store::{Filter, Number, Outcome, Store, Trouble};
use super::text::{List, Text};
use super::tools::agent_queue;

pub(super) const MEDIA_TYPE: &str = "application/json";

/// The patterns, with placeholders, as tinytask lists them; and what each is.
pub(super) const PATTERNS: [(&str, &str); 7] = [
    ("task://{id}", "A task with its comments and links"),
    ("task://{id}/comments", "The comments on a task"),
    ("task://{id}/links", "The links on a task"),
    ("task://hierarchy/{id}", "A task and all its parts"),
    ("queue://{agent_name}", "The open tasks of an agent"),
    ("tasks://active", "All tasks that are not archived"),
    ("tasks://archived", "All archived tasks"),
];

/// The text.
pub(super) fn read(store: &Store, uri: &str) -> Outcome<String> {
    let unknown = || Trouble::Refused(format!("Invalid resource URI: {uri}"));
    let missing = |id: &Number| Trouble::Missing(format!("Task not found: {id}"));
    let (kind, rest) = uri.split_once("://").ok_or_else(unknown)?;
    let text = match (kind, rest.split('/').collect::<Vec<_>>().as_slice()) {
        ("task", [id]) => {
            let id = number(id).ok_or_else(unknown)?;
            let task = store.get(&id)?;
            Text::json(&task.ok_or_else(|| missing(&id))?)
        }
        ("task", [id, "comments"]) => {
            let id = number(id).ok_or_else(unknown)?;
            let comments = store.comments(&id)?;
            Text::json(&json!({"task_id": id, "count": comments.len(), "comments": comments}))
        }
        ("task", [id, "links"]) => {
            let id = number(id).ok_or_else(unknown)?;
            let links = store.links(&id)?;
            Text::json(&json!({"task_id": id, "count": links.len(), "links": links}))
        }
        ("task", ["hierarchy", id]) => {
            let id = number(id).ok_or_else(unknown)?;
            let family = store.family(&id, true, |task| json!(task))?;
            Text::json(&family.ok_or_else(|| missing(&id))?)
        }
        ("queue", [agent]) if !agent.is_empty() => agent_queue(store, &decoded(agent))?,
        ("tasks", ["active"]) => {
            let mut tasks = List::new();
            store.list(&Filter::default(), |task| tasks.push(&task))?;
            tasks.named("tasks", |count| json!({"count": count}))
        }
        ("tasks", ["archived"]) => {
            let all = Filter {
                include_archived: true,
                ..Filter::default()
            };
            let mut tasks = List::new();
            store.list(&all, |task| {
                if task.archived_at.is_some() {
                    tasks.push(&task);
                }
            })?;
            tasks.named("tasks", |count| json!({"count": count}))
        }
        _ => return Err(unknown()),
    };
    Ok(text.plain())
}

fn number(text: &str) -> Option<Number> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse::<i64>().ok().map(Number::from)
}

/// `%20` and its like; what is not one stays as it is.
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
