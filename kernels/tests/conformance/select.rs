//! Table selection against its formula.

use super::{Numbers, up};
use kernels::{Device, Tables};

fn check(device: &Device, r: &mut Numbers, entries: usize, phases: usize, columns: usize, rows: usize) {
    let words = entries.div_ceil(64);
    let table: Vec<Vec<u64>> = (0..columns).map(|_| r.words(entries * phases)).collect();
    let u = r.words(rows * words);
    let rot: Vec<u64> = (0..rows).map(|_| r.below(entries) as u64).collect();
    let phase: Vec<u64> = (0..rows).map(|_| r.below(phases) as u64).collect();
    let tables = Tables::new(device, &table, entries);
    let got = up(device, &u).select(&tables, &up(device, &rot), &up(device, &phase));
    assert_eq!(got.len(), columns);
    for (column, got) in table.iter().zip(&got) {
        let got = got.to_vec();
        assert_eq!(got.len(), rows);
        for e in 0..rows {
            let want = (0..entries)
                .filter(|i| u[e * words + i / 64] >> (i % 64) & 1 == 1)
                .map(|i| column[phase[e] as usize * entries + (i + rot[e] as usize) % entries])
                .fold(0, u64::wrapping_add);
            assert_eq!(got[e], want, "{entries} entries, {phases} phases, {columns} columns, row {e}");
        }
    }
}

pub(crate) fn small_tables(device: &Device) {
    let mut r = Numbers(50);
    for entries in [2, 4, 8, 16, 32, 64] {
        for phases in [1, 3, 8] {
            for columns in [1, 2, 3, 5] {
                for rows in [0, 1, 2, 63, 200] {
                    check(device, &mut r, entries, phases, columns, rows);
                }
            }
        }
    }
}

pub(crate) fn large_tables(device: &Device) {
    let mut r = Numbers(51);
    for entries in [128, 256, 512, 1024, 4096] {
        for phases in [1, 3, 8] {
            for columns in [1, 2, 3] {
                check(device, &mut r, entries, phases, columns, 70);
            }
        }
    }
    check(device, &mut r, 256, 3, 2, 2000);
    check(device, &mut r, 64, 1, 4, 5000);
}

/// Rotations modulo the entries, phases modulo the phases, and no bits beyond the entries.
pub(crate) fn indices_wrap(device: &Device) {
    let mut r = Numbers(52);
    let table = vec![r.words(3 * 16)];
    let tables = Tables::new(device, &table, 16);
    let (rot, phase, u) = (r.words(50), r.words(50), r.words(50));
    let wild = up(device, &u).select(&tables, &up(device, &rot), &up(device, &phase))[0].to_vec();
    let u: Vec<u64> = u.iter().map(|x| x & 0xffff).collect();
    let rot: Vec<u64> = rot.iter().map(|x| x % 16).collect();
    let phase: Vec<u64> = phase.iter().map(|x| x % 3).collect();
    let tame = up(device, &u).select(&tables, &up(device, &rot), &up(device, &phase))[0].to_vec();
    assert_eq!(wild, tame);
}
