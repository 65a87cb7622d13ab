//! inotify: tells that something happened, in which part of the tree; never what. Truth is a fresh look.
//!
//! One raw notify watcher on flat, known directories; its handler sorts events into [`Areas`] and keeps, for inbound/, who
//! closed what. What is chatty or half-written (folders in inbound/, task folders, edits of recipes and settings) goes
//! through a debouncer first, which is fed from the same watcher and lives only while something has to settle.
//!
//! Nothing here looks at a file's content or decides. All errors and gaps end in `rescan`: look at everything.
//!
//! Known gap: an unmounted directory is silent (notify 8 drops IN_UNMOUNT); [`Watch::verify`] at the next rescan sees it.
//! The extent of a loss is not known either: after an overflow everything counts as unseen.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::core::layout::Layout;
use crate::core::model::{TaskId, Timestamp};
use crate::edge::clock;

mod gate;
mod sort;

use gate::{Gate, Unfed};
use sort::handle;

/// Most task folders watched at once; the rest is left to the rescan.
pub const MAX_TASKS: usize = 1000;
/// How long a directory that vanished stays away before it is made again: `mv a b; mv c a` must not find it back in between.
const MISSING_GRACE: Duration = Duration::from_millis(300);

/// Why nothing can be watched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot watch `{path}`: the kernel's limit of inotify instances is reached")]
    InstanceLimit { path: Utf8PathBuf },
    #[error("cannot watch `{path}`: the kernel's inotify limit is reached")]
    WatchLimit { path: Utf8PathBuf },
    #[error("cannot watch `{path}`: it is not there")]
    Missing { path: Utf8PathBuf },
    #[error("cannot watch `{path}`")]
    Other {
        path: Utf8PathBuf,
        source: io::Error,
    },
}

impl Error {
    /// The way out.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::InstanceLimit { .. } => {
                Some("raise it with `sudo sysctl fs.inotify.max_user_instances=512`".into())
            }
            Self::WatchLimit { .. } => {
                Some("raise it with `sudo sysctl fs.inotify.max_user_watches=524288`".into())
            }
            Self::Missing { .. } => Some("`calypso-watch init` makes the folders".into()),
            Self::Other { .. } => None,
        }
    }

    fn new(path: &Path, error: notify::Error) -> Self {
        let path = Utf8PathBuf::from(path.to_string_lossy().into_owned());
        match error.kind {
            notify::ErrorKind::MaxFilesWatch => Self::WatchLimit { path },
            notify::ErrorKind::PathNotFound => Self::Missing { path },
            // inotify_init1(2): EMFILE is the user's limit of instances, or this process's of descriptors.
            notify::ErrorKind::Io(error) if error.raw_os_error() == Some(nix::libc::EMFILE) => {
                Self::InstanceLimit { path }
            }
            notify::ErrorKind::Io(source) if source.kind() == io::ErrorKind::NotFound => {
                drop(source);
                Self::Missing { path }
            }
            notify::ErrorKind::Io(source) => Self::Other { path, source },
            other => Self::Other {
                path,
                source: io::Error::other(format!("{other:?}")),
            },
        }
    }
}

/// Which parts of the tree to look at again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Areas {
    pub inbound: bool,
    /// Task folders: one came or went, or something changed in a watched one.
    pub workqueue: bool,
    pub running: bool,
    pub recipes: bool,
    pub config: bool,
    pub control: bool,
    /// tinytask's database was written to. **The event comes before the commit is visible**, so the caller looks at once, and
    /// again 30 ms and 250 ms after the last such wake.
    pub database: bool,
    /// Events were lost, or a directory was: look at everything.
    pub rescan: bool,
}

