//! Chance without a clock: one number in, the same story out, on every machine.

/// SplitMix64 (Steele, Lea and Flood 2014): small, and good enough to pick from lists.
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// 0 to `n` - 1.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
    /// Mostly a few, seldom many: `most` one time in `n`, else up to `few`.
    pub(crate) fn seldom(&mut self, n: u64, most: u64, few: u64) -> u64 {
        if self.one_in(n) {
            self.below(most + 1)
        } else {
            self.below(few + 1)
        }
    }
}

/// One number from two.
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    Chance::new(a ^ b.wrapping_mul(0xD6E8_FEB8_6659_FD93)).next()
}
