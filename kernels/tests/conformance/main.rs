//! One suite, run on every device of this machine: each operation against a definition written here, naively.

mod bits;
mod dcf;
mod dpf;
mod elementwise;
mod gemm;
mod message;
mod select;
mod stream;

use kernels::cpu::{Cpu, Isa};
use kernels::{Device, Words};
use std::sync::Arc;

/// Numbers that look random, from a seed (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Mostly anything, sometimes an edge.
    fn word(&mut self) -> u64 {
        let w = self.next();
        match self.next() % 16 {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << (w % 64),
            3 => w & 0xffff_ffff,
            4 => w << 32,
            _ => w,
        }
    }

    fn words(&mut self, n: usize) -> Vec<u64> {
        (0..n).map(|_| self.word()).collect()
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn up(device: &Device, words: &[u64]) -> Words {
    Words::upload(device, words.to_vec())
}

fn device(isa: Isa) -> Option<Device> {
    let cpu = Cpu::with(isa);
    if cpu.is_none() {
        eprintln!("no {isa:?} here: not tested");
    }
    cpu.map(|c| Arc::new(c) as Device)
}

macro_rules! suite {
    ($($module:ident: $($test:ident)*;)*) => {
        suite!(@ scalar Isa::Scalar, $($module: $($test)*;)*);
        suite!(@ avx2 Isa::Avx2, $($module: $($test)*;)*);
        suite!(@ avx512 Isa::Avx512, $($module: $($test)*;)*);
    };
    (@ $name:ident $isa:expr, $($module:ident: $($test:ident)*;)*) => {
        mod $name {
            use super::*;
            $(mod $module {
                use super::*;
                $(#[test] fn $test() {
                    if let Some(device) = device($isa) {
                        crate::$module::$test(&device);
                    }
                })*
            })*
        }
    };
}

suite! {
    elementwise: zips maps broadcasts segments moves large_buffers;
    message: every_width hostile_bytes;
    bits: single_bits rotations suffixes masked_segments transpositions;
    stream: known_vector equals_rand_chacha prefixes_and_masks;
    gemm: ragged sums few_rows large_inputs many_rows thread_counts empty batches batch_layouts properties;
    select: small_tables large_tables indices_wrap;
    dcf: exhaustive wide geometric equals_definition shapes hostile_keys;
    dpf: exhaustive wide equals_definition hostile_keys key_bytes;
}

#[test]
fn best_device_is_available() {
    let best = Cpu::detect();
    assert_eq!(Cpu::with(best.isa()).map(|c| c.isa()), Some(best.isa()));
    assert!(Cpu::best().name().starts_with("cpu ("));
    assert_eq!(Cpu::scalar().isa(), Isa::Scalar);
}
