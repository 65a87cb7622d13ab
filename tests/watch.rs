//! Does the watcher tell the truth? Real inotify on real folders; every wait is for a level, with a limit.
#![expect(
    clippy::print_stdout,
    reason = "a test's child tells its parent where it is"
)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use calypso_watch::core::InboundState;
use calypso_watch::core::layout::Layout;
use calypso_watch::core::model::{Millis, TaskId, Timestamp};
use calypso_watch::edge::files::Names;
use calypso_watch::edge::watch::{self, Areas, Error, Wake, Watch};
use calypso_watch::edge::{clock, inbound};
use camino::{Utf8Path, Utf8PathBuf};

#[path = "support/stop.rs"]
mod stop;

use stop::stop;

const LIMIT: Duration = Duration::from_secs(20);

struct World {
    _dir: tempfile::TempDir,
    layout: Layout,
    watch: Watch,
}

fn utf8(path: &Path) -> &Utf8Path {
    Utf8Path::from_path(path).expect("UTF-8")
}

fn base() -> (tempfile::TempDir, Layout) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let real = utf8(dir.path()).canonicalize_utf8().expect("there");
    (dir, Layout::new(real))
}

impl World {
    fn new() -> Self {
        let (dir, layout) = base();
        let watch = watch::start(&layout, None).expect("inotify works here");
        Self {
            _dir: dir,
            layout,
            watch,
        }
    }

    /// Wakes until `is_it`; gives all of them as one.
    async fn until(&mut self, is_it: impl Fn(&Wake) -> bool) -> Wake {
        let mut all = Wake::default();
        let found = tokio::time::timeout(LIMIT, async {
            while !is_it(&all) {
                let wake = self.watch.next().await;
                assert_eq!(wake.areas.is_empty(), wake.first_event.is_none());
                all.areas.add(wake.areas);
                all.first_event = all.first_event.or(wake.first_event);
                all.lost.extend(wake.lost);
            }
        });
        assert!(found.await.is_ok(), "not within {LIMIT:?}; so far {all:?}");
        all
    }

    /// Takes wakes until none comes any more and nothing settles.
    async fn calm(&mut self) {
        let quiet = Duration::from_millis(400);
        let calm = async {
            while tokio::time::timeout(quiet, self.watch.next()).await.is_ok()
                || self.watch.is_settling()
            {}
        };
        tokio::time::timeout(LIMIT, calm)
            .await
            .expect("it calms down");
    }

    fn look(&self) -> Vec<(String, InboundState)> {
        inbound::look(
            &self.layout.inbound(),
            &mut Names::default(),
            Millis::secs(3600),
            &[],
            clock::wall(),
            &self.watch.closed_inbound(),
        )
        .expect("readable")
        .into_iter()
        .map(|entry| (entry.key.name, entry.state))
        .collect()
    }

    fn state(&self, name: &str) -> Option<InboundState> {
        let all = self.look();
        all.into_iter().find(|(n, _)| n == name).map(|(_, s)| s)
    }
}

fn write(path: impl AsRef<Path>, bytes: &[u8]) {
    let mut file = File::create(path).expect("writable");
    file.write_all(bytes).expect("writable");
}

fn task(number: i64) -> TaskId {
    number.try_into().expect("positive")
}

const SETTLED: Option<InboundState> = Some(InboundState::Settled { endless: false });

#[tokio::test]
async fn the_folders_are_made_and_each_tells_of_its_own() {
    let mut world = World::new();
    let l = world.layout.clone();
    world.calm().await;
    type Is = fn(&Areas) -> bool;
    let cases: [(Utf8PathBuf, Is); 6] = [
        (l.inbound().join("a.md"), |a| a.inbound),
        (l.workqueue().join("task_1"), |a| a.workqueue),
        (l.running_tasks().join("task_1.pid"), |a| a.running),
        (l.recipes().join("coder.yaml"), |a| a.recipes),
        (l.config(), |a| a.config),
        (l.control().join("pause"), |a| a.control),
    ];
    for (path, is_it) in cases {
        write(&path, b"x");
        let wake = world.until(|wake| is_it(&wake.areas)).await;
        assert!(
            !wake.areas.rescan && wake.lost.is_empty(),
            "{path}: {wake:?}"
        );
        assert!(wake.first_event.is_some_and(|at| clock::wall() >= at));
        world.calm().await;
        std::fs::remove_file(&path).expect("removable");
        let wake = world.until(|wake| is_it(&wake.areas)).await;
        assert!(
            !wake.areas.rescan && wake.lost.is_empty(),
            "{path}: {wake:?}"
        );
        world.calm().await;
    }
}

