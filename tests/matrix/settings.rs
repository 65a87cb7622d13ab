//! calypso.toml, the environment and flags.

use crate::world::World;

/// Each refuses the same way in `run`, `run --once`, `status` and `plan`, before anything is started.
#[test]
fn settings_that_cannot_be_used_are_refused_in_one_line() {
    let world = World::new();
    let id = world.task("good");
    let cases: &[(&str, &str)] = &[
        (
            "max_runs = ",
            "error: `calypso.toml` line 1, column 12: string values must be quoted, expected literal string\n",
        ),
        (
            "max_run = 3",
            "error: `calypso.toml` line 1, column 1: `max_run` is no setting here\nhint: did you mean `max_runs`?\n",
        ),
        (
            "colour = 3",
            "error: `calypso.toml` line 1, column 1: `colour` is no setting here\n",
        ),
        (
            "max_runs = 0",
            "error: `max_runs` must be at least 1, got 0 (from `calypso.toml`, line 1)\n",
        ),
        (
            "max_runs = -1",
            "error: `max_runs` must be at least 1, got -1 (from `calypso.toml`, line 1)\n",
        ),
        (
            "max_runs = 99999999999",
            "error: `max_runs` is too large, got 99999999999 (from `calypso.toml`, line 1)\n",
        ),
        (
            "max_runs = \"many\"",
            "error: `max_runs` must be a number, got `many` (from `calypso.toml`, line 1)\n",
        ),
    ];
    for (text, error) in cases {
        world.write("calypso.toml", text);
        for args in [&["run"][..], &["run", "--once"], &["status"], &["plan"]] {
            world.cli(args).fails(2, error);
        }
    }
    assert_eq!(world.status_of(id), "idle");
    assert_eq!(world.runs_of(&format!("task_{id}")), 0);
}
