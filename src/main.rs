//! Parse, call, report, exit.

fn main() -> std::process::ExitCode {
    // The shim is the parent of one run and must stay small and single-threaded: it branches off before anything else.
    // So do the tiny agents of `selftest`, which are to cost next to nothing.
    if let Some(code) = calypso_watch::shim::entry().or_else(calypso_watch::selftest::entry) {
        return code;
    }
    let cli = <calypso_watch::cli::Cli as clap::Parser>::parse();
    match calypso_watch::commands::call(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report(),
    }
}
