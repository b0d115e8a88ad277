//! The same integers, scales and tables in the clear. The secure reading must equal this one up to roundings: here
//! every truncation rounds to the nearest (there it does on average), every look-up reads the lower entry, every
//! maximum falls in its lower bucket.
//! A value outside a gate's range is an error that names the gate.

use crate::algebra::{Algebra, ByRows, Linear, SCALE, Scored, VALUE_SCALE, Values};
use crate::attention::{AttentionShape, Block};
use crate::checkpoint::{CheckpointError, TensorSource};
use crate::folded::{Folding, ParameterSource};
use crate::model::{ActivationId, Model, NormId, Parts};
use crate::parameter::Parameter;
use crate::plan::{FACTOR_SCALE, FunctionTable, PRODUCT_BITS, PlanTables};
use crate::rotary::{ANGLE_SCALE, Rotation};
use kernels::{Device, Matrix, Ring, Words};
use protocol::gates::exp::{BUCKET_LOG2, OUT_SCALE};
use protocol::gates::norm::NormTable;
use protocol::gates::softmax::{EXP_SCALE, RECIPROCAL_SCALE, SoftmaxTables};
use protocol::gates::truncate;
use protocol::{Error, Result};
use std::sync::Arc;

/// A matrix of ring elements in the clear.
#[derive(Clone, Debug)]
pub struct Ints {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Row-major.
    pub data: Vec<u64>,
}

impl Ints {
    fn new(rows: usize, cols: usize, data: Vec<u64>) -> Ints {
        assert_eq!(data.len(), rows * cols, "matrix size");
        Ints { rows, cols, data }
    }

    fn columns(&self, from: usize, to: usize) -> Ints {
        let data = self.data.chunks_exact(self.cols).flat_map(|r| &r[from..to]).copied().collect();
        Ints::new(self.rows, to - from, data)
    }
}

impl ByRows for Ints {
    fn rows(&self, from: usize, to: usize) -> Ints {
        Ints::new(to - from, self.cols, self.data[from * self.cols..to * self.cols].to_vec())
    }

    fn below(&self, above: Option<&Ints>) -> Ints {
        let mut all = above.map(|a| a.data.clone()).unwrap_or_default();
        all.extend(&self.data);
        Ints::new(all.len() / self.cols, self.cols, all)
    }
}

/// The reading.
#[derive(Clone)]
pub struct Clear {
    device: Device,
    path: String,
}

impl Clear {
    /// On a device.
    pub fn new(device: &Device) -> Clear {
        Clear { device: device.clone(), path: String::new() }
    }

    /// Loads a model for this reading.
    ///
    /// # Errors
    /// The checkpoint is unusable.
    pub fn load(
        device: &Device,
        source: &mut dyn TensorSource,
        tables: &PlanTables,
    ) -> std::result::Result<Model<Clear>, CheckpointError> {
        Clear::read(device, &mut Folding(source), tables)
    }

    /// As [`Clear::load`], from folded parameters.
    ///
    /// # Errors
    /// They are unusable.
    pub fn read(
        device: &Device,
        source: &mut dyn ParameterSource,
        tables: &PlanTables,
    ) -> std::result::Result<Model<Clear>, CheckpointError> {
        let config = source.config().clone();
        Model::build(&config, &mut ClearParts { device, source, tables })
    }

    /// Fails if a value (at `scale`) is outside [low, high).
    fn check(&self, gate: &str, values: &[u64], scale: u32, low: f64, high: f64) -> Result<()> {
        let unit = 2f64.powi(scale as i32);
        match values.iter().map(|&v| v as i64 as f64 / unit).find(|v| !(low..high).contains(v)) {
            None => Ok(()),
            Some(value) => Err(Error::Range { scope: format!("{}/{gate}", self.path), value, low, high }),
        }
    }

    /// Truncation of products of matrices.
    fn truncated_product(&self, z: Vec<u64>, scale: u32, shift: u32) -> Result<Vec<u64>> {
        self.truncated_from(z, PRODUCT_BITS, scale, shift)
    }

    /// Truncation of sums that must stay below 2^62.
    fn truncated(&self, z: Vec<u64>, scale: u32, shift: u32) -> Result<Vec<u64>> {
        self.truncated_from(z, Ring::Z64.bits(), scale, shift)
    }

