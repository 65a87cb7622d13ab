//! The recorded conversations with the real server, held again. Times are normalised; everything else is compared, texts to the
//! letter. Where the built-in answers otherwise on purpose, docs/tinytask.md says so, and a test of its own shows it.

use std::process::Command;

use serde_json::{Value, json};

use super::client::{Client, MCP_HEADERS, exchange};
use super::server::{Server, elsewhere, folder, serve};

fn cases(text: &str) -> Vec<Value> {
    serde_json::from_str(text).expect("recorded cases are a JSON array")
}

/// `2026-11-22T18:38:55Z` → `TIME`, wherever it stands in a text.
fn timeless(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('T') {
        let shape = |text: &str, like: &str| {
            text.len() == like.len()
                && text.bytes().zip(like.bytes()).all(|(is, like)| {
                    if like == b'0' {
                        is.is_ascii_digit()
                    } else {
                        is == like
                    }
                })
        };
        let date = at.checked_sub(10).and_then(|from| rest.get(from..at));
        let time = rest.get(at..at + 10);
        if date.is_some_and(|it| shape(it, "0000-00-00"))
            && time.is_some_and(|it| shape(it, "T00:00:00Z"))
        {
            out += &rest[..at - 10];
            out += "TIME";
            rest = &rest[at + 10..];
        } else {
            out += &rest[..=at];
            rest = &rest[at + 1..];
        }
    }
    out + rest
}

/// The text a recorded case stands for.
fn recorded_text(case: &Value) -> String {
    let prose = case["prose"].as_str().unwrap_or_default();
    let json = match case["layout"].as_str() {
        Some("pretty") => serde_json::to_string_pretty(&case["json"]).expect("JSON"),
        Some("compact") => case["json"].to_string(),
        _ => return prose.to_owned(),
    };
    if prose.is_empty() {
        json
    } else {
        format!("{prose}\n\n{json}")
    }
}

/// What of a list of issues a client could depend on: their codes, where they are, and which keys.
fn issues(list: &Value) -> Vec<Value> {
    let list = list.as_array().expect("issues are an array");
    list.iter()
        .map(|issue| {
            json!([
                issue["code"],
                issue["path"],
                issue["keys"],
                issue["expected"],
                issue["received"]
            ])
        })
        .collect()
}

fn hold(client: &mut Client, cases: &[Value]) {
    for case in cases {
        let name = &case["case"];
        if let Some(tool) = case["tool"].as_str() {
            let (text, is_error) = client
                .try_tool(tool, case.get("arguments"))
                .unwrap_or_else(|| panic!("{name}: no answer"));
            assert_eq!(is_error, case["error"] == true, "{name}: {text}");
            if let Some(recorded) = case.get("issues") {
                let (prose, list) = text.split_once(": ").expect("prose, then issues");
                let list = serde_json::from_str(list).unwrap_or_else(|_| panic!("{name}: {text}"));
                assert_eq!(prose, case["prose"], "{name}");
                assert_eq!(issues(&list), issues(recorded), "{name}");
            } else {
                assert_eq!(timeless(&text), recorded_text(case), "{name}");
            }
        } else {
            let method = case["method"].as_str().expect("a tool or a method");
            let answer = client.ask(method, case.get("params")).expect("an answer");
            if let Some(code) = case.get("code") {
                assert_eq!(&answer["error"]["code"], code, "{name}: {answer}");
            } else {
                let mut result = answer["result"].clone();
                if let Some(result) = result.as_object_mut() {
                    result.shift_remove("serverInfo");
                }
                let result: Value =
                    serde_json::from_str(&timeless(&result.to_string())).expect("JSON");
                assert_eq!(result, case["result"], "{name}");
            }
        }
    }
}

/// Task 1 of the HTTP conversation, with a body longer than most: 95 KB pass everywhere.
fn first_task(client: &mut Client) {
    let big = "x".repeat(95_000);
    client.json(
        "create_task",
        json!({"title": "big", "description": big, "created_by": "probe"}),
    );
}

