//! One agent at a time, started by hand as the daemon would: do the starter recipes work on the real goose, and what does it
//! print, and exit with, when something goes wrong?

use serde_json::{Value, json};

use crate::model::{Model, Part, TOKENS};
use crate::team::{self, Ran, Team, USUAL_ADDRESS, eventually, goose};
use crate::tinytask::Tinytask;

/// Nothing listens there: port 9 of loopback is reserved for a service that nobody runs.
const NO_TINYTASK: &str = "http://127.0.0.1:9/mcp";

#[test]
fn tinytasks_address_stands_once_in_each_starter_recipe() {
    for (queue, recipe) in team::RECIPES {
        assert_eq!(recipe.matches(USUAL_ADDRESS).count(), 1, "{queue}");
        assert!(
            recipe.contains(&format!("\n    uri: {USUAL_ADDRESS}\n")),
            "{queue}"
        );
    }
}

#[test]
fn goose_finds_the_starter_recipes_and_the_documented_one_valid() {
    let Some(goose) = goose() else { return };
    let model = Model::start();
    let team = Team::new(goose, &model, NO_TINYTASK);
    let page = include_str!("../../docs/agents.md");
    let (_, example) = page
        .split_once("```yaml\n")
        .expect("the page has an example");
    let (example, _) = example.split_once("```").expect("it ends");
    let recipes = team::RECIPES
        .into_iter()
        .chain([("docs/agents.md", example)]);
    for (queue, recipe) in recipes {
        let mut forms = vec![recipe.to_owned()];
        // With the GitHub extension taken out of its comment, as the comment says: five lines.
        if let Some(at) = recipe.find("  # - type: stdio") {
            let lines = recipe[at..].lines();
            assert_eq!(lines.clone().count(), 5, "{queue}");
            let open: Vec<_> = lines.map(|line| line.replacen("# ", "", 1)).collect();
            forms.push(format!("{}{}\n", &recipe[..at], open.join("\n")));
            assert!(
                forms[1].contains("\n  - type: stdio\n    name: github\n"),
                "{queue}"
            );
        }
        for form in forms {
            let file = team.base.join("recipes/form.yaml");
            std::fs::write(&file, form).expect("a new file");
            let output = team
                .command()
                .args(["recipe", "validate"])
                .arg(&file)
                .output()
                .expect("goose starts");
            assert!(output.status.success(), "{queue}: {output:?}");
        }
    }
}

/// What goose makes of a provider that fails or lies. Only for 401 does it admit a failure; all else looks like success.
#[test]
fn goose_meets_each_lie() {
    let Some(goose) = goose() else { return };
    let cases = [
        (Part::Quota, 0, "Rate limit exceeded"),
        (Part::RateLimit, 0, "Rate limit exceeded"),
        (Part::Unauthorized, 1, "Authentication error"),
        (Part::NoSuchModel, 0, "Ran into this error"),
        (Part::Broken, 0, "Server error"),
        (Part::ContextFull, 0, "Unable to continue"),
        (Part::Cuts, 0, "Stream decode error"),
        (
            Part::Repeats,
            0,
            "I've reached the maximum number of actions",
        ),
        (Part::Empty, 0, "empty response"),
        (Part::SaysDone, 0, "I have completed the task"),
    ];
    std::thread::scope(|scope| {
        for (index, (part, code, text)) in cases.into_iter().enumerate() {
            let goose = goose.clone();
            scope.spawn(move || {
                let model = Model::start();
                model.play("architect", part);
                let mut team = Team::new(goose, &model, NO_TINYTASK);
                // Both APIs take their turn.
                team.model = ["gpt-4o", "gpt-5.2"][index % 2];
                let ran = team.run("architect", Some(1));
                assert_eq!(ran.code, Some(code), "{part:?}: {ran:#?}");
                assert!(
                    ran.said().contains(text) || ran.err.contains(text),
                    "{part:?}: {ran:#?}"
                );
                // A tinytask that is not there stops nothing either.
                assert!(
                    ran.err.contains("Failed to start extension"),
                    "{part:?}: {ran:#?}"
                );
            });
        }
    });
}

