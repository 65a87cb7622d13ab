//! What one durable record costs on this disk: a small file written and synced.

use std::fs::File;
use std::io::Write as _;
use std::time::Instant;

use crate::stats::{Row, Times};
use crate::{Failure, Measured, Setup};

pub fn fsync_ms(setup: &Setup) -> Result<Measured, Failure> {
    let folder = setup.folder("fsync")?;
    let mut times = Times::default();
    for n in 0..setup.times(200) {
        let mut file = File::create(folder.join(format!("{n}")))?;
        file.write_all(&[b'x'; 500])?;
        let begun = Instant::now();
        file.sync_all()?;
        times.add(begun.elapsed().as_secs_f64() * 1000.0);
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(Measured::Headline(times.at(50), "fsync", Row::of(&times)))
}