    /// Truncation of sums that must stay below 2^(bits − 2).
    fn truncated_from(&self, z: Vec<u64>, bits: u32, scale: u32, shift: u32) -> Result<Vec<u64>> {
        let limit = 2f64.powi(bits as i32 - 2 - scale as i32);
        self.check("truncation", &z, scale, -limit, limit)?;
        let half = (1u64 << shift) >> 1;
        Ok(z.into_iter().map(|v| truncate::clear(Ring::Z64, v.wrapping_add(half), shift)).collect())
    }

    /// 1 / Σ e for every head and query.
    ///
    /// # Errors
    /// A sum is outside the reciprocal's range.
    pub async fn reciprocal_sums(
        &self,
        e: &Ints,
        s: &AttentionShape,
        t: &Arc<SoftmaxTables>,
    ) -> Result<Ints> {
        let sums = self.upload(e).sum_segments(&s.offsets).to_vec();
        let table = t.reciprocal(s.longest());
        let (low, high) = table.range();
        self.check("sum", &sums, EXP_SCALE, low, high)?;
        let data = sums.into_iter().map(|v| table.clear(v, s.score_rows())).collect();
        Ok(Ints::new(s.score_rows(), 1, data))
    }

    fn upload(&self, x: &Ints) -> Words {
        Words::upload(&self.device, x.data.clone())
    }

    /// x · W^T + b at the double scale.
    fn affine(&self, x: &Ints, w: &Linear<Clear>) -> Ints {
        let m = &w.weight;
        let mut data = m.apply(&self.upload(x)).to_vec();
        if let Some(bias) = &w.bias {
            for row in data.chunks_exact_mut(m.outputs()) {
                row.iter_mut().zip(&bias.data).for_each(|(y, b)| *y = y.wrapping_add(*b));
            }
        }
        Ints::new(x.rows, m.outputs(), data)
    }
}

struct ClearParts<'s> {
    device: &'s Device,
    source: &'s mut dyn ParameterSource,
    tables: &'s PlanTables,
}

impl Parts<Clear> for ClearParts<'_> {
    type Error = CheckpointError;

    fn table(&mut self) -> std::result::Result<Ints, CheckpointError> {
        self.rows(Parameter::Embedding)
    }

    fn matrix(&mut self, p: Parameter) -> std::result::Result<Matrix, CheckpointError> {
        let ints = self.rows(p)?;
        Ok(Matrix::new(&Words::upload(self.device, ints.data), ints.rows, ints.cols))
    }

    fn bits(&self, p: Parameter) -> u32 {
        self.tables.bits(p)
    }

    fn rows(&mut self, p: Parameter) -> std::result::Result<Ints, CheckpointError> {
        let (rows, cols) = p.shape(self.source.config());
        Ok(Ints::new(rows, cols, self.source.integers(p)?))
    }

    fn norm(&mut self, n: NormId) -> Arc<NormTable> {
        self.tables.norm(n)
    }

    fn softmax(&mut self, layer: usize) -> Arc<SoftmaxTables> {
        self.tables.softmax(layer)
    }

    fn activation(&mut self, a: ActivationId) -> Arc<FunctionTable> {
        self.tables.activation(a)
    }
}

impl Values for Clear {
    type Act = Ints;
    type Factor = Ints;
    /// One column a token.
    type Table = Ints;
    type Matrix = Matrix;
    type Rows = Ints;
    type Norm = Arc<NormTable>;
    type Softmax = Arc<SoftmaxTables>;
    type Activation = Arc<FunctionTable>;
    type Input = Vec<u32>;
    /// At scale 36.
    type Output = Ints;
}

impl Algebra for Clear {
    type V = Clear;

    fn scope(&self, name: &str) -> Clear {
        let path = if self.path.is_empty() { name.to_string() } else { format!("{}/{name}", self.path) };
        Clear { path, device: self.device.clone() }
    }

    async fn embed(&self, tokens: &Vec<u32>, t: &Ints) -> Result<Ints> {
        let column = |&token: &u32| (0..t.rows).map(move |j| t.data[j * t.cols + token as usize]);
        Ok(Ints::new(tokens.len(), t.rows, tokens.iter().flat_map(column).collect()))
    }

    fn add_rows(&self, x: &Ints, rows: &Ints, index: &[Option<usize>]) -> Ints {
        let mut data = x.data.clone();
        for (x, i) in data.chunks_exact_mut(x.cols).zip(index) {
            let Some(i) = i else { continue };
            x.iter_mut().zip(&rows.data[i * rows.cols..]).for_each(|(x, r)| *x = x.wrapping_add(*r));
        }
        Ints { data, ..*x }
    }

