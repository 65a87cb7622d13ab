//! One fault at a time, in files and programs: found, alone, and mended by the command that stands there where that can be typed.

use std::fs;
use std::process::Command;

use calypso_watch::core::model::Timestamp;
use calypso_watch::core::record::VerdictRecord;
use serde_json::json;

use crate::world::World;

/// A fault, and what is to be said of it.
struct Fault {
    area: &'static str,
    level: &'static str,
    what: &'static str,
    /// Typing the command makes the world well again.
    is_mended: bool,
    seed: fn(&mut World),
}

#[track_caller]
fn all_found(faults: &[Fault], world: fn() -> World) {
    for fault in faults {
        let mut world = world();
        (fault.seed)(&mut world);
        let report = world.doctor();
        let finding = report.finds(fault.area, fault.level, fault.what);
        assert!(finding["mend"].is_string(), "no way out: {finding:#}");
        if fault.is_mended {
            world.mend(finding);
            world.doctor().is_well();
        }
    }
}

const fn fault(
    area: &'static str,
    level: &'static str,
    what: &'static str,
    seed: fn(&mut World),
) -> Fault {
    Fault {
        area,
        level,
        what,
        is_mended: false,
        seed,
    }
}

const fn mended(
    area: &'static str,
    level: &'static str,
    what: &'static str,
    seed: fn(&mut World),
) -> Fault {
    Fault {
        is_mended: true,
        ..fault(area, level, what, seed)
    }
}

#[test]
fn a_world_that_is_well_has_no_findings() {
    World::new().doctor().is_well();
    let mut world = World::served();
    world.doctor().is_well();
    world.watch();
    let report = world.doctor();
    report.is_well();
    let whose = report.json["environment"].as_str().expect("a sentence");
    assert!(
        whose.contains(&format!("daemon (pid {})", world.daemon_pid())),
        "{whose}"
    );
}

#[test]
fn faults_of_goose_and_settings() {
    all_found(
        &[
            fault(
                "goose",
                "fail",
                "`goose` is not on the PATH that agents get",
                |w| {
                    fs::remove_file(w.beside("bin/goose")).expect("there");
                },
            ),
            fault("goose", "warn", "goose 1.20.0", |w| {
                w.goose("version", "1.20.0\n")
            }),
            fault("goose", "fail", "`--version` did not end within 5 s", |w| {
                w.goose("version", "hangs\n")
            }),
            fault(
                "goose",
                "warn",
                "this goose does not know `--max-turns`",
                |w| {
                    w.goose("help", "--recipe --params --no-session --provider --model --quiet --output-format stream-json\n");
                },
            ),
            fault(
                "goose",
                "warn",
                "OPENAI_API_KEY is not in the environment",
                |w| w.env.clear(),
            ),
            fault("goose", "warn", "no provider is set", |w| {
                w.edit("calypso.toml", "provider = \"openai\"", "")
            }),
            fault("goose", "fail", "`nosuch-agent` is not on PATH", |w| {
                w.append(
                    "calypso.toml",
                    "\n[queues.coder]\ncommand = [\"nosuch-agent\"]\n",
                );
            }),
            fault("settings", "fail", "`max_run` is no setting", |w| {
                w.edit("calypso.toml", "provider = \"openai\"", "max_run = 3");
            }),
            fault("settings", "warn", "`CALYPSO_MAX_RUN` means nothing", |w| {
                w.env.push(("CALYPSO_MAX_RUN".into(), "3".into()));
            }),
            mended("settings", "fail", "coder.env`", |w| {
                w.append(
                    "calypso.toml",
                    "\n[queues.coder]\nenv_file = \"coder.env\"\n",
                );
            }),
        ],
        World::served,
    );
}

/// A recipe's extension that is a program.
fn stdio(world: &World, lines: &str) {
    world.append(
        "recipes/coder.yaml",
        &format!("\n  - type: stdio\n    name: probe\n    description: d\n{lines}"),
    );
}

