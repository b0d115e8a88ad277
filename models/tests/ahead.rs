//! A dealer that works ahead changes when things are sent, and nothing else: not a word, not a mask, not the cost. What it
//! deals for nothing leaves no trace in what follows.

mod read;
mod secret;

use models::checkpoint::{ModelConfig, RandomModel};
use models::clear::Clear;
use models::dry::Dry;
use models::float::complete;
use models::model::{Cache, OutputRows};
use models::shared::Stepwise;
use protocol::Sent;
use read::{all_tokens, difference, largest, numbers};
use secret::{Done, Plan, Shared, Step, run_ahead, share};
use std::collections::BTreeSet;

const PROMPT: [u32; 5] = [3, 1, 4, 1, 5];

fn shared(config: ModelConfig) -> (RandomModel, Shared) {
    let mut source = RandomModel::new(config.clone(), 5).unwrap();
    let shared = share(&mut source, &all_tokens(&config));
    (source, shared)
}

/// A prompt, then tokens one by one.
fn one_by_one(tokens: &[u32]) -> Vec<Step> {
    let singles = tokens.iter().enumerate().map(|(i, t)| Step { keep: PROMPT.len() + i, tokens: vec![*t] });
    [Step { keep: 0, tokens: PROMPT.to_vec() }].into_iter().chain(singles).collect()
}

fn plan(passes: usize, calls: usize) -> Plan {
    let stepwise = Some(Stepwise { from: PROMPT.len(), to: PROMPT.len() + 6 });
    Plan { passes, stepwise, calls, capacity: usize::MAX }
}

/// What a party sent in all passes, in the order of operations.
fn words(done: &[Done], role: usize) -> Vec<(u64, u8, Vec<u64>)> {
    let mut all: Vec<_> = done.iter().flat_map(|d| &d.sent[role]).map(key).collect();
    all.sort();
    all
}

fn key(s: &Sent) -> (u64, u8, Vec<u64>) {
    (s.op, s.lane, s.values.clone())
}

/// All masks are used once, by one party.
fn assert_fresh(done: &[Done]) {
    let pads = &done.last().unwrap().pads;
    let distinct: BTreeSet<_> = pads.iter().collect();
    assert_eq!(distinct.len(), pads.len(), "a mask was used twice");
}

fn outputs(done: &[Done]) -> Vec<&[f32]> {
    done.iter().map(|d| &d.outputs[..]).collect()
}

#[test]
fn the_same_words_travel_ahead_of_their_request() {
    for config in [ModelConfig::toy(), ModelConfig::toy_gpt2()] {
        let (_, shared) = shared(config);
        let steps = one_by_one(&[9, 2, 6, 5]);
        let off = run_ahead(&shared, 3, &steps, OutputRows::Last, Plan::NONE);
        assert!(off.iter().all(|d| d.dealing.ahead.bytes == 0 && d.dealing.wasted.bytes == 0));
        // From a single round to more than it may.
        for (passes, calls) in [(1, usize::MAX), (3, usize::MAX), (3, 1), (3, 30), (1, 500)] {
            let on = run_ahead(&shared, 3, &steps, OutputRows::Last, plan(passes, calls));
            assert_eq!(outputs(&on), outputs(&off), "{passes} passes, {calls} calls");
            for role in 0..3 {
                // The last of those dealt ahead were not asked for.
                let (mut on, off) = (words(&on, role), words(&off, role));
                let asked: BTreeSet<u64> = off.iter().map(|w| w.0 >> 32).collect();
                on.retain(|w| asked.contains(&(w.0 >> 32)));
                assert_eq!(on, off, "P{role}, {passes} passes, {calls} calls");
            }
            for (on, off) in on.iter().zip(&off) {
                assert_eq!((on.cost.sent, on.cost.exchanges), (off.cost.sent, off.cost.exchanges));
                let (ahead, asked) = (on.dealing.ahead.bytes, on.dealing.asked.bytes);
                assert_eq!(ahead + asked, off.dealing.asked.bytes, "the dealer's bytes, before and since");
            }
            assert_fresh(&on);
            // The dealer's products of weights and masks: of four passes in `passes` + 1 at once, from the first of them on,
            // and of passes that were not asked for in the end. The evaluators' products depend on data.
            let matrices = 4 * shared.public.config.layers as u64 + 1;
            let made = on.last().unwrap().made_ahead;
            let expected = matrices * if passes == 1 { 2 } else { 3 };
            assert!(made[0] >= expected, "{passes} passes, {calls} calls: {}", made[0]);
            assert_eq!(made[1..], [0; 2], "{passes} passes, {calls} calls");
            if calls == usize::MAX {
                // All but its part of the embedding: three words for each of the row, and two signs.
                let asked = (3 * shared.public.config.d_model as u64 / 2 + 2) * 8;
                assert!(
                    on[1..].iter().all(|d| d.dealing.asked.bytes == asked && d.dealing.ahead.bytes > asked)
                );
            }
        }
    }
}

