//! The machine: what the kernel allows, what a process may use, which service it belongs to, whether the clock is kept.
//!
//! Read from /proc and two system calls; `None` where that cannot be read. Judges nothing. Known gap: limits of cgroups (pids.max)
//! are not looked at.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use rustix::process::{Resource, getrlimit};

/// A kernel's version, as far as it is compared.
pub type Release = (u32, u32);

/// `6.18` of `6.18.3-amd64`, from uname(2).
pub fn release() -> Option<Release> {
    let name = rustix::system::uname();
    parse_release(name.release().to_str().ok()?)
}

fn parse_release(text: &str) -> Option<Release> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// inotify(7)'s limits for this user, the smaller of the kernel's and this user namespace's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InotifyLimits {
    pub instances: u64,
    pub watches: u64,
    pub queued_events: u64,
}

/// See [`InotifyLimits`].
pub fn inotify_limits() -> Option<InotifyLimits> {
    let of = |name: &str| {
        let kernel = number(&format!("/proc/sys/fs/inotify/{name}"))?;
        let namespace = number(&format!(
            "/proc/sys/user/{}",
            name.replace("_user_", "_inotify_")
        ));
        Some(namespace.map_or(kernel, |own| own.min(kernel)))
    };
    Some(InotifyLimits {
        instances: of("max_user_instances")?,
        watches: of("max_user_watches")?,
        queued_events: of("max_queued_events")?,
    })
}

/// Takes one instance with one watch and gives both back.
///
/// # Errors
/// EMFILE: no instance is left (inotify_init1(2)); ENOSPC: no watch (inotify_add_watch(2)).
pub fn try_inotify() -> io::Result<()> {
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    let instance = init(CreateFlags::CLOEXEC)?;
    add_watch(&instance, "/", WatchFlags::MOVE_SELF)?;
    Ok(())
}

/// inotify instances and watches that processes of this user hold, as far as this one may see.
pub fn inotify_use(uid: u32) -> (u64, u64) {
    let (mut instances, mut watches) = (0, 0);
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let is_process = process.file_name().as_encoded_bytes()[0].is_ascii_digit();
        if !is_process || process.metadata().map_or(true, |meta| meta.uid() != uid) {
            continue;
        }
        let fds = fs::read_dir(process.path().join("fd"));
        for fd in fds.into_iter().flatten().flatten() {
            let is_inotify = fs::read_link(fd.path())
                .is_ok_and(|target| target.as_os_str() == "anon_inode:inotify");
            if is_inotify {
                instances += 1;
                let info = process.path().join("fdinfo").join(fd.file_name());
                let info = fs::read_to_string(info).unwrap_or_default();
                watches += info
                    .lines()
                    .filter(|line| line.starts_with("inotify "))
                    .count() as u64;
            }
        }
    }
    (instances, watches)
}

/// kernel.pid_max.
pub fn pid_max() -> Option<u64> {
    number("/proc/sys/kernel/pid_max")
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The soft limits of a process by the names that proc_pid_limits(5) gives them; `None`: unlimited.
pub fn limits(pid: i32) -> Option<BTreeMap<String, Option<u64>>> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    Some(parse_limits(&text))
}

fn parse_limits(text: &str) -> BTreeMap<String, Option<u64>> {
    // `Max open files            1024                 1048576              files`
    let line = |line: &str| {
        let (name, rest) = line.split_at_checked(26)?;
        let soft = rest.split_whitespace().next()?;
        Some((name.trim().to_owned(), soft.parse().ok()))
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// The option `hidepid` of the mount at /proc, where it hides something.
pub fn hidepid() -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    parse_hidepid(&mounts)
}

fn parse_hidepid(mounts: &str) -> Option<String> {
    let options = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (_, point, _, options) = (words.next()?, words.next()?, words.next()?, words.next()?);
        (point == "/proc").then_some(options)
    });
    let hidden = options
        .fold(None, |_, last| Some(last))?
        .split(',')
        .find_map(|option| option.strip_prefix("hidepid="))?;
    (!matches!(hidden, "0" | "off")).then(|| hidden.to_owned())
}

// ── how a process runs ─────────────────────────────────────────────────────────────────────────────────────────────────

/// What a process is part of, by its cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeper {
    /// A service of the system's systemd.
    System(String),
    /// A service of a user's systemd: the user's uid, and the unit.
    User(u32, String),
    /// A login session: it ends with it, if logind is told so.
    Session(String),
    /// None that is known.
    Nobody,
}

/// See [`Keeper`]; `None` where the cgroup cannot be read.
pub fn keeper(pid: i32) -> Option<Keeper> {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    Some(parse_keeper(&cgroups))
}