#[tokio::test]
async fn a_file_is_known_complete_when_its_writer_closes_it() {
    let mut world = World::new();
    let inbound = world.layout.inbound();
    let mut file = File::create(inbound.join("slow.md")).expect("writable");
    file.write_all(b"half").expect("writable");
    world.until(|wake| wake.areas.inbound).await;
    assert!(
        matches!(world.state("slow.md"), Some(InboundState::Settling { .. })),
        "{:?}",
        world.look()
    );
    file.write_all(b"whole").expect("writable");
    drop(file);
    let mut tries = world.until(|wake| wake.areas.inbound).await;
    while world.state("slow.md") != SETTLED {
        tries = world.until(|wake| wake.areas.inbound).await;
    }
    assert!(!tries.areas.rescan);
    // Opened again, it is not.
    let mut file = File::options()
        .append(true)
        .open(inbound.join("slow.md"))
        .expect("there");
    file.write_all(b"more").expect("writable");
    world.until(|wake| wake.areas.inbound).await;
    assert!(matches!(
        world.state("slow.md"),
        Some(InboundState::Settling { .. })
    ));
}

#[tokio::test]
async fn a_writer_that_pauses_before_its_first_byte_is_waited_for() {
    let mut world = World::new();
    let file = File::create(world.layout.inbound().join("slow.md")).expect("writable");
    world.until(|wake| wake.areas.inbound).await;
    // As a look five seconds later would see it: the times say settled, the watcher knows better, for ten seconds.
    let later = Timestamp(clock::wall().0 + 5_000);
    let look = |known: &inbound::Closed| {
        let dir = world.layout.inbound();
        inbound::look(
            &dir,
            &mut Names::default(),
            Millis::secs(1),
            &[],
            later,
            known,
        )
        .expect("readable")[0]
            .state
            .clone()
    };
    assert!(matches!(
        look(&world.watch.closed_inbound()),
        InboundState::Settling { .. }
    ));
    assert_eq!(Some(look(&inbound::Closed::new())), SETTLED);
    drop(file);
}

#[tokio::test]
async fn what_is_renamed_or_linked_in_is_complete_at_once() {
    let mut world = World::new();
    let (inbound, outside) = (world.layout.inbound(), world.layout.base().join("aside"));
    std::fs::create_dir(&outside).expect("writable");
    for name in ["moved.md", "linked.md"] {
        write(outside.join(name), b"all of it");
    }
    std::fs::rename(outside.join("moved.md"), inbound.join("moved.md")).expect("same disk");
    std::fs::hard_link(outside.join("linked.md"), inbound.join("linked.md")).expect("same disk");
    while world.state("moved.md") != SETTLED || world.state("linked.md") != SETTLED {
        world.until(|wake| wake.areas.inbound).await;
    }
    // What is taken away and what comes under its name are told apart.
    std::fs::remove_file(inbound.join("moved.md")).expect("there");
    world.until(|wake| wake.areas.inbound).await;
    let known = world.watch.closed_inbound();
    assert!(known.keys().all(|name| name != "moved.md"), "{known:?}");
}

#[tokio::test]
async fn a_file_linked_in_and_unlinked_at_its_old_name_at_once_is_not_taken_for_one_being_written()
{
    let mut world = World::new();
    let inbound = world.layout.inbound();
    let aside = world.layout.base().join("aside.md");
    for round in 0..50 {
        write(&aside, b"all of it");
        let name = format!("request-{round}.md");
        std::fs::hard_link(&aside, inbound.join(&name)).expect("same disk");
        std::fs::remove_file(&aside).expect("there");
    }
    world.calm().await;
    let known = world.watch.closed_inbound();
    assert!(
        known.values().all(|(_, writing)| writing.is_none()),
        "{known:?}"
    );
}

