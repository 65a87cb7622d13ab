//! Does it read what the real ones say?

use calypso_watch::core::model::{Detail, RunMark, TaskId, TaskStatus, Timestamp};
use calypso_watch::edge::tinytask::{Dialect, Error, NewTask, Tinytask};
use serde_json::json;

use crate::fakes::{
    Child, Fake, PATIENT, Recorded, Reply, V1, V2, case, list, ok, recorded, refused, row,
    v1_script, with,
};

fn id(number: i64) -> TaskId {
    number.try_into().unwrap()
}

#[track_caller]
fn found(detail: Detail) -> calypso_watch::core::model::FoundDetail {
    match detail {
        Detail::Found(found) => found,
        Detail::NotFound => panic!("not found"),
    }
}

#[tokio::test]
async fn v2_over_http_is_told_by_its_tools_and_asked_for_both_statuses_at_once() {
    let fake = Fake::start(V2).await;
    fake.says(
        "list_tasks",
        [case(V2, "list {\"status\": [\"idle\", \"working\"]}")],
    );
    let client = fake.client(PATIENT);
    assert_eq!(client.connect().await.unwrap(), Dialect::V2);
    let tasks = client.open_tasks().await.unwrap();
    assert_eq!(
        fake.asked("list_tasks"),
        [json!({ "status": ["idle", "working"] })]
    );
    assert!(!tasks.is_empty());
    assert!(tasks.iter().any(|task| task.priority == 1.5));
    assert!(tasks.iter().any(|task| task.priority < 0.0));
    let b = tasks.iter().find(|task| task.title == "B").unwrap();
    assert_eq!(b.queue_name.as_deref(), Some("dev"));
    assert_eq!(b.assigned_to.as_deref(), Some("alice"));
    assert!(b.created_at.0 > 0 && b.created_at.0 % 1000 == 0);
    assert_eq!(fake.asked("initialize").len(), 1);
}

#[tokio::test]
async fn v1_over_stdio_gets_nothing_that_only_v2_knows() {
    let child = Child::new(&v1_script(&[
        (
            "list_tasks",
            &[
                case(V1, "list {\"limit\": 2}"),
                list(&[row(6, "working"), row(50, "working")]),
            ],
        ),
        ("get_task", &[case(V1, "get after move")]),
        ("get_my_queue", &[case(V1, "my queue incl working")]),
    ]));
    let client = child.client();
    assert_eq!(client.connect().await.unwrap(), Dialect::V1);

    // Task 6 is claimed between the two questions: in both answers, once in ours, and as the later one says.
    let tasks = client.open_tasks().await.unwrap();
    assert_eq!(
        child.asked("list_tasks"),
        [json!({ "status": "idle" }), json!({ "status": "working" })]
    );
    let sixth: Vec<_> = tasks.iter().filter(|task| task.id == id(6)).collect();
    assert_eq!(sixth.len(), 1);
    assert_eq!(sixth[0].status, TaskStatus::Working);

    let detail = found(client.detail(id(9)).await.unwrap());
    assert_eq!(detail.task.assigned_to.as_deref(), Some("dave"));
    assert_eq!((detail.task.parent, detail.task.blocked_by), (None, None));
    assert!(!detail.task.is_blocked);
    assert!(detail.last_comment > 0);
    assert_eq!(detail.open_subtasks, 0);
    assert!(child.asked("get_subtasks").is_empty());

    let queue = client.queue("carol").await.unwrap();
    assert_eq!(queue.len(), 5);
    assert_eq!(queue[0].title, "p9");
    assert_eq!(queue[0].status, TaskStatus::Working);
    assert_eq!(
        child.asked("get_my_queue"),
        [json!({ "agent_name": "carol" })]
    );
    client.close().await;
}

#[tokio::test]
async fn both_ways_to_write_a_time_mean_the_same() {
    let fake = Fake::start(V2).await;
    fake.says(
        "get_my_queue",
        [list(&[
            row(1, "idle"),
            with(row(2, "idle"), "created_at", "2026-11-22 18:38:55"),
            with(row(3, "idle"), "archived_at", "2026-11-22 18:38:55"),
        ])],
    );
    let tasks = fake.client(PATIENT).queue("coder").await.unwrap();
    assert_eq!(tasks[0].created_at, Timestamp(1_795_372_735_000));
    assert_eq!(tasks[0].created_at, tasks[1].created_at);
    assert_eq!(
        tasks.iter().map(|t| t.is_archived).collect::<Vec<_>>(),
        [false, false, true]
    );
}