impl Areas {
    const fn only(area: Area) -> Self {
        let mut areas = Self {
            inbound: false,
            workqueue: false,
            running: false,
            recipes: false,
            config: false,
            control: false,
            database: false,
            rescan: false,
        };
        match area {
            Area::Base => areas.config = true,
            Area::Inbound => areas.inbound = true,
            Area::Workqueue | Area::Task(_) => areas.workqueue = true,
            Area::Running => areas.running = true,
            Area::Recipes => areas.recipes = true,
            Area::Control => areas.control = true,
            Area::Database => areas.database = true,
        }
        areas
    }
    /// Nothing to look at.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
    /// Adds another's.
    pub fn add(&mut self, other: Self) {
        self.inbound |= other.inbound;
        self.workqueue |= other.workqueue;
        self.running |= other.running;
        self.recipes |= other.recipes;
        self.config |= other.config;
        self.control |= other.control;
        self.database |= other.database;
        self.rescan |= other.rescan;
    }
    fn remove(&mut self, other: Self) {
        self.inbound &= !other.inbound;
        self.workqueue &= !other.workqueue;
        self.running &= !other.running;
        self.recipes &= !other.recipes;
        self.config &= !other.config;
        self.control &= !other.control;
        self.database &= !other.database;
        self.rescan &= !other.rescan;
    }
}

/// Something happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wake {
    pub areas: Areas,
    /// The tasks whose folders came, went or changed.
    pub tasks: BTreeSet<TaskId>,
    /// When the first event of this wake was read.
    pub first_event: Option<Timestamp>,
    /// What went wrong with the watching and what was done, in plain words, to be said.
    pub lost: Vec<String>,
}

/// What a watched directory is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Area {
    Base,
    Inbound,
    Workqueue,
    Task(TaskId),
    Running,
    Recipes,
    Control,
    Database,
}

/// What the watcher's threads and the daemon share.
struct Shared {
    state: Mutex<State>,
    /// Rung after each change of the state that the daemon must see. Keeps one ring, so that none is lost.
    bell: Notify,
}

#[derive(Default)]
struct State {
    /// A directory may have several parts to play: the database may lie in the base path.
    places: HashMap<PathBuf, Vec<Area>>,
    /// Names in the database's directory that matter.
    database: Vec<OsString>,
    pending: Areas,
    pending_tasks: BTreeSet<TaskId>,
    /// Tasks whose folders are settling.
    settling: BTreeSet<TaskId>,
    first_event: Option<Timestamp>,
    lost: Vec<String>,
    /// Watched directories that came (false) or went (true): to be armed again.
    upset: HashMap<PathBuf, bool>,
    /// See `edge::inbound::Closed`.
    closed: HashMap<OsString, (u64, Option<Timestamp>)>,
    /// The last file that was made in inbound/: an `Open` right behind tells that somebody writes it, not that it was linked.
    made: Option<(OsString, u64)>,
    gate: Option<Gate>,
    /// What is to settle, while there is no gate.
    unfed: Vec<Unfed>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in the middle of a change leaves flags that are at worst too many.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Wakes the daemon for `areas`.
    fn raise(&mut self, areas: Areas, at: Timestamp) {
        self.pending.add(areas);
        if areas.workqueue {
            self.pending_tasks.extend(&self.settling);
        }
        self.first_event.get_or_insert(at);
    }
}

/// The watcher and what it watches.
pub struct Watch {
    shared: Arc<Shared>,
    watcher: RecommendedWatcher,
    layout: Layout,
    dirs: Vec<Dir>,
    tasks: BTreeSet<TaskId>,
    /// The kernel's limit was reached before all of them were watched.
    has_unwatched_tasks: bool,
    /// tinytask's SQLite file, as it was named to us.
    database: Option<Utf8PathBuf>,
}

/// A directory that is to be watched all the time.
struct Dir {
    path: PathBuf,
    /// Device and inode when it was armed; none: not armed.
    identity: Option<(u64, u64)>,
    /// To be made, with these permissions, where it is missing; none: only waited for.
    mode: Option<u32>,
    /// Since when it has been missing.
    missing: Option<Instant>,
    /// It could not be made again; tried anew at the next rescan.
    has_failed: bool,
}

