//! Is the short way the same way? A plain call of a tool is answered without rmcp; with a word in `_meta` that is nobody's, rmcp
//! answers it.

use serde_json::{Value, json};

use super::client::{MCP_HEADERS, Reply};
use super::server::{Server, elsewhere, folder};

fn call(server: &Server, id: &Value, tool: &str, arguments: &Value, meta: Option<Value>) -> Reply {
    let mut request = json!({
        "jsonrpc": "2.0",
        "id": id,
        "method": "tools/call",
        "params": {"name": tool, "arguments": arguments},
    });
    if let Some(meta) = meta {
        request["params"]["_meta"] = meta;
    }
    server.exchange("POST", "/mcp", &MCP_HEADERS, &request.to_string())
}

#[test]
fn a_call_answered_at_once_says_what_rmcp_says() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    let server = Server::on(&db);
    let odd = "quotes \" and \\ back\\\\slashes\n\ttabs \u{1}\u{7f}\u{2028} ü 日本 😀 /";
    for (title, tags) in [(odd, json!([odd, "b"])), ("plain", json!([]))] {
        let task = json!({"title": title, "description": title, "assigned_to": "ann", "created_by": "x", "tags": tags});
        call(&server, &json!(1), "create_task", &task, None);
    }
    let blocked = json!({"title": "waits", "assigned_to": "ann", "created_by": "x", "blocked_by_task_id": 1, "parent_task_id": 2});
    call(&server, &json!(1), "create_task", &blocked, None);
    for (tool, arguments) in [
        ("get_my_queue", json!({"agent_name": "ann"})),
        ("get_my_queue", json!({"agent_name": odd})),
        ("get_task", json!({"id": 1})),
        ("get_task", json!({"id": 77})),
        ("get_task", json!({"id": "no number"})),
        ("get_subtasks", json!({"parent_task_id": 2})),
        (
            "get_task_with_subtasks",
            json!({"task_id": 2, "recursive": true}),
        ),
        ("list_tasks", json!({})),
        ("list_tasks", json!({"status": "working"})),
        ("no_such_tool", json!({})),
        (odd, json!({odd: odd})),
    ] {
        for id in [json!(7), json!("seven \" \\ \u{1} ü")] {
            let short = call(&server, &id, tool, &arguments, None);
            let progress = call(
                &server,
                &id,
                tool,
                &arguments,
                Some(json!({"progressToken": 1})),
            );
            let long = call(&server, &id, tool, &arguments, Some(json!({"nobody's": 1})));
            assert_eq!(short.body, long.body, "{tool} {arguments}");
            assert_eq!(progress.body, long.body, "{tool} {arguments}");
            assert_eq!(short.status, long.status);
            let [told] = short.events().try_into().expect("one event");
            assert_eq!(told["id"], id);
        }
    }
}
