//! Gated activations of wide range: which tables a plan has for them, what it may not have, and a model that needs them.

mod read;
mod secret;

use models::algebra::SCALE;
use models::checkpoint::{
    CheckpointError, Kind, LayerTensor, ModelConfig, RandomModel, TensorId, TensorSource,
};
use models::dry::Dry;
use models::model::{Cache, OutputRows};
use models::plan::{FACTOR_SCALE, Plan, Polynomials, Step, TablePlan};
use models::shared::PublicModel;
use protocol::Ledger;
use protocol::gates::table::silu;
use protocol::gates::{glu, truncate};
use read::{Readings, all_tokens, difference, largest};
use secret::{run, share};

#[test]
fn lines_where_they_are_few_or_products_large() {
    for product in [0, 11, 12, 13, 14, 19] {
        for range in 1..=8 {
            let (plan, lines) = (TablePlan::gated(range, product), range <= 4 || product > 13);
            assert_eq!(plan.polynomials == Polynomials::Lines, lines, "{plan:?}");
            // 1/4, or 1/8 where lines of 1/16 are better than quadratics with fewer bits.
            let to_a_unit = match (lines, product) {
                (true, _) => 4,
                (false, 12 | 13) if range < 8 => 3,
                (false, _) => 2,
            };
            assert_eq!(plan.entries_log2, (range + 1 + to_a_unit).min(12), "{plan:?}");
            assert_eq!((plan.range_log2, plan.product_log2), (range, Some(product)));
        }
    }
}

/// A plan comes from outside.
#[test]
fn impossible_tables_are_refused() {
    let (llama, gpt2) = (ModelConfig::toy(), ModelConfig::toy_gpt2());
    let check = |c: &ModelConfig, activation: TablePlan| {
        let mut plan = Plan::typical(c);
        plan.layers[1].activation = activation;
        plan.validate(c)
    };
    let (lines, quadratics) = (TablePlan::covering(5, Step::Gated, Some(19)), TablePlan::gated(5, 13));
    let alone = TablePlan::covering(5, Step::Activation, None);
    for (config, plan) in [(&llama, lines), (&llama, quadratics), (&gpt2, alone)] {
        assert_eq!(check(config, plan), Ok(()));
    }
    let wrong_for_llama = [
        TablePlan { product_log2: Some(20), ..lines },
        // The ring would have 65 bits.
        TablePlan { product_log2: Some(14), ..quadratics },
        TablePlan { product_log2: Some(u32::MAX), ..quadratics },
        TablePlan { polynomials: Polynomials::Quadratics, ..lines },
        TablePlan { entries_log2: 13, ..quadratics },
        TablePlan { entries_log2: 3, ..quadratics },
        TablePlan { range_log2: 9, ..quadratics },
        TablePlan { range_log2: 0, ..quadratics },
        TablePlan { product_log2: None, ..quadratics },
        TablePlan { product_log2: None, ..lines },
    ];
    let wrong_for_gpt2 = [
        TablePlan { polynomials: Polynomials::Lines, ..alone },
        TablePlan { product_log2: Some(11), ..alone },
        lines,
        quadratics,
    ];
    let wrong = wrong_for_llama.map(|p| (&llama, p)).into_iter().chain(wrong_for_gpt2.map(|p| (&gpt2, p)));
    for (config, plan) in wrong {
        let error = check(config, plan).unwrap_err();
        assert!(error.contains("layer 1: impossible table parameters"), "{plan:?}: {error}");
    }
    // What travels names one of the two.
    let text = serde_json::to_string(&quadratics).unwrap();
    assert_eq!(serde_json::from_str::<TablePlan>(&text).unwrap(), quadratics);
    let field = "\"polynomials\":\"Quadratics\",";
    assert!(text.contains(field), "{text}");
    for other in ["", "\"polynomials\":\"Cubics\",", "\"polynomials\":2,"] {
        assert!(serde_json::from_str::<TablePlan>(&text.replace(field, other)).is_err(), "{other}");
    }
}

/// The table of decision 28. The tests of the gates hold declared costs against measured ones.
#[test]
fn bytes_of_an_element() {
    const N: usize = 64;
    let device = kernels::cpu::Cpu::best();
    let bytes = |plan: TablePlan| {
        let t = plan.table(&device, silu).gated().clone();
        let gate = glu::cost(N, &*t.table, FACTOR_SCALE, t.bits, SCALE, 64);
        // Of the other factor, which is needed with the bits of the products.
        let factor = truncate::cost_between(N, 63, 2 * SCALE - FACTOR_SCALE, t.bits);
        [gate, factor].map(|cost| {
            let mut ledger = Ledger::default();
            ledger += &cost;
            ledger.sent.iter().flatten().sum::<u64>() as f64 / N as f64
        })
    };
    for (product, range, lines, quadratics) in [
        (11, 4, [151.75, 15.125], [148.25, 18.875]),
        (11, 5, [215.75, 15.125], [164.25, 18.875]),
        (11, 6, [343.75, 15.125], [196.25, 18.875]),
        (11, 7, [599.75, 15.125], [260.25, 18.875]),
        (13, 5, [218.0, 15.875], [196.0, 18.875]),
        (13, 7, [602.0, 15.875], [388.0, 18.875]),
    ] {
        let step = if product == 11 { Step::GatedWide } else { Step::GatedLarge };
        let at = |step| TablePlan::covering(range, step, Some(product));
        let found = [at(Step::Gated), at(step)].map(bytes);
        println!(
            "±{}, products to 2^{product}: {:?} by lines, {:?} by quadratics",
            1 << range,
            found[0],
            found[1]
        );
        assert_eq!(found, [lines, quadratics]);
        assert!(range == 4 || TablePlan::gated(range, product) == at(step));
    }
}

