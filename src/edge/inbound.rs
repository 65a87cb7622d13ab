//! inbound/: what lies there, and whether it is complete. Also the digest of a task's folder.
//!
//! A regular file is complete when its writer closed it, or it was renamed or linked in; the watcher saw that ([`Closed`]).
//! Where nobody saw, when neither its content nor its inode changed for `settle`: the later of mtime and ctime counts, as
//! `cp -p`, `rsync -t` and `touch -d` set the one but nobody sets the other (inode(7)).
//!
//! Decides nothing about requests, and does not open them.
//!
//! Known gaps: of a folder with more than ten thousand entries only the upper levels are looked at. A writer that keeps a file open and pauses for longer than `settle`, unseen by a watcher, looks complete.
//! Nothing short of a lease would tell (fcntl(2)), and a lease gets in that writer's way.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{FileType, Metadata};
use std::hash::Hasher as _;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use camino::Utf8Path;
use glob::Pattern;

use crate::core::model::{FileKey, Millis, Timestamp};
use crate::core::{InboundEntry, InboundState};
use crate::edge::files::Names;

/// A file that is written for longer than this is taken all the same.
const ENDLESS: Millis = Millis::secs(10);
/// Most entries of one directory tree that are looked at.
const TREE: usize = 10_000;
/// Deepest level of one that is looked at.
const DEPTH: usize = 32;

/// What a watcher saw of files, by name: the inode, and `None` for one that is complete, else since when it is being written.
pub type Closed = HashMap<OsString, (u64, Option<Timestamp>)>;

/// All entries of `dir` that may be requests, in order of name; the ones to be ignored are left out. A missing directory has none.
/// Its names are read again only when `names`, which are those of the look before, may be others by now.
pub fn look(
    dir: &Utf8Path,
    names: &mut Names,
    settle: Millis,
    ignore: &[Pattern],
    now: Timestamp,
    known: &Closed,
) -> io::Result<Vec<InboundEntry>> {
    let names = match names.read(dir, now) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut seen = Vec::with_capacity(names.len());
    for name in names {
        if is_ignored(name, ignore) {
            continue;
        }
        let path = dir.as_std_path().join(name);
        match std::fs::symlink_metadata(&path) {
            Ok(meta) => seen.push(inspect(&path, name, &meta, settle, now, known)),
            // Taken away since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => seen.push(InboundEntry {
                key: FileKey {
                    name: escape(name),
                    inode: 0,
                    modified: 0,
                },
                is_dir: false,
                state: InboundState::Odd(format!("cannot be read: {error}")),
            }),
        }
    }
    seen.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(seen)
}

/// Names that are never requests: hidden ones and those of half-written files, and what the settings say.
pub fn is_ignored(name: &OsStr, ignore: &[Pattern]) -> bool {
    let bytes = name.as_bytes();
    bytes.starts_with(b".")
        || [&b".tmp"[..], b".part", b"~", b".swp"]
            .iter()
            .any(|end| bytes.ends_with(end))
        || (ignore.iter()).any(|pattern| pattern.matches(&name.to_string_lossy()))
}

/// A name as it stands in records and on screens: unique and printable. A backslash is doubled, so that an escaped byte and a
/// name that merely looks like one stay apart.
pub fn escape(name: &OsStr) -> String {
    let mut out = String::new();
    let hex = |out: &mut String, bytes: &[u8]| {
        for byte in bytes {
            let _ = write!(out, "\\x{byte:02x}");
        }
    };
    for chunk in name.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if c.is_control() => hex(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => out.push(c),
            }
        }
        hex(&mut out, chunk.invalid());
    }
    out
}

fn inspect(
    path: &Path,
    name: &OsStr,
    meta: &Metadata,
    settle: Millis,
    now: Timestamp,
    known: &Closed,
) -> InboundEntry {
    let mut key = FileKey {
        name: escape(name),
        inode: meta.ino(),
        modified: mtime(meta).0,
    };
    let kind = meta.file_type();
    let state = if kind.is_file() {
        file_state(path, name, meta, settle, now, known)
    } else if kind.is_dir() {
        match tree(path, meta) {
            Ok(newest) => {
                key.modified = newest.modified.0;
                settled_after(newest.changed, settle, now)
            }
            Err(error) => InboundState::Odd(format!("a folder that cannot be read: {error}")),
        }
    } else {
        InboundState::Odd(odd_kind(kind).to_owned())
    };
    InboundEntry {
        key,
        is_dir: kind.is_dir(),
        state,
    }
}

