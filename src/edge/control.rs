//! Control files: how people tell the daemon something, also while it is dead. `.calypso/control/`, one empty file a wish.
//!
//! `pause`, `pause-QUEUE` and `hold-SUBJECT` stay until removed; `retry-SUBJECT`, `release-SUBJECT` and `stop-SUBJECT` are
//! removed by the daemon once they are recorded or done, and so is `release-tinytask`. A subject is `task_7` or `inbound`. The
//! content does not matter.
//!
//! Knows nothing of what a wish does.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};

use camino::Utf8PathBuf;

use crate::core::Controls;
use crate::core::layout::{Layout, parse_subject_dir, subject_dir};
use crate::core::model::{QueueName, RunSubject, Timestamp};
use crate::edge::files::Names;

const RELEASE_TINYTASK: &str = "release-tinytask";

/// One wish.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Control {
    PauseAll,
    Pause(QueueName),
    Hold(RunSubject),
    Retry(RunSubject),
    Release(RunSubject),
    ReleaseTinytask,
    Stop(RunSubject),
}

impl Control {
    /// Its file's name.
    pub fn file_name(&self) -> String {
        match self {
            Self::PauseAll => "pause".into(),
            Self::Pause(queue) => format!("pause-{queue}"),
            Self::Hold(subject) => format!("hold-{}", subject_dir(*subject)),
            Self::Retry(subject) => format!("retry-{}", subject_dir(*subject)),
            Self::Release(subject) => format!("release-{}", subject_dir(*subject)),
            Self::ReleaseTinytask => RELEASE_TINYTASK.into(),
            Self::Stop(subject) => format!("stop-{}", subject_dir(*subject)),
        }
    }

    /// Reads [`Self::file_name`] back; `None` for anything else.
    pub fn parse(name: &str) -> Option<Self> {
        if name == "pause" {
            return Some(Self::PauseAll);
        }
        if name == RELEASE_TINYTASK {
            return Some(Self::ReleaseTinytask);
        }
        let (verb, rest) = name.split_once('-')?;
        let subject = || parse_subject_dir(rest);
        match verb {
            "pause" => rest.parse().ok().map(Self::Pause),
            "hold" => subject().map(Self::Hold),
            "retry" => subject().map(Self::Retry),
            "release" => subject().map(Self::Release),
            "stop" => subject().map(Self::Stop),
            _ => None,
        }
    }
}

/// Looks at all control files. A missing directory means there are none; names that mean nothing are listed as odd,
/// escaped so that they can be printed. They are read again only when `names`, which are those of the look before, may be others by now.
pub fn look(layout: &Layout, names: &mut Names, now: Timestamp) -> io::Result<Controls> {
    let mut controls = Controls::default();
    let names = match names.read(&layout.control(), now) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(controls),
        Err(error) => return Err(error),
    };
    for name in names {
        match name.to_str().and_then(Control::parse) {
            Some(Control::PauseAll) => controls.pause_all = true,
            Some(Control::Pause(queue)) => drop(controls.paused.insert(queue)),
            Some(Control::Hold(subject)) => drop(controls.held.insert(subject)),
            Some(Control::Retry(subject)) => drop(controls.retry.insert(subject)),
            Some(Control::Release(subject)) => drop(controls.release.insert(subject)),
            Some(Control::ReleaseTinytask) => controls.trust_tinytask = true,
            Some(Control::Stop(subject)) => drop(controls.stop.insert(subject)),
            None => controls
                .odd
                .push(name.as_encoded_bytes().escape_ascii().to_string()),
        }
    }
    controls.odd.sort();
    Ok(controls)
}

/// Makes the folder, for its owner only, where it is missing.
pub fn make_folder(layout: &Layout) -> io::Result<()> {
    // A wish may come before the first daemon.
    for (path, mode) in [(layout.state(), 0o755), (layout.control(), 0o700)] {
        match DirBuilder::new().mode(mode).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Leaves the wish; true when it was not there before. Makes the directory, for its owner only, where it is missing.
pub fn create(layout: &Layout, control: &Control) -> io::Result<bool> {
    make_folder(layout)?;
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path(layout, control))
    {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whose wish it is; `None` where it is not there.
pub fn owner(layout: &Layout, control: &Control) -> Option<u32> {
    Some(std::fs::symlink_metadata(path(layout, control)).ok()?.uid())
}

/// Takes the wish back; true when it was there.
pub fn remove(layout: &Layout, control: &Control) -> io::Result<bool> {
    match std::fs::remove_file(path(layout, control)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn path(layout: &Layout, control: &Control) -> Utf8PathBuf {
    layout.control().join(control.file_name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::clock;

    fn look(layout: &Layout) -> io::Result<Controls> {
        super::look(layout, &mut Names::default(), clock::wall())
    }

    fn base() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let layout = Layout::new(camino::Utf8Path::from_path(dir.path()).expect("UTF-8"));
        std::fs::create_dir(layout.state()).expect("an empty folder");
        (dir, layout)
    }

    #[test]
    fn a_wish_is_seen_until_it_is_taken_back() {
        let (_dir, layout) = base();
        assert_eq!(look(&layout).expect("readable"), Controls::default());
        let task = RunSubject::Task(7.try_into().expect("positive"));
        let wishes = [
            Control::PauseAll,
            Control::Pause("a-b.c".parse().expect("a queue")),
            Control::Hold(RunSubject::Inbound),
            Control::Retry(task),
            Control::Release(task),
            Control::ReleaseTinytask,
            Control::Stop(task),
        ];
        for wish in &wishes {
            assert!(create(&layout, wish).expect("writable"));
            assert!(!create(&layout, wish).expect("a second time changes nothing"));
            assert_eq!(Control::parse(&wish.file_name()).as_ref(), Some(wish));
        }
        let seen = look(&layout).expect("readable");
        assert!(seen.pause_all && seen.trust_tinytask && seen.odd.is_empty());
        assert_eq!(seen.paused.len(), 1);
        assert!(seen.held.contains(&RunSubject::Inbound));
        for set in [&seen.retry, &seen.release, &seen.stop] {
            assert!(set.contains(&task));
        }
        for wish in &wishes {
            assert!(remove(&layout, wish).expect("removable"));
            assert!(!remove(&layout, wish).expect("gone already"));
        }
        assert_eq!(look(&layout).expect("readable"), Controls::default());
    }

    #[test]
    fn the_folder_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_dir, layout) = base();
        create(&layout, &Control::PauseAll).expect("writable");
        let mode = std::fs::metadata(layout.control())
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn names_that_mean_nothing_are_odd_and_printable() {
        use std::os::unix::ffi::OsStrExt as _;
        let (_dir, layout) = base();
        make_folder(&layout).expect("writable");
        for name in [
            &b"retry-task_07"[..],
            b"retry-task_-1",
            b"retry-task_0",
            b"retry-task_9223372036854775808",
            b"pause-..",
            b"pause-",
            b"hold-",
            b"hurry-task_7",
            b"\xff\n",
        ] {
            let path = layout
                .control()
                .as_std_path()
                .join(std::ffi::OsStr::from_bytes(name));
            drop(std::fs::File::create(path).expect("writable"));
        }
        let seen = look(&layout).expect("readable");
        assert_eq!(seen.odd.len(), 9);
        assert!(seen.odd.contains(&"\\xff\\n".to_owned()));
        assert_eq!(
            Controls {
                odd: Vec::new(),
                ..seen
            },
            Controls::default()
        );
    }
}
