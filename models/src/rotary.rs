//! Rotary position embedding as a public linear map on columns: y = x·cos + partner(x)·sin.

use crate::checkpoint::Rotary;
use kernels::{Device, Indices, Words};
use std::sync::{Arc, Mutex};

/// Fractional bits of the integers that stand for sines and cosines.
pub const ANGLE_SCALE: u32 = 15;

/// The rotation of a block of rows. Columns beyond the rotated heads pass unchanged.
#[derive(Debug)]
pub struct Rotation {
    /// Rows and columns.
    pub rows: usize,
    /// Columns of a row.
    pub cols: usize,
    /// Element that each element is paired with.
    pub partner: Indices,
    /// Factor of the element.
    pub cos: Vec<f64>,
    /// Factor of its partner (signed).
    pub sin: Vec<f64>,
    /// Both factors as integers, on the device that used them last: all layers of a pass take the same ones.
    fixed: Mutex<Option<Arc<[Words; 2]>>>,
}

impl Rotation {
    /// For tokens at `positions`, one a row, in a matrix of `cols` columns, of which the leading `rotated` belong to query
    /// and key heads of `head_dim` columns.
    pub fn new(spec: &Rotary, head_dim: usize, rotated: usize, positions: &[usize], cols: usize) -> Rotation {
        let (d, half, rows) = (head_dim, head_dim / 2, positions.len());
        let n = rows * cols;
        let (mut partner, mut cos, mut sin) =
            (Vec::with_capacity(n), Vec::with_capacity(n), Vec::with_capacity(n));
        let speed = |pair: usize| libm::pow(spec.base, -2.0 * pair as f64 / d as f64);
        let speeds: Vec<f64> = (0..half).map(speed).collect();
        for (t, &position) in positions.iter().enumerate() {
            let turn = |pair: usize| {
                let angle = position as f64 * speeds[pair] / spec.factors.get(pair).copied().unwrap_or(1.0);
                (libm::cos(angle), libm::sin(angle))
            };
            let turns: Vec<(f64, f64)> = (0..half).map(turn).collect();
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
                partner.push(other as u32);
                cos.push(turns[pair].0);
                sin.push(if first_of_pair { -turns[pair].1 } else { turns[pair].1 });
            }
        }
        Rotation { rows, cols, partner: partner.into(), cos, sin, fixed: Mutex::default() }
    }

    /// The integer form, with ANGLE_SCALE more fractional bits in the result.
    pub fn apply(&self, device: &Device, x: &Words) -> Words {
        let [cos, sin] = &*self.fixed(device);
        let inputs = [x.into(), cos.into(), x.at(&self.partner), sin.into()];
        Words::formula(inputs, |[x, cos, partner, sin]| x * cos + partner * sin)
    }

    /// The factors on a device.
    fn fixed(&self, device: &Device) -> Arc<[Words; 2]> {
        let mut fixed = self.fixed.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(there) = fixed.as_ref().filter(|words| Arc::ptr_eq(words[0].device(), device)) {
            return there.clone();
        }
        let unit = f64::from(1u32 << ANGLE_SCALE);
        let integers = |v: &[f64]| v.iter().map(|f| (f * unit).round() as i64 as u64).collect();
        let made = Arc::new([&self.cos, &self.sin].map(|v| Words::upload(device, integers(v))));
        // What there was no memory for has no content, and is not kept.
        if device.status().is_ok() {
            *fixed = Some(made.clone());
        }
        made
    }
}
