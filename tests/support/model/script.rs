//! What each agent of the starter recipes does, call by call.
//!
//! A script reads as a straight line, although the model is asked again after every call: [`Replay`] answers the calls
//! that the conversation holds already from their recorded results, and the first one that it does not hold is what the
//! model says next.

use serde_json::{Value, json};

use super::{Call, Conversation, Say};

/// The next thing to say in this conversation.
pub(super) fn script(conversation: &Conversation) -> Say {
    play(&mut Replay::new(conversation))
}

/// The same, after this command.
pub(super) fn script_after(conversation: &Conversation, command: &str) -> Say {
    let mut replay = Replay::new(conversation);
    match replay.shell(command) {
        Ok(_) => play(&mut replay),
        Err(say) => say,
    }
}

fn play(replay: &mut Replay<'_>) -> Say {
    let done = if replay.conversation.agent == "dispatcher" {
        dispatch(replay)
    } else {
        work(replay)
    };
    done.unwrap_or_else(|say| say)
}

/// Claims the task, then does `rest`.
pub(super) fn after_claim(
    conversation: &Conversation,
    rest: impl FnOnce(&mut Replay<'_>) -> Say,
) -> Say {
    let mut replay = Replay::new(conversation);
    match claim(&mut replay) {
        Ok(Some(_)) => rest(&mut replay),
        Ok(None) => nothing_to_do(),
        Err(say) => say,
    }
}

/// The conversation so far, played again from its beginning.
pub(super) struct Replay<'a> {
    conversation: &'a Conversation,
    calls: std::slice::Iter<'a, Call>,
}

impl<'a> Replay<'a> {
    fn new(conversation: &'a Conversation) -> Self {
        Self {
            conversation,
            calls: conversation.calls.iter(),
        }
    }

    /// The result of this call, if it was made; else `Err` is the call to make.
    fn call(&mut self, tool: &'static str, args: Value) -> Result<&'a str, Say> {
        match self.calls.next() {
            Some(made) if made.tool == tool => Ok(&made.result),
            Some(made) => Err(Say::Text(format!(
                "Lost the thread: expected the result of {tool}, found that of {}.",
                made.tool
            ))),
            None => Err(Say::Call { tool, args }),
        }
    }

    /// The output of a shell command that runs in the base path and stops at its first failure.
    pub(super) fn shell(&mut self, command: &str) -> Result<&'a str, Say> {
        let base = quoted(&self.conversation.base);
        self.call(
            "shell",
            json!({"command": format!("set -eu\ncd -- {base}\n{command}")}),
        )
    }
}

fn nothing_to_do() -> Say {
    Say::text("There is nothing for me to do.")
}

/// For a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The first JSON object in a tool's answer, which may stand behind a line of prose.
fn object_in(text: &str) -> Option<Value> {
    let from = text.find('{')?;
    serde_json::Deserializer::from_str(&text[from..])
        .into_iter()
        .next()?
        .ok()
}

/// Takes the task that the session is about, or the next of the queue; `None` when there is none to take.
fn claim(replay: &mut Replay<'_>) -> Result<Option<i64>, Say> {
    let agent = &replay.conversation.agent;
    let Some(id) = replay.conversation.task else {
        let answer = replay.call("tinytask__signup_for_task", json!({"agent_name": agent}))?;
        return Ok(object_in(answer).and_then(|task| task["id"].as_i64()));
    };
    let task = object_in(replay.call("tinytask__get_task", json!({"id": id}))?);
    if task.is_none_or(|t| t["status"] != "idle" || t["assigned_to"] != agent.as_str()) {
        return Ok(None);
    }
    replay.call(
        "tinytask__update_task",
        json!({"id": id, "status": "working"}),
    )?;
    Ok(Some(id))
}

/// What an agent of this name leaves in the task's folder, and the queue that comes next; `None` closes the task.
fn duty(agent: &str) -> (String, Option<&'static str>) {
    let (files, next) = match agent {
        "architect" => (
            r#"printf '# Technical specification\n\n' > technical.md
echo 'One parser, one writer, tests for both.' >> technical.md"#,
            Some("product"),
        ),
        "product" => (
            r#"test -s technical.md
for n in 1 2; do printf '# Story %s\n\nStatus: open\n' "$n" > "story-$n.md"; done
{ echo '# Index'; for file in *.md; do echo "- $file"; done; } > index.md"#,
            Some("devops"),
        ),
        "devops" => (
            r#"test -s index.md
mkdir -p repo
{ echo '# Issues'; for story in story-*.md; do echo "- $story: local"; done; } > issues.md"#,
            Some("coder"),
        ),
        "coder" => (
            r#"test -s issues.md
for story in story-*.md; do
  echo "built as $story says" >> repo/README.md
  sed -i 's/^Status: open$/Status: done/' "$story"
done"#,
            None,
        ),
        other => {
            return (
                format!("echo 'written by {other}' >> {}", quoted(other)),
                None,
            );
        }
    };
    (files.to_owned(), next)
}

