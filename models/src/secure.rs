//! The protocol: dealer and evaluators run the same program on their parts of the shares.

use crate::algebra::{Algebra, Linear, SCALE, Values};
use crate::attention::AttentionShape;
use crate::plan::FunctionTable;
use crate::rotary::{ANGLE_SCALE, Rotation};
use kernels::{Words, Zip};
use protocol::gates::embedding::{self, EmbeddingKeys, SharedTable};
use protocol::gates::norm::NormTable;
use protocol::gates::reveal::{Reveal, reveal};
use protocol::gates::softmax::{EXP_SCALE, RECIPROCAL_SCALE, SoftmaxTables};
use protocol::gates::truncate::truncate;
use protocol::gates::{glu, norm, product, quadratic, softmax};
use protocol::{Cx, Product, Result, Shape, Share, SharedMatrix};
use std::sync::Arc;

/// Tokens as a party has them.
#[derive(Clone, Debug)]
pub enum Tokens {
    /// From a client: keys of point functions.
    Keys(EmbeddingKeys),
    /// So many that the client has yet to send: at the dealer, which deals ahead.
    Expected(usize),
    /// Chosen among the parties: one-hot rows at scale 0.
    OneHot(Share),
}

/// Values of the secure reading.
#[derive(Clone, Copy, Debug)]
pub enum SecureValues {}

impl Values for SecureValues {
    type Act = Share;
    type Table = SharedTable;
    type Matrix = SharedMatrix;
    /// Biases at the scale of products.
    type Rows = Share;
    type Norm = Arc<NormTable>;
    type Softmax = Arc<SoftmaxTables>;
    type Activation = Arc<FunctionTable>;
    type Input = Tokens;
    /// An evaluator's message to the client.
    type Output = Option<Words>;
}

/// The reading.
#[derive(Clone)]
pub struct Secure<'n> {
    cx: Cx<'n>,
}

impl<'n> Secure<'n> {
    /// On a running program.
    pub fn new(cx: Cx<'n>) -> Secure<'n> {
        Secure { cx }
    }

    pub(crate) fn cx(&self) -> &Cx<'n> {
        &self.cx
    }

    pub(crate) fn in_scope(&self, name: &str) -> Secure<'n> {
        Secure { cx: self.cx.scope(name) }
    }

    /// x · W^T + b at the double scale.
    pub(crate) fn affine(&self, x: &Share, w: &Linear<SecureValues>) -> Result<Product> {
        let y = product::matmul(&self.cx, x, &w.weight)?;
        Ok(match &w.bias {
            Some(bias) => {
                let bias = product::halves(&self.cx, bias).half;
                y.linear(y.shape, |half| {
                    half.clone().zip_cols(Zip::Add, bias.as_ref().expect("an evaluator has halves"))
                })
            }
            None => y,
        })
    }
}

