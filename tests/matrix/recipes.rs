//! Recipes that cannot be used, and programs that cannot be started.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use crate::world::World;

const FINE: &str = "version: 1.0.0\ntitle: t\ndescription: d\nprompt: work\n";

/// A `goose` of our own in a folder that may stand on PATH: it completes its task, and knows no options.
fn fake_goose(world: &World) -> String {
    let folder = world.beside("bin");
    fs::create_dir_all(&folder).expect("ours");
    let text = format!(
        "#!/bin/sh\n[ \"$2\" = --help ] && exit 0\nfor word; do case $word in task_id=*) id=${{word#task_id=}};; esac; done\n\
         exec {} task done \"$id\" --tinytask-url {}\n",
        crate::world::PROGRAM,
        world.tinytask.url()
    );
    // In one step, as the daemon may look at any moment.
    fs::write(folder.join(".goose"), text).expect("ours");
    fs::set_permissions(folder.join(".goose"), Permissions::from_mode(0o755)).expect("ours");
    folder.display().to_string()
}

#[test]
fn a_broken_recipe_holds_its_queue_and_says_why() {
    let mut world = World::new();
    world.write("recipes/notyaml.yaml", "a: [1\n b: }");
    world.write("recipes/noprompt.yaml", "title: t\ninstructions: x\n");
    world.write("recipes/notitle.yaml", "prompt: t\n");
    world.write("recipes/empty.yaml", "");
    world.write("recipes/bytes.yaml", b"\xff\xfe\x00");
    world.write("recipes/open.yaml", FINE);
    let open = world.base.join("recipes/open.yaml");
    fs::set_permissions(&open, Permissions::from_mode(0o666)).expect("ours");
    world.write("recipes/short.yml", FINE);
    world.write("recipes/large.yaml", vec![b' '; 2_000_000]);
    fs::create_dir(world.base.join("recipes/folder.yaml")).expect("ours");
    symlink("/no/such", world.base.join("recipes/link.yaml")).expect("ours");
    nix::unistd::mkfifo(
        &world.base.join("recipes/fifo.yaml"),
        nix::sys::stat::Mode::S_IRWXU,
    )
    .expect("ours");
    world.write("recipes/a b.yaml", FINE);
    let cases = [
        (
            "notyaml",
            "is not YAML: line 2: illegal placement of ':' indicator",
        ),
        ("noprompt", "has no `prompt`"),
        ("notitle", "has no `title`"),
        ("empty", "is empty"),
        ("bytes", "is not UTF-8"),
        ("open", "can be written by everyone: `chmod o-w` it"),
        (
            "short",
            "`short.yml` ends in .yml, which goose does not read: rename it to .yaml",
        ),
        ("large", "is larger than 1048576 bytes"),
        ("folder", "is not a regular file"),
        ("fifo", "is not a regular file"),
        ("link", "is a symlink to nowhere"),
    ];
    let ids = cases.map(|(queue, _)| world.task(queue));
    world.start();
    world.good_works();
    let status = world.status();
    for (queue, why) in cases {
        let line = format!("{queue} 1 recipes/{queue}.yaml cannot be used: {why}");
        assert!(status.contains(&line), "{line}\n{status}");
    }
    assert!(
        status.contains("recipes/a b.yaml is no recipe's name"),
        "{status}"
    );
    assert_eq!(ids.map(|id| world.status_of(id)), ids.map(|_| "idle"));
    // Mended, it is used at once.
    let path = fake_goose(&world);
    drop(path);
    let why = world.why(ids[1]);
    assert!(
        why.contains(
            "its recipe cannot be used: has no `prompt`; read again as soon as it changes"
        ),
        "{why}"
    );
}

#[test]
fn a_recipe_that_vanishes_leaves_its_queue_to_people_and_comes_back() {
    let mut world = World::with(
        "",
        "[agent]\ncommand = [\"/bin/sh\", \"{base_path}/good.sh\", \"{task_id}\"]\n",
    );
    world.write("recipes/writer.yaml", FINE);
    world.cli(&["pause", "writer"]).tells(0, "");
    let id = world.task("writer");
    world.start();
    world.shows("paused");
    fs::remove_file(world.base.join("recipes/writer.yaml")).expect("there");
    world.cli(&["resume", "writer"]).tells(0, "");
    world.shows("no recipe");
    world.good_works();
    assert_eq!(world.status_of(id), "idle");
    world.write("recipes/writer.yaml", FINE);
    world.eventually("its recipe is back", || world.status_of(id) == "complete");
}

#[test]
fn goose_may_be_missing_and_appear_later() {
    let mut world = World::new();
    world.write("recipes/writer.yaml", FINE.replace("prompt: work", "prompt: work\nparameters:\n- {key: task_id, input_type: string, requirement: required, description: d}"));
    let bin = fake_goose(&world);
    world.env = vec![("PATH".into(), format!("{bin}:/usr/bin:/bin"))];
    let id = world.task("writer");
    world.start();
    world.good_works();
    world.shows("`goose` is not on PATH; install it, or name another in calypso.toml, [agent]");
    world.cli(&["run", "--once"]).tells(3, "");
    assert_eq!(world.status_of(id), "idle");
    assert_eq!(world.runs_of(&format!("task_{id}")), 0, "nothing was tried");
    fs::rename(world.beside("bin/.goose"), world.beside("bin/goose")).expect("ours");
    world.eventually("goose is there", || world.status_of(id) == "complete");
}

#[test]
fn a_program_that_cannot_be_started_says_why() {
    let mut world = World::with(
        "",
        "[queues.missing]\ncommand = [\"/no/such/program\"]\n[queues.folder]\ncommand = [\"/tmp\"]\n\
         [queues.data]\ncommand = [\"/etc/passwd\"]\n[queues.name]\ncommand = [\"no-such-program\"]\n",
    );
    let cases = [
        ("missing", "`/no/such/program` is not there"),
        ("folder", "`/tmp` is a directory"),
        ("data", "`/etc/passwd` is not executable: `chmod +x` it"),
        ("name", "`no-such-program` is not on PATH"),
    ];
    let ids = cases.map(|(queue, _)| world.task(queue));
    world.start();
    world.good_works();
    for (id, (_, why)) in ids.iter().zip(cases) {
        let said = world.why(*id);
        assert!(
            said.contains(&format!("{why}; looked for again each minute")),
            "{said}"
        );
        assert_eq!(world.runs_of(&format!("task_{id}")), 0);
    }
}

#[test]
fn a_program_that_cannot_be_executed_after_all_is_no_attempt() {
    // Found, executable, and yet exec fails: its interpreter is missing.
    let mut world = World::with(
        "",
        "[queues.broken]\ncommand = [\"{base_path}/broken.sh\"]\n",
    );
    world.write("broken.sh", "#!/no/such/interpreter\n");
    // The placeholder is filled in at launch, so the settings name the real path.
    let path = world.base.join("broken.sh");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("ours");
    world.settings(
        "",
        &format!("[queues.broken]\ncommand = [\"{}\"]\n", path.display()),
    );
    let id = world.task("broken");
    world.start();
    world.eventually("the failed start is judged", || {
        world.why(id).contains("No such file or directory")
    });
    world.good_works();
    assert_eq!(world.status_of(id), "idle");
}
