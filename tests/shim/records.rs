//! Run directories and records, without any process.

use calypso_watch::core::model::{FileKey, RunSubject, TaskId, TaskStatus, Timestamp};
use calypso_watch::core::record::{
    BaselineTask, FileVerdict, Marks, TaskVerdict, Verdict, VerdictRecord,
};

use super::*;

fn verdict(run: &Run<'_>, judged: i64, tasks: &[i64]) -> VerdictRecord {
    VerdictRecord {
        format: FORMAT,
        run: run.dir.id,
        title: None,
        queue: run.dir.queue.clone(),
        attempt: 1,
        stay: 1,
        provider: None,
        outcome: Outcome::Exited(0),
        tasks: tasks
            .iter()
            .map(|&id| TaskVerdict {
                previous_assigned_to: None,
                updated_at: None,
                key: TaskKey {
                    id: id.try_into().expect("a task"),
                    created_at: 1,
                },
                attempt: 1,
                stay: 1,
                verdict: Verdict::Done,
                fields: 0,
                last_comment: 0,
                write: None,
            })
            .collect(),
        files: vec![],
        failure: None,
        tokens: None,
        cost: None,
        started: None,
        ended: None,
        judged: Moment {
            wall: Timestamp(judged),
            boot_id: "b".into(),
            boot: Millis(0),
        },
        late: false,
    }
}

fn judge(run: &Run<'_>, judged: i64, tasks: &[i64]) -> VerdictRecord {
    drop(run.prepare());
    let verdict = verdict(run, judged, tasks);
    runs::write_verdict(
        run.layout(),
        &run.dir,
        &verdict,
        files::Durability::PowerCut,
    )
    .expect("a verdict");
    verdict
}

#[test]
fn finishing_twice_adds_nothing_twice() {
    let world = World::new();
    let run = world.sh(7, 1, "true");
    let first = judge(&run, 10, &[7, 8]);
    assert_eq!(
        runs::list_live(&world.layout).expect("a list").0,
        std::slice::from_ref(&run.dir)
    );
    for _ in 0..3 {
        runs::finish(&world.layout, &run.dir, &first, runs::Finishing::Again).expect("finished");
    }
    assert!(runs::list_live(&world.layout).expect("a list").0.is_empty());
    assert_eq!(
        runs::recent(&world.layout, 10).expect("recent"),
        std::slice::from_ref(&first)
    );
    for task in [7, 8] {
        let subject = RunSubject::Task(TaskId::try_from(task).expect("a task"));
        let history = runs::history(&world.layout, subject).expect("a history");
        let verdicts: Vec<_> = history.verdicts.iter().map(AsRef::as_ref).collect();
        assert_eq!(verdicts, [&first], "task {task}");
        assert_eq!(history.last_run, u32::from(task == 7));
    }
    assert_eq!(runs::subjects(&world.layout).expect("subjects").len(), 2);
}

#[test]
fn a_history_torn_by_a_power_cut_loses_one_line() {
    let world = World::new();
    let run = world.sh(7, 1, "true");
    let first = judge(&run, 10, &[7]);
    runs::finish(&world.layout, &run.dir, &first, runs::Finishing::Again).expect("finished");
    let history = world.layout.history();
    let mut text = std::fs::read(&history).expect("a history");
    text.extend(b"{\"format\":1,\"run\":\"7/9\",\"tit");
    std::fs::write(&history, text).expect("torn");
    let run = world.sh(7, 2, "true");
    let second = judge(&run, 20, &[7]);
    runs::finish(&world.layout, &run.dir, &second, runs::Finishing::Again).expect("finished");
    let both = [first, second];
    assert_eq!(runs::recent(&world.layout, 10).expect("recent"), both);
    assert_eq!(runs::recent(&world.layout, 1).expect("recent"), both[1..]);
    std::fs::remove_file(&history).expect("remove");
    assert_eq!(runs::recent(&world.layout, 10).expect("rebuilt"), both);
}

