//! How fast the kernels are on this machine, on one thread and on all, and on its GPU, if there is one: the best of several
//! runs each. A device's figures contain the way there and back, some microseconds each.
//!
//! `cargo run --release -p kernels --example speed [avx512|avx2|scalar|cuda]`

use kernels::cpu::{Cpu, Isa};
use kernels::{
    DcfKeys, DcfShape, DcfThresholds, Device, DpfKeys, GemmBatch, KeyStream, Matrix, Strides, Tables, Words,
};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a device may still be working on.
trait Pending {
    /// Returns when it is there.
    fn wait(&self);
}

impl Pending for Words {
    fn wait(&self) {
        // Devices with memory of their own answer when all before is done.
        if self.device().memory().is_some() && !self.is_empty() {
            black_box(self.slice(0..1).to_vec());
        }
    }
}

impl Pending for Vec<Words> {
    fn wait(&self) {
        self.iter().for_each(Words::wait);
    }
}

impl Pending for DcfKeys<Words> {
    fn wait(&self) {
        self.outputs.wait();
    }
}

impl Pending for DpfKeys<Words> {
    fn wait(&self) {
        self.last.wait();
    }
}

impl Pending for i64 {
    fn wait(&self) {}
}

/// Seconds of the fastest of the runs that fit in a third of a second (at least three).
fn best<T: Pending>(mut f: impl FnMut() -> T) -> f64 {
    let start = Instant::now();
    let mut fastest = f64::MAX;
    let mut runs = 0;
    while runs < 3 || start.elapsed() < Duration::from_millis(333) {
        let one = Instant::now();
        black_box(f()).wait();
        fastest = fastest.min(one.elapsed().as_secs_f64());
        runs += 1;
    }
    fastest
}

/// Multiply-adds a second of one core on registers alone, where vpmullq exists.
fn peak() -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if Cpu::with(Isa::Avx512).is_some() {
        // SAFETY: the instruction set has just been detected.
        return Some(1e5 * 16.0 * 8.0 / best(|| unsafe { multiply(100_000) }));
    }
    None
}

/// Sixteen independent chains, as in the widest tile.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
fn multiply(n: usize) -> i64 {
    use std::arch::x86_64::*;
    let mut acc = [_mm512_set1_epi64(black_box(3)); 16];
    let x = _mm512_set1_epi64(black_box(5));
    for _ in 0..n {
        for a in &mut acc {
            *a = _mm512_mullo_epi64(*a, x);
        }
    }
    acc.iter().map(|a| _mm512_reduce_add_epi64(*a)).fold(0, i64::wrapping_add)
}

fn words(device: &Device, n: usize, bits: u32) -> Words {
    Words::chacha12(device, &[7; 32], n as u64, n, bits)
}

fn row(name: &str, figures: &str) {
    println!("  {name:<44} {figures}");
}

