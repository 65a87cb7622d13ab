//! What each tool answers, in which text.
//!
//! No tool failure is a protocol error: wrong arguments, an unknown tool and a refusal are all texts with `is_error`. The texts
//! are tinytask's: JSON, or a line of prose, or prose, an empty line and JSON.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::arguments::{self, Arguments, Kind, Param, Unknown};
use super::store::{Filter, Outcome, Store, Task, Trouble, patiently};
use super::text::{List, Text};

mod notes;
mod queues;
mod tasks;

/// One tool: what clients are told of it, and what its refusals begin with.
#[derive(Debug)]
pub(super) struct Tool {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) params: &'static [Param],
    unknown: Unknown,
    trouble: &'static str,
    run: fn(&Store, &Arguments) -> Outcome<Answer>,
}

/// The text of a tool's answer.
#[derive(Debug)]
pub struct Answer {
    pub(super) text: Text,
    /// The tool refused, or failed; the text says why.
    pub is_error: bool,
    /// The task it is about, for the log.
    pub(super) task: Option<i64>,
}

impl Answer {
    /// As a client reads it.
    pub fn plain(&self) -> String {
        self.text.plain()
    }
    fn prose(text: impl AsRef<str>) -> Self {
        Text::prose(text.as_ref()).into()
    }
    pub(super) fn error(text: impl AsRef<str>) -> Self {
        Self {
            is_error: true,
            ..Self::prose(text)
        }
    }
    fn json(value: &impl Serialize) -> Self {
        Text::json(value).into()
    }
    fn on(self, task: i64) -> Self {
        Self {
            task: Some(task),
            ..self
        }
    }
    fn task(task: &Task) -> Self {
        Self::json(task).on(task.id)
    }
    fn deleted(what: &str, id: &super::store::Number) -> Self {
        let gone = json!({
            "success": true,
            "message": format!("{what} {id} deleted successfully"),
            "id": id,
        });
        Self::prose(gone.to_string())
    }
}

impl From<Text> for Answer {
    fn from(text: Text) -> Self {
        Self {
            text,
            is_error: false,
            task: None,
        }
    }
}

/// All of them, in the order they are listed.
pub(super) fn all() -> impl Iterator<Item = &'static Tool> {
    tasks::TOOLS
        .iter()
        .chain(&queues::TOOLS)
        .chain(&notes::TOOLS)
}

/// Calls a tool by name.
pub async fn call(store: &Store, name: &str, given: &Map<String, Value>) -> Answer {
    let Some(tool) = all().find(|tool| tool.name == name) else {
        return Answer::error(format!("Unknown tool: {name}"));
    };
    let arguments = match arguments::check(tool.params, tool.unknown, given) {
        Ok(arguments) => arguments,
        Err(issues) => return Answer::error(format!("Error calling tool {name}: {issues}")),
    };
    let answer = patiently(|| (tool.run)(store, &arguments), Trouble::is_busy)
        .await
        .unwrap_or_else(|trouble| Answer::error(format!("{}{trouble}", tool.trouble)));
    let about = || arguments.first_id(&["task_id", "subtask_id", "to_task_id", "parent_task_id"]);
    let id = || match name.contains("_task") {
        true => arguments.first_id(&["id"]),
        false => None,
    };
    Answer {
        task: answer.task.or_else(about).or_else(id),
        ..answer
    }
}

const fn required(name: &'static str, kind: Kind, about: &'static str) -> Param {
    Param {
        name,
        kind,
        required: true,
        advertised: true,
        about,
    }
}

const fn optional(name: &'static str, kind: Kind, about: &'static str) -> Param {
    Param {
        required: false,
        ..required(name, kind, about)
    }
}

const fn unadvertised(name: &'static str, kind: Kind, about: &'static str) -> Param {
    Param {
        advertised: false,
        ..optional(name, kind, about)
    }
}

const TASK_ID: Param = required("task_id", Kind::Number, "Number of the task");
const ID: Param = required("id", Kind::Number, "Its number");
const ASSIGNED_TO: Param = optional("assigned_to", Kind::Text, "Agent it is assigned to");
const OF_PARENT: Param = optional("parent_task_id", Kind::Number, "Task it is a part of");
const EXCLUDE_STATUS: Param = optional(
    "exclude_status",
    Kind::Statuses,
    "Leave out tasks of these statuses",
);
const EXCLUDE_SUBTASKS: Param = optional(
    "exclude_subtasks",
    Kind::Flag,
    "Leave out tasks that are part of another",
);
const INCLUDE_ARCHIVED: Param = optional("include_archived", Kind::Flag, "Archived tasks too");
const LIMIT: Param = optional("limit", Kind::Number, "At most so many; all unless given");
const OFFSET: Param = optional("offset", Kind::Number, "Leave out so many at the beginning");
const STATUS: Param = unadvertised(
    "status",
    Kind::StatusOrStatuses,
    "Only tasks of this status, or of one of these",
);

/// What `get_my_queue` and its resource say.
pub(super) fn agent_queue(store: &Store, agent: &str) -> Outcome<Text> {
    store.kept(agent, || {
        let mut tasks = List::new();
        store.agent_queue(agent, |task| tasks.push(&task))?;
        Ok(tasks.named("tasks", |count| json!({"agent": agent, "count": count})))
    })
}

/// What the lists of tasks are narrowed by.
fn filter(given: &Arguments) -> Filter<'_> {
    Filter {
        assigned_to: given.optional_text("assigned_to"),
        status: given.texts("status"),
        exclude_status: given.texts("exclude_status"),
        queue_name: None,
        parent: given.optional_number("parent_task_id").map(Some),
        exclude_subtasks: given.flag("exclude_subtasks"),
        include_archived: given.flag("include_archived"),
        limit: given.optional_number("limit"),
        offset: given.optional_number("offset"),
    }
}
