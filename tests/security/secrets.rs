//! Secrets: they reach the agent, and nothing that is written or shown.

use std::fs;
use std::path::{Path, PathBuf};

use crate::world::World;

/// In the environment of the daemon, in an env_file, in settings, in tinytask's own settings, in the password of its address.
const SECRETS: [&str; 4] = [
    "sk-daemon-11111111",
    "sk-envfile-22222222",
    "sk-setting-33333333",
    "sk-unused-44444444",
];

/// Every file below a folder that holds one of them.
fn holders(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            holders(&path, found);
        } else if fs::read(&path).is_ok_and(|bytes| has_secret(&bytes)) {
            found.push(path);
        }
    }
}

fn has_secret(bytes: &[u8]) -> bool {
    SECRETS.iter().any(|secret| {
        bytes
            .windows(secret.len())
            .any(|window| window == secret.as_bytes())
    })
}

/// Processes whose arguments show one: those anybody may read.
fn shown_by_processes() -> Vec<String> {
    let all = fs::read_dir("/proc").expect("it is mounted").flatten();
    all.filter_map(|entry| {
        let words = fs::read(entry.path().join("cmdline")).ok()?;
        has_secret(&words).then(|| String::from_utf8_lossy(&words).into_owned())
    })
    .collect()
}

#[test]
fn secrets_reach_the_agent_and_nothing_else() {
    let mut world = World::new();
    world.env = vec![("OPENAI_API_KEY".into(), SECRETS[0].into())];
    world.write("secret.env", format!("FROM_FILE={}\n", SECRETS[1]));
    world.settings(
        "",
        &format!(
            "[queues.spy]\nenv_file = \"secret.env\"\nenv = {{ FROM_SETTING = \"{}\" }}\n\
             command = [\"/bin/sh\", \"-c\", \"echo $OPENAI_API_KEY $FROM_FILE $FROM_SETTING | cksum > sum; while [ ! -e go ]; do sleep 0.02; done; exec /bin/sh good.sh $1\", \"sh\", \"{{task_id}}\"]\n\
             [queues.fails]\nenv = {{ UNUSED = \"{}\" }}\ncommand = [\"/bin/false\"]\n",
            SECRETS[2], SECRETS[3]
        ),
    );
    let (spy, fails) = (world.task("spy"), world.task("fails"));
    world.start();
    world.eventually("the agent works", || world.read("sum").contains(' '));
    assert!(
        shown_by_processes().is_empty(),
        "{:?}",
        shown_by_processes()
    );
    let mut said = String::new();
    let mut look = |world: &World| {
        let ids = [spy.to_string(), fails.to_string()];
        let mut screens = vec![
            vec!["status"],
            vec!["status", "--json"],
            vec!["plan"],
            vec!["plan", "--json"],
        ];
        for id in &ids {
            screens.push(vec!["why", id]);
            screens.push(vec!["why", id, "--json"]);
            screens.push(vec!["logs", id]);
        }
        for args in screens {
            let shown = world.cli(&args);
            said += &shown.out;
            said += &shown.err;
        }
    };
    look(&world);
    world.write("go", "");
    world.eventually("it is done", || world.status_of(spy) == "complete");
    let verdict = format!(".calypso/runs/task_{fails}/0001-fails/verdict.json");
    world.eventually("the other failed", || !world.read(&verdict).is_empty());
    look(&world);
    world.stop();
    said += &world.log();
    assert!(!has_secret(said.as_bytes()), "{said}");
    // The agent had them all: this is the sum of the three as cksum(1) gives it.
    let expected = std::process::Command::new("sh")
        .args([
            "-c",
            &format!("echo {} {} {} | cksum", SECRETS[0], SECRETS[1], SECRETS[2]),
        ])
        .output()
        .expect("sh is there");
    assert_eq!(world.read("sum"), String::from_utf8_lossy(&expected.stdout));
    let mut found = Vec::new();
    holders(&world.beside(""), &mut found);
    found.sort();
    let mut own = [
        world.base.join("calypso.toml"),
        world.base.join("secret.env"),
    ];
    own.sort();
    assert_eq!(found, own, "only where a person put them");
}

/// An address may hold a password, and an env file a line that cannot be read: neither is quoted.
#[test]
fn errors_do_not_quote_secrets() {
    let world = World::new();
    world.settings(
        "",
        &format!(
            "[tinytask]\nurl = \"http://user:{}@127.0.0.1:1/mcp\"\n",
            SECRETS[0]
        ),
    );
    for args in [
        &["status"][..],
        &["plan"],
        &["task", "list"],
        &["run", "--once"],
        &["status", "--json"],
    ] {
        let said = world.cli(args);
        assert!(said.code != 0 || args.len() > 1, "{said:?}");
        assert!(
            !has_secret(said.out.as_bytes()) && !has_secret(said.err.as_bytes()),
            "{said:?}"
        );
    }
    world.write("bad.env", format!("{}\n", SECRETS[1]));
    world.settings(
        "",
        "[queues.spy]\nenv_file = \"bad.env\"\ncommand = [\"/bin/true\"]\n",
    );
    let id = world.task("spy");
    let said = world.cli(&["run", "--once"]);
    assert!(!has_secret(said.err.as_bytes()), "{said:?}");
    let said = world.cli(&["why", &id.to_string()]);
    assert!(!has_secret(said.out.as_bytes()), "{said:?}");
}