fn odd_kind(kind: FileType) -> &'static str {
    if kind.is_symlink() {
        "a symlink"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

fn file_state(
    path: &Path,
    name: &OsStr,
    meta: &Metadata,
    settle: Millis,
    now: Timestamp,
    known: &Closed,
) -> InboundState {
    // The owner's own bit settles it (inode(7)); of others' files access(2) knows, ACLs and all.
    let is_own = meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o400 != 0;
    if !is_own && let Err(error) = rustix::fs::access(path, rustix::fs::Access::READ_OK) {
        return InboundState::Odd(format!("cannot be read: {}", io::Error::from(error)));
    }
    let seen = known
        .get(name)
        .filter(|(inode, _)| *inode == meta.ino())
        .map(|(_, writing)| *writing);
    if seen == Some(None) {
        return InboundState::Settled { endless: false };
    }
    // A writer the watcher knows of is waited for, also while it pauses. Of the others, unseen ones, only the times tell: an
    // old file that is edited in place is taken early this way, but one that is appended to for ever would never be else.
    let (until, since) = match seen {
        Some(Some(since)) => (since.plus(ENDLESS), since),
        _ => match settled_after(changed(meta), settle, now) {
            InboundState::Settling { until } => (until, birth(meta).unwrap_or(now)),
            settled => return settled,
        },
    };
    // Not [`settled_after`]: a start in the future says that the clock was set back, and nothing of the writer, who is at it.
    let deadline = since.plus(ENDLESS);
    if deadline <= now {
        InboundState::Settled { endless: true }
    } else {
        InboundState::Settling {
            until: until.min(deadline),
        }
    }
}

/// Complete once nothing changed for `settle`. A change in the future means that the clock was set back since: nothing
/// changed since then, or the time would be of the new clock.
fn settled_after(changed: Timestamp, settle: Millis, now: Timestamp) -> InboundState {
    let until = changed.plus(settle);
    // File times come from a coarser clock, a few milliseconds behind, never ahead (clock_getres(2)).
    let is_future = changed.since(now) > Millis::secs(1);
    if until <= now || is_future {
        InboundState::Settled { endless: false }
    } else {
        InboundState::Settling { until }
    }
}

fn mtime(meta: &Metadata) -> Timestamp {
    Timestamp(meta.mtime() * 1000 + meta.mtime_nsec() / 1_000_000)
}

/// When content or inode last changed; unlike mtime it cannot be set (inode(7)).
fn changed(meta: &Metadata) -> Timestamp {
    Timestamp(meta.ctime() * 1000 + meta.ctime_nsec() / 1_000_000)
}

fn birth(meta: &Metadata) -> Option<Timestamp> {
    let birth = meta.created().ok()?;
    let since = birth.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp(since.as_millis() as i64))
}

// ── trees ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// The newest times in a directory tree.
struct Newest {
    modified: Timestamp,
    changed: Timestamp,
}

fn tree(path: &Path, meta: &Metadata) -> io::Result<Newest> {
    let mut newest = Newest {
        modified: mtime(meta),
        changed: changed(meta),
    };
    walk(path, TREE, &mut |_, meta| {
        newest.modified = newest.modified.max(mtime(meta));
        newest.changed = newest.changed.max(changed(meta));
    })?;
    Ok(newest)
}

/// The inodes of all that lies in a folder, which a rename within a file system keeps (rename(2)).
pub fn inodes(dir: &Utf8Path) -> Vec<u64> {
    let mut inodes = Vec::new();
    // What cannot be read holds nothing that anybody could tell.
    walk(dir.as_std_path(), TREE, &mut |_, meta| {
        inodes.push(meta.ino())
    })
    .ok();
    inodes
}

/// A digest of a task's folder: names, kinds, sizes and mtimes. The same for ever and on every machine, as it stands in
/// records; 0 for a folder that is not there. Files are not opened.
pub fn digest(dir: &Utf8Path) -> u64 {
    // The sum of the entries' hashes does not depend on the order in which the kernel names them.
    let mut sum = 0u64;
    let walked = walk(dir.as_std_path(), TREE, &mut |path, meta| {
        // A directory's own size and mtime say only that an entry came or went, which its entries say better.
        let (size, mtime) = if meta.is_dir() {
            (0, [0, 0])
        } else {
            (meta.size(), [meta.mtime(), meta.mtime_nsec()])
        };
        let mut hasher = siphasher::sip::SipHasher13::new();
        hasher.write(path.as_bytes());
        hasher.write(&(meta.mode() & 0o170_000).to_le_bytes());
        hasher.write(&size.to_le_bytes());
        mtime
            .iter()
            .for_each(|part| hasher.write(&part.to_le_bytes()));
        sum = sum.wrapping_add(hasher.finish());
    });
    match walked {
        // 0 is for "no folder".
        Ok(()) => sum.max(1),
        Err(_) => 0,
    }
}

/// Visits each entry below `dir`, by its path from there, without following symlinks; level by level, and a level that would
/// make it more than `limit` entries not at all, so that what is visited does not depend on the order of names. What vanishes
/// meanwhile is skipped.
fn walk(dir: &Path, limit: usize, visit: &mut dyn FnMut(&OsStr, &Metadata)) -> io::Result<()> {
    let mut left = limit;
    let mut level = vec![OsString::new()];
    for _ in 0..DEPTH {
        let mut found = Vec::new();
        for below in &level {
            let entries = match std::fs::read_dir(dir.join(below)) {
                Ok(entries) => entries,
                Err(error) if below.is_empty() => return Err(error),
                Err(_) => continue,
            };
            for entry in entries {
                let Ok((entry, meta)) = entry.and_then(|e| e.metadata().map(|meta| (e, meta)))
                else {
                    continue;
                };
                if left == 0 {
                    return Ok(());
                }
                left -= 1;
                found.push((
                    Path::new(below).join(entry.file_name()).into_os_string(),
                    meta,
                ));
            }
        }
        level.clear();
        for (path, meta) in found {
            visit(&path, &meta);
            if meta.is_dir() {
                level.push(path);
            }
        }
        if level.is_empty() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
