//! What must hold before anything is started below a base path: who may write there, and which file system it is.

use std::io;
use std::os::unix::fs::MetadataExt as _;

use camino::{Utf8Path, Utf8PathBuf};

use super::Error;
use crate::core::layout::Layout;
use crate::edge::mount;

/// Refuses a base path where anyone could make us run things, or where nothing we rely on works; gives warnings else.
pub fn check_permissions(layout: &Layout) -> Result<Vec<String>, Error> {
    let mut warnings = check_file_system(layout.base())?;
    for path in [
        layout.state(),
        layout.runs(),
        layout.live(),
        layout.blanks(),
        layout.control(),
        layout.tinytask(),
    ] {
        if path.is_symlink() {
            return Err(Error::Linked { path });
        }
    }
    for path in [
        layout.base().to_owned(),
        layout.recipes(),
        layout.config(),
        layout.state(),
    ] {
        let meta = match std::fs::metadata(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(Error::Read { path, source }),
        };
        let mode = meta.mode();
        // A sticky directory keeps others from replacing what is not theirs; on a file the bit means nothing.
        if mode & 0o002 != 0 && !(meta.is_dir() && mode & 0o1000 != 0) {
            return Err(Error::Unsafe { path });
        }
        if mode & 0o020 != 0 {
            warnings.push(format!(
                "`{path}` can be written by its group, whose members could run commands as this user"
            ));
        }
    }
    Ok(warnings)
}

/// A base path that nobody named, only found above the working directory, must be this user's, or root's: in a folder such as /tmp
/// anyone may put a calypso.toml, and settings name commands.
pub(super) fn check_owner(base: Utf8PathBuf) -> Result<Utf8PathBuf, Error> {
    let own = rustix::process::geteuid().as_raw();
    let layout = Layout::new(base.as_path());
    for path in [layout.base().to_owned(), layout.config(), layout.state()] {
        match std::fs::symlink_metadata(&path) {
            Ok(meta) if meta.uid() != own && meta.uid() != 0 => {
                let uid = meta.uid();
                return Err(Error::Stranger { path, uid });
            }
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Read { path, source });
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(base)
}

pub(super) fn is_writable_by_everyone(path: &Utf8Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o002 != 0)
}

pub(super) fn check_file_system(base: &Utf8Path) -> Result<Vec<String>, Error> {
    let stat = rustix::fs::statfs(base.as_std_path()).map_err(|error| Error::Read {
        path: base.to_owned(),
        source: error.into(),
    })?;
    let refused = |kind: &str| {
        Err(Error::NetworkFileSystem {
            path: base.to_owned(),
            kind: kind.to_owned(),
        })
    };
    // Magic numbers of statfs(2); some exceed an i32 and are sign-extended on some machines, so only 32 bits count.
    match stat.f_type as u32 {
        0x6969 => refused("NFS"),
        0x517B | 0xFF53_4D42 | 0xFE53_4D42 => refused("SMB"),
        0x0102_1997 => refused("9p"),
        0x5346_414F => refused("AFS"),
        0x00C3_6400 => refused("Ceph"),
        0x0BD0_0BD0 => refused("Lustre"),
        0x7375_7245 => refused("Coda"),
        // FUSE may be anything. What reaches over a network is refused by its name; another one gets a warning.
        0x6573_5546 => {
            let kind = mount::fs_type(base).unwrap_or_else(|| "fuse".into());
            let network = [
                "sshfs", "s3", "rclone", "gluster", "ceph", "nfs", "smb", "dav", "gcs", "goofys",
                "juicefs", "blob", "virtiofs",
            ];
            if network.iter().any(|name| kind.contains(name)) {
                refused(&kind)
            } else {
                Ok(vec![format!(
                    "`{base}` is on a FUSE file system ({kind}); changes made behind it are seen only at the next rescan"
                )])
            }
        }
        _ => Ok(Vec::new()),
    }
}
