//! `submit`: drops requests into inbound/, each in one step, so that nobody ever sees half a one.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use camino::Utf8Path;

use super::{Cannot, layout, say};
use crate::cli::{Settings, Submit};
use crate::core::layout::Layout;
use crate::edge::{clock, inbound};
use crate::report::{Exit, Failure};

/// Copies each file to a hidden name in inbound/ first, which no watcher takes for a request, and links it to its real name when it
/// is complete: linking fails where a request of that name lies already, so nothing is ever overwritten.
pub fn call(base: Option<&Utf8Path>, submit: &Submit) -> Result<Exit, Failure> {
    let layout = layout(base)?;
    if submit.name.is_some() && submit.files.len() > 1 {
        return Err(Failure::new(
            Exit::Usage,
            "`--name` goes with one file only",
        ));
    }
    let ignore = super::load(base, &Settings::default())?.inbound.ignore;
    for file in &submit.files {
        let name = match &submit.name {
            Some(name) => OsString::from(name),
            None if file.as_os_str() == "-" => format!("request-{}.md", clock::wall().0).into(),
            None => file.file_name().map(OsStr::to_owned).unwrap_or_default(),
        };
        if name.is_empty()
            || name.as_encoded_bytes().contains(&b'/')
            || name.as_encoded_bytes().starts_with(b".")
        {
            let failure = Failure::new(
                Exit::Usage,
                format!("`{}` is no name for a request", name.display()),
            );
            return Err(failure
                .hint("hidden names are not looked at; give another with `--name`".to_owned()));
        }
        if inbound::is_ignored(&name, &ignore) {
            let failure = Failure::new(
                Exit::Usage,
                format!("`{}` would never be looked at", name.display()),
            );
            return Err(failure.hint(
                "names like that of half-written files are left alone, and those of `[inbound] ignore`; give another with `--name`".to_owned(),
            ));
        }
        let what = || format!("submit `{}`", file.display());
        drop_in(&layout, file, &name).map_err(|source| {
            let hint = match source.kind() {
                io::ErrorKind::AlreadyExists => Some(format!(
                    "inbound/{} is there already; `--name` gives another",
                    name.display()
                )),
                io::ErrorKind::NotFound if layout.inbound().exists() => None,
                io::ErrorKind::NotFound => {
                    Some("`calypso-watch init` makes the folders".to_owned())
                }
                _ => None,
            };
            Failure::new(
                Exit::Failed,
                Cannot {
                    what: what(),
                    source,
                },
            )
            .hint(hint)
        })?;
        // At once: should a later one fail, this one is there all the same.
        say(&format!("inbound/{}\n", inbound::escape(&name)))?;
    }
    Ok(Exit::Done)
}

fn drop_in(layout: &Layout, from: &Path, name: &OsStr) -> io::Result<()> {
    let hidden = layout.inbound().as_std_path().join(format!(
        ".submit-{}-{}",
        std::process::id(),
        clock::wall().0
    ));
    let target = layout.inbound().as_std_path().join(name);
    let dropped = if from != Path::new("-") && std::fs::metadata(from)?.is_dir() {
        copy_tree(from, &hidden).and_then(|()| {
            // rename(2) would replace an empty directory; RENAME_NOREPLACE refuses (renameat2(2)).
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            Ok(rustix::fs::renameat_with(
                rustix::fs::CWD,
                &hidden,
                rustix::fs::CWD,
                &target,
                flags,
            )?)
        })
    } else {
        copy(from, &hidden).and_then(|()| std::fs::hard_link(&hidden, &target))
    };
    if hidden.is_dir() {
        std::fs::remove_dir_all(&hidden).ok()
    } else {
        std::fs::remove_file(&hidden).ok()
    };
    dropped
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut target = File::create_new(to)?;
    if from == Path::new("-") {
        io::copy(&mut io::stdin().lock(), &mut target)?;
    } else {
        io::copy(&mut File::open(from)?.take(u64::MAX), &mut target)?;
    }
    target.sync_all()
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            copy(&entry.path(), &target)?;
        } else {
            let what = format!(
                "`{}` is neither a file nor a folder",
                entry.path().display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
    }
    Ok(())
}
