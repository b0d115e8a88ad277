//! The public numbers of a shared model: which range every gate covers. They come from bounds that hold for every
//! input where such a bound fits a gate, and from watching the model on sample text, with a margin, where not.
//! They say nothing about any client's input.

mod function;

pub use function::{FACTOR_SCALE, FunctionTable, GatedTable, Pieces, Polynomials, Step, TablePlan, function};

use crate::algebra::SCALE;
use crate::checkpoint::{Family, Head, ModelConfig};
use crate::float::norm_kind;
use crate::model::{ActivationId, NormId};
use crate::parameter::Parameter;
use kernels::{Device, Ring};
use protocol::gates::choice::SampleTables;
use protocol::gates::max::Levels;
use protocol::gates::norm::{NormKind, NormTable, dropped};
use protocol::gates::product::factor_bits;
use protocol::gates::softmax::SoftmaxTables;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Version of gates, scales, streams and message order. Parties that differ in it must not compute together.
pub const PROGRAM_VERSION: u32 = 8;

/// Mean squares (variances) a norm covers.
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
    /// Norm of the attention block.
    pub attention_norm: NormRange,
    /// Norm of the feed-forward block.
    pub feed_forward_norm: NormRange,
    /// Buckets of the coarse maximum, 64 or 128.
    pub score_buckets: usize,
    /// Function of the feed-forward block.
    pub activation: TablePlan,
    /// Bits of the outputs of the attention block's last matrix and of the feed-forward block's, at the double scale and
    /// with the residuals beside them: see [`Linear::bits`](crate::algebra::Linear::bits).
    pub output_bits: [u32; 2],
}

/// Outputs of so many bits are multiplied fastest: products of factors take one more.
pub(crate) const LOW_BITS: u32 = 51;
/// What is known of any product with weights.
pub(crate) const PRODUCT_BITS: u32 = factor_bits(Ring::Z64.bits());

/// What a bound on outputs leaves out where values leave the ranges of other gates: a norm's rows get up to √8 times longer
/// before it wraps, a table's last entry reaches beyond its range. There the ring must not be what fails first.
const SPARE: f64 = 4.0;

/// The bits for outputs of a matrix, at the double scale, that are below `bound` for every input whose norms and scores are in
/// range: as few as are faster, if that leaves four times as much, or all.
pub(crate) fn output_bits(bound: f64) -> u32 {
    if SPARE * bound < output_limit(LOW_BITS) { LOW_BITS } else { PRODUCT_BITS }
}

/// Outputs at the double scale that are within ±limit have so many bits.
pub(crate) fn output_limit(bits: u32) -> f64 {
    2f64.powi(bits as i32 - 2 - 2 * SCALE as i32)
}

/// A model's ranges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Longest sequence the tables are made for.
    pub longest: usize,
    /// Layer by layer.
    pub layers: Vec<LayerPlan>,
    /// Norm of the embeddings (BERT), or before the output layer (decoders).
    pub outer_norm: NormRange,
    /// tanh of a classifier's pooler.
    pub pooler: Option<TablePlan>,
    /// Largest output score.
    pub scores: f64,
}

/// A layer's tables on a device.
#[derive(Clone)]
pub struct LayerTables {
    attention_norm: Arc<NormTable>,
    feed_forward_norm: Arc<NormTable>,
    softmax: Arc<SoftmaxTables>,
    activation: Arc<FunctionTable>,
    output_bits: [u32; 2],
}

/// A model's tables on a device. Layers with equal parameters share them.
#[derive(Clone)]
pub struct PlanTables {
    layers: Vec<LayerTables>,
    outer_norm: Arc<NormTable>,
    pooler: Option<Arc<FunctionTable>>,
    /// For choosing tokens.
    pub sampling: Arc<SampleTables>,
}

