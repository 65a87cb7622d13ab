//! `task …`: does a person, or a script, see the right thing?

use calypso_watch::cli::{Server, TaskCommand};
use calypso_watch::commands::task;
use calypso_watch::report::Exit;
use serde_json::json;

use crate::fakes::{Fake, PATIENT, V1, V2, case, list, ok, refused, row, with};

/// What the command prints, and how it ends; a failure's text in place of the output.
async fn run(fake: &Fake, command: TaskCommand) -> (String, Exit) {
    let mut out = Vec::new();
    match task::call(&fake.client(PATIENT), command, &mut out).await {
        Ok(exit) => (String::from_utf8(out).unwrap(), exit),
        Err(failure) => {
            assert!(out.is_empty());
            (failure.text(), failure.exit())
        }
    }
}

fn list_command(queue: Option<&str>, all: bool, json: bool) -> TaskCommand {
    TaskCommand::List {
        queue: queue.map(str::to_owned),
        all,
        json,
        server: Server::default(),
    }
}

fn show(task: &str, json: bool) -> TaskCommand {
    TaskCommand::Show {
        task: task.into(),
        json,
        server: Server::default(),
    }
}

#[tokio::test]
async fn list_is_a_table_no_wider_than_a_screen() {
    let fake = Fake::start(V2).await;
    fake.says(
        "list_tasks",
        [list(&[
            with(row(7, "working"), "title", "Add OAuth login"),
            with(
                with(row(12, "idle"), "title", "a very long title ".repeat(9)),
                "priority",
                1.5,
            ),
            with(
                with(
                    row(130, "idle"),
                    "title",
                    "evil \u{1b}[2J\u{202e}title\nsecond",
                ),
                "is_currently_blocked",
                true,
            ),
            with(
                with(row(131, "complete"), "assigned_to", None::<String>),
                "archived_at",
                "2026-11-22T18:38:55Z",
            ),
        ])],
    );
    let (text, exit) = run(&fake, list_command(None, false, false)).await;
    assert_eq!(exit, Exit::Done);
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    insta::assert_snapshot!(text, @"
    TASK  QUEUE  STATUS    PRIO  TITLE
      #7  coder  working      0  Add OAuth login
     #12  coder  idle       1.5  a very long title a very long title a very long ti…
    #130  coder  blocked      0  evil �[2J�title second
    #131  –      archived     0  task 131
    ");
    fake.says("get_my_queue", [list(&[])]);
    assert_eq!(
        run(&fake, list_command(Some("coder"), false, false)).await,
        ("no tasks\n".into(), Exit::Done)
    );
}

#[tokio::test]
async fn list_json_is_what_tinytask_said() {
    let fake = Fake::start(V2).await;
    fake.says(
        "list_tasks",
        [list(&[with(
            row(1, "idle"),
            "title",
            "\u{9b}31m \u{1b}[2J",
        )])],
    );
    let (text, _) = run(&fake, list_command(Some("coder"), true, true)).await;
    let read: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        read,
        json!({ "count": 1, "tasks": [with(row(1, "idle"), "title", "\u{9b}31m \u{1b}[2J")] })
    );
    assert!(!text.contains(['\u{9b}', '\u{1b}']));
    assert_eq!(
        fake.asked("list_tasks"),
        [json!({ "include_archived": true, "assigned_to": "coder" })]
    );

    let fake = Fake::start(V1).await;
    fake.says(
        "list_tasks",
        [
            list(&[row(1, "idle"), row(2, "idle")]),
            list(&[row(2, "working")]),
        ],
    );
    let (text, _) = run(&fake, list_command(None, false, true)).await;
    let read: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        read,
        json!({ "count": 2, "tasks": [row(1, "idle"), row(2, "working")] })
    );
}

