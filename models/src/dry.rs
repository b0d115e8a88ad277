//! Cost alone: the same program on shapes, charging every gate's declared cost round by round. Parts that run side by
//! side share their exchanges here exactly as in the protocol.

use crate::algebra::{Act, Algebra, ByRows, Linear, SCALE, Scored, VALUE_SCALE, Values};
use crate::attention::{AttentionShape, Block};
use crate::checkpoint::ModelConfig;
use crate::model::{ActivationId, Back, Cache, Model, NormId, OutputRows, Parts, Pass, Sequence, Span};
use crate::parameter::Parameter;
use crate::plan::{FACTOR_SCALE, FunctionTable, LOW_BITS, PRODUCT_BITS, PlanTables};
use crate::rotary::{ANGLE_SCALE, Rotation};
use crate::shared::Choice;
use protocol::gates::norm::NormTable;
use protocol::gates::product::product_cost;
use protocol::gates::softmax::{EXP_SCALE, RECIPROCAL_SCALE, SoftmaxTables};
use protocol::gates::{embedding, glu, max, truncate};
use protocol::{Cost, Ledger, Result, Shape, join};
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

const RING: u32 = 64;
/// Bytes of a ring element.
const WORD: u64 = 8;

/// Multiplications in the ring, and costs on the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Work {
    /// Network.
    pub ledger: Ledger,
    /// Products with weights, of all three parties together.
    pub weight_macs: u64,
    /// What each party does by itself: P0, P1, P2.
    pub local: [Local; 3],
}

impl Work {
    /// Both together.
    pub fn add(&mut self, other: &Work) {
        self.ledger.add(&other.ledger);
        self.weight_macs += other.weight_macs;
        self.local.iter_mut().zip(&other.local).for_each(|(all, more)| all.add(more));
    }
}

/// Products of matrices at one party, and the memory that they, and the embedding's sums of rows, must read. Tables of gates,
/// comparison keys, random words, these sums and element-wise operations are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Local {
    /// Multiplications in the ring with weights.
    pub weights: u64,
    /// Those of them that are made modulo 2^52 or less, which some processors make faster.
    pub low: u64,
    /// Multiplications in the ring of scores and of weighted sums of values.
    pub attention: u64,
    /// Bytes of weights, and of the keys and values of all tokens so far, each read once a product.
    pub read: u64,
}

impl Local {
    /// Multiplications.
    pub fn products(&self) -> u64 {
        self.weights + self.attention
    }

    /// Both together.
    pub fn add(&mut self, other: &Local) {
        self.weights += other.weights;
        self.low += other.low;
        self.attention += other.attention;
        self.read += other.read;
    }

    /// Of a product of two shared matrices: one at each party.
    pub fn of_factors(self) -> [Local; 3] {
        [self; 3]
    }

    /// Of a product with the two components of a table that each party knows.
    pub fn table(self) -> [Local; 3] {
        [self.twice(); 3]
    }

    fn twice(mut self) -> Local {
        self.add(&self.clone());
        self
    }
}

/// What one gate, or one product with a weight, takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The part of the program, as in the protocol.
    pub scope: Rc<str>,
    /// In which exchange of the pass it takes part, if in any.
    pub exchange: Option<u64>,
    /// Bytes sent, `sent[from][to]`.
    pub sent: [[u64; 3]; 3],
    /// Products with weights, of all three parties together.
    pub weight_macs: u64,
    /// What each party does by itself.
    pub local: [Local; 3],
}

impl ByRows for Shape {
    fn rows(&self, from: usize, to: usize) -> Shape {
        Shape::new(to - from, self.cols)
    }

    fn below(&self, above: Option<&Shape>) -> Shape {
        Shape::new(above.map_or(0, |a| a.rows) + self.rows, self.cols)
    }
}

/// The reading.
#[derive(Clone)]
pub struct Dry {
    work: Rc<RefCell<Work>>,
    path: Rc<str>,
    charges: Option<Rc<RefCell<Vec<Charge>>>>,
}

impl Default for Dry {
    fn default() -> Dry {
        Dry { work: Rc::default(), path: "".into(), charges: None }
    }
}

/// So many tokens, and where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// From a client, as keys.
    Keys(usize),
    /// Chosen by the parties.
    Chosen(usize),
}

