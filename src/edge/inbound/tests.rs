#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests write what a person would, and say what they cannot show"
)]

use std::os::unix::net::UnixListener;

use glob::Pattern;

use super::*;
use crate::edge::clock;

const SETTLE: Millis = Millis::secs(1);

struct Inbound {
    dir: tempfile::TempDir,
}

impl Inbound {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
        }
    }
    fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.dir.path()).expect("UTF-8")
    }
    fn write(&self, name: impl AsRef<OsStr>) -> (OsString, u64) {
        let path = self.dir.path().join(name.as_ref());
        std::fs::write(&path, "x").expect("writable");
        let inode = std::fs::metadata(path).expect("there").ino();
        (name.as_ref().to_owned(), inode)
    }
    fn look(&self, now: Timestamp, known: &Closed) -> Vec<InboundEntry> {
        let names = &mut Names::default();
        look(self.path(), names, SETTLE, &[], now, known).expect("readable")
    }
    fn state(&self, now: Timestamp, known: &Closed) -> InboundState {
        let mut all = self.look(now, known);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0).state
    }
}

fn after(ms: i64) -> Timestamp {
    Timestamp(clock::wall().0 + ms)
}

const SETTLED: InboundState = InboundState::Settled { endless: false };
const ENDLESS_ONE: InboundState = InboundState::Settled { endless: true };

#[test]
fn a_file_nobody_saw_settles_by_its_times() {
    let inbound = Inbound::new();
    inbound.write("a.md");
    let InboundState::Settling { until } = inbound.state(after(0), &Closed::new()) else {
        panic!("written just now");
    };
    assert!(until > after(0) && until <= after(1000));
    assert_eq!(inbound.state(after(1100), &Closed::new()), SETTLED);
}

#[test]
fn times_set_to_the_past_settle_nothing() {
    let inbound = Inbound::new();
    let (name, _) = inbound.write("copied.md");
    let file = std::fs::File::options()
        .write(true)
        .open(inbound.dir.path().join(name))
        .expect("there");
    file.set_modified(std::time::UNIX_EPOCH).expect("ours");
    assert!(matches!(
        inbound.state(after(0), &Closed::new()),
        InboundState::Settling { .. }
    ));
    assert_eq!(inbound.look(after(0), &Closed::new())[0].key.modified, 0);
}

#[test]
fn times_in_the_future_hold_nothing_for_ever() {
    let inbound = Inbound::new();
    let (name, _) = inbound.write("future.md");
    let file = std::fs::File::options()
        .write(true)
        .open(inbound.dir.path().join(name))
        .expect("there");
    file.set_modified(
        std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(9_000_000_000),
    )
    .expect("ours");
    assert_eq!(inbound.state(after(1100), &Closed::new()), SETTLED);
    // The clock was set back by an hour since.
    assert_eq!(inbound.state(after(-3_600_000), &Closed::new()), SETTLED);
    std::fs::create_dir(inbound.dir.path().join("folder")).expect("writable");
    for entry in inbound.look(after(-3_600_000), &Closed::new()) {
        assert_eq!(entry.state, SETTLED);
    }
}

#[test]
fn what_the_watcher_saw_counts_more() {
    let inbound = Inbound::new();
    let key = inbound.write("a.md");
    let now = after(0);
    assert_eq!(
        inbound.state(now, &Closed::from([(key.0.clone(), (key.1, None))])),
        SETTLED
    );
    // Another file under the same name.
    let other = (key.0.clone(), (key.1 + 1, None));
    assert!(matches!(
        inbound.state(now, &Closed::from([other])),
        InboundState::Settling { .. }
    ));
    // Its writer has it open and pauses.
    let writing = Closed::from([(key.0.clone(), (key.1, Some(now)))]);
    assert_eq!(
        inbound.state(after(5000), &writing),
        InboundState::Settling {
            until: now.plus(ENDLESS)
        }
    );
    assert_eq!(inbound.state(after(10_100), &writing), ENDLESS_ONE);
}

