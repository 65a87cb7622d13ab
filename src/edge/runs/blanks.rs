//! Run directories that are made ahead, with an empty file for each that a start needs.
//!
//! A new inode is the dearest thing a launch asks of a disk: on ext4 without a journal 0.1 to 0.4 ms each, as the kernel looks at all that were
//! freed within the last minutes and takes none of them. A start needs nine. A new name for one that is there costs a tenth of that, so the
//! daemon makes them while nobody waits, and a launch gives them their names.
//!
//! Nothing is believed of a blank: each file is taken if it is there, empty and nobody else's, and made where it is needed if it is not. So
//! whatever killed whom while one was made, the next daemon may use it. What a run had no use for goes with its verdict, as a temporary file.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;

use camino::{Utf8Path, Utf8PathBuf};

use super::{Error, io_error, make_dirs, names};
use crate::core::layout::{Layout, RunPaths};
use crate::edge::{files, kill_point};

/// The steps of state.json, each of which has a file of its own.
pub(super) const STARTING: &str = ".starting";
pub(super) const RUNNING: &str = ".running";
pub(super) const ENDED: &str = ".ended";

/// The files of one blank, and their permissions.
fn files_of(paths: &RunPaths) -> [(Utf8PathBuf, u32); 9] {
    let state = paths.state();
    [
        (files::blank(&paths.shim_lock(), ""), 0o644),
        (files::blank(&paths.spec(), ""), 0o644),
        (files::blank(&paths.agent_lock(), ""), 0o644),
        (files::blank(&state, STARTING), 0o644),
        (files::blank(&paths.output(), ""), 0o600),
        (files::blank(&paths.pid(), ""), 0o644),
        (files::blank(&state, RUNNING), 0o644),
        (files::blank(&state, ENDED), 0o644),
        (files::blank(&paths.verdict(), ""), 0o644),
    ]
}

/// The blanks of one base path. The default has none, and makes none unless it is told to.
#[derive(Debug, Default)]
pub struct Blanks {
    there: Vec<u32>,
    /// The number of the next one.
    next: u32,
    /// None could be made, or given a name: until the next launch.
    is_of_no_use: bool,
}

impl Blanks {
    /// Those that an earlier daemon left.
    pub fn find(layout: &Layout) -> Self {
        let there: Vec<u32> = (names(&layout.blanks()).unwrap_or_default().iter())
            .filter_map(|name| name.parse().ok())
            .collect();
        Self {
            next: there.iter().max().map_or(1, |last| last.saturating_add(1)),
            there,
            is_of_no_use: false,
        }
    }

    /// Are there less than `wanted`, and is it of use to make one?
    pub fn are_short_of(&self, wanted: usize) -> bool {
        !self.is_of_no_use && self.there.len() < wanted
    }

    /// Makes one more. Where that fails, no other is tried until the next start of a run.
    ///
    /// # Errors
    /// What is said is for a log: a start does without.
    pub fn make_one(&mut self, layout: &Layout) -> Result<(), Error> {
        self.is_of_no_use = true;
        let folder = layout.blanks();
        make_dirs(&folder)?;
        if !files::has_plenty(&folder) {
            let error = io::Error::from(io::ErrorKind::StorageFull);
            return Err(io_error("make blanks in", &folder)(error));
        }
        let entry = layout.blank_entry();
        match files::create_new(&entry, 0o644) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("create", &entry)(error));
            }
            _ => {}
        }
        let number = self.next;
        self.next = self.next.saturating_add(1);
        let paths = layout.blank(number);
        make_dir(&paths.dir).map_err(io_error("create", &paths.dir))?;
        kill_point::reach("blank:folder-made");
        for (path, mode) in files_of(&paths) {
            files::create_new(&path, mode).map_err(io_error("create", &path))?;
        }
        kill_point::reach("blank:made");
        self.there.push(number);
        self.is_of_no_use = false;
        Ok(())
    }

    /// Makes an entry of live/, which is empty and never written: one more name of one file.
    ///
    /// # Errors
    /// `AlreadyExists`; else what open(2) says.
    pub(super) fn enter(&mut self, layout: &Layout, entry: &Utf8Path) -> io::Result<()> {
        self.is_of_no_use = false;
        if !self.there.is_empty() {
            match std::fs::hard_link(layout.blank_entry(), entry) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {}
                linked => return linked,
            }
        }
        files::create_new(entry, 0o644).map(drop)
    }

    /// Makes a run's directory, of a blank one if there is any.
    ///
    /// # Errors
    /// `AlreadyExists`; else what mkdir(2) says.
    pub(super) fn become_dir(&mut self, layout: &Layout, dir: &Utf8Path) -> io::Result<()> {
        while let Some(number) = self.there.pop() {
            let blank = layout.blank(number).dir;
            // Nobody's link.
            if !std::fs::symlink_metadata(&blank).is_ok_and(|meta| meta.is_dir()) {
                continue;
            }
            match files::rename_new(&blank, dir) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.there.push(number);
                    if error.kind() == io::ErrorKind::AlreadyExists {
                        return Err(error);
                    }
                    // A file system that cannot do that.
                    self.is_of_no_use = true;
                    break;
                }
            }
        }
        make_dir(dir)
    }
}

fn make_dir(path: &Utf8Path) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(path)
}
