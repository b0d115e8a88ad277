//! Cost alone: the same program on shapes, charging every gate's declared cost round by round. Parts that run side by
//! side share their exchanges here exactly as in the protocol.

use crate::algebra::{Algebra, SCALE, Values};
use crate::attention::AttentionShape;

use crate::checkpoint::LlamaConfig;
use crate::llama::{Cache, Layer, Llama, LogitRows, MatrixId};
use crate::plan::{GateTable, PlanTables};
use crate::rotary::{ANGLE_SCALE, Rotation};
use protocol::gates::norm::NormTable;
use protocol::gates::product::{product_cost, reshare_cost};
use protocol::gates::softmax::{EXP_SCALE, RECIPROCAL_SCALE, SoftmaxTables};
use protocol::gates::{glu, max, truncate};
use protocol::{Cost, Ledger, Result, Shape};
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

const RING: u32 = 64;

/// Multiplications in the ring, and costs on the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Work {
    /// Network.
    pub ledger: Ledger,
    /// Products with weights, of all three parties together.
    pub weight_macs: u64,
}

/// The reading.
#[derive(Clone, Default)]
pub struct Dry {
    work: Rc<RefCell<Work>>,
}

impl Layer<Dry> {
    fn shapes(&self) -> Layer<Dry> {
        Layer {
            attention_norm: self.attention_norm.clone(),
            softmax: self.softmax.clone(),
            feed_forward_norm: self.feed_forward_norm.clone(),
            gate: self.gate.clone(),
            ..*self
        }
    }
}

impl Values for Dry {
    type Act = Shape;
    type Matrix = Shape;
    type Norm = Arc<NormTable>;
    type Softmax = Arc<SoftmaxTables>;
    type Gate = Arc<GateTable>;
    type Input = usize;
    type Logits = Shape;
}

impl Dry {
    /// Loads a model's shapes.
    pub fn model(config: &LlamaConfig, tables: &PlanTables) -> Llama<Dry> {
        let shape = |id: MatrixId| {
            let (rows, cols) = id.shape(config);
            Shape::new(rows, cols)
        };
        let layers = tables
            .layers
            .iter()
            .enumerate()
            .map(|(i, t)| Layer {
                attention_norm: t.attention_norm.clone(),
                qkv: shape(MatrixId::Qkv(i)),
                softmax: t.softmax.clone(),
                o: shape(MatrixId::O(i)),
                feed_forward_norm: t.feed_forward_norm.clone(),
                gate_up: shape(MatrixId::GateUp(i)),
                gate: t.gate.clone(),
                down: shape(MatrixId::Down(i)),
            })
            .collect();
        Llama {
            config: config.clone(),
            embedding: shape(MatrixId::Embedding),
            layers,
            final_norm: tables.final_norm.clone(),
            output: shape(MatrixId::Output),
        }
    }

    /// Cost of one pass of `count` new tokens.
    pub fn pass(model: &Llama<Dry>, count: usize, cache: &mut Cache<Dry>, rows: LogitRows) -> Work {
        let dry = Dry::default();
        let program = model.forward(&dry, &count, count, cache, rows);
        let mut program = std::pin::pin!(program);
        let mut task = std::task::Context::from_waker(std::task::Waker::noop());
        // Every time all branches wait, one exchange takes place.
        while program.as_mut().poll(&mut task).is_pending() {
            dry.work.borrow_mut().ledger.exchanges += 1;
        }
        dry.charged()
    }

    /// Exchanges of the costliest decoder layer.
    pub fn exchanges_per_layer(model: &Llama<Dry>) -> u64 {
        let rest = Self::exchanges_of(model, &[]);
        (0..model.layers.len()).map(|i| Self::exchanges_of(model, &[i]) - rest).max().unwrap_or(0)
    }

    /// Exchanges of a pass that belong to no layer: embedding, last norm, output.
    pub fn exchanges_outside_layers(model: &Llama<Dry>) -> u64 {
        Self::exchanges_of(model, &[])
    }

    /// Exchanges of a one-token pass through some of the layers.
    fn exchanges_of(model: &Llama<Dry>, layers: &[usize]) -> u64 {
        let part = Llama {
            config: LlamaConfig { layers: layers.len(), ..model.config.clone() },
            embedding: model.embedding,
            layers: layers.iter().map(|&i| model.layers[i].shapes()).collect(),
            final_norm: model.final_norm.clone(),
            output: model.output,
        };
        let mut cache = Cache::new(&part.config);
        Dry::pass(&part, 1, &mut cache, LogitRows::Last).ledger.exchanges
    }

    fn charged(&self) -> Work {
        *self.work.borrow()
    }

