//! Several sequences in one pass: each as if it were alone, at the declared cost, and in the exchanges of one.

mod read;
mod secret;

use kernels::Device;
use models::algebra::SCALE;
use models::attention::AttentionShape;
use models::checkpoint::{Head, ModelConfig, RandomModel, Rotary};
use models::clear::Clear;
use models::dry::Dry;
use models::float::{Float, complete};
use models::model::{Cache, Model, OutputRows, Sequence};
use protocol::gates::max::Levels;
use protocol::gates::reciprocal::MANY;
use protocol::gates::softmax::{EXP_SCALE, SoftmaxTables};
use read::{all_tokens, difference, largest, numbers};
use secret::{Shared, Step, Turn, run_batches, share};

/// A sequence's tokens after the first `keep` of those so far.
fn turn(sequence: usize, keep: usize, tokens: &[u32]) -> Turn {
    Turn { sequence, step: Step { keep, tokens: tokens.to_vec() }, segment: None }
}

/// A model in all readings.
struct All {
    device: Device,
    shared: Shared,
    float: Model<Float>,
    clear: Model<Clear>,
    dry: Model<Dry>,
}

impl All {
    fn new(config: &ModelConfig) -> All {
        let mut source = RandomModel::new(config.clone(), 5).unwrap();
        let shared = share(&mut source, &all_tokens(config));
        let device = kernels::cpu::Cpu::best();
        let tables = shared.public.plan.tables(&device, config);
        let clear = Clear::load(&device, &mut source, &tables).unwrap();
        let float = Float::load(&mut source).unwrap();
        All { dry: Dry::model(config, &tables), device, shared, float, clear }
    }

    /// Every sequence of every pass alone, in integers; then the outputs of each pass, one after the other.
    fn alone(&self, sequences: usize, steps: &[Vec<Turn>], rows: OutputRows) -> Vec<Vec<u64>> {
        let reading = Clear::new(&self.device);
        let mut caches: Vec<_> = (0..sequences).map(|_| Cache::new(&self.clear.config)).collect();
        let mut outputs = |t: &Turn| {
            let Turn { sequence, step: Step { keep, tokens }, segment } = t;
            let cache = &mut caches[*sequence];
            cache.cut(*keep);
            let sequence = Sequence { cache, count: tokens.len(), segment: *segment };
            complete(self.clear.batch(&reading, tokens, &mut [sequence], rows)).unwrap().data
        };
        steps.iter().map(|turns| turns.iter().flat_map(&mut outputs).collect()).collect()
    }

    /// Runs the passes in every reading, and holds them against sequences that are alone.
    fn check(&self, sequences: usize, steps: &[Vec<Turn>], rows: OutputRows) {
        let config = &self.shared.public.config;
        let done = run_batches(&self.shared, 9, sequences, steps, rows);
        let (reading, plain) = (Clear::new(&self.device), Float::default());
        let mut clear: Vec<_> = (0..sequences).map(|_| Cache::new(config)).collect();
        let mut float: Vec<_> = (0..sequences).map(|_| Cache::new(config)).collect();
        let mut dry: Vec<_> = (0..sequences).map(|_| Cache::new(config)).collect();
        for ((turns, done), alone) in steps.iter().zip(done).zip(self.alone(sequences, steps, rows)) {
            let tokens: Vec<u32> = turns.iter().flat_map(|t| t.step.tokens.clone()).collect();
            for Turn { sequence, step, .. } in turns {
                clear[*sequence].cut(step.keep);
                float[*sequence].cut(step.keep);
                dry[*sequence].cut(step.keep);
            }
            let mut taking = taking_part(&mut clear, turns);
            let c = complete(self.clear.batch(&reading, &tokens, &mut taking, rows)).unwrap();
            assert_eq!(c.data, alone, "a sequence in a batch is what it is alone");
            let mut taking = taking_part(&mut float, turns);
            let f = complete(self.float.batch(&plain, &tokens, &mut taking, rows)).unwrap();
            let f: Vec<f64> = f.data.into_iter().map(f64::from).collect();
            let secure: Vec<f64> = done.outputs.iter().map(|&v| v.into()).collect();
            let close = 4e-3 * largest(&f).max(1.0);
            assert!(largest(&f) > 0.1, "scores of no size prove nothing");
            assert!(difference(&numbers(&c), &f) < close, "Clear");
            assert!(difference(&secure, &f) < close, "Secure: {}", difference(&secure, &f));
            let declared = Dry::batch(&self.dry, &mut taking_part(&mut dry, turns), rows).ledger;
            assert_eq!((done.cost.exchanges, done.cost.sent), (declared.exchanges, declared.sent));
        }
    }
}

/// The sequences of a pass, in order.
fn taking_part<'c, V: models::algebra::Values>(
    caches: &'c mut [Cache<V>],
    turns: &[Turn],
) -> Vec<Sequence<'c, V>> {
    let found = caches.iter_mut().enumerate().filter_map(|(i, cache)| {
        let turn = turns.iter().find(|t| t.sequence == i)?;
        Some(Sequence { cache, count: turn.step.tokens.len(), segment: turn.segment })
    });
    found.collect()
}