/// Starts watching: arm first, then look. Missing folders are made; the base path itself is not. `db` is tinytask's SQLite file, where that
/// is a local one; its directory may be missing and is watched once it comes.
pub fn start(layout: &Layout, db: Option<&Utf8Path>) -> Result<Watch, Error> {
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        bell: Notify::new(),
    });
    let for_handler = Arc::clone(&shared);
    let base = layout.base().as_std_path();
    let watcher = RecommendedWatcher::new(
        move |event| handle(&for_handler, event),
        notify::Config::default(),
    )
    .map_err(|error| Error::new(base, error))?;
    let mut watch = Watch {
        shared,
        watcher,
        layout: layout.clone(),
        dirs: Vec::new(),
        tasks: BTreeSet::new(),
        has_unwatched_tasks: false,
        database: None,
    };
    let folders = [
        (layout.base().to_owned(), Area::Base, None),
        (layout.inbound(), Area::Inbound, Some(0o755)),
        (layout.workqueue(), Area::Workqueue, Some(0o755)),
        (layout.running_tasks(), Area::Running, Some(0o755)),
        (layout.recipes(), Area::Recipes, Some(0o755)),
        (layout.control(), Area::Control, Some(0o700)),
    ];
    for (path, area, mode) in folders {
        watch.add_dir(path.into_std_path_buf(), area, mode)?;
    }
    match watch.watch_database(db) {
        Ok(()) | Err(Error::Missing { .. }) => Ok(watch),
        Err(error) => Err(error),
    }
}

impl Watch {
    /// The next wake; everything that happened since the last one is in it. Safe to drop at any point: what happened stays.
    ///
    /// Sets no timer while nothing settles and nothing is missing.
    pub async fn next(&mut self) -> Wake {
        loop {
            self.rearm();
            let shared = Arc::clone(&self.shared);
            let bell = shared.bell.notified();
            let until = {
                let mut state = shared.lock();
                if !state.pending.is_empty() || !state.lost.is_empty() {
                    return Wake {
                        areas: std::mem::take(&mut state.pending),
                        tasks: std::mem::take(&mut state.pending_tasks),
                        first_event: state.first_event.take(),
                        lost: std::mem::take(&mut state.lost),
                    };
                }
                gate::begin_if_due(&mut state, &shared);
                gate::end_if_quiet(&mut state);
                if !state.pending.is_empty() || !state.upset.is_empty() {
                    continue;
                }
                let missing = self
                    .dirs
                    .iter()
                    .filter_map(|dir| dir.mode.and(dir.missing).map(|since| since + MISSING_GRACE));
                missing
                    .chain(gate::begins(&state))
                    .chain(state.gate.as_ref().map(Gate::ends))
                    .min()
            };
            match until {
                None => bell.await,
                Some(until) => drop(tokio::time::timeout_at(until, bell).await),
            }
        }
    }

    /// What the watcher knows of files in inbound/: for `edge::inbound::look`.
    pub fn closed_inbound(&self) -> HashMap<OsString, (u64, Option<Timestamp>)> {
        self.shared.lock().closed.clone()
    }

