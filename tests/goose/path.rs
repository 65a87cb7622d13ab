//! Does a request cross the team by itself? Under the daemon, by `run --once` alone, and in the demo.

use calypso_watch::core::model::Outcome;
use calypso_watch::core::record::{Verdict, VerdictRecord};

use crate::model::{Model, Part, TOKENS};
use crate::team::{Ran, Team, eventually, goose};
use crate::watched::Watched;

/// The team in the order of the path, and where each one's task is when its run is over.
const PATH: [(&str, &str); 5] = [
    ("dispatcher", "architect idle"),
    ("architect", "product idle"),
    ("product", "devops idle"),
    ("devops", "coder idle"),
    ("coder", "coder complete"),
];

/// What all hops of a good crossing have in common: each queue had one run, and it did what it was there for.
fn assert_good(world: &Watched, verdicts: &[VerdictRecord]) {
    let queues: Vec<_> = verdicts.iter().map(|v| v.queue.as_str()).collect();
    assert_eq!(queues, PATH.map(|(queue, _)| queue), "{}", world.said());
    for (verdict, (queue, then)) in verdicts.iter().zip(PATH) {
        assert_eq!(verdict.outcome, Outcome::Exited(0), "{verdict:#?}");
        assert_eq!(verdict.failure, None, "{verdict:#?}");
        assert_eq!((verdict.attempt, verdict.late), (1, false), "{verdict:#?}");
        let answers = u64::try_from(world.model.requests(queue)).expect("a few");
        let tokens = answers * u64::from(TOKENS.0 + TOKENS.1);
        assert_eq!(verdict.tokens, Some(tokens), "{verdict:#?}");
        assert!(verdict.cost.is_some_and(|cost| cost > 0.0), "{verdict:#?}");
        assert_eq!(world.model.sessions(queue), 1, "{queue}");
        if queue == "dispatcher" {
            assert_eq!(verdict.run.to_string(), "inbound/1");
            assert_eq!(verdict.files.len(), 1, "{verdict:#?}");
            assert!(!verdict.files[0].left, "{verdict:#?}");
            continue;
        }
        let next = then.split(' ').next().map(Into::into);
        let is = verdict.tasks.iter().map(|t| t.verdict.clone());
        let expected = match queue {
            "coder" => Verdict::Done,
            _ => Verdict::HandedOff { to: next },
        };
        assert_eq!(is.collect::<Vec<_>>(), [expected], "{queue}");
        let writes = verdict.tasks.iter().filter(|t| t.write.is_some());
        assert_eq!(writes.count(), 0, "{verdict:#?}");
    }
}

/// At each hop the model's answer is held back, so that the moment can be looked at: this queue's one goose and no other.
#[test]
fn a_request_crosses_the_team_by_itself() {
    let Some(goose) = goose() else { return };
    let world = Watched::start(goose, "", "");
    for (queue, _) in PATH {
        world.model.play(queue, Part::Waits);
    }
    world
        .team
        .request("add login.md", "# Add OAuth login\n\nWith two providers.\n");
    for (queue, then) in PATH {
        eventually(&format!("{queue} asks its model"), || {
            world.model.requests(queue) == 1
        });
        let agents = world.agents();
        assert_eq!(agents.len(), 1, "{queue}: {}", world.said());
        let name = match queue {
            "dispatcher" => "inbound",
            _ => "task_1",
        };
        assert_eq!(
            world.team.names("running_tasks"),
            [format!("{name}.pid")],
            "{queue}"
        );
        assert_eq!(world.pid_file(name), Some(agents[0]), "{queue}");
        eventually(
            &format!("{queue}'s is the only run that is not finished"),
            || world.team.names(".calypso/live").len() == 1,
        );
        let status = world.status();
        let running: Vec<_> = (status["queues"].as_array().into_iter().flatten())
            .flat_map(|q| q["runs"].as_array().cloned().unwrap_or_default())
            .map(|run| (run["queue"].clone(), run["pid"].clone()))
            .collect();
        assert_eq!(running, [(queue.into(), agents[0].into())], "{status:#}");
        world.model.play(queue, Part::Works);
        let verdict = world.verdict(queue, 1);
        let (spec, state) = world.records(&verdict.queue, verdict.run);
        assert_eq!(spec.provider.as_deref(), Some("openai"));
        assert!(state.ended.is_some(), "{state:#?}");
        if queue != "dispatcher" {
            assert_eq!(world.at(1), then);
        }
    }
    world.rests();
    assert_good(&world, &world.verdicts());
    crate::agents::assert_crossed(&world.team, &world.tinytask.task(1), "add login.md");

    // The same for people.
    let status = world.types(&["status"]);
    assert_eq!(status.code, Some(0), "{status:#?}");
    for (from, to) in [
        ("architect", "product"),
        ("product", "devops"),
        ("devops", "coder"),
    ] {
        let hop = format!("{from} → {to}");
        assert!(status.out.contains(&hop), "{hop}: {}", status.out);
    }
    assert!(status.out.contains("5 runs"), "{}", status.out);
    assert!(status.out.lines().all(|line| line.chars().count() <= 80));
    let why = world.types(&["why", "1"]);
    assert_eq!(why.code, Some(0), "{why:#?}");
    assert!(why.out.contains("complete"), "{}", why.out);
    for (queue, _) in PATH {
        for word in ["started", "over"] {
            let line = format!("{queue} {word}");
            assert!(why.out.contains(&line), "{line}: {}", why.out);
        }
    }
    let logs = world.types(&["logs", "1"]);
    assert!(logs.out.contains("Task 1 is complete."), "{}", logs.out);
}