#[test]
fn a_clock_set_back_completes_no_file_that_is_being_written() {
    let inbound = Inbound::new();
    let (name, inode) = inbound.write("a.md");
    let since = after(0);
    let writing = Closed::from([(name, (inode, Some(since)))]);
    assert_eq!(
        inbound.state(after(-3_600_000), &writing),
        InboundState::Settling {
            until: since.plus(ENDLESS)
        }
    );
}

#[test]
fn a_file_written_for_ever_is_taken() {
    let inbound = Inbound::new();
    let (name, _) = inbound.write("log");
    let meta = std::fs::metadata(inbound.dir.path().join(name)).expect("there");
    let Some(born) = birth(&meta) else {
        println!("not shown: this file system keeps no birth time");
        return;
    };
    // Neither its birth nor its ctime can be set back, so the settle time is stretched instead.
    let look_at = |now| {
        let settle = Millis::secs(60);
        look(
            inbound.path(),
            &mut Names::default(),
            settle,
            &[],
            now,
            &Closed::new(),
        )
        .expect("readable")
    };
    assert_eq!(
        look_at(born.plus(Millis::secs(9)))[0].state,
        InboundState::Settling {
            until: born.plus(ENDLESS)
        }
    );
    assert_eq!(look_at(born.plus(ENDLESS))[0].state, ENDLESS_ONE);
}

#[test]
fn a_folder_settles_when_nothing_in_it_moves() {
    let inbound = Inbound::new();
    let deep = inbound.dir.path().join("request/a/b");
    std::fs::create_dir_all(&deep).expect("writable");
    assert_eq!(inbound.state(after(1100), &Closed::new()), SETTLED);
    let before = inbound.look(after(0), &Closed::new());
    std::thread::sleep(std::time::Duration::from_millis(20));
    std::fs::write(deep.join("c.md"), "x").expect("writable");
    let entries = inbound.look(after(0), &Closed::new());
    assert!(entries[0].is_dir);
    assert!(matches!(entries[0].state, InboundState::Settling { .. }));
    assert!(
        entries[0].key.modified > before[0].key.modified,
        "an edit inside makes it another request"
    );
    assert_eq!(inbound.state(after(1100), &Closed::new()), SETTLED);
}

#[test]
fn some_names_are_ignored() {
    let inbound = Inbound::new();
    for name in [
        ".hidden",
        "a.tmp",
        "a.part",
        "a~",
        "a.swp",
        "a.crdownload",
        "draft-1.md",
        "draft-10.md",
        "b.txt",
        "d.txt",
    ] {
        inbound.write(name);
    }
    let patterns = ["*.crdownload", "draft-?.md", "[a-c].txt"];
    let ignore = patterns.map(|pattern| Pattern::new(pattern).expect("a pattern"));
    let all = look(
        inbound.path(),
        &mut Names::default(),
        SETTLE,
        &ignore,
        after(0),
        &Closed::new(),
    )
    .expect("readable");
    let mut names: Vec<&str> = all.iter().map(|e| e.key.name.as_str()).collect();
    names.sort();
    assert_eq!(names, ["d.txt", "draft-10.md"]);
}

#[test]
fn what_is_no_request_is_odd() {
    let inbound = Inbound::new();
    let at = |name: &str| inbound.dir.path().join(name);
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("writable");
    std::os::unix::fs::symlink("/etc/passwd", at("link")).expect("writable");
    let socket = UnixListener::bind(at("socket")).expect("writable");
    let all = inbound.look(after(99_000), &Closed::new());
    let states: Vec<&InboundState> = all.iter().map(|e| &e.state).collect();
    let odd = |text: &str| InboundState::Odd(text.into());
    assert_eq!(
        states,
        [&odd("a FIFO"), &odd("a symlink"), &odd("a socket")]
    );
    drop(socket);
}

