//! What each tool answers, in which text.
//!
//! No tool failure is a protocol error: wrong arguments, an unknown tool and a refusal are all texts with `is_error`. The texts
//! are tinytask's: JSON, or a line of prose, or prose, an empty line and JSON.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::arguments::{self, Arguments, Kind, Param, Unknown};
use super::store::{Changes, Filter, NewTask, Outcome, Store, Task};

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
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) is_error: bool,
    /// The task it is about, for the log.
    pub(super) task: Option<i64>,
}

impl Answer {
    fn prose(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            is_error: false,
            task: None,
        }
    }
    pub(super) fn error(text: impl Into<String>) -> Self {
        Self {
            is_error: true,
            ..Self::prose(text)
        }
    }
    fn json(value: &impl Serialize) -> Self {
        Self::prose(pretty(value))
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

/// Two spaces, as `JSON.stringify(…, null, 2)`.
pub(super) fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("string keys and plain values only")
}

/// Calls a tool by name.
pub(super) fn call(store: &Store, name: &str, given: &Map<String, Value>) -> Answer {
    let Some(tool) = TOOLS.iter().find(|tool| tool.name == name) else {
        return Answer::error(format!("Unknown tool: {name}"));
    };
    let arguments = match arguments::check(tool.params, tool.unknown, given) {
        Ok(arguments) => arguments,
        Err(issues) => return Answer::error(format!("Error calling tool {name}: {issues}")),
    };
    let answer = (tool.run)(store, &arguments)
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
const AGENT_NAME: Param = required(
    "agent_name",
    Kind::Text,
    "The agent; its queue is what is assigned to it",
);
const QUEUE_NAME: Param = required("queue_name", Kind::Text, "Name of the queue");
const CREATED_BY: Param = optional("created_by", Kind::Text, "Who writes it");
const TITLE: Param = required("title", Kind::Text, "One line");
const DESCRIPTION: Param = optional("description", Kind::Text, "More words");
const ASSIGNED_TO: Param = optional("assigned_to", Kind::Text, "Agent it is assigned to");
const ASKED_BY: Param = required("created_by", Kind::Text, "Who asks for it");
const PRIORITY: Param = optional(
    "priority",
    Kind::Number,
    "Higher goes first; 0 unless given",
);
const TAGS: Param = optional("tags", Kind::Texts, "Any words to find it by");
const OF_QUEUE: Param = optional("queue_name", Kind::Text, "Named queue it is in");
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
const RECURSIVE: Param = optional("recursive", Kind::Flag, "Children of children too");

/// All of them, in the order they are listed.
pub(super) static TOOLS: [Tool; 30] = [
    Tool {
        name: "create_task",
        about: "Create a task. It starts as idle",
        params: &[
            TITLE,
            DESCRIPTION,
            ASSIGNED_TO,
            ASKED_BY,
            PRIORITY,
            TAGS,
            OF_PARENT,
            OF_QUEUE,
            optional(
                "blocked_by_task_id",
                Kind::Number,
                "Task that must be complete first",
            ),
        ],
        unknown: Unknown::Refused,
        trouble: "Error creating task: ",
        run: |store, given| {
            let task = store.create(&NewTask {
                parent: given.optional_number("parent_task_id"),
                blocked_by: given.optional_number("blocked_by_task_id"),
                ..new_task(given)
            })?;
            Ok(Answer::task(&task))
        },
    },
    Tool {
        name: "update_task",
        about: "Change a task; what is not given stays. An empty assigned_to takes it from its agent",
        params: &[
            ID,
            optional("title", Kind::Text, "One line"),
            DESCRIPTION,
            optional("status", Kind::Status, "idle, working or complete"),
            ASSIGNED_TO,
            PRIORITY,
            TAGS,
            OF_PARENT,
            OF_QUEUE,
            optional(
                "blocked_by_task_id",
                Kind::NumberOrNull,
                "Task that must be complete first; null for none",
            ),
        ],
        unknown: Unknown::Refused,
        trouble: "Error updating task: ",
        run: |store, given| {
            let task = store.update(
                &given.number("id"),
                &Changes {
                    title: given.optional_text("title"),
                    description: given.optional_text("description"),
                    status: given.optional_text("status"),
                    assigned_to: given.optional_text("assigned_to"),
                    priority: given.optional_number("priority"),
                    tags: tags(given),
                    parent: given.optional_number("parent_task_id").map(Some),
                    queue_name: given.optional_text("queue_name"),
                    blocked_by: given.nullable_number("blocked_by_task_id"),
                },
            )?;
            Ok(Answer::task(&task))
        },
    },
    Tool {
        name: "get_task",
        about: "Show a task with its comments and links",
        params: &[ID],
        unknown: Unknown::Refused,
        trouble: "Error retrieving task: ",
        run: |store, given| {
            let id = given.number("id");
            Ok(match store.get(&id)? {
                Some(task) => Answer::json(&task).on(task.task.id),
                None => Answer::error(format!("Task not found: {id}")),
            })
        },
    },
    Tool {
        name: "delete_task",
        about: "Delete a task for good, with its comments, links and subtasks",
        params: &[ID],
        unknown: Unknown::Refused,
        trouble: "Error deleting task: ",
        run: |store, given| {
            let id = given.number("id");
            store.delete(&id)?;
            Ok(Answer::deleted("Task", &id))
        },
    },
    Tool {
        name: "archive_task",
        about: "Hide a task from lists and queues; it is kept",
        params: &[ID],
        unknown: Unknown::Refused,
        trouble: "Error archiving task: ",
        run: |store, given| Ok(Answer::task(&store.archive(&given.number("id"))?)),
    },
    Tool {
        name: "list_tasks",
        about: "List tasks, by priority, then by age",
        params: &[
            ASSIGNED_TO,
            STATUS,
            EXCLUDE_STATUS,
            INCLUDE_ARCHIVED,
            LIMIT,
            OFFSET,
            OF_QUEUE,
            OF_PARENT,
            EXCLUDE_SUBTASKS,
        ],
        unknown: Unknown::Refused,
        trouble: "Error listing tasks: ",
        run: |store, given| {
            let tasks = store.list(&Filter {
                queue_name: given.optional_text("queue_name"),
                ..filter(given)
            })?;
            Ok(Answer::json(&json!({"count": tasks.len(), "tasks": tasks})))
        },
    },
    Tool {
        name: "get_my_queue",
        about: "List the open tasks of an agent, idle and working",
        params: &[AGENT_NAME],
        unknown: Unknown::Refused,
        trouble: "Error retrieving queue: ",
        run: |store, given| Ok(Answer::prose(agent_queue(store, given.text("agent_name"))?)),
    },
    Tool {
        name: "signup_for_task",
        about: "Claim the agent's next idle task: it becomes working. Nobody else gets it",
        params: &[AGENT_NAME],
        unknown: Unknown::Refused,
        trouble: "Error signing up for task: ",
        run: |store, given| {
            let agent = given.text("agent_name");
            Ok(match store.sign_up(agent)? {
                Some(task) => {
                    let id = task.task.id;
                    let text = format!(
                        "Task #{id} claimed and set to working status\n\n{}",
                        pretty(&task)
                    );
                    Answer::prose(text).on(id)
                }
                None => Answer::prose(format!(
                    "No idle tasks available in queue for agent: {agent}"
                )),
            })
        },
    },
    Tool {
        name: "move_task",
        about: "Hand a task from one agent to another, with a comment; it becomes idle",
        params: &[
            TASK_ID,
            required("current_agent", Kind::Text, "Who has it now"),
            required("new_agent", Kind::Text, "Who gets it"),
            required("comment", Kind::Text, "What the next agent must know"),
        ],
        unknown: Unknown::Refused,
        trouble: "",
        run: |store, given| {
            let moved = store.hand_over(
                &given.number("task_id"),
                given.text("current_agent"),
                given.text("new_agent"),
                given.text("comment"),
            )?;
            Ok(Answer::json(&moved).on(moved.task.id))
        },
    },
    Tool {
        name: "create_subtask",
        about: "Create a task as a part of another; it is in the other's queue unless told otherwise",
        params: &[
            required("parent_task_id", Kind::Number, "Task it is a part of"),
            TITLE,
            DESCRIPTION,
            ASSIGNED_TO,
            ASKED_BY,
            PRIORITY,
            TAGS,
            OF_QUEUE,
        ],
        unknown: Unknown::Refused,
        trouble: "Error creating subtask: ",
        run: |store, given| {
            let parent = given.number("parent_task_id");
            if !store.has_task(&parent)? {
                return Ok(Answer::error(format!("Parent task not found: {parent}")));
            }
            let task = store.create(&NewTask {
                parent: Some(parent),
                ..new_task(given)
            })?;
            Ok(Answer::task(&task))
        },
    },
    Tool {
        name: "get_subtasks",
        about: "List the parts of a task",
        params: &[
            required("parent_task_id", Kind::Number, "Number of the task"),
            RECURSIVE,
            INCLUDE_ARCHIVED,
        ],
        unknown: Unknown::Refused,
        trouble: "Error retrieving subtasks: ",
        run: |store, given| {
            let parent = given.number("parent_task_id");
            let recursive = given.flag("recursive");
            let subtasks = store.subtasks(&parent, recursive, given.flag("include_archived"))?;
            Ok(Answer::json(&json!({
                "parent_task_id": parent,
                "recursive": recursive,
                "count": subtasks.len(),
                "subtasks": subtasks,
            })))
        },
    },
    Tool {
        name: "get_task_with_subtasks",
        about: "Show a task and its parts",
        params: &[TASK_ID, RECURSIVE],
        unknown: Unknown::Refused,
        trouble: "Error retrieving task with subtasks: ",
        run: |store, given| {
            let id = given.number("task_id");
            Ok(match store.family(&id, given.flag("recursive"))? {
                Some(family) => Answer::json(&family).on(family.task.id),
                None => Answer::error(format!("Task not found: {id}")),
            })
        },
    },
    Tool {
        name: "move_subtask",
        about: "Make a task a part of another one, or of none",
        params: &[
            required("subtask_id", Kind::Number, "Number of the task"),
            optional(
                "new_parent_id",
                Kind::Number,
                "Task it becomes a part of; none unless given",
            ),
        ],
        unknown: Unknown::Refused,
        trouble: "Error moving subtask: ",
        run: |store, given| {
            let id = given.number("subtask_id");
            let parent = given.optional_number("new_parent_id");
            let told = match &parent {
                Some(parent) => format!("Task #{id} moved to parent #{parent}"),
                None => format!("Task #{id} moved to top-level (no parent)"),
            };
            let changes = Changes {
                parent: Some(parent),
                ..Changes::default()
            };
            let task = store.update(&id, &changes)?;
            Ok(Answer::prose(format!("{told}\n\n{}", pretty(&task))).on(task.id))
        },
    },
    Tool {
        name: "list_queues",
        about: "List the named queues that have tasks",
        params: &[],
        unknown: Unknown::Refused,
        trouble: "Error listing queues: ",
        run: |store, _| {
            let queues = store.queues()?;
            Ok(Answer::json(
                &json!({"count": queues.len(), "queues": queues}),
            ))
        },
    },
    Tool {
        name: "get_queue_stats",
        about: "Count the tasks of a named queue",
        params: &[QUEUE_NAME],
        unknown: Unknown::Refused,
        trouble: "Error retrieving queue stats: ",
        run: |store, given| Ok(Answer::json(&store.queue_stats(given.text("queue_name"))?)),
    },
    Tool {
        name: "add_task_to_queue",
        about: "Put a task into a named queue",
        params: &[TASK_ID, QUEUE_NAME],
        unknown: Unknown::Refused,
        trouble: "Error adding task to queue: ",
        run: |store, given| {
            let task = store.put_into_queue(&given.number("task_id"), given.text("queue_name"))?;
            Ok(Answer::task(&task))
        },
    },
    Tool {
        name: "remove_task_from_queue",
        about: "Take a task out of its named queue",
        params: &[TASK_ID],
        unknown: Unknown::Refused,
        trouble: "Error removing task from queue: ",
        run: |store, given| {
            Ok(Answer::task(
                &store.take_from_queue(&given.number("task_id"))?,
            ))
        },
    },
    Tool {
        name: "move_task_to_queue",
        about: "Put a task into another named queue",
        params: &[
            TASK_ID,
            required("new_queue_name", Kind::Text, "Name of the queue it goes to"),
        ],
        unknown: Unknown::Refused,
        trouble: "Error moving task to queue: ",
        run: |store, given| {
            let task =
                store.put_into_queue(&given.number("task_id"), given.text("new_queue_name"))?;
            Ok(Answer::task(&task))
        },
    },
    Tool {
        name: "get_queue_tasks",
        about: "List the tasks of a named queue, by priority, then by age",
        params: &[
            QUEUE_NAME,
            ASSIGNED_TO,
            STATUS,
            EXCLUDE_STATUS,
            OF_PARENT,
            EXCLUDE_SUBTASKS,
            INCLUDE_ARCHIVED,
            LIMIT,
            OFFSET,
        ],
        unknown: Unknown::Refused,
        trouble: "Error retrieving queue tasks: ",
        run: |store, given| {
            let queue = given.text("queue_name");
            let tasks = store.queue_tasks(queue, filter(given))?;
            let mut filters = Map::new();
            for name in [
                "assigned_to",
                "status",
                "exclude_status",
                "parent_task_id",
                "exclude_subtasks",
                "include_archived",
                "limit",
                "offset",
            ] {
                if name == "include_archived" {
                    filters.insert(name.into(), given.flag(name).into());
                } else if let Some(value) = given.value(name) {
                    filters.insert(name.into(), value.clone());
                }
            }
            Ok(Answer::json(&json!({
                "queue_name": queue,
                "count": tasks.len(),
                "filters": filters,
                "tasks": tasks,
            })))
        },
    },
    Tool {
        name: "clear_queue",
        about: "Take all tasks out of a named queue; they are kept",
        params: &[QUEUE_NAME],
        unknown: Unknown::Refused,
        trouble: "Error clearing queue: ",
        run: |store, given| {
            let queue = given.text("queue_name");
            let cleared = store.clear_queue(queue)?;
            Ok(Answer::json(
                &json!({"queue_name": queue, "tasks_cleared": cleared}),
            ))
        },
    },
    Tool {
        name: "add_comment",
        about: "Say something on a task",
        params: &[TASK_ID, required("content", Kind::Text, "What"), CREATED_BY],
        unknown: Unknown::Ignored,
        trouble: "Error adding comment: ",
        run: |store, given| {
            let comment = store.add_comment(
                &given.number("task_id"),
                given.text("content"),
                given.optional_text("created_by"),
            )?;
            Ok(Answer::json(&comment).on(comment.task_id))
        },
    },
    Tool {
        name: "update_comment",
        about: "Say something else in a comment",
        params: &[ID, required("content", Kind::Text, "What")],
        unknown: Unknown::Ignored,
        trouble: "Error updating comment: ",
        run: |store, given| {
            let comment = store.update_comment(&given.number("id"), given.text("content"))?;
            Ok(Answer::json(&comment).on(comment.task_id))
        },
    },
    Tool {
        name: "delete_comment",
        about: "Delete a comment for good",
        params: &[ID],
        unknown: Unknown::Ignored,
        trouble: "Error deleting comment: ",
        run: |store, given| {
            let id = given.number("id");
            store.delete_comment(&id)?;
            Ok(Answer::deleted("Comment", &id))
        },
    },
    Tool {
        name: "list_comments",
        about: "List the comments on a task, oldest first",
        params: &[TASK_ID],
        unknown: Unknown::Ignored,
        trouble: "Error listing comments: ",
        run: |store, given| {
            let task = given.number("task_id");
            let comments = store.comments(&task)?;
            Ok(Answer::json(
                &json!({"task_id": task, "count": comments.len(), "comments": comments}),
            ))
        },
    },
    Tool {
        name: "get_comment",
        about: "Show one comment",
        params: &[ID],
        unknown: Unknown::Ignored,
        trouble: "Error retrieving comment: ",
        run: |store, given| {
            let id = given.number("id");
            Ok(match store.comment(&id)? {
                Some(comment) => Answer::json(&comment).on(comment.task_id),
                None => Answer::error(format!("Comment not found: {id}")),
            })
        },
    },
    Tool {
        name: "move_comment",
        about: "Move a comment to another task; it gets a new number there",
        params: &[
            required("comment_id", Kind::Number, "Number of the comment"),
            required("to_task_id", Kind::Number, "Number of the task it goes to"),
        ],
        unknown: Unknown::Ignored,
        trouble: "Error moving comment: ",
        run: |store, given| {
            let comment =
                store.move_comment(&given.number("comment_id"), &given.number("to_task_id"))?;
            Ok(Answer::json(&comment).on(comment.task_id))
        },
    },
    Tool {
        name: "add_link",
        about: "Hang a file or an address on a task",
        params: &[
            TASK_ID,
            required("url", Kind::Text, "Path or address"),
            optional("description", Kind::Text, "What it is"),
            CREATED_BY,
        ],
        unknown: Unknown::Ignored,
        trouble: "Error adding link: ",
        run: |store, given| {
            let link = store.add_link(
                &given.number("task_id"),
                given.text("url"),
                given.optional_text("description"),
                given.optional_text("created_by"),
            )?;
            Ok(Answer::json(&link).on(link.task_id))
        },
    },
    Tool {
        name: "update_link",
        about: "Change a link; what is not given stays",
        params: &[
            ID,
            optional("url", Kind::Text, "Path or address"),
            optional("description", Kind::Text, "What it is"),
        ],
        unknown: Unknown::Ignored,
        trouble: "Error updating link: ",
        run: |store, given| {
            let link = store.update_link(
                &given.number("id"),
                given.optional_text("url"),
                given.optional_text("description"),
            )?;
            Ok(Answer::json(&link).on(link.task_id))
        },
    },
    Tool {
        name: "delete_link",
        about: "Delete a link for good",
        params: &[ID],
        unknown: Unknown::Ignored,
        trouble: "Error deleting link: ",
        run: |store, given| {
            let id = given.number("id");
            store.delete_link(&id)?;
            Ok(Answer::deleted("Link", &id))
        },
    },
    Tool {
        name: "list_links",
        about: "List the links on a task, oldest first",
        params: &[TASK_ID],
        unknown: Unknown::Ignored,
        trouble: "Error listing links: ",
        run: |store, given| {
            let task = given.number("task_id");
            let links = store.links(&task)?;
            Ok(Answer::json(
                &json!({"task_id": task, "count": links.len(), "links": links}),
            ))
        },
    },
];

/// What `get_my_queue` and its resource say.
pub(super) fn agent_queue(store: &Store, agent: &str) -> Outcome<String> {
    let tasks = store.agent_queue(agent)?;
    Ok(pretty(
        &json!({"agent": agent, "count": tasks.len(), "tasks": tasks}),
    ))
}

fn new_task(given: &Arguments) -> NewTask<'_> {
    NewTask {
        title: given.text("title"),
        description: given.optional_text("description"),
        assigned_to: given.optional_text("assigned_to"),
        created_by: given.optional_text("created_by"),
        priority: given.optional_number("priority"),
        tags: tags(given),
        queue_name: given.optional_text("queue_name"),
        ..NewTask::default()
    }
}

/// Tags are stored as a JSON array.
fn tags(given: &Arguments) -> Option<String> {
    given.value("tags").map(Value::to_string)
}

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
