//! Run directories that are made ahead: what becomes of them, and what is not believed of them.

use std::collections::BTreeSet;

use super::*;

/// So many, with everything in them.
fn blanks(world: &World, many: usize) -> runs::Blanks {
    let mut blanks = runs::Blanks::find(&world.layout);
    for _ in 0..many {
        blanks.make_one(&world.layout).expect("a blank");
    }
    assert!(!blanks.are_short_of(many));
    blanks
}

fn inode(path: &Utf8Path) -> u64 {
    let meta = std::fs::symlink_metadata(path);
    meta.unwrap_or_else(|error| panic!("{path}: {error}")).ino()
}

/// Of everything in a folder, and the folder itself.
fn inodes(folder: &Utf8Path) -> BTreeSet<u64> {
    let entries = folder.read_dir_utf8().expect("a folder");
    let files = entries.map(|entry| inode(entry.expect("readable").path()));
    files.chain([inode(folder)]).collect()
}

fn names(folder: &Utf8Path) -> Vec<String> {
    let entries = folder.read_dir_utf8().expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("readable").file_name().to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_start_makes_no_inode_where_there_is_a_blank() {
    let world = World::new();
    let mut blanks = blanks(&world, 1);
    let made_ahead = inodes(&world.layout.blank(1).dir);
    let run = world.sh(7, 1, "read go < fifo");
    nix::unistd::mkfifo(
        world.path("fifo").as_std_path(),
        nix::sys::stat::Mode::S_IRWXU,
    )
    .expect("a fifo");
    run.start_with(run.prepare_of(&mut blanks), &[]);
    let agent = run.agent();
    let paths = run.paths();
    for path in [
        paths.dir.clone(),
        paths.shim_lock(),
        paths.spec(),
        paths.agent_lock(),
        paths.state(),
        paths.output(),
        paths.pid(),
        run.pid_file(),
    ] {
        assert!(made_ahead.contains(&inode(&path)), "{path} was made anew");
    }
    assert_eq!(
        inode(&world.layout.live_entry(&run.dir)),
        inode(&world.layout.blank_entry())
    );
    let mode = |path: &Utf8Path| std::fs::metadata(path).expect("there").permissions().mode();
    assert_eq!(mode(&paths.output()) & 0o777, 0o600);
    signal(&agent, process::Signal::KILL);
    run.outcome();
    assert!(made_ahead.contains(&inode(&paths.state())));
    // The verdict's is left, which goes with the verdict.
    assert_eq!(
        names(&paths.dir),
        [
            ".verdict.json.new",
            "agent.lock",
            "output.log",
            "pid",
            "shim.lock",
            "spec.json",
            "state.json"
        ]
    );
    assert!(blanks.are_short_of(1));
}

#[test]
fn what_a_blank_lacks_is_made() {
    let world = World::new();
    let mut blanks = blanks(&world, 4);
    // As left by a daemon that was killed while it made them: an empty one, one with a part, and an entry that went.
    let all = names(&world.layout.blank(1).dir);
    for name in &all {
        std::fs::remove_file(world.layout.blank(1).dir.join(name)).expect("a file");
    }
    for name in all.iter().step_by(2) {
        std::fs::remove_file(world.layout.blank(2).dir.join(name)).expect("a file");
    }
    std::fs::remove_dir_all(world.layout.blank(3).dir).expect("a folder");
    std::fs::remove_file(world.layout.blank_entry()).expect("a file");
    for number in 1..=5 {
        let run = world.sh(7, number, "echo said");
        run.start_with(run.prepare_of(&mut blanks), &[]);
        assert_eq!(run.outcome(), Outcome::Exited(0));
        let said = std::fs::read_to_string(run.paths().output());
        assert_eq!(said.expect("a log"), "said\n");
    }
    assert!(names(&world.layout.blanks()).is_empty());
}

#[test]
fn a_daemon_uses_what_another_left() {
    let world = World::new();
    drop(blanks(&world, 2));
    let mut blanks = runs::Blanks::find(&world.layout);
    assert!(blanks.are_short_of(3) && !blanks.are_short_of(2));
    blanks.make_one(&world.layout).expect("a third");
    assert_eq!(names(&world.layout.blanks()), ["1", "2", "3", "entry"]);
}

#[test]
fn nothing_is_written_through_what_somebody_put_into_a_blank() {
    let world = World::new();
    let secret = world.path("secret");
    std::fs::write(&secret, "").expect("a file");
    let mut blanks = blanks(&world, 1);
    let blank = world.layout.blank(1).dir;
    for name in names(&blank) {
        let path = blank.join(&name);
        std::fs::remove_file(&path).expect("a file");
        // The log too: it is appended to.
        match name.as_str() {
            ".spec.json.new" | ".output.log.new" => {
                std::os::unix::fs::symlink(&secret, &path).expect("a symlink");
            }
            _ => std::fs::hard_link(&secret, &path).expect("a link"),
        }
    }
    let run = world.sh(7, 1, "echo said");
    let lock = runs::create(run.layout(), &run.dir, &mut blanks).expect("a run directory");
    // A symlink under a temporary name is refused, as ever.
    runs::write_spec(run.layout(), &run.dir, &run.spec).expect_err("a symlink");
    drop(lock);
    assert_eq!(std::fs::read_to_string(&secret).expect("there"), "");
    // Nor is a link taken for a blank.
    let elsewhere = world.path("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a folder");
    let run = world.sh(7, 3, "echo said");
    let mut blanks = self::blanks(&world, 1);
    let blank = world.layout.blank(1).dir;
    std::fs::remove_dir_all(&blank).expect("a folder");
    std::os::unix::fs::symlink(&elsewhere, &blank).expect("a symlink");
    run.start_with(run.prepare_of(&mut blanks), &[]);
    assert_eq!(run.outcome(), Outcome::Exited(0));
    assert!(names(&elsewhere).is_empty());
    assert!(run.paths().dir.symlink_metadata().expect("there").is_dir());
}

#[test]
fn of_two_shims_of_one_blank_one_runs() {
    let world = World::new();
    let mut blanks = blanks(&world, 1);
    let run = world.sh(7, 1, "echo begun");
    let lock = run.prepare_of(&mut blanks);
    // The lock's description is the same, as if the daemon had started it twice.
    run.start_with(lock.try_clone().expect("a descriptor"), &[]);
    run.start_with(lock, &[]);
    assert_eq!(run.outcome(), Outcome::Exited(0));
    eventually("both are over", || {
        (!files::is_held_at(&run.paths().shim_lock()).expect("a look")).then_some(())
    });
    let said = std::fs::read_to_string(run.paths().output());
    assert_eq!(said.expect("a log"), "begun\n");
}

#[test]
fn a_number_that_is_taken_stays_taken_and_the_blank_is_kept() {
    let world = World::new();
    let mut blanks = blanks(&world, 1);
    let run = world.sh(7, 1, "true");
    drop(run.prepare());
    assert!(matches!(
        runs::create(run.layout(), &run.dir, &mut blanks),
        Err(runs::Error::AlreadyThere { .. })
    ));
    assert!(!blanks.are_short_of(1));
    assert!(world.layout.blank(1).dir.is_dir());
}
