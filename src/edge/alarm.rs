//! One timer of the kernel's, for a loop that waits for the next of many times.
//!
//! tokio's timers count whole milliseconds and round up, which is long between a commit and the agent it is for.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// timerfd_create(2), on CLOCK_MONOTONIC.
#[derive(Debug)]
pub struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// # Errors
    /// Where no descriptor is to be had.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: an `OwnedFd` always gives the same descriptor, and does not close it before it is dropped.
        let alarm = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
        Ok(Self(alarm?))
    }

    /// Returns after this. One that was given up is set anew by the next: what it leaves behind is not taken for that one's end.
    ///
    /// # Errors
    /// None that are known for a timer of ours.
    pub async fn after(&self, wait: Duration) -> io::Result<()> {
        let wait = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: wait.as_secs().min(i32::MAX as u64).cast_signed(),
                // None at all would disarm it.
                tv_nsec: i64::from(wait.subsec_nanos()).max(1),
            },
        };
        // Setting it forgets an end that nobody has read.
        rustix::time::timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &wait)?;
        loop {
            let mut ready = self.0.readable().await?;
            match rustix::io::read(self.0.get_ref(), &mut [0; 8]) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::clock;

    #[tokio::test]
    async fn one_that_was_given_up_does_not_end_the_next() {
        let alarm = Alarm::new().expect("a descriptor");
        for _ in 0..20 {
            let short = Duration::from_millis(1);
            // Given up about when it ends, on either side of it.
            drop(tokio::time::timeout(short, alarm.after(short)).await);
            let (begun, wait) = (clock::monotonic(), Duration::from_millis(20));
            alarm.after(wait).await.expect("a timer");
            let took = clock::monotonic() - begun;
            assert!(took >= wait, "{took:?}");
        }
        alarm.after(Duration::ZERO).await.expect("at once");
    }
}
