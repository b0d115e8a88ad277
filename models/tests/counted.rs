//! Declared multiplications and memory against those that a device counts while three parties compute.

mod read;
mod secret;

use models::checkpoint::{ModelConfig, RandomModel};
use models::dry::{Dry, Local};
use models::model::{Cache, OutputRows};
use models::parameter::{Parameter, Use};
use read::all_tokens;
use secret::counting::{Counting, Counts};
use secret::{run, share_on};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a party's device did for weights and attention. Row gates multiply with small matrices of their own.
fn local(counts: &Counts, weights: &BTreeSet<(usize, usize)>) -> Local {
    let [attention, read] = counts.batches;
    let mut local = Local { attention, read, ..Local::default() };
    for (shape, [products, read]) in &counts.matrices {
        if weights.contains(shape) {
            local.weights += products;
            local.low += counts.low.get(shape).copied().unwrap_or_default();
            local.read += read;
        }
    }
    local
}

#[test]
fn what_is_declared_is_what_a_device_counts() {
    for config in [ModelConfig::toy(), ModelConfig::toy_gpt2(), ModelConfig::toy_bert()] {
        let mut source = RandomModel::new(config.clone(), 5).unwrap();
        let counting = [(); 3].map(|()| Counting::new());
        let devices = counting.clone().map(|device| device as Arc<_>);
        let shared = share_on(&mut source, &all_tokens(&config), devices);
        let config = &shared.public.config;
        let parameters = Parameter::all(config);
        let weights: BTreeSet<_> = parameters
            .iter()
            .filter(|p| matches!(p.usage(), Use::Table | Use::Matrix))
            .flat_map(|p| {
                let words = p.shared(config);
                // A table is one of outputs for each token.
                [(words.cols, words.rows), (words.rows, words.cols)]
            })
            .collect();
        let tables = shared.public.plan.tables(&kernels::cpu::Cpu::best(), config);
        let dry = Dry::model(config, &tables);
        let mut cache = Cache::new(config);
        let passes = [vec![3u32, 1, 4, 1, 5, 9], vec![2], vec![6, 0]];
        counting.iter().for_each(|device| drop(device.take()));
        let done = run(&shared, 1, &passes, OutputRows::Last);
        let counted = counting.map(|device| device.take());
        let mut declared = [Local::default(); 3];
        for tokens in &passes {
            let work = Dry::pass(&dry, tokens.len(), &mut cache, OutputRows::Last);
            assert_eq!(work.weight_macs, work.local.iter().map(|l| l.weights).sum::<u64>());
            declared.iter_mut().zip(&work.local).for_each(|(all, more)| all.add(more));
        }
        assert_eq!(counted.each_ref().map(|c| local(c, &weights)), declared, "{:?}", config.family);
        assert!(declared.iter().all(|l| l.weights > l.low && l.low > 0 && l.attention > 0 && l.read > 0));
        // What floors take random words to be at least: a byte at each of two parties for a byte sent.
        let random: u64 = counted.iter().map(|c| c.random).sum();
        let sent: u64 = done.iter().flat_map(|(_, ledger)| ledger.sent.iter().flatten()).sum();
        println!("{}: {random} random bytes, {sent} sent", config.family.name());
        assert!(random >= 2 * sent);
    }
}
