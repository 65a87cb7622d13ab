//! Names and kinds of things in inbound/, and requests that cannot be dropped.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::world::World;

/// With a dispatcher that notes what it finds and moves everything it may into workqueue/.
fn world() -> World {
    let world = World::with(
        "",
        "[queues.dispatcher]\ncommand = [\"/bin/sh\", \"{base_path}/dispatch.sh\"]\n",
    );
    fs::create_dir(world.base.join("taken")).expect("ours");
    world.script(
        "dispatch.sh",
        "for file in inbound/*; do [ -L \"$file\" ] || { [ -f \"$file\" ] || [ -d \"$file\" ]; } && mv -- \"$file\" taken/; done; true",
    );
    world
}

#[test]
fn every_name_a_file_can_have_is_a_request() {
    let mut world = world();
    world.start();
    let inbound = world.base.join("inbound");
    let long = "n".repeat(255);
    let names: [&[u8]; 9] = [
        b"\xff\xfe.md",
        long.as_bytes(),
        b"new\nline",
        b"-rf",
        b"--help",
        b"a b'c\"d$(e)`f`;g",
        b"\x1b[31mred",
        "grüße – 日本".as_bytes(),
        b"back\\slash",
    ];
    for name in names {
        fs::write(inbound.join(OsStr::from_bytes(name)), "x").expect("ours");
    }
    world.eventually("all of them are taken", || {
        names.iter().all(|name| {
            world
                .base
                .join("taken")
                .join(OsStr::from_bytes(name))
                .exists()
        })
    });
    world.good_works();
    world.eventually("the last run is over", || {
        !world.base.join("running_tasks/inbound.pid").exists()
    });
    // Names never reach a terminal as they are.
    let log = world.cli(&["logs", "inbound"]);
    assert!(!log.out.contains("\x1b[31m"), "{log:?}");
    assert!(!world.cli(&["status"]).out.contains("\x1b[31m"));
}

#[test]
fn a_name_that_nobody_can_print_is_shown_escaped() {
    let world = World::new();
    for name in [&b"\xff\xfe.md"[..], b"new\nline", b"\x1b[31mred", b"-rf"] {
        let path = world.base.join("inbound").join(OsStr::from_bytes(name));
        fs::write(path, "x").expect("ours");
    }
    world.eventually("they are settled", || {
        !world.status().contains("may still be written to")
    });
    let status = world.status();
    for shown in ["\\xff\\xfe.md", "new\\x0aline", "\\x1b[31mred", "-rf"] {
        assert!(status.contains(shown), "{shown}: {status}");
    }
    assert!(
        status.contains("no recipes/dispatcher.yaml: nobody takes requests"),
        "{status}"
    );
}

#[test]
fn what_is_no_request_is_said_and_left_alone_and_half_written_names_are_ignored() {
    let mut world = world();
    let inbound = world.base.join("inbound");
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&inbound.join("fifo"), mode).expect("ours");
    let _socket = UnixListener::bind(inbound.join("socket")).expect("ours");
    symlink("/etc/passwd", inbound.join("link")).expect("ours");
    symlink("/no/such", inbound.join("dangling")).expect("ours");
    for name in [".hidden", "half.tmp", "half.part", "edit~", ".edit.swp"] {
        fs::write(inbound.join(name), "x").expect("ours");
    }
    world.start();
    world.good_works();
    let status = world.status();
    for line in [
        "fifo · no request: a FIFO",
        "socket · no request: a socket",
        "dangling and link · no request: a symlink",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    for name in ["hidden", "half", "edit"] {
        assert!(!status.contains(name), "{name}: {status}");
    }
    assert_eq!(world.runs_of("inbound"), 0, "nothing to dispatch");
    // A real one beside them goes its way.
    fs::create_dir(inbound.join("folder")).expect("ours");
    fs::write(inbound.join("folder/request.md"), "x").expect("ours");
    world.eventually("the folder is taken", || {
        world.base.join("taken/folder/request.md").exists()
    });
    assert!(inbound.join("fifo").exists() && inbound.join("link").is_symlink());
}

#[test]
fn a_file_that_is_written_without_end_is_taken_in_the_end_and_said() {
    let mut world = world();
    // Held, so that it lies there long enough to be read about.
    world.cli(&["pause", "dispatcher"]).tells(0, "");
    world.start();
    let writer = Writer::start(&world.base.join("inbound/endless"));
    world.shows("endless · may still be written to");
    world.good_works();
    world.shows("endless · its queue is paused (calypso-watch resume dispatcher)");
    world.shows("inbound/endless: written to without end; taken as it is");
    world.cli(&["resume", "dispatcher"]).tells(0, "");
    world.eventually("it is dispatched", || {
        world.base.join("taken/endless").exists()
    });
    drop(writer);
}

/// Writes to a file without a pause, until it is dropped.
struct Writer(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Writer {
    fn start(path: &Path) -> Self {
        let mut file = fs::File::create(path).expect("ours");
        let end = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                file.write_all(b"x").expect("ours");
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        });
        Self(end, Some(thread))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1.take() {
            thread.join().ok();
        }
    }
}

#[test]
fn a_request_nobody_would_look_at_is_not_dropped() {
    let world = World::with("", "[inbound]\nignore = [\"*.bak\"]\n");
    world.write("request.md", "x");
    let request = world.base.join("request.md").display().to_string();
    let hidden = "hint: hidden names are not looked at; give another with `--name`\n";
    for name in ["../x", ".hidden", "a/b", "", "."] {
        world.cli(&["submit", &request, "--name", name]).fails(
            2,
            &format!("error: `{name}` is no name for a request\n{hidden}"),
        );
    }
    for name in ["x.tmp", "x~", "x.bak"] {
        world.cli(&["submit", &request, "--name", name]).fails(
            2,
            &format!(
                "error: `{name}` would never be looked at\n\
                 hint: names like that of half-written files are left alone, and those of `[inbound] ignore`; give another with `--name`\n"
            ),
        );
    }
    let long = "n".repeat(256);
    world.cli(&["submit", &request, "--name", &long]).fails(
        1,
        &format!(
            "error: cannot submit `{request}`\n  caused by: File name too long (os error 36)\n"
        ),
    );
    world.cli(&["submit", "/no/such"]).fails(
        1,
        "error: cannot submit `/no/such`\n  caused by: No such file or directory (os error 2)\n",
    );
    // The first of two is there, and said, though the second fails.
    let said = world.cli(&["submit", &request, &request]);
    assert_eq!(said.out, "inbound/request.md\n");
    said.fails(
        1,
        &format!(
            "error: cannot submit `{request}`\n  caused by: File exists (os error 17)\n\
             hint: inbound/request.md is there already; `--name` gives another\n"
        ),
    );
    let names: Vec<_> = fs::read_dir(world.base.join("inbound"))
        .expect("there")
        .map(|e| e.expect("readable").file_name())
        .collect();
    assert_eq!(names, ["request.md"], "nothing half is left");
}