    async fn norm(&self, x: &Ints, t: &Arc<NormTable>) -> Result<Ints> {
        let mut data = Vec::with_capacity(x.data.len());
        for row in x.data.chunks_exact(x.cols) {
            let scaled = t.clear(row).ok_or_else(|| {
                let unit = 2f64.powi(SCALE as i32);
                let square = row.iter().map(|&v| (v as i64 as f64 / unit).powi(2)).sum::<f64>();
                Error::Range {
                    scope: format!("{}/statistic of a row with the sum of squares", self.path),
                    value: square,
                    low: t.row.low,
                    high: t.row.high,
                }
            })?;
            data.extend(scaled);
        }
        let data = self.truncated(data, SCALE + t.factor_scale, t.factor_scale)?;
        Ok(Ints { data, ..*x })
    }

    async fn linear(&self, x: &Ints, w: &Linear<Clear>) -> Result<Ints> {
        let y = self.affine(x, w);
        Ok(Ints { data: self.truncated_from(y.data, w.bits, 2 * SCALE, SCALE)?, ..y })
    }

    async fn linear_beside(&self, x: &Ints, w: &Linear<Clear>, h: &Ints, gain: &Ints) -> Result<Ints> {
        let mut y = self.affine(x, w);
        for (y, h) in y.data.chunks_exact_mut(y.cols).zip(h.data.chunks_exact(h.cols)) {
            let terms = h.iter().zip(&gain.data);
            y.iter_mut().zip(terms).for_each(|(y, (h, g))| *y = y.wrapping_add(h.wrapping_mul(*g)));
        }
        Ok(Ints { data: self.truncated_from(y.data, w.bits, 2 * SCALE, SCALE)?, ..y })
    }

    fn add(&self, x: &Ints, y: &Ints) -> Ints {
        Ints { data: x.data.iter().zip(&y.data).map(|(a, b)| a.wrapping_add(*b)).collect(), ..*x }
    }

    async fn scores(
        &self,
        x: &Ints,
        w: &Linear<Clear>,
        r: Option<&Rotation>,
        kept: &[Option<&Ints>],
        s: &AttentionShape,
        _: &Arc<SoftmaxTables>,
    ) -> Result<Scored<Ints, Ints>> {
        let y = self.affine(x, w);
        let (turned, angle) = match r {
            Some(r) => (r.apply(&self.device, &self.upload(&y)).to_vec(), ANGLE_SCALE),
            None => (y.data, 0),
        };
        let turned = Ints { data: turned, ..y };
        let part = |from, to, scale| {
            let part = turned.columns(from, to);
            let double = 2 * SCALE + angle;
            let data = self.scope("qkv").truncated_product(part.data, double, double - scale)?;
            Ok(Ints { data, ..part })
        };
        let (q, kv) = s.widths();
        let (queries, new) = (self.upload(&part(0, q, SCALE)?), part(q, q + kv, SCALE)?);
        let values = part(q + kv, q + 2 * kv, VALUE_SCALE)?;
        let append =
            |(kept, b): (&Option<&Ints>, &Block)| new.rows(b.queries.start, b.queries.end).below(*kept);
        let keys: Vec<Ints> = kept.iter().zip(&s.blocks).map(append).collect();
        let flat = |(keys, b): (&Ints, &Block)| {
            queries.gemm_batch(&self.upload(keys), &s.score_products(b)).gather(&b.square).to_vec()
        };
        let flat = keys.iter().zip(&s.blocks).flat_map(flat).collect();
        let scores = Ints::new(s.scores(), 1, self.scope("scores").truncated(flat, 2 * SCALE, SCALE)?);
        Ok(Scored { scores, keys, values })
    }

    async fn exponentials(&self, x: &Ints, s: &AttentionShape, t: &Arc<SoftmaxTables>) -> Result<Ints> {
        self.check("scores", &x.data, SCALE, -t.bound(), t.bound())?;
        let mut data = Vec::with_capacity(x.data.len());
        let bucket = SCALE + BUCKET_LOG2;
        for row in s.offsets.iter() {
            let row = &x.data[row];
            let max = row.iter().map(|&v| v as i64).max().unwrap_or(0);
            let shift = ((max >> bucket) + 1) << bucket;
            data.extend(row.iter().map(|&v| t.exp.mean((v as i64 - shift) as u64)));
        }
        Ok(Ints { data: self.truncated(data, OUT_SCALE, OUT_SCALE - EXP_SCALE)?, ..*x })
    }

