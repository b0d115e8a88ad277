//! Sums of table entries selected by rows of bits. Prepared tables are the columns one after the other.

use super::{Cuda, DeviceWords, Launch};

fn check(entries: usize) {
    assert!(entries.is_power_of_two() && entries >= 2, "tables of {entries} entries");
}

impl Cuda {
    pub(super) fn tables(&self, columns: &[Vec<u64>], entries: usize) -> DeviceWords {
        check(entries);
        let len = columns.first().map_or(0, Vec::len);
        assert!(columns.iter().all(|c| c.len() == len), "table columns of different length");
        assert!(len > 0 && len.is_multiple_of(entries), "columns of {len} words in phases of {entries}");
        self.uploaded("prepare_tables", &columns.concat())
    }

    pub(super) fn selected(
        &self,
        u: &DeviceWords,
        tables: &DeviceWords,
        entries: usize,
        columns: usize,
        rot: &DeviceWords,
        phase: &DeviceWords,
    ) -> Vec<DeviceWords> {
        check(entries);
        let rows = rot.len();
        assert!(columns > 0, "a table without columns");
        assert!(tables.len() > 0, "a table without entries");
        assert!(tables.len().is_multiple_of(columns * entries), "prepared table size");
        assert_eq!(u.len(), rows * entries.div_ceil(64), "one row of bits for each rotation");
        assert_eq!(phase.len(), rows, "one phase for each rotation");
        let phases = tables.len() / (columns * entries);
        let out = self.core.alloc("select", columns * rows);
        let (sizes, len) = ([entries, columns, phases].map(Into::into), rows.into());
        let [entries, width, phases] = sizes;
        let args = [u.arg(), tables.arg(), entries, width, phases, rot.arg(), phase.arg(), out.arg(), len];
        self.launch(Launch::warps("select_entries", rows), &args);
        (0..columns).map(|c| self.sliced(&out, c * rows..(c + 1) * rows)).collect()
    }
}
