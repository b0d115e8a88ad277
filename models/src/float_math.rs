//! Plain f32 arithmetic on row-major matrices: what the float reading of a model is made of.
//!
//! Lengths that do not fit together are programming errors and panic.

use rayon::prelude::*;

/// Columns of the result that one task computes. Fixed, so that results do not depend on the
/// number of threads.
const CHUNK: usize = 256;
/// Up to this many rows, dot products beat a blocked product, which first copies all of `w`.
const FEW_ROWS: usize = 4;

/// `x · wᵀ`: `x` is `[m][k]`, `w` is `[n][k]` (a layer's weights, one row per output), the result
/// `[m][n]`.
pub fn matmul_t(x: &[f32], m: usize, k: usize, w: &[f32], n: usize) -> Vec<f32> {
    assert_eq!(x.len(), m * k, "x is not [{m}][{k}]");
    assert_eq!(w.len(), n * k, "w is not [{n}][{k}]");
    let mut out = vec![0.0; m * n];
    if m == 0 || n == 0 || k == 0 {
        return out;
    }
    if m <= FEW_ROWS {
        for (x, out) in x.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
            out.par_chunks_mut(CHUNK).zip(w.par_chunks(CHUNK * k)).for_each(|(out, w)| {
                for (out, row) in out.iter_mut().zip(w.chunks_exact(k)) {
                    *out = dot(x, row);
                }
            });
        }
        return out;
    }
    let blocks: Vec<Vec<f32>> =
        w.par_chunks(CHUNK * k).map(|w| block_matmul_t(x, m, k, w, w.len() / k)).collect();
    for (column, block) in (0..n).step_by(CHUNK).zip(&blocks) {
        let width = block.len() / m;
        for (out, row) in out.chunks_exact_mut(n).zip(block.chunks_exact(width)) {
            out[column..column + width].copy_from_slice(row);
        }
    }
    out
}

fn block_matmul_t(x: &[f32], m: usize, k: usize, w: &[f32], n: usize) -> Vec<f32> {
    assert!(x.len() == m * k && w.len() == n * k);
    let mut out = vec![0.0f32; m * n];
    // SAFETY: with these strides the product reads x[i*k + p] and w[j*k + p] and writes out[i*n + j]
    // for i < m, j < n, p < k, which the lengths asserted above cover; `out` is not aliased.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            x.as_ptr(),
            k as isize,
            1,
            w.as_ptr(),
            1,
            k as isize,
            0.0,
            out.as_mut_ptr(),
            n as isize,
            1,
        );
    }
    out
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (a_body, a_tail) = a.as_chunks::<LANES>();
    let (b_body, b_tail) = b.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for (a, b) in a_body.iter().zip(b_body) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + tail
}

/// Root-mean-square norm of every row: `x / sqrt(mean(x²) + eps) · gain`. Rows are as long as `gain`.
pub fn rms_norm(x: &[f32], gain: &[f32], eps: f64) -> Vec<f32> {
    assert!(!gain.is_empty() && x.len().is_multiple_of(gain.len()), "x has no rows of {}", gain.len());
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(gain.len()) {
        let square: f64 = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        let scale = (square / gain.len() as f64 + eps).sqrt().recip() as f32;
        out.extend(row.iter().zip(gain).map(|(v, g)| v * scale * g));
    }
    out
}

/// Rotary position embedding, in place. `x` is `[positions][heads][head_dim]`, its first row at
/// `first_position`; pair `i` turns by `position · base^(-2i/head_dim)` and consists of elements
/// (2i, 2i+1) if `interleaved`, else (i, i + head_dim/2).
pub fn rope(
    x: &mut [f32],
    heads: usize,
    head_dim: usize,
    first_position: usize,
    base: f64,
    interleaved: bool,
) {
    let half = head_dim / 2;
    let row = heads * head_dim;
    assert!(
        row > 0 && head_dim.is_multiple_of(2) && x.len().is_multiple_of(row),
        "x is not [..][{heads}][{head_dim}]"
    );
    for (offset, row) in x.chunks_exact_mut(row).enumerate() {
        let position = (first_position + offset) as f64;
        for i in 0..half {
            let angle = position * base.powf(-2.0 * i as f64 / head_dim as f64);
            let (sin, cos) = angle.sin_cos();
            let (sin, cos) = (sin as f32, cos as f32);
            let (one, two) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
            for head in row.chunks_exact_mut(head_dim) {
                let (a, b) = (head[one], head[two]);
                head[one] = a * cos - b * sin;
                head[two] = a * sin + b * cos;
            }
        }
    }
}