#[tokio::test]
async fn show_tells_all_that_was_said() {
    let fake = Fake::start(V2).await;
    let task = with(
        with(
            row(9, "idle"),
            "comments",
            json!([
                { "id": 1, "task_id": 9, "content": "two\nlines \u{1b}[31m", "created_by": "alice", "created_at": "2026-11-22T18:40:00Z", "updated_at": "2026-11-22T18:40:00Z" },
                { "id": 2, "task_id": 9, "content": "anonymous", "created_by": null, "created_at": "2026-11-22T18:41:00Z", "updated_at": "2026-11-22T18:41:00Z" },
            ]),
        ),
        "links",
        json!([{ "id": 1, "task_id": 9, "url": "workqueue/task_9/index.md", "description": "the plan", "created_by": null, "created_at": "2026-11-22T18:41:00Z" }]),
    );
    let task = with(
        with(
            with(task, "description", "First line.\n\nThird line."),
            "tags",
            json!(["x", "y"]),
        ),
        "blocked_by_task_id",
        4,
    );
    fake.says(
        "get_task",
        [ok(with(
            with(task, "is_currently_blocked", true),
            "previous_assigned_to",
            "architect",
        ))],
    );
    let (text, exit) = run(&fake, show("#9", false)).await;
    assert_eq!(exit, Exit::Done);
    insta::assert_snapshot!(text, @"
    #9 task 9
      status    idle, blocked by #4
      queue     coder, before that architect
      priority  0
      tags      x, y
      created   2026-11-22T18:38:55Z by boss
      updated   2026-11-22T18:38:55Z

    First line.

    Third line.

    alice, 2026-11-22T18:40:00Z
      two
      lines �[31m

    somebody, 2026-11-22T18:41:00Z
      anonymous

    links
      workqueue/task_9/index.md  the plan
    ");
    let (json, _) = run(&fake, show("9", true)).await;
    assert!(json.starts_with("{\n  \"id\": 9,\n"), "{json}");
}

#[tokio::test]
async fn create_and_signup_print_a_bare_number() {
    let fake = Fake::start(V2).await;
    fake.says("create_task", [case(V2, "create full")]);
    fake.says(
        "signup_for_task",
        [case(V2, "signup carol"), case(V2, "signup nothing")],
    );
    let create = TaskCommand::Create {
        title: "B".into(),
        queue: Some("alice".into()),
        description: None,
        priority: None,
        by: "calypso-watch task".into(),
        server: Server::default(),
    };
    assert_eq!(run(&fake, create).await, ("3\n".into(), Exit::Done));
    let signup = || TaskCommand::Signup {
        queue: "carol".into(),
        server: Server::default(),
    };
    let (text, exit) = run(&fake, signup()).await;
    assert!(
        exit == Exit::Done && text.trim().parse::<u32>().is_ok() && text.ends_with('\n'),
        "{text}"
    );
    assert_eq!(run(&fake, signup()).await, (String::new(), Exit::Failed));
}

#[tokio::test]
async fn what_fails_is_told_with_its_exit_code() {
    let mut fake = Fake::start(V2).await;
    assert_eq!(
        run(&fake, show("../x", false)).await,
        (
            "error: task `../x` is not valid: a task is named by its number, such as 42\n".into(),
            Exit::Usage
        )
    );
    fake.says("get_task", [refused("Task not found: 7")]);
    assert_eq!(
        run(&fake, show("7", false)).await,
        ("error: tinytask has no task 7\nhint: `calypso-watch task list --all` shows all tasks\n".into(), Exit::Failed)
    );
    fake.down().await;
    let (text, exit) = run(&fake, show("7", false)).await;
    assert_eq!(exit, Exit::TinytaskUnreachable);
    assert!(
        text.contains("\n  caused by: connection refused (os error 111)\nhint: start it"),
        "{text}"
    );
}

#[tokio::test]
async fn a_reader_who_has_seen_enough_is_no_failure() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let fake = Fake::start(V2).await;
    fake.says("list_tasks", [list(&[row(1, "idle")])]);
    let exit = task::call(
        &fake.client(PATIENT),
        list_command(None, false, false),
        &mut Closed,
    )
    .await;
    assert_eq!(exit.unwrap(), Exit::Done);
}

#[tokio::test]
async fn move_comment_and_done_are_quiet() {
    let fake = Fake::start(V2).await;
    fake.says("get_task", [ok(row(9, "working"))]);
    fake.says("move_task", [case(V2, "move ok")]);
    fake.says("add_comment", [case(V2, "add_comment")]);
    fake.says("update_task", [ok(row(9, "complete"))]);
    let server = Server::default;
    for command in [
        TaskCommand::Move {
            task: "9".into(),
            to: "qa".into(),
            comment: "over".into(),
            server: server(),
        },
        TaskCommand::Comment {
            task: "9".into(),
            text: "hm".into(),
            by: "me".into(),
            server: server(),
        },
        TaskCommand::Done {
            task: "9".into(),
            server: server(),
        },
    ] {
        assert_eq!(run(&fake, command).await, (String::new(), Exit::Done));
    }
    assert_eq!(
        fake.asked("move_task"),
        [json!({ "task_id": 9, "current_agent": "coder", "new_agent": "qa", "comment": "over" })]
    );
    assert_eq!(
        fake.asked("add_comment"),
        [json!({ "task_id": 9, "content": "hm", "created_by": "me" })]
    );
    assert_eq!(
        fake.asked("update_task"),
        [json!({ "id": 9, "status": "complete" })]
    );
}
