//! Roll-back of the cache, which speculative decoding needs: what is computed after it is what would have been computed
//! without the tokens that were taken back, at the declared cost, and under masks that were never used.

mod read;
mod secret;

use models::checkpoint::{ModelConfig, RandomModel};
use models::clear::Clear;
use models::dry::Dry;
use models::float::{Float, complete};
use models::model::{Cache, OutputRows};
use protocol::Sent;
use read::{all_tokens, difference, largest, numbers};
use secret::{Shared, Step, run_steps, share};

fn step(keep: usize, tokens: &[u32]) -> Step {
    Step { keep, tokens: tokens.to_vec() }
}

fn shared(config: ModelConfig) -> (RandomModel, Shared) {
    let mut source = RandomModel::new(config.clone(), 5).unwrap();
    let shared = share(&mut source, &all_tokens(&config));
    (source, shared)
}

fn wide(outputs: &[f32]) -> Vec<f64> {
    outputs.iter().map(|&v| v.into()).collect()
}

/// A prompt, then drafts of which some, none, all are kept, and one that takes back a whole pass but its first token.
fn check(config: ModelConfig) {
    let (mut source, shared) = shared(config.clone());
    let steps = [
        step(0, &[3, 1, 4, 1, 5]),
        step(5, &[9, 2, 6, 5]),
        step(7, &[8, 9, 7]),
        step(8, &[9, 3, 2, 3, 8]),
        step(13, &[4]),
        step(14, &[6, 2, 6]),
    ];
    let done = run_steps(&shared, 3, &steps, OutputRows::All);

    let device = kernels::cpu::Cpu::best();
    let tables = shared.public.plan.tables(&device, &config);
    let clear = Clear::load(&device, &mut source, &tables).unwrap();
    let float = Float::load(&mut source).unwrap();
    let dry = Dry::model(&config, &tables);
    let (mut cc, mut cf, mut cd) = (Cache::new(&config), Cache::new(&config), Cache::new(&config));
    let mut text: Vec<u32> = vec![];
    let mut taken_back = 0;
    for (step, done) in steps.iter().zip(done) {
        let (n, all) = (step.tokens.len(), OutputRows::All);
        // The last rows of one pass over a whole text: from a cache that never held anything else.
        let last_rows = |text: &[u32]| {
            let (reading, mut cache) = (Float::default(), Cache::new(&config));
            let text = text.to_vec();
            let scores = complete(float.forward(&reading, &text, text.len(), &mut cache, all)).unwrap();
            wide(&scores.data[(text.len() - n) * config.vocab..])
        };
        // Drafts that are taken back, still in place.
        let stale = (text.len() > step.keep).then(|| last_rows(&[&text[..], &step.tokens].concat()));
        text.truncate(step.keep);
        text.extend(&step.tokens);
        let fresh = last_rows(&text);

        cc.cut(step.keep);
        cf.cut(step.keep);
        cd.cut(step.keep);
        let c = complete(clear.forward(&Clear::new(&device), &step.tokens, n, &mut cc, all)).unwrap();
        let f = complete(float.forward(&Float::default(), &step.tokens, n, &mut cf, all)).unwrap();
        let (secure, c, f) = (wide(&done.outputs), numbers(&c), wide(&f.data));
        let close = 4e-3 * largest(&fresh).max(1.0);
        assert!(difference(&f, &fresh) < 1e-4, "Float");
        assert!(difference(&c, &fresh) < close, "Clear");
        assert!(
            difference(&secure, &fresh) < close,
            "Secure: {} at {}",
            difference(&secure, &fresh),
            step.keep
        );
        if let Some(stale) = stale {
            assert!(difference(&stale, &fresh) > 4.0 * close, "the drafts make no difference");
            taken_back += 1;
        }
        let work = Dry::pass(&dry, n, &mut cd, all);
        let (measured, declared) = (done.cost, work.ledger);
        assert_eq!((measured.exchanges, measured.sent), (declared.exchanges, declared.sent), "declared cost");
    }
    assert_eq!(taken_back, 2);
}

#[test]
fn passes_after_a_roll_back_are_those_of_the_kept_tokens_at_the_declared_cost() {
    check(ModelConfig::toy());
    check(ModelConfig::toy_gpt2());
}

#[test]
fn a_pass_over_drafts_has_the_exchanges_of_a_pass_over_one_token() {
    let (_, shared) = shared(ModelConfig::toy());
    let tables = shared.public.plan.tables(&kernels::cpu::Cpu::best(), &shared.public.config);
    let dry = Dry::model(&shared.public.config, &tables);
    let exchanges = |count| {
        let mut cache = Cache::new(&dry.config);
        Dry::pass(&dry, 6, &mut cache, OutputRows::Last);
        Dry::pass(&dry, count, &mut cache, OutputRows::All).ledger.exchanges
    };
    assert_eq!(exchanges(5), exchanges(1));
}

/// Values of so many bits that no two are equal by chance.
fn words(sent: &[Sent]) -> Vec<(u8, u64)> {
    let broad = sent.iter().filter(|s| s.bits >= 48);
    broad.flat_map(|s| s.values.iter().map(|&v| (s.lane, v))).collect()
}

fn equal(a: &[Sent], b: &[Sent]) -> usize {
    words(a).iter().zip(&words(b)).filter(|(a, b)| a == b).count()
}

#[test]
fn what_is_computed_again_after_a_roll_back_is_masked_by_fresh_words() {
    let (_, shared) = shared(ModelConfig::toy());
    let (prompt, drafts) = ([3, 1, 4, 1, 5], [9, 2, 6, 5]);
    // The same tokens at the same positions, twice; the pad registry would stop a session that drew a stream again.
    let again = [step(0, &prompt), step(5, &drafts), step(5, &drafts)];
    let passes = run_steps(&shared, 8, &again, OutputRows::All);
    let apart = difference(&wide(&passes[1].outputs), &wide(&passes[2].outputs));
    assert!(apart < 4e-3 * largest(&wide(&passes[1].outputs)), "the same computation: {apart}");
    // What the second pass would look like if operations were counted from the roll-back on: the session's keys, the same
    // operation numbers, the same values.
    let rewound = run_steps(&shared, 8, &again[..2], OutputRows::All);
    for role in 0..3 {
        let [first, second, rewound] = [&passes[1], &passes[2], &rewound[1]].map(|p| &p.sent[role]);
        let layout = |sent: &[Sent]| -> Vec<_> {
            sent.iter().map(|s| (s.to, s.lane, s.bits, s.values.len())).collect()
        };
        assert_eq!(layout(first), layout(second));
        let n = words(first).len();
        assert!(n > 4000, "P{role} sends {n} words");
        assert_eq!(equal(first, rewound), n, "P{role}: this test sees masks that are used again");
        assert_eq!(equal(first, second), 0, "P{role}: masks are used again");
        // Operations are numbered on.
        let last = first.iter().map(|s| s.op).max();
        assert!(second.iter().all(|s| Some(s.op) > last), "P{role}");
    }
}