    async fn weighted_mean(
        &self,
        e: &Ints,
        v: &[&Ints],
        s: &AttentionShape,
        t: &Arc<SoftmaxTables>,
    ) -> Result<Ints> {
        let weights = self.upload(e);
        let sums = |(v, b): (&&Ints, &Block)| {
            let square = weights.slice(b.scores.clone()).scatter(&b.square, s.square_len(b));
            square.gemm_batch(&self.upload(v), &s.value_products(b)).to_vec()
        };
        let z = v.iter().zip(&s.blocks).flat_map(sums).collect();
        let sums = self.scope("values").truncated_product(
            z,
            EXP_SCALE + VALUE_SCALE,
            EXP_SCALE + VALUE_SCALE - SCALE,
        )?;
        let r = self.scope("softmax").reciprocal_sums(e, s, t).await?;
        let z = sums.iter().zip(s.row_of_output.iter()).map(|(v, i)| v.wrapping_mul(r.data[i])).collect();
        let data = self.scope("divide").truncated(z, SCALE + RECIPROCAL_SCALE, RECIPROCAL_SCALE)?;
        Ok(Ints::new(s.queries(), s.heads * s.head_dim, data))
    }

    async fn activate(&self, x: &Ints, w: &Linear<Clear>, t: &Arc<FunctionTable>) -> Result<Ints> {
        let (x, t) = (self.linear(x, w).await?, t.alone());
        let (low, high) = t.spec.range();
        self.check("input", &x.data, SCALE, low, high)?;
        let mask = t.spec.average_mask();
        let data = x.data.iter().map(|v| t.clear(*v, mask, Ring::Z64)).collect();
        let out = t.spec.out_scale();
        Ok(Ints { data: self.truncated(data, out, out - SCALE)?, ..x })
    }

    async fn gated(&self, x: &Ints, w: &Linear<Clear>, t: &Arc<FunctionTable>) -> Result<Ints> {
        let (gate, limit) = (t.gated(), t.gated().limit());
        let y = self.affine(x, w);
        let width = y.cols / 2;
        let up = |y: Ints, scale| self.scope("up").truncated_product(y.data, 2 * SCALE, 2 * SCALE - scale);
        let g = up(y.columns(0, width), SCALE)?;
        let u = up(y.columns(width, 2 * width), FACTOR_SCALE)?;
        let spec = gate.table.spec();
        let (low, high) = spec.range();
        self.check("input", &g, SCALE, low, high)?;
        let mask = spec.average_mask();
        let f = |(g, u): (&u64, &u64)| gate.table.clear(*g, mask, Ring::Z64).wrapping_mul(*u);
        let z: Vec<u64> = g.iter().zip(&u).map(f).collect();
        // The product in the ring may wrap unseen, so the bound is checked on numbers.
        let real = |v: &u64, scale: u32| *v as i64 as f64 / 2f64.powi(scale as i32);
        let out = spec.out_scale() + FACTOR_SCALE;
        for (g, u) in g.iter().zip(&u) {
            let value = (t.function)(real(g, SCALE)) * real(u, FACTOR_SCALE);
            if value.abs() >= limit {
                let scope = format!("{}/product", self.path);
                return Err(Error::Range { scope, value, low: -limit, high: limit });
            }
        }
        Ok(Ints::new(y.rows, width, self.truncated(z, out, out - SCALE)?))
    }

    fn scores_out(&self, x: &Ints, w: &Linear<Clear>) -> Result<Ints> {
        Ok(self.affine(x, w))
    }

    fn pooled_out(&self, x: &Ints, counts: &[usize], gain: &Ints, bias: &Ints) -> Result<Ints> {
        let (mut rows, mut sums) = (x.data.chunks_exact(x.cols), vec![]);
        for &count in counts {
            let mut sum: Vec<u64> = bias.data.iter().map(|b| b.wrapping_mul(count as u64)).collect();
            for row in rows.by_ref().take(count) {
                let terms = row.iter().zip(&gain.data);
                sum.iter_mut().zip(terms).for_each(|(s, (x, g))| *s = s.wrapping_add(x.wrapping_mul(*g)));
            }
            sums.extend(sum);
        }
        Ok(Ints::new(counts.len(), x.cols, sums))
    }
}