#[test]
fn a_request_that_waits_is_answered_when_the_agent_gets_another_part() {
    let Some(goose) = goose() else { return };
    let model = Model::start();
    model.play("architect", Part::Waits);
    let team = Team::new(goose, &model, NO_TINYTASK);
    let mut agent = team.agent("architect", Some(1));
    let run = std::thread::spawn(move || Ran::from(agent.output().expect("goose starts")));
    eventually("the model was asked", || model.requests("architect") == 1);
    assert!(!run.is_finished());
    model.play("architect", Part::SaysDone);
    let ran = run.join().expect("the agent ran");
    assert!(ran.said().contains("I have completed the task"), "{ran:#?}");
    let complete = ran.last_line();
    assert_eq!(complete["type"], "complete", "{ran:#?}");
    assert_eq!(complete["input_tokens"], TOKENS.0);
    assert_eq!(complete["output_tokens"], TOKENS.1);
    assert_eq!(model.paths(), ["/v1/responses"]);
}

/// The model, tinytask and the team, on one goose.
struct World {
    team: Team,
    tinytask: Tinytask,
    model: Model,
    _folder: tempfile::TempDir,
}

impl World {
    fn new(goose: std::path::PathBuf) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let tinytask = Tinytask::serve(folder.path());
        let model = Model::start();
        let team = Team::new(goose, &model, &tinytask.url());
        Self {
            team,
            tinytask,
            model,
            _folder: folder,
        }
    }

    /// A task in a queue, with its folder.
    fn task(&self, title: &str, queue: &str) -> i64 {
        let id = self.tinytask.create(title, queue);
        let folder = self.team.base.join(format!("workqueue/task_{id}"));
        std::fs::create_dir(&folder).expect("a new folder");
        std::fs::write(folder.join("request.md"), title).expect("a new file");
        id
    }

    /// Where a task is, and how far.
    fn at(&self, id: i64) -> (String, String) {
        let task = self.tinytask.task(id);
        let word = |key: &str| task[key].as_str().unwrap_or_default().to_owned();
        (word("assigned_to"), word("status"))
    }
}

fn at(queue: &str, status: &str) -> (String, String) {
    (queue.into(), status.into())
}

/// Drops a request and starts each agent in turn, as the daemon would.
fn cross(world: &World, task_named: bool) {
    let World { team, tinytask, .. } = world;
    team.request("add login.md", "# Add OAuth login\n\nWith two providers.\n");
    let ran = team.run("dispatcher", None);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let tasks = tinytask.tasks();
    assert_eq!(tasks.len(), 1, "{ran:#?}");
    assert_eq!(tasks[0]["title"], "Add OAuth login");
    let id = tasks[0]["id"].as_i64().expect("a number");
    assert_eq!(world.at(id), at("architect", "idle"), "{ran:#?}");
    assert!(team.names("inbound").is_empty());

    let hops = [
        ("architect", at("product", "idle")),
        ("product", at("devops", "idle")),
        ("devops", at("coder", "idle")),
        ("coder", at("coder", "complete")),
    ];
    for (queue, then) in hops {
        let ran = team.run(queue, task_named.then_some(id));
        assert_eq!(ran.code, Some(0), "{queue}: {ran:#?}");
        assert_eq!(ran.err.matches('⚠').count(), 0, "{queue}: {ran:#?}");
        assert_eq!(world.at(id), then, "{queue}: {ran:#?}");
        let last = ran.last_line();
        assert_eq!(last["type"], "complete", "{queue}: {ran:#?}");
        let answers = u32::try_from(world.model.requests(queue)).expect("a few");
        assert!(answers >= 5, "{queue} asked {answers} times");
        assert_eq!(
            last["input_tokens"],
            answers * TOKENS.0,
            "{queue}: {ran:#?}"
        );
        assert_eq!(
            last["output_tokens"],
            answers * TOKENS.1,
            "{queue}: {ran:#?}"
        );
    }
    assert_crossed(team, &tinytask.task(id), "add login.md");
}