/// Any agent but the dispatcher: claim, look, write, hand over.
fn work(replay: &mut Replay<'_>) -> Result<Say, Say> {
    let Some(id) = claim(replay)? else {
        return Ok(nothing_to_do());
    };
    let agent = &replay.conversation.agent;
    let (files, next) = duty(agent);
    replay.shell(&format!("cd workqueue/task_{id} && ls -A && cat -- *"))?;
    let wrote = replay.shell(&format!(
        "cd workqueue/task_{id}\n{files}\necho all written"
    ))?;
    if !wrote.contains("all written") {
        replay.call(
            "tinytask__add_comment",
            json!({"task_id": id, "content": format!("I could not write: {wrote}"), "created_by": agent}),
        )?;
        replay.call("tinytask__update_task", json!({"id": id, "status": "idle"}))?;
        return Ok(Say::text("It did not work; the task is idle again."));
    }
    if let Some(next) = next {
        replay.call(
            "tinytask__move_task",
            json!({"task_id": id, "current_agent": agent, "new_agent": next,
                   "comment": format!("{agent}: written and checked, see the folder.")}),
        )?;
        Ok(Say::Text(format!("Task {id} is with {next} now.")))
    } else {
        replay.call(
            "tinytask__add_comment",
            json!({"task_id": id, "content": format!("{agent}: all is built and tested."), "created_by": agent}),
        )?;
        replay.call(
            "tinytask__update_task",
            json!({"id": id, "status": "complete"}),
        )?;
        Ok(Say::Text(format!("Task {id} is complete.")))
    }
}

/// A request that is still being written, or is none.
fn is_left_alone(name: &str) -> bool {
    let bare = name.trim_matches('\'');
    bare.starts_with('.')
        || [".tmp", ".part", ".swp", "~"]
            .iter()
            .any(|end| bare.ends_with(end))
}

/// The line of a task's description that names its request, which is quoted for the shell.
fn request_of(task: &Value) -> Option<&str> {
    task["description"]
        .as_str()?
        .lines()
        .find_map(|line| line.strip_prefix("Request: "))
}

fn dispatch(replay: &mut Replay<'_>) -> Result<Say, Say> {
    if let Some(id) = replay.conversation.task {
        let task = object_in(replay.call("tinytask__get_task", json!({"id": id}))?);
        let Some(task) =
            task.filter(|t| t["assigned_to"] == "dispatcher" && t["status"] != "complete")
        else {
            return Ok(nothing_to_do());
        };
        if let Some(name) = request_of(&task) {
            take(replay, id, name)?;
        }
        hand_over(replay, id)?;
        return Ok(Say::Text(format!("Task {id} is handed over.")));
    }
    // Shell quoting keeps any name on one line, and as one word of the commands below.
    let listed = replay.shell("ls -1A --quoting-style=shell-escape-always -- inbound")?;
    let requests: Vec<&str> = listed
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with(['\'', '"', '$']) && !is_left_alone(line))
        .collect();
    for name in &requests {
        let read = replay.shell(&format!(
            "if [ -d inbound/{name} ]; then head -n 1 -q -- inbound/{name}/*; else head -n 1 -- inbound/{name}; fi"
        ))?;
        let mine = replay.call(
            "tinytask__get_my_queue",
            json!({"agent_name": "dispatcher"}),
        )?;
        let begun = object_in(mine).and_then(|queue| {
            let tasks = queue["tasks"].as_array()?;
            let task = tasks.iter().find(|task| request_of(task) == Some(*name))?;
            task["id"].as_i64()
        });
        let id = match begun {
            Some(id) => id,
            None => {
                let title = read.lines().next().unwrap_or_default();
                let title = title.trim_start_matches('#').trim();
                let title = if title.is_empty() { *name } else { title };
                let answer = replay.call(
                    "tinytask__create_task",
                    json!({"title": title, "description": format!("Request: {name}\n{title}"),
                           "assigned_to": "dispatcher", "created_by": "dispatcher"}),
                )?;
                let Some(id) = object_in(answer).and_then(|task| task["id"].as_i64()) else {
                    return Ok(Say::Text(format!("I could not create a task: {answer}")));
                };
                id
            }
        };
        take(replay, id, name)?;
        hand_over(replay, id)?;
    }
    Ok(Say::Text(format!(
        "{} handed over.",
        match requests.len() {
            1 => "1 request".to_owned(),
            n => format!("{n} requests"),
        }
    )))
}

/// Moves the request into the task's folder, unless it is there already.
fn take(replay: &mut Replay<'_>, id: i64, name: &str) -> Result<(), Say> {
    replay.shell(&format!(
        "mkdir -p workqueue/task_{id}\nif [ -e inbound/{name} ]; then mv -n -- inbound/{name} workqueue/task_{id}/; fi\nls -A workqueue/task_{id}"
    ))?;
    Ok(())
}

fn hand_over(replay: &mut Replay<'_>, id: i64) -> Result<(), Say> {
    replay.call(
        "tinytask__move_task",
        json!({"task_id": id, "current_agent": "dispatcher", "new_agent": "architect",
               "comment": "dispatcher: a new feature, the request is in the folder."}),
    )?;
    Ok(())
}