/// For cron: each call starts what can start, and waits for nobody.
#[test]
fn run_once_after_run_once_takes_a_request_across() {
    let Some(goose) = goose() else { return };
    let world = Watched::new(goose, "", "");
    let once = || {
        let ran = world.types(&["run", "--once"]);
        assert_eq!(ran.code, Some(0), "{ran:#?}");
    };
    world
        .team
        .request("add login.md", "# Add OAuth login\n\nWith two providers.\n");
    // One look is too early for a file that may still be written.
    eventually("it counts as complete", || {
        !world
            .types(&["status"])
            .out
            .contains("may still be written to")
    });
    for (queue, _) in PATH {
        world.model.play(queue, Part::Waits);
        once();
        // It came back although the agent has no answer yet.
        eventually(&format!("{queue}'s agent is there"), || {
            world.agents().len() == 1
        });
        let agents = world.agents();
        once();
        assert_eq!(world.agents(), agents, "{queue}: nothing is started twice");
        world.model.play(queue, Part::Works);
        eventually(&format!("{queue} is over"), || {
            world.team.names("running_tasks").is_empty()
        });
        assert_eq!(
            world.team.names(".calypso/live").len(),
            1,
            "{queue}: nobody judged yet"
        );
    }
    once();
    world.rests();
    assert_good(&world, &world.verdicts());
    crate::agents::assert_crossed(&world.team, &world.tinytask.task(1), "add login.md");
    let status = world.types(&["status"]);
    assert_eq!(status.code, Some(3), "{status:#?}");
    assert!(status.out.contains("NOT RUNNING"), "{}", status.out);
}

#[test]
fn the_demo_runs_the_starter_team_on_goose() {
    let Some(goose) = goose() else { return };
    let model = Model::start();
    let team = Team::new(goose, &model, "http://127.0.0.1:9/mcp");
    let mut demo = team.calypso_anywhere();
    demo.args(["demo", "--goose", "--provider", "openai"])
        .args(["--model", "gpt-5.2"])
        .env("TMPDIR", &team.base);
    let ran = Ran::from(demo.output().expect("our own binary starts"));
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    for (queue, _) in PATH {
        assert_eq!(model.sessions(queue), 1, "{queue}: {ran:#?}");
        assert!(ran.out.contains(queue), "{queue}: {ran:#?}");
    }
    assert!(ran.out.contains("complete in"), "{ran:#?}");
    assert!(ran.out.contains("story-2.md"), "{ran:#?}");
    // Nothing of it stays.
    let left = team.names("");
    assert!(!left.iter().any(|name| name.contains("demo")), "{left:?}");
}

/// The line a person types today, and what this goose knows besides.
#[test]
fn without_settings_the_command_is_the_one_a_person_types() {
    let Some(goose) = goose() else { return };
    let world = Watched::new(goose, "", "");
    world.model.play("architect", Part::Waits);
    world.model.play("dispatcher", Part::Waits);
    let id = world.task("a task", "architect");
    world.team.request("r.md", "# A request\n");
    eventually("it counts as complete", || {
        !world
            .types(&["status"])
            .out
            .contains("may still be written to")
    });
    let base = world.team.base.display();
    let line = |queue: &str, task: &[&str]| {
        let recipe = format!("{base}/recipes/{queue}.yaml");
        let mut argv = vec!["goose".to_owned(), "run".into(), "--recipe".into(), recipe];
        argv.extend(["--params".into(), format!("base_path={base}")]);
        argv.extend(task.iter().map(|&word| word.to_owned()));
        let rest = "--provider openai --model gpt-5.2 --no-session --quiet --output-format stream-json --max-turns 200";
        argv.extend(rest.split(' ').map(str::to_owned));
        argv
    };
    let task_id = format!("task_id={id}");
    let expected = [
        line("dispatcher", &[]),
        line("architect", &["--params", &task_id]),
    ];
    let plan = world.types(&["plan", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&plan.out).expect("JSON");
    let mut planned: Vec<Vec<String>> = plan["launches"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|start| serde_json::from_value(start["argv"].clone()).expect("words"))
        .collect();
    planned.sort_by_key(|argv| argv.len());
    assert_eq!(planned, expected, "{plan:#}");
    assert!(world.agents().is_empty(), "a plan starts nothing");

    assert_eq!(world.types(&["run", "--once"]).code, Some(0));
    for (dir, argv) in ["inbound/0001-dispatcher", "task_1/0001-architect"]
        .iter()
        .zip(&expected)
    {
        let path = format!(".calypso/runs/{dir}/spec.json");
        let text = std::fs::read_to_string(world.team.base.join(path)).expect("it was launched");
        let spec: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(spec["argv"], serde_json::json!(argv));
        assert_eq!(spec["cwd"], base.to_string());
        assert_eq!(spec["env"], serde_json::json!(["GOOSE_MODE"]));
        // What the kernel says of it.
        eventually("the agent is goose", || world.agents().len() == 2);
    }
    let mut running: Vec<Vec<String>> = world
        .agents()
        .iter()
        .map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).expect("it lives");
            let words = line
                .split(|byte| *byte == 0)
                .filter(|word| !word.is_empty());
            words
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect()
        })
        .collect();
    running.sort_by_key(Vec::len);
    assert_eq!(running, expected);
}
