//! Weights as ring elements.

use crate::algebra::SCALE;

/// Fixed-point integers of folded weights.
pub fn encode(weights: &[f32]) -> Vec<u64> {
    weights.iter().map(|&w| (f64::from(w) * f64::from(1u32 << SCALE)).round() as i64 as u64).collect()
}
