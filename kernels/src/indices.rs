//! Which words an operation takes, fills or sums: prepared by who knows them, used as often as needed. What follows a
//! simple rule is computed where it is used, and a table is given to a device once.

use crate::cuda::Kept;
use std::iter::repeat_n;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Places of words in a buffer, one after the other, for [`crate::Words::gather`] and [`crate::Words::scatter`]. Copies are
/// cheap, and share what a device keeps.
#[derive(Clone, Debug)]
pub struct Indices(Places);

/// How places are known.
#[derive(Clone, Debug)]
pub(crate) enum Places {
    Grid(Grid),
    Table(Arc<Table>),
}

/// Rows of places at equal distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) start: usize,
    pub(crate) rows: usize,
    /// From one row to the next.
    pub(crate) row: usize,
    pub(crate) cols: usize,
    /// From one column to the next.
    pub(crate) col: usize,
}

/// Places that are listed.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) places: Vec<u32>,
    end: OnceLock<usize>,
    pub(crate) kept: Kept,
}

impl Indices {
    /// `start + i·row + j·col` for i < `rows` and j < `cols`, j the faster one; written `[(rows, row), (cols, col)]`.
    ///
    /// ```
    /// # use kernels::Indices;
    /// let second_and_third_column = Indices::grid(1, [(2, 5), (2, 1)]);
    /// assert!(second_and_third_column.iter().eq([1, 2, 6, 7]));
    /// let each_twice = Indices::grid(0, [(3, 1), (2, 0)]);
    /// assert!(each_twice.iter().eq([0, 0, 1, 1, 2, 2]));
    /// ```
    pub fn grid(start: usize, [(rows, row), (cols, col)]: [(usize, usize); 2]) -> Indices {
        // A column, and rows without gaps, are one row.
        let grid = if cols == 1 {
            Grid { start, rows: 1, row: 0, cols: rows, col: row }
        } else if rows != 1 && row == cols * col {
            Grid { start, rows: 1, row: 0, cols: rows * cols, col }
        } else {
            Grid { start, rows, row, cols, col }
        };
        Indices(Places::Grid(grid))
    }

    /// The first `n` places.
    pub fn first(n: usize) -> Indices {
        Indices::grid(0, [(1, 0), (n, 1)])
    }

    /// Whether these are the first `n` places, by rule.
    pub fn is_all(&self, n: usize) -> bool {
        matches!(self.0, Places::Grid(Grid { start: 0, rows: 1, cols, col: 1, .. }) if cols == n)
    }

    /// How many.
    pub fn len(&self) -> usize {
        match &self.0 {
            Places::Grid(g) => g.rows * g.cols,
            Places::Table(t) => t.places.len(),
        }
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let (grid, table) = match &self.0 {
            Places::Grid(g) => (Some(g.places()), None),
            Places::Table(t) => (None, Some(t.places.iter().map(|&i| i as usize))),
        };
        grid.into_iter().flatten().chain(table.into_iter().flatten())
    }

    pub(crate) fn places(&self) -> &Places {
        &self.0
    }

    /// One more than the greatest, or 0.
    pub(crate) fn end(&self) -> usize {
        match &self.0 {
            Places::Grid(g) if g.rows * g.cols == 0 => 0,
            Places::Grid(g) => g.start + (g.rows - 1) * g.row + (g.cols - 1) * g.col + 1,
            Places::Table(t) => {
                *t.end.get_or_init(|| t.places.iter().max().map_or(0, |&last| last as usize + 1))
            }
        }
    }
}

impl Grid {
    fn places(self) -> impl Iterator<Item = usize> {
        let Grid { start, rows, row, cols, col } = self;
        (0..rows).flat_map(move |i| (0..cols).map(move |j| start + i * row + j * col))
    }
}

impl From<Vec<u32>> for Indices {
    fn from(places: Vec<u32>) -> Indices {
        Indices(Places::Table(Arc::new(Table { places, end: OnceLock::new(), kept: Kept::default() })))
    }
}

impl FromIterator<u32> for Indices {
    fn from_iter<I: IntoIterator<Item = u32>>(places: I) -> Indices {
        places.into_iter().collect::<Vec<u32>>().into()
    }
}

/// A buffer cut into ranges, one after the other. Copies are cheap, and share what a device keeps.
#[derive(Clone, Debug)]
pub struct Segments(Cuts);

/// How the cuts are known.
#[derive(Clone, Debug)]
pub(crate) enum Cuts {
    /// `count` segments of `len` elements from the first on.
    Even { count: usize, len: usize },
    /// Segment i is `offsets[i]..offsets[i + 1]`.
    Table(Arc<Offsets>),
}