#[tokio::test]
async fn a_detail_counts_open_subtasks_and_tells_our_comments_from_others() {
    let fake = Fake::start(V2).await;
    let comment = |id: i64, by: Option<&str>, text: &str| json!({ "id": id, "task_id": 15, "content": text, "created_by": by, "created_at": "2026-11-22T18:38:55Z", "updated_at": "2026-11-22T18:38:55Z" });
    let task = with(
        with(
            row(15, "working"),
            "comments",
            json!([
                comment(3, Some("alice"), "done (run 15/9)"),
                comment(8, None, "by nobody"),
                comment(
                    11,
                    Some("calypso-watch"),
                    "put back: left working (run 15/2 3f9c)"
                ),
                comment(
                    12,
                    Some("calypso-watch"),
                    "parked (run 15/3), and (run inbound/7) before (run x)"
                ),
            ]),
        ),
        "links",
        json!([]),
    );
    fake.says("get_task", [ok(with(task, "blocked_by_task_id", 4))]);
    fake.says(
        "get_subtasks",
        [
            ok(json!({ "parent_task_id": 15, "recursive": false, "count": 3, "subtasks": [
                row(16, "complete"), row(17, "idle"), with(row(18, "idle"), "archived_at", "2026-11-22T18:38:55Z"), row(19, "working")
            ] })),
            case(V2, "get_subtasks"),
        ],
    );
    let client = fake.client(PATIENT);
    let detail = found(client.detail(id(15)).await.unwrap());
    assert_eq!(detail.open_subtasks, 2);
    assert_eq!(detail.last_comment, 8);
    let runs: Vec<String> = detail.our_comments.iter().map(RunMark::to_string).collect();
    assert_eq!(runs, ["15/2 3f9c", "15/3", "inbound/7"]);
    assert_eq!(detail.task.blocked_by, Some(id(4)));
    assert_eq!(
        fake.asked("get_subtasks"),
        [json!({ "parent_task_id": 15 })]
    );
    // As recorded: two subtasks, both complete.
    assert_eq!(found(client.detail(id(15)).await.unwrap()).open_subtasks, 0);
}

#[tokio::test]
async fn a_deleted_task_is_not_found_whichever_question_notices() {
    let fake = Fake::start(V2).await;
    fake.says("get_task", [case(V2, "get unknown")]);
    fake.says("get_subtasks", [refused("Task not found: 99999")]);
    let client = fake.client(PATIENT);
    assert_eq!(client.detail(id(99999)).await.unwrap(), Detail::NotFound);
    fake.says("get_task", [ok(row(99999, "idle"))]);
    assert_eq!(client.detail(id(99999)).await.unwrap(), Detail::NotFound);
}

#[tokio::test]
async fn put_back_sends_only_the_status_and_only_when_the_task_is_working() {
    let fake = Fake::start(V2).await;
    fake.says(
        "get_task",
        [
            ok(row(3, "idle")),
            ok(row(3, "complete")),
            ok(row(3, "working")),
        ],
    );
    fake.says("update_task", [case(V2, "update status")]);
    let client = fake.client(PATIENT);
    client.put_back(id(3)).await.unwrap();
    client.put_back(id(3)).await.unwrap();
    assert!(fake.asked("update_task").is_empty());
    client.put_back(id(3)).await.unwrap();
    assert_eq!(
        fake.asked("update_task"),
        [json!({ "id": 3, "status": "idle" })]
    );
    fake.says("get_task", [case(V2, "get unknown")]);
    assert!(matches!(
        client.put_back(id(99999)).await,
        Err(Error::NotFound(task)) if task == id(99999)
    ));
}

#[tokio::test]
async fn a_comment_that_is_too_long_loses_its_middle() {
    let fake = Fake::start(V2).await;
    fake.says("add_comment", [case(V2, "add_comment")]);
    let client = fake.client(PATIENT);
    client.comment(id(1), "short (run 1/1)").await.unwrap();
    // Each of these takes six bytes on the wire.
    let long = format!("parked: {} (run 1/2)", "\u{1}\"é\n".repeat(60_000));
    client.comment(id(1), &long).await.unwrap();
    let sent = fake.asked("add_comment");
    assert_eq!(
        sent[0],
        json!({ "task_id": 1, "content": "short (run 1/1)", "created_by": "calypso-watch" })
    );
    assert!(sent[1].to_string().len() < 90_000);
    assert!(sent[1].to_string().len() > 60_000);
    let content = sent[1]["content"].as_str().unwrap();
    assert!(content.starts_with("parked: "));
    assert!(content.ends_with("(run 1/2)"));
    // What cannot be shortened is refused before tinytask answers with a bare 500.
    let new = NewTask {
        title: "x".repeat(100_000),
        ..NewTask::default()
    };
    assert!(matches!(client.create(&new).await, Err(Error::Refused(_))));
    assert!(fake.asked("create_task").is_empty());
}

