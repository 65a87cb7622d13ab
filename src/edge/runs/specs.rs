//! The specs of live runs as they were last read: each is written once, and long where its queue is.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Error, read_spec};
use crate::core::layout::{Layout, RunDir};
use crate::core::record::Spec;
use crate::edge::clock;
use crate::edge::files::Stamp;

/// Specs that need not be read again as long as their files are as they were.
#[derive(Debug, Default)]
pub struct Specs(BTreeMap<RunDir, (Stamp, Arc<Spec>)>);

impl Specs {
    /// As [`read_spec`].
    pub fn read(&mut self, layout: &Layout, dir: &RunDir) -> Result<Option<Arc<Spec>>, Error> {
        // Before it is read: what changes afterwards has another stamp.
        let stamp = Stamp::of(layout.run(dir).spec());
        if let Some((known, spec)) = self.0.get(dir)
            && Some(known) == stamp.as_ref()
        {
            return Ok(Some(Arc::clone(spec)));
        }
        self.0.remove(dir);
        let spec = read_spec(layout, dir)?.map(Arc::new);
        if let Some((stamp, spec)) = stamp.zip(spec.clone())
            && !stamp.is_fresh(clock::wall())
        {
            self.0.insert(dir.clone(), (stamp, spec));
        }
        Ok(spec)
    }

    /// Forgets those of runs that are not `live` any more.
    pub fn keep(&mut self, live: &[RunDir]) {
        self.0.retain(|dir, _| live.contains(dir));
    }
}
