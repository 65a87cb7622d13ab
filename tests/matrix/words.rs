//! What a person reads: each error that ends the program, and each `--help`.

use std::fmt::Write as _;
use std::io;
use std::process::Command;

use calypso_watch::daemon;
use calypso_watch::edge::config::{self, Origin};
use calypso_watch::edge::{runs, watch};
use calypso_watch::look;
use calypso_watch::report::Failure;

use crate::world::{PROGRAM, said};

fn denied() -> io::Error {
    io::Error::from_raw_os_error(nix::libc::EACCES)
}

#[test]
fn each_error_says_what_was_tried_why_it_failed_and_the_way_out() {
    let base = || camino::Utf8PathBuf::from("/srv/calypso");
    let config: Vec<config::Error> = vec![
        config::Error::NoBase {
            from: "/home/ann".into(),
        },
        config::Error::Base {
            path: base(),
            origin: Origin::Environment("CALYPSO_BASE_PATH".into()),
            source: io::Error::from_raw_os_error(nix::libc::ENOENT),
        },
        config::Error::Base {
            path: base(),
            origin: Origin::Flag("--base-path".into()),
            source: io::Error::new(io::ErrorKind::NotADirectory, "not a directory"),
        },
        config::Error::Read {
            path: base().join("calypso.toml"),
            source: denied(),
        },
        config::Error::Read {
            path: base().join("calypso.toml"),
            source: io::Error::new(io::ErrorKind::InvalidData, "not a regular file"),
        },
        config::Error::Syntax {
            file: "calypso.toml".into(),
            line: 3,
            column: 1,
            message: "`max_run` is no setting here".into(),
            suggestion: Some("max_runs".into()),
        },
        config::Error::Value {
            key: "max_runs".into(),
            problem: "must be at least 1, got 0".into(),
            origin: Origin::File { line: 3 },
        },
        config::Error::Unsafe { path: base() },
        config::Error::NetworkFileSystem {
            path: base(),
            kind: "NFS".into(),
        },
    ];
    let records = || runs::Error::Newer {
        run: "42/2".into(),
        format: 3,
    };
    let runs: Vec<runs::Error> = vec![
        runs::Error::AlreadyThere { run: "42/2".into() },
        records(),
        runs::Error::Io {
            deed: "list",
            path: base().join("running_tasks"),
            source: denied(),
        },
    ];
    let look: Vec<look::Error> = vec![
        look::Error::Io {
            path: "/srv/calypso/.calypso/control".into(),
            source: denied(),
        },
        look::Error::Runs(records()),
    ];
    let daemon: Vec<daemon::Error> = vec![
        daemon::Error::AlreadyRunning {
            pid: 4121,
            up: "3 h".into(),
            base: base(),
        },
        daemon::Error::Write {
            path: base().join(".calypso"),
            source: io::Error::from_raw_os_error(nix::libc::EROFS),
        },
        daemon::Error::Builtin {
            why: "cannot listen on `127.0.0.1:3000`: address in use".into(),
        },
        daemon::Error::Watch(watch::Error::InstanceLimit { path: base() }),
        daemon::Error::Watch(watch::Error::WatchLimit { path: base() }),
        daemon::Error::Watch(watch::Error::Missing {
            path: base().join("inbound"),
        }),
        daemon::Error::Watch(watch::Error::Other {
            path: base().join("inbound"),
            source: denied(),
        }),
        daemon::Error::Config(config::Error::Unsafe { path: base() }),
        daemon::Error::Look(look::Error::Runs(records())),
        daemon::Error::Signals(denied()),
    ];
    let failures = (config.into_iter().map(Failure::from))
        .chain(runs.into_iter().map(Failure::from))
        .chain(look.into_iter().map(Failure::from))
        .chain(daemon.into_iter().map(Failure::from));
    let mut text = String::new();
    for failure in failures {
        let _ = writeln!(text, "exit {}\n{}", failure.exit().code(), failure.text());
    }
    insta::assert_snapshot!("errors", text);
}

/// The pages of `--help`, found by following the lists of commands.
fn pages(path: &[String], pages: &mut Vec<(String, String)>) {
    let mut command = Command::new(PROGRAM);
    command.env_clear().args(path).arg("--help");
    let page = said(&command.output().expect("it starts"));
    assert_eq!((page.code, page.err.as_str()), (0, ""), "{path:?}");
    let commands: Vec<String> = page
        .out
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            line.strip_prefix("  ")?
                .split(' ')
                .next()
                .map(str::to_owned)
        })
        .filter(|name| !name.is_empty() && name != "help")
        .collect();
    pages.push((path.join(" "), page.out));
    for name in commands {
        let mut below = path.to_vec();
        below.push(name);
        self::pages(&below, pages);
    }
}

#[test]
fn each_help_page_fits_a_screen() {
    let mut found = Vec::new();
    pages(&[], &mut found);
    assert!(found.len() > 25, "{}", found.len());
    let mut text = String::new();
    for (path, page) in &found {
        for line in page.lines() {
            assert!(line.chars().count() <= 100, "{path}: {line}");
        }
        let _ = writeln!(text, "$ calypso-watch {path} --help\n{page}");
    }
    insta::assert_snapshot!("help", text);
}