#[test]
fn faults_of_recipes() {
    all_found(
        &[
            fault("recipes", "fail", "recipes/coder.yaml is not YAML", |w| {
                w.write("recipes/coder.yaml", "title: [\n")
            }),
            fault(
                "recipes",
                "fail",
                "recipes/coder.yaml has no `prompt`",
                |w| {
                    w.write(
                        "recipes/coder.yaml",
                        "title: x\ndescription: d\ninstructions: i\n",
                    );
                },
            ),
            fault("recipes", "fail", "demands the parameter `lane`", |w| {
                w.edit("recipes/coder.yaml", "parameters:\n", "parameters:\n  - {key: lane, input_type: string, requirement: required, description: d}\n");
            }),
            fault("recipes", "fail", "demands the parameter `task_id`", |w| {
                let text = w.read("recipes/coder.yaml");
                let text = text.replace(
                    "requirement: optional\n    default: \"\"",
                    "requirement: required",
                );
                w.write("recipes/dispatcher.yaml", &text);
            }),
            fault(
                "recipes",
                "fail",
                "goose refuses recipes/coder.yaml: recipe file is invalid: Unnecessary",
                |w| {
                    w.append("recipes/coder.yaml", "\n# REFUSED\n");
                },
            ),
            fault(
                "recipes",
                "warn",
                "extension `probe` of recipes/coder.yaml: `nosuch-server` is not on PATH",
                |w| {
                    stdio(w, "    cmd: nosuch-server\n    args: []\n");
                },
            ),
            fault("recipes", "warn", "`/nosuch/index.js` is not there", |w| {
                stdio(w, "    cmd: sh\n    args: [/nosuch/index.js]\n");
            }),
            fault(
                "recipes",
                "warn",
                "needs PROBE_TOKEN, which is not in the environment",
                |w| {
                    stdio(
                        w,
                        "    cmd: sh\n    args: []\n    env_keys: [PROBE_TOKEN]\n",
                    );
                },
            ),
            fault(
                "recipes",
                "warn",
                "nothing listens at http://127.0.0.1:1/mcp",
                |w| {
                    w.append("recipes/coder.yaml", "\n  - {type: streamable_http, name: probe, description: d, uri: 'http://127.0.0.1:1/mcp'}\n");
                },
            ),
            mended(
                "recipes",
                "fail",
                "recipe of `coder` talks to http://127.0.0.1:1/mcp",
                |w| {
                    let ours = format!("http://{}/mcp", w.address);
                    w.edit("recipes/coder.yaml", &ours, "http://127.0.0.1:1/mcp");
                },
            ),
            fault("recipes", "warn", "[queues.codr]", |w| {
                w.append("calypso.toml", "\n[queues.codr]\ntime_limit = \"3h\"\n")
            }),
            mended(
                "recipes",
                "warn",
                "the queue for requests, `dispatcher`, has no recipe",
                |w| {
                    fs::remove_file(w.path("recipes/dispatcher.yaml")).expect("there");
                },
            ),
            mended("recipes", "fail", "can be written by everyone", |w| {
                w.mode("recipes/coder.yaml", 0o646)
            }),
            mended("recipes", "fail", "`coder.yml` ends in .yml", |w| {
                fs::rename(w.path("recipes/coder.yaml"), w.path("recipes/coder.yml"))
                    .expect("there");
            }),
        ],
        World::served,
    );
}

/// Verdicts of four tasks that were handed on, `ahead` milliseconds from now.
fn verdicts(world: &World, ahead: i64) {
    let lines: String = (901..905)
        .map(|id| {
            let now = calypso_watch::edge::clock::now();
            let at = json!({"wall": now.wall.0 + ahead, "boot_id": now.boot_id, "boot": now.boot});
            let record = json!({
                "format": 1, "run": format!("{id}/1"), "title": "t", "queue": "coder", "attempt": 1, "stay": 1, "provider": null,
                "outcome": {"exited": 0}, "files": [], "failure": null, "tokens": null, "cost": null, "started": at, "ended": at,
                "judged": at, "late": false,
                "tasks": [{"key": {"id": id, "created_at": 1}, "attempt": 1, "stay": 1, "verdict": {"handed_off": {"to": "human"}},
                    "fields": 1, "last_comment": 0, "previous_assigned_to": null, "write": null}],
            });
            let read: VerdictRecord = serde_json::from_value(record.clone()).expect("a record as the daemon writes it");
            assert!(read.judged.wall > Timestamp(0));
            format!("{record}\n")
        })
        .collect();
    world.write(".calypso/history.jsonl", &lines);
}