impl Algebra for Secure<'_> {
    type V = SecureValues;

    fn scope(&self, name: &str) -> Self {
        self.in_scope(name)
    }

    async fn embed(&self, tokens: &Tokens, table: &SharedTable) -> Result<Share> {
        match tokens {
            Tokens::Keys(keys) => embedding::embed(&self.cx, keys, table).await,
            Tokens::Expected(tokens) => embedding::embed_ahead(&self.cx, *tokens, table).await,
            Tokens::OneHot(rows) => {
                product::reshare(&self.cx, embedding::matmul(&self.cx, rows, table)?).await
            }
        }
    }

    fn add_rows(&self, x: &Share, rows: &Share, index: &[Option<usize>]) -> Share {
        let cols = x.shape.cols;
        // Elements of x to which something is added, and what.
        let places = index.iter().enumerate().filter_map(|(t, i)| i.map(|i| (t, i)));
        let (at, from): (Vec<u32>, Vec<u32>) = places
            .flat_map(|(t, i)| (0..cols).map(move |c| ((t * cols + c) as u32, (i * cols + c) as u32)))
            .unzip();
        x.add(&rows.linear(x.shape, |w| w.gather(&from).scatter(&at, x.len())))
    }

    async fn norm(&self, x: &Share, t: &Arc<NormTable>) -> Result<Share> {
        norm::norm(&self.cx, x, t).await
    }

    async fn linear(&self, x: &Share, w: &Linear<SecureValues>) -> Result<Share> {
        truncate(&self.cx, self.affine(x, w)?, SCALE).await
    }

    async fn linear_rotated(&self, x: &Share, w: &Linear<SecureValues>, r: &Rotation) -> Result<Share> {
        // Rotation by public angles is linear: it acts on the halves before their truncation, at no exchange.
        let y = self.affine(x, w)?;
        let turned = y.linear(y.shape, |half| r.apply(self.cx.device(), half));
        truncate(&self.cx, Product { scale: y.scale + ANGLE_SCALE, ..turned }, SCALE + ANGLE_SCALE).await
    }

    async fn linear_beside(
        &self,
        x: &Share,
        w: &Linear<SecureValues>,
        h: &Share,
        gain: &Share,
    ) -> Result<Share> {
        let beside = product::scale_columns(&self.cx, h, gain)?;
        truncate(&self.cx, self.affine(x, w)?.plus(beside), SCALE).await
    }

    fn width(&self, x: &Share) -> usize {
        x.shape.cols
    }

    fn columns(&self, x: &Share, from: usize, to: usize) -> Share {
        let (rows, cols) = (x.shape.rows, x.shape.cols);
        let index: Vec<u32> =
            (0..rows).flat_map(|r| (from..to).map(move |c| (r * cols + c) as u32)).collect();
        x.gather(&index, Shape::new(rows, to - from))
    }

    fn rows(&self, x: &Share, from: usize, to: usize) -> Share {
        x.rows(from, to)
    }

    fn append(&self, cache: Option<&Share>, x: &Share) -> Share {
        cache.map_or_else(|| x.clone(), |c| c.append_rows(x))
    }

    fn add(&self, x: &Share, y: &Share) -> Share {
        x.add(y)
    }

    async fn scores(&self, q: &Share, k: &[&Share], s: &AttentionShape) -> Result<Share> {
        let products: Vec<_> = s.blocks.iter().map(|b| s.score_products(b)).collect();
        let flat = Shape::new(s.scores(), 1);
        let z = product::bilinear_parts(&self.cx, q, k, flat, |i, q, k| {
            q.gemm_batch(k, &products[i]).gather(&s.blocks[i].square)
        })?;
        product::reshare(&self.cx, z).await
    }

    async fn exponentials(&self, x: &Share, s: &AttentionShape, t: &Arc<SoftmaxTables>) -> Result<Share> {
        softmax::exponentials(&self.cx, x, &s.offsets, &s.row_of, t).await
    }

    async fn weighted_sum(&self, e: &Share, v: &[&Share], s: &AttentionShape) -> Result<Share> {
        let products: Vec<_> = s.blocks.iter().map(|b| s.value_products(b)).collect();
        let shape = Shape::new(s.queries(), s.heads * s.head_dim);
        let z = product::bilinear_parts(&self.cx, e, v, shape, |i, e, v| {
            let (block, square) = (&s.blocks[i], s.square_len(&s.blocks[i]));
            e.slice(block.scores.clone()).scatter(&block.square, square).gemm_batch(v, &products[i])
        })?;
        truncate(&self.cx, z, EXP_SCALE).await
    }

    async fn reciprocal_sums(&self, e: &Share, s: &AttentionShape, t: &Arc<SoftmaxTables>) -> Result<Share> {
        softmax::reciprocal_sums(&self.cx, e, &s.offsets, t).await
    }

    async fn scale_heads(&self, o: &Share, r: &Share, s: &AttentionShape) -> Result<Share> {
        let z = product::bilinear(&self.cx, o, r, o.shape, |a, b| a * b.gather(&s.row_of_output))?;
        truncate(&self.cx, z, RECIPROCAL_SCALE).await
    }

    async fn activate(&self, x: &Share, t: &Arc<FunctionTable>) -> Result<Share> {
        quadratic::lookup(&self.cx, x, t.alone(), SCALE).await
    }

    async fn gated(&self, g: &Share, u: &Share, t: &Arc<FunctionTable>) -> Result<Share> {
        let t = t.gated();
        glu::gated(&self.cx, g, u, &t.table, t.bits, SCALE).await
    }

    fn scores_out(&self, x: &Share, w: &Linear<SecureValues>) -> Result<Option<Words>> {
        Ok(reveal(&self.cx, self.affine(x, w)?, Reveal::LOGITS))
    }

    fn pooled_out(&self, x: &Share, counts: &[usize], gain: &Share, bias: &Share) -> Result<Option<Words>> {
        let cols = x.shape.cols;
        let sums = Shape::new(counts.len(), cols);
        // Column by column of each sequence.
        let (mut columns, mut ends, mut first) = (vec![], vec![0], 0);
        for &count in counts {
            for c in 0..cols {
                columns.extend((first..first + count).map(|r| (r * cols + c) as u32));
                ends.push(columns.len());
            }
            first += count;
        }
        let sum = x.linear(sums, |w| w.gather(&columns).sum_segments(&ends));
        let sum = product::scale_columns(&self.cx, &sum, gain)?;
        let column: Vec<u32> = (0..sums.len()).map(|i| (i % cols) as u32).collect();
        let counts = Words::upload(self.cx.device(), counts.iter().map(|&n| n as u64).collect());
        let bias = bias.linear(sums, |w| w.gather(&column).zip_rows(Zip::Mul, &counts));
        Ok(reveal(&self.cx, sum.plus(product::halves(&self.cx, &bias)), Reveal::POOLED))
    }
}
