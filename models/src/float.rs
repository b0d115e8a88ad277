//! The plaintext reference: 32-bit floating point and exact functions. Optionally watches the ranges of what the
//! gates of the other readings have to cover.

use crate::algebra::{Algebra, ByRows, Linear, Scored, Values};
use crate::attention::{AttentionShape, Block};
use crate::checkpoint::{Activation, CheckpointError, Family, TensorSource};
use crate::float_math::{gelu, gelu_tanh, matmul_t, silu};
use crate::folded::{Folding, ParameterSource};
use crate::model::{ActivationId, Back, Front, Layer, Model, NormId, OutputRows, Parts, Pass, Span};
use crate::parameter::Parameter;
use crate::rotary::Rotation;
use protocol::Result;
use protocol::gates::norm::NormKind;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A matrix of numbers.
#[derive(Clone, Debug)]
pub struct Mat {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Row-major.
    pub data: Vec<f32>,
}

impl Mat {
    fn new(rows: usize, cols: usize, data: Vec<f32>) -> Mat {
        assert_eq!(data.len(), rows * cols, "matrix size");
        Mat { rows, cols, data }
    }
}

impl ByRows for Mat {
    fn rows(&self, from: usize, to: usize) -> Mat {
        Mat::new(to - from, self.cols, self.data[from * self.cols..to * self.cols].to_vec())
    }

    fn below(&self, above: Option<&Mat>) -> Mat {
        let mut all = above.map(|a| a.data.clone()).unwrap_or_default();
        all.extend(&self.data);
        Mat::new(all.len() / self.cols, self.cols, all)
    }
}

/// Smallest and largest value seen at a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Smallest.
    pub low: f64,
    /// Largest.
    pub high: f64,
}

/// What was seen, by place (`layer.3/feed_forward/gated#gate`).
pub type Observations = BTreeMap<String, Seen>;

/// The reading.
#[derive(Clone, Default)]
pub struct Float {
    path: String,
    watch: Option<Rc<RefCell<Observations>>>,
}

impl Float {
    /// A reading that records ranges.
    pub fn watching() -> Float {
        Float { path: String::new(), watch: Some(Rc::default()) }
    }

    /// What was recorded.
    pub fn observations(&self) -> Observations {
        self.watch.as_ref().map(|w| w.borrow().clone()).unwrap_or_default()
    }

    fn see(&self, what: &str, values: impl Iterator<Item = f32>) {
        let Some(watch) = &self.watch else { return };
        let mut watch = watch.borrow_mut();
        let start = Seen { low: f64::INFINITY, high: f64::NEG_INFINITY };
        let seen = watch.entry(format!("{}#{what}", self.path)).or_insert(start);
        for v in values {
            seen.low = seen.low.min(f64::from(v));
            seen.high = seen.high.max(f64::from(v));
        }
    }

    /// Loads a model for this reading.
    ///
    /// # Errors
    /// The checkpoint is unusable.
    pub fn load(source: &mut dyn TensorSource) -> std::result::Result<Model<Float>, CheckpointError> {
        let config = source.config().clone();
        Model::build(&config, &mut FloatParts { source: &mut Folding(source) })
    }

    /// What a pass of these tokens yields for the last one (an encoder: for all), with the weights of one layer in memory
    /// at a time.
    ///
    /// # Errors
    /// The parameters are unusable.
    pub fn streamed(
        source: &mut dyn ParameterSource,
        tokens: &[u32],
    ) -> std::result::Result<Mat, CheckpointError> {
        const PLAINTEXT: &str = "plaintext has no failures";
        let (c, float) = (source.config().clone(), Float::default());
        let all = Span { first: 0, count: tokens.len(), segment: None };
        let (mut parts, pass) = (FloatParts { source }, Pass::new(&c, vec![all]));
        let front = Front::build(&c, &mut parts)?;
        let mut x = complete(front.forward(&float, &tokens.to_vec(), &pass)).expect(PLAINTEXT);
        drop(front);
        for i in 0..c.layers {
            let layer = Layer::build(&c, i, &mut parts)?;
            x = complete(layer.forward(&float, c.family, x, &mut [&mut None], &pass)).expect(PLAINTEXT);
        }
        let back = Back::build(&c, &mut parts)?;
        let hidden = complete(back.hidden(&float, x, &pass, OutputRows::Last)).expect(PLAINTEXT);
        Ok(back.output(&float, &hidden, &[tokens.len()]).expect(PLAINTEXT))
    }
}