    /// Watches the folders of these tasks and no others; the lowest numbers first, where there are more than [`MAX_TASKS`].
    /// A folder that is missing is left out; it comes with an event in workqueue/, after which this is called again.
    ///
    /// # Errors
    /// `WatchLimit`; the folders that did not fit are left to the rescan.
    pub fn watch_tasks(&mut self, tasks: &BTreeSet<TaskId>) -> Result<(), Error> {
        let wanted: BTreeSet<TaskId> = tasks.iter().copied().take(MAX_TASKS).collect();
        let unwanted: Vec<TaskId> = self.tasks.difference(&wanted).copied().collect();
        for task in unwanted {
            self.drop_task(task);
            let path = self.layout.task_folder(task);
            // Not there any more: notify has dropped the watch by itself.
            self.watcher.unwatch(path.as_std_path()).ok();
        }
        let mut result = Ok(());
        self.has_unwatched_tasks = false;
        for task in wanted {
            if self.tasks.contains(&task) {
                continue;
            }
            let path = self.layout.task_folder(task).into_std_path_buf();
            // Each look asks for the folders that tasks wait for: no word with the watcher's thread over one that is not there.
            if identity(&path).is_none() {
                continue;
            }
            self.place(&path, Area::Task(task));
            match self.watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.tasks.insert(task)),
                Err(error) => {
                    self.drop_task(task);
                    if let error @ Error::WatchLimit { .. } = Error::new(&path, error) {
                        self.has_unwatched_tasks = true;
                        result = Err(error);
                        break;
                    }
                }
            }
        }
        result
    }

    /// Checks that what is watched is still what stands at the paths, and arms what is not. For the slow rescan: it finds what
    /// no event told. What was amiss comes with the next wake.
    pub fn verify(&mut self) {
        for dir in &mut self.dirs {
            dir.has_failed = false;
            // One that is still missing is nothing new, and is only waited for.
            let found = identity(&dir.path);
            if found != dir.identity || (found.is_none() && dir.mode.is_some()) {
                let path = dir.path.clone();
                self.shared.lock().upset.entry(path).or_insert(true);
            }
        }
        self.rearm();
    }

    /// What only the rescan looks at, for people: folders that are missing or could not be watched.
    pub fn gaps(&self) -> Vec<String> {
        let base = self.layout.base().as_std_path();
        let name = |path: &Path| match path.strip_prefix(base) {
            Ok(name) if name.as_os_str().is_empty() => "the base path".to_owned(),
            Ok(name) => format!("{}/", name.display()),
            Err(_) => path.display().to_string(),
        };
        let gone = self.dirs.iter().filter(|dir| dir.identity.is_none());
        let tasks = self
            .has_unwatched_tasks
            .then(|| "some task folders".to_owned());
        gone.map(|dir| name(&dir.path)).chain(tasks).collect()
    }

    /// Watches this SQLite file of tinytask's, and no other any more. Its directory may be missing, and is watched once it comes.
    ///
    /// # Errors
    /// `Missing`: each rescan looks for it; any other: it is not watched.
    pub fn watch_database(&mut self, db: Option<&Utf8Path>) -> Result<(), Error> {
        if self.database.as_deref() == db {
            return Ok(());
        }
        self.database = db.map(Utf8Path::to_owned);
        let mut state = self.shared.lock();
        state.database.clear();
        for areas in state.places.values_mut() {
            areas.retain(|area| *area != Area::Database);
        }
        state.places.retain(|_, areas| !areas.is_empty());
        let (kept, left): (Vec<_>, Vec<_>) =
            (self.dirs.drain(..)).partition(|dir: &Dir| state.places.contains_key(&dir.path));
        drop(state);
        self.dirs = kept;
        for dir in left {
            // Not there any more: notify has dropped the watch by itself.
            self.watcher.unwatch(&dir.path).ok();
        }
        // Its symlinks resolved, the last one too, as the server writes to the real one.
        let real = db.map(|db| db.canonicalize_utf8().unwrap_or_else(|_| db.to_owned()));
        let Some((dir, name)) = (real.as_deref()).and_then(|db| db.parent().zip(db.file_name()))
        else {
            return Ok(());
        };
        let dir = dir.canonicalize_utf8().unwrap_or_else(|_| dir.to_owned());
        self.shared.lock().database = vec![name.into(), format!("{name}-wal").into()];
        self.add_dir(dir.into_std_path_buf(), Area::Database, None)
    }

    /// Is this SQLite file, which is there, watched as tinytask's? One that is not may be a slip, and the real one somewhere else.
    pub fn hears_database(&self, db: Option<&Utf8Path>) -> bool {
        let state = self.shared.lock();
        let is_armed = |dir: &Dir| {
            let areas = state.places.get(&dir.path);
            dir.identity.is_some() && areas.is_some_and(|areas| areas.contains(&Area::Database))
        };
        self.database.as_deref() == db
            && db.is_some_and(Utf8Path::exists)
            && self.dirs.iter().any(is_armed)
    }

    /// Is a debouncer alive, or about to be? It begins, and ends by itself a moment after things have settled, while [`Self::next`] is
    /// waited for.
    pub fn is_settling(&self) -> bool {
        let state = self.shared.lock();
        state.gate.is_some() || !state.unfed.is_empty()
    }

    fn add_dir(&mut self, path: PathBuf, area: Area, mode: Option<u32>) -> Result<(), Error> {
        self.place(&path, area);
        let mut dir = Dir {
            path,
            identity: None,
            mode,
            missing: None,
            has_failed: false,
        };
        let armed = arm(&mut self.watcher, &mut dir, true);
        dir.missing = armed.is_err().then(Instant::now);
        if !self.dirs.iter().any(|known| known.path == dir.path) {
            self.dirs.push(dir);
        }
        armed
    }

    fn place(&self, path: &Path, area: Area) {
        let mut state = self.shared.lock();
        let areas = state.places.entry(path.to_owned()).or_default();
        if !areas.contains(&area) {
            areas.push(area);
        }
    }

    fn drop_task(&mut self, task: TaskId) {
        self.tasks.remove(&task);
        let path = self.layout.task_folder(task);
        let mut state = self.shared.lock();
        if let Some(areas) = state.places.get_mut(path.as_std_path()) {
            areas.retain(|area| *area != Area::Task(task));
            if areas.is_empty() {
                state.places.remove(path.as_std_path());
            }
        }
    }

    /// Arms again what came, went or was replaced.
    ///
    /// notify removes its watch *by path* when the parent tells of a deletion, after its handler ran. So with two
    /// replacements in a row, D1 C1 D2 C2, a watch set on C2 after D1 was read is removed again when D2 is. Therefore each
    /// such event arms again, also where the inode is the expected one: the request reaches notify's thread after it is done
    /// with the event. The lock is never held meanwhile, as that thread takes it too.
    fn rearm(&mut self) {
        let upset = std::mem::take(&mut self.shared.lock().upset);
        for (path, went) in upset {
            if let Some(dir) = self.dirs.iter_mut().find(|dir| dir.path == path) {
                if went {
                    // Whatever the watch is on, it is not what stands there now.
                    self.watcher.unwatch(&dir.path).ok();
                    dir.identity = None;
                }
                let was_missing = dir.missing.is_some();
                if arm(&mut self.watcher, dir, false).is_ok() {
                    dir.missing = None;
                    if was_missing {
                        self.tell(&path, "is there again; it is watched");
                    } else if went {
                        self.tell(&path, "was replaced; it is watched again");
                    }
                } else if !was_missing {
                    dir.missing = Some(Instant::now());
                    if dir.mode.is_none() {
                        self.tell(&path, "is gone; each rescan looks for it");
                    }
                }
            } else if went {
                // A task's folder; its end is told by workqueue/.
                let gone = self
                    .tasks
                    .iter()
                    .copied()
                    .find(|task| self.layout.task_folder(*task).as_std_path() == path);
                if let Some(task) = gone {
                    self.drop_task(task);
                }
            }
        }
        for index in 0..self.dirs.len() {
            let dir = &mut self.dirs[index];
            let Some(since) = dir.missing else { continue };
            if dir.mode.is_none() || since.elapsed() < MISSING_GRACE {
                continue;
            }
            let path = dir.path.clone();
            match arm(&mut self.watcher, dir, true) {
                Ok(()) => {
                    dir.missing = None;
                    self.tell(&path, "was deleted; it is made and watched again");
                }
                Err(error) => {
                    // Once; the next rescan tries again.
                    dir.missing = None;
                    self.tell(
                        &path,
                        &format!("was deleted and cannot be watched again: {error}"),
                    );
                }
            }
        }
    }

    fn tell(&self, path: &Path, what: &str) {
        let mut state = self.shared.lock();
        let mut areas = state.places.get(path).into_iter().flatten().fold(
            Areas::default(),
            |mut areas, area| {
                areas.add(Areas::only(*area));
                areas
            },
        );
        // What happened between its end and now was not seen.
        if areas.inbound {
            state.closed.clear();
        }
        areas.rescan = true;
        state.raise(areas, clock::wall());
        state.lost.push(format!("`{}` {what}", path.display()));
    }
}

/// Watches the directory; makes it first, where that is wanted and it is missing.
fn arm(watcher: &mut RecommendedWatcher, dir: &mut Dir, make: bool) -> Result<(), Error> {
    if make && let Some(mode) = dir.mode {
        make_dir(&dir.path, mode).map_err(|source| Error::Other {
            path: Utf8PathBuf::from(dir.path.to_string_lossy().into_owned()),
            source,
        })?;
    }
    watcher
        .watch(&dir.path, RecursiveMode::NonRecursive)
        .map_err(|error| Error::new(&dir.path, error))?;
    // Read after arming: should it be replaced in between, the event for that arms again.
    dir.identity = identity(&dir.path);
    Ok(())
}

/// Makes the directory and, where that is ours, the one it is in; never the base path, which a person removed.
fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    let make = |path: &Path, mode| {
        let made = std::fs::DirBuilder::new().mode(mode).create(path);
        made.or_else(|error| if path.is_dir() { Ok(()) } else { Err(error) })
    };
    match path.parent() {
        Some(state) if state.file_name().is_some_and(|name| name == ".calypso") => {
            make(state, 0o755)?;
        }
        _ => {}
    }
    make(path, mode)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path)
        .ok()
        .map(|meta| (meta.dev(), meta.ino()))
}