fn check_tools(client: &mut Client) {
    let answer = client.ask("tools/list", None).expect("an answer");
    let listed = answer["result"]["tools"].as_array().expect("tools").clone();
    let recorded = cases(include_str!("../data/tinytask/tools.json"));
    let names = |tools: &[Value]| {
        tools
            .iter()
            .map(|tool| tool["name"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&listed), names(&recorded));
    for (mut listed, recorded) in listed.into_iter().zip(recorded) {
        if let Some(properties) = listed["inputSchema"]["properties"].as_object_mut() {
            for property in properties.values_mut() {
                property
                    .as_object_mut()
                    .expect("a schema")
                    .remove("description");
            }
        }
        assert_eq!(
            listed["inputSchema"], recorded["inputSchema"],
            "{}",
            recorded["name"]
        );
    }
}

#[test]
fn the_conversation_over_http_is_as_recorded() {
    let (_dir, db) = folder();
    let mut server = None;
    let mut client = match std::env::var("TINYTASK_UNDER_TEST") {
        Ok(url) if url.starts_with("http://") => Client::http(&url),
        Ok(_) => return,
        Err(_) => server.insert(Server::on(&db)).client(),
    };
    check_tools(&mut client);
    first_task(&mut client);
    hold(
        &mut client,
        &cases(include_str!("../data/tinytask/http.json")),
    );
}

#[test]
fn the_conversation_over_stdio_is_as_recorded() {
    let (_dir, db) = folder();
    let mut client = match std::env::var("TINYTASK_UNDER_TEST") {
        Ok(url) if url.starts_with("http://") => return,
        Ok(command) => Client::stdio(Command::new("sh").args(["-c", &command])),
        Err(_) => Client::stdio(&mut serve(&[
            "--stdio",
            "--db",
            db.to_str().expect("UTF-8"),
        ])),
    };
    check_tools(&mut client);
    hold(
        &mut client,
        &cases(include_str!("../data/tinytask/stdio.json")),
    );
    assert_eq!(client.end(), Some(0));
}

#[test]
fn both_conversations_are_the_same_on_the_other_transport() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    hold(
        &mut Server::on(&db).client(),
        &cases(include_str!("../data/tinytask/stdio.json")),
    );
    let (_dir, db) = folder();
    let mut client = Client::stdio(&mut serve(&[
        "--stdio",
        "--db",
        db.to_str().expect("UTF-8"),
    ]));
    first_task(&mut client);
    hold(
        &mut client,
        &cases(include_str!("../data/tinytask/http.json")),
    );
}

#[test]
fn plain_http_calls_are_as_recorded() {
    let (_dir, db) = folder();
    if elsewhere() {
        return;
    }
    let server = Server::on(&db);
    for case in cases(include_str!("../data/tinytask/rest.json")) {
        let body = case.get("body").map(Value::to_string).unwrap_or_default();
        let (method, path) = (text(&case, "method"), text(&case, "path"));
        let reply = server.exchange(method, path, &[("Content-Type", "application/json")], &body);
        let told: Value = serde_json::from_str(&timeless(&reply.body)).expect("JSON");
        assert_eq!(
            (json!(reply.status), &told),
            (case["status"].clone(), &case["reply"]),
            "{case}"
        );
    }
    let reply = server.exchange("GET", "/api/v1/tasks", &[], "");
    let tag = reply
        .head
        .lines()
        .find_map(|line| line.strip_prefix("etag: "));
    // The test's client reads headers in lower case.
    let known = tag.expect("what is read has a tag").replace("w/", "W/");
    let again = server.exchange("GET", "/api/v1/tasks", &[("If-None-Match", &known)], "");
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    let patch = json!({"title": "another"}).to_string();
    server.exchange("PATCH", "/api/v1/tasks/1", &[], &patch);
    let changed = server.exchange("GET", "/api/v1/tasks", &[("If-None-Match", &known)], "");
    assert_eq!(changed.status, 200);
}