/// The task is complete, everybody had it in turn, and everybody's files lie in its folder.
pub(crate) fn assert_crossed(team: &Team, task: &Value, request: &str) {
    assert_eq!(task["status"], "complete", "{task:#}");
    let comments = task["comments"].as_array().expect("a list");
    let by: Vec<_> = comments.iter().map(|c| &c["created_by"]).collect();
    assert_eq!(
        by,
        ["dispatcher", "architect", "product", "devops", "coder"]
    );
    let folder = format!("workqueue/task_{}", task["id"]);
    assert_eq!(
        team.names(&folder),
        [
            request,
            "index.md",
            "issues.md",
            "repo",
            "story-1.md",
            "story-2.md",
            "technical.md"
        ]
    );
    let read = |name: &str| {
        let path = team.base.join(&folder).join(name);
        std::fs::read_to_string(path).expect("a readable file")
    };
    assert!(read(request).contains("With two providers."));
    assert!(read("story-2.md").contains("Status: done"));
}

#[test]
fn a_request_crosses_the_team_each_agent_told_its_task() {
    let Some(goose) = goose() else { return };
    let world = World::new(goose);
    cross(&world, true);
    assert_eq!(world.model.paths(), ["/v1/responses"]);
}

#[test]
fn a_request_crosses_the_team_each_agent_taking_what_is_next() {
    let Some(goose) = goose() else { return };
    let mut world = World::new(goose);
    world.team.model = "gpt-4o";
    cross(&world, false);
    assert_eq!(world.model.paths(), ["/v1/chat/completions"]);
}

#[test]
fn an_agent_leaves_alone_what_is_not_its_own() {
    let Some(goose) = goose() else { return };
    let world = World::new(goose);
    // An empty queue.
    let ran = world.team.run("coder", None);
    assert!(ran.said().contains("nothing for me to do"), "{ran:#?}");
    // A task of another queue, and one that somebody works on.
    let id = world.task("not yours", "product");
    let busy = world.task("taken", "coder");
    let update = json!({"id": busy, "status": "working"});
    world.tinytask.call("update_task", &update);
    for task in [id, busy] {
        let ran = world.team.run("coder", Some(task));
        assert!(ran.said().contains("nothing for me to do"), "{ran:#?}");
    }
    assert_eq!(world.at(id), at("product", "idle"));
    assert_eq!(world.at(busy), at("coder", "working"));
    assert_eq!(
        world.team.names(&format!("workqueue/task_{busy}")),
        ["request.md"]
    );
}

#[test]
fn the_dispatcher_takes_any_name_and_leaves_what_is_half_written() {
    let Some(goose) = goose() else { return };
    let world = World::new(goose);
    let names = [
        "-rf",
        "a 'quoted' \"name\" $(touch pwned)",
        "two\nlines",
        "plain.md",
    ];
    for name in names {
        world.team.request(name, "");
    }
    let folder = world.team.base.join("inbound/a folder");
    std::fs::create_dir(&folder).expect("a new folder");
    std::fs::write(folder.join("request.md"), "# From a folder\n").expect("a new file");
    for name in [".hidden", "half.part", "half.tmp", "half~"] {
        world.team.request(name, "");
    }
    let ran = world.team.run("dispatcher", None);
    assert_eq!(
        world.team.names("inbound"),
        [".hidden", "half.part", "half.tmp", "half~"],
        "{ran:#?}"
    );
    let mut arrived: Vec<_> = world
        .tinytask
        .tasks()
        .iter()
        .flat_map(|task| {
            assert_eq!(task["assigned_to"], "architect", "{task:#}");
            world.team.names(&format!("workqueue/task_{}", task["id"]))
        })
        .collect();
    arrived.sort();
    let mut all = [&names[..], &["a folder"]].concat();
    all.sort_unstable();
    assert_eq!(arrived, all, "{ran:#?}");
    assert!(!world.team.base.join("pwned").exists());
}