    async fn charge(&self, cost: Cost) {
        let mut ahead = Cost { rounds: vec![], dealt: cost.dealt };
        for bytes in cost.rounds {
            {
                let mut once = Ledger::default();
                once += &Cost { rounds: vec![bytes], dealt: std::mem::take(&mut ahead.dealt) };
                self.add(&once);
            }
            let mut waited = false;
            poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending })
                .await;
        }
        let mut rest = Ledger::default();
        rest += &ahead;
        self.add(&rest);
    }

    fn add(&self, l: &Ledger) {
        let mut work = self.work.borrow_mut();
        for (a, b) in work.ledger.sent.iter_mut().flatten().zip(l.sent.iter().flatten()) {
            *a += b;
        }
    }

    /// Products with a weight matrix: two for each evaluator, one for the dealer.
    fn multiply(&self, x: &Shape, w: &Shape) -> Shape {
        assert_eq!(x.cols, w.cols, "input width");
        self.work.borrow_mut().weight_macs += 5 * (x.rows * w.len()) as u64;
        Shape::new(x.rows, w.rows)
    }

    async fn product_truncated(&self, n: usize, shift: u32) {
        self.charge(product_cost(n, RING).then(truncate::cost(n, shift, RING))).await;
    }
}

impl Algebra for Dry {
    type V = Dry;

    fn scope(&self, _: &str) -> Dry {
        self.clone()
    }

    async fn embed(&self, tokens: &usize, table: &Shape) -> Result<Shape> {
        let y = self.multiply(&Shape::new(*tokens, table.cols), table);
        self.charge(product_cost(y.len(), RING).then(reshare_cost(y.len(), RING))).await;
        Ok(y)
    }

    async fn norm(&self, x: &Shape, t: &Arc<NormTable>) -> Result<Shape> {
        self.charge(t.cost(x.rows, x.cols, RING)).await;
        Ok(*x)
    }

    async fn linear(&self, x: &Shape, w: &Shape) -> Result<Shape> {
        let y = self.multiply(x, w);
        self.product_truncated(y.len(), SCALE).await;
        Ok(y)
    }

    async fn linear_rotated(&self, x: &Shape, w: &Shape, _: &Rotation) -> Result<Shape> {
        let y = self.multiply(x, w);
        self.product_truncated(y.len(), SCALE + ANGLE_SCALE).await;
        Ok(y)
    }

    fn width(&self, x: &Shape) -> usize {
        x.cols
    }

    fn columns(&self, x: &Shape, from: usize, to: usize) -> Shape {
        Shape::new(x.rows, to - from)
    }

    fn rows(&self, x: &Shape, from: usize, to: usize) -> Shape {
        Shape::new(to - from, x.cols)
    }

    fn append(&self, cache: Option<&Shape>, x: &Shape) -> Shape {
        Shape::new(cache.map_or(0, |c| c.rows) + x.rows, x.cols)
    }

    fn add(&self, x: &Shape, _: &Shape) -> Shape {
        *x
    }

    async fn scores(&self, _: &Shape, _: &Shape, s: &AttentionShape) -> Result<Shape> {
        self.charge(product_cost(s.scores(), RING).then(reshare_cost(s.scores(), RING))).await;
        Ok(Shape::new(s.scores(), 1))
    }

    async fn exponentials(&self, x: &Shape, s: &AttentionShape, t: &Arc<SoftmaxTables>) -> Result<Shape> {
        self.charge(max::cost(s.scores(), s.score_rows(), t.levels, 2 * SCALE, RING)).await;
        self.charge(t.exp.cost(s.scores(), EXP_SCALE, RING)).await;
        Ok(*x)
    }

    async fn weighted_sum(&self, _: &Shape, _: &Shape, s: &AttentionShape) -> Result<Shape> {
        let y = Shape::new(s.queries, s.heads * s.head_dim);
        self.product_truncated(y.len(), EXP_SCALE).await;
        Ok(y)
    }

    async fn reciprocal_sums(&self, _: &Shape, s: &AttentionShape, t: &Arc<SoftmaxTables>) -> Result<Shape> {
        self.charge(t.reciprocal(s.keys).cost(s.score_rows(), RECIPROCAL_SCALE, RING)).await;
        Ok(Shape::new(s.score_rows(), 1))
    }

    async fn scale_heads(&self, o: &Shape, _: &Shape, _: &AttentionShape) -> Result<Shape> {
        self.product_truncated(o.len(), RECIPROCAL_SCALE).await;
        Ok(*o)
    }

    async fn gated(&self, g: &Shape, _: &Shape, t: &Arc<GateTable>) -> Result<Shape> {
        self.charge(glu::cost(g.len(), &t.table.spec, SCALE, SCALE, RING)).await;
        Ok(*g)
    }

    fn logits(&self, x: &Shape, w: &Shape) -> Result<Shape> {
        let y = self.multiply(x, w);
        let mut l = Ledger::default();
        l += &product_cost(y.len(), RING);
        self.add(&l);
        Ok(y)
    }
}
