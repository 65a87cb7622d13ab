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

/// A brief fuzz by chance alone, which needs no build of its own; `scripts/fuzz.sh` goes by what the code does, and further.
#[test]
fn every_target_holds_for_its_seeds_with_some_bytes_changed() {
    let mut dice = Dice::new();
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (name, target) in targets::ALL {
        let files = fs::read_dir(fuzz.join("corpus").join(name));
        for file in files.into_iter().flatten().flatten() {
            let seed = fs::read(file.path()).expect("readable");
            for _ in 0..CHANGES {
                let input = dice.change(&seed);
                let held = std::panic::catch_unwind(|| target(&input));
                assert!(held.is_ok(), "{name}: {}", input.escape_ascii());
            }
        }
    }
}

/// Changed inputs for each seed.
const CHANGES: usize = 40;

/// Other inputs each time, as the failing one is printed whole. SplitMix64, as published by Steele, Lea and Flood (2014).
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        use std::hash::{BuildHasher as _, Hasher as _};
        Self(std::hash::RandomState::new().build_hasher().finish())
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % limit.max(1)
    }

    /// One to four bytes set, taken out, doubled or exchanged for one of those that grammars are made of.
    fn change(&mut self, seed: &[u8]) -> Vec<u8> {
        const TELLING: &[u8] = b"\0\n\t \"'\\{}[]<>:;,.-+/%#&|=0129eE\x1b\x7f\x80\xff";
        let mut input = seed.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(input.len());
            let telling = TELLING[self.below(TELLING.len())];
            match (self.below(4), input.get(at).copied()) {
                (0, Some(_)) => drop(input.remove(at)),
                (1, Some(byte)) => input.insert(at, byte),
                (2, Some(_)) => input[at] = telling,
                _ => input.insert(at, telling),
            }
        }
        input
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