impl NormRange {
    /// Checks that the gate of rows of `d` elements covers it, with a relative error below 10^−3.
    ///
    /// # Errors
    /// Says why not.
    pub fn validate(&self, kind: NormKind, d: usize) -> Result<(), String> {
        let d = d as f64;
        let per = match kind {
            NormKind::Rms => d,
            NormKind::Layer => d * d,
        };
        let refuse = |what| Err(format!("mean squares from {} to {} are {what}", self.low, self.high));
        if !(1e-9 < self.low && self.low < self.high && self.high.is_finite()) {
            return refuse("no range");
        }
        let bits = (self.high * per).log2() + 2.0 * f64::from(SCALE);
        if bits >= 76.0 {
            return refuse("too large for the ring");
        }
        let (input_drop, statistic_drop) = dropped(self.high * per, SCALE);
        // The smallest mean square in units of shortened inputs, each of which errs by a part of a unit.
        let square = self.low * 2f64.powi(2 * (SCALE as i32 - input_drop as i32));
        let inputs = input_drop == 0 || square >= 256.0 && square * d >= 2f64.powi(20);
        if inputs && square * per >= 2f64.powi(statistic_drop as i32 + 10) {
            Ok(())
        } else {
            refuse("too far apart for one gate")
        }
    }
}

impl Plan {
    /// Ranges that are usual for trained models, to compute costs where there are no weights.
    pub fn typical(c: &ModelConfig) -> Plan {
        let norm = NormRange { low: 2f64.powi(-6), high: 2f64.powi(10) };
        let activation = match c.family {
            Family::Llama => TablePlan::covering(4, Step::Gated, Some(11)),
            _ => TablePlan::covering(4, Step::Activation, None),
        };
        // As is usual for trained models; for gated products, whose table allows larger ones, it is not.
        let [o, down] = [LOW_BITS, if c.family == Family::Llama { PRODUCT_BITS } else { LOW_BITS }];
        let layer = LayerPlan {
            attention_norm: norm,
            feed_forward_norm: norm,
            score_buckets: 64,
            activation,
            output_bits: [o, down],
        };
        let classifier = matches!(c.head, Head::Classifier { .. });
        Plan {
            longest: c.context.min(4096),
            layers: vec![layer; c.layers],
            outer_norm: norm,
            pooler: classifier.then_some(TablePlan::covering(3, Step::Pooler, None)),
            scores: 100.0,
        }
    }

    /// Checks numbers that came from outside.
    ///
    /// # Errors
    /// Says which does not fit the model, or the gates.
    pub fn validate(&self, c: &ModelConfig) -> Result<(), String> {
        let kind = norm_kind(c.family);
        let norm =
            |r: &NormRange, what: &str| r.validate(kind, c.d_model).map_err(|e| format!("{what}: {e}"));
        if self.layers.len() != c.layers {
            return Err(format!("a plan for {} layers, a model of {}", self.layers.len(), c.layers));
        }
        if !(1..=1 << 16).contains(&self.longest) || self.longest > c.context {
            return Err(format!("longest sequence {}, context {}", self.longest, c.context));
        }
        if self.pooler.is_some() != matches!(c.head, Head::Classifier { .. }) {
            return Err("a pooler's table belongs to a classifier".into());
        }
        if !(self.scores > 0.0 && self.scores < 32768.0) {
            return Err(format!("output scores up to {}", self.scores));
        }
        norm(&self.outer_norm, "outer norm")?;
        self.pooler.map_or(Ok(()), |p| p.validate(false).map_err(|e| format!("pooler: {e}")))?;
        for (i, l) in self.layers.iter().enumerate() {
            norm(&l.attention_norm, &format!("layer {i}, attention norm"))?;
            norm(&l.feed_forward_norm, &format!("layer {i}, feed-forward norm"))?;
            l.activation.validate(c.family == Family::Llama).map_err(|e| format!("layer {i}: {e}"))?;
            if ![64, 128].contains(&l.score_buckets) {
                return Err(format!("layer {i}: {} buckets of scores", l.score_buckets));
            }
            if l.output_bits.iter().any(|bits| ![LOW_BITS, PRODUCT_BITS].contains(bits)) {
                return Err(format!("layer {i}: outputs of {:?} bits", l.output_bits));
            }
        }
        Ok(())
    }

