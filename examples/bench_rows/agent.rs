//! The agent of the benchmarks: stamps the clock as its first instruction, does its little part, ends.
//!
//! `agent ROLE STAMPS QUEUE TASK [ADDRESS [MORE]]`; `scripts/bench.sh` builds it with rustc alone. No libc and no runtime, so that
//! what lies between exec(2) and the stamp is the kernel's: five instructions, then clock_gettime(2). A goose takes a thousand times as
//! long to start, which is nothing that a watcher could change.
//!
//! Appends `start NANOSECONDS PID QUEUE TASK` to STAMPS, and `end …` as its last act, each in one O_APPEND write. Roles:
//!
//! | role | does |
//! |---|---|
//! | `none` | nothing more |
//! | `take` | removes the files of the directory MORE, whose names do not begin with a dot |
//! | `done` | claims its task and completes it |
//! | `nap` | claims its task, waits MORE milliseconds, completes it |
//! | `hop` | claims its task, hands it to queue MORE, ends at once |
//! | `linger` | the same, but lives on for 300 ms, as an agent that still says goodbye |
//! | `wait` | lives until it is ended |
//!
//! Known gap: x86-64 only.
#![no_std]
#![no_main]
// No loop of ours becomes a call of strlen(3) or memcpy(3), which nobody here would answer.
#![no_builtins]

use core::arch::{asm, global_asm};

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("the benchmarks' agent knows the system calls of Linux on x86-64 only");

// The kernel leaves argc, argv and the environment on the stack, and the stack aligned to 16 (System V ABI, process initialization).
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {begin}",
    "ud2",
    begin = sym begin,
);

const READ: usize = 0;
const WRITE: usize = 1;
const OPEN: usize = 2;
const CLOSE: usize = 3;
const PAUSE: usize = 34;
const NANOSLEEP: usize = 35;
const GETPID: usize = 39;
const SOCKET: usize = 41;
const CONNECT: usize = 42;
const UNLINKAT: usize = 263;
const GETDENTS64: usize = 217;
const CLOCK_GETTIME: usize = 228;
const EXIT_GROUP: usize = 231;

const O_WRONLY_APPEND_CREAT_CLOEXEC: usize = 0o1 | 0o2000 | 0o100 | 0o2_000_000;
const O_DIRECTORY_CLOEXEC: usize = 0o200_000 | 0o2_000_000;

fn call(number: usize, a: usize, b: usize, c: usize) -> isize {
    let answer: isize;
    // SAFETY: callers pass numbers, or pointers to memory of theirs that is as long as they say.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => answer,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    answer
}

fn exit(code: usize) -> ! {
    loop {
        call(EXIT_GROUP, code, 0, 0);
    }
}

/// CLOCK_REALTIME in nanoseconds.
fn clock() -> u64 {
    let mut time = [0_u64; 2];
    call(CLOCK_GETTIME, 0, (&raw mut time) as usize, 0);
    time[0] * 1_000_000_000 + time[1]
}

fn sleep(ms: u64) {
    let time = [ms / 1000, ms % 1000 * 1_000_000];
    call(NANOSLEEP, (&raw const time) as usize, 0, 0);
}

/// Text that is put together without an allocator. What does not fit is left out, which no caller comes near.
struct Text {
    bytes: [u8; 1024],
    len: usize,
}

impl Text {
    fn new() -> Self {
        Self {
            bytes: [0; 1024],
            len: 0,
        }
    }
    fn add(&mut self, text: &[u8]) -> &mut Self {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = *byte;
                self.len += 1;
            }
        }
        self
    }
    fn number(&mut self, mut number: u64) -> &mut Self {
        let mut digits = [0_u8; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.add(&digits[at..])
    }
    fn write(&self, fd: usize) -> bool {
        call(WRITE, fd, self.bytes.as_ptr() as usize, self.len) == self.len as isize
    }
}

