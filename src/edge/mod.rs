//! One file per outside thing. Nothing here decides; siblings do not import each other, but for `ask`, `clock`, `files` and `kill_point`,
//! which serve all, `goose`, whose command line is made from `config`, and `config`, which asks `mount` what it is on.
//!
//! | file | hides |
//! |---|---|
//! | [`alarm`] | one timer of the kernel's |
//! | [`ask`] | asking another program, for a bounded time |
//! | [`clock`] | the three clocks, and how times are read and written |
//! | [`config`] | defaults ← calypso.toml ← environment ← flags, and where each value came from |
//! | [`control`] | control files |
//! | [`files`] | atomic, durable writes; reading what others write without trusting it |
//! | [`goose`] | goose's command line, its stream, its failure texts |
//! | [`inbound`] | what lies in inbound/, settled or not |
//! | [`kill_point`] | where tests may kill this program; empty in every other build |
//! | [`machine`] | the kernel's limits, what a process may use, cgroup, clock discipline |
//! | [`mount`] | what a mount is and can do |
//! | [`process`] | pids, start times, pidfds, signals, locks, leftovers, starting a shim |
//! | [`recipe`] | goose's YAML |
//! | [`runs`] | run directories and their records |
//! | [`tinytask`] | MCP; rmcp stays inside |
//! | [`watch`] | inotify; notify and the debouncer stay inside |

pub mod alarm;
pub mod ask;
pub mod clock;
pub mod config;
pub mod control;
pub mod files;
pub mod goose;
pub mod inbound;
pub mod kill_point;
pub mod machine;
pub mod mount;
pub mod process;
pub mod recipe;
pub mod runs;
pub mod tinytask;
pub mod watch;