fn measure(device: &Device, peak: Option<f64>) {
    let threads = rayon::current_num_threads() as f64;
    for (m, k, n) in [(128, 768, 3072), (128, 768, 768), (32, 4096, 4096), (8, 4096, 4096)] {
        let x = words(device, m * k, 64);
        let w = Matrix::new(&words(device, n * k, 64), n, k);
        let speed = (m * k * n) as f64 / best(|| w.apply(&x));
        let part =
            peak.map_or(String::new(), |p| format!(", {:.0} % of vpmullq", 100.0 * speed / p / threads));
        row(&format!("gemm [{m}×{k}]·[{k}×{n}]"), &format!("{:.1} GMAC/s{part}", speed / 1e9));
    }
    let (k, n) = (4096, 4096);
    let weights = words(device, n * k, 64);
    let bytes = 8.0 * (n * k) as f64;
    let read = best(|| weights.sum_rows(k));
    row("read 128 MiB", &format!("{:.1} GB/s", bytes / read / 1e9));
    let w = Matrix::new(&weights, n, k);
    for m in [1, 2, 4] {
        let x = words(device, m * k, 64);
        let t = best(|| w.apply(&x));
        row(
            &format!("batch [{m}×{k}]·[{k}×{n}]"),
            &format!("{:.1} GB/s, {:.2} ms", bytes / t / 1e9, t * 1e3),
        );
    }
    let x = words(device, k, 64);
    let stream = KeyStream { key: &[3; 32], nonce: 0 };
    let t = best(|| w.apply_regenerated(&x, &x, stream));
    row(&format!("[1×{k}]·[{k}×{n}], and one from its key"), &format!("{:.2} ms", t * 1e3));
    for (k, n) in [(512, 512), (768, 768)] {
        let w = Matrix::new(&words(device, n * k, 64), n, k);
        let x = words(device, k, 64);
        let t = best(|| w.apply(&x));
        row(&format!("batch [1×{k}]·[{k}×{n}], in cache"), &format!("{:.1} µs", t * 1e6));
    }
    let (heads, queries, d, keys) = (12, 32, 64, 200);
    let q = words(device, queries * heads * d, 64);
    let kv = words(device, keys * heads * d, 64);
    let scores = GemmBatch {
        m: queries,
        n: keys,
        k: d,
        a: Strides { row: heads * d, col: 1 },
        b: Strides { row: 1, col: heads * d },
        c_row: keys,
        offsets: (0..heads).map(|h| [h * d, h * d, h * queries * keys]).collect(),
        c_len: heads * queries * keys,
    };
    let speed = (heads * queries * d * keys) as f64 / best(|| q.gemm_batch(&kv, &scores));
    row("12 heads of [32×64]·[64×200]", &format!("{:.1} GMAC/s", speed / 1e9));

    for n in [1 << 12, 1 << 15, 1 << 24] {
        let t = best(|| words(device, n, 64));
        row(&format!("chacha12, {} KiB", n / 128), &format!("{:.1} GB/s", 8.0 * n as f64 / t / 1e9));
    }
    for entries in [256, 512] {
        let n = 1 << 14;
        let columns: Vec<Vec<u64>> = (0..2).map(|_| words(device, 3 * entries, 64).to_vec()).collect();
        let tables = Tables::new(device, &columns, entries);
        let u = words(device, n * entries / 64, 64);
        let rot = words(device, n, entries.trailing_zeros());
        let phase = words(device, n, 1);
        let t = best(|| u.select(&tables, &rot, &phase));
        row(&format!("select, {entries} entries, 2 columns"), &format!("{:.1} ns a row", t * 1e9 / n as f64));
    }
    // A row gate over 20 octaves: 16 thresholds an octave, those of an octave to 1/8 of the least segment or better.
    let (bits, n) = (31, 64);
    let thresholds = || (0..=320u32).map(|j| (j, (128.0 * (f64::from(j) / 16.0).exp2()) as u64));
    let exact = DcfShape::exact(bits);
    let stops = DcfShape::new(bits, (0..=20).step_by(3).collect());
    let (alpha, beta) = (words(device, n, bits), words(device, n, 64));
    let roots = [words(device, 2 * n, 64), words(device, 2 * n, 63)];
    for (name, shape, octaves) in [("every bit", &exact, usize::MAX), ("7 stops", &stops, 48)] {
        let generate = || -> DcfKeys<Words> { alpha.dcf_generate(shape, &beta, &roots[0], &roots[1]) };
        let t = best(generate);
        row(&format!("dcf generate, 31 bits, {name}"), &format!("{:.1} µs a key", t * 1e6 / n as f64));
        let keys = generate();
        let points = thresholds().map(|(j, t)| (t, j as usize / octaves));
        for (many, thresholds) in [
            ("321 thresholds", DcfThresholds::new(shape, points)),
            ("1 threshold", DcfThresholds::new(shape, [(5, 0)])),
        ] {
            let t = best(|| beta.dcf_evaluate(0, &roots[0], &keys, &alpha, &thresholds));
            row(&format!("dcf evaluate, {many}, {name}"), &format!("{:.1} µs a key", t * 1e6 / n as f64));
        }
    }

    for (n, points) in [(8, 49152), (1, 49152), (8, 128_256)] {
        let (alpha, root) = (words(device, n, 15), words(device, 2 * n, 64));
        let generate = || -> DpfKeys<Words> { alpha.dpf_generate(points, &root, &root) };
        let made = best(generate);
        let keys = generate();
        let t = best(|| root.dpf_evaluate(0, points, &keys));
        let (key, point) = (made * 1e6 / n as f64, t * 1e9 / (n * points) as f64);
        row(
            &format!("dpf, {n} of {points} points"),
            &format!("generate {key:.1} µs a key, evaluate {point:.2} ns a point"),
        );
    }
}

fn main() {
    let peak = peak();
    if let Some(p) = peak {
        println!("vpmullq in registers: {:.1} GMAC/s a core", p / 1e9);
    }
    let only = std::env::args().nth(1);
    for isa in [Isa::Avx512, Isa::Avx2, Isa::Scalar] {
        let Some(cpu) = Cpu::with(isa) else { continue };
        if only.as_ref().is_some_and(|o| !format!("{isa:?}").eq_ignore_ascii_case(o)) {
            continue;
        }
        let device: Device = Arc::new(cpu);
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
        one.install(|| {
            println!("{}", device.name());
            measure(&device, peak);
        });
        println!("{}", device.name());
        measure(&device, peak);
    }
    if only.is_none_or(|o| o.eq_ignore_ascii_case("cuda")) {
        match kernels::cuda::open(0) {
            Ok(device) => {
                println!("{}", device.name());
                measure(&device, None);
            }
            Err(e) => println!("{e}"),
        }
    }
}
