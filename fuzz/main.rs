//! All fuzz targets in one program; `CALYPSO_FUZZ` names the one to run. `scripts/fuzz.sh` runs them all.
#![no_main]

use std::sync::OnceLock;

mod targets;

static TARGET: OnceLock<targets::Target> = OnceLock::new();

fn chosen() -> targets::Target {
    let names = || targets::ALL.map(|(name, _)| name).join(" ");
    let wanted = std::env::var("CALYPSO_FUZZ").unwrap_or_default();
    targets::ALL
        .iter()
        .find(|(name, _)| *name == wanted)
        .unwrap_or_else(|| panic!("CALYPSO_FUZZ is to be one of: {}", names()))
        .1
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.get_or_init(chosen)(data));
