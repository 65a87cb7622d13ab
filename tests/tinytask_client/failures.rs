//! Does it say what is wrong, in time, and come back by itself?

use std::time::Duration;

use calypso_watch::edge::tinytask::{Dialect, Endpoint, Error, NewTask, Tinytask};
use serde_json::json;
use tokio::net::TcpListener;

use crate::fakes::{
    Child, Fake, PATIENT, Reply, SHORT, V1, V2, eventually, http, list, ok, refused, row, tools,
    v1_script,
};

/// The error as a person reads it: message, then causes.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text} | {error}");
        cause = error.source();
    }
    text
}

fn client(url: &str) -> Tinytask {
    Tinytask::new(Endpoint::Http { url: url.into() }, PATIENT)
}

#[tokio::test]
async fn a_server_that_is_down_is_unreachable_and_found_again_when_it_is_up() {
    let mut fake = Fake::start(V2).await;
    fake.says("get_my_queue", [list(&[row(1, "idle")])]);
    fake.down().await;
    let client = fake.client(PATIENT);
    for _ in 0..5 {
        let error = client.queue("coder").await.unwrap_err();
        assert!(error.is_connection());
        assert_eq!(
            told(&error),
            format!(
                "cannot reach tinytask at `http://127.0.0.1:{}/mcp` | connection refused (os error 111)",
                fake.port
            )
        );
        assert!(error.hint().unwrap().contains("builtin = true"));
    }
    fake.up().await;
    eventually("reached again", async || {
        client.queue("coder").await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_server_that_was_restarted_between_two_calls_is_not_noticed() {
    let mut fake = Fake::start(V2).await;
    fake.says("get_my_queue", [list(&[row(1, "idle")])]);
    fake.says("update_task", [ok(row(1, "complete"))]);
    let client = fake.client(PATIENT);
    assert_eq!(client.queue("coder").await.unwrap().len(), 1);
    fake.down().await;
    fake.up().await;
    assert_eq!(client.queue("coder").await.unwrap().len(), 1);
    fake.down().await;
    fake.up().await;
    client.complete(1.try_into().unwrap()).await.unwrap();

    // Down for one call, then up: reads and writes both fail once, the next read is answered.
    fake.down().await;
    assert!(matches!(
        client.queue("coder").await,
        Err(Error::Unreachable { .. })
    ));
    fake.up().await;
    eventually("reached again", async || {
        client.queue("coder").await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_failing_server_is_left_alone_for_longer_and_longer() {
    let fake = Fake::start(V2).await;
    fake.always(Some(http("502 Bad Gateway", "text/plain", "no upstream")));
    let client = fake.client(PATIENT);
    for _ in 0..1000 {
        let error = client.queue("coder").await.unwrap_err();
        assert!(told(&error).ends_with("HTTP 502"), "{}", told(&error));
    }
    // 0, 0.1, 0.2, 0.4 … 5 s apart: 1,000 calls at once make a few attempts, however slow this machine is.
    assert!(fake.asked("initialize").len() < 20);
}

#[tokio::test]
async fn a_hanging_server_times_out_and_works_again_later() {
    for hang in [Reply::Hang, Reply::HangInBody] {
        let fake = Fake::start(V2).await;
        fake.always(Some(hang.clone()));
        let client = fake.client(SHORT);
        let error = client.queue("coder").await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::Timeout {
                    call: "initialize",
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(told(&error).ends_with("did not answer `initialize` within 1s"));

        // Connected, then silent.
        fake.always(None);
        fake.says("get_my_queue", [list(&[])]);
        eventually("connected", async || client.queue("coder").await.is_ok()).await;
        fake.says("get_my_queue", [hang]);
        let error = client.queue("coder").await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error:?}");

        fake.says("get_my_queue", [list(&[])]);
        eventually("answered again", async || {
            client.queue("coder").await.is_ok()
        })
        .await;
    }
}

#[tokio::test]
async fn a_port_that_accepts_and_says_nothing_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let error = Tinytask::new(Endpoint::Http { url }, SHORT)
        .connect()
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn a_connection_is_kept_also_where_an_answer_ends_a_moment_after_its_last_words() {
    let fake = Fake::start(V2).await;
    let empty = r#"{"tasks": []}"#;
    fake.says("get_my_queue", [Reply::Chunked(empty.to_owned())]);
    let client = fake.client(PATIENT);
    client.queue("coder").await.unwrap();
    let before = fake.connections();
    for _ in 0..10 {
        client.queue("coder").await.unwrap();
    }
    assert_eq!(fake.asked("get_my_queue").len(), 11);
    // Where the machine has other things to do, an end may come too late.
    let more = fake.connections() - before;
    assert!(more <= 5, "{more} connections for ten calls");
}

#[tokio::test]
async fn a_400_without_an_id_does_not_hang_for_ever() {
    let fake = Fake::start(V2).await;
    let stale = r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"},"id":null}"#;
    fake.says(
        "get_my_queue",
        [
            list(&[]),
            // A list that comes as anything else is asked for twice in one call, the second time through rmcp.
            http("400 Bad Request", "application/json", stale),
            http("400 Bad Request", "application/json", stale),
            list(&[row(1, "idle")]),
        ],
    );
    let client = fake.client(SHORT);
    client.queue("coder").await.unwrap();
    // Timed out, connected anew, asked again.
    assert_eq!(client.queue("coder").await.unwrap().len(), 1);
    assert_eq!(fake.asked("initialize").len(), 2);

    // And at the first contact.
    fake.always(Some(http("400 Bad Request", "application/json", stale)));
    let error = fake.client(SHORT).connect().await.unwrap_err();
    assert!(
        matches!(error, Error::NotTinytask { .. } | Error::Timeout { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn what_is_no_tinytask_is_refused_with_the_reason() {
    let fake = Fake::start(V2).await;
    let address = format!("http://127.0.0.1:{}/mcp", fake.port);
    for (reply, why) in [
        (
            http("200 OK", "text/html", "<html>hello</html>"),
            "it answers with text/html",
        ),
        (
            http("404 Not Found", "text/html", "<html>Cannot POST</html>"),
            "it answers with a web page: HTTP 404 Not Found",
        ),
        (
            http("404 Not Found", "text/plain", "no such page"),
            "HTTP 404 Not Found: no such page",
        ),
        (
            http("405 Method Not Allowed", "text/plain", ""),
            "HTTP 405 Method Not Allowed:",
        ),
        (
            http("308 Permanent Redirect", "text/plain", "moved"),
            "HTTP 308 Permanent Redirect: moved",
        ),
        (Reply::Rpc(-32601, "Method not found"), "Method not found"),
    ] {
        fake.always(Some(reply));
        let error = fake.client(PATIENT).connect().await.unwrap_err();
        assert_eq!(
            told(&error),
            format!("what answers at `{address}` is not a tinytask that can be used | {why}")
        );
        assert!(error.hint().is_some() && error.is_connection());
    }
    fake.always(None);
    fake.offers(&["list_tasks", "get_task", "search_web"]);
    let error = fake.client(PATIENT).connect().await.unwrap_err();
    assert!(
        told(&error).ends_with("it offers no `get_my_queue`"),
        "{}",
        told(&error)
    );
}

#[tokio::test]
async fn v1_over_http_and_https_are_refused_with_the_way_out() {
    let fake = Fake::start(V1).await;
    fake.always(Some(http(
        "400 Bad Request",
        "application/json; charset=utf-8",
        r#"{"error":"Missing session ID"}"#,
    )));
    let error = fake.client(PATIENT).connect().await.unwrap_err();
    assert_eq!(
        told(&error),
        "v1 of tinytask over HTTP cannot be used: it speaks the old SSE transport"
    );
    let hint = error.hint().unwrap();
    assert!(
        hint.starts_with("start it over stdio: in calypso.toml, [tinytask] command = [\"node\""),
        "{hint}"
    );
    assert!(hint.ends_with("or move to tinytask v2"), "{hint}");

    let error = client("https://somebody:secret@tinytask.example/mcp")
        .connect()
        .await
        .unwrap_err();
    assert_eq!(
        told(&error),
        "cannot use `https://tinytask.example/mcp`: this build speaks http:// only, not https://"
    );
    for (url, why) in [
        ("ftp://x/mcp", "ftp:// is not http://"),
        ("localhost:3000", "localhost:// is not http://"),
        (
            "nonsense",
            "that is no address: relative URL without a base",
        ),
    ] {
        let error = client(url).connect().await.unwrap_err();
        assert!(told(&error).ends_with(why), "{}", told(&error));
    }
}

#[tokio::test]
async fn a_read_that_breaks_is_asked_once_more_a_write_never() {
    let fake = Fake::start(V2).await;
    fake.says("get_my_queue", [Reply::Cut, list(&[row(1, "idle")])]);
    fake.says("get_task", [ok(row(1, "working"))]);
    fake.says("update_task", [Reply::Cut]);
    fake.says("create_task", [Reply::Cut]);
    let client = fake.client(PATIENT);
    assert_eq!(client.queue("coder").await.unwrap().len(), 1);
    assert_eq!(fake.asked("get_my_queue").len(), 2);

    let error = client.put_back(1.try_into().unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert_eq!(fake.asked("update_task").len(), 1);

    // The reconnect is due at once: the read in between worked.
    fake.says("get_my_queue", [list(&[])]);
    eventually("reads work", async || client.queue("coder").await.is_ok()).await;
    let error = client.create(&NewTask::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert_eq!(fake.asked("create_task").len(), 1);

    fake.says("get_my_queue", [Reply::Cut]);
    eventually("reads work", async || client.connect().await.is_ok()).await;
    let before = fake.asked("get_my_queue").len();
    let error = client.queue("coder").await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(fake.asked("get_my_queue").len() <= before + 2);
}

#[tokio::test]
async fn a_locked_database_is_tried_again_a_few_times() {
    let locked = || refused("Error updating task: Execute failed: database is locked");
    let fake = Fake::start(V2).await;
    fake.says("update_task", [locked(), locked(), ok(row(1, "complete"))]);
    let client = fake.client(PATIENT);
    client.complete(1.try_into().unwrap()).await.unwrap();
    assert_eq!(fake.asked("update_task").len(), 3);
    fake.says("update_task", [locked()]);
    let error = client.complete(1.try_into().unwrap()).await.unwrap_err();
    assert!(
        matches!(error, Error::Locked) && !error.is_connection(),
        "{error:?}"
    );
    assert_eq!(fake.asked("update_task").len(), 3 + 6);
}

#[tokio::test]
async fn a_server_replaced_by_another_generation_never_gets_the_other_s_parameters() {
    let fake = Fake::start(V2).await;
    fake.says("list_tasks", [list(&[])]);
    let client = fake.client(PATIENT);
    client.open_tasks().await.unwrap();
    // v1 takes its place: the open connection shows nothing of it until a tool is missing.
    fake.offers(&tools(V1).iter().map(String::as_str).collect::<Vec<_>>());
    fake.says("get_task", [ok(row(1, "idle"))]);
    let error = client.detail(1.try_into().unwrap()).await.unwrap_err();
    assert!(told(&error).contains("replaced"), "{}", told(&error));
    assert_eq!(client.connect().await.unwrap(), Dialect::V1);
    client.open_tasks().await.unwrap();
    assert_eq!(
        fake.asked("list_tasks")[1..],
        [json!({ "status": "idle" }), json!({ "status": "working" })]
    );
}

#[tokio::test]
async fn answers_of_25_000_tasks_and_more_than_16_mib_are_read() {
    let fake = Fake::start(V2).await;
    let long = "x".repeat(400);
    let rows: Vec<_> = (1..=25_000)
        .map(|id| crate::fakes::with(row(id, "idle"), "description", long.as_str()))
        .collect();
    let Reply::Tool(text, _) = list(&rows) else {
        unreachable!("a list is a tool's answer")
    };
    assert!(text.len() > 16 << 20);
    fake.says("list_tasks", [Reply::Tool(text, false)]);
    let tasks = fake.client(PATIENT).open_tasks().await.unwrap();
    assert_eq!(tasks.len(), 25_000);
    assert_eq!(tasks[24_999].id.number(), 25_000);

    let mut script = v1_script(&[]);
    script["row"] = crate::fakes::with(row(1, "idle"), "description", long);
    script["answers"]["get_my_queue"] = json!([25_000]);
    let child = Child::new(&script);
    let client = child.client();
    assert_eq!(client.queue("coder").await.unwrap().len(), 25_000);
    client.close().await;
}

#[tokio::test]
async fn parallel_calls_share_one_connection_and_one_attempt_to_connect() {
    let fake = Fake::start(V2).await;
    fake.says("get_my_queue", [list(&[row(1, "idle")])]);
    let client = fake.client(PATIENT);
    let (a, b, c) = tokio::join!(client.queue("a"), client.queue("b"), client.queue("c"));
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!(fake.asked("initialize").len(), 1);
    // They break together, and come back together.
    fake.says(
        "get_my_queue",
        [Reply::Cut, Reply::Cut, Reply::Cut, list(&[])],
    );
    let (a, b, c) = tokio::join!(client.queue("a"), client.queue("b"), client.queue("c"));
    assert!(a.is_ok() && b.is_ok() && c.is_ok(), "{a:?} {b:?} {c:?}");
    assert_eq!(fake.asked("initialize").len(), 2);
}

#[test]
fn a_proxy_for_the_world_outside_is_not_asked_for_this_machine() {
    // The environment belongs to the whole process, so another one of these is started with it.
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "recorded::both_ways_to_write_a_time_mean_the_same",
        ])
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("http_proxy", "http://127.0.0.1:1")
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn a_child_is_told_to_speak_stdio_unless_its_environment_says_otherwise() {
    let mut child = Child::new(&v1_script(&[]));
    let client = child.client();
    assert_eq!(client.connect().await.unwrap(), Dialect::V1);
    assert_eq!(child.file("mode"), "stdio error");
    client.close().await;
    child.env = vec![
        ("TINYTASK_MODE".into(), "both".into()),
        ("TINYTASK_LOG_LEVEL".into(), "warn".into()),
    ];
    let client = child.client();
    client.connect().await.unwrap();
    assert_eq!(child.file("mode"), "both warn");
    client.close().await;
}

#[tokio::test]
async fn a_child_that_logs_to_its_output_is_understood_all_the_same() {
    let mut script = v1_script(&[("get_my_queue", &[list(&[row(1, "idle")])])]);
    script["first"] = json!([
        "[INFO] starting",
        "",
        "{\"level\":\"info\",\"msg\":\"json log\"}",
        "{\"half\":"
    ]);
    script["noise"] = json!(["[DEBUG] get_my_queue", "12", "\u{1b}[31mred"]);
    let child = Child::new(&script);
    let client = child.client();
    for _ in 0..3 {
        assert_eq!(client.queue("coder").await.unwrap().len(), 1);
    }
    assert_eq!(child.pids().len(), 1);
    client.close().await;
}

#[tokio::test]
async fn a_child_that_dies_at_once_is_told_with_its_last_words() {
    let mut script = v1_script(&[]);
    script["dies"] = json!("Error: \u{1b}[31mCannot find module 'better-sqlite3'");
    let error = Child::new(&script).client().connect().await.unwrap_err();
    assert_eq!(
        told(&error),
        "cannot use tinytask's command `python3` | it ended with exit code 1: Error: [31mCannot find module 'better-sqlite3'"
    );
    assert!(error.hint().unwrap().contains("run it by hand"));

    let missing = Endpoint::Stdio {
        command: vec!["no-such-tinytask".into()],
        env: vec![],
        cwd: None,
    };
    let error = Tinytask::new(missing, PATIENT).connect().await.unwrap_err();
    assert_eq!(
        told(&error),
        "cannot use tinytask's command `no-such-tinytask` | no such file or directory (os error 2)"
    );
    let empty = Endpoint::Stdio {
        command: vec![],
        env: vec![],
        cwd: None,
    };
    assert!(matches!(
        Tinytask::new(empty, PATIENT).connect().await,
        Err(Error::Command { .. })
    ));
}

#[tokio::test]
async fn a_child_that_says_nothing_times_out_and_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    let command = format!("echo $$ > {}; exec sleep 600", pid_file.display());
    let endpoint = Endpoint::Stdio {
        command: vec!["sh".into(), "-c".into(), command],
        env: vec![],
        cwd: None,
    };
    let error = Tinytask::new(endpoint, SHORT).connect().await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Timeout {
                call: "initialize",
                ..
            }
        ),
        "{error:?}"
    );
    let pid: i32 = std::fs::read_to_string(pid_file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    eventually("the silent child is gone", async || !lives(pid)).await;
}

#[tokio::test]
async fn a_child_that_dies_in_a_call_is_started_again() {
    let mut script = v1_script(&[]);
    let (text, _) = match list(&[row(1, "idle")]) {
        Reply::Tool(text, is_error) => (text, is_error),
        other => panic!("{other:?}"),
    };
    script["answers"]["get_my_queue"] = json!(["die", [text, false]]);
    let child = Child::new(&script);
    let client = child.client();
    assert_eq!(client.queue("coder").await.unwrap().len(), 1);
    assert_eq!(child.pids().len(), 2);
    // Killed between two calls: seen before the next, so that even a write is safe.
    let last = child.pids()[1];
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(last),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    eventually("answered by a third", async || {
        client.queue("coder").await.is_ok() && child.pids().len() == 3
    })
    .await;
    client.close().await;
}

#[tokio::test]
async fn a_write_in_which_the_child_dies_is_not_repeated() {
    let mut script = v1_script(&[]);
    script["answers"]["create_task"] = json!(["die"]);
    let child = Child::new(&script);
    let client = child.client();
    let error = client.create(&NewTask::default()).await.unwrap_err();
    assert_eq!(
        told(&error),
        "cannot use tinytask's command `python3` | it ended with exit code 137: out of memory"
    );
    assert_eq!(child.asked("create_task").len(), 1);
    client.close().await;
}

fn lives(pid: i32) -> bool {
    // A zombie is dead to everybody but its parent.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn no_child_outlives_its_client() {
    for stays in [false, true] {
        let mut script = v1_script(&[]);
        // This one ignores the end of its input, as `TINYTASK_MODE=both` does.
        script["stays"] = stays.into();
        let child = Child::new(&script);
        let client = child.client();
        client.connect().await.unwrap();
        let pid = child.pids()[0];
        assert!(lives(pid));
        client.close().await;
        assert!(!lives(pid));

        let client = child.client();
        client.connect().await.unwrap();
        let pid = child.pids()[1];
        drop(client);
        eventually("the dropped client's child is gone", async || !lives(pid)).await;
    }
    // With the runtime gone too.
    let child = Child::new(&v1_script(&[]));
    let endpoint = child.endpoint();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let client = Tinytask::new(endpoint, PATIENT);
        runtime.block_on(client.connect()).unwrap();
        drop(runtime);
        drop(client);
    })
    .join()
    .unwrap();
    let pid = child.pids()[0];
    eventually("the child is gone with its runtime", async || !lives(pid)).await;
}

/// How often this thread has gone to sleep: each timer that ticks adds one.
fn sleeps() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn between_calls_nothing_ticks() {
    let fake = Fake::start(V2).await;
    fake.says("get_my_queue", [list(&[])]);
    let child = Child::new(&v1_script(&[("get_my_queue", &[list(&[])])]));
    let (over_http, over_stdio) = (fake.client(PATIENT), child.client());
    over_http.queue("coder").await.unwrap();
    over_stdio.queue("coder").await.unwrap();
    // What ends a call may still be on its way.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = sleeps();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let woken = sleeps() - before;
    assert!(woken <= 4, "woken {woken} times in 3 s");
    over_stdio.close().await;
}