/// Parts of a model for this reading, as they are asked for.
pub struct FloatParts<'s> {
    /// Where the weights come from.
    pub source: &'s mut dyn ParameterSource,
}

impl FloatParts<'_> {
    fn load(&mut self, p: Parameter) -> std::result::Result<Mat, CheckpointError> {
        let (rows, cols) = p.shape(self.source.config());
        self.source.numbers(p).map(|data| Mat::new(rows, cols, data))
    }
}

impl Parts<Float> for FloatParts<'_> {
    type Error = CheckpointError;

    fn table(&mut self) -> std::result::Result<Mat, CheckpointError> {
        self.load(Parameter::Embedding)
    }

    fn matrix(&mut self, p: Parameter) -> std::result::Result<Mat, CheckpointError> {
        self.load(p)
    }

    fn bits(&self, _: Parameter) -> u32 {
        kernels::Ring::Z64.bits()
    }

    fn rows(&mut self, p: Parameter) -> std::result::Result<Mat, CheckpointError> {
        self.load(p)
    }

    fn norm(&mut self, _: NormId) -> FloatNorm {
        let c = self.source.config();
        FloatNorm { kind: norm_kind(c.family), eps: c.norm_eps }
    }

    fn softmax(&mut self, _: usize) {}

    fn activation(&mut self, a: ActivationId) -> fn(f32) -> f32 {
        match (a, self.source.config().activation) {
            (ActivationId::Pooler, _) => f32::tanh,
            (_, Activation::Silu) => silu,
            (_, Activation::Gelu) => gelu,
            (_, Activation::GeluTanh) => gelu_tanh,
        }
    }
}

/// Which norm a family computes once its weights are folded.
pub(crate) fn norm_kind(family: Family) -> NormKind {
    match family {
        Family::Llama | Family::Gpt2 => NormKind::Rms,
        Family::Bert | Family::Roberta => NormKind::Layer,
    }
}

/// A norm without gain and bias.
#[derive(Clone, Copy, Debug)]
pub struct FloatNorm {
    /// Whether the mean is subtracted.
    pub kind: NormKind,
    /// Added to the mean square or the variance.
    pub eps: f64,
}

impl Values for Float {
    type Act = Mat;
    type Factor = Mat;
    type Table = Mat;
    type Matrix = Mat;
    type Rows = Mat;
    type Norm = FloatNorm;
    type Softmax = ();
    type Activation = fn(f32) -> f32;
    type Input = Vec<u32>;
    type Output = Mat;
}

impl Algebra for Float {
    type V = Float;

    fn scope(&self, name: &str) -> Float {
        if self.watch.is_none() {
            return self.clone();
        }
        let path = if self.path.is_empty() { name.to_string() } else { format!("{}/{name}", self.path) };
        Float { path, watch: self.watch.clone() }
    }

    async fn embed(&self, tokens: &Vec<u32>, table: &Mat) -> Result<Mat> {
        let data = tokens
            .iter()
            .flat_map(|&t| (0..table.rows).map(move |j| table.data[j * table.cols + t as usize]))
            .collect();
        Ok(Mat::new(tokens.len(), table.rows, data))
    }

    fn add_rows(&self, x: &Mat, rows: &Mat, index: &[Option<usize>]) -> Mat {
        let mut data = x.data.clone();
        for (x, i) in data.chunks_exact_mut(x.cols).zip(index) {
            let Some(i) = i else { continue };
            x.iter_mut().zip(&rows.data[i * rows.cols..]).for_each(|(x, r)| *x += r);
        }
        Mat { data, ..*x }
    }

