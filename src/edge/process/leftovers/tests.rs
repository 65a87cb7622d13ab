use super::*;

#[test]
fn only_an_ofd_lock_line_makes_a_holder() {
    let held = b"pos:\t0\nflags:\t02100002\nmnt_id:\t27\nino:\t10010635\nlock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:10010635 0 EOF\n";
    assert!(holds_ofd_lock(held));
    assert!(!holds_ofd_lock(
        b"pos:\t0\nflags:\t02100000\nmnt_id:\t27\nino:\t10010635\n"
    ));
    assert!(!holds_ofd_lock(
        b"lock:\t1: POSIX  ADVISORY  WRITE 4 fe:00:1 0 EOF\n"
    ));
    assert!(!holds_ofd_lock(
        b"lock:\t1: FLOCK  ADVISORY  WRITE 4 fe:00:1 0 EOF\n"
    ));
    assert!(!holds_ofd_lock(b""));
}

#[test]
fn a_token_is_a_whole_variable() {
    assert_eq!(tokens(b"A=1\0CALYPSO_RUN=abc\0B=2\0"), ["abc"]);
    assert_eq!(tokens(b"CALYPSO_RUN=abc"), ["abc"]);
    assert!(tokens(b"XCALYPSO_RUN=abc\0CALYPSO_RUNS=abc\0NOTE=CALYPSO_RUN=abc\0").is_empty());
    assert!(tokens(b"").is_empty());
}