/// `x · sigmoid(x)`.
pub fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// `x · Φ(x)`.
pub fn gelu(x: f32) -> f32 {
    let x = f64::from(x);
    (0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)) as f32
}

/// The tanh approximation of [`gelu`].
pub fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
    let x = f64::from(x);
    (0.5 * x * (1.0 + libm::tanh(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)))) as f32
}

/// Softmax of every row of length `columns`, in place. An element at minus infinity gets 0; a row
/// must have at least one that is not.
pub fn softmax_rows(x: &mut [f32], columns: usize) {
    assert!(columns > 0 && x.len().is_multiple_of(columns), "x has no rows of {columns}");
    for row in x.chunks_exact_mut(columns) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0f64;
        for v in row.iter_mut() {
            *v = (*v - max).exp();
            sum += f64::from(*v);
        }
        let scale = sum.recip() as f32;
        row.iter_mut().for_each(|v| *v *= scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn products_of_many_shapes() {
        for (m, k, n) in
            [(1, 1, 1), (1, 576, 700), (2, 33, 257), (4, 17, 256), (5, 64, 1), (7, 100, 515), (40, 3, 300)]
        {
            let (x, w) = (numbers(m * k, 1), numbers(n * k, 2));
            let found = matmul_t(&x, m, k, &w, n);
            for i in 0..m {
                for j in 0..n {
                    let exact: f64 = (0..k).map(|p| f64::from(x[i * k + p]) * f64::from(w[j * k + p])).sum();
                    let error = (f64::from(found[i * n + j]) - exact).abs();
                    assert!(error < 1e-6 * (k as f64).max(8.0), "{m} {k} {n} at {i} {j}: {error}");
                }
            }
        }
        assert!(matmul_t(&[], 0, 4, &[0.0; 8], 2).is_empty());
        assert_eq!(matmul_t(&[], 3, 0, &[], 2), [0.0; 6]);
    }

    #[test]
    fn norm() {
        let out = rms_norm(&[3.0, 4.0, 0.0, 0.0], &[1.0, 2.0], 0.0625);
        let scale = 1.0 / (12.5f32 + 0.0625).sqrt();
        assert!((out[0] - 3.0 * scale).abs() < 1e-6 && (out[1] - 8.0 * scale).abs() < 1e-6);
        assert_eq!(out[2..], [0.0, 0.0]);
    }

    #[test]
    fn rotation() {
        // At position 1, pair 0 turns by 1 radian, pair 1 by 100^(-2/4) = 0.1.
        let start = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0];
        let mut x = start;
        rope(&mut x, 1, 4, 0, 100.0, true);
        assert_eq!(x[..4], start[..4]);
        let (s0, c0) = 1f32.sin_cos();
        let (s1, c1) = 0.1f32.sin_cos();
        let close = |a: &[f32], b: [f32; 4]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(&x[4..], [c0, s0, -s1, c1]), "{x:?}");
        let mut x = start;
        rope(&mut x[4..], 1, 4, 1, 100.0, false);
        assert!(close(&x[4..], [c0, -s1, s0, c1]), "{x:?}");

        // Two heads turn alike; the half-split rule is the interleaved one on permuted elements.
        let split = numbers(2 * 2 * 8, 3);
        let place = |j: usize| j / 8 * 8 + j % 2 * 4 + j % 8 / 2;
        let mut interleaved: Vec<f32> = (0..split.len()).map(|j| split[place(j)]).collect();
        let mut half = split.clone();
        rope(&mut interleaved, 2, 8, 5, 1e4, true);
        rope(&mut half, 2, 8, 5, 1e4, false);
        assert!((0..half.len()).all(|j| interleaved[j] == half[place(j)]));
    }

    #[test]
    fn activation_and_softmax() {
        assert_eq!(silu(0.0), 0.0);
        assert!((silu(1.0) - 0.731_058_6).abs() < 1e-6);
        assert_eq!(silu(-200.0), 0.0);
        let mut x = [0.0, 2f32.ln(), 1000.0, f32::NEG_INFINITY];
        softmax_rows(&mut x, 2);
        assert!((x[0] - 1.0 / 3.0).abs() < 1e-6 && (x[1] - 2.0 / 3.0).abs() < 1e-6);
        assert_eq!(x[2..], [1.0, 0.0]);
    }
}
