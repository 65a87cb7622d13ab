//! What happened, counted: a kind of fault that never came proves nothing.

use std::collections::BTreeMap;

#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    /// One event of the world, or one look with its decision and deeds.
    pub(crate) steps: u64,
    /// How often each kind of thing happened.
    pub(crate) hits: BTreeMap<&'static str, u64>,
    /// Lines of the daemon's work: passed, and died at.
    points: BTreeMap<&'static str, (u64, u64)>,
}

impl Counts {
    pub(crate) fn hit(&mut self, what: &'static str) {
        self.add(what, 1);
    }
    pub(crate) fn add(&mut self, what: &'static str, n: u64) {
        *self.hits.entry(what).or_default() += n;
    }
    pub(crate) fn point(&mut self, name: &'static str) {
        self.points.entry(name).or_default().0 += 1;
    }
    pub(crate) fn died_at(&mut self, name: &'static str) {
        self.points.entry(name).or_default().1 += 1;
        self.hit("daemon died at work");
    }
    pub(crate) fn merge(&mut self, other: &Self) {
        self.steps += other.steps;
        for (what, n) in &other.hits {
            self.add(what, *n);
        }
        for (name, (passed, died)) in &other.points {
            let sum = self.points.entry(name).or_default();
            sum.0 += passed;
            sum.1 += died;
        }
    }
    /// Each line of the daemon's work, with how often it was passed, and the daemon died there.
    pub(crate) fn points(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let points = self.points.iter();
        points.map(|(name, (passed, died))| (*name, *passed, *died))
    }
    pub(crate) fn count(&self, what: &str) -> u64 {
        self.hits.get(what).copied().unwrap_or(0)
    }
    /// A table for people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{} steps\n", self.steps);
        for (what, n) in &self.hits {
            text += &format!("{n:>10}  {what}\n");
        }
        text += "    passed      died  point of the daemon\n";
        for (name, (passed, died)) in &self.points {
            text += &format!("{passed:>10}{died:>10}  {name}\n");
        }
        text
    }
}