    /// Builds all tables.
    pub fn tables(&self, device: &Device, c: &ModelConfig) -> PlanTables {
        let kind = norm_kind(c.family);
        let mut norms = vec![];
        let mut norm = |r: NormRange| {
            cached(&mut norms, r, |r| {
                NormTable::new(device, kind, c.d_model, SCALE, c.norm_eps, r.low, r.high)
            })
        };
        let (mut softmaxes, mut activations) = (vec![], vec![]);
        let layers = self
            .layers
            .iter()
            .map(|l| LayerTables {
                attention_norm: norm(l.attention_norm),
                feed_forward_norm: norm(l.feed_forward_norm),
                softmax: cached(&mut softmaxes, l.score_buckets, |b| {
                    SoftmaxTables::new(device, SCALE, Levels::new(b), self.longest)
                }),
                activation: cached(&mut activations, l.activation, |a| {
                    a.table(device, function(c.activation))
                }),
                output_bits: l.output_bits,
            })
            .collect();
        let pooler = self.pooler.map(|p| Arc::new(p.table(device, libm::tanh)));
        let sampling = Arc::new(SampleTables::new(device));
        PlanTables { layers, outer_norm: norm(self.outer_norm), pooler, sampling }
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
    /// A norm's tables.
    pub fn norm(&self, n: NormId) -> Arc<NormTable> {
        match n {
            NormId::Outer => self.outer_norm.clone(),
            NormId::Attention(i) => self.layers[i].attention_norm.clone(),
            NormId::FeedForward(i) => self.layers[i].feed_forward_norm.clone(),
        }
    }

    /// Bits of the outputs of a weight matrix.
    pub fn bits(&self, p: Parameter) -> u32 {
        match p {
            Parameter::O(i) => self.layers[i].output_bits[0],
            Parameter::Down(i) => self.layers[i].output_bits[1],
            _ => PRODUCT_BITS,
        }
    }

    /// A layer's softmax tables.
    pub fn softmax(&self, layer: usize) -> Arc<SoftmaxTables> {
        self.layers[layer].softmax.clone()
    }

    /// A function's table.
    ///
    /// # Panics
    /// For the pooler of a model without one; plans are validated.
    pub fn activation(&self, a: ActivationId) -> Arc<FunctionTable> {
        match a {
            ActivationId::Layer(i) => self.layers[i].activation.clone(),
            ActivationId::Pooler => self.pooler.clone().expect("a validated plan has the pooler's table"),
        }
    }

    /// Bytes of all tables on a device, those that layers share counted once.
    pub fn bytes(&self) -> u64 {
        let mut seen: Vec<*const ()> = vec![];
        let mut once = |at: *const (), words: usize| {
            let new = !seen.contains(&at);
            seen.extend(new.then_some(at));
            if new { words } else { 0 }
        };
        let mut words = self.sampling.words().count();
        let norms = self.layers.iter().flat_map(|l| [&l.attention_norm, &l.feed_forward_norm]);
        for norm in norms.chain([&self.outer_norm]) {
            words += once(Arc::as_ptr(norm).cast(), norm.words().count());
        }
        for l in &self.layers {
            words += once(Arc::as_ptr(&l.softmax).cast(), l.softmax.words().count());
        }
        for function in self.layers.iter().map(|l| &l.activation).chain(&self.pooler) {
            words += once(Arc::as_ptr(function).cast(), function.words().count());
        }
        8 * words as u64
    }

    /// What parties compare before they compute together: program version, model, plan and every table entry.
    pub fn digest(&self, config: &ModelConfig, plan: &Plan) -> [u8; 32] {
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
                .chain(l.activation.words());
            words.for_each(|w| h.update(w.to_le_bytes()));
        }
        let pooler = self.pooler.iter().flat_map(|p| p.words());
        self.outer_norm
            .words()
            .chain(pooler)
            .chain(self.sampling.words())
            .for_each(|w| h.update(w.to_le_bytes()));
        h.finalize().into()
    }
}
