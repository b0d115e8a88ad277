//! The plaintext reference: 32-bit floating point and exact functions. Optionally watches the ranges of what the
//! gates of the other readings have to cover.

use crate::algebra::{Algebra, Values};
use crate::attention::AttentionShape;
use crate::checkpoint::{CheckpointError, LlamaConfig, TensorSource};
use crate::float_math::{matmul_t, silu};
use crate::folded;
use crate::llama::{Layer, Llama, MatrixId};
use crate::rotary::Rotation;
use protocol::Result;
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
    pub fn load(source: &mut dyn TensorSource) -> std::result::Result<Llama<Float>, CheckpointError> {
        let config: LlamaConfig = source.config().clone();
        let mut matrix = |id: MatrixId| {
            let (rows, cols) = id.shape(&config);
            folded::load(source, id).map(|data| Mat::new(rows, cols, data))
        };
        let eps = config.rms_eps as f32;
        let layers = (0..config.layers)
            .map(|i| {
                Ok(Layer {
                    attention_norm: eps,
                    qkv: matrix(MatrixId::Qkv(i))?,
                    softmax: (),
                    o: matrix(MatrixId::O(i))?,
                    feed_forward_norm: eps,
                    gate_up: matrix(MatrixId::GateUp(i))?,
                    gate: (),
                    down: matrix(MatrixId::Down(i))?,
                })
            })
            .collect::<std::result::Result<_, CheckpointError>>()?;
        let (embedding, output) = (matrix(MatrixId::Embedding)?, matrix(MatrixId::Output)?);
        Ok(Llama { config: config.clone(), embedding, layers, final_norm: eps, output })
    }
}

impl Values for Float {
    type Act = Mat;
    type Matrix = Mat;
    type Norm = f32;
    type Softmax = ();
    type Gate = ();
    type Input = Vec<u32>;
    type Logits = Mat;
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

    async fn norm(&self, x: &Mat, eps: &f32) -> Result<Mat> {
        let mut data = x.data.clone();
        for row in data.chunks_exact_mut(x.cols) {
            let mean = row.iter().map(|v| v * v).sum::<f32>() / x.cols as f32;
            self.see("mean_square", std::iter::once(mean));
            let r = 1.0 / (mean + eps).sqrt();
            row.iter_mut().for_each(|v| *v *= r);
        }
        Ok(Mat { data, ..*x })
    }

    async fn linear(&self, x: &Mat, w: &Mat) -> Result<Mat> {
        Ok(Mat::new(x.rows, w.rows, matmul_t(&x.data, x.rows, x.cols, &w.data, w.rows)))
    }

    async fn linear_rotated(&self, x: &Mat, w: &Mat, r: &Rotation) -> Result<Mat> {
        let y = self.linear(x, w).await?;
        self.see("value", y.data.iter().copied());
        let turned = |i: usize| {
            let (v, p) = (f64::from(y.data[i]), f64::from(y.data[r.partner[i] as usize]));
            (v * r.cos[i] + p * r.sin[i]) as f32
        };
        Ok(Mat { data: (0..y.data.len()).map(turned).collect(), ..y })
    }

    fn width(&self, x: &Mat) -> usize {
        x.cols
    }

    fn columns(&self, x: &Mat, from: usize, to: usize) -> Mat {
        Mat::new(x.rows, to - from, x.data.chunks_exact(x.cols).flat_map(|r| &r[from..to]).copied().collect())
    }

    fn rows(&self, x: &Mat, from: usize, to: usize) -> Mat {
        Mat::new(to - from, x.cols, x.data[from * x.cols..to * x.cols].to_vec())
    }

    fn append(&self, cache: Option<&Mat>, x: &Mat) -> Mat {
        let mut all = cache.map(|c| c.data.clone()).unwrap_or_default();
        all.extend(&x.data);
        Mat::new(all.len() / x.cols, x.cols, all)
    }

    fn add(&self, x: &Mat, y: &Mat) -> Mat {
        Mat { data: x.data.iter().zip(&y.data).map(|(a, b)| a + b).collect(), ..*x }
    }

    async fn scores(&self, q: &Mat, k: &Mat, s: &AttentionShape) -> Result<Mat> {
        let square = products(&q.data, &k.data, &s.score_products());
        let flat: Vec<f32> = s.square.iter().map(|&i| square[i as usize]).collect();
        self.see("score", flat.iter().copied());
        Ok(Mat::new(flat.len(), 1, flat))
    }

    async fn exponentials(&self, scores: &Mat, s: &AttentionShape, (): &()) -> Result<Mat> {
        let mut data = scores.data.clone();
        for row in s.offsets.windows(2) {
            let row = &mut data[row[0]..row[1]];
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|v| *v = (*v - max).exp());
        }
        Ok(Mat { data, ..*scores })
    }

    async fn weighted_sum(&self, e: &Mat, v: &Mat, s: &AttentionShape) -> Result<Mat> {
        let mut square = vec![0.0; s.square_len()];
        e.data.iter().zip(&s.square).for_each(|(v, &i)| square[i as usize] = *v);
        Ok(Mat::new(s.queries, s.heads * s.head_dim, products(&square, &v.data, &s.value_products())))
    }

    async fn reciprocal_sums(&self, e: &Mat, s: &AttentionShape, (): &()) -> Result<Mat> {
        let data = s.offsets.windows(2).map(|w| 1.0 / e.data[w[0]..w[1]].iter().sum::<f32>()).collect();
        Ok(Mat::new(s.score_rows(), 1, data))
    }

    async fn scale_heads(&self, o: &Mat, r: &Mat, s: &AttentionShape) -> Result<Mat> {
        let data = o.data.iter().zip(&s.row_of_output).map(|(v, &i)| v * r.data[i as usize]).collect();
        Ok(Mat { data, ..*o })
    }

    async fn gated(&self, g: &Mat, u: &Mat, (): &()) -> Result<Mat> {
        self.see("gate", g.data.iter().copied());
        let data: Vec<f32> = g.data.iter().zip(&u.data).map(|(g, u)| silu(*g) * u).collect();
        self.see("product", data.iter().copied());
        Ok(Mat { data, ..*g })
    }

    fn logits(&self, x: &Mat, w: &Mat) -> Result<Mat> {
        Ok(Mat::new(x.rows, w.rows, matmul_t(&x.data, x.rows, x.cols, &w.data, w.rows)))
    }
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
