//! The tools for tasks and their parts.

use serde_json::{Value, json};

use crate::taskd::arguments::{Arguments, Kind, Param, Unknown};
use crate::taskd::store::{Changes, Filter, NewTask};
use crate::taskd::text::{List, Text};

use super::{
    ASSIGNED_TO, Answer, EXCLUDE_STATUS, EXCLUDE_SUBTASKS, ID, INCLUDE_ARCHIVED, LIMIT, OF_PARENT,
    OFFSET, STATUS, TASK_ID, Tool, agent_queue, filter, optional, required,
};

const AGENT_NAME: Param = required(
    "agent_name",
    Kind::Text,
    "The agent; its queue is what is assigned to it",
);
const TITLE: Param = required("title", Kind::Text, "One line");
const DESCRIPTION: Param = optional("description", Kind::Text, "More words");
const ASKED_BY: Param = required("created_by", Kind::Text, "Who asks for it");
const PRIORITY: Param = optional(
    "priority",
    Kind::Number,
    "Higher goes first; 0 unless given",
);
const TAGS: Param = optional("tags", Kind::Texts, "Any words to find it by");
const OF_QUEUE: Param = optional("queue_name", Kind::Text, "Named queue it is in");
const RECURSIVE: Param = optional("recursive", Kind::Flag, "Children of children too");

pub(super) static TOOLS: [Tool; 13] = [
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
        trouble: "cannot show the task: ",
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
            let filter = Filter {
                queue_name: given.optional_text("queue_name"),
                ..filter(given)
            };
            let mut tasks = List::new();
            store.list(&filter, |task| tasks.push(&task))?;
            Ok(tasks.named("tasks", |count| json!({"count": count})).into())
        },
    },
    Tool {
        name: "get_my_queue",
        about: "List the open tasks of an agent, idle and working",
        params: &[AGENT_NAME],
        unknown: Unknown::Refused,
        trouble: "cannot list the tasks of the agent: ",
        run: |store, given| Ok(agent_queue(store, given.text("agent_name"))?.into()),
    },
    Tool {
        name: "signup_for_task",
        about: "Claim the agent's next idle task: it becomes working. Nobody else gets it",
        params: &[AGENT_NAME],
        unknown: Unknown::Refused,
        trouble: "cannot claim a task: ",
        run: |store, given| {
            let agent = given.text("agent_name");
            Ok(match store.sign_up(agent)? {
                Some(task) => {
                    let id = task.task.id;
                    let told = format!("Task #{id} claimed and set to working status");
                    Answer::from(Text::prose_and_json(&told, &task)).on(id)
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
        trouble: "cannot create the subtask: ",
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
        trouble: "cannot list the subtasks: ",
        run: |store, given| {
            let parent = given.number("parent_task_id");
            let recursive = given.flag("recursive");
            let include_archived = given.flag("include_archived");
            let mut subtasks = List::new();
            store.subtasks(&parent, recursive, include_archived, |task| {
                subtasks.push(&task);
            })?;
            let head =
                |count| json!({"parent_task_id": parent, "recursive": recursive, "count": count});
            Ok(subtasks.named("subtasks", head).into())
        },
    },
    Tool {
        name: "get_task_with_subtasks",
        about: "Show a task and its parts",
        params: &[TASK_ID, RECURSIVE],
        unknown: Unknown::Refused,
        trouble: "cannot show the task and its parts: ",
        run: |store, given| {
            let id = given.number("task_id");
            Ok(
                match store.family(&id, given.flag("recursive"), |task| json!(task))? {
                    Some(family) => Answer::json(&family).on(family.task.id),
                    None => Answer::error(format!("Task not found: {id}")),
                },
            )
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
        trouble: "cannot move the subtask: ",
        run: |store, given| {
            let id = given.number("subtask_id");
            let parent = given.optional_number("new_parent_id");
            let told = match &parent {
                Some(parent) => format!("Task #{id} is now a part of task #{parent}"),
                None => format!("Task #{id} moved to top-level (no parent)"),
            };
            let changes = Changes {
                parent: Some(parent),
                ..Changes::default()
            };
            let task = store.update(&id, &changes)?;
            Ok(Answer::from(Text::prose_and_json(&told, &task)).on(task.id))
        },
    },
];

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
