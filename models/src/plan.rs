//! The public numbers of a shared model: which range every gate covers. They come from bounds that hold for every
//! input where such a bound fits a gate, and from watching the model on sample text, with a margin, where not.
//! They say nothing about any client's input.

use crate::algebra::SCALE;
use crate::checkpoint::LlamaConfig;
use kernels::Device;
use protocol::gates::max::Levels;
use protocol::gates::norm::{NormKind, NormTable};
use protocol::gates::softmax::SoftmaxTables;
use protocol::gates::table::{Table, TableSpec, silu};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Version of gates, scales and message order. Parties that differ in it must not compute together.
pub const PROGRAM_VERSION: u32 = 1;

/// Mean squares a norm covers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NormRange {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A layer's ranges.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerPlan {
    /// Norm before attention.
    pub attention_norm: NormRange,
    /// Norm before the feed-forward block.
    pub feed_forward_norm: NormRange,
    /// Buckets of the coarse maximum, 64 or 128.
    pub score_buckets: usize,
    /// The gate's table covers ±2^gate_range_log2.
    pub gate_range_log2: u32,
    /// With 2^gate_entries_log2 entries.
    pub gate_entries_log2: u32,
    /// And slopes of this many fractional bits (fewer where gate·up is large).
    pub gate_slope_scale: u32,
}

/// A model's ranges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Longest sequence the tables are made for.
    pub longest: usize,
    /// Layer by layer.
    pub layers: Vec<LayerPlan>,
    /// Last norm.
    pub final_norm: NormRange,
}

/// Table of a gated activation with its parameters.
#[derive(Clone, Debug)]
pub struct GateTable {
    /// SiLU.
    pub table: Table,
}

/// A layer's tables on a device.
#[derive(Clone)]
pub struct LayerTables {
    /// Norm before attention.
    pub attention_norm: Arc<NormTable>,
    /// Norm before the feed-forward block.
    pub feed_forward_norm: Arc<NormTable>,
    /// Softmax.
    pub softmax: Arc<SoftmaxTables>,
    /// Gated activation.
    pub gate: Arc<GateTable>,
}

/// A model's tables on a device. Layers with equal parameters share them.
#[derive(Clone)]
pub struct PlanTables {
    /// Layer by layer.
    pub layers: Vec<LayerTables>,
    /// Last norm.
    pub final_norm: Arc<NormTable>,
}

impl Plan {
    /// Checks numbers that came from outside.
    pub fn validate(&self, c: &LlamaConfig) -> Result<(), String> {
        let norm = |r: &NormRange, what: &str| {
            // The statistic of a row must fit the ring with its lowest bits dropped, see `NormTable`.
            let bits = (r.high * c.d_model as f64).log2() + 2.0 * f64::from(SCALE);
            if r.low.is_finite() && r.high.is_finite() && 1e-9 < r.low && r.low < r.high && bits < 76.0 {
                Ok(())
            } else {
                Err(format!("{what}: impossible range {}..{}", r.low, r.high))
            }
        };
        if self.layers.len() != c.layers {
            return Err(format!("a plan for {} layers, a model of {}", self.layers.len(), c.layers));
        }
        if !(1..=1 << 16).contains(&self.longest) {
            return Err(format!("longest sequence {} outside 1..65536", self.longest));
        }
        norm(&self.final_norm, "final norm")?;
        for (i, l) in self.layers.iter().enumerate() {
            norm(&l.attention_norm, &format!("layer {i}, attention norm"))?;
            norm(&l.feed_forward_norm, &format!("layer {i}, feed-forward norm"))?;
            let gate = (1..=8).contains(&l.gate_range_log2)
                && (4..=12).contains(&l.gate_entries_log2)
                && (4..=20).contains(&l.gate_slope_scale);
            if !gate || ![64, 128].contains(&l.score_buckets) {
                return Err(format!("layer {i}: impossible table parameters {l:?}"));
            }
        }
        Ok(())
    }

    /// Builds all tables.
    pub fn tables(&self, device: &Device, c: &LlamaConfig) -> PlanTables {
        let mut norms: Vec<(NormRange, Arc<NormTable>)> = vec![];
        let mut norm = |r: NormRange| match norms.iter().find(|(k, _)| *k == r) {
            Some((_, t)) => t.clone(),
            None => {
                let t = NormTable::new(device, NormKind::Rms, c.d_model, SCALE, c.rms_eps, r.low, r.high);
                norms.push((r, Arc::new(t)));
                norms[norms.len() - 1].1.clone()
            }
        };
        let mut softmaxes: Vec<(usize, Arc<SoftmaxTables>)> = vec![];
        let mut gates: Vec<([u32; 3], Arc<GateTable>)> = vec![];
        let layers = self
            .layers
            .iter()
            .map(|l| LayerTables {
                attention_norm: norm(l.attention_norm),
                feed_forward_norm: norm(l.feed_forward_norm),
                softmax: cached(&mut softmaxes, l.score_buckets, |b| {
                    SoftmaxTables::new(device, 2 * SCALE, Levels::new(b), self.longest)
                }),
                gate: cached(
                    &mut gates,
                    [l.gate_range_log2, l.gate_entries_log2, l.gate_slope_scale],
                    |[r, e, s]| GateTable {
                        table: Table::new(device, TableSpec::symmetric(r, e, SCALE, s), silu),
                    },
                ),
            })
            .collect();
        PlanTables { layers, final_norm: norm(self.final_norm) }
    }
}

fn cached<K: PartialEq + Copy, T>(all: &mut Vec<(K, Arc<T>)>, key: K, make: impl FnOnce(K) -> T) -> Arc<T> {
    if let Some((_, t)) = all.iter().find(|(k, _)| *k == key) {
        return t.clone();
    }
    let t = Arc::new(make(key));
    all.push((key, t.clone()));
    t
}

impl PlanTables {
    /// What parties compare before they compute together: program version, model, plan and every table entry.
    pub fn digest(&self, config: &LlamaConfig, plan: &Plan) -> [u8; 32] {
        let mut h = Sha256::new();
        h.update(b"catamount program");
        h.update(PROGRAM_VERSION.to_le_bytes());
        h.update(format!("{config:?}{plan:?}"));
        for l in &self.layers {
            let words = l
                .attention_norm
                .words()
                .chain(l.feed_forward_norm.words())
                .chain(l.softmax.words())
                .chain(l.gate.table.words());
            words.for_each(|w| h.update(w.to_le_bytes()));
        }
        self.final_norm.words().for_each(|w| h.update(w.to_le_bytes()));
        h.finalize().into()
    }
}