#[test]
fn sequences_of_a_batch_are_those_that_are_alone_at_the_declared_cost() {
    let rotary = Rotary { base: 5e5, interleaved: false, factors: vec![1.0, 1.0, 3.5, 8.0] };
    let other =
        ModelConfig { kv_heads: 4, rotary: Some(rotary), qkv_bias: true, tied: false, ..ModelConfig::toy() };
    for config in [ModelConfig::toy(), other, ModelConfig::toy_gpt2()] {
        let all = All::new(&config);
        let steps = [
            // Prompts of different lengths, then a token each.
            vec![turn(0, 0, &[3, 1, 4, 1, 5]), turn(1, 0, &[9]), turn(2, 0, &[2, 6, 5, 3, 5, 8, 9, 7, 9])],
            vec![turn(0, 5, &[3]), turn(1, 1, &[2]), turn(2, 9, &[3])],
            // The second ends or pauses; the third gets drafts.
            vec![turn(0, 6, &[8]), turn(2, 10, &[4, 6, 2, 6])],
            // Some of which are taken back: its cache alone is cut.
            vec![turn(0, 7, &[4]), turn(2, 12, &[3, 3])],
            // The second goes on where it was; all its tokens but the first are taken back.
            vec![turn(1, 2, &[8, 3])],
            vec![turn(0, 8, &[7, 9]), turn(1, 1, &[5]), turn(2, 13, &[0])],
        ];
        all.check(3, &steps, OutputRows::Last);
        all.check(3, &steps, OutputRows::All);
    }
}

#[test]
fn texts_of_a_batch_are_those_that_are_alone_at_the_declared_cost() {
    let pooling = ModelConfig { head: Head::MeanPooling, ..ModelConfig::toy_bert() };
    for config in [ModelConfig::toy_bert(), pooling, ModelConfig::toy_roberta()] {
        let pair = (config.types > 1).then_some(3);
        let steps = [
            vec![
                turn(0, 0, &[3, 1, 4, 1, 5]),
                Turn { segment: pair, ..turn(1, 0, &[9, 2, 6, 5, 3, 5, 8]) },
                turn(2, 0, &[9]),
            ],
            vec![Turn { segment: pair, ..turn(0, 0, &[9, 7, 9, 3]) }, turn(2, 0, &[2, 3])],
        ];
        All::new(&config).check(3, &steps, OutputRows::Last);
    }
}

#[test]
fn a_batch_has_the_exchanges_of_one_sequence_and_reads_its_weights_once_for_all() {
    for config in [ModelConfig::toy(), ModelConfig::toy_gpt2(), ModelConfig::toy_bert()] {
        let All { dry, .. } = All::new(&config);
        let work = |counts: &[usize]| {
            let mut caches: Vec<_> = counts.iter().map(|_| Cache::new(&config)).collect();
            let sequences = caches.iter_mut().zip(counts).map(|(c, &n)| Sequence::new(c, n));
            Dry::batch(&dry, &mut sequences.collect::<Vec<_>>(), OutputRows::Last)
        };
        let (batch, alone) = (work(&[7, 2, 5]), [work(&[7]), work(&[2]), work(&[5])]);
        assert_eq!(batch.ledger.exchanges, alone[0].ledger.exchanges);
        assert_eq!(batch.weight_macs, alone.iter().map(|w| w.weight_macs).sum::<u64>());
    }
}

#[test]
fn no_scores_are_computed_across_sequences() {
    let whole = AttentionShape::causal(4, 2, 8, &[(2, 5), (1, 1), (3, 9)]);
    let alone = [(2, 5), (1, 1), (3, 9)].map(|lengths| AttentionShape::causal(4, 2, 8, &[lengths]));
    let lengths = |s: &AttentionShape| s.offsets.iter().map(|row| row.len()).collect::<Vec<_>>();
    assert_eq!(lengths(&whole), alone.iter().flat_map(lengths).collect::<Vec<_>>());
    assert_eq!(whole.scores(), 4 * ((4 + 5) + 1 + (7 + 8 + 9)));
    assert_eq!((whole.queries(), whole.longest(), whole.score_rows()), (6, 9, 24));
    for (block, alone) in whole.blocks.iter().zip(&alone) {
        assert!(block.square.iter().eq(alone.blocks[0].square.iter()));
        assert!(block.square.iter().all(|i| i < whole.square_len(block)));
    }
    // Every row of scores is that of its own head, query and sequence.
    let rows: Vec<usize> = whole.row_of_output.iter().step_by(8).collect();
    let of = |first: usize, queries: usize| {
        (0..queries).flat_map(move |t| (0..4).map(move |head| first + head * queries + t))
    };
    assert_eq!(rows, of(0, 2).chain(of(8, 1)).chain(of(12, 3)).collect::<Vec<_>>());
}

/// A batch divides by the table of its longest row: for a shorter one it is as good, and in the clear the same.
#[test]
fn reciprocals_of_short_rows_are_the_same_by_the_tables_of_long_ones() {
    let tables = SoftmaxTables::new(&kernels::cpu::Cpu::best(), 2 * SCALE, Levels::new(64), 4096);
    let unit = 2f64.powi(EXP_SCALE as i32);
    for short in [256, 512, 1024, 2048] {
        // From the smallest sum of a row to the largest: e^−4 to e^4 for each score.
        let (low, high) = (libm::exp(-4.0), short as f64 * libm::exp(4.0));
        let steps = 10_000;
        for i in 0..=steps {
            let sum = (low * (high / low).powf(f64::from(i) / f64::from(steps)) * unit) as u64;
            for rows in [1, MANY] {
                let by = |length| tables.reciprocal(length).clear(sum, rows);
                assert_eq!(by(short), by(2 * short), "sum {sum} of a row of {short}");
                assert_eq!(by(short), by(4096));
            }
        }
    }
}