#[test]
fn a_long_history_is_read_from_its_end() {
    let world = World::new();
    let run = world.sh(7, 1, "true");
    let mut text = String::new();
    for at in 0..2_000 {
        let mut line = verdict(&run, at, &[7]);
        // Some lines are longer than a block.
        line.title = Some("x".repeat(if at % 500 == 499 { 100_000 } else { 10 }));
        text += &serde_json::to_string(&line).expect("a line");
        text += "\n";
    }
    std::fs::write(world.layout.history(), text).expect("a history");
    for limit in [1, 7, 600, 2_000, 5_000] {
        let found = runs::recent(&world.layout, limit).expect("recent");
        let walls: Vec<i64> = found.iter().map(|line| line.judged.wall.0).collect();
        let expected: Vec<i64> = (2_000 - i64::min(limit as i64, 2_000)..2_000).collect();
        assert_eq!(walls, expected, "limit {limit}");
    }
}

#[test]
fn a_newer_record_is_refused_and_a_torn_one_is_none() {
    let world = World::new();
    let run = world.sh(42, 2, "true");
    drop(run.prepare());
    let spec = run.paths().spec();
    for torn in [
        "",
        "{",
        "null",
        "[1]",
        "{\"format\":1}",
        "{\"format\":\"x\"}",
    ] {
        std::fs::write(&spec, torn).expect("a spec");
        assert!(
            runs::read_spec(&world.layout, &run.dir)
                .expect("no error")
                .is_none(),
            "{torn}"
        );
    }
    std::fs::write(&spec, "{\"format\":3,\"new\":true}").expect("a spec");
    let error = runs::read_spec(&world.layout, &run.dir).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "record of run `42/2` was written by a newer calypso-watch (format 3, this one reads up to 1)"
    );
    std::fs::remove_file(&spec).expect("remove");
    std::os::unix::fs::symlink("/etc/hostname", &spec).expect("a symlink");
    assert!(matches!(
        runs::read_spec(&world.layout, &run.dir),
        Err(runs::Error::Io { .. })
    ));
}

#[test]
fn litter_goes_and_nothing_else() {
    let world = World::new();
    let run = world.sh(7, 1, "true");
    let lock = runs::create(&world.layout, &run.dir, &mut runs::Blanks::default())
        .expect("a run directory");
    assert!(
        !runs::clear_litter(&world.layout, &run.dir).expect("a look"),
        "locked"
    );
    drop(lock);
    assert!(runs::clear_litter(&world.layout, &run.dir).expect("a look"));
    assert!(!run.paths().dir.exists());
    assert!(runs::list_live(&world.layout).expect("a list").0.is_empty());
    // An entry without a directory: killed within D1.
    std::fs::write(world.layout.live_entry(&run.dir), "").expect("an entry");
    drop(run.prepare());
    assert!(
        !runs::clear_litter(&world.layout, &run.dir).expect("a look"),
        "has a spec"
    );
    assert!(run.paths().spec().exists());
}

