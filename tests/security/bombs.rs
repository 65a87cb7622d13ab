//! A few bytes that could become gigabytes, and many bytes where few belong: bounded memory, one clear line, and the rest goes on.

use std::fs;

use crate::world::World;

/// Most memory the daemon may ever have held, in kB: it needs some 30 MB.
const MEMORY: u64 = 400_000;

#[track_caller]
fn is_small(world: &World) {
    let status =
        fs::read_to_string(format!("/proc/{}/status", world.daemon_pid())).expect("it lives");
    let peak: u64 = status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmHWM:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .expect("the kernel says so");
    assert!(peak < MEMORY, "{peak} kB");
}

fn laughs() -> String {
    let mut text = "title: t\nprompt: p\na0: &a0 [x, x]\n".to_owned();
    for n in 1..40 {
        text += &format!("a{n}: &a{n} [*a{0}, *a{0}, *a{0}, *a{0}]\n", n - 1);
    }
    text
}

#[test]
fn recipes_that_are_bombs_hold_their_own_queue() {
    let mut world = World::new();
    let doubled = "{% set x = x ~ x %}".repeat(60);
    let bombs = [
        ("laughs", laughs()),
        ("deep", format!("title: t\nprompt: {}", "[".repeat(500_000))),
        (
            "map",
            format!("title: t\nprompt: {}", "{a: ".repeat(20_000)),
        ),
        (
            "doubled",
            format!("{{% set x = 'aaaaaaaaaa' %}}{doubled}title: {{{{ x }}}}\nprompt: p\n"),
        ),
        (
            "times",
            format!(
                "title: {}\nprompt: p\n",
                "{{ 'a' * 100000000 }}".repeat(100)
            ),
        ),
        (
            "loops",
            "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}"
                .to_owned(),
        ),
        (
            "ring",
            "{% extends \"ring.yaml\" %}title: {{ t }}".to_owned(),
        ),
        ("twice", "title: t\ntitle: u\nprompt: p\n".to_owned()),
        (
            "huge",
            format!("title: {}\nprompt: p\n", "9".repeat(90_000)),
        ),
        ("large", "x".repeat(3_000_000)),
    ];
    for (queue, text) in &bombs {
        world.write(&format!("recipes/{queue}.yaml"), text);
    }
    world.start();
    world.good_works();
    world.eventually("each is told", || {
        let status = world.status();
        [
            "laughs", "deep", "map", "doubled", "times", "loops", "ring", "large",
        ]
        .iter()
        .all(|queue| status.contains(&format!("recipes/{queue}.yaml cannot be used")))
    });
    is_small(&world);
}

#[test]
fn records_and_wishes_that_are_bombs_stop_nothing_else() {
    let mut world = World::with("", "[queues.lazy]\ncommand = [\"/bin/true\"]\n");
    let id = world.task("lazy");
    world.start();
    world.shows("attempt 2 of 3");
    world.stop();
    let large = || {
        let file = fs::File::create(world.beside("large")).expect("ours");
        // A file with a hole: it takes no disk.
        file.set_len(1 << 30).expect("ours");
    };
    for (path, bytes) in [
        (
            format!(".calypso/runs/task_{id}/marks.json"),
            "[".repeat(2_000_000),
        ),
        (
            ".calypso/daemon.json".to_owned(),
            "{\"a\":".repeat(1_000_000),
        ),
        (
            ".calypso/log.jsonl".to_owned(),
            format!("{}\n", "[".repeat(1_000_000)),
        ),
        (
            ".calypso/history.jsonl".to_owned(),
            format!("{{\"format\":{}}}\n", "9".repeat(1_000_000)),
        ),
    ] {
        world.write(&path, bytes);
    }
    for name in ["control", "live"] {
        fs::create_dir_all(world.base.join(".calypso").join(name)).expect("ours");
    }
    for path in [
        ".calypso/control/hold-task_77".to_owned(),
        ".calypso/live/task_77-0001-other".to_owned(),
        "inbound/large".to_owned(),
        "running_tasks/task_77.pid".to_owned(),
    ] {
        large();
        fs::rename(world.beside("large"), world.base.join(path)).expect("ours");
    }
    fs::create_dir_all(world.base.join(".calypso/runs/task_77/0001-other")).expect("ours");
    for name in ["spec.json", "state.json", "verdict.json"] {
        large();
        fs::rename(
            world.beside("large"),
            world
                .base
                .join(".calypso/runs/task_77/0001-other")
                .join(name),
        )
        .expect("ours");
    }
    world.start();
    world.good_works();
    world.shows("larger than 134217728 bytes");
    is_small(&world);
}

#[test]
fn settings_that_are_bombs_are_one_clear_error() {
    let world = World::new();
    for (text, error) in [
        (
            format!("a = {}", "[".repeat(300_000)),
            "`calypso.toml` line 1, column",
        ),
        (
            format!("[{}]", "a.".repeat(200_000) + "a"),
            "`calypso.toml` line 1, column",
        ),
        (
            "max_runs = 1\nmax_runs = 2".to_owned(),
            "`calypso.toml` line 2, column",
        ),
        (
            format!("max_runs = {}", "9".repeat(100_000)),
            "`calypso.toml` line 1, column",
        ),
        ("x".repeat(2_000_000), "cannot read"),
    ] {
        world.write("calypso.toml", text);
        let said = world.cli(&["status"]);
        assert_eq!(said.code, 2, "{:.300}", said.err);
        assert!(said.err.contains(error), "{:.300}", said.err);
        assert!(said.err.len() < 5000, "{} bytes", said.err.len());
    }
}

#[test]
fn requests_to_the_built_in_tinytask_that_are_bombs_are_refused() {
    let world = World::new();
    let deep = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{}",
        "{\"a\":".repeat(500_000)
    );
    let one = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"},";
    let batch = format!("[{}{}]", one.repeat(30_000), one.trim_end_matches(','));
    let long = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{}\"}}",
        "x".repeat(5_000_000)
    );
    for (body, status) in [(deep, "400"), (batch, "413"), (long, "413")] {
        let answer = post(&world, &body);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer:.200}"
        );
    }
    world.task("good");
    assert_eq!(world.tinytask.tasks().len(), 1, "it goes on serving");
}

fn post(world: &World, body: &str) -> String {
    use std::io::{Read as _, Write as _};
    let url = world.tinytask.url();
    let address = url
        .trim_start_matches("http://")
        .trim_end_matches("/mcp")
        .to_owned();
    let mut stream = std::net::TcpStream::connect(&address).expect("tinytask listens");
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {address}\r\naccept: application/json, text/event-stream\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // It may refuse before it has read all of it.
    stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body.as_bytes()))
        .ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    String::from_utf8_lossy(&answer).into_owned()
}
