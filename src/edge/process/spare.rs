//! A shim that was started ahead: exec and dynamic linking, a third of what lies between an event and the agent, are behind it.
//!
//! The daemon keeps one while it waits. At D3 it sends the run directory and its lock in one message (SOCK_SEQPACKET, SCM_RIGHTS; unix(7));
//! from then on it is a shim like any other, and the next one is started when there is time.
//!
//! Interleavings survived:
//!
//! - The daemon is killed while it waits: the socket ends, and so does it. Killed after the message: that is read before the end is.
//! - It is killed while it waits: the message cannot be sent, and a shim is started as without it.
//! - It is killed with the message unread, or stopped there: as a shim that dies, or stands still, before its first record. The message holds
//!   the lock until it is read or dropped, so "spec there, lock free" still means dead.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Child;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::start;

/// The hidden word that makes this program a shim that waits for its run.
pub const SPARE_WORD: &str = "__spare";

/// What is longer is left to a shim started for it: an order has to fit into a socket's buffer.
const LONGEST_ORDER: usize = 64 << 10;
/// Room in its command line for the path of the run directory, so that ps(1) can tell which run it is the shim of.
const ROOM: usize = 256;

/// What a spare shim is told to be.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub dir: Utf8PathBuf,
    /// What settings add to the agent's environment.
    pub env: Vec<(String, String)>,
}

/// A shim that waits for its run.
#[derive(Debug)]
pub(super) struct Spare {
    socket: OwnedFd,
    process: Child,
}

impl Spare {
    pub(super) fn start(program: &Utf8Path) -> io::Result<Self> {
        let kind = SocketType::SEQPACKET;
        let (socket, theirs) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        let room = " ".repeat(ROOM);
        let process = start::spawn(program, [SPARE_WORD, &room], Vec::new(), theirs)?;
        Ok(Self { socket, process })
    }

    /// Whether it is still there; collected, if not.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Makes it the shim of this run.
    ///
    /// # Errors
    /// It is gone, or cannot be told: nothing was started.
    pub(super) fn become_shim(mut self, order: &Order, lock: &OwnedFd) -> io::Result<Child> {
        match send(&self.socket, order, lock) {
            Ok(()) => Ok(self.process),
            Err(error) => {
                // Not collected yet, so its number is its own.
                self.process.kill()?;
                self.process.wait()?;
                Err(error)
            }
        }
    }
}

fn send(socket: &OwnedFd, order: &Order, lock: &OwnedFd) -> io::Result<()> {
    // What setenv(3) does not take would end the shim instead of the launch.
    let is_odd = |(name, value): &(String, String)| {
        name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
    };
    let words = serde_json::to_vec(order)?;
    if order.env.iter().any(is_odd) || words.len() > LONGEST_ORDER {
        return Err(io::Error::other("not to be told in one message"));
    }
    let lock = [lock.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    rights.push(SendAncillaryMessage::ScmRights(&lock));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(&words)], &mut rights, flags)?;
    Ok(())
}

/// Waits for an order, and the lock that comes with it; `None`: nobody is there any more who could give one.
pub fn receive(socket: &OwnedFd) -> Option<(Order, OwnedFd)> {
    let mut words = vec![0; LONGEST_ORDER];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let into = &mut [IoSliceMut::new(&mut words)];
        match recvmsg(socket, into, &mut rights, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            got => break got.ok()?,
        }
    };
    let order = serde_json::from_slice(words.get(..got.bytes)?).ok()?;
    let lock = rights.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Some((order, lock?))
}