/// An argument, and where its closing zero stands, so that it can be handed to the kernel as it is.
#[derive(Clone, Copy)]
struct Arg(&'static [u8]);

impl Arg {
    fn pointer(self) -> usize {
        self.0.as_ptr() as usize
    }
    fn parse(self) -> u64 {
        let mut number = 0;
        for byte in self.0 {
            number = number * 10 + u64::from(byte.wrapping_sub(b'0') % 10);
        }
        number
    }
}

/// All that follows the instruction pointer's way in from `_start`.
extern "C" fn begin(stack: *const usize) -> ! {
    let began = clock();
    let argument = |n: usize| {
        // SAFETY: the kernel put argc and then so many pointers to texts, each closed by a zero, on the stack.
        unsafe {
            if n >= *stack {
                return Arg(&[]);
            }
            let text = *stack.add(1 + n) as *const u8;
            let mut len = 0;
            while *text.add(len) != 0 {
                len += 1;
            }
            Arg(core::slice::from_raw_parts(text, len))
        }
    };
    let agent = Agent {
        stamps: argument(2),
        queue: argument(3),
        task: argument(4),
        address: argument(5),
        more: argument(6),
    };
    agent.stamp(b"start ", began);
    let role = argument(1).0;
    let ok = match role {
        b"take" => agent.take(),
        b"done" => agent.claim() && agent.complete(),
        b"nap" => {
            let ok = agent.claim();
            sleep(agent.more.parse());
            ok && agent.complete()
        }
        b"hop" => agent.claim() && agent.hand_over(),
        b"linger" => {
            let ok = agent.claim() && agent.hand_over();
            sleep(300);
            ok
        }
        b"wait" => loop {
            call(PAUSE, 0, 0, 0);
        },
        _ => true,
    };
    agent.stamp(if ok { b"end " } else { b"failed " }, clock());
    exit(usize::from(!ok));
}

struct Agent {
    stamps: Arg,
    queue: Arg,
    task: Arg,
    address: Arg,
    more: Arg,
}

impl Agent {
    fn stamp(&self, word: &[u8], at: u64) {
        let mut line = Text::new();
        line.add(word).number(at).add(b" ");
        line.number(call(GETPID, 0, 0, 0) as u64)
            .add(b" ")
            .add(self.queue.0)
            .add(b" ");
        line.add(if self.task.0.is_empty() {
            b"-"
        } else {
            self.task.0
        })
        .add(b"\n");
        let fd = call(
            OPEN,
            self.stamps.pointer(),
            O_WRONLY_APPEND_CREAT_CLOEXEC,
            0o644,
        );
        if fd >= 0 {
            line.write(fd as usize);
            call(CLOSE, fd as usize, 0, 0);
        }
    }

    fn claim(&self) -> bool {
        self.change(b"{\"status\":\"working\"}")
    }

    fn complete(&self) -> bool {
        self.change(b"{\"status\":\"complete\"}")
    }

    fn change(&self, body: &[u8]) -> bool {
        let mut path = Text::new();
        path.add(b"PATCH /api/v1/tasks/").add(self.task.0);
        self.ask(&path, body)
    }

    fn hand_over(&self) -> bool {
        let mut path = Text::new();
        path.add(b"POST /api/v1/tasks/")
            .add(self.task.0)
            .add(b"/transfer");
        let mut body = Text::new();
        body.add(b"{\"current_agent\":\"")
            .add(self.queue.0)
            .add(b"\",\"new_agent\":\"")
            .add(self.more.0);
        body.add(b"\",\"comment\":\"next\"}");
        self.ask(&path, &body.bytes[..body.len])
    }

    /// One call to tinytask on loopback; ADDRESS is its port. True for an answer of the two hundreds.
    fn ask(&self, what: &Text, body: &[u8]) -> bool {
        let mut request = Text::new();
        request
            .add(&what.bytes[..what.len])
            .add(b" HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n");
        request
            .add(b"content-type: application/json\r\ncontent-length: ")
            .number(body.len() as u64);
        request.add(b"\r\n\r\n").add(body);
        let (inet, stream_cloexec) = (2, 1 | 0o2_000_000);
        let fd = call(SOCKET, inet, stream_cloexec, 0);
        if fd < 0 {
            return false;
        }
        let fd = fd as usize;
        // struct sockaddr_in: family in this machine's order, port and address in the network's.
        let port = (self.address.parse() as u16).to_be_bytes();
        let address = [
            2, 0, port[0], port[1], 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0_u8,
        ];
        if call(CONNECT, fd, address.as_ptr() as usize, address.len()) < 0 || !request.write(fd) {
            return false;
        }
        // `HTTP/1.1 200`: one read brings at least the first line of so short an answer; the rest is read so that it is complete.
        let mut answer = [0_u8; 4096];
        let first = call(READ, fd, answer.as_mut_ptr() as usize, answer.len());
        let ok = first > 12 && answer[9] == b'2';
        while call(READ, fd, answer.as_mut_ptr() as usize, answer.len()) > 0 {}
        call(CLOSE, fd, 0, 0);
        ok
    }

    /// Removes what lies in the directory, until a pass finds nothing more.
    fn take(&self) -> bool {
        loop {
            let fd = call(OPEN, self.more.pointer(), O_DIRECTORY_CLOEXEC, 0);
            if fd < 0 {
                return false;
            }
            let fd = fd as usize;
            let mut taken = 0;
            let mut entries = [0_u64; 4096];
            loop {
                let len = call(
                    GETDENTS64,
                    fd,
                    entries.as_mut_ptr() as usize,
                    size_of_val(&entries),
                );
                if len <= 0 {
                    break;
                }
                let mut at = entries.as_ptr() as usize;
                let end = at + len as usize;
                while at < end {
                    // SAFETY: struct linux_dirent64 of getdents64(2): length of the record at 16, the name, closed by a zero, at 19.
                    let (record, name) = unsafe { (*((at + 16) as *const u16), at + 19) };
                    // SAFETY: as above.
                    let first = unsafe { *(name as *const u8) };
                    if first != b'.' && call(UNLINKAT, fd, name, 0) == 0 {
                        taken += 1;
                    }
                    at += usize::from(record);
                }
            }
            call(CLOSE, fd, 0, 0);
            if taken == 0 {
                return true;
            }
        }
    }
}

// What the compiler, or `core` as it was built, calls by name; there is no libc that would have them.

/// memcpy(3)
///
/// # Safety
/// As memcpy(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's word.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _)
    };
    to
}

/// memset(3)
///
/// # Safety
/// As memset(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller's word.
    unsafe { asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") byte as u8) };
    to
}

/// bcmp(3)
///
/// # Safety
/// As bcmp(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    let mut at = 0;
    while at < len {
        // SAFETY: the caller's word.
        if unsafe { *left.add(at) != *right.add(at) } {
            return 1;
        }
        at += 1;
    }
    0
}

/// memcmp(3), of which only "the same or not" is needed here.
///
/// # Safety
/// As memcmp(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    // SAFETY: the caller's word.
    unsafe { bcmp(left, right, len) }
}

/// Named in the unwind tables of `core`; nothing unwinds where a panic exits.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(101)
}
