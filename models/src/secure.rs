//! The protocol: dealer and evaluators run the same program on their parts of the shares.

use crate::algebra::{Algebra, ByRows, Linear, SCALE, Scored, VALUE_SCALE, Values};
use crate::attention::{AttentionShape, Block};
use crate::plan::{FACTOR_SCALE, FunctionTable};
use crate::rotary::{ANGLE_SCALE, Rotation};
use kernels::{Indices, Segments, Words};
use protocol::gates::embedding::{self, EmbeddingKeys, SharedTable};
use protocol::gates::norm::NormTable;
use protocol::gates::reveal::{Reveal, reveal};
use protocol::gates::softmax::{EXP_SCALE, RECIPROCAL_SCALE, SoftmaxTables};
use protocol::gates::truncate::{truncate, truncate_to};
use protocol::gates::{glu, norm, product, quadratic, row, softmax};
use protocol::{Cx, Factor, Product, Result, Shape, Share, SharedMatrix, join};
use std::ops::Range;
use std::sync::Arc;

/// Tokens as a party has them.
#[derive(Clone, Debug)]
pub enum Tokens {
    /// From a client: keys of point functions.
    Keys(Box<EmbeddingKeys>),
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
    type Factor = Factor;
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

impl ByRows for Share {
    fn rows(&self, from: usize, to: usize) -> Share {
        Share::rows(self, from, to)
    }

    fn below(&self, above: Option<&Share>) -> Share {
        above.map_or_else(|| self.clone(), |above| above.append_rows(self))
    }
}

impl ByRows for Factor {
    fn rows(&self, from: usize, to: usize) -> Factor {
        Factor::rows(self, from, to)
    }

    fn below(&self, above: Option<&Factor>) -> Factor {
        above.map_or_else(|| self.clone(), |above| above.append_rows(self))
    }
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
        self.affine_modulo(x, w, self.cx.ring().bits())
    }

    /// The same modulo 2^bits.
    fn affine_modulo(&self, x: &Share, w: &Linear<SecureValues>, bits: u32) -> Result<Product> {
        let y = product::matmul_modulo(&self.cx, x, &w.weight, bits)?;
        Ok(self.with_bias(y, w, 0..w.weight.outputs()))
    }

