//! What distributed comparison functions compare, and where.

use std::ops::Range;

/// What the functions of a batch compare: x < α for numbers of `bits` bits, and at each *stop* only what is left of both
/// without some low bits: ⌊x/2^s⌋ < ⌊α/2^s⌋. Where these are equal a stop says "not less", as a comparison does, so at
/// a stop the answer differs from x < α only for x below α and less than 2^s away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DcfShape {
    bits: u32,
    stops: Vec<u32>,
}

impl DcfShape {
    /// Each node at a stop answers for the points of this many more levels.
    pub(crate) const LAST_LEVELS: u32 = 2;
    /// Points below a node at a stop, and its correction words.
    pub(crate) const LAST: usize = 1 << Self::LAST_LEVELS;

    /// Comparisons of `bits`-bit numbers, from 1 to 63, without their lowest `stops[i]` bits for each i (ascending).
    ///
    /// # Panics
    /// If there is no stop, or one that leaves nothing to compare.
    pub fn new(bits: u32, stops: Vec<u32>) -> DcfShape {
        assert!((1..=63).contains(&bits), "comparison of {bits}-bit numbers");
        assert!(stops.is_sorted_by(|a, b| a < b), "stops in ascending order");
        assert!(stops.last().is_some_and(|s| *s < bits), "stops {stops:?} in {bits} bits");
        DcfShape { bits, stops }
    }

    /// Comparisons of all `bits` bits only.
    pub fn exact(bits: u32) -> DcfShape {
        DcfShape::new(bits, vec![0])
    }

    /// Bits of a point.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Low bits that are ignored at each stop.
    pub fn stops(&self) -> &[u32] {
        &self.stops
    }

    /// Levels of the tree that have corrections: as many as there are above the deepest stop.
    pub fn levels(&self) -> usize {
        self.depth(0) as usize
    }

    /// Output corrections of a key.
    pub fn outputs(&self) -> usize {
        Self::LAST * self.stops.len()
    }

    /// Levels above the nodes at which stop `i` is answered.
    pub(crate) fn depth(&self, i: usize) -> u32 {
        (self.bits - self.stops[i]).saturating_sub(Self::LAST_LEVELS)
    }
}

/// Correction words of a batch of comparison functions: what both keys of a pair have in common. The pair's two keys add
/// their party and its root (2 words).
#[derive(Clone, Debug)]
pub struct DcfKeys<W> {
    /// Seed corrections, 2 words for each key and level.
    pub seeds: W,
    /// Value corrections, one word for each key and level.
    pub values: W,
    /// Control-bit corrections, one word for each key and level: bit 0 left, bit 1 right.
    pub controls: W,
    /// Output corrections, 4 words for each key and stop.
    pub outputs: W,
}

impl<W> DcfKeys<W> {
    pub(crate) fn map<V>(self, f: impl Fn(W) -> V) -> DcfKeys<V> {
        DcfKeys {
            seeds: f(self.seeds),
            values: f(self.values),
            controls: f(self.controls),
            outputs: f(self.outputs),
        }
    }

    pub(crate) fn as_ref(&self) -> DcfKeys<&W> {
        DcfKeys { seeds: &self.seeds, values: &self.values, controls: &self.controls, outputs: &self.outputs }
    }
}

/// Public thresholds τ for which every key of a batch is evaluated: with the public base b of a key at the points b − τ
/// modulo 2^bits, each compared at one of the shape's stops.
#[derive(Clone, Debug)]
pub struct DcfThresholds {
    shape: DcfShape,
    thresholds: Vec<u64>,
    /// Where each stop's thresholds begin, and where the last one's end.
    stops: Vec<usize>,
}

impl DcfThresholds {
    /// (τ, number of its stop) for each threshold below 2^bits, in ascending order of both.
    ///
    /// # Panics
    /// If they are not in order, or the shape has no such threshold or stop.
    pub fn new(shape: &DcfShape, thresholds: impl IntoIterator<Item = (u64, usize)>) -> DcfThresholds {
        let all: Vec<(u64, usize)> = thresholds.into_iter().collect();
        for (tau, stop) in &all {
            assert!(tau >> shape.bits == 0, "threshold {tau} of {} bits", shape.bits);
            assert!(*stop < shape.stops.len(), "stop {stop} of {:?}", shape.stops);
        }
        assert!(
            all.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1),
            "thresholds in ascending order, large ones compared coarsely"
        );
        let stops = (0..=shape.stops.len()).map(|stop| all.partition_point(|t| t.1 < stop)).collect();
        DcfThresholds { shape: shape.clone(), thresholds: all.into_iter().map(|t| t.0).collect(), stops }
    }

    /// What is compared.
    pub fn shape(&self) -> &DcfShape {
        &self.shape
    }

    /// Number of thresholds.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.thresholds.len()
    }

    pub(crate) fn list(&self) -> &[u64] {
        &self.thresholds
    }

    /// The numbers of the thresholds that are compared at stop `i`.
    pub(crate) fn at_stop(&self, i: usize) -> Range<usize> {
        self.stops[i]..self.stops[i + 1]
    }
}