#[test]
fn faults_of_tinytask() {
    all_found(
        &[
            mended(
                "tinytask",
                "warn",
                "the built-in tinytask is version 0.0.9",
                |w| {
                    w.edit(
                        ".calypso/tinytask/server.json",
                        env!("CARGO_PKG_VERSION"),
                        "0.0.9",
                    );
                },
            ),
            fault(
                "tinytask",
                "fail",
                "tinytask knows none of the 4 open tasks",
                |w| verdicts(w, 0),
            ),
            fault("tinytask", "warn", "nosuch.db` is not there", |w| {
                w.edit(
                    "calypso.toml",
                    "builtin = true",
                    &format!("url = \"http://{}/mcp\"\ndb = \"nosuch.db\"", w.address),
                );
                let toml = w.read("calypso.toml");
                let kept: Vec<&str> = toml
                    .lines()
                    .filter(|line| !line.starts_with("listen"))
                    .collect();
                w.write("calypso.toml", &kept.join("\n"));
            }),
        ],
        World::served,
    );
    all_found(
        &[
            fault("tinytask", "fail", "cannot reach tinytask at", |w| {
                let toml = w.read("calypso.toml");
                let kept: Vec<&str> = toml
                    .lines()
                    .filter(|line| !line.starts_with("listen"))
                    .collect();
                let url = format!("url = \"http://{}/mcp\"", w.address);
                w.write(
                    "calypso.toml",
                    &kept.join("\n").replace("builtin = true", &url),
                );
            }),
            fault("tinytask", "fail", "no tinytask is configured", |w| {
                fs::remove_dir_all(w.path("recipes")).expect("there");
                w.write(
                    "recipes/dispatcher.yaml",
                    "title: d\ndescription: d\nprompt: p\n",
                );
                w.write("calypso.toml", "provider = \"openai\"\n\n[tinytask]\n");
            }),
        ],
        World::new,
    );
}

#[test]
fn a_port_that_another_program_has_is_found_and_mended() {
    let world = World::new();
    let _taken = std::net::TcpListener::bind(&world.address).expect("init found it free");
    let report = world.doctor();
    let finding = report.finds("tinytask", "fail", "another program listens at");
    world.mend(finding);
    world.doctor().is_well();
}

#[test]
fn faults_of_permissions() {
    all_found(
        &[
            mended(
                "permissions",
                "fail",
                "the base path can be written by everyone",
                |w| w.mode("", 0o757),
            ),
            mended(
                "permissions",
                "fail",
                "`calypso.toml` can be written by everyone",
                |w| w.mode("calypso.toml", 0o646),
            ),
            mended(
                "permissions",
                "warn",
                "`recipes/coder.yaml` can be written by its group",
                |w| w.mode("recipes/coder.yaml", 0o664),
            ),
            mended(
                "permissions",
                "warn",
                "`.calypso/control` is open to other users (mode 755)",
                |w| {
                    fs::create_dir(w.path(".calypso/control")).expect("a new folder");
                    w.mode(".calypso/control", 0o755);
                },
            ),
            mended(
                "permissions",
                "warn",
                "`.calypso/tinytask/tinytask.db` is open to other users (mode 644)",
                |w| {
                    w.mode(".calypso/tinytask/tinytask.db", 0o644);
                },
            ),
            mended(
                "permissions",
                "warn",
                "output.log` is open to other users",
                |w| {
                    w.write(".calypso/runs/task_7/0001-coder/output.log", "said\n");
                    w.mode(".calypso/runs/task_7/0001-coder/output.log", 0o640);
                },
            ),
            mended(
                "permissions",
                "warn",
                "`coder.env` is open to other users (mode 644)",
                |w| {
                    w.write("coder.env", "KEY=x\n");
                    w.mode("coder.env", 0o644);
                    w.append(
                        "calypso.toml",
                        "\n[queues.coder]\nenv_file = \"coder.env\"\n",
                    );
                },
            ),
        ],
        World::served,
    );
}

