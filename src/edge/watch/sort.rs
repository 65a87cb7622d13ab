//! The handler, on notify's thread: which part of the tree an event is of, and whether it is told now or once it is quiet.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, CreateKind, Event, EventKind, ModifyKind, RenameMode};

use super::{Area, Areas, Shared, State, gate};
use crate::core::layout::parse_subject_dir;
use crate::core::model::{TaskId, Timestamp};
use crate::edge::clock;

pub(super) fn handle(shared: &Arc<Shared>, event: notify::Result<Event>) {
    let at = clock::wall();
    let mut state = shared.lock();
    match event {
        // Before the paths: an overflow has none.
        Ok(event) if event.need_rescan() => {
            state.overflowed("more happened than the kernel keeps events for", at)
        }
        Ok(event) => {
            if let EventKind::Access(AccessKind::Open(_)) = event.kind {
                state.opened(&event, at);
                return;
            }
            // A rename's two halves were told already.
            let is_noise = matches!(
                event.kind,
                EventKind::Access(AccessKind::Close(AccessMode::Read))
                    | EventKind::Modify(ModifyKind::Name(RenameMode::Both))
            );
            if is_noise {
                return;
            }
            for path in &event.paths {
                state.sort(shared, &event, path, at);
            }
        }
        Err(error) => state.overflowed(&format!("the watcher failed: {error}"), at),
    }
    // Also for what waits for a gate: somebody must open it, and end it.
    if !state.pending.is_empty() || !state.upset.is_empty() || !state.unfed.is_empty() {
        shared.bell.notify_one();
    }
}

impl State {
    fn overflowed(&mut self, why: &str, at: Timestamp) {
        let everything = Areas {
            rescan: true,
            ..Areas::default()
        };
        self.raise(everything, at);
        // A file may have been opened again unseen.
        self.closed.clear();
        // An overflow comes in bursts.
        if !self.lost.iter().any(|said| said == why) {
            self.lost.push(why.to_owned());
        }
    }

    /// Opens are dropped, as our own looks make them, but for one: open(2) with O_CREAT queues `Create` and `Open` together, so an
    /// `Open` of the file made last means a writer that will close it. One that was linked in has none.
    fn opened(&mut self, event: &Event, at: Timestamp) {
        if let Some((name, inode)) = self.made.take() {
            let is_it = |path: &PathBuf| {
                path.file_name() == Some(&name)
                    && path
                        .parent()
                        .and_then(|dir| self.places.get(dir))
                        .is_some_and(|areas| areas.contains(&Area::Inbound))
            };
            if event.paths.iter().any(is_it) {
                self.closed.insert(name, (inode, Some(at)));
            }
        }
    }