fn text<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().expect("recorded as a text")
}

#[test]
fn the_transport_is_as_recorded() {
    let (_dir, db) = folder();
    let mut server = None;
    let address = match std::env::var("TINYTASK_UNDER_TEST") {
        Ok(url) if url.starts_with("http://") => {
            let rest = &url["http://".len()..];
            rest.split('/').next().expect("split gives one").to_owned()
        }
        Ok(_) => return,
        Err(_) => server.insert(Server::on(&db)).address.clone(),
    };
    for case in cases(include_str!("../data/tinytask/transport.json")) {
        let name = text(&case, "case");
        let headers: Vec<(&str, &str)> = case["headers"]
            .as_object()
            .expect("recorded headers")
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str().expect("a text")))
            .collect();
        let body = match case.get("body") {
            None => String::new(),
            Some(Value::String(raw)) => raw.clone(),
            Some(value) => value.to_string(),
        };
        let reply = exchange(
            &address,
            text(&case, "method"),
            text(&case, "path"),
            &headers,
            &body,
        )
        .unwrap_or_else(|| panic!("{name}: no answer"));
        assert_eq!(
            json!(reply.status),
            case["status"],
            "{name}: {}",
            reply.body
        );
        let Some(recorded) = case["events"].as_array() else {
            let code = |value: &Value| value["error"]["code"].clone();
            let told = reply.json();
            assert_eq!(code(&told), code(&case["reply"]), "{name}: {}", reply.body);
            assert_eq!(
                told.is_null(),
                case.get("reply").is_none(),
                "{name}: {}",
                reply.body
            );
            continue;
        };
        assert!(
            reply.head.contains("content-type: text/event-stream"),
            "{name}: {}",
            reply.head
        );
        assert!(
            !reply.head.contains("mcp-session-id"),
            "{name}: {}",
            reply.head
        );
        let events = reply.events();
        assert_eq!(events.len(), recorded.len(), "{name}");
        for (mut event, recorded) in events.into_iter().zip(recorded) {
            if let Some(result) = event["result"].as_object_mut() {
                result.shift_remove("serverInfo");
            }
            assert_eq!(event["id"], recorded["id"], "{name}");
            assert_eq!(event["result"], recorded["result"], "{name}");
            assert_eq!(event["error"]["code"], recorded["error"]["code"], "{name}");
        }
    }
}

#[test]
fn only_this_machine_is_answered() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    let server = Server::on(&db);
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let ask = |more: (&str, &str)| {
        let headers = [MCP_HEADERS[0], MCP_HEADERS[1], more];
        server.exchange("POST", "/mcp", &headers, ping).status
    };
    for host in [
        "evil.example",
        "evil.example:3000",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "",
    ] {
        assert_eq!(ask(("Host", host)), 403, "{host:?}");
    }
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1:3000",
        "[::1]:3000",
        "127.8.8.8",
    ] {
        assert_eq!(ask(("Host", host)), 200, "{host:?}");
    }
    for origin in [
        "http://evil.example",
        "https://localhost.evil.example",
        "null",
        "file://",
    ] {
        assert_eq!(ask(("Origin", origin)), 403, "{origin:?}");
    }
    for origin in ["http://localhost:8080", "https://127.0.0.1"] {
        assert_eq!(ask(("Origin", origin)), 200, "{origin:?}");
    }
    for path in ["/health", "/api/v1/tasks"] {
        let reply = server.exchange("GET", path, &[("Host", "evil.example")], "");
        assert_eq!(reply.status, 403, "{path}");
    }
}

