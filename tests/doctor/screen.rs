//! What a person reads.

use crate::world::World;

/// The world's own folder and address become words of the same shape; what the machine says of itself goes.
fn redacted(world: &World, text: &str) -> String {
    let root = world.beside("").display().to_string();
    let text = text
        .replace(root.trim_end_matches('/'), "/srv")
        .replace(&world.address, "127.0.0.1:3000");
    // Notes depend on the machine, and so do figures.
    let is_stable = |line: &&str| !line.starts_with("mount ") && !line.starts_with("limits ");
    // How much of goose's path fits depends on the temporary folder's name.
    let lines = text.lines().filter(is_stable);
    let lines = lines.map(|line| {
        if line.starts_with("goose ") {
            "goose        ok"
        } else {
            line
        }
    });
    let lines: Vec<&str> = lines.collect();
    let kept: Vec<&str> = lines
        .into_iter()
        .take_while(|line| !line.starts_with("clock "))
        .collect();
    kept.join("\n")
}

#[test]
fn a_screen_says_what_why_and_what_mends_it() {
    let world = World::new();
    std::fs::remove_file(world.path("recipes/dispatcher.yaml")).expect("there");
    world.write("recipes/coder.yaml", "title: x\ndescription: d\n");
    world.write("running_tasks/task_9.pid", "");
    let said = world.cw(&["doctor"]);
    let text = String::from_utf8_lossy(&said.stdout);
    assert_eq!(said.status.code(), Some(1));
    let last = text.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("3 findings: 1 fails, 2 warnings"),
        "{last}"
    );
    insta::assert_snapshot!("screen", redacted(&world, &text));
}

#[test]
fn help_tells_levels_exit_codes_and_the_shape_of_json() {
    let world = World::new();
    let said = world.type_in(&["doctor", "--help"]);
    insta::assert_snapshot!("help", String::from_utf8_lossy(&said.stdout));
}
