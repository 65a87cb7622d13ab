//! The tools for named queues.

use serde_json::{Map, json};

use crate::taskd::arguments::{Kind, Param, Unknown};
use crate::taskd::text::List;

use super::{
    ASSIGNED_TO, Answer, EXCLUDE_STATUS, EXCLUDE_SUBTASKS, INCLUDE_ARCHIVED, LIMIT, OF_PARENT,
    OFFSET, STATUS, TASK_ID, Tool, filter, required,
};

const QUEUE_NAME: Param = required("queue_name", Kind::Text, "Name of the queue");

pub(super) static TOOLS: [Tool; 7] = [
    Tool {
        name: "list_queues",
        about: "List the named queues that have tasks",
        params: &[],
        unknown: Unknown::Refused,
        trouble: "cannot list the queues: ",
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
        trouble: "cannot count the tasks of the queue: ",
        run: |store, given| Ok(Answer::json(&store.queue_stats(given.text("queue_name"))?)),
    },
    Tool {
        name: "add_task_to_queue",
        about: "Put a task into a named queue",
        params: &[TASK_ID, QUEUE_NAME],
        unknown: Unknown::Refused,
        trouble: "cannot put the task into the queue: ",
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
        trouble: "cannot take the task out of its queue: ",
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
            let mut tasks = List::new();
            store.queue_tasks(queue, filter(given), |task| tasks.push(&task))?;
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
            let head = |count| json!({"queue_name": queue, "count": count, "filters": filters});
            Ok(tasks.named("tasks", head).into())
        },
    },
    Tool {
        name: "clear_queue",
        about: "Take all tasks out of a named queue; they are kept",
        params: &[QUEUE_NAME],
        unknown: Unknown::Refused,
        trouble: "cannot clear the queue: ",
        run: |store, given| {
            let queue = given.text("queue_name");
            let cleared = store.clear_queue(queue)?;
            Ok(Answer::json(
                &json!({"queue_name": queue, "tasks_cleared": cleared}),
            ))
        },
    },
];
