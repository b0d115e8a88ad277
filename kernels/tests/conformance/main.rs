//! One suite, run on every device of this machine: each operation against a definition written here, naively.

mod bits;
mod dcf;
mod dpf;
mod elementwise;
mod formula;
mod gemm;
mod message;
mod programs;
mod select;
mod stream;
mod used;

use kernels::cpu::{Cpu, Isa};
use kernels::cuda::NoDevice;
use kernels::cuda::{Cuda, source};
use kernels::{Device, Words};
use kernels_shim::{Order, Shim};
use std::sync::{Arc, OnceLock};

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

fn cpu(isa: Isa) -> Option<Device> {
    let cpu = Cpu::with(isa);
    if cpu.is_none() {
        eprintln!("no {isa:?} here: not tested");
    }
    cpu.map(|c| Arc::new(c) as Device)
}

/// The first GPU, opened once.
fn nvidia() -> Option<Device> {
    static OPENED: OnceLock<Result<Device, NoDevice>> = OnceLock::new();
    let opened = OPENED.get_or_init(|| kernels::cuda::open(0)).clone();
    opened.inspect_err(|e| eprintln!("not tested: {e}")).ok()
}

/// The code that talks to NVIDIA's driver, with a library in its place.
#[test]
fn cuda_over_a_lazy_driver() {
    let Some(folder) = kernels_shim::driver_folder() else { return };
    let program = std::env::current_exe().expect("this program");
    let run = std::process::Command::new(program)
        .args([
            "cuda::elementwise",
            "cuda::formula",
            "cuda::message",
            "cuda::stream",
            "cuda::gemm::large_inputs",
            "cuda::gemm::batches",
            "cuda::dcf::shapes",
            "cuda::dpf::exhaustive",
            "cuda::select::s",
        ])
        .arg("--nocapture")
        .env("LD_LIBRARY_PATH", folder)
        .env_remove("CATAMOUNT_FAKE_CUDA")
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && !said.contains("not tested"), "{said}");
    for test in [
        "elementwise::zips",
        "formula::results",
        "message::",
        "stream::",
        "gemm::batches",
        "dcf::shapes",
        "dpf::exhaustive",
    ] {
        assert!(said.contains(&format!("test cuda::{test}")), "{test} did not run: {said}");
    }
}

/// Large buffers have more elements than a grid has threads, which then take turns: as here, with one block. Every kernel
/// that does so has to.
#[test]
fn turns() {
    let Some(shim) = Shim::new(Order::Reverse).map(|s| Arc::new(s.blocks(1))) else { return };
    let device: Device = Arc::new(Cuda::with_driver(shim.clone()));
    for test in [
        elementwise::zips,
        elementwise::maps,
        elementwise::segments,
        elementwise::moves,
        elementwise::grids,
        programs::nothing_is_read_before_the_end,
        formula::results,
        formula::places,
        message::every_width,
        message::masked,
        message::of_parts,
        message::combined,
        bits::single_bits,
        bits::counts,
        bits::rotations,
        bits::suffixes,
        bits::combinations,
        bits::transpositions,
        stream::every_width,
        stream::around_65536,
        gemm::ragged,
        gemm::regenerated_in_panels,
        gemm::batches,
        select::small_tables,
    ] {
        test(&device);
    }
    let source = source::source();
    let all = source::kernels(&source).into_iter().filter(|k| k.turns.is_some()).map(|k| k.name).collect();
    assert_eq!(shim.cut(), all);
}

macro_rules! suite {
    ($($module:ident: $($test:ident)*;)*) => {
        suite!(@ scalar cpu(Isa::Scalar), $($module: $($test)*;)*);
        suite!(@ avx2 cpu(Isa::Avx2), $($module: $($test)*;)*);
        suite!(@ avx512 cpu(Isa::Avx512), $($module: $($test)*;)*);
        suite!(@ amx cpu(Isa::Amx), $($module: $($test)*;)*);
        suite!(@ cuda nvidia(), $($module: $($test)*;)*);
        suite!(@ cuda_shim kernels_shim::device(Order::Forward), $($module: $($test)*;)*);
        suite!(@ cuda_shim_reverse kernels_shim::device(Order::Reverse), $($module: $($test)*;)*);
    };
    (@ $name:ident $device:expr, $($module:ident: $($test:ident)*;)*) => {
        mod $name {
            use super::*;
            $(mod $module {
                use super::*;
                $(#[test] fn $test() {
                    if let Some(device) = $device {
                        crate::$module::$test(&device);
                    }
                })*
            })*
        }
    };
}

suite! {
    elementwise: zips maps segments moves grids large_buffers;
    programs: nothing_is_read_before_the_end long_buffers two_at_once;
    formula: operations results in_any_order places wrong_places large_buffers;
    message: every_width hostile_bytes ends masked of_parts combined;
    bits: single_bits counts rotations suffixes combinations transpositions;
    stream: known_vector known_cells equals_rand_chacha every_width around_65536 long_streams;
    gemm: ragged sums few_rows large_inputs many_rows largest_words thread_counts empty batches batch_layouts regenerated regenerated_in_panels bits properties;
    select: small_tables large_tables indices_wrap;
    dcf: exhaustive wide geometric equals_definition shapes hostile_keys;
    dpf: exhaustive wide equals_definition hostile_keys key_bytes;
    used: buffers;
}

#[test]
fn best_device_is_available() {
    let best = Cpu::detect();
    assert_eq!(Cpu::with(best.isa()).map(|c| c.isa()), Some(best.isa()));
    assert!(Cpu::best().name().starts_with("cpu ("));
    assert_eq!(Cpu::scalar().isa(), Isa::Scalar);
}