#[tokio::test]
async fn looking_does_not_wake() {
    let mut world = World::new();
    let folder = world.layout.inbound().join("folder");
    std::fs::create_dir(&folder).expect("writable");
    write(world.layout.inbound().join("a.md"), b"x");
    world.calm().await;
    for _ in 0..3 {
        world.look();
        for dir in [
            world.layout.base().to_owned(),
            world.layout.workqueue(),
            world.layout.recipes(),
            world.layout.control(),
            folder.clone(),
        ] {
            assert!(std::fs::read_dir(dir).expect("there").count() < 100);
        }
        std::fs::read(world.layout.inbound().join("a.md")).expect("there");
    }
    let woken = tokio::time::timeout(Duration::from_millis(500), world.watch.next()).await;
    assert!(woken.is_err(), "{woken:?}");
}

/// Runs the named test of this file in a process of its own; true in that process. `wrapper` goes before its command line.
fn is_alone(test: &str, wrapper: &[&str]) -> bool {
    if is_child() {
        return true;
    }
    let status = child(test, wrapper).status().expect("this program again");
    assert!(status.success(), "{test}: {status}");
    false
}

fn is_child() -> bool {
    std::env::vars_os().any(|(name, _)| name == "ALONE")
}

fn child(test: &str, wrapper: &[&str]) -> Command {
    let own = std::env::current_exe().expect("known");
    let mut command = match wrapper.split_first() {
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).arg(own);
            command
        }
        None => Command::new(own),
    };
    command
        .args(["--exact", test, "--nocapture"])
        .env("ALONE", "1");
    command
}

/// Name and number of times it went to sleep by itself, of each thread of this process.
fn threads() -> Vec<(String, u64)> {
    std::fs::read_dir("/proc/self/task")
        .expect("Linux")
        .flatten()
        .filter_map(|thread| {
            let status = std::fs::read_to_string(thread.path().join("status")).ok()?;
            let field = |key: &str| {
                let line = status.lines().find(|line| line.starts_with(key))?;
                Some(line.split_once(':')?.1.trim().to_owned())
            };
            Some((
                field("Name")?,
                field("voluntary_ctxt_switches")?.parse().ok()?,
            ))
        })
        .collect()
}

/// Inotify's thread, and the debouncer's while it lives.
fn of_notify() -> Vec<(String, u64)> {
    let mut all = threads();
    all.retain(|(name, _)| name.starts_with("notify"));
    all
}

