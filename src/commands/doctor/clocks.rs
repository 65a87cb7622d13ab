//! The clocks: kept right, not behind what was written, and in a zone.

use camino::{Utf8Path, Utf8PathBuf};

use super::{Look, Scene, short};
use crate::core::layout::Layout;
use crate::core::model::{Millis, Timestamp};
use crate::edge::{clock, files, machine};
use crate::view::{Area, Level, ago};

/// Less is the difference between two machines' clocks.
const AHEAD: Millis = Millis::secs(120);

pub(super) fn examine(scene: &Scene, look: &Look) -> Area {
    let mut area = Area::new("clock");
    let now = clock::wall();
    // The program's own file is younger than the clock only where the clock is wrong.
    let built = files::modified(Utf8Path::new("/proc/self/exe"))
        .and_then(|_| std::fs::canonicalize("/proc/self/exe").ok())
        .and_then(|path| files::modified(&Utf8PathBuf::from_path_buf(path).ok()?));
    match built.filter(|built| built.since(now) > Millis::secs(86_400)) {
        Some(built) => {
            area.finds(
                Level::Warn,
                format!(
                    "the clock is {} behind the date of this program's file",
                    ago(built.since(now))
                ),
                "times in records and back-offs would be wrong",
            )
            .mend("sudo timedatectl set-ntp true");
        }
        None => area.passed(),
    }
    if let Some((path, ahead)) = scene
        .layout
        .as_ref()
        .and_then(|layout| in_the_future(layout, now))
    {
        let layout = scene.layout.as_ref().expect("looked at just above");
        area.finds(
            Level::Warn,
            format!("`{}` was written {} in the future", short(layout, &path), ago(ahead)),
            "the clock was set back since; waits end by the boot clock all the same, but times and ages on screens are wrong",
        )
        .about(path)
        .mend("sudo timedatectl set-ntp true");
    } else {
        area.passed();
    }
    let judged = look.as_ref().ok().and_then(|looked| {
        let newest = looked
            .seen
            .recent
            .iter()
            .map(|verdict| verdict.judged.wall)
            .max()?;
        Some(newest.since(now)).filter(|ahead| *ahead > AHEAD)
    });
    if let Some(ahead) = judged {
        area.finds(
            Level::Warn,
            format!("a verdict is dated {} in the future", ago(ahead)),
            "the clock was set back since: today's figures, ages and pruning go by it",
        )
        .mend("sudo timedatectl set-ntp true");
    }
    match machine::is_clock_kept() {
        Some(true) => area.well("kept right by a time service"),
        Some(false) => {
            area.well("running");
            area.finds(
                Level::Note,
                "nothing is known to keep the clock right (NTP)",
                "times of several machines cannot be compared",
            )
            .mend("sudo timedatectl set-ntp true");
        }
        None => area.passed(),
    }
    if !clock::has_zone() {
        area.finds(
            Level::Note,
            "no time zone is set",
            "times on screens are in UTC",
        )
        .mend("sudo timedatectl set-timezone Europe/Berlin");
    }
    area
}

/// The first of the daemon's own files, and of the settings, that is younger than now.
fn in_the_future(layout: &Layout, now: Timestamp) -> Option<(Utf8PathBuf, Millis)> {
    let paths = [
        layout.lock(),
        layout.daemon(),
        layout.history(),
        layout.log(),
        layout.config(),
    ];
    paths.into_iter().find_map(|path| {
        let ahead = files::modified(&path)?.since(now);
        (ahead > AHEAD).then_some((path, ahead))
    })
}
