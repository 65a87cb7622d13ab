//! Namespaces for a test, and a small disk to stand a base path on.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use crate::World;

/// Set for a test that runs in its namespaces.
const INSIDE: &str = "FAULTS_INSIDE";
/// What one write costs at least, on a tmpfs.
pub(crate) const PAGE: u64 = 4096;

/// Runs `body` in a user and a mount namespace of its own, and what else `more` asks of unshare(1): this test's program is started
/// again in them, for the one test that `test` names (`folder::name`).
#[track_caller]
#[expect(
    clippy::print_stderr,
    reason = "the harness shows it where the test failed"
)]
pub(crate) fn inside(test: &str, more: &[&str], body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .args(more)
        .arg(std::env::current_exe().expect("this program"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("util-linux is there");
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        eprintln!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(output.status.success(), "it failed in there: see above");
    assert!(said.contains("1 passed"), "no test of that name: {test}");
}

/// A shell's words, which must succeed.
#[track_caller]
pub(crate) fn sh(script: &str) {
    let output = Command::new("sh")
        .args(["-ec", script])
        .output()
        .expect("sh is there");
    assert!(
        output.status.success(),
        "{script}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Puts the base path of a world that is configured and not started on a file system that `mount` mounts at `$NEW`. What the
/// agents note stays where it was, so that it costs no room there and is never lost.
#[track_caller]
pub(crate) fn stand_on(world: &World, mount: &str) {
    let base = world.layout.base();
    sh(&format!(
        "BASE='{base}'; NEW='{base}.new'; ASIDE='{base}.aside'; mkdir \"$ASIDE\" \"$NEW\"
         cd \"$BASE\"; touch daemon.log daemon.out
         for name in stamps gates busy daemon.log daemon.out; do mv $name \"$ASIDE\"; ln -s \"$ASIDE/$name\" $name; done
         {mount}
         cp -a \"$BASE/.\" \"$NEW\"; cd /; mount --move \"$NEW\" \"$BASE\""
    ));
}

/// A disk of so many pages under the base path.
#[track_caller]
pub(crate) fn small_disk(world: &World, pages: u64) -> Disk {
    let size = pages * PAGE;
    stand_on(
        world,
        &format!("mount -t tmpfs -o size={size},mode=755 tmpfs \"$NEW\""),
    );
    Disk {
        filler: world.path("filler"),
    }
}

/// See [`small_disk`].
pub(crate) struct Disk {
    filler: PathBuf,
}

impl Disk {
    /// Pages that are free.
    pub(crate) fn room(&self) -> u64 {
        let dir = self.filler.parent().expect("it lies in the base path");
        let found = rustix::fs::statvfs(dir).expect("it is mounted");
        found.f_bavail * found.f_frsize / PAGE
    }

    /// Leaves so many pages and no more.
    pub(crate) fn fill(&self, leave: u64) {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.filler)
            .expect("ours");
        while let Some(more) = self.room().checked_sub(leave).filter(|more| *more > 0) {
            let page = [0; PAGE as usize];
            for _ in 0..more {
                // Whoever else wrote meanwhile took that room.
                file.write_all(&page).ok();
            }
        }
    }

    /// There is room again.
    pub(crate) fn free(&self) {
        std::fs::remove_file(&self.filler).expect("it was full");
    }
}

/// A place beside the base path, also when that is not there.
pub(crate) fn beside(world: &World, name: &str) -> PathBuf {
    let parent = world
        .layout
        .base()
        .parent()
        .expect("a folder of the test's");
    parent.join(name).into_std_path_buf()
}