/// The daemon is not there before the file is closed.
#[tokio::test]
async fn a_file_written_in_one_go_is_told_before_the_debouncer_begins() {
    if !is_alone(
        "a_file_written_in_one_go_is_told_before_the_debouncer_begins",
        &[],
    ) {
        return;
    }
    let mut world = World::new();
    world.calm().await;
    write(world.layout.inbound().join("a.md"), b"a request");
    let closed = async {
        while world.state("a.md") != SETTLED {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LIMIT, closed).await.expect("closed");
    let wake = tokio::time::timeout(LIMIT, world.watch.next()).await;
    assert!(wake.expect("a wake").areas.inbound);
    assert_eq!(of_notify().len(), 1, "{:?}", threads());
    let begins = async {
        while of_notify().len() < 2 {
            tokio::time::timeout(Duration::from_millis(1), world.watch.next())
                .await
                .ok();
        }
    };
    tokio::time::timeout(LIMIT, begins)
        .await
        .expect("the debouncer's thread begins");
}

/// A look may take long, and as many events must not pile up meanwhile.
#[tokio::test]
async fn the_debouncer_begins_by_itself_where_the_daemon_does_not_come_for_what_settles() {
    if !is_alone(
        "the_debouncer_begins_by_itself_where_the_daemon_does_not_come_for_what_settles",
        &[],
    ) {
        return;
    }
    let mut world = World::new();
    world.calm().await;
    for number in 0..200 {
        write(world.layout.recipes().join(format!("{number}.yaml")), b"x");
    }
    let begins = async {
        while of_notify().len() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LIMIT, begins)
        .await
        .expect("the debouncer's thread begins");
    world.until(|wake| wake.areas.recipes).await;
}

#[tokio::test]
async fn nothing_ticks_while_nothing_happens() {
    if !is_alone("nothing_ticks_while_nothing_happens", &[]) {
        return;
    }
    let mut world = World::new();
    world.calm().await;
    write(world.layout.recipes().join("a.yaml"), b"x");
    let begins = async {
        while of_notify().len() < 2 {
            let woken = tokio::time::timeout(Duration::from_millis(1), world.watch.next()).await;
            assert!(woken.is_err(), "it is to settle first: {woken:?}");
        }
    };
    tokio::time::timeout(LIMIT, begins)
        .await
        .expect("the debouncer's thread begins");
    world.until(|wake| wake.areas.recipes).await;
    world.calm().await;
    let ended = async {
        while of_notify().len() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, ended)
        .await
        .expect("the debouncer's thread ends");
    let before = of_notify();
    let woken = tokio::time::timeout(Duration::from_secs(2), world.watch.next()).await;
    assert!(woken.is_err(), "{woken:?}");
    assert_eq!(before, of_notify(), "it slept all the time");
}

/// The kernel keeps so many events; the rest is lost, and that is told. The watching process is stopped meanwhile, so that it
/// cannot keep up.
#[tokio::test]
async fn lost_events_are_told() {
    if is_child() {
        let mut world = World::new();
        world.calm().await;
        write(world.layout.inbound().join("known.md"), b"x");
        world.until(|wake| wake.areas.inbound).await;
        assert_eq!(world.watch.closed_inbound().len(), 1);
        println!("base {}", world.layout.base());
        let wake = world
            .until(|wake| wake.lost.iter().any(|lost| lost.contains("more happened")))
            .await;
        assert!(wake.areas.rescan);
        assert!(wake.first_event.is_some());
        world.calm().await;
        // What was known before may have changed unseen. What came after the loss is known again.
        let known = world.watch.closed_inbound();
        assert!(known.keys().all(|name| name != "known.md"), "{known:?}");
        write(world.layout.inbound().join("after.md"), b"x");
        while world.state("after.md") != SETTLED {
            world.until(|wake| wake.areas.inbound).await;
        }
        return;
    }
    let mut child = child("lost_events_are_told", &[])
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program again");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let base = lines
        .by_ref()
        .map(|line| line.expect("UTF-8"))
        .find_map(|line| line.split_once("base ").map(|(_, base)| base.to_owned()))
        .expect("it told its base path");
    let layout = Layout::new(base);
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    stop(child.id() as i32);
    let limit: usize = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
        .expect("Linux")
        .trim()
        .parse()
        .expect("a number");
    // At least create, open and close each.
    for number in 0..limit / 3 + 100 {
        drop(File::create(layout.control().join(format!("pause-{number}"))).expect("writable"));
    }
    nix::sys::signal::kill(pid, nix::sys::signal::SIGCONT).expect("our own child");
    lines.for_each(drop);
    assert!(child.wait().expect("our own child").success());
}

/// Limits of inotify are per user and per user namespace: a namespace of its own leaves the other tests alone.
fn limited(test: &str, limit: &str) -> bool {
    const NAMESPACE: [&str; 4] = ["unshare", "--user", "--map-root-user", "--"];
    if !is_child() {
        let works = Command::new(NAMESPACE[0])
            .args(&NAMESPACE[1..])
            .arg("true")
            .status();
        if !works.is_ok_and(|status| status.success()) {
            println!("not shown: no user namespaces here");
            return false;
        }
    }
    let script = format!("echo {limit} && exec \"$@\"");
    is_alone(
        test,
        &[&NAMESPACE[..], &["sh", "-c", &script, "sh"]].concat(),
    )
}

#[test]
fn no_inotify_instance_left_is_told_with_the_way_out() {
    let test = "no_inotify_instance_left_is_told_with_the_way_out";
    if limited(test, "0 > /proc/sys/user/max_inotify_instances") {
        let (_dir, layout) = base();
        let error = watch::start(&layout, None).err().expect("none left");
        assert!(matches!(error, Error::InstanceLimit { .. }), "{error:?}");
        assert!(
            error
                .to_string()
                .contains("limit of inotify instances is reached")
        );
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("max_user_instances"))
        );
    }
}

