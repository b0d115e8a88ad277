//! How fast the kernels are on this machine, on one thread and on all: the best of several runs each.
//!
//! `cargo run --release -p kernels --example speed`

use kernels::cpu::{Cpu, Isa};
use kernels::rates::{self, fastest};
use kernels::{
    DcfKeys, DcfShape, DcfThresholds, Device, DpfKeys, GemmBatch, Matrix, Message, Segments, Strides, Tables,
    Words, Zip, coin_words,
};
use std::sync::Arc;

fn words(device: &Device, n: usize, bits: u32) -> Words {
    Words::chacha12(device, &[7; 32], n as u64, n, bits)
}

fn row(name: &str, figures: &str) {
    println!("  {name:<44} {figures}");
}

/// What one thread reached, for the speed-up of all.
#[derive(Default)]
struct One {
    figures: Vec<f64>,
    next: usize,
}

impl One {
    /// Notes a figure of one thread; of all threads, tells how many times that of one it is.
    fn beside(&mut self, threads: usize, figure: f64) -> String {
        if threads == 1 {
            self.figures.push(figure);
            return String::new();
        }
        let one = self.figures.get(self.next).copied();
        self.next += 1;
        one.map_or(String::new(), |one| format!(", {:.2} × one thread", figure / one))
    }
}