    fn sort(&mut self, shared: &Arc<Shared>, event: &Event, path: &Path, at: Timestamp) {
        if self.places.contains_key(path) {
            match event.kind {
                EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                    self.upset.insert(path.to_owned(), true);
                }
                EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                    self.upset.entry(path.to_owned()).or_insert(false);
                }
                _ => {}
            }
        }
        let Some((dir, name)) = path.parent().zip(path.file_name()) else {
            return;
        };
        let Some(areas) = self.places.get(dir).cloned() else {
            return;
        };
        for area in areas {
            let urgency = self.urgency(area, event, path, name, at);
            if let Some(task) = task_of(area, name) {
                match urgency {
                    Urgency::None => {}
                    Urgency::Now => drop(self.pending_tasks.insert(task)),
                    Urgency::Settle | Urgency::Both => drop(self.settling.insert(task)),
                }
            }
            match urgency {
                Urgency::None => {}
                Urgency::Now => self.raise(Areas::only(area), at),
                Urgency::Settle => gate::feed(self, shared, event, Areas::only(area), at),
                Urgency::Both => {
                    // The first of a burst is told at once, the rest when it is over.
                    if !gate::holds(self, Areas::only(area)) {
                        self.raise(Areas::only(area), at);
                    }
                    gate::feed(self, shared, event, Areas::only(area), at);
                }
            }
        }
    }

    fn urgency(
        &mut self,
        area: Area,
        event: &Event,
        path: &Path,
        name: &OsStr,
        at: Timestamp,
    ) -> Urgency {
        let kind = event.kind;
        let is_rename = matches!(kind, EventKind::Modify(ModifyKind::Name(_)));
        let is_entry = is_rename || kind.is_create() || kind.is_remove();
        let is_gone = kind.is_remove()
            || matches!(kind, EventKind::Modify(ModifyKind::Name(RenameMode::From)));
        let is_closed = kind == EventKind::Access(AccessKind::Close(AccessMode::Write));
        let is_data = matches!(kind, EventKind::Modify(ModifyKind::Data(_)));
        match area {
            Area::Base if name != "calypso.toml" => Urgency::None,
            // 0.7 of the debouncer swallows create→delete, so that what goes is told by the raw side.
            Area::Base | Area::Recipes if is_gone => Urgency::Now,
            Area::Base | Area::Recipes => Urgency::Settle,
            Area::Inbound => self.inbound(kind, path, name, is_gone, at),
            Area::Workqueue if is_entry => Urgency::Now,
            Area::Task(_) => Urgency::Both,
            // A pid file is linked in, or written by hand and closed.
            Area::Running if is_entry || is_closed => Urgency::Now,
            Area::Control if is_entry => Urgency::Now,
            Area::Database if self.database.iter().any(|n| n == name) && (is_entry || is_data) => {
                Urgency::Now
            }
            Area::Workqueue | Area::Running | Area::Control | Area::Database => Urgency::None,
        }
    }

    /// Keeps who closed what. The inode is read here, a moment after the event: should another file have taken the name
    /// meanwhile, that one's own events follow and put it right.
    fn inbound(
        &mut self,
        kind: EventKind,
        path: &Path,
        name: &OsStr,
        is_gone: bool,
        at: Timestamp,
    ) -> Urgency {
        if is_gone {
            self.closed.remove(name);
            return Urgency::Now;
        }
        let is_moved = matches!(kind, EventKind::Modify(ModifyKind::Name(_)));
        let meta = match std::fs::symlink_metadata(path) {
            Ok(meta) if meta.is_file() => meta,
            Ok(_) if is_moved => return Urgency::Now,
            // A folder, or what is no request: quiet first.
            Ok(_) => return Urgency::Both,
            // Gone again; that is told by an event of its own.
            Err(_) => return Urgency::None,
        };
        let is_data = matches!(kind, EventKind::Modify(ModifyKind::Data(_)));
        let is_closed = matches!(kind, EventKind::Access(_));
        // Linked in, and so complete, as what is renamed in: a name more than the one it was written under.
        let is_linked = kind == EventKind::Create(CreateKind::File) && meta.nlink() > 1;
        match kind {
            _ if is_data => {
                let since = match self.closed.get(name) {
                    // Where the clock was set back since, the time it has been written for counts anew.
                    Some((inode, Some(since))) if *inode == meta.ino() => at.min(*since),
                    _ => at,
                };
                self.closed
                    .insert(name.to_owned(), (meta.ino(), Some(since)));
                Urgency::Settle
            }
            _ if is_closed || is_moved || is_linked => {
                self.closed.insert(name.to_owned(), (meta.ino(), None));
                Urgency::Now
            }
            EventKind::Create(_) => {
                self.closed.remove(name);
                self.made = Some((name.to_owned(), meta.ino()));
                Urgency::Settle
            }
            _ => Urgency::Settle,
        }
    }
}

/// The task whose folder an event is of.
fn task_of(area: Area, name: &OsStr) -> Option<TaskId> {
    match area {
        Area::Task(task) => Some(task),
        Area::Workqueue => parse_subject_dir(name.to_str()?)?.task(),
        _ => None,
    }
}

/// When an event is told.
enum Urgency {
    None,
    Now,
    /// Once it is quiet.
    Settle,
    /// Now, and again once it is quiet.
    Both,
}