#[test]
fn no_inotify_watch_left_is_told_with_the_way_out() {
    let test = "no_inotify_watch_left_is_told_with_the_way_out";
    if limited(test, "3 > /proc/sys/user/max_inotify_watches") {
        let (_dir, layout) = base();
        let error = watch::start(&layout, None).err().expect("none left");
        assert!(matches!(error, Error::WatchLimit { .. }), "{error:?}");
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("max_user_watches"))
        );
    }
}

#[test]
fn task_folders_beyond_the_limit_are_left_to_the_rescan() {
    let test = "task_folders_beyond_the_limit_are_left_to_the_rescan";
    if limited(test, "8 > /proc/sys/user/max_inotify_watches") {
        let (_dir, layout) = base();
        let mut watch = watch::start(&layout, None).expect("six are enough for the base path");
        let tasks: BTreeSet<TaskId> = (1..=4).map(task).collect();
        for task in &tasks {
            std::fs::create_dir(layout.task_folder(*task)).expect("writable");
        }
        let error = watch.watch_tasks(&tasks).expect_err("two fit");
        assert!(matches!(error, Error::WatchLimit { .. }), "{error:?}");
        watch
            .watch_tasks(&tasks.into_iter().take(2).collect())
            .expect("two fit");
    }
}

#[tokio::test]
async fn a_burst_of_recipe_edits_is_told_once_it_is_quiet() {
    let mut world = World::new();
    world.calm().await;
    let path = world.layout.recipes().join("coder.yaml");
    for round in 0..20 {
        write(&path, format!("title: {round}").as_bytes());
    }
    let mut wakes = 0;
    let heard = async {
        while !world.watch.is_settling() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LIMIT, heard).await.expect("heard of");
    while world.watch.is_settling() {
        if let Ok(wake) = tokio::time::timeout(Duration::from_millis(50), world.watch.next()).await
        {
            assert!(wake.areas.recipes);
            wakes += 1;
        }
    }
    assert!((1..20).contains(&wakes), "{wakes} wakes for 20 edits");
}

