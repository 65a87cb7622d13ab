//! Does the starter team work on the real goose? The model behind it is scripted; goose, its tools and tinytask are real.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests make files, read their own environment, and say when they are skipped"
)]

#[path = "support/model/mod.rs"]
mod model;
#[path = "support/team.rs"]
mod team;

use crate::model::{Model, Part, TOKENS};
use crate::team::{Team, USUAL_ADDRESS, goose};

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
fn goose_finds_the_starter_recipes_valid() {
    let Some(goose) = goose() else { return };
    let model = Model::start();
    let team = Team::new(goose, &model, NO_TINYTASK);
    for (queue, recipe) in team::RECIPES {
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
    let run = std::thread::spawn(move || team::Ran::from(agent.output().expect("goose starts")));
    team::eventually("the model was asked", || model.requests("architect") == 1);
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
