//! Rotary position embedding as a public linear map on columns: y = x·cos + partner(x)·sin.

use crate::checkpoint::Rotary;
use kernels::{Device, Words};

/// Fractional bits of the integers that stand for sines and cosines.
pub const ANGLE_SCALE: u32 = 15;

/// The rotation of a block of rows. Columns beyond the rotated heads pass unchanged.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Rows and columns.
    pub rows: usize,
    /// Columns of a row.
    pub cols: usize,
    /// Element that each element is paired with.
    pub partner: Vec<u32>,
    /// Factor of the element.
    pub cos: Vec<f64>,
    /// Factor of its partner (signed).
    pub sin: Vec<f64>,
}

impl Rotation {
    /// For tokens at `positions`, one a row, in a matrix of `cols` columns, of which the leading `rotated` belong to query
    /// and key heads of `head_dim` columns.
    pub fn new(spec: &Rotary, head_dim: usize, rotated: usize, positions: &[usize], cols: usize) -> Rotation {
        let (d, half, rows) = (head_dim, head_dim / 2, positions.len());
        let n = rows * cols;
        let (mut partner, mut cos, mut sin) =
            (Vec::with_capacity(n), Vec::with_capacity(n), Vec::with_capacity(n));
        for (t, &position) in positions.iter().enumerate() {
            for c in 0..cols {
                let at = t * cols + c;
                if c >= rotated {
                    partner.push(at as u32);
                    cos.push(1.0);
                    sin.push(0.0);
                    continue;
                }
                let j = c % d;
                let (pair, first_of_pair, other) = if spec.interleaved {
                    (j / 2, j % 2 == 0, if j % 2 == 0 { at + 1 } else { at - 1 })
                } else {
                    (j % half, j < half, if j < half { at + half } else { at - half })
                };
                let factor = spec.factors.get(pair).copied().unwrap_or(1.0);
                let angle = position as f64 * libm::pow(spec.base, -2.0 * pair as f64 / d as f64) / factor;
                partner.push(other as u32);
                cos.push(libm::cos(angle));
                sin.push(if first_of_pair { -libm::sin(angle) } else { libm::sin(angle) });
            }
        }
        Rotation { rows, cols, partner, cos, sin }
    }

    /// The integer form, with ANGLE_SCALE more fractional bits in the result.
    pub fn apply(&self, device: &Device, x: &Words) -> Words {
        let fixed = |v: &[f64]| {
            let unit = f64::from(1u32 << ANGLE_SCALE);
            Words::upload(device, v.iter().map(|f| (f * unit).round() as i64 as u64).collect())
        };
        x * &fixed(&self.cos) + x.gather(&self.partner) * fixed(&self.sin)
    }
}