impl Values for Dry {
    type Act = Shape;
    type Factor = Shape;
    type Table = Shape;
    type Matrix = Shape;
    type Rows = Shape;
    type Norm = Arc<NormTable>;
    type Softmax = Arc<SoftmaxTables>;
    type Activation = Arc<FunctionTable>;
    type Input = Tokens;
    type Output = Shape;
}

struct DryParts<'t> {
    config: &'t ModelConfig,
    tables: &'t PlanTables,
}

impl Parts<Dry> for DryParts<'_> {
    type Error = Infallible;

    fn table(&mut self) -> std::result::Result<Shape, Infallible> {
        self.matrix(Parameter::Embedding)
    }

    fn matrix(&mut self, p: Parameter) -> std::result::Result<Shape, Infallible> {
        let (rows, cols) = p.shape(self.config);
        Ok(Shape::new(rows, cols))
    }

    fn bits(&self, p: Parameter) -> u32 {
        self.tables.bits(p)
    }

    fn rows(&mut self, p: Parameter) -> std::result::Result<Shape, Infallible> {
        self.matrix(p)
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

impl Dry {
    /// Loads a model's shapes.
    pub fn model(config: &ModelConfig, tables: &PlanTables) -> Model<Dry> {
        match Model::build(config, &mut DryParts { config, tables }) {
            Ok(model) => model,
            Err(never) => match never {},
        }
    }

    /// Cost of one pass of `count` new tokens of one sequence.
    pub fn pass(model: &Model<Dry>, count: usize, cache: &mut Cache<Dry>, rows: OutputRows) -> Work {
        Dry::batch(model, &mut [Sequence::new(cache, count)], rows)
    }

    /// Cost of one pass over several sequences.
    pub fn batch(model: &Model<Dry>, sequences: &mut [Sequence<'_, Dry>], rows: OutputRows) -> Work {
        let dry = Dry::default();
        let count = sequences.iter().map(|s| s.count).sum();
        dry.exchanging(model.batch(&dry, &Tokens::Keys(count), sequences, rows));
        dry.charged()
    }

    /// The same, item by item.
    pub fn itemised(
        model: &Model<Dry>,
        count: usize,
        cache: &mut Cache<Dry>,
        rows: OutputRows,
    ) -> Vec<Charge> {
        let dry = Dry { charges: Some(Rc::default()), ..Dry::default() };
        dry.exchanging(model.forward(&dry, &Tokens::Keys(count), count, cache, rows));
        dry.charges.map(|c| c.take()).unwrap_or_default()
    }

    /// Cost of a pass of new tokens of one sequence after which the parties choose the next one.
    pub fn choosing_pass(model: &Model<Dry>, tokens: Tokens, cache: &mut Cache<Dry>, choice: Choice) -> Work {
        let (Tokens::Keys(count) | Tokens::Chosen(count)) = tokens;
        Dry::choosing_batch(model, tokens, &mut [Sequence::new(cache, count)], choice)
    }

    /// Cost of a pass over several sequences, `tokens` all together, after which the parties choose the next token of each.
    pub fn choosing_batch(
        model: &Model<Dry>,
        tokens: Tokens,
        sequences: &mut [Sequence<'_, Dry>],
        choice: Choice,
    ) -> Work {
        let dry = Dry::default();
        dry.exchanging(async {
            let hidden = model.hidden(&dry, &tokens, sequences, OutputRows::Last).await?;
            if let Back::LanguageModel { output, .. } = &model.back {
                let scores = dry.multiply(&hidden, &output.weight, PRODUCT_BITS);
                dry.charge(choice.cost(scores.rows, scores.cols)).await;
            }
            Ok(())
        });
        dry.charged()
    }

    /// Runs a program: every time all its branches wait, one exchange takes place.
    fn exchanging<T>(&self, program: impl Future<Output = Result<T>>) {
        let mut program = std::pin::pin!(program);
        let mut task = std::task::Context::from_waker(std::task::Waker::noop());
        while program.as_mut().poll(&mut task).is_pending() {
            self.work.borrow_mut().ledger.exchanges += 1;
        }
    }

    /// Exchanges of a pass that belong to no layer: embedding of such tokens, last norm, and the choice of a token by the
    /// parties.
    pub fn exchanges_outside_layers(model: &Model<Dry>, tokens: Tokens, choice: Option<Choice>) -> u64 {
        let mut cache = Cache::new(&model.config);
        let pass = match choice {
            None => Dry::pass(model, 1, &mut cache, OutputRows::Last),
            Some(choice) => Dry::choosing_pass(model, tokens, &mut cache, choice),
        };
        pass.ledger.exchanges - Dry::exchanges_by_layer(model, &[1]).iter().sum::<u64>()
    }

    /// Exchanges of each layer in a pass over sequences of so many tokens.
    pub fn exchanges_by_layer(model: &Model<Dry>, counts: &[usize]) -> Vec<u64> {
        let spans = counts.iter().map(|&count| Span { first: 0, count, segment: None }).collect();
        let pass = Pass::new(&model.config, spans);
        let x = Shape::new(counts.iter().sum(), model.config.d_model);
        let exchanges = |layer: &crate::model::Layer<Dry>| {
            let dry = Dry::default();
            let mut none: Vec<_> = counts.iter().map(|_| None).collect();
            let mut kept: Vec<_> = none.iter_mut().collect();
            dry.exchanging(layer.forward(&dry, model.config.family, x, &mut kept, &pass));
            dry.charged().ledger.exchanges
        };
        model.layers.iter().map(exchanges).collect()
    }

    fn charged(&self) -> Work {
        *self.work.borrow()
    }

    async fn charge(&self, cost: Cost) {
        let mut dealt = cost.dealt;
        for bytes in cost.rounds {
            self.note(Cost { rounds: vec![bytes], dealt: std::mem::take(&mut dealt) });
            let mut waited = false;
            poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending })
                .await;
        }
        self.note(Cost { rounds: vec![], dealt });
    }

    /// Charges bytes; exchanges are counted where a program waits.
    fn note(&self, cost: Cost) {
        let mut l = Ledger::default();
        l += &cost;
        let exchange = (!cost.rounds.is_empty()).then(|| self.work.borrow().ledger.exchanges);
        let (scope, sent) = (self.path.clone(), l.sent);
        self.item(Charge { scope, exchange, sent, weight_macs: 0, local: Default::default() });
        let mut work = self.work.borrow_mut();
        for (a, b) in work.ledger.sent.iter_mut().flatten().zip(l.sent.iter().flatten()) {
            *a += b;
        }
    }

    fn item(&self, charge: Charge) {
        if let Some(charges) = &self.charges {
            charges.borrow_mut().push(charge);
        }
    }

    fn compute(&self, local: [Local; 3]) {
        let weight_macs = local.iter().map(|l| l.weights).sum();
        let mut work = self.work.borrow_mut();
        work.weight_macs += weight_macs;
        work.local.iter_mut().zip(&local).for_each(|(all, more)| all.add(more));
        drop(work);
        let scope = self.path.clone();
        self.item(Charge { scope, exchange: None, sent: [[0; 3]; 3], weight_macs, local });
    }

    /// x · W^T modulo 2^bits.
    fn multiply(&self, x: &Act<Dry>, w: &Shape, bits: u32) -> Shape {
        assert_eq!(x.cols, w.cols, "input width");
        let (weights, read) = ((x.rows * w.len()) as u64, WORD * w.len() as u64);
        let low = if bits <= LOW_BITS { weights } else { 0 };
        self.compute(Local { weights, low, read, ..Local::default() }.of_factors());
        Shape::new(x.rows, w.rows)
    }

    /// Scores, or the weighted sum of values: all of each sequence's square, of which masked pairs are dropped afterwards.
    fn attention(&self, s: &AttentionShape) {
        let sum = |f: &dyn Fn(&Block) -> usize| (s.blocks.iter().map(f).sum::<usize>() * s.head_dim) as u64;
        let (attention, read) = (sum(&|b| s.square_len(b)), WORD * sum(&|b| b.keys * s.kv_heads));
        self.compute(Local { attention, read, ..Local::default() }.of_factors());
    }

    /// A product modulo 2^bits, and its truncation.
    async fn product_truncated(&self, n: usize, bits: u32, shift: u32) {
        self.charge(product_cost(n, bits).then(truncate::cost_from(n, bits, shift, RING))).await;
    }
}

impl Algebra for Dry {
    type V = Dry;

    fn scope(&self, name: &str) -> Dry {
        let path = if self.path.is_empty() { name.into() } else { format!("{}/{name}", self.path).into() };
        Dry { path, ..self.clone() }
    }

    async fn embed(&self, tokens: &Tokens, table: &Shape) -> Result<Shape> {
        let (Tokens::Keys(count) | Tokens::Chosen(count)) = *tokens;
        let y = Shape::new(count, table.rows);
        let words = embedding::packed(*table).len();
        let read = if count == 0 { 0 } else { WORD * words as u64 };
        match tokens {
            Tokens::Keys(_) => {
                // Sums of the table's rows, without products.
                self.compute(Local { read, ..Local::default() }.table());
                self.charge(embedding::cost(count, table.rows)).await;
            }
            Tokens::Chosen(_) => {
                let weights = (count * words) as u64;
                self.compute(Local { weights, read, ..Local::default() }.table());
                self.charge(embedding::select_cost(count, table.rows)).await;
            }
        }
        Ok(y)
    }

    fn add_rows(&self, x: &Shape, _: &Shape, _: &[Option<usize>]) -> Shape {
        *x
    }

    async fn norm(&self, x: &Shape, t: &Arc<NormTable>) -> Result<Shape> {
        self.charge(t.cost(x.rows, x.cols, RING)).await;
        Ok(*x)
    }

    async fn linear(&self, x: &Shape, w: &Linear<Dry>) -> Result<Shape> {
        let y = self.multiply(x, &w.weight, w.bits);
        self.product_truncated(y.len(), w.bits, SCALE).await;
        Ok(y)
    }

    async fn linear_beside(&self, x: &Shape, w: &Linear<Dry>, _: &Shape, _: &Shape) -> Result<Shape> {
        let y = self.multiply(x, &w.weight, w.bits);
        self.charge(product_cost(y.len(), w.bits)).await;
        self.product_truncated(y.len(), w.bits, SCALE).await;
        Ok(y)
    }

    fn add(&self, x: &Shape, _: &Shape) -> Shape {
        *x
    }

    async fn scores(
        &self,
        x: &Shape,
        w: &Linear<Dry>,
        r: Option<&Rotation>,
        kept: &[Option<&Shape>],
        s: &AttentionShape,
        t: &Arc<SoftmaxTables>,
    ) -> Result<Scored<Shape, Shape>> {
        let (qkv, own) = (self.scope("qkv"), self.scope("scores"));
        let y = qkv.multiply(x, &w.weight, PRODUCT_BITS);
        qkv.note(product_cost(y.len(), PRODUCT_BITS));
        own.attention(s);
        let ((q, kv), n) = (s.widths(), s.scores());
        let drop = SCALE + if r.is_some() { ANGLE_SCALE } else { 0 };
        let bits = SCALE + t.score_bits();
        let scored = async {
            qkv.charge(truncate::cost_between(y.rows * (q + kv), PRODUCT_BITS, drop, bits)).await;
            let cut = truncate::cost_between(n, bits, SCALE, t.score_bits());
            own.charge(product_cost(n, bits).then(cut)).await;
            Ok(())
        };
        let values = async {
            let drop = drop + SCALE - VALUE_SCALE;
            qkv.charge(truncate::cost_from(y.rows * kv, PRODUCT_BITS, drop, RING)).await;
            Ok(())
        };
        join(scored, values).await?;
        let append = |(kept, b): (&Option<&Shape>, &Block)| Shape::new(b.queries.len(), kv).below(*kept);
        let keys = kept.iter().zip(&s.blocks).map(append).collect();
        Ok(Scored { scores: Shape::new(n, 1), keys, values: Shape::new(y.rows, kv) })
    }

    async fn exponentials(&self, x: &Shape, s: &AttentionShape, t: &Arc<SoftmaxTables>) -> Result<Shape> {
        let max = max::cost(s.scores(), s.score_rows(), t.levels, SCALE, t.score_bits());
        self.scope("max").charge(max).await;
        self.scope("exp").charge(t.exp.cost(s.scores(), EXP_SCALE, RING)).await;
        Ok(*x)
    }

    async fn weighted_mean(
        &self,
        _: &Shape,
        _: &[&Shape],
        s: &AttentionShape,
        t: &Arc<SoftmaxTables>,
    ) -> Result<Shape> {
        let (y, table) = (Shape::new(s.queries(), s.heads * s.head_dim), t.reciprocal(s.longest()));
        self.scope("values").attention(s);
        let sums = async {
            let drop = EXP_SCALE + VALUE_SCALE - SCALE;
            self.scope("values").product_truncated(y.len(), PRODUCT_BITS, drop).await;
            Ok(())
        };
        let reciprocals = async {
            self.scope("softmax/reciprocal").charge(table.cost(s.score_rows(), RING)).await;
            Ok(())
        };
        join(sums, reciprocals).await?;
        let divided = table.product_cost(y.len(), s.score_rows(), RING);
        self.scope("divide").charge(divided.then(truncate::cost(y.len(), RECIPROCAL_SCALE, RING))).await;
        Ok(y)
    }

    async fn activate(&self, x: &Shape, w: &Linear<Dry>, t: &Arc<FunctionTable>) -> Result<Shape> {
        let (up, t) = (self.scope("up"), t.alone());
        let input = t.spec.input_bits();
        let y = up.multiply(x, &w.weight, input + SCALE);
        let cut = truncate::cost_between(y.len(), input + SCALE, SCALE, input);
        up.charge(product_cost(y.len(), input + SCALE).then(cut)).await;
        self.charge(t.cost(y.len(), SCALE, RING)).await;
        Ok(y)
    }

    async fn gated(&self, x: &Shape, w: &Linear<Dry>, t: &Arc<FunctionTable>) -> Result<Shape> {
        let (up, t) = (self.scope("up"), t.gated());
        let y = up.multiply(x, &w.weight, PRODUCT_BITS);
        let (n, table) = (y.len() / 2, &*t.table);
        let input = table.spec().input_bits();
        let gate = async {
            let cut = truncate::cost_between(n, input + SCALE, SCALE, input);
            up.charge(product_cost(n, input + SCALE).then(cut)).await;
            self.charge(glu::select_cost(n, table, t.bits)).await;
            Ok(())
        };
        let factor = async {
            let drop = 2 * SCALE - FACTOR_SCALE;
            let cut = truncate::cost_between(n, PRODUCT_BITS, drop, t.bits);
            up.charge(product_cost(n, PRODUCT_BITS).then(cut)).await;
            Ok(())
        };
        join(gate, factor).await?;
        self.charge(glu::product_cost(n, table, FACTOR_SCALE, t.bits, SCALE, RING)).await;
        Ok(Shape::new(y.rows, y.cols / 2))
    }

    fn scores_out(&self, x: &Shape, w: &Linear<Dry>) -> Result<Shape> {
        let y = self.multiply(x, &w.weight, PRODUCT_BITS);
        self.note(product_cost(y.len(), PRODUCT_BITS));
        Ok(y)
    }

    fn pooled_out(&self, x: &Shape, counts: &[usize], _: &Shape, _: &Shape) -> Result<Shape> {
        let sums = Shape::new(counts.len(), x.cols);
        self.note(product_cost(sums.len(), RING));
        Ok(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    /// Items add up to the whole, exchange by exchange, and bear the scopes of the program.
    #[test]
    fn a_pass_item_by_item_is_the_pass() {
        for config in [ModelConfig::toy(), ModelConfig::toy_gpt2(), ModelConfig::toy_bert()] {
            let tables = Plan::typical(&config).tables(&kernels::cpu::Cpu::best(), &config);
            let model = Dry::model(&config, &tables);
            let rows = OutputRows::Last;
            let whole = Dry::pass(&model, 5, &mut Cache::new(&config), rows);
            let items = Dry::itemised(&model, 5, &mut Cache::new(&config), rows);
            let mut sent = [[0; 3]; 3];
            for item in &items {
                sent.iter_mut()
                    .flatten()
                    .zip(item.sent.iter().flatten())
                    .for_each(|(sum, bytes)| *sum += bytes);
            }
            assert_eq!(sent, whole.ledger.sent);
            assert_eq!(items.iter().map(|c| c.weight_macs).sum::<u64>(), whole.weight_macs);
            let mut local = [Local::default(); 3];
            items.iter().for_each(|c| local.iter_mut().zip(&c.local).for_each(|(sum, l)| sum.add(l)));
            assert_eq!(local, whole.local);
            let exchanges: std::collections::BTreeSet<u64> =
                items.iter().filter_map(|c| c.exchange).collect();
            assert!(exchanges.into_iter().eq(0..whole.ledger.exchanges));
            assert!(items.iter().any(|c| &*c.scope == "layer.1/attention/softmax/exp"));
        }
    }
}
