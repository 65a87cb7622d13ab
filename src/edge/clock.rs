//! The three clocks, and times as people and files write them.
//!
//! The only reader of a clock, besides the shim.

use jiff::tz::TimeZone;

use crate::core::model::{Millis, Now, Timestamp};

/// The clocks now. The boot id is read once per process.
pub fn now() -> Now {
    Now {
        wall: wall(),
        boot_id: boot_id().into(),
        boot: boot(),
    }
}

/// The wall clock.
pub fn wall() -> Timestamp {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timestamp(now.tv_sec * 1000 + now.tv_nsec / 1_000_000)
}

/// CLOCK_BOOTTIME: milliseconds since boot, suspended time included.
pub fn boot() -> Millis {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Millis((now.tv_sec * 1000 + now.tv_nsec / 1_000_000) as u64)
}

/// CLOCK_BOOTTIME in microseconds: for measuring between two processes.
pub fn boot_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (now.tv_sec * 1_000_000 + now.tv_nsec / 1000) as u64
}

/// CLOCK_MONOTONIC, for measuring how long something of ours took.
pub fn monotonic() -> std::time::Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    std::time::Duration::new(
        now.tv_sec.cast_unsigned(),
        now.tv_nsec.cast_unsigned() as u32,
    )
}

/// /proc/sys/kernel/random/boot_id: another one after each boot (random(4)); empty where it cannot be read.
pub fn boot_id() -> &'static str {
    static BOOT_ID: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    BOOT_ID.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|id| id.trim().to_owned())
            .unwrap_or_default()
    })
}

/// `2026-11-22T18:38:55.123Z`.
pub fn utc(at: Timestamp) -> String {
    match jiff::Timestamp::from_millisecond(at.0) {
        Ok(at) => at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
        Err(_) => at.0.to_string(),
    }
}

/// `19:02:11.204` in the zone of this machine.
pub fn local_time(at: Timestamp) -> String {
    match jiff::Timestamp::from_millisecond(at.0) {
        Ok(at) => at
            .to_zoned(TimeZone::system())
            .strftime("%H:%M:%S.%3f")
            .to_string(),
        Err(_) => at.0.to_string(),
    }
}

/// Does this machine say which zone it is in? Else its times are shown in UTC.
pub fn has_zone() -> bool {
    TimeZone::try_system().is_ok()
}

/// Midnight before `at` in the zone of this machine.
pub fn start_of_day(at: Timestamp) -> Timestamp {
    jiff::Timestamp::from_millisecond(at.0)
        .ok()
        .and_then(|at| at.to_zoned(TimeZone::system()).start_of_day().ok())
        .map_or(at, |midnight| {
            Timestamp(midnight.timestamp().as_millisecond())
        })
}