/// cgroups(7): `0::/path`, or for v1 systemd's own hierarchy `N:name=systemd:/path`.
fn parse_keeper(cgroups: &str) -> Keeper {
    let path = cgroups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        (matches!(controllers, "" | "name=systemd") && path != "/").then_some(path)
    });
    let parts: Vec<&str> = path.unwrap_or_default().split('/').collect();
    let user = parts.iter().find_map(|part| {
        let uid = part.strip_prefix("user@")?.strip_suffix(".service")?;
        uid.parse().ok()
    });
    // A delegated service may have groups of its own below it.
    let is_service = |part: &&&str| part.ends_with(".service") && !part.starts_with("user@");
    let service = parts
        .iter()
        .rev()
        .find(is_service)
        .map(|part| (*part).to_owned());
    let scope = parts.iter().rev().find(|part| part.ends_with(".scope"));
    match (user, service, scope) {
        (Some(uid), Some(unit), _) => Keeper::User(uid, unit),
        (None, Some(unit), _) => Keeper::System(unit),
        (_, None, Some(scope)) if scope.starts_with("session-") => {
            Keeper::Session((*scope).to_owned())
        }
        _ => Keeper::Nobody,
    }
}

/// The program a process runs, and whether its file was removed or replaced since; `None` where this user may not see.
pub fn program_of(pid: i32) -> Option<(String, bool)> {
    let target = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let target = target.to_string_lossy().into_owned();
    match target.strip_suffix(" (deleted)") {
        Some(path) => Some((path.to_owned(), true)),
        None => Some((target, false)),
    }
}

// ── clocks ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Does the kernel know of something that keeps the clock right? adjtimex(2), which only reads with no modes set.
pub fn is_clock_kept() -> Option<bool> {
    // SAFETY: timex is plain numbers, for all of which zero is a value.
    let mut timex: nix::libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: adjtimex(2) fills the structure it is given, which lives until it returns; `modes` 0 changes nothing.
    let state = unsafe { nix::libc::adjtimex(&raw mut timex) };
    (state >= 0).then_some(timex.status & nix::libc::STA_UNSYNC == 0)
}

// ── memory ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// From here on, what one large answer took goes back to the kernel as soon as it is freed, and small ones are kept for the
/// next. By itself glibc keeps it: freeing a buffer raises its threshold for separate mappings to that buffer's size
/// (mallopt(3), "dynamic mmap threshold"). Nor does a thread's own arena ever shrink at its end, so all threads share one. Other C
/// libraries are left as they are.
pub fn give_large_buffers_back() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (nix::libc::M_MMAP_THRESHOLD, 1024 * 1024),
        (nix::libc::M_TRIM_THRESHOLD, 1024 * 1024),
        (nix::libc::M_ARENA_MAX, 1),
    ] {
        // SAFETY: mallopt(3) takes two numbers and changes where later allocations come from, none that is there.
        unsafe { nix::libc::mallopt(parameter, value) };
    }
}

/// Hands back to the kernel what a process that comes to rest does not need: freed memory, which glibc else keeps for the next large
/// look (malloc_trim(3)), and the pages of code, most of which only the start or a large look needed (madvise(2), MADV_DONTNEED). Those
/// that are needed again are found in the page cache, sixteen at a fault, and then stay ([`keep_what_is_used`]).
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer and may be called at any time, from any thread.
    unsafe {
        nix::libc::malloc_trim(0);
    }
    for (start, length) in code() {
        // SAFETY: a private mapping of a file that is executable and not writable: nobody has written to it, so each page is as its
        // file has it, and comes from there again. Relocated constants lie in mappings that are not executable. Locked pages would be
        // kept (EINVAL), so they are unlocked before.
        unsafe {
            nix::libc::munlock(start as *const _, length);
            nix::libc::madvise(start as *mut _, length, nix::libc::MADV_DONTNEED);
        }
        keep_what_is_used(start, length);
    }
}

/// Pages of this mapping stay in memory from their first use on (mlock2(2), MLOCK_ONFAULT). A kernel that looks for cold pages takes away
/// what is not used for a minute (measured: rescans of an idle daemon waited for the disk between two system calls), and an event should
/// not have to wait for the program to be read.
///
/// As much of it as RLIMIT_MEMLOCK allows, usually 8 MiB; the rest comes and goes as before.
fn keep_what_is_used(start: usize, length: usize) {
    // SAFETY: it changes which pages of a mapping of this process may be taken away, and nothing in them.
    let lock = |length| unsafe {
        nix::libc::mlock2(start as *const _, length, nix::libc::MLOCK_ONFAULT) == 0
    };
    if !lock(length)
        && let Some(allowed) = getrlimit(Resource::Memlock).current
    {
        lock(length.min(usize::try_from(allowed).unwrap_or(usize::MAX)));
    }
}

