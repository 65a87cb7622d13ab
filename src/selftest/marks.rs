//! Which processes belong to a selftest: the mark is a variable in the environment of everything it starts, and so of everything
//! that is started by that.

use std::time::Duration;

use camino::Utf8Path;

use crate::core::model::ProcessId;
use crate::edge::process::{self, Pidfd, Signal};

/// Its value is the base path that the process belongs to. Not `CALYPSO_…`, which would be a setting.
pub(super) const MARK: &str = "SELFTEST_OF";

const ROUNDS: u32 = 500;
const TRY: Duration = Duration::from_millis(10);

/// Does it carry the mark of `folder`, or of a base path below it?
fn is_marked(pid: i32, folder: &Utf8Path) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|entry| {
        std::str::from_utf8(entry).is_ok_and(|entry| {
            entry
                .strip_prefix(MARK)
                .and_then(|rest| rest.strip_prefix('='))
                .is_some_and(|base| Utf8Path::new(base).starts_with(folder))
        })
    })
}

/// Living processes that carry the mark.
pub(super) fn marked(folder: &Utf8Path) -> Vec<ProcessId> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| is_marked(*pid, folder))
        .filter_map(process::identity)
        .collect()
}

/// Kills whatever carries the mark until nothing does; false where something will not go.
pub(super) fn end_all(folder: &Utf8Path) -> bool {
    for _ in 0..ROUNDS {
        let left = marked(folder);
        if left.is_empty() {
            return true;
        }
        for process in left {
            // The descriptor first, then the question: the number cannot become another's in between.
            if let Ok(Some(pidfd)) = Pidfd::open_checked(&process)
                && is_marked(process.pid, folder)
            {
                pidfd.signal(Signal::KILL).ok();
            }
        }
        std::thread::sleep(TRY);
    }
    false
}