#[tokio::test]
async fn what_never_settles_is_told_all_the_same() {
    let mut world = World::new();
    world.calm().await;
    let path = world.layout.recipes().join("log.yaml");
    let writer = tokio::spawn(async move {
        loop {
            File::options()
                .create(true)
                .append(true)
                .open(&path)
                .and_then(|mut file| file.write_all(b"more\n"))
                .expect("writable");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    for _ in 0..2 {
        world.until(|wake| wake.areas.recipes).await;
    }
    writer.abort();
    assert!(writer.await.is_err());
    world.calm().await;
}

#[tokio::test]
async fn task_folders_tell_while_they_are_watched_and_no_longer() {
    let mut world = World::new();
    let folder = world.layout.task_folder(task(7));
    let both = BTreeSet::from([task(7), task(8)]);
    world
        .watch
        .watch_tasks(&both)
        .expect("a missing folder is no error");
    std::fs::create_dir(&folder).expect("writable");
    world.until(|wake| wake.areas.workqueue).await;
    world.watch.watch_tasks(&both).expect("within the limit");
    world.calm().await;
    write(folder.join("index.md"), b"x");
    world.until(|wake| wake.areas.workqueue).await;
    world.calm().await;
    // Deleted and made again: watched again, once asked for.
    std::fs::remove_dir_all(&folder).expect("there");
    world.until(|wake| wake.areas.workqueue).await;
    std::fs::create_dir(&folder).expect("writable");
    world.calm().await;
    world.watch.watch_tasks(&both).expect("within the limit");
    world.calm().await;
    write(folder.join("index.md"), b"x");
    world.until(|wake| wake.areas.workqueue).await;
    world.watch.watch_tasks(&BTreeSet::new()).expect("none");
    world.calm().await;
    write(folder.join("index.md"), b"y");
    let woken = tokio::time::timeout(Duration::from_millis(500), world.watch.next()).await;
    assert!(woken.is_err(), "{woken:?}");
}

#[tokio::test]
async fn a_deleted_folder_is_made_again_and_told() {
    for round in 0..3 {
        let mut world = World::new();
        let inbound = world.layout.inbound();
        std::fs::remove_dir(&inbound).expect("empty");
        let wake = world.until(|wake| !wake.lost.is_empty()).await;
        assert!(wake.areas.inbound && wake.areas.rescan, "{round}: {wake:?}");
        assert!(
            wake.lost[0].contains("/inbound` was deleted; it is made"),
            "{wake:?}"
        );
        world.calm().await;
        write(inbound.join("after.md"), b"x");
        world.until(|wake| wake.areas.inbound).await;
    }
}

#[tokio::test]
async fn a_replaced_folder_is_watched_again() {
    let mut world = World::new();
    let inbound = world.layout.inbound();
    let aside = world.layout.base().join("aside");
    std::fs::create_dir(&aside).expect("writable");
    std::fs::rename(&inbound, world.layout.base().join("old")).expect("same disk");
    std::fs::rename(&aside, &inbound).expect("its place was left free");
    let wake = world.until(|wake| !wake.lost.is_empty()).await;
    assert!(wake.lost[0].contains("/inbound` "), "{wake:?}");
    assert!(wake.areas.inbound && wake.areas.rescan);
    world.calm().await;
    write(inbound.join("after.md"), b"x");
    let wake = world.until(|wake| wake.areas.inbound).await;
    assert!(wake.lost.is_empty());
    // The old one is nothing to us any more.
    world.calm().await;
    write(world.layout.base().join("old/late.md"), b"x");
    let woken = tokio::time::timeout(Duration::from_millis(500), world.watch.next()).await;
    assert!(woken.is_err(), "{woken:?}");
}

/// Two replacements in a row: the watch set after the first must not be lost to the second's events.
#[tokio::test]
async fn a_folder_replaced_many_times_is_watched_in_the_end() {
    let mut world = World::new();
    let dir = world.layout.running_tasks();
    for round in 0..60 {
        std::fs::remove_dir_all(&dir).ok();
        std::fs::create_dir_all(&dir).expect("writable");
        if round % 7 == 0 {
            drop(tokio::time::timeout(Duration::from_millis(1), world.watch.next()).await);
        }
    }
    world.calm().await;
    write(dir.join("task_1.pid"), b"1\n");
    let wake = world.until(|wake| wake.areas.running).await;
    assert!(!wake.areas.rescan, "{wake:?}");
}

#[tokio::test]
async fn a_control_folder_goes_with_its_parent_and_comes_back() {
    let mut world = World::new();
    std::fs::remove_dir_all(world.layout.state()).expect("there");
    let wake = world.until(|wake| !wake.lost.is_empty()).await;
    assert!(
        wake.areas.control && wake.lost[0].contains("made and watched again"),
        "{wake:?}"
    );
    world.calm().await;
    write(world.layout.control().join("pause"), b"");
    world.until(|wake| wake.areas.control).await;
}

#[tokio::test]
async fn a_deleted_base_path_is_told_once_and_not_made_again() {
    let mut world = World::new();
    let base = world.layout.base().to_owned();
    std::fs::remove_dir_all(&base).expect("there");
    let wake = world
        .until(|wake| wake.lost.iter().any(|l| l.contains("is gone")))
        .await;
    assert!(wake.areas.rescan);
    world.calm().await;
    assert!(!base.exists());
    // Back again: the rescan finds it, and all below is made.
    std::fs::create_dir(&base).expect("its parent is there");
    world.watch.verify();
    let wake = world
        .until(|wake| wake.lost.iter().any(|l| l.contains("is there again")))
        .await;
    assert!(wake.areas.rescan);
    world.calm().await;
    write(world.layout.config(), b"");
    world.until(|wake| wake.areas.config).await;
    write(world.layout.inbound().join("a.md"), b"");
    world.until(|wake| wake.areas.inbound).await;
}

#[tokio::test]
async fn a_rescan_finds_nothing_amiss_in_a_sound_tree() {
    let mut world = World::new();
    world.calm().await;
    world.watch.verify();
    let woken = tokio::time::timeout(Duration::from_millis(300), world.watch.next()).await;
    assert!(woken.is_err(), "{woken:?}");
}

#[tokio::test]
async fn a_database_tells_of_its_log_and_not_of_its_readers() {
    let (_dir, layout) = base();
    let db = layout.base().join("data/tinytask.db");
    let mut world = World {
        watch: watch::start(&layout, Some(&db)).expect("a missing folder is waited for"),
        layout,
        _dir,
    };
    std::fs::create_dir(db.parent().expect("in data/")).expect("writable");
    world.watch.verify();
    let wake = world.until(|wake| wake.areas.database).await;
    assert!(wake.lost[0].contains("is there again"), "{wake:?}");
    let writer = rusqlite::Connection::open(&db).expect("writable");
    writer
        .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)")
        .expect("a database");
    world.until(|wake| wake.areas.database).await;
    world.calm().await;
    writer
        .execute("INSERT INTO t VALUES (2)", [])
        .expect("writable");
    let wake = world.until(|wake| wake.areas.database).await;
    assert!(!wake.areas.rescan && wake.first_event.is_some());
    world.calm().await;
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let reader = rusqlite::Connection::open_with_flags(&db, flags).expect("readable");
    let count: i64 = reader
        .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .expect("readable");
    assert_eq!(count, 2);
    write(db.with_file_name("server.json"), b"{}");
    let woken = tokio::time::timeout(Duration::from_millis(500), world.watch.next()).await;
    assert!(woken.is_err(), "{woken:?}");
}

#[tokio::test]
async fn a_database_that_is_a_symlink_is_heard_where_it_really_lies() {
    let (_dir, layout) = base();
    let real = layout.base().join("elsewhere/real.db");
    std::fs::create_dir(real.parent().expect("in elsewhere/")).expect("writable");
    let writer = rusqlite::Connection::open(&real).expect("writable");
    let made = writer.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    made.expect("a database");
    let db = layout.base().join("tinytask.db");
    std::os::unix::fs::symlink(&real, &db).expect("a link");
    let mut world = World {
        watch: watch::start(&layout, Some(&db)).expect("it is there"),
        layout,
        _dir,
    };
    assert!(world.watch.hears_database(Some(&db)));
    world.calm().await;
    writer
        .execute("INSERT INTO t VALUES (1)", [])
        .expect("writable");
    world.until(|wake| wake.areas.database).await;
    // One that is not there may be a slip: then nobody is told of anything.
    std::fs::remove_file(&db).expect("ours");
    assert!(!world.watch.hears_database(Some(&db)));
}

#[tokio::test]
async fn a_wake_that_nobody_waited_for_is_not_lost() {
    let mut world = World::new();
    world.calm().await;
    for name in ["a", "b"] {
        write(world.layout.control().join(format!("pause-{name}")), b"");
    }
    for _ in 0..50 {
        // Given up in the middle, again and again.
        let next = tokio::time::timeout(Duration::ZERO, world.watch.next()).await;
        if next.is_ok_and(|wake| wake.areas.control) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.until(|wake| wake.areas.control).await;
}

#[tokio::test]
async fn a_missing_base_path_is_refused() {
    let (dir, layout) = base();
    drop(dir);
    let error = watch::start(&layout, None).err().expect("nothing to watch");
    assert!(matches!(error, Error::Missing { .. }), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("init")));
    assert!(!layout.base().exists());
}