    async fn norm(&self, x: &Mat, norm: &FloatNorm) -> Result<Mat> {
        let mut data = x.data.clone();
        let d = x.cols as f64;
        for row in data.chunks_exact_mut(x.cols) {
            let sum = |f: &dyn Fn(f64) -> f64| row.iter().map(|v| f(f64::from(*v))).sum::<f64>();
            let mean = if norm.kind == NormKind::Layer { sum(&|v| v) / d } else { 0.0 };
            let square = sum(&|v| (v - mean) * (v - mean)) / d;
            self.see("mean_square", std::iter::once(square as f32));
            let r = 1.0 / (square + norm.eps).sqrt();
            row.iter_mut().for_each(|v| *v = ((f64::from(*v) - mean) * r) as f32);
        }
        Ok(Mat { data, ..*x })
    }

    async fn linear(&self, x: &Mat, w: &Linear<Float>) -> Result<Mat> {
        Ok(affine(x, w))
    }

    async fn linear_beside(&self, x: &Mat, w: &Linear<Float>, h: &Mat, gain: &Mat) -> Result<Mat> {
        let mut y = affine(x, w);
        for (y, h) in y.data.chunks_exact_mut(y.cols).zip(h.data.chunks_exact(h.cols)) {
            y.iter_mut().zip(h).zip(&gain.data).for_each(|((y, h), g)| *y += h * g);
        }
        Ok(y)
    }

    fn add(&self, x: &Mat, y: &Mat) -> Mat {
        Mat { data: x.data.iter().zip(&y.data).map(|(a, b)| a + b).collect(), ..*x }
    }

    async fn scores(
        &self,
        x: &Mat,
        w: &Linear<Float>,
        r: Option<&Rotation>,
        kept: &[Option<&Mat>],
        s: &AttentionShape,
        (): &(),
    ) -> Result<Scored<Mat, Mat>> {
        let y = affine(x, w);
        let y = match r {
            Some(r) => {
                let partner: Vec<usize> = r.partner.iter().collect();
                let turned = |i: usize| {
                    let (v, p) = (f64::from(y.data[i]), f64::from(y.data[partner[i]]));
                    (v * r.cos[i] + p * r.sin[i]) as f32
                };
                Mat { data: (0..y.data.len()).map(turned).collect(), ..y }
            }
            None => y,
        };
        let (q, kv) = s.widths();
        let (queries, new) = (columns(&y, 0, q), columns(&y, q, q + kv));
        let append =
            |(kept, b): (&Option<&Mat>, &Block)| new.rows(b.queries.start, b.queries.end).below(*kept);
        let keys: Vec<Mat> = kept.iter().zip(&s.blocks).map(append).collect();
        let flat = |(keys, b): (&Mat, &Block)| -> Vec<f32> {
            let square = products(&queries.data, &keys.data, &s.score_products(b));
            b.square.iter().map(|i| square[i]).collect()
        };
        let flat: Vec<f32> = keys.iter().zip(&s.blocks).flat_map(flat).collect();
        self.scope("scores").see("score", flat.iter().copied());
        let scores = Mat::new(flat.len(), 1, flat);
        Ok(Scored { scores, keys, values: columns(&y, q + kv, q + 2 * kv) })
    }

