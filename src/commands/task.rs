//! `task …`: a thin tinytask client for people and scripts.
//!
//! Data goes to `out`, in a shape that scripts can rely on: `create` and `signup` print a bare number. Knows no base path:
//! whoever calls has found out which tinytask is meant.

use std::fmt::Write as _;
use std::io::{self, Write};

use camino::Utf8Path;

use crate::cli::{Putback, Server, TaskCommand};
use crate::core::model::{Detail, Invalid, Task, TaskId, TaskStatus, Timestamp};
use crate::edge::clock;
use crate::edge::tinytask::{Error, NewTask, Page, Tinytask};
use crate::report::{Exit, Failure};

/// Columns of a screen.
const WIDTH: usize = 80;

/// Does what was typed, on this tinytask. A reader who has seen enough (a broken pipe) is no failure.
pub async fn call(
    tinytask: &Tinytask,
    command: TaskCommand,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let said = answer(tinytask, command).await;
    tinytask.close().await;
    let Some(text) = said? else {
        return Ok(Exit::Failed);
    };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failed, error))
        }
        _ => Ok(Exit::Done),
    }
}

/// `putback`: idle again, by a person's word.
pub fn putback(base: Option<&Utf8Path>, task: &Putback) -> Result<Exit, Failure> {
    let id = number(&task.task)?;
    let tinytask = super::client(base, &Server::default())?;
    let was_working = super::runtime()?.block_on(async {
        let found = tinytask.detail(id).await.map_err(failure)?;
        let Detail::Found(found) = found else {
            return Err(failure(Error::NotFound(id)));
        };
        tinytask.put_back(id).await.map_err(failure)?;
        tinytask.close().await;
        Ok(found.task.status == TaskStatus::Working)
    })?;
    super::say(&if was_working {
        format!("#{id} is idle again\n")
    } else {
        format!("#{id} is not working, so there is nothing to put back\n")
    })
}

/// What to print; nothing where `signup` found no task.
async fn answer(tinytask: &Tinytask, command: TaskCommand) -> Result<Option<String>, Failure> {
    let text = match command {
        TaskCommand::List {
            queue, all, json, ..
        } => {
            let queue = queue.as_deref();
            if json {
                pretty(&tinytask.list_raw(queue, all).await.map_err(failure)?)
            } else {
                table(&tinytask.list(queue, all).await.map_err(failure)?)
            }
        }
        TaskCommand::Show { task, json, .. } => {
            let id = number(&task)?;
            if json {
                pretty(&tinytask.show_raw(id).await.map_err(failure)?)
            } else {
                page(&tinytask.show(id).await.map_err(failure)?)
            }
        }
        TaskCommand::Create {
            title,
            queue,
            description,
            priority,
            by,
            ..
        } => {
            let new = NewTask {
                title,
                queue,
                description,
                priority,
                by,
            };
            format!("{}\n", tinytask.create(&new).await.map_err(failure)?)
        }
        TaskCommand::Move {
            task, to, comment, ..
        } => {
            let moved = tinytask.move_task(number(&task)?, &to, &comment).await;
            moved.map_err(failure)?;
            String::new()
        }
        TaskCommand::Comment { task, text, by, .. } => {
            let said = tinytask.comment_as(number(&task)?, &by, &text).await;
            said.map_err(failure)?;
            String::new()
        }
        TaskCommand::Signup { queue, .. } => {
            match tinytask.signup(&queue).await.map_err(failure)? {
                Some(task) => format!("{}\n", task.id),
                None => return Ok(None),
            }
        }
        TaskCommand::Done { task, .. } => {
            let done = tinytask.complete(number(&task)?).await;
            done.map_err(failure)?;
            String::new()
        }
    };
    Ok(Some(text))
}

fn number(text: &str) -> Result<TaskId, Failure> {
    text.parse()
        .map_err(|error: Invalid| Failure::new(Exit::Usage, error))
}

fn failure(error: Error) -> Failure {
    let hint = error.hint();
    let exit = match error.is_connection() {
        true => Exit::TinytaskUnreachable,
        false => Exit::Failed,
    };
    Failure::new(exit, error).hint(hint)
}