#[test]
fn a_large_body_passes_and_a_huge_one_is_refused_clearly() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    let server = Server::on(&db);
    let long = "y".repeat(3_000_000);
    let task = server.client().json(
        "create_task",
        json!({"title": "long", "created_by": "b", "description": long}),
    );
    assert_eq!(task["description"].as_str().map(str::len), Some(long.len()));
    let huge = json!({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": "z".repeat(5_000_000)}});
    let reply = server.exchange("POST", "/mcp", &MCP_HEADERS, &huge.to_string());
    assert_eq!(reply.status, 413);
    assert_eq!(
        reply.json()["error"]["message"],
        "the request is larger than 4 MB"
    );
}

#[test]
fn the_newest_protocol_needs_no_initialize_either() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    let server = Server::on(&db);
    let ask = |method: &str, params: Value| {
        let mut params = params;
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "probe", "version": "0"},
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let name = params["name"].as_str().unwrap_or_default();
        let headers = [
            MCP_HEADERS[0],
            MCP_HEADERS[1],
            ("MCP-Protocol-Version", "2026-07-28"),
            ("Mcp-Method", method),
            ("Mcp-Name", name),
        ];
        let headers = if name.is_empty() {
            &headers[..4]
        } else {
            &headers[..]
        };
        let reply = server.exchange("POST", "/mcp", headers, &body.to_string());
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.events().pop().expect("one event")
    };
    let found = ask("server/discover", json!({}));
    let versions = found["result"]["supportedVersions"]
        .as_array()
        .expect("versions");
    assert!(versions.contains(&json!("2026-07-28")), "{found}");
    let queues = ask(
        "tools/call",
        json!({"name": "list_queues", "arguments": {}}),
    );
    assert_eq!(queues["result"]["isError"], Value::Null, "{queues}");
    assert!(
        queues["result"]["content"][0]["text"].is_string(),
        "{queues}"
    );
}

#[test]
fn what_is_no_request_is_told_in_the_protocols_own_form() {
    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    let server = Server::on(&db);
    let ask = |body: &str| server.exchange("POST", "/mcp", &MCP_HEADERS, body);
    for body in [
        r#"{"jsonrpc":"2.0","id":{"a":1},"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[1]}"#,
        r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
        "[]",
        "7",
    ] {
        let reply = ask(body);
        assert_eq!(
            (reply.status, &reply.json()["error"]["code"]),
            (400, &json!(-32700)),
            "{body}"
        );
    }
    for params in ["", r#","params":{"name":"list_queues","arguments":"x"}"#] {
        let reply = ask(&format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call"{params}}}"#
        ));
        assert_eq!(reply.events()[0]["error"]["code"], -32602, "{params}");
    }
}

/// What goose and the watcher use: rmcp's own client, in each of its ways to begin.
#[test]
fn rmcp_clients_are_served() {
    use rmcp::ServiceExt as _;
    use rmcp::model::{CallToolRequestParams, ProtocolVersion};
    use rmcp::service::{ClientLifecycleMode, ClientServiceExt as _};
    use rmcp::transport::{StreamableHttpClientTransport, TokioChildProcess};

    if elsewhere() {
        return;
    }
    let (_dir, db) = folder();
    let server = Server::on(&db);
    let url = format!("http://{}/mcp", server.address);
    let http = || StreamableHttpClientTransport::from_uri(url.as_str());
    let child = || {
        let command = serve(&["--stdio", "--db", db.to_str().expect("UTF-8")]);
        TokioChildProcess::new(tokio::process::Command::from(command)).expect("it starts")
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let auto = || ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::LATEST],
            legacy_version: None,
        };
        let clients = [
            ().serve(http()).await.expect("plain over HTTP"),
            ().serve_with_lifecycle(http(), auto())
                .await
                .expect("auto over HTTP"),
            ().serve(child()).await.expect("plain over stdio"),
            ().serve_with_lifecycle(child(), auto())
                .await
                .expect("auto over stdio"),
        ];
        for client in clients {
            let tools = client.list_all_tools().await.expect("tools");
            assert_eq!(tools.len(), 30);
            let call = CallToolRequestParams::new("list_queues");
            let answer = client.call_tool(call).await.expect("an answer");
            assert_eq!(answer.is_error, None);
            client.cancel().await.expect("it ends");
        }
    });
}