fn measure(device: &Device, peak: Option<f64>, one: &mut One) {
    let threads = rayon::current_num_threads();
    let shapes = [[128, 768, 3072], [128, 768, 768], [32, 4096, 4096], [8, 4096, 4096]];
    for (shape @ [m, k, n], bits) in
        shapes.map(|s| (s, 64)).into_iter().chain([(shapes[0], 52), (shapes[1], 52)])
    {
        let speed = rates::products(device, shape, bits);
        let part = peak.map_or(String::new(), |p| {
            format!(", {:.0} % of the multiply peak", 100.0 * speed / p / threads as f64)
        });
        let beside = one.beside(threads, speed);
        let modulus = if bits < 64 { format!(" mod 2^{bits}") } else { String::new() };
        row(
            &format!("gemm [{m}×{k}]·[{k}×{n}]{modulus}"),
            &format!("{:.1} GMAC/s{part}{beside}", speed / 1e9),
        );
    }
    let read = rates::reading(device);
    row("read 1 GiB", &format!("{:.1} GB/s", read / 1e9));
    for m in [1, 2, 4] {
        let speed = rates::weights(device, m);
        let beside = one.beside(threads, speed);
        row(
            &format!("batch of {m}, weights of 1 GiB"),
            &format!("{:.1} GB/s, {:.0} % of reading{beside}", speed / 1e9, 100.0 * speed / read),
        );
    }
    for (k, n) in [(512, 512), (768, 768)] {
        let w = Matrix::new(&words(device, n * k, 64), n, k);
        let x = words(device, k, 64);
        let t = fastest(|| w.apply(&x));
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
    let speed = (heads * queries * d * keys) as f64 / fastest(|| q.gemm_batch(&kv, &scores));
    row("12 heads of [32×64]·[64×200]", &format!("{:.1} GMAC/s", speed / 1e9));

    for (k, n) in [(49152, 576), (30522, 768)] {
        let w = Matrix::new(&words(device, k * n, 64), n, k);
        for m in [1, 4, 8, 9, 16, 32, 128] {
            let bits = words(device, m * k.div_ceil(64), 64);
            let t = fastest(|| w.apply_bits(&bits));
            let (speed, read) = ((m * k * n) as f64 / t / 1e9, (8 * k * n) as f64 / t / 1e9);
            row(&format!("bits [{m}×{k}]·[{k}×{n}]"), &format!("{speed:.1} G bits·words/s, {read:.1} GB/s"));
        }
    }

    for n in [1 << 12, 1 << 15, 1 << 24] {
        let (speed, threads) = (rates::random(device, n), threads as f64);
        row(
            &format!("chacha12, {} KiB", n / 128),
            &format!("{:.1} GB/s, {:.1} a thread", speed / 1e9, speed / threads / 1e9),
        );
    }
    for bits in [1, 32] {
        let n = 1 << 20;
        // All of them, which are cut from the stream only when they are needed.
        let t = fastest(|| words(device, n, bits).slice(0..1).to_vec());
        row(&format!("chacha12, {n} words of {bits} bits"), &format!("{:.3} ns a word", t * 1e9 / n as f64));
    }
    for levels in [64, 128] {
        let (scores, rows) = (128, 1024);
        let n = scores * rows;
        let u = words(device, n * levels / 64, 64);
        let coins = words(device, n * coin_words(levels, 24), 64);
        let rows = Segments::even(rows, scores);
        let t = fastest(|| u.random_combinations(&coins, levels, 24, &rows));
        row(
            &format!("combine, {levels} levels, 24 planes"),
            &format!("{:.2} ns a score", t * 1e9 / n as f64),
        );
    }
    let n = 1 << 16;
    let (u, idx, mut flipped) = (words(device, n, 64), words(device, n, 64), Some(words(device, n, 64)));
    for (name, t) in [
        ("flip", fastest(|| flipped = flipped.take().map(|u| u.flip_bit(64, &idx)))),
        ("bit at", fastest(|| u.bit_at(64, &idx))),
        ("rotate", fastest(|| u.rotate_bits(64, &idx))),
        ("suffix xor", fastest(|| u.suffix_xor(64))),
    ] {
        row(&format!("rows of 64 bits, {name}"), &format!("{:.2} ns a row", t * 1e9 / n as f64));
    }
    let (n, total) = (1 << 11, 24);
    let planes = words(device, n * total, 64);
    for count in [6, total] {
        let t = fastest(|| planes.transpose_bits(64, total, 0, count));
        row(
            &format!("transpose, {count} of {total} planes of 64 bits"),
            &format!("{:.1} ns a row", t * 1e9 / n as f64),
        );
    }
    for bits in [1, 23, 40, 52] {
        let n = 128 * 768;
        let (mask, mut a, mut message) = (words(device, n, 64), Some(words(device, n, 64)), Vec::new());
        let packing = fastest(|| {
            message.clear();
            mask.pack(bits, &mut message);
        });
        let unpacking = fastest(|| Words::unpack(device, &message, bits, n));
        let masking = fastest(|| {
            message.clear();
            let mut masked = Message::from(std::mem::take(&mut message));
            a = a.take().map(|a| a.mask_and_pack(Zip::Sub, &mask, bits, &mut masked));
            message = masked.into_bytes();
        });
        let combining = fastest(|| a = a.take().map(|a| a.combine_packed(Zip::Add, &message, bits)));
        let [pack, unpack, masked, combined] =
            [packing, unpacking, masking, combining].map(|t| format!("{:.1}", 8e-9 * n as f64 / t));
        row(
            &format!("messages, words of {bits} bits"),
            &format!("pack {pack} GB/s, unpack {unpack}, mask and pack {masked}, combine {combined}"),
        );
    }
    // Exponentials, and a GeLU by quadratics: as many phases as these have.
    for (entries, phases, columns) in [(256, 64, 1), (128, 16, 3), (512, 16, 2)] {
        let n = 1 << 18;
        let table: Vec<Vec<u64>> =
            (0..columns).map(|_| words(device, phases * entries, 64).to_vec()).collect();
        let tables = Tables::new(device, &table, entries);
        let u = words(device, n * entries / 64, 64);
        let rot = words(device, n, entries.trailing_zeros());
        let phase = words(device, n, phases.trailing_zeros());
        let t = fastest(|| u.select(&tables, &rot, &phase));
        row(
            &format!("select, {entries} entries, {phases} phases, {columns} columns"),
            &format!("{:.1} ns a row", t * 1e9 / n as f64),
        );
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
        let t = fastest(generate);
        row(&format!("dcf generate, 31 bits, {name}"), &format!("{:.1} µs a key", t * 1e6 / n as f64));
        let keys = generate();
        let points = thresholds().map(|(j, t)| (t, j as usize / octaves));
        for (many, thresholds) in [
            ("321 thresholds", DcfThresholds::new(shape, points)),
            ("1 threshold", DcfThresholds::new(shape, [(5, 0)])),
        ] {
            let t = fastest(|| beta.dcf_evaluate(0, &roots[0], &keys, &alpha, &thresholds));
            row(&format!("dcf evaluate, {many}, {name}"), &format!("{:.1} µs a key", t * 1e6 / n as f64));
        }
    }
    // Over 21 octaves 4 thresholds each: a layer's softmax sums.
    let shape = DcfShape::new(30, (0..=21).step_by(3).collect());
    let points = (0..=84u32).map(|j| ((32.0 * (f64::from(j) / 4.0).exp2()) as u64, j as usize / 12));
    let thresholds = DcfThresholds::new(&shape, points);
    for n in [1, 12, 1536] {
        let (alpha, beta) = (words(device, n, 30), words(device, n, 64));
        let roots = [words(device, 2 * n, 64), words(device, 2 * n, 63)];
        let keys: DcfKeys<Words> = alpha.dcf_generate(&shape, &beta, &roots[0], &roots[1]);
        let t = fastest(|| beta.dcf_evaluate(0, &roots[0], &keys, &alpha, &thresholds));
        row(
            &format!("dcf evaluate, {n} keys, 85 thresholds"),
            &format!("{:.2} µs a key", t * 1e6 / n as f64),
        );
    }

    for (n, points) in [(8, 49152), (1, 49152), (8, 128_256)] {
        let (alpha, root) = (words(device, n, 15), words(device, 2 * n, 64));
        let generate = || -> DpfKeys<Words> { alpha.dpf_generate(points, &root, &root) };
        let made = fastest(generate);
        let keys = generate();
        let t = fastest(|| root.dpf_evaluate(0, points, &keys));
        let (key, point) = (made * 1e6 / n as f64, t * 1e9 / (n * points) as f64);
        row(
            &format!("dpf, {n} of {points} points"),
            &format!("generate {key:.1} µs a key, evaluate {point:.2} ns a point"),
        );
    }
}

fn main() {
    let only = std::env::args().nth(1);
    for isa in [Isa::Amx, Isa::Avx512, Isa::Avx2, Isa::Scalar] {
        let Some(cpu) = Cpu::with(isa) else { continue };
        if only.as_ref().is_some_and(|o| !format!("{isa:?}").eq_ignore_ascii_case(o)) {
            continue;
        }
        let peak = rates::multiply_peak(&cpu);
        if let Some(p) = peak {
            println!("multiply peak of {isa:?}, in registers: {:.1} GMAC/s a core", p / 1e9);
        }
        let device: Device = Arc::new(cpu);
        let mut figures = One::default();
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
        one.install(|| {
            println!("{}", device.name());
            measure(&device, peak, &mut figures);
        });
        println!("{}", device.name());
        measure(&device, peak, &mut figures);
    }
}
