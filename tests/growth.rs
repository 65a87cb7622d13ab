//! Does the daemon grow with what happens to it? Counted, not weighed: the bytes that this program has allocated and not freed, with a
//! daemon on a thread of its own in it. A few hundred bytes that each run or event would leave behind are hundreds of kilobytes in a year.
//!
//! Known gap: what C libraries allocate is not counted.

#![expect(
    clippy::disallowed_methods,
    reason = "a test writes its scripts and waits by the clock"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use calypso_watch::daemon::{Daemon, Options};
use calypso_watch::edge::config;
use calypso_watch::edge::process::ShimProgram;
use camino::Utf8Path;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use world::{EXE, World};

#[expect(dead_code, reason = "other tests use all of it, these a part")]
#[path = "support/client.rs"]
mod client;
#[path = "lifecycle/world.rs"]
#[expect(dead_code, reason = "shared with other tests, which use more of it")]
mod world;

/// Queues that work at once.
const QUEUES: usize = 4;
/// As many verdicts as the daemon keeps at hand, and some.
const PAST: usize = 600;
/// What leaks for each run or event grows in each of so many spans. What only comes and goes cannot grow by [`BOUND`] in all of them: the
/// connections to tinytask that are kept have buffers of some 10 kB, and there are six.
const SPANS: usize = 5;
/// Far less than what a leak for each run, or each event, would come to within a span.
const BOUND: usize = 16 << 10;

#[global_allocator]
static ALLOCATOR: Counting = Counting(AtomicUsize::new(0));

/// The system's, and how many bytes it has given out.
struct Counting(AtomicUsize);

// SAFETY: what it gives out and takes back is the system allocator's, asked with the very same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        self.0.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

/// A daemon in this process.
struct Own {
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Own {
    fn start(world: &World) -> Self {
        let config = config::load(world.layout.base(), &[]).expect("settings of ours");
        let options = Options {
            flags: Vec::new(),
            exe: EXE.into(),
            shim: ShimProgram::from(Utf8Path::new(EXE)),
        };
        let (end, ended) = oneshot::channel();
        let watch = async || {
            let daemon = Daemon::start(config, options).await.expect("it starts");
            tokio::select! {
                left = daemon.run() => panic!("it left, {:?}", left.err()),
                _ = ended => {}
            }
        };
        let thread = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime"), watch());
        });
        Self { end, thread }
    }

    fn end(self) {
        self.end.send(()).expect("it watches");
        self.thread.join().expect("it left in order");
    }
}

/// So many runs in each queue, of agents whose tasks are complete when they end.
fn work(world: &World, times: usize) {
    for _ in 0..times {
        let tasks: Vec<i64> = (0..QUEUES)
            .map(|n| world.task(&format!("work-{n}"), "works"))
            .collect();
        for task in tasks {
            let pid = world.path(&format!("running_tasks/task_{task}.pid"));
            world.eventually("an agent works", |_| pid.exists());
            world.update(task, json!({"status": "complete"}));
            world.open(&task.to_string());
        }
        world.eventually("all are over", |w| w.names(".calypso/live").is_empty());
    }
}

/// Files in inbound/ that are no requests.
fn storm(world: &World, times: usize) {
    let path = world.path("inbound/.being-written");
    for _ in 0..times {
        File::create(&path).expect("a file");
        std::fs::remove_file(&path).expect("it is there");
    }
}

/// Bytes that are kept at rest: a look takes more for a moment.
fn kept() -> usize {
    let sample = |_| {
        std::thread::sleep(Duration::from_millis(10));
        ALLOCATOR.0.load(Ordering::Relaxed)
    };
    (0..50).map(sample).min().expect("fifty samples")
}

/// By how much what is kept grows in the span in which it grows least.
fn least_growth(mut span: impl FnMut()) -> usize {
    let mut before = kept();
    let growths = (0..SPANS).map(|_| {
        span();
        let after = kept();
        after.saturating_sub(std::mem::replace(&mut before, after))
    });
    growths.min().expect("there are some")
}

#[test]
fn nothing_is_kept_of_runs_and_events_that_are_over() {
    let mut world = World::new().set("max_runs", &QUEUES.to_string());
    for n in 0..QUEUES {
        let waits = r#"until [ -e "$B/gates/$T" ]; do sleep 0.01; done"#;
        world = world.queue(&format!("work-{n}"), waits);
    }
    let world = world.configure();
    let daemon = Own::start(&world);
    work(&world, 1);
    daemon.end();
    let told = world.read(".calypso/history.jsonl");
    let line = told.lines().next().expect("a verdict");
    let mut verdict: Value = serde_json::from_str(line).expect("JSON");
    let past = (0..PAST).map(|n| {
        verdict["run"] = json!(format!("{}/1", 100_000 + n));
        format!("{verdict}\n")
    });
    world.write(".calypso/history.jsonl", &past.collect::<String>());

    let daemon = Own::start(&world);
    work(&world, 10);
    storm(&world, 1000);
    let by_runs = least_growth(|| work(&world, 12));
    assert!(by_runs < BOUND, "48 runs: {by_runs} bytes");
    let by_events = least_growth(|| storm(&world, 1000));
    assert!(by_events < BOUND, "1,000 events: {by_events} bytes");
    daemon.end();
}
