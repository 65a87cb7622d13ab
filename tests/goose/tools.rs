//! Can the real goose call every tool of the built-in tinytask? Once each, over both transports, by both of goose's model APIs.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::model::Model;
use crate::team::{Team, goose};
use crate::tinytask::Tinytask;

/// One call on an empty database with what was called before: the tool, its arguments, the prose its answer begins with, and
/// what its JSON holds at least.
type Step = (&'static str, Value, &'static str, Value);

fn steps() -> Vec<Step> {
    vec![
        (
            "tinytask__create_task",
            json!({"title": "Parent", "created_by": "caller", "assigned_to": "caller", "queue_name": "dev", "priority": 5}),
            "",
            json!({"id": 1, "status": "idle", "assigned_to": "caller", "queue_name": "dev", "priority": 5, "tags": [],
                   "archived_at": null, "is_currently_blocked": false}),
        ),
        (
            "tinytask__create_subtask",
            json!({"parent_task_id": 1, "title": "Child", "created_by": "caller", "tags": ["x"]}),
            "",
            json!({"id": 2, "parent_task_id": 1, "queue_name": "dev", "tags": ["x"], "assigned_to": null}),
        ),
        (
            "tinytask__get_subtasks",
            json!({"parent_task_id": 1}),
            "",
            json!({"parent_task_id": 1, "recursive": false, "count": 1}),
        ),
        (
            "tinytask__get_task_with_subtasks",
            json!({"task_id": 1, "recursive": true}),
            "",
            json!({"id": 1, "subtask_count": 1}),
        ),
        (
            "tinytask__move_subtask",
            json!({"subtask_id": 2}),
            "Task #2 moved to top-level (no parent)",
            json!({"id": 2, "parent_task_id": null}),
        ),
        (
            "tinytask__list_tasks",
            json!({"queue_name": "dev", "limit": 10}),
            "",
            json!({"count": 2}),
        ),
        (
            "tinytask__get_my_queue",
            json!({"agent_name": "caller"}),
            "",
            json!({"agent": "caller", "count": 1}),
        ),
        (
            "tinytask__signup_for_task",
            json!({"agent_name": "caller"}),
            "Task #1 claimed and set to working status",
            json!({"id": 1, "status": "working", "comments": [], "links": []}),
        ),
        (
            "tinytask__get_task",
            json!({"id": 1}),
            "",
            json!({"id": 1, "status": "working", "comments": [], "links": []}),
        ),
        (
            "tinytask__update_task",
            json!({"id": 2, "assigned_to": "caller", "blocked_by_task_id": 1}),
            "",
            json!({"id": 2, "assigned_to": "caller", "blocked_by_task_id": 1, "is_currently_blocked": true}),
        ),
        (
            "tinytask__add_comment",
            json!({"task_id": 1, "content": "first", "created_by": "caller"}),
            "",
            json!({"id": 1, "task_id": 1, "content": "first", "created_by": "caller"}),
        ),
        (
            "tinytask__update_comment",
            json!({"id": 1, "content": "second"}),
            "",
            json!({"id": 1, "content": "second"}),
        ),
        (
            "tinytask__get_comment",
            json!({"id": 1}),
            "",
            json!({"id": 1, "content": "second", "created_by": "caller"}),
        ),
        (
            "tinytask__list_comments",
            json!({"task_id": 1}),
            "",
            json!({"task_id": 1, "count": 1}),
        ),
        (
            "tinytask__move_comment",
            json!({"comment_id": 1, "to_task_id": 2}),
            "",
            json!({"id": 2, "task_id": 2, "content": "second"}),
        ),
        (
            "tinytask__delete_comment",
            json!({"id": 2}),
            "",
            json!({"success": true, "id": 2}),
        ),
        (
            "tinytask__add_link",
            json!({"task_id": 1, "url": "notes/a b.md", "created_by": "caller"}),
            "",
            json!({"id": 1, "task_id": 1, "url": "notes/a b.md", "description": null}),
        ),
        (
            "tinytask__update_link",
            json!({"id": 1, "description": "the notes"}),
            "",
            json!({"id": 1, "url": "notes/a b.md", "description": "the notes"}),
        ),
        (
            "tinytask__list_links",
            json!({"task_id": 1}),
            "",
            json!({"task_id": 1, "count": 1}),
        ),
        (
            "tinytask__delete_link",
            json!({"id": 1}),
            "",
            json!({"success": true, "id": 1}),
        ),
        (
            "tinytask__list_queues",
            json!({}),
            "",
            json!({"count": 1, "queues": ["dev"]}),
        ),
        (
            "tinytask__get_queue_stats",
            json!({"queue_name": "dev"}),
            "",
            json!({"total_tasks": 2, "by_status": {"idle": 1, "working": 1, "complete": 0}, "agents": ["caller"]}),
        ),
        (
            "tinytask__get_queue_tasks",
            json!({"queue_name": "dev", "exclude_status": ["working"]}),
            "",
            json!({"queue_name": "dev", "count": 1,
                   "filters": {"exclude_status": ["working"], "include_archived": false}}),
        ),
        (
            "tinytask__remove_task_from_queue",
            json!({"task_id": 2}),
            "",
            json!({"id": 2, "queue_name": null}),
        ),
        (
            "tinytask__add_task_to_queue",
            json!({"task_id": 2, "queue_name": "ops"}),
            "",
            json!({"id": 2, "queue_name": "ops"}),
        ),
        (
            "tinytask__move_task_to_queue",
            json!({"task_id": 2, "new_queue_name": "dev"}),
            "",
            json!({"id": 2, "queue_name": "dev"}),
        ),
        (
            "tinytask__clear_queue",
            json!({"queue_name": "dev"}),
            "",
            json!({"queue_name": "dev", "tasks_cleared": 2}),
        ),
        (
            "tinytask__move_task",
            json!({"task_id": 1, "current_agent": "caller", "new_agent": "next", "comment": "yours"}),
            "",
            json!({}),
        ),
        (
            "tinytask__archive_task",
            json!({"id": 1}),
            "",
            json!({"id": 1, "assigned_to": "next", "previous_assigned_to": "caller", "status": "idle"}),
        ),
        (
            "tinytask__delete_task",
            json!({"id": 2}),
            "",
            json!({"success": true, "id": 2}),
        ),
    ]
}