    async fn exponentials(&self, scores: &Mat, s: &AttentionShape, (): &()) -> Result<Mat> {
        let mut data = scores.data.clone();
        for row in s.offsets.iter() {
            let row = &mut data[row];
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|v| *v = (*v - max).exp());
        }
        Ok(Mat { data, ..*scores })
    }

    async fn weighted_mean(&self, e: &Mat, v: &[&Mat], s: &AttentionShape, (): &()) -> Result<Mat> {
        let sums = |(v, b): (&&Mat, &Block)| {
            let mut square = vec![0.0; s.square_len(b)];
            e.data[b.scores.clone()].iter().zip(b.square.iter()).for_each(|(e, i)| square[i] = *e);
            products(&square, &v.data, &s.value_products(b))
        };
        let mut data: Vec<f32> = v.iter().zip(&s.blocks).flat_map(sums).collect();
        let sums: Vec<f32> = s.offsets.iter().map(|row| e.data[row].iter().sum()).collect();
        data.iter_mut().zip(s.row_of_output.iter()).for_each(|(o, row)| *o *= 1.0 / sums[row]);
        Ok(Mat::new(s.queries(), s.heads * s.head_dim, data))
    }

    async fn activate(&self, x: &Mat, w: &Linear<Float>, f: &fn(f32) -> f32) -> Result<Mat> {
        let y = affine(x, w);
        self.see("input", y.data.iter().copied());
        Ok(Mat { data: y.data.iter().map(|v| f(*v)).collect(), ..y })
    }

    async fn gated(&self, x: &Mat, w: &Linear<Float>, f: &fn(f32) -> f32) -> Result<Mat> {
        let y = affine(x, w);
        let width = y.cols / 2;
        let (g, u) = (columns(&y, 0, width), columns(&y, width, 2 * width));
        self.see("input", g.data.iter().copied());
        let data: Vec<f32> = g.data.iter().zip(&u.data).map(|(g, u)| f(*g) * u).collect();
        self.see("product", data.iter().copied());
        Ok(Mat { data, ..g })
    }

    fn scores_out(&self, x: &Mat, w: &Linear<Float>) -> Result<Mat> {
        Ok(affine(x, w))
    }

    fn pooled_out(&self, x: &Mat, counts: &[usize], gain: &Mat, bias: &Mat) -> Result<Mat> {
        let (mut rows, mut sums) = (x.data.chunks_exact(x.cols), vec![]);
        for &count in counts {
            let mut sum = vec![0f64; x.cols];
            for row in rows.by_ref().take(count) {
                let terms = row.iter().zip(&gain.data).zip(&bias.data);
                sum.iter_mut().zip(terms).for_each(|(s, ((x, g), b))| *s += f64::from(x * g) + f64::from(*b));
            }
            sums.extend(sum.into_iter().map(|v| v as f32));
        }
        Ok(Mat::new(counts.len(), x.cols, sums))
    }
}

fn columns(x: &Mat, from: usize, to: usize) -> Mat {
    Mat::new(x.rows, to - from, x.data.chunks_exact(x.cols).flat_map(|r| &r[from..to]).copied().collect())
}

fn affine(x: &Mat, w: &Linear<Float>) -> Mat {
    let m = &w.weight;
    let mut data = matmul_t(&x.data, x.rows, x.cols, &m.data, m.rows);
    if let Some(bias) = &w.bias {
        for row in data.chunks_exact_mut(m.rows) {
            row.iter_mut().zip(&bias.data).for_each(|(y, b)| *y += b);
        }
    }
    Mat::new(x.rows, m.rows, data)
}

fn products(a: &[f32], b: &[f32], g: &kernels::GemmBatch) -> Vec<f32> {
    let mut out = vec![0.0; g.c_len];
    for &[oa, ob, oc] in &g.offsets {
        for i in 0..g.m {
            for p in 0..g.k {
                let x = a[oa + i * g.a.row + p * g.a.col];
                if x != 0.0 {
                    for j in 0..g.n {
                        out[oc + i * g.c_row + j] += x * b[ob + p * g.b.row + j * g.b.col];
                    }
                }
            }
        }
    }
    out
}

/// Completes a program of a reading that never waits.
pub fn complete<T>(program: impl Future<Output = Result<T>>) -> Result<T> {
    let mut program = std::pin::pin!(program);
    match program.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(r) => r,
        std::task::Poll::Pending => unreachable!("a plaintext reading has nothing to wait for"),
    }
}