/// Passes that are not what was dealt for: of two tokens, and of drafts, which are taken back.
fn other_steps() -> Vec<Step> {
    let step = |keep, tokens: &[u32]| Step { keep, tokens: tokens.to_vec() };
    vec![
        step(0, &PROMPT),
        step(5, &[9]),
        step(6, &[2, 6]),
        step(8, &[5]),
        step(9, &[3]),
        step(8, &[7]),
        step(9, &[1, 4]),
    ]
}

#[test]
fn what_is_dealt_for_nothing_leaves_no_trace() {
    for config in [ModelConfig::toy(), ModelConfig::toy_gpt2()] {
        let (mut source, shared) = shared(config.clone());
        let device = kernels::cpu::Cpu::best();
        let tables = shared.public.plan.tables(&device, &config);
        let clear = Clear::load(&device, &mut source, &tables).unwrap();
        let dry = Dry::model(&config, &tables);
        let steps = other_steps();
        // Discarded in the middle of its first pass, or of its second, or after its last.
        let all: Vec<Vec<Done>> = [1, 2, 40, usize::MAX]
            .map(|calls| run_ahead(&shared, 3, &steps, OutputRows::Last, plan(1, calls)))
            .into();
        // Whatever was dealt of a run before it was thrown away, what comes after it is the same to the bit.
        for other in &all[1..] {
            assert_eq!(outputs(other), outputs(&all[0]));
            for role in 1..3 {
                assert_eq!(words(other, role), words(&all[0], role));
            }
        }
        let more = run_ahead(&shared, 3, &steps, OutputRows::Last, plan(3, usize::MAX));
        for done in all.iter().chain([&more]) {
            let (mut cc, mut cd) = (Cache::new(&config), Cache::new(&config));
            for (step, done) in steps.iter().zip(done) {
                cc.cut(step.keep);
                cd.cut(step.keep);
                let (n, last) = (step.tokens.len(), OutputRows::Last);
                let c =
                    complete(clear.forward(&Clear::new(&device), &step.tokens, n, &mut cc, last)).unwrap();
                let c = numbers(&c);
                let secure: Vec<f64> = done.outputs.iter().map(|&v| v.into()).collect();
                assert!(difference(&secure, &c) < 4e-3 * largest(&c).max(1.0), "at {}", step.keep);
                let declared = Dry::pass(&dry, n, &mut cd, last).ledger;
                assert_eq!((done.cost.exchanges, done.cost.sent), (declared.exchanges, declared.sent));
            }
            assert_fresh(done);
            // Everything the dealer sent is accounted for: bytes of passes, and bytes for nothing.
            let wasted: u64 = done.iter().map(|d| d.dealing.wasted.bytes).sum();
            let passes: u64 = done.iter().map(|d| d.dealing.ahead.bytes + d.dealing.asked.bytes).sum();
            assert_eq!(passes + wasted, done.last().unwrap().dealt);
        }
        assert!(more.iter().map(|d| d.dealing.wasted.bytes).sum::<u64>() > 0);
        // No run of the evaluators' is one that was thrown away.
        let runs = |role: usize| -> BTreeSet<u64> { words(&more, role).iter().map(|w| w.0 >> 32).collect() };
        assert_eq!(runs(1).len(), steps.len());
        assert!(runs(0).len() > steps.len() && runs(0).is_superset(&runs(1)) && runs(1) == runs(2));
    }
}

/// A client that takes its time: no more is on its way than links hold, and the rest follows when it asks.
#[test]
fn links_bound_what_is_dealt_ahead() {
    let (_, shared) = shared(ModelConfig::toy());
    let steps = one_by_one(&[9, 2, 6, 5]);
    let off = run_ahead(&shared, 3, &steps, OutputRows::Last, Plan::NONE);
    let pass = off[1].dealing.asked.bytes;
    for capacity in [1000, 20_000, pass as usize, 2 * pass as usize] {
        let bounded = Plan { capacity, ..plan(4, usize::MAX) };
        let on = run_ahead(&shared, 3, &steps, OutputRows::Last, bounded);
        assert_eq!(outputs(&on), outputs(&off), "{capacity}");
        let most = on.iter().map(|d| d.dealing.ahead.bytes).max().unwrap();
        assert!(most > 0, "{capacity}");
        // To each evaluator; a link holds a larger message by itself.
        assert!(
            most <= 2 * capacity as u64 + 60_000 && (capacity > 20_000 || most < pass),
            "{most} of {capacity}"
        );
    }
}
