//! The tools for comments and links.

use serde_json::json;

use crate::taskd::arguments::{Kind, Param, Unknown};

use super::{Answer, ID, TASK_ID, Tool, optional, required};

const CREATED_BY: Param = optional("created_by", Kind::Text, "Who writes it");

pub(super) static TOOLS: [Tool; 10] = [
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
        trouble: "cannot update the comment: ",
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
        trouble: "cannot delete the comment: ",
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
        trouble: "cannot list the comments: ",
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
        trouble: "cannot show the comment: ",
        run: |store, given| {
            let id = given.number("id");
            let comment = store.comment(&id)?;
            Ok(Answer::json(&comment).on(comment.task_id))
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
        trouble: "cannot move the comment: ",
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
        trouble: "cannot update the link: ",
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
        trouble: "cannot delete the link: ",
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
        trouble: "cannot list the links: ",
        run: |store, given| {
            let task = given.number("task_id");
            let links = store.links(&task)?;
            Ok(Answer::json(
                &json!({"task_id": task, "count": links.len(), "links": links}),
            ))
        },
    },
];
