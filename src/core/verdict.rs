//! What a run's traces mean.

/// What the combination of a run's traces means; see the table in `docs/design/01-one-run.md`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    /// No spec: the daemon died before it wrote one.
    Litter,
    /// The shim is at work, the agent's first instruction has not run.
    Starting,
    Running,
    /// The agent is over; the shim sweeps and records.
    Ending,
    /// The pid file was removed while the agent lives: signalled, but not over.
    SignalledAlive,
    /// The shim is dead, the agent lives.
    Orphan,
    /// The shim and the agent are dead, something it started lives.
    OrphanLeftovers,
    /// Over, but what could not be ended lives.
    StillAlive,
    /// This user cannot see whether it lives.
    Unknown,
    /// Over, but the pid file is still there: clear it.
    Clear,
    /// Over: to be judged.
    Complete,
}