    /// Adds the biases of some outputs.
    fn with_bias(&self, y: Product, w: &Linear<SecureValues>, outputs: Range<usize>) -> Product {
        let bias = w.bias.as_ref().and_then(|b| b.delta.as_ref().map(|delta| (delta, &b.lambda)));
        let (Some((delta, lambda)), Some(half)) = (bias, &y.half) else { return y };
        // The row of biases at every row, as a 2-of-2 value: see `product::halves`.
        let at = Indices::grid(outputs.start, [(y.shape.rows, 0), (outputs.len(), 1)]);
        let sum = match self.cx.is_p1() {
            true => {
                let inputs = [half.into(), delta.at(&at), lambda.at(&at)];
                Words::formula(inputs, |[y, delta, lambda]| y + delta + lambda)
            }
            false => Words::formula([half.into(), lambda.at(&at)], |[y, lambda]| y + lambda),
        };
        Product { half: Some(sum), ..y }
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
            Tokens::OneHot(rows) => embedding::select(&self.cx, rows, table).await,
        }
    }

    fn add_rows(&self, x: &Share, rows: &Share, index: &[Option<usize>]) -> Share {
        let cols = x.shape.cols;
        // Elements of x to which something is added, and what.
        let places = index.iter().enumerate().filter_map(|(t, i)| i.map(|i| (t, i)));
        let (at, from): (Vec<u32>, Vec<u32>) = places
            .flat_map(|(t, i)| (0..cols).map(move |c| ((t * cols + c) as u32, (i * cols + c) as u32)))
            .unzip();
        let (at, from) = (Indices::from(at), Indices::from(from));
        x.add(&rows.linear(x.shape, |w| w.gather(&from).scatter(&at, x.len())))
    }

    async fn norm(&self, x: &Share, t: &Arc<NormTable>) -> Result<Share> {
        norm::norm(&self.cx, x, t).await
    }

    async fn linear(&self, x: &Share, w: &Linear<SecureValues>) -> Result<Share> {
        truncate(&self.cx, self.affine_modulo(x, w, w.bits)?, SCALE).await
    }

    async fn linear_beside(
        &self,
        x: &Share,
        w: &Linear<SecureValues>,
        h: &Share,
        gain: &Share,
    ) -> Result<Share> {
        let beside = product::scale_columns(&self.cx, h, gain, w.bits)?;
        truncate(&self.cx, self.affine_modulo(x, w, w.bits)?.plus(beside), SCALE).await
    }

    fn add(&self, x: &Share, y: &Share) -> Share {
        x.add(y)
    }

    async fn scores(
        &self,
        x: &Share,
        w: &Linear<SecureValues>,
        r: Option<&Rotation>,
        kept: &[Option<&Factor>],
        s: &AttentionShape,
        t: &Arc<SoftmaxTables>,
    ) -> Result<Scored<Share, Factor>> {
        let (qkv, own) = (self.in_scope("qkv"), self.in_scope("scores"));
        let mut y = qkv.affine(x, w)?;
        if let Some(r) = r {
            // Rotation by public angles is linear: it acts on the halves before their truncation, at no exchange.
            let turned = y.linear(y.shape, |half| r.apply(self.cx.device(), half));
            y = Product { scale: y.scale + ANGLE_SCALE, ..turned };
        }
        let ((q, kv), drop) = (s.widths(), y.scale - SCALE);
        let part = |from, to| {
            y.linear(Shape::new(y.shape.rows, to - from), |half| product::columns(half, y.shape, from..to))
        };
        // Of scores at the double scale, queries and keys count no more bits than these.
        let bits = SCALE + t.score_bits();
        let scored = async {
            let qk = Factor::from(&truncate_to(&qkv.cx, part(0, q + kv), drop, bits).await?);
            let cut = |from, to| {
                let shape = Shape::new(qk.shape.rows, to - from);
                qk.linear(shape, |w| product::columns(w, qk.shape, from..to))
            };
            let new = cut(q, q + kv);
            let append =
                |(kept, b): (&Option<&Factor>, &Block)| new.rows(b.queries.start, b.queries.end).below(*kept);
            let keys: Vec<Factor> = kept.iter().zip(&s.blocks).map(append).collect();
            let products: Vec<_> = s.blocks.iter().map(|b| s.score_products(b)).collect();
            let (parts, flat) = (keys.iter().collect::<Vec<_>>(), Shape::new(s.scores(), 1));
            let z = product::of_factors(&own.cx, &cut(0, q), &parts, flat, bits, |i, q, k| {
                q.gemm_batch(k, &products[i]).gathered(&s.blocks[i].square)
            })?;
            Ok((truncate_to(&own.cx, z, SCALE, t.score_bits()).await?, keys))
        };
        // Values are not needed before the weighted sum: where they take an exchange more, scores do not wait.
        let values = truncate(&qkv.cx, part(q + kv, q + 2 * kv), y.scale - VALUE_SCALE);
        let ((scores, keys), values) = join(scored, values).await?;
        Ok(Scored { scores, keys, values: (&values).into() })
    }

    async fn exponentials(&self, x: &Share, s: &AttentionShape, t: &Arc<SoftmaxTables>) -> Result<Share> {
        softmax::exponentials(&self.cx, x, &s.offsets, &s.row_of, t).await
    }

    async fn weighted_mean(
        &self,
        e: &Share,
        v: &[&Factor],
        s: &AttentionShape,
        t: &Arc<SoftmaxTables>,
    ) -> Result<Share> {
        let products: Vec<_> = s.blocks.iter().map(|b| s.value_products(b)).collect();
        let shape = Shape::new(s.queries(), s.heads * s.head_dim);
        let [values, softmax, divide] = ["values", "softmax", "divide"].map(|name| self.cx.scope(name));
        let factor = Factor::from(e);
        let z = product::of_factors(&values, &factor, v, shape, self.cx.ring().bits(), |i, e, v| {
            let (block, square) = (&s.blocks[i], s.square_len(&s.blocks[i]));
            let all = e.len() == square && block.square.is_all(square);
            let scattered = (!all).then(|| e.slice(block.scores.clone()).scatter(&block.square, square));
            scattered.as_ref().unwrap_or(e).gemm_batch(v, &products[i])
        })?;
        let reciprocals = softmax::reciprocal_sums(&softmax, e, &s.offsets, t);
        let (sums, r) = join(truncate(&values, z, EXP_SCALE + VALUE_SCALE - SCALE), reciprocals).await?;
        let z = row::product(&divide, &sums, &r, |r| r.at(&s.row_of_output))?;
        truncate(&divide, z, RECIPROCAL_SCALE).await
    }

    async fn activate(&self, x: &Share, w: &Linear<SecureValues>, t: &Arc<FunctionTable>) -> Result<Share> {
        let (up, t) = (self.in_scope("up"), t.alone());
        // A look-up takes its input modulo the table's length.
        let input = t.spec.input_bits();
        let y = up.affine_modulo(x, w, input + SCALE)?;
        let y = truncate_to(&up.cx, y, SCALE, input).await?;
        quadratic::lookup(&self.cx, &y, t, SCALE).await
    }

    async fn gated(&self, x: &Share, w: &Linear<SecureValues>, t: &Arc<FunctionTable>) -> Result<Share> {
        let (up, t) = (self.in_scope("up"), t.gated());
        let (input, width, ring) =
            (t.table.spec().input_bits(), w.weight.outputs() / 2, self.cx.ring().bits());
        let (left, right) = (0..width, width..2 * width);
        let blocks = [(left.clone(), input + SCALE), (right.clone(), ring)];
        let [g, u] = product::matmul_blocks(&up.cx, x, &w.weight, blocks)?;
        let (g, u) = (up.with_bias(g, w, left), up.with_bias(u, w, right));
        let g = truncate_to(&up.cx, g, SCALE, input);
        let u = truncate_to(&up.cx, u, 2 * SCALE - FACTOR_SCALE, t.bits);
        glu::gated_when(&self.cx, g, u, &*t.table, t.bits, SCALE).await
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
        let (columns, ends) = (Indices::from(columns), Segments::new(ends));
        let sum = x.linear(sums, |w| w.gather(&columns).sum_segments(&ends));
        let sum = product::scale_columns(&self.cx, &sum, gain, self.cx.ring().bits())?;
        let column = Indices::grid(0, [(sums.rows, 0), (cols, 1)]);
        let counts = Words::upload(self.cx.device(), counts.iter().map(|&n| n as u64).collect());
        let bias = bias.linear(sums, |w| {
            Words::formula([w.at(&column), counts.for_rows(cols)], |[bias, count]| bias * count)
        });
        Ok(reveal(&self.cx, sum.plus(product::halves(&self.cx, &bias)), Reveal::POOLED))
    }
}
