//! The fuzz targets over the committed inputs: seeds, and whatever once was a find.

use std::fs;
use std::path::Path;

use crate::targets;

#[test]
fn every_target_holds_for_its_seeds_and_for_what_was_found() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (name, target) in targets::ALL {
        let mut tried = 0;
        for folder in ["corpus", "regressions"] {
            let files = fs::read_dir(fuzz.join(folder).join(name))
                .into_iter()
                .flatten();
            for file in files.flatten() {
                let input = fs::read(file.path()).expect("readable");
                // Torn anywhere, it is another input.
                for cut in [input.len(), input.len() / 2, input.len().saturating_sub(1)] {
                    let held = std::panic::catch_unwind(|| target(&input[..cut]));
                    assert!(
                        held.is_ok(),
                        "the first {cut} bytes of {}",
                        file.path().display()
                    );
                }
                tried += 1;
            }
        }
        assert!(tried > 0, "{name} has no input");
    }
}

#[test]
fn every_folder_of_inputs_is_a_targets() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for folder in ["corpus", "regressions"] {
        for entry in fs::read_dir(fuzz.join(folder))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            assert!(
                name == ".gitkeep" || targets::ALL.iter().any(|(target, _)| name == *target),
                "{folder}/{name:?}"
            );
        }
    }
}
