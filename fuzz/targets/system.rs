//! What the kernel writes with other people's words in it: /proc, and pid files.

use calypso_watch::edge::mount::fs_type_in;
use calypso_watch::edge::process::{holds_ofd_lock, parse_stat, tokens};
use calypso_watch::edge::runs::parse_pid;
use camino::Utf8Path;

use super::assert_printable;

pub(super) fn system(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    match kind {
        b's' => stat(data),
        b'p' => match parse_pid(data) {
            Ok(pid) => {
                assert!(pid > 0, "it would mean a process group");
                assert_eq!(
                    String::from_utf8_lossy(data).trim().trim_start_matches('0'),
                    pid.to_string()
                );
            }
            Err(why) => assert_printable(&why),
        },
        b'f' => {
            let holds = holds_ofd_lock(data);
            assert!(!holds || data.windows(5).any(|word| word == b"lock:"));
        }
        b'e' => {
            for token in tokens(data) {
                assert!(!token.contains('\0'));
            }
        }
        b'm' => {
            if let Ok(text) = std::str::from_utf8(data) {
                drop(fs_type_in(text, Utf8Path::new("/srv/calypso")));
            }
        }
        _ => {}
    }
}

fn stat(data: &[u8]) {
    if let Some(stat) = parse_stat(data) {
        assert_printable(&stat.comm);
        assert_eq!(stat.leftover().process, stat.id());
        // Sums of whatever numbers stand there.
        std::hint::black_box((stat.is_dead(), stat.cpu(), stat.rss_kb(), stat.started()));
    }
    // A name in the middle of a line the kernel wrote: it cannot change what the rest says.
    let mut line = b"4711 (".to_vec();
    line.extend(data.iter().take(64).filter(|byte| **byte != 0));
    line.extend(b") S 1 4700 4699 0 -1 4194560 100 0 0 0 7 5 2 1 20 0 1 0 123456 9000000 250 18446744073709551615 1 1 0\n");
    let stat = parse_stat(&line).expect("a stat line");
    assert_eq!(
        (stat.pid, stat.state, stat.ppid, stat.start),
        (4711, b'S', 1, 123_456)
    );
}