/// The tools and parameters that tinytask v2 advertises, as recorded.
fn advertised() -> BTreeSet<(String, BTreeSet<String>)> {
    let recorded: Vec<Value> = serde_json::from_str(include_str!("../data/tinytask/tools.json"))
        .expect("recorded tools are a JSON array");
    recorded
        .iter()
        .map(|tool| {
            let properties = tool["inputSchema"]["properties"].as_object();
            let names = properties.into_iter().flatten();
            (
                format!("tinytask__{}", tool["name"].as_str().expect("a name")),
                names.map(|(name, _)| name.clone()).collect(),
            )
        })
        .collect()
}

/// Runs an agent that calls each tool once through this extension.
fn call_each(team: &Team, model: &Model, extension: &str) {
    let steps = steps();
    let advertised = advertised();
    let called: BTreeSet<String> = steps.iter().map(|step| step.0.to_owned()).collect();
    let names: BTreeSet<String> = advertised.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(called, names, "each is called");
    assert_eq!(steps.len(), names.len(), "none is called twice");

    let recipe = format!(
        "version: 1.0.0\ntitle: Caller\ndescription: Calls each tool\ninstructions: You are the caller agent.\n\
         prompt: \"Base path: {{{{ base_path }}}}. Call them.\"\nparameters:\n  - key: base_path\n    input_type: string\n    requirement: required\n    \
         description: The base path\nextensions:\n{extension}"
    );
    std::fs::write(team.base.join("recipes/caller.yaml"), recipe).expect("a new file");
    let calls = steps.iter().map(|(tool, args, ..)| (*tool, args.clone()));
    model.recite("caller", calls.collect());
    let ran = team.run("caller", None);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.said().contains("All of them called."), "{ran:#?}");

    let (offered, answered) = model.last_seen("caller");
    let seen: BTreeSet<(String, BTreeSet<String>)> = offered
        .into_iter()
        .filter(|(name, _)| name.starts_with("tinytask__"))
        .map(|(name, parameters)| (name, parameters.into_iter().collect()))
        .collect();
    assert_eq!(seen, advertised, "goose offers just these to its model");
    assert_eq!(answered.len(), steps.len(), "{ran:#?}");
    for ((tool, text), (asked, _, prose, holds)) in answered.iter().zip(&steps) {
        assert_eq!(tool, asked);
        let json = match prose.is_empty() {
            true => text.as_str(),
            false => text
                .strip_prefix(prose)
                .and_then(|rest| rest.strip_prefix("\n\n"))
                .unwrap_or_else(|| panic!("{tool}: {text}")),
        };
        let answer: Value = serde_json::from_str(json).unwrap_or_else(|_| panic!("{tool}: {text}"));
        for (name, value) in holds.as_object().expect("an object") {
            assert_eq!(&answer[name], value, "{tool}: {text}");
        }
        if *asked == "tinytask__move_task" {
            assert_eq!(answer["task"]["assigned_to"], "next", "{text}");
            assert_eq!(answer["comment"]["content"], "yours", "{text}");
        }
        if let Some(list) = ["tasks", "subtasks", "comments", "links", "queues"]
            .iter()
            .find_map(|name| answer[name].as_array())
            && let Some(count) = answer["count"].as_u64()
        {
            assert_eq!(list.len() as u64, count, "{tool}: {text}");
        }
    }
}

#[test]
fn goose_calls_every_tool_over_http() {
    let Some(goose) = goose() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tinytask = Tinytask::serve(folder.path());
    let model = Model::start();
    let team = Team::new(goose, &model, &tinytask.url());
    let extension = format!(
        "  - type: streamable_http\n    name: tinytask\n    uri: {}\n",
        tinytask.url()
    );
    call_each(&team, &model, &extension);
    assert_eq!(tinytask.tasks(), Vec::<Value>::new(), "archived, deleted");
}

#[test]
fn goose_calls_every_tool_over_stdio() {
    let Some(goose) = goose() else { return };
    let model = Model::start();
    let mut team = Team::new(goose, &model, "http://127.0.0.1:9/mcp");
    // The other of its two model APIs.
    team.model = "gpt-4o";
    let extension = format!(
        "  - type: stdio\n    name: tinytask\n    cmd: {}\n    \
         args: [--base-path, \"{{{{ base_path }}}}\", tinytask, serve, --stdio]\n",
        env!("CARGO_BIN_EXE_calypso-watch")
    );
    call_each(&team, &model, &extension);
    assert!(
        team.base.join(".calypso/tinytask/tinytask.db").is_file(),
        "as docs/tinytask.md names it"
    );
}