/// One task a line, numbers aligned, as wide as a screen.
pub fn table(tasks: &[Task]) -> String {
    if tasks.is_empty() {
        return "no tasks\n".to_owned();
    }
    let rows: Vec<[String; 5]> = tasks
        .iter()
        .map(|task| {
            let status = match task.is_archived {
                true => "archived".to_owned(),
                false if task.is_blocked => "blocked".to_owned(),
                false => task.status.to_string(),
            };
            [
                format!("#{}", task.id),
                cut(task.assigned_to.as_deref().unwrap_or("–"), 20),
                status,
                task.priority.to_string(),
                line(&task.title),
            ]
        })
        .collect();
    let head = ["TASK", "QUEUE", "STATUS", "PRIO", "TITLE"].map(str::to_owned);
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(head[column].len())
    };
    let [id, queue, status, priority] = [0, 1, 2, 3].map(width);
    let rest = WIDTH
        .saturating_sub(id + queue + status + priority + 8)
        .max(10);
    let mut text = String::new();
    for [a, b, c, d, title] in std::iter::once(&head).chain(&rows) {
        let title = cut(title, rest);
        let _ = writeln!(
            text,
            "{a:>id$}  {b:<queue$}  {c:<status$}  {d:>priority$}  {title}"
        );
    }
    text
}

/// One task with everything that was said on it.
pub fn page(page: &Page) -> String {
    let task = &page.task;
    let mut text = format!("#{} {}\n", task.id, line(&task.title));
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<9} {value}");
    };
    let mut status = task.status.to_string();
    if task.is_archived {
        status.push_str(", archived");
    }
    if let Some(by) = task.blocked_by {
        let verb = if task.is_blocked {
            "blocked by"
        } else {
            "no longer blocked by"
        };
        let _ = write!(status, ", {verb} #{by}");
    }
    row("status", status);
    let mut queue = line(task.assigned_to.as_deref().unwrap_or("–"));
    if let Some(before) = &task.previous_assigned_to {
        let _ = write!(queue, ", before that {}", line(before));
    }
    row("queue", queue);
    if let Some(label) = &task.queue_name {
        row("label", line(label));
    }
    row("priority", task.priority.to_string());
    if !page.tags.is_empty() {
        row("tags", line(&page.tags.join(", ")));
    }
    if let Some(parent) = task.parent {
        row("parent", format!("#{parent}"));
    }
    let by = task
        .created_by
        .as_deref()
        .map(|by| format!(" by {}", line(by)));
    row("created", when(task.created_at) + &by.unwrap_or_default());
    row("updated", when(task.updated_at));
    if let Some(description) = &page.description {
        let _ = write!(text, "\n{}", block(description, ""));
    }
    for comment in &page.comments {
        let by = line(comment.by.as_deref().unwrap_or("somebody"));
        let at = comment
            .at
            .map(|at| format!(", {}", when(at)))
            .unwrap_or_default();
        let _ = write!(text, "\n{by}{at}\n{}", block(&comment.text, "  "));
    }
    if !page.links.is_empty() {
        text.push_str("\nlinks\n");
    }
    for link in &page.links {
        let said = link
            .description
            .as_deref()
            .map(|said| format!("  {}", line(said)));
        let _ = writeln!(text, "  {}{}", line(&link.url), said.unwrap_or_default());
    }
    text
}

/// tinytask knows whole seconds only.
fn when(at: Timestamp) -> String {
    clock::utc(at).replace(".000Z", "Z")
}

/// tinytask's JSON. What a terminal would act upon stands in strings only, so that an escape keeps its meaning there.
pub fn pretty(value: &serde_json::Value) -> String {
    let mut text = String::new();
    // `{:#}` of a Value is its indented form.
    for c in format!("{value:#}").chars() {
        match c {
            '\n' => text.push(c),
            c if is_unsafe(c) => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('\n');
    text
}

/// Moves a terminal's cursor, changes its colours or turns text around: agents' and strangers' words may hold such.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// `text` as one safe line.
fn line(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\r' | '\t' => ' ',
            c if is_unsafe(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// `text` as safe lines, each after `indent`.
fn block(text: &str, indent: &str) -> String {
    let mut lines = String::new();
    for one in text.lines() {
        let _ = writeln!(lines, "{}", format!("{indent}{}", line(one)).trim_end());
    }
    lines
}

/// `text` as one safe line of at most `most` characters.
fn cut(text: &str, most: usize) -> String {
    let text = line(text);
    match text.char_indices().nth(most) {
        None => text,
        Some(_) => text.chars().take(most - 1).chain(['…']).collect(),
    }
}