/// The number of a process that is no more.
fn dead() -> u32 {
    let mut child = Command::new("true").spawn().expect("coreutils are there");
    let pid = child.id();
    child.wait().expect("ours");
    pid
}

#[test]
fn faults_of_runs_and_clocks() {
    all_found(
        &[
            mended(
                "runs",
                "warn",
                "running_tasks/task_9.pid is stale: process",
                |w| {
                    w.write("running_tasks/task_9.pid", &format!("{}\n", dead()));
                },
            ),
            mended("runs", "warn", "running_tasks/task_9.pid: empty", |w| {
                w.write("running_tasks/task_9.pid", "")
            }),
            mended(
                "runs",
                "warn",
                "running_tasks/task_09.pid is not the name of a pid file",
                |w| {
                    w.write("running_tasks/task_09.pid", "1\n");
                },
            ),
            mended(
                "runs",
                "warn",
                "1 temporary file of a writer that was killed",
                |w| {
                    w.write(
                        &format!(".calypso/runs/task_7/0001-coder/.state.json.{}.new", dead()),
                        "{",
                    );
                },
            ),
            mended(
                "runs",
                "warn",
                ".calypso/control/hurry-task_7 is no command",
                |w| {
                    w.write(".calypso/control/hurry-task_7", "");
                    w.mode(".calypso/control", 0o700);
                },
            ),
            mended(
                "runs",
                "warn",
                ".calypso/live/who-knows is no run's entry",
                |w| w.write(".calypso/live/who-knows", ""),
            ),
            fault("runs", "warn", "1 run over and not judged: 7/1", |w| {
                w.write(".calypso/live/task_7-0001-coder", "");
                fs::create_dir_all(w.path(".calypso/runs/task_7/0001-coder"))
                    .expect("a new folder");
            }),
            fault(
                "runs",
                "fail",
                "record of run `7/1` was written by a newer calypso-watch (format 99",
                |w| {
                    w.write(".calypso/live/task_7-0001-coder", "");
                    w.write(
                        ".calypso/runs/task_7/0001-coder/spec.json",
                        "{\"format\": 99}",
                    );
                },
            ),
            fault(
                "clock",
                "warn",
                "`calypso.toml` was written 23h in the future",
                |w| {
                    let ahead =
                        std::time::SystemTime::now() + std::time::Duration::from_secs(86_000);
                    let file = fs::File::options()
                        .append(true)
                        .open(w.path("calypso.toml"))
                        .expect("there");
                    file.set_modified(ahead).expect("ours");
                },
            ),
        ],
        World::served,
    );
}

#[test]
fn a_verdict_from_the_future_is_found() {
    let world = World::new();
    verdicts(&world, 86_500_000);
    world
        .doctor()
        .finds("clock", "warn", "a verdict is dated 1d in the future");
}

/// It changes nothing: not a file, not a time.
#[test]
fn nothing_is_changed() {
    let mut world = World::served();
    world.watch();
    world.end_daemon();
    let list = || {
        let words = ["-printf", "%p %y %m %s %T@ %C@\n"];
        let out = Command::new("find")
            .arg(&world.base)
            .args(words)
            .output()
            .expect("findutils are there");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        // The probe's folder comes and goes in `.calypso`, whose own times tell; and a server at work keeps its database.
        let mut lines: Vec<String> = text
            .lines()
            .filter(|line| !line.contains("/base/.calypso d") && !line.contains("tinytask.db"))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let before = list();
    world.doctor().is_well();
    assert_eq!(list(), before);
}