#[tokio::test]
async fn a_signup_reads_prose_with_json_and_prose_alone() {
    for of in [V1, V2] {
        let fake = Fake::start(of).await;
        fake.says(
            "signup_for_task",
            [case(of, "signup carol"), case(of, "signup nothing")],
        );
        let client = fake.client(PATIENT);
        let task = client.signup("carol").await.unwrap().unwrap();
        assert_eq!(task.title, "p9");
        assert_eq!(task.status, TaskStatus::Working);
        assert_eq!(client.signup("nobody").await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_task_is_created_without_the_options_that_are_not_set() {
    let fake = Fake::start(V2).await;
    fake.says(
        "create_task",
        [case(V2, "create minimal"), case(V2, "create full")],
    );
    let client = fake.client(PATIENT);
    let mut new = NewTask {
        title: "A".into(),
        by: "boss".into(),
        ..NewTask::default()
    };
    assert_eq!(client.create(&new).await.unwrap(), id(2));
    new.queue = Some("alice".into());
    new.description = Some("desc".into());
    new.priority = Some(-5);
    assert_eq!(client.create(&new).await.unwrap(), id(3));
    assert_eq!(
        fake.asked("create_task"),
        [
            json!({ "title": "A", "created_by": "boss" }),
            json!({ "title": "A", "created_by": "boss", "assigned_to": "alice", "description": "desc", "priority": -5 }),
        ]
    );
}

#[tokio::test]
async fn a_move_starts_from_whoever_has_the_task_and_may_lose_the_race() {
    for of in [V1, V2] {
        let fake = Fake::start(of).await;
        fake.says("get_task", [ok(row(9, "working"))]);
        fake.says(
            "move_task",
            [
                case(of, "move ok"),
                case(of, "move wrong agent"),
                case(of, "move complete"),
                case(of, "move unknown id"),
            ],
        );
        let client = fake.client(PATIENT);
        client.move_task(id(9), "dave", "take it").await.unwrap();
        assert_eq!(
            fake.asked("move_task"),
            [
                json!({ "task_id": 9, "current_agent": "coder", "new_agent": "dave", "comment": "take it" })
            ]
        );
        for _ in 0..2 {
            let lost = client.move_task(id(9), "dave", "take it").await;
            match lost {
                Err(Error::LostRace(text)) => assert!(text.starts_with("Task "), "{text}"),
                other => panic!("{other:?}"),
            }
        }
        let gone = client.move_task(id(9), "dave", "take it").await;
        assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");

        // move_task cannot take what nobody has.
        fake.says(
            "get_task",
            [ok(with(row(9, "idle"), "assigned_to", None::<String>))],
        );
        fake.says("update_task", [ok(row(9, "idle"))]);
        fake.says("add_comment", [case(of, "add_comment")]);
        client.move_task(id(9), "dave", "take it").await.unwrap();
        assert_eq!(
            fake.asked("update_task"),
            [json!({ "id": 9, "assigned_to": "dave" })]
        );
        assert_eq!(fake.asked("add_comment").len(), 1);
    }
}

/// Gives a recorded answer to the method of ours that meets it.
async fn ask(client: &Tinytask, recorded: &Recorded) -> Result<(), Error> {
    match recorded.tool.as_str() {
        "get_my_queue" => client.queue("x").await.map(drop),
        "list_tasks" => client.all_tasks().await.map(drop),
        "get_task" => client.show(id(1)).await.map(drop),
        "signup_for_task" => client.signup("x").await.map(drop),
        "create_task" => client.create(&NewTask::default()).await.map(drop),
        "update_task" => client.complete(id(1)).await,
        "add_comment" => client.comment(id(1), "x").await,
        "move_task" => client.move_task(id(1), "x", "x").await,
        other => panic!("{other} is not ours to call"),
    }
}

#[tokio::test]
async fn every_recorded_answer_is_read_or_becomes_its_own_error() {
    let mut seen = std::collections::BTreeMap::new();
    for of in [V1, V2] {
        let fake = Fake::start(of).await;
        let client = fake.client(PATIENT);
        for recorded in recorded(of) {
            if recorded.tool.is_empty()
                || ["frobnicate", "get_subtasks"].contains(&recorded.tool.as_str())
            {
                continue;
            }
            // A move reads first, whom from.
            fake.says("get_task", [ok(row(1, "idle"))]);
            fake.says(
                &recorded.tool,
                [Reply::Tool(recorded.text.clone(), recorded.is_error)],
            );
            let result = ask(&client, &recorded).await;
            assert_eq!(
                result.is_err(),
                recorded.is_error,
                "{}: {result:?}",
                recorded.case
            );
            let kind = match result {
                Ok(()) => "ok",
                Err(Error::NotFound(_)) => "not found",
                Err(Error::LostRace(_)) => "lost race",
                Err(Error::Refused(text)) => {
                    assert!(!text.contains(['\n', '{']) && text.len() < 400, "{text}");
                    "refused"
                }
                Err(other) => panic!("{}: {other:?}", recorded.case),
            };
            *seen.entry(kind).or_insert(0) += 1;
        }
        // All that over one connection.
        assert_eq!(fake.asked("initialize").len(), 1);
    }
    assert!(
        seen["ok"] > 50 && seen["not found"] >= 4 && seen["lost race"] >= 4 && seen["refused"] > 10,
        "{seen:?}"
    );
}

#[tokio::test]
async fn a_complaint_about_arguments_is_told_in_a_line() {
    let fake = Fake::start(V2).await;
    fake.says(
        "create_task",
        [
            case(V2, "create missing title"),
            case(V2, "create empty title"),
        ],
    );
    let client = fake.client(PATIENT);
    let refusal = client.create(&NewTask::default()).await.unwrap_err();
    assert_eq!(refusal.to_string(), "tinytask refused: title: Required");
    let refusal = client.create(&NewTask::default()).await.unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "tinytask refused: Task title is required"
    );
}

#[tokio::test]
async fn a_row_that_cannot_be_read_does_not_hide_the_others() {
    let fake = Fake::start(V2).await;
    fake.says(
        "get_my_queue",
        [list(&[
            row(1, "idle"),
            row(0, "idle"),
            row(-1, "idle"),
            row(2, "paused"),
            with(row(3, "idle"), "id", 9_223_372_036_854_775_808_u64),
            with(row(4, "idle"), "id", "../x"),
            with(row(5, "idle"), "title", 7),
            with(row(6, "idle"), "created_at", "yesterday"),
            json!("not a row"),
            // Missing and null are what v1 and odd hands leave.
            with(with(row(7, "idle"), "tags", None::<String>), "priority", None::<f64>),
            json!({ "id": 8, "title": "thin", "status": "working", "created_at": "2026-11-22 18:38:55", "updated_at": "2026-11-22 18:38:55" }),
        ])],
    );
    let tasks = fake.client(PATIENT).queue("coder").await.unwrap();
    let ids: Vec<i64> = tasks.iter().map(|task| task.id.number()).collect();
    assert_eq!(ids, [1, 7, 8]);
}

#[tokio::test]
async fn an_answer_that_is_no_list_is_a_bad_answer() {
    let fake = Fake::start(V2).await;
    fake.says(
        "get_my_queue",
        [
            ok(json!([])),
            Reply::Tool("fine, thanks".into(), false),
            Reply::Tool(String::new(), false),
        ],
    );
    let client = fake.client(PATIENT);
    for _ in 0..3 {
        let bad = client.queue("coder").await.unwrap_err();
        assert!(
            matches!(
                bad,
                Error::BadAnswer {
                    call: "get_my_queue",
                    ..
                }
            ),
            "{bad:?}"
        );
    }
}

#[tokio::test]
async fn what_a_person_may_change_changes_the_fields_and_nothing_else_does() {
    let fake = Fake::start(V2).await;
    let base = row(1, "idle");
    let same = [
        with(base.clone(), "status", "working"),
        with(base.clone(), "updated_at", "2026-11-23T00:00:00Z"),
        with(base.clone(), "queue_name", "dev"),
        with(base.clone(), "previous_assigned_to", "x"),
        with(base.clone(), "is_currently_blocked", true),
    ];
    let other = [
        with(base.clone(), "title", "task 1 "),
        with(base.clone(), "description", ""),
        with(base.clone(), "priority", 0.5),
        with(base.clone(), "assigned_to", None::<String>),
        with(base.clone(), "assigned_to", ""),
        with(base.clone(), "tags", json!(["ab", "c"])),
        with(base.clone(), "tags", json!(["a", "bc"])),
        with(base.clone(), "blocked_by_task_id", 7),
    ];
    let rows: Vec<_> = std::iter::once(base).chain(same).chain(other).collect();
    fake.says("get_my_queue", [list(&rows)]);
    let tasks = fake.client(PATIENT).queue("coder").await.unwrap();
    let fields: Vec<u64> = tasks.iter().map(|task| task.fields).collect();
    // Stands in records on disk: it may never change.
    assert_eq!(fields[0], FIELDS_OF_TASK_1);
    assert!(fields[1..6].iter().all(|&f| f == fields[0]), "{fields:?}");
    let distinct: std::collections::BTreeSet<_> = fields[5..].iter().collect();
    assert_eq!(distinct.len(), 9, "{fields:?}");
}

const FIELDS_OF_TASK_1: u64 = 162_064_986_114_633_131;