#[test]
fn strangers_are_told_apart() {
    let world = World::new();
    let run = world.sh(7, 1, "true");
    drop(run.prepare());
    std::fs::write(run.paths().pid(), "5\n").expect("a pid");
    std::fs::hard_link(run.paths().pid(), run.pid_file()).expect("a link");
    let file = |task: i64| world.path(&format!("running_tasks/task_{task}.pid"));
    for (task, text) in [
        (1, ""),
        (2, "abc"),
        (3, "-1"),
        (4, "0"),
        (5, " 12 \n"),
        (6, "+5"),
    ] {
        std::fs::write(file(task), text).expect("a file");
    }
    std::fs::create_dir(file(8)).expect("a folder");
    std::os::unix::fs::symlink("/proc/1/stat", file(9)).expect("a symlink");
    std::fs::write(file(10), "7".repeat(10_000_000)).expect("a file");
    nix::unistd::mkfifo(file(11).as_std_path(), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    std::fs::write(world.path("running_tasks/notes"), "").expect("a file");
    let (names, runs) = (&mut files::Names::default(), std::slice::from_ref(&run.dir));
    let (found, odd) =
        runs::foreign_pid_files(&world.layout, runs, names, clock::wall()).expect("a look");
    assert_eq!(odd, ["notes"]);
    let says = |task: i64| {
        let subject = RunSubject::Task(task.try_into().expect("a task"));
        found.get(&subject).map(|file| file.pid.clone())
    };
    assert_eq!(says(5), Some(Ok(12)));
    assert_eq!(says(7), None);
    for (task, word) in [
        (1, "empty"),
        (2, "not a pid: `abc`"),
        (3, "not a pid"),
        (4, "not a pid"),
        (6, "not a pid"),
        (8, "a directory"),
        (9, "a symlink"),
        (10, "10000000 bytes"),
        (11, "not a regular file"),
    ] {
        let what = says(task).expect("seen").expect_err("odd");
        assert!(what.contains(word), "{task}: {what}");
    }
    let subject = RunSubject::Task(5.try_into().expect("a task"));
    let five = found.get(&subject).expect("seen");
    let clear = |inode, modified| {
        runs::clear_stranger(&world.layout, subject, inode, modified).expect("a look")
    };
    assert!(!clear(five.inode + 1, five.modified));
    // Somebody wrote another pid into it since the look.
    let rewritten = five.modified.plus(Millis(1));
    assert!(!clear(five.inode, rewritten));
    assert!(clear(five.inode, five.modified));
    assert!(!file(5).exists());
}

#[test]
fn only_closed_tasks_runs_are_forgotten() {
    let world = World::new();
    for number in 1..=5 {
        for task in [7, 8] {
            let run = world.sh(task, number, "true");
            let verdict = judge(&run, i64::from(number), &[task]);
            if number > 1 {
                runs::finish(&world.layout, &run.dir, &verdict, runs::Finishing::Again)
                    .expect("finished");
            }
        }
    }
    let subject = |task: i64| RunSubject::Task(task.try_into().expect("a task"));
    let numbers = |task| -> Vec<u32> {
        runs::list_runs(&world.layout, subject(task))
            .expect("a list")
            .iter()
            .map(|dir| dir.id.number)
            .collect()
    };
    let prune = |now, keep| {
        let is_open = |task: TaskId| task.number() == 8;
        runs::prune(&world.layout, now, keep, 2, is_open, |_| false).expect("pruned")
    };
    assert_eq!(prune(clock::wall(), Millis::secs(3600)), 2);
    // The first still has its entry in live/.
    assert_eq!(numbers(7), [1, 4, 5]);
    assert_eq!(numbers(8), [1, 2, 3, 4, 5]);
    let later = clock::wall().plus(Millis::secs(7200));
    assert_eq!(prune(later, Millis::secs(3600)), 2);
    assert_eq!(numbers(7), [1]);
    assert_eq!(numbers(8), [1, 2, 3, 4, 5]);
}

#[test]
fn what_tells_of_a_request_that_still_lies_is_not_forgotten() {
    let world = World::new();
    let file = |name: &str| FileKey {
        name: name.into(),
        inode: 1,
        modified: 1,
    };
    for number in 1..=6 {
        let mut run = world.sh(7, number, "true");
        run.dir.id.subject = RunSubject::Inbound;
        let mut verdict = judge(&run, i64::from(number), &[]);
        verdict.files = vec![FileVerdict {
            file: file(if number == 2 { "lies" } else { "went" }),
            left: number == 2,
            changed: None,
            created: Vec::new(),
        }];
        runs::write_verdict(&world.layout, &run.dir, &verdict, files::Durability::Crash)
            .expect("written");
        runs::finish(&world.layout, &run.dir, &verdict, runs::Finishing::Again).expect("finished");
    }
    let later = clock::wall().plus(Millis::secs(7200));
    let keep = Millis::secs(3600);
    let still_tells = |file: &FileVerdict| file.left && file.file.name == "lies";
    runs::prune(&world.layout, later, keep, 2, |_| false, still_tells).expect("pruned");
    let left: Vec<u32> = runs::list_runs(&world.layout, RunSubject::Inbound)
        .expect("a list")
        .iter()
        .map(|dir| dir.id.number)
        .collect();
    // The last one too: the next one's number follows from it.
    assert_eq!(left, [2, 6]);
}

#[test]
fn marks_are_kept() {
    let world = World::new();
    let subject = RunSubject::Inbound;
    assert_eq!(
        runs::read_marks(&world.layout, subject).expect("a look"),
        None
    );
    let marks = Marks {
        format: FORMAT,
        retried_after: 3,
        retried_at: None,
        released: vec![process::own()],
    };
    runs::write_marks(&world.layout, subject, &marks).expect("written");
    let history = runs::history(&world.layout, subject).expect("a history");
    assert_eq!(history.marks, marks);
}

#[test]
fn records_of_format_1_load_for_ever() {
    let world = World::new();
    let run = world.sh(42, 2, "true");
    drop(run.prepare());
    let paths = run.paths();
    for (name, to) in [
        ("spec", paths.spec()),
        ("state", paths.state()),
        ("ended", paths.ended()),
        ("verdict", paths.verdict()),
    ] {
        let from = format!(
            "{}/tests/data/record-v1/{name}.json",
            env!("CARGO_MANIFEST_DIR")
        );
        std::fs::copy(&from, to).expect("copied");
    }
    let spec = runs::read_spec(&world.layout, &run.dir)
        .expect("read")
        .expect("a spec");
    assert_eq!(spec.run.to_string(), "42/2");
    assert_eq!(spec.limits.time, Millis::secs(3600));
    let state = runs::read_state(&world.layout, &run.dir)
        .expect("read")
        .expect("a state");
    assert_eq!(state.token, spec.token);
    let ended = runs::read_ended(&world.layout, &run.dir)
        .expect("read")
        .expect("an end");
    assert_eq!(ended.outcome, Outcome::TimedOut);
    let verdict = runs::read_verdict(&world.layout, &run.dir)
        .expect("read")
        .expect("a verdict");
    assert_eq!(verdict.tokens, Some(182_000));
    let from = format!(
        "{}/tests/data/record-v1/marks.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let subject = run.dir.id.subject;
    std::fs::copy(&from, world.layout.marks(subject)).expect("copied");
    let marks = runs::read_marks(&world.layout, subject)
        .expect("read")
        .expect("marks");
    assert_eq!(marks.retried_after, 2);
}

#[test]
fn a_spec_torn_by_a_power_cut_holds_nothing_for_ever() {
    let world = World::new();
    let run = world.sh(7, 1, "true");
    drop(run.prepare());
    std::fs::write(run.paths().spec(), "{\"format\": 1, \"tok").expect("torn");
    assert!(runs::clear_litter(&world.layout, &run.dir).expect("a look"));
    assert!(runs::list_live(&world.layout).expect("a list").0.is_empty());
    assert!(run.paths().spec().exists(), "it stays to be looked at");
}

#[test]
fn a_run_over_120_000_requests_is_recorded_and_read_again() {
    let world = World::new();
    let key = |n: u64| FileKey {
        name: format!("request-number-{n}.md"),
        inode: 1_000_000_000 + n,
        modified: 1_763_838_000_000,
    };
    let mut run = world.sh(7, 1, "true");
    run.dir.id.subject = RunSubject::Inbound;
    run.spec.run = run.dir.id;
    run.spec.baseline.inbound = (0..120_000).map(key).collect();
    run.spec.baseline.tasks = (1..=80_000)
        .map(|id| BaselineTask {
            key: TaskKey {
                id: TaskId::try_from(id).expect("positive"),
                created_at: 1_763_838_000,
            },
            status: TaskStatus::Idle,
            fields: u64::MAX,
            last_comment: None,
        })
        .collect();
    drop(run.prepare());
    let spec = runs::read_spec(&world.layout, &run.dir).expect("readable");
    assert_eq!(spec.as_ref(), Some(&run.spec));
    // A bad end: each was left, changed, and perhaps dispatched.
    let mut verdict = verdict(&run, 1, &[]);
    verdict.files = (0..120_000)
        .map(|n| FileVerdict {
            file: key(n),
            left: true,
            changed: Some(key(n + 1)),
            created: vec![TaskId::try_from(1_000_001).expect("positive")],
        })
        .collect();
    runs::write_verdict(&world.layout, &run.dir, &verdict, files::Durability::Crash)
        .expect("written");
    runs::finish(&world.layout, &run.dir, &verdict, runs::Finishing::Again).expect("finished");
    let history = runs::history(&world.layout, RunSubject::Inbound).expect("readable");
    assert_eq!(history.verdicts.len(), 1);
    assert_eq!(history.verdicts[0].files.len(), 120_000);
    let recent = runs::recent(&world.layout, 10).expect("readable");
    assert_eq!(recent.len(), 1);
}

#[test]
fn a_record_that_could_not_be_read_again_is_not_written() {
    let world = World::new();
    let run = world.sh(7, 1, "true");
    drop(run.prepare());
    let mut verdict = verdict(&run, 1, &[]);
    verdict.title = Some("x".repeat(129 << 20));
    let error = runs::write_verdict(&world.layout, &run.dir, &verdict, files::Durability::Crash)
        .expect_err("too large");
    assert!(matches!(error, runs::Error::TooLarge { .. }), "{error:?}");
    assert!(error.hint().is_some());
    assert!(!world.layout.run(&run.dir).verdict().exists());
}
