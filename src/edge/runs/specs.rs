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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::given::run;
    use crate::edge::runs::write_spec;

    #[test]
    fn a_spec_is_read_once_and_again_when_it_is_another() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let base = camino::Utf8Path::from_path(dir.path()).expect("UTF-8");
        let layout = Layout::new(base);
        let run = run("7/1", "coder");
        std::fs::create_dir_all(layout.run(&run.dir).dir).expect("a folder");
        let mut specs = Specs::default();
        let mut read = || specs.read(&layout, &run.dir).expect("readable");
        assert_eq!(read(), None);
        let mut spec = Spec::clone(run.spec.as_ref().expect("given"));
        write_spec(&layout, &run.dir, &spec).expect("written");
        assert_eq!(read().as_deref(), Some(&spec));
        // Once the file is old enough to be told by its times.
        let began = clock::monotonic();
        while !read().zip(read()).is_some_and(|(a, b)| Arc::ptr_eq(&a, &b)) {
            assert!(clock::monotonic() < began + Duration::from_secs(5));
            std::thread::sleep(Duration::from_millis(5));
        }
        spec.attempt += 1;
        write_spec(&layout, &run.dir, &spec).expect("written");
        assert_eq!(read().as_deref(), Some(&spec));
        specs.keep(&[]);
        assert!(specs.0.is_empty());
    }
}