#[test]
fn strange_names_stay_apart_and_printable() {
    let inbound = Inbound::new();
    let long = "n".repeat(255);
    let names: [&[u8]; 7] = [
        b"-rf",
        b"two\nlines",
        b"\xff\xfe",
        b"\\xff\\xfe",
        "é\u{9b}".as_bytes(),
        b"\x1b[2J",
        long.as_bytes(),
    ];
    for name in names {
        inbound.write(OsStr::from_bytes(name));
    }
    let mut seen: Vec<String> = inbound
        .look(after(0), &Closed::new())
        .into_iter()
        .map(|e| e.key.name)
        .collect();
    seen.sort();
    let mut expected = [
        "-rf",
        "two\\x0alines",
        "\\xff\\xfe",
        "\\\\xff\\\\xfe",
        "é\\xc2\\x9b",
        "\\x1b[2J",
        long.as_str(),
    ];
    expected.sort_unstable();
    assert_eq!(seen, expected);
}

#[test]
fn a_missing_folder_has_nothing_in_it() {
    let inbound = Inbound::new();
    let none = inbound.path().join("none");
    let all = look(
        &none,
        &mut Names::default(),
        SETTLE,
        &[],
        after(0),
        &Closed::new(),
    );
    assert_eq!(all.expect("not an error"), []);
    assert_eq!(digest(&none), 0);
}

#[test]
fn a_digest_changes_with_what_is_in_the_folder_and_with_nothing_else() {
    let folder = Inbound::new();
    let at = |name: &str| folder.dir.path().join(name);
    let empty = digest(folder.path());
    assert_ne!(empty, 0);
    std::fs::create_dir(at("sub")).expect("writable");
    let mut seen = vec![empty, digest(folder.path())];
    for name in ["a", "b", "sub/a"] {
        std::fs::write(at(name), "x").expect("writable");
        let fixed = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        std::fs::File::options()
            .write(true)
            .open(at(name))
            .and_then(|f| f.set_modified(fixed))
            .expect("ours");
        seen.push(digest(folder.path()));
    }
    let before = digest(folder.path());
    assert!(std::fs::read_dir(at("sub")).expect("there").count() == 1);
    assert_eq!(digest(folder.path()), before, "reading changes nothing");
    std::fs::rename(at("b"), at("c")).expect("there");
    seen.push(digest(folder.path()));
    std::fs::rename(at("c"), at("b")).expect("there");
    assert_eq!(digest(folder.path()), before, "and back again");
    std::fs::write(at("a"), "y").expect("writable");
    seen.push(digest(folder.path()));
    let distinct: std::collections::BTreeSet<u64> = seen.iter().copied().collect();
    assert_eq!(distinct.len(), seen.len(), "{seen:?}");
}

/// It stands in records, so it must be the same in every version and on every machine.
#[test]
fn a_digest_is_for_ever() {
    let folder = Inbound::new();
    let path = folder.dir.path().join("request.md");
    std::fs::write(&path, "x").expect("writable");
    let fixed = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5);
    std::fs::File::options()
        .write(true)
        .open(&path)
        .and_then(|f| f.set_modified(fixed))
        .expect("ours");
    assert_eq!(digest(folder.path()), 8_128_000_205_051_604_961);
}

#[test]
fn a_large_folder_is_looked_at_level_by_level() {
    let folder = Inbound::new();
    let sub = folder.dir.path().join("many");
    std::fs::create_dir(&sub).expect("writable");
    folder.write("a");
    for number in 0..9 {
        drop(std::fs::File::create(sub.join(number.to_string())).expect("writable"));
    }
    let visited = |limit| {
        let mut visited = Vec::new();
        walk(folder.dir.path(), limit, &mut |path, _| {
            visited.push(path.to_owned())
        })
        .expect("readable");
        visited.len()
    };
    // The level that does not fit is left out as a whole: no order of names can change the outcome.
    assert_eq!(
        (visited(1), visited(2), visited(10), visited(11)),
        (0, 2, 2, 11)
    );
}