#[test]
fn an_interrupted_dispatch_is_finished_not_repeated() {
    let Some(goose) = goose() else { return };
    let world = World::new(goose);
    for (name, task_named) in [("first.md", false), ("second.md", true)] {
        world.team.request(name, "# Something new\n");
        // Created, and then the session was cut off.
        let args = json!({"title": "Something new", "description": format!("Request: '{name}'\nSomething new"),
                          "assigned_to": "dispatcher", "created_by": "dispatcher"});
        let task = world.tinytask.call("create_task", &args);
        let id = task["id"].as_i64().expect("a number");
        let ran = world.team.run("dispatcher", task_named.then_some(id));
        assert_eq!(world.at(id), at("architect", "idle"), "{ran:#?}");
        assert_eq!(
            world.team.names(&format!("workqueue/task_{id}")),
            [name],
            "{ran:#?}"
        );
    }
    assert_eq!(world.tinytask.tasks().len(), 2);
    assert!(world.team.names("inbound").is_empty());
}

/// What the daemon has to judge by: goose says "complete" and exits 0 each time, and only tinytask knows better.
#[test]
fn what_a_lying_agent_leaves_behind() {
    let Some(goose) = goose() else { return };
    let world = World::new(goose);
    let left = [
        (Part::Asks, "Please let me know", "working"),
        (Part::LeavesWorking, "That is it for now", "working"),
        (Part::SaysDone, "I have completed the task", "idle"),
    ];
    for (part, says, status) in left {
        let id = world.task("a task", "architect");
        world.model.play("architect", part);
        let ran = world.team.run("architect", Some(id));
        assert_eq!(ran.code, Some(0), "{part:?}: {ran:#?}");
        assert_eq!(ran.last_line()["type"], "complete", "{part:?}: {ran:#?}");
        assert!(ran.said().contains(says), "{part:?}: {ran:#?}");
        assert_eq!(world.at(id), at("architect", status), "{part:?}: {ran:#?}");
    }
}

#[test]
fn an_agent_that_fails_at_its_work_says_so_and_lets_go() {
    let Some(goose) = goose() else { return };
    let world = World::new(goose);
    // Nothing for product to work from.
    let id = world.task("no specification", "product");
    let ran = world.team.run("product", Some(id));
    assert_eq!(world.at(id), at("product", "idle"), "{ran:#?}");
    let task = world.tinytask.task(id);
    let comment = task["comments"][0]["content"].as_str().unwrap_or_default();
    assert!(comment.contains("I could not write"), "{task:#}");
}

#[test]
fn an_agent_can_linger_after_its_hand_off() {
    let Some(goose) = goose() else { return };
    let world = World::new(goose);
    world.model.play("architect", Part::Lingers);
    let id = world.task("a task", "architect");
    let mut agent = world.team.agent("architect", Some(id));
    let run = std::thread::spawn(move || Ran::from(agent.output().expect("goose starts")));
    eventually("the hand-off", || world.at(id) == at("product", "idle"));
    // Still there: the model owes it an answer.
    assert!(!run.is_finished());
    world.model.play("architect", Part::Works);
    let ran = run.join().expect("the agent ran");
    assert!(ran.said().contains("is with product now"), "{ran:#?}");
}

/// Only a time limit ends such a run: goose waits for ever, before its first word to the model.
#[test]
fn goose_waits_for_a_tinytask_that_never_answers() {
    let Some(goose) = goose() else { return };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    let address = silent.local_addr().expect("a bound socket has an address");
    let model = Model::start();
    let team = Team::new(goose, &model, &format!("http://{address}/mcp"));
    let mut agent = team.agent("architect", Some(1));
    let mut agent = agent
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("goose starts");
    let (mut call, _) = silent.accept().expect("goose calls");
    let mut first = [0; 4];
    std::io::Read::read_exact(&mut call, &mut first).expect("goose says something");
    assert_eq!(&first, b"POST");
    assert!(agent.try_wait().expect("it is our child").is_none());
    assert_eq!(model.requests("architect"), 0);
    agent.kill().expect("it is our child");
    agent.wait().expect("it is our child");
}