/// Parties with different polynomials do not begin.
#[test]
fn the_digest_tells_lines_from_quadratics() {
    let (config, device) = (ModelConfig::toy(), kernels::cpu::Cpu::best());
    let digest = |activation: TablePlan| {
        let mut plan = Plan::typical(&config);
        plan.layers[0].activation = activation;
        plan.tables(&device, &config).digest(&config, &plan)
    };
    let lines = TablePlan { entries_log2: 8, ..TablePlan::covering(5, Step::Gated, Some(11)) };
    let quadratics = TablePlan::gated(5, 11);
    assert_eq!(TablePlan { polynomials: Polynomials::Quadratics, ..lines }, quadratics);
    assert_eq!(digest(lines), digest(lines));
    assert_ne!(digest(lines), digest(quadratics));
}

/// A random model whose gates get large values, by a factor for each layer; what comes out of them is made as much smaller.
struct WideGates {
    model: RandomModel,
    factors: [f32; 2],
}

impl TensorSource for WideGates {
    fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    fn load(&mut self, which: TensorId) -> Result<Vec<f32>, CheckpointError> {
        let mut data = self.model.load(which)?;
        let factor = match which {
            TensorId::Layer(i, LayerTensor::Gate, Kind::Weight) => self.factors[i],
            TensorId::Layer(i, LayerTensor::Down, Kind::Weight) => 1.0 / self.factors[i],
            _ => 1.0,
        };
        data.iter_mut().for_each(|w| *w *= factor);
        Ok(data)
    }
}

/// Calibration chooses quadratics for the layer that needs a wide table, and lines for the other; Secure computes what
/// Clear and Float do, at the declared cost.
#[test]
fn a_model_with_wide_gates_is_computed_in_secret_at_the_declared_cost() {
    let config = ModelConfig::toy();
    let model = RandomModel::new(config.clone(), 51).unwrap();
    let mut source = WideGates { model, factors: [1.0, WIDE] };
    let texts = all_tokens(&config);
    let r = Readings::calibrated(&mut source, &texts);
    let [narrow, wide] = [0, 1].map(|i| r.plan.layers[i].activation);
    println!("{narrow:?}, {wide:?}");
    assert_eq!(narrow.polynomials, Polynomials::Lines);
    assert_eq!((wide.polynomials, wide), (Polynomials::Quadratics, TablePlan::gated(wide.range_log2, 11)));
    assert!(wide.range_log2 >= 5);
    let shared = share(&mut source, &texts);
    assert_eq!(PublicModel::from_bytes(&shared.public.to_bytes()).unwrap().plan, r.plan);
    let tables = r.plan.tables(&r.device, &config);
    let (dry, mut cache) = (Dry::model(&config, &tables), Cache::new(&config));
    let passes = [vec![0, 9, 4, 33, 21, 8], vec![17], vec![2, 44]];
    let (mut before, outputs) = (vec![], run(&shared, 3, &passes, OutputRows::All));
    for (ids, (secure, ledger)) in passes.iter().zip(outputs) {
        before.extend(ids);
        let last = |all: Vec<f64>| all[all.len() - secure.len()..].to_vec();
        let (clear, float) = (last(r.clear(&before, None).unwrap()), last(r.float(&before, None)));
        let secure: Vec<f64> = secure.iter().map(|v| f64::from(*v)).collect();
        let size = largest(&float);
        assert!(size > 0.1, "scores of no size prove nothing");
        let (of_clear, of_secure) = (difference(&clear, &float) / size, difference(&secure, &clear) / size);
        println!("{ids:?}: largest {size:.2}, Clear {of_clear:.1e}, Secure {of_secure:.1e}");
        assert!(of_clear < 2e-3 && of_secure < 2e-3, "{ids:?}");
        let work = Dry::pass(&dry, ids.len(), &mut cache, OutputRows::All);
        let declared = (work.ledger.exchanges, work.ledger.sent);
        assert_eq!((ledger.exchanges, ledger.sent), declared, "declared cost");
    }
}

/// Gates of the toy stay within ±16; this makes them several times as large, and products not larger than 2^11.
const WIDE: f32 = 12.0;