/// Where this process's code lies: address and length of each mapping that is executable, not writable and of a file.
fn code() -> Vec<(usize, usize)> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter_map(parse_code).collect()
}

fn parse_code(line: &str) -> Option<(usize, usize)> {
    // `5634d8846000-5634d90a9000 r-xp 00287000 fe:00 12232570   /usr/bin/calypso-watch`, proc_pid_maps(5)
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_code = words.next()? == "r-xp" && words.nth(3)?.starts_with('/');
    let (start, end) = (address(start)?, address(end)?);
    (is_code && end > start).then(|| (start, end - start))
}

fn address(digits: &str) -> Option<usize> {
    usize::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_two_numbers() {
        assert_eq!(parse_release("6.18.3-amd64"), Some((6, 18)));
        assert_eq!(parse_release("5.10-rc1"), Some((5, 10)));
        assert_eq!(parse_release("x"), None);
        assert!(release() >= Some((3, 0)));
    }

    #[test]
    fn limits_are_read_by_name() {
        let limits = limits(std::process::id().cast_signed()).expect("ours");
        assert!(limits.contains_key("Max open files"), "{limits:?}");
        let read = parse_limits(
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max processes             unlimited            unlimited            processes \n\
             Max open files            1024                 4096                 files     \n",
        );
        assert_eq!(read["Max processes"], None);
        assert_eq!(read["Max open files"], Some(1024));
    }

    #[test]
    fn code_is_told_from_what_may_have_been_written_to() {
        let line = |rights: &str, file: &str| {
            parse_code(&format!(
                "1000-3000 {rights} 00287000 fe:00 12232570  {file}"
            ))
        };
        assert_eq!(line("r-xp", "/usr/bin/x"), Some((0x1000, 0x2000)));
        assert_eq!(line("r--p", "/usr/bin/x"), None);
        assert_eq!(line("rwxp", "/usr/bin/x"), None);
        assert_eq!(line("r-xp", "[vdso]"), None);
        assert_eq!(line("r-xp", ""), None);
        assert!(!code().is_empty());
    }

    #[test]
    fn code_that_is_given_back_is_kept_from_its_next_use_on() {
        let locked = || {
            let status = fs::read_to_string("/proc/self/status").expect("ours");
            let line = status.lines().find(|line| line.starts_with("VmLck:"));
            let words = line.and_then(|line| line.split_ascii_whitespace().nth(1));
            words
                .and_then(|kb| kb.parse::<u64>().ok())
                .expect("proc(5)")
        };
        give_back_memory();
        let first = locked();
        let may_lock = getrlimit(Resource::Memlock).current != Some(0);
        assert_eq!(first > 0, may_lock, "{first} kB");
        // Locked pages are given back as well.
        give_back_memory();
        assert_eq!(locked(), first);
    }

    #[test]
    fn a_hidden_proc_is_seen() {
        let mounts = |options: &str| format!("proc /proc proc rw,{options} 0 0\n");
        assert_eq!(parse_hidepid(&mounts("relatime")), None);
        assert_eq!(parse_hidepid(&mounts("hidepid=off")), None);
        assert_eq!(
            parse_hidepid(&mounts("hidepid=invisible")).as_deref(),
            Some("invisible")
        );
        assert_eq!(parse_hidepid("proc /x/proc proc hidepid=2 0 0"), None);
    }

    #[test]
    fn the_keeper_is_read_from_the_cgroup() {
        for (text, keeper) in [
            ("0::/\n", Keeper::Nobody),
            ("", Keeper::Nobody),
            (
                "0::/system.slice/calypso.service\n",
                Keeper::System("calypso.service".into()),
            ),
            (
                "0::/system.slice/calypso.service/agents\n",
                Keeper::System("calypso.service".into()),
            ),
            (
                "9:name=systemd:/system.slice/c.service\n1:cpu:/\n0::/\n",
                Keeper::System("c.service".into()),
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/c.service\n",
                Keeper::User(1000, "c.service".into()),
            ),
            (
                "0::/user.slice/user-1000.slice/session-3.scope\n",
                Keeper::Session("session-3.scope".into()),
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/tmux-spawn-x.scope\n",
                Keeper::Nobody,
            ),
        ] {
            assert_eq!(parse_keeper(text), keeper, "{text}");
        }
    }

    #[test]
    fn a_watch_of_ours_is_counted() {
        let uid = nix::unistd::geteuid().as_raw();
        let inotify =
            rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).expect("one");
        let root = rustix::fs::inotify::add_watch(
            &inotify,
            "/",
            rustix::fs::inotify::WatchFlags::MOVE_SELF,
        );
        root.expect("one watch");
        let (instances, watches) = inotify_use(uid);
        assert!(instances >= 1 && watches >= 1, "{instances} {watches}");
        assert!(inotify_limits().is_some());
    }
}
