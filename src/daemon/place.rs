//! The daemon's place: the folders it works in, whether they are still the ones it locked, and the settings in them.

use tracing::{error, warn};

use super::{Daemon, Error, Lock, journal, lock};
use crate::core::layout::Layout;
use crate::edge::{config, control};
use crate::look::chain;

impl Daemon {
    /// Everything below goes by names, so the names must still lead to what was locked. Where only `.calypso` went, it is made and
    /// locked anew: pid files in running_tasks/ keep tasks whose agents live from being started twice. Another base path is
    /// never taken for this one: the agents of the one that was moved away would not be seen.
    pub(super) fn keep_place(&mut self) -> Result<(), Error> {
        let layout = self.looker.layout.clone();
        let place = self.lock.place();
        let displaced = match place {
            lock::Place::Elsewhere => Some(layout.base().to_owned()),
            lock::Place::Emptied if layout.state().is_symlink() => Some(layout.state()),
            lock::Place::Ours | lock::Place::Emptied => None,
        };
        let was_displaced = std::mem::replace(&mut self.is_displaced, displaced.is_some());
        if let Some(path) = displaced {
            return Err(Error::Displaced { path });
        }
        if was_displaced {
            self.reload();
        }
        match place {
            lock::Place::Ours | lock::Place::Elsewhere => {}
            lock::Place::Emptied => {
                make_folders(&layout)?;
                self.lock = Lock::take(&layout)?;
                let what = format!(
                    "`{}` was deleted or replaced; what was recorded there is forgotten",
                    layout.state()
                );
                warn!(what, "watching was disturbed");
                self.journal = journal::Journal::open(&layout);
                self.journal.lost(&what);
                self.looker.memory.forget_records();
            }
        }
        // As at the start: what was put in a folder's place must not be anybody's to write.
        config::check_permissions(&layout)?;
        Ok(())
    }

    /// Settings are read anew; a bad file leaves the last good ones in force.
    pub(super) fn reload(&mut self) {
        // Those of another base path, or of none, are not ours; they are read when it is back.
        if self.lock.place() == lock::Place::Elsewhere {
            self.is_displaced = true;
            return;
        }
        match config::load(self.looker.layout.base(), &self.options.flags) {
            Ok(config) => self.looker.reconfigure(config),
            Err(error) => error!(
                error = chain(&error),
                "settings cannot be used; the last good ones stay in force"
            ),
        }
    }
}

/// The daemon's folders; the base path itself must be there.
pub(super) fn make_folders(layout: &Layout) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    let folders = [
        (layout.inbound(), 0o755),
        (layout.workqueue(), 0o755),
        (layout.running_tasks(), 0o755),
        (layout.recipes(), 0o755),
        (layout.state(), 0o755),
        (layout.live(), 0o755),
        (layout.runs(), 0o755),
        (layout.tinytask(), 0o700),
    ];
    for (path, mode) in folders {
        match std::fs::DirBuilder::new().mode(mode).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(source) => return Err(Error::Write { path, source }),
        }
    }
    control::make_folder(layout).map_err(|source| Error::Write {
        path: layout.control(),
        source,
    })
}
