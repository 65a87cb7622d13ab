//! What the kernel and the shell allow: its version, inotify, processes, descriptors, /proc.

use super::{Scene, uid_of};
use crate::edge::machine;
use crate::view::{Area, Level};

/// pidfd_open(2) with PIDFD_NONBLOCK.
const KERNEL: machine::Release = (5, 10);
/// The base path's folders, and those of 1,000 tasks.
const WATCHES: u64 = 1100;
/// A small queue overflows in a burst of a few thousand files; then everything is looked at anew.
const QUEUED: u64 = 1024;
/// A descriptor or two for each live run, beside a few dozen.
const DESCRIPTORS: u64 = 256;
/// Each run is a shim, goose with its threads, its extensions and what they start.
const PROCESSES: u64 = 512;
/// Small enough for a number to be used again within minutes.
const PIDS: u64 = 4096;

pub(super) fn examine(scene: &Scene) -> Area {
    let mut area = Area::new("limits");
    kernel(&mut area);
    inotify(scene, &mut area);
    processes(scene, &mut area);
    if let Some(how) = machine::hidepid() {
        if nix::unistd::geteuid().is_root() {
            area.passed();
        } else {
            area.finds(
                Level::Warn,
                format!("/proc is mounted with hidepid={how}"),
                "processes of other users cannot be seen: a pid file of another user's run stays unknown, and holds its task",
            )
            .mend("sudo mount -o remount,hidepid=0 /proc");
        }
    } else {
        area.passed();
    }
    area
}

fn kernel(area: &mut Area) {
    match machine::release() {
        Some(release) if release < KERNEL => {
            area.finds(
                Level::Fail,
                format!("Linux {}.{} is older than {}.{}", release.0, release.1, KERNEL.0, KERNEL.1),
                "agents are watched and signalled by pidfd, so that no stranger is hit; this kernel has none that fits",
            )
            .mend("uname -r");
        }
        Some((major, minor)) => area.well(format!("Linux {major}.{minor}")),
        None => area.passed(),
    }
}

fn inotify(scene: &Scene, area: &mut Area) {
    let Some(limits) = machine::inotify_limits() else {
        area.finds(
            Level::Unknown,
            "inotify's limits cannot be read",
            "this kernel may have none, and then changes are not seen at once",
        );
        return;
    };
    let uid = scene.daemon.as_ref().map_or_else(
        || nix::unistd::geteuid().as_raw(),
        |daemon| uid_of(daemon.process.pid),
    );
    let (instances, watches) = machine::inotify_use(uid);
    // Tried, as what others hold cannot all be seen.
    let tried = machine::try_inotify()
        .err()
        .and_then(|error| error.raw_os_error());
    if tried == Some(nix::libc::EMFILE) {
        area.finds(
            Level::Fail,
            format!(
                "all {} inotify instances of this user are taken",
                limits.instances
            ),
            "the daemon needs one to see anything",
        )
        .mend("sudo sysctl fs.inotify.max_user_instances=512");
    } else {
        area.well(format!("inotify {instances}/{}", limits.instances));
    }
    let is_full = tried == Some(nix::libc::ENOSPC);
    if is_full || limits.watches < WATCHES {
        let level = if is_full { Level::Fail } else { Level::Warn };
        area.finds(
            level,
            format!("{watches} of {} inotify watches of this user are taken", limits.watches),
            format!("the daemon needs up to {WATCHES}; folders that get none are looked at once a minute"),
        )
        .mend("sudo sysctl fs.inotify.max_user_watches=524288");
    } else {
        area.well(format!("{watches}/{} watches", limits.watches));
    }
    if limits.queued_events < QUEUED {
        area.finds(
            Level::Warn,
            format!("inotify queues only {} events", limits.queued_events),
            "a burst of files overflows it; nothing is lost, but everything is looked at anew each time",
        )
        .mend("sudo sysctl fs.inotify.max_queued_events=16384");
    } else {
        area.passed();
    }
}

fn processes(scene: &Scene, area: &mut Area) {
    let whose = if scene.daemon.is_some() {
        "the daemon"
    } else {
        "this shell"
    };
    let mend = |option: char, number: u64| {
        format!(
            "ulimit -{option} {number}; {}",
            if scene.daemon.is_some() {
                scene.restart()
            } else {
                scene.ours("run")
            }
        )
    };
    match machine::limits(scene.process()) {
        Some(limits) => {
            let soft = |name: &str| limits.get(name).copied().flatten();
            match soft("Max open files") {
                Some(most) if most < DESCRIPTORS => {
                    area.finds(
                        Level::Warn,
                        format!("{whose} may open {most} files only"),
                        "each live run takes one or two; without any left nothing can be read or started",
                    )
                    .mend(mend('n', 1024));
                }
                Some(most) => area.well(format!("{most} descriptors")),
                None => area.passed(),
            }
            match soft("Max processes") {
                Some(most) if most < PROCESSES && !nix::unistd::geteuid().is_root() => {
                    area.finds(
                        Level::Warn,
                        format!("{whose} may have {most} processes and threads only"),
                        "goose alone has dozens of threads; forks fail in the middle of an agent's work",
                    )
                    .mend(mend('u', 4096));
                }
                _ => area.passed(),
            }
        }
        None => {
            area.finds(
                Level::Unknown,
                format!("the limits of {whose} cannot be read"),
                "it is another user's",
            );
        }
    }
    match machine::pid_max() {
        Some(most) if most < PIDS => {
            area.finds(
                Level::Warn,
                format!("process numbers end at {most} (kernel.pid_max)"),
                "numbers are soon used again; runs are told apart by start time too, but pid files of your own are not",
            )
            .mend("sudo sysctl kernel.pid_max=32768");
        }
        _ => area.passed(),
    }
}
