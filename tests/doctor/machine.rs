//! Faults of the machine, made in namespaces of their own: a mount, a limit, a service's settings, another user's eyes.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use crate::world::{World, report};

/// A process in namespaces of its own, in which `setup` was done; it holds them open until it is dropped.
struct Namespaces(Child, &'static [&'static str]);

impl Namespaces {
    /// A mount namespace only: other users' processes are seen as before.
    fn mounts(setup: &str) -> Self {
        Self::new(&["--mount"], &["--mount"], setup)
    }
    /// And a user namespace, which has limits of its own.
    fn users(setup: &str) -> Self {
        Self::new(
            &["--user", "--map-root-user", "--mount"],
            &["--preserve-credentials", "--user", "--mount"],
            setup,
        )
    }
    fn new(unshare: &[&str], enter: &'static [&'static str], setup: &str) -> Self {
        let mut holder = Command::new("unshare")
            .args(unshare)
            .args(["sh", "-c"])
            .arg(format!("set -e; {setup}; echo ready; exec cat"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux is there");
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().expect("piped"))
            .read_line(&mut line)
            .expect("it says when it is ready");
        assert_eq!(
            line, "ready\n",
            "the kernel gives no such namespace: {setup}"
        );
        Self(holder, enter)
    }
    fn wrap(&self) -> Vec<String> {
        let mut words: Vec<String> = vec!["nsenter".into()];
        words.extend(self.1.iter().map(|word| (*word).to_owned()));
        words.extend(["--target".into(), self.0.id().to_string()]);
        words
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn faults_of_the_mount() {
    for (level, what, mount) in [
        (
            "fail",
            "the base path is mounted read-only",
            "mount --bind @ @; mount -o remount,bind,ro @",
        ),
        (
            "warn",
            "are free, less than the log of one run may take",
            "cp -a @ @.copy; mount -t tmpfs -o size=9m,mode=755 tmpfs @; cp -a @.copy/. @",
        ),
        (
            "warn",
            "inodes are free",
            "cp -a @ @.copy; mount -t tmpfs -o size=1g,nr_inodes=500,mode=755 tmpfs @; cp -a @.copy/. @",
        ),
    ] {
        let mut world = World::new();
        let namespaces = Namespaces::mounts(&mount.replace('@', &world.base.display().to_string()));
        world.wrap = namespaces.wrap();
        let report = world.doctor();
        let finding = report.finds("mount", level, what);
        assert!(finding["mend"].is_string(), "{finding:#}");
    }
}

#[test]
fn faults_of_limits() {
    for (level, what, setup, mend) in [
        (
            "fail",
            "inotify instances of this user are taken",
            "echo 0 > /proc/sys/user/max_inotify_instances",
            "fs.inotify.max_user_instances=",
        ),
        (
            "fail",
            "inotify watches of this user are taken",
            "echo 0 > /proc/sys/user/max_inotify_watches",
            "fs.inotify.max_user_watches=",
        ),
        (
            "warn",
            "inotify watches of this user are taken",
            "echo 1000 > /proc/sys/user/max_inotify_watches",
            "fs.inotify.max_user_watches=",
        ),
    ] {
        let mut world = World::new();
        let namespaces = Namespaces::users(setup);
        world.wrap = namespaces.wrap();
        let report = world.doctor();
        let finding = report.finds("limits", level, what);
        assert!(
            finding["mend"]
                .as_str()
                .is_some_and(|words| words.contains(mend)),
            "{finding:#}"
        );
    }
    let mut world = World::new();
    world.wrap = ["sh", "-c", "ulimit -n 100; exec \"$@\"", "sh"]
        .map(str::to_owned)
        .to_vec();
    world
        .doctor()
        .finds("limits", "warn", "may open 100 files only");
}

/// No systemd runs where tests do: systemctl is a script, and the daemon's cgroup is covered by a file, for `doctor` only.
#[test]
fn a_service_that_kills_agents_is_found() {
    let mut world = World::served();
    world.watch();
    let cgroup = world.beside("cgroup");
    std::fs::write(&cgroup, "0::/system.slice/calypso-watch.service\n").expect("writable");
    let pid = world.daemon_pid();
    let namespaces = Namespaces::mounts(&format!(
        "mount --bind '{}' /proc/{pid}/cgroup",
        cgroup.display()
    ));
    world.wrap = namespaces.wrap();
    world.unit("KillMode=process\nDelegate=yes\nOOMPolicy=continue\n");
    world.doctor().is_well();
    world.unit("KillMode=control-group\nDelegate=yes\nOOMPolicy=continue\n");
    let report = world.doctor();
    let finding = report.finds(
        "service",
        "warn",
        "calypso-watch.service has KillMode=control-group",
    );
    assert_eq!(
        finding["mend"],
        "sudo mkdir -p /etc/systemd/system/calypso-watch.service.d && printf '[Service]\\nKillMode=process\\n' | \
         sudo tee /etc/systemd/system/calypso-watch.service.d/calypso-KillMode.conf && sudo systemctl daemon-reload"
    );
    world.unit("KillMode=process\nDelegate=yes\nOOMPolicy=stop\n");
    world.doctor().finds(
        "service",
        "warn",
        "calypso-watch.service has OOMPolicy=stop",
    );
}

#[test]
fn what_another_user_may_not_see_is_unknown() {
    let mut world = World::served();
    world.watch();
    world.wrap = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ]
    .map(str::to_owned)
    .to_vec();
    let report = world.doctor();
    let unknown = report.at(&["unknown"]);
    assert!(
        unknown.iter().any(|finding| finding["what"]
            .as_str()
            .is_some_and(|what| what.contains("environment of the daemon"))),
        "{unknown:#?}"
    );
    // It may be warned of things that it can see: none are wrong.
    assert_eq!(report.counted(), Vec::<&serde_json::Value>::new());
    assert_eq!(report.code, Some(0));
}

#[test]
fn a_machine_without_a_base_path_is_examined() {
    let world = World::new();
    let found = report(&world.type_in(&["doctor", "--json"]));
    assert_eq!(found.counted(), Vec::<&serde_json::Value>::new());
    assert_eq!(
        (found.code, &found.json["base"]),
        (Some(0), &serde_json::Value::Null)
    );
    let notes = found.at(&["note"]);
    assert!(
        notes
            .iter()
            .any(|note| note["mend"] == "calypso-watch init ~/my-team --builtin"),
        "{notes:#?}"
    );
    std::fs::remove_file(world.beside("bin/goose")).expect("there");
    let found = report(&world.type_in(&["doctor", "--json"]));
    found.finds("goose", "fail", "`goose` is not on the PATH");
}
