//! The shim as a program of its own: a twentieth of calypso-watch's size, so it starts sooner and waits in less memory. Where it is
//! missing, calypso-watch is its own shim.

use std::io::Write as _;
use std::process::ExitCode;

use calypso_watch::edge::process::{IS_VERSION, VERSION};

fn main() -> ExitCode {
    if let Some(code) = calypso_watch::shim::entry() {
        return code;
    }
    let args: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [IS_VERSION, VERSION] => ExitCode::SUCCESS,
        ["--version" | "-V"] => match writeln!(std::io::stdout(), "calypso-watch-shim {VERSION}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        _ => {
            let words = "error: `calypso-watch run` starts this, one for each run\nhint: `calypso-watch --help`";
            writeln!(std::io::stderr(), "{words}").ok();
            ExitCode::from(2)
        }
    }
}