/// Ends that are listed.
#[derive(Debug)]
pub(crate) struct Offsets {
    pub(crate) offsets: Vec<usize>,
    pub(crate) kept: Kept,
}

impl Segments {
    /// `count` segments of `len` elements from the first on.
    pub fn even(count: usize, len: usize) -> Segments {
        Segments(Cuts::Even { count, len })
    }

    /// Segment i is `offsets[i]..offsets[i + 1]`.
    ///
    /// # Panics
    /// If offsets decrease.
    pub fn new(offsets: Vec<usize>) -> Segments {
        assert!(offsets.is_sorted(), "segment offsets decrease");
        let len = offsets.get(1).map_or(0, |&end| end);
        if offsets.iter().enumerate().all(|(i, &o)| o == i * len) {
            return Segments::even(offsets.len().saturating_sub(1), len);
        }
        Segments(Cuts::Table(Arc::new(Offsets { offsets, kept: Kept::default() })))
    }

    /// How many.
    pub fn count(&self) -> usize {
        match &self.0 {
            Cuts::Even { count, .. } => *count,
            Cuts::Table(t) => t.offsets.len().saturating_sub(1),
        }
    }

    /// One more than the last element of a segment.
    pub fn end(&self) -> usize {
        match &self.0 {
            Cuts::Even { count, len } => count * len,
            Cuts::Table(t) => t.offsets.last().copied().unwrap_or(0),
        }
    }

    /// Segment `i`.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn get(&self, i: usize) -> Range<usize> {
        match &self.0 {
            Cuts::Even { count, len } => {
                assert!(i < *count, "segment {i} of {count}");
                i * len..(i + 1) * len
            }
            Cuts::Table(t) => t.offsets[i]..t.offsets[i + 1],
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        (0..self.count()).map(|i| self.get(i))
    }

    /// For each element, the number of its segment. (Segments that do not begin at the first element are not meant.)
    pub fn numbers(&self) -> Indices {
        match &self.0 {
            Cuts::Even { count, len } => Indices::grid(0, [(*count, 1), (*len, 0)]),
            Cuts::Table(_) => self.iter().zip(0u32..).flat_map(|(s, i)| repeat_n(i, s.len())).collect(),
        }
    }

    pub(crate) fn cuts(&self) -> &Cuts {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_tables_agree() {
        for (rows, row) in [(1, 0), (3, 7), (4, 1), (0, 2), (5, 6)] {
            for (cols, col) in [(1, 0), (2, 3), (6, 1), (3, 0), (0, 1)] {
                let rule = Indices::grid(11, [(rows, row), (cols, col)]);
                let listed: Vec<usize> =
                    (0..rows * cols).map(|i| 11 + i / cols * row + i % cols * col).collect();
                assert_eq!(rule.iter().collect::<Vec<_>>(), listed, "{rule:?}");
                let table: Indices = listed.iter().map(|&i| i as u32).collect();
                assert!(table.iter().eq(rule.iter()));
                let end = listed.iter().max().map_or(0, |last| last + 1);
                assert_eq!([rule.end(), table.end()], [end; 2], "{rule:?}");
                assert_eq!([rule.len(), table.len()], [rows * cols; 2]);
                assert_eq!(rule.is_empty(), rows * cols == 0);
            }
        }
        assert!(Indices::first(4).iter().eq(0..4));
        assert!(Indices::first(4).is_all(4) && Indices::grid(0, [(2, 3), (3, 1)]).is_all(6));
        assert!(!Indices::first(4).is_all(5) && !Indices::grid(1, [(1, 0), (4, 1)]).is_all(4));
        assert!(!Indices::grid(0, [(2, 1), (2, 1)]).is_all(4));
    }

    #[test]
    fn even_segments_are_noticed() {
        let even = |offsets: &[usize]| matches!(Segments::new(offsets.to_vec()).cuts(), Cuts::Even { .. });
        assert!(even(&[0, 3, 6, 9]) && even(&[0, 0, 0]) && even(&[0, 5]) && even(&[]) && even(&[0]));
        assert!(!even(&[0, 3, 6, 8]) && !even(&[1, 2, 3]) && !even(&[5]) && !even(&[0, 0, 2]));
        for offsets in [vec![0, 3, 6, 9], vec![0, 2, 2, 7], vec![], vec![0]] {
            let s = Segments::new(offsets.clone());
            assert_eq!((s.count(), s.end()), (offsets.len().max(1) - 1, offsets.last().map_or(0, |&e| e)));
            assert!(s.iter().eq(offsets.windows(2).map(|w| w[0]..w[1])), "{s:?}");
            let number = |at: usize| offsets.windows(2).position(|w| (w[0]..w[1]).contains(&at));
            assert!(s.numbers().iter().map(Some).eq((0..s.end()).map(number)), "{s:?}");
        }
    }
}
