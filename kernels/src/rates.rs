//! What this machine does at best: the rates that floors are computed from, and that kernels are held against.
//!
//! Products, reading and random words use the threads of the pool that they are called in. Each rate is that of the
//! fastest of several runs, for a third of a second.

use crate::cpu::Cpu;
use crate::{Device, Matrix, Words};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Inputs and outputs of the matrix that memory is read for: 1 GiB, as caches hold up to 480 MB.
const LARGE: [usize; 2] = [8192, 16384];

/// Seconds of the fastest of the runs that fit in a third of a second (at least three).
pub fn fastest<T>(mut f: impl FnMut() -> T) -> f64 {
    let start = Instant::now();
    let mut fastest = f64::MAX;
    let mut runs = 0;
    while runs < 3 || start.elapsed() < Duration::from_millis(333) {
        let one = Instant::now();
        black_box(f());
        fastest = fastest.min(one.elapsed().as_secs_f64());
        runs += 1;
    }
    fastest
}

/// 64-bit multiply-adds a second that one core starts on registers alone, where it has an instruction for them (`vpmullq`) or for
/// tiles of bytes (`tdpbuud`). No product of matrices is faster that makes a multiplication for each multiply-add; Winograd's inner
/// product makes half of them, but starts as many instructions, and a smaller modulus needs fewer products of bytes.
pub fn multiply_peak(cpu: &Cpu) -> Option<f64> {
    const ROUNDS: usize = 100_000;
    let products = cpu.multiply_registers(ROUNDS)?;
    Some(products as f64 / fastest(|| cpu.multiply_registers(ROUNDS)))
}

/// Multiply-adds a second of [rows × inputs] · [inputs × outputs], modulo 2^bits.
pub fn products(device: &Device, [rows, inputs, outputs]: [usize; 3], bits: u32) -> f64 {
    let w = Matrix::new(&words(device, inputs * outputs), outputs, inputs);
    let x = words(device, rows * inputs);
    (rows * inputs * outputs) as f64 / fastest(|| one(&w.apply_low(&x, bits)))
}

/// Bytes a second of memory that is read once, from start to end, and added up.
pub fn reading(device: &Device) -> f64 {
    let [inputs, outputs] = LARGE;
    let all = words(device, inputs * outputs);
    bytes(inputs * outputs) / fastest(|| one(&all.sum_rows(inputs)))
}

/// Bytes a second of weights that `rows` rows are multiplied with.
pub fn weights(device: &Device, rows: usize) -> f64 {
    let [inputs, outputs] = LARGE;
    products(device, [rows, inputs, outputs], 64) / rows as f64 * 8.0
}

/// Bytes a second of ChaCha12, `n` words at a time.
pub fn random(device: &Device, n: usize) -> f64 {
    bytes(n) / fastest(|| one(&words(device, n)))
}

/// Work is queued on some devices: it is done once a word of the result is back.
fn one(words: &Words) -> Vec<u64> {
    words.slice(0..1).to_vec()
}

/// Reproducible words to measure with; no secrets.
fn words(device: &Device, n: usize) -> Words {
    Words::chacha12(device, &[7; 32], n as u64, n, 64)
}

fn bytes(words: usize) -> f64 {
    8.0 * words as f64
}
