//! The file system below the base path: what it can do, and what is left of it.

use super::Scene;
use crate::edge::{config, mount};
use crate::look::chain;
use crate::view::text::{memory, shell_word};
use crate::view::{Area, Level};

/// A few runs' records and folders.
const FEW_INODES: u64 = 1000;
const SLOW_SYNC: std::time::Duration = std::time::Duration::from_secs(1);

pub(super) fn examine(scene: &Scene) -> Area {
    let mut area = Area::new("mount");
    let Some(layout) = &scene.layout else {
        return area;
    };
    let base = layout.base();
    let at = shell_word(base.as_str());
    let kind = mount::fs_type(base).unwrap_or_else(|| "unknown".into());
    if let Err(error @ config::Error::NetworkFileSystem { .. }) = config::check_permissions(layout)
    {
        area.finds(Level::Fail, chain(&error), error.hint().unwrap_or_default())
            .about(base)
            .mend(format!(
                "cp -a {at} ~/calypso-base && calypso-watch --base-path ~/calypso-base run"
            ));
    }
    let room = match mount::room(base) {
        Ok(room) => room,
        Err(error) => {
            area.finds(
                Level::Unknown,
                format!("the mount cannot be asked: {error}"),
                "its space is not known",
            );
            return area;
        }
    };
    if room.is_read_only {
        area.finds(
            Level::Fail,
            format!("the base path is mounted read-only ({kind})"),
            "no record, no pid file and no task folder can be made, so nothing is started",
        )
        .about(base)
        .mend(format!("sudo mount -o remount,rw {at}"));
        return area;
    }
    let wanted = scene
        .config
        .as_ref()
        .map_or(256_000_000, |config| config.log_limit);
    if room.free_bytes < wanted {
        area.finds(
            Level::Warn,
            format!(
                "{} are free, less than the log of one run may take ({})",
                memory(room.free_bytes / 1024),
                memory(wanted / 1024)
            ),
            "a full disk stops launches, and an agent's log and work are cut off",
        )
        .about(base)
        .mend(format!("du -xh --max-depth=3 {at} | sort -h | tail -20"));
    } else {
        area.well(format!("{kind}, {} free", memory(room.free_bytes / 1024)));
    }
    if room.all_inodes > 0 && room.free_inodes < FEW_INODES {
        area.finds(
            Level::Warn,
            format!("{} inodes are free", room.free_inodes),
            "each run makes about ten files; without inodes a disk is full though it has space",
        )
        .about(base)
        .mend(format!(
            "du -x --inodes --max-depth=3 {at} | sort -n | tail -20"
        ));
    } else {
        area.passed();
    }
    // Ours, where nobody watches; the base path itself before the first `run`.
    let place = if layout.state().is_dir() {
        layout.state()
    } else {
        base.to_owned()
    };
    if rustix::fs::access(place.as_std_path(), rustix::fs::Access::WRITE_OK).is_err() {
        area.finds(
            Level::Unknown,
            format!("what the mount can do cannot be tried: `{place}` is not this user's"),
            "rename, link, locks, inotify and sync are tried in a folder there",
        )
        .mend("sudo ".to_owned() + &scene.ours("doctor"));
        return area;
    }
    let report = mount::probe(&place);
    let deeds = [
        (
            "rename(2)",
            &report.rename,
            "records are replaced by it, in one step",
        ),
        (
            "link(2)",
            &report.link,
            "pid files are hard links, so that two launches of one task cannot both have it",
        ),
        (
            "OFD locks",
            &report.ofd_lock,
            "they tell who is alive; without them two agents could work on one task",
        ),
        (
            "inotify",
            &report.inotify,
            "without it changes are seen only at the next slow look",
        ),
    ];
    for (name, result, why) in deeds {
        match result {
            Ok(()) => area.passed(),
            // The limits, rather than the mount: the next area tells.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(nix::libc::EMFILE | nix::libc::ENOSPC)
                ) && name == "inotify" => {}
            Err(error) => {
                area.finds(
                    Level::Fail,
                    format!("{name} does not work on {kind}: {error}"),
                    why,
                )
                .about(base)
                .mend(format!(
                    "cp -a {at} ~/calypso-base && calypso-watch --base-path ~/calypso-base run"
                ));
            }
        }
    }
    match report.fsync {
        Ok(took) if took > SLOW_SYNC => {
            area.finds(
                Level::Note,
                format!("one fsync took {} ms", took.as_millis()),
                "each end of a run waits for one; the disk is busy or slow",
            )
            .about(base);
        }
        Ok(took) => area.well(format!("fsync {} ms", took.as_millis())),
        Err(error) => {
            area.finds(
                Level::Fail,
                format!("fsync does not work on {kind}: {error}"),
                "verdicts are synced before tinytask is written to",
            )
            .about(base)
            .mend("dmesg | tail".to_owned());
        }
    }
    area
}
