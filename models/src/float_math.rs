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

/// Divided by its length.
pub fn normalised(mut v: Vec<f32>) -> Vec<f32> {
    let length = v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    v.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    v
}

/// Softmax, in place.
pub fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    x.iter_mut().for_each(|v| *v = (*v - max).exp());
    let sum: f64 = x.iter().map(|v| f64::from(*v)).sum();
    x.iter_mut().for_each(|v| *v = (f64::from(*v) / sum) as f32);
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
    fn activation_and_softmax() {
        assert_eq!(silu(0.0), 0.0);
        assert!((silu(1.0) - 0.731_058_6).abs() < 1e-6);
        assert_eq!(silu(-200.0), 0.0);
        // Φ(1) = 0.841344746.
        assert!((gelu(1.0) - 0.841_344_7).abs() < 1e-6 && (gelu(-1.0) + 0.158_655_25).abs() < 1e-6);
        assert!((gelu_tanh(1.0) - 0.841_192).abs() < 1e-6 && gelu_tanh(-20.0).abs() < 1e-6);
        assert_eq!(normalised(vec![3.0, -4.0]), [0.6, -0.8]);
        let mut x = [1000.0, 1000.0 + 2f32.ln(), f32::NEG_INFINITY];
        softmax(&mut x);
        assert!((x[0] - 1.0 / 3.0).abs() < 1e-4 && (x[1] - 2.0 / 3.0).abs() < 1e-4 && x[2] == 0.0);
    }
}
