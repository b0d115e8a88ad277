//! What a party holds of a model: two of the three components of every parameter, whoever deals.
//!
//! A parameter is w = c01 + c02 + c12, each component held by the two parties that its name says: c01 and c02 as seeds,
//! c12 in full. Where party d deals, P1 is the party after it and P2 the one before it, so
//! ```text
//!                  λ1        λ0        Δ
//! dealer 0         c01       c02       c12
//! dealer 1         c12       c01       c02
//! dealer 2         c02       c12       c01
//! ```
//! and what a party needs in any role is made of its own two components, the one it holds with the party *before* it
//! and the one with the party *after* it:
//! ```text
//! dealer  λ = before + after      P1  λ1 = before, Δ = after      P2  λ0 = after, Δ = before
//! ```
//! Matrices are multiplied as [`SharedMatrix`] says: by the sum of both at the dealer and, with Δ apart, at P1.
//!
//! Components of matrices whose seed a party has need not be stored ([`Weights::Regenerated`]): it then multiplies by c12
//! and by a stream, or, party 0, by two streams, whatever its role.
//!
//! Memory: 8 bytes a weight for the dealer's role alone, 16 for one evaluator's, 24 for all three (the dealer keeps the
//! components of the embedding table apart, as the evaluators do); with regenerated components, of matrices 8 at parties 1
//! and 2 and none at party 0, in every role. Each is made when it is first needed and shared by
//! all sessions.

use super::{SharedModelError, Weights};
use crate::checkpoint::ModelConfig;
use crate::model::{ActivationId, Model, NormId, Parts};
use crate::parameter::{Parameter, Use};
use crate::plan::{FunctionTable, PlanTables};
use crate::secure::SecureValues;
use kernels::{Device, Matrix, Words};
use protocol::gates::embedding::SharedTable;
use protocol::gates::input;
use protocol::gates::norm::NormTable;
use protocol::gates::softmax::SoftmaxTables;
use protocol::{Component, DrawnMatrix, Party, Role, Seed, Shape, Share, SharedMatrix};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// Which of its two components: the one that a party holds with the party before it, or with the one after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

/// A component, or the sum of two, in the form in which it is used.
#[derive(Clone)]
enum Values {
    Matrix(Matrix),
    Drawn(DrawnMatrix),
    Rows(Words),
}

impl Values {
    fn new(words: Words, usage: Use, shape: Shape) -> Values {
        match usage {
            Use::Table | Use::Matrix => Values::Matrix(Matrix::new(&words, shape.rows, shape.cols)),
            Use::Rows => Values::Rows(words),
        }
    }

    fn plus(&self, other: &Values) -> Values {
        match (self, other) {
            (Values::Matrix(a), Values::Matrix(b)) => Values::Matrix(a.plus(b)),
            (Values::Rows(a), Values::Rows(b)) => Values::Rows(a + b),
            _ => unreachable!("components that are added have one form"),
        }
    }
}

/// One party's components of a model.
pub(super) struct Holding {
    device: Device,
    party: Party,
    config: ModelConfig,
    /// Of the components before and after this party; the one without a seed was sent in full.
    seeds: [Option<Seed>; 2],
    weights: Weights,
    parameters: HashMap<Parameter, Held>,
}

/// Components of one parameter, as far as they are there already.
struct Held {
    stream: u32,
    sides: [OnceLock<Values>; 2],
    sum: OnceLock<Values>,
}

impl Holding {
    /// Of one party with its seeds.
    ///
    /// # Errors
    /// They are not this party's.
    pub(super) fn new(
        device: &Device,
        party: Party,
        config: &ModelConfig,
        seeds: &[u8],
    ) -> Result<Holding, SharedModelError> {
        let wrong = || SharedModelError::Upload(format!("{} bytes of seeds for {party}", seeds.len()));
        let (keys, rest) = seeds.as_chunks::<32>();
        let seeds = match (party, keys) {
            _ if !rest.is_empty() => return Err(wrong()),
            (Party::Zero, [c01, c02]) => [Some(c02), Some(c01)],
            (Party::One, [c01]) => [Some(c01), None],
            (Party::Two, [c02]) => [None, Some(c02)],
            _ => return Err(wrong()),
        };
        let held = |stream| Held { stream, sides: Default::default(), sum: OnceLock::new() };
        let parameters = Parameter::all(config).into_iter().zip((0..).map(held)).collect();
        let (seeds, weights) = (seeds.map(|seed| seed.map(Seed::new)), Weights::Stored);
        Ok(Holding { device: device.clone(), party, config: config.clone(), seeds, weights, parameters })
    }

    /// The same, which keeps its matrices so.
    pub(super) fn keeping(self, weights: Weights) -> Holding {
        Holding { weights, ..self }
    }

    fn shape(&self, p: Parameter) -> Shape {
        let (rows, cols) = p.shape(&self.config);
        Shape::new(rows, cols)
    }

    /// Takes the component of a parameter that comes in full.
    ///
    /// # Errors
    /// There is none at this party, or its size is wrong.
    pub(super) fn put(&self, p: Parameter, values: Words) -> Result<(), SharedModelError> {
        let shape = self.shape(p);
        if values.len() != shape.len() {
            let what = format!("{p:?} has {} values, {} are needed", values.len(), shape.len());
            return Err(SharedModelError::Upload(what));
        }
        let side = self.seeds.iter().position(Option::is_none);
        let place = side.and_then(|side| Some(&self.parameters.get(&p)?.sides[side]));
        let unwanted = || SharedModelError::Upload(format!("values of {p:?} for {}", self.party));
        place.ok_or_else(unwanted)?.set(Values::new(values, p.usage(), shape)).map_err(|_| unwanted())
    }

    /// Whether everything has come that comes in full.
    pub(super) fn check(&self) -> Result<(), SharedModelError> {
        let here = |h: &Held| self.seeds.iter().zip(&h.sides).all(|(s, v)| s.is_some() || v.get().is_some());
        match self.parameters.iter().find(|(_, held)| !here(held)) {
            Some((&p, _)) => Err(missing(p)),
            None => Ok(()),
        }
    }

    /// A component of a parameter; `keep` keeps it for others.
    fn component(&self, p: Parameter, side: Side, keep: bool) -> Result<Values, SharedModelError> {
        let held = self.parameters.get(&p).ok_or_else(|| missing(p))?;
        let (place, seed) = (&held.sides[side as usize], &self.seeds[side as usize]);
        let expand = |seed: &Seed| {
            let shape = self.shape(p);
            if p.usage() == Use::Matrix && self.weights == Weights::Regenerated {
                return Values::Drawn(DrawnMatrix::new(seed, held.stream, shape.rows, shape.cols));
            }
            let words = input::component(&self.device, seed.key(), held.stream, shape.len());
            Values::new(words, p.usage(), shape)
        };
        match (place.get(), seed) {
            (Some(values), _) => Ok(values.clone()),
            (None, Some(seed)) if keep => {
                let values = self.made(expand(seed))?;
                Ok(place.get_or_init(|| values).clone())
            }
            (None, Some(seed)) => Ok(expand(seed)),
            (None, None) => Err(missing(p)),
        }
    }

    /// Both components together.
    fn sum(&self, p: Parameter) -> Result<Values, SharedModelError> {
        let held = self.parameters.get(&p).ok_or_else(|| missing(p))?;
        if let Some(sum) = held.sum.get() {
            return Ok(sum.clone());
        }
        let sum = self.component(p, Side::Before, false)?.plus(&self.component(p, Side::After, false)?);
        let sum = self.made(sum)?;
        Ok(held.sum.get_or_init(|| sum).clone())
    }

    /// What the device made, if it did: what it failed to make has no content, and is not kept for other sessions.
    fn made(&self, values: Values) -> Result<Values, SharedModelError> {
        match self.device.status() {
            Ok(()) => Ok(values),
            Err(e) => Err(SharedModelError::Device { party: self.party, what: e.to_string() }),
        }
    }

    /// What a role takes of a parameter: the dealer λ alone; an evaluator its half of λ, and Δ.
    fn values(&self, p: Parameter, role: Role) -> Result<(Values, Option<Values>), SharedModelError> {
        let component = |side, keep| self.component(p, side, keep);
        Ok(match role {
            Role::Dealer => (self.sum(p)?, None),
            Role::P1 => (component(Side::Before, true)?, Some(component(Side::After, true)?)),
            Role::P2 => (component(Side::After, true)?, Some(component(Side::Before, true)?)),
        })
    }

    /// The model as this party computes with it in a role.
    pub(super) fn model(
        &self,
        role: Role,
        tables: &PlanTables,
    ) -> Result<Model<SecureValues>, SharedModelError> {
        Model::build(&self.config, &mut Reading { holding: self, role, tables })
    }
}

fn missing(p: Parameter) -> SharedModelError {
    SharedModelError::Upload(format!("{p:?} is missing"))
}

/// A holding, read in one role.
struct Reading<'h> {
    holding: &'h Holding,
    role: Role,
    tables: &'h PlanTables,
}

impl Parts<SecureValues> for Reading<'_> {
    type Error = SharedModelError;

    fn table(&mut self) -> Result<SharedTable, SharedModelError> {
        let p = Parameter::Embedding;
        // λ1 and λ0; λ1 and Δ; λ0 and Δ.
        let sides = match self.role {
            Role::Dealer | Role::P2 => [Side::After, Side::Before],
            Role::P1 => [Side::Before, Side::After],
        };
        let matrix = |side| match self.holding.component(p, side, true)? {
            Values::Matrix(m) => Ok(m),
            _ => Err(missing(p)),
        };
        Ok(SharedTable::of([matrix(sides[0])?, matrix(sides[1])?], p.scale()))
    }

    fn matrix(&mut self, p: Parameter) -> Result<SharedMatrix, SharedModelError> {
        let component = |side| self.holding.component(p, side, true);
        if self.holding.weights == Weights::Regenerated {
            let [own, other] = match self.role {
                Role::Dealer | Role::P1 => [Side::Before, Side::After],
                Role::P2 => [Side::After, Side::Before],
            };
            let kept = |side| match component(side)? {
                Values::Matrix(m) => Ok(Component::Stored(m)),
                Values::Drawn(d) => Ok(Component::Drawn(d)),
                Values::Rows(_) => Err(missing(p)),
            };
            return Ok(SharedMatrix::of_components(p.scale(), self.role, [kept(own)?, kept(other)?]));
        }
        let (by_lambda, by_delta) = match self.role {
            Role::Dealer => (self.holding.sum(p)?, None),
            Role::P1 => (component(Side::After)?, Some(self.holding.sum(p)?)),
            Role::P2 => (component(Side::Before)?, Some(component(Side::After)?)),
        };
        let matrix = |values| match values {
            Values::Matrix(m) => Ok(m),
            _ => Err(missing(p)),
        };
        let by_delta = by_delta.map(matrix).transpose()?;
        Ok(SharedMatrix::stored(p.scale(), matrix(by_lambda)?, by_delta))
    }

    fn bits(&self, p: Parameter) -> u32 {
        self.tables.bits(p)
    }

    fn rows(&mut self, p: Parameter) -> Result<Share, SharedModelError> {
        let shape = self.holding.shape(p);
        match self.holding.values(p, self.role)? {
            (Values::Rows(lambda), Some(Values::Rows(delta))) => {
                Ok(Share { shape, scale: p.scale(), delta: Some(delta), lambda })
            }
            (Values::Rows(lambda), None) => Ok(Share { shape, scale: p.scale(), delta: None, lambda }),
            _ => Err(missing(p)),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::RandomModel;
    use crate::folded;
    use crate::shared::Seeds;
    use kernels::cuda::Cuda;
    use kernels_shim::{Failing, Order, Shim};

    const SEEDS: Seeds = Seeds { one: [1; 32], zero: [2; 32] };

    fn device() -> Device {
        kernels::cpu::Cpu::best()
    }

    /// The words of a value, a matrix row by row.
    fn words(v: &Values) -> Vec<u64> {
        let of = |component: Component| {
            let (n, k) = (component.outputs(), component.inputs());
            let unit = (0..k * k).map(|i| u64::from(i / k == i % k)).collect();
            let columns = component.apply(&Words::upload(&device(), unit)).to_vec();
            (0..n * k).map(|i| columns[i % k * n + i / k]).collect()
        };
        match v {
            Values::Rows(w) => w.to_vec(),
            Values::Matrix(m) => of(Component::Stored(m.clone())),
            Values::Drawn(d) => of(Component::Drawn(d.clone())),
        }
    }

    fn sum(parts: &[&Vec<u64>]) -> Vec<u64> {
        (0..parts[0].len()).map(|i| parts.iter().fold(0u64, |s, p| s.wrapping_add(p[i]))).collect()
    }

    /// A parameter's words, and its three components by the party that lacks them, from the seeds.
    fn components(source: &mut RandomModel, index: usize, p: Parameter) -> (Vec<u64>, [Vec<u64>; 3]) {
        let w = p.encode(&folded::load(source, p).unwrap());
        let stream = |seed| input::component(&device(), seed, index as u32, w.len()).to_vec();
        let (c01, c02) = (stream(&SEEDS.one), stream(&SEEDS.zero));
        let c12 = (0..w.len()).map(|i| w[i].wrapping_sub(c01[i]).wrapping_sub(c02[i])).collect();
        (w, [c12, c02, c01])
    }

    /// All parties' holdings as an owner makes them.
    fn holdings(config: &ModelConfig, source: &mut RandomModel) -> [Holding; 3] {
        Party::ALL.map(|party| {
            let seeds = SEEDS.for_party(party);
            let holding = Holding::new(&device(), party, config, &seeds).unwrap();
            for (i, p) in Parameter::all(config).into_iter().enumerate() {
                let rest = SEEDS.rest(&device(), i, 0, p.encode(&folded::load(source, p).unwrap()));
                match party {
                    Party::Zero => assert!(holding.put(p, rest).is_err(), "P0 takes no values"),
                    _ => {
                        assert!(holding.check().is_err(), "{p:?} is missing");
                        holding.put(p, rest.clone()).unwrap();
                        assert!(holding.put(p, rest).is_err(), "{p:?} twice");
                    }
                }
            }
            holding.check().unwrap();
            holding
        })
    }

    /// Whatever a party makes of its share in any role is a sum of its own two components, and the roles' parts are those
    /// of one sharing, whoever deals.
    #[test]
    fn no_party_ever_has_the_third_component() {
        let configs = [ModelConfig::toy(), ModelConfig::toy_gpt2(), ModelConfig::toy_bert()];
        for config in configs {
            let mut source = RandomModel::new(config.clone(), 3).unwrap();
            let holdings = holdings(&config, &mut source);
            for (i, p) in Parameter::all(&config).into_iter().enumerate() {
                let (w, c) = components(&mut source, i, p);
                // The component that two parties hold is the one that the third lacks.
                let of = |a: Party, b: Party| &c[3 - a.index() - b.index()];
                for dealer in Party::ALL {
                    let [p0, p1, p2] = Role::ALL.map(|role| role.party(dealer));
                    let at = |party: Party| {
                        let (lambda, delta) = holdings[party.index()].values(p, party.role(dealer)).unwrap();
                        (words(&lambda), delta.as_ref().map(words))
                    };
                    let (lambda, none) = at(p0);
                    assert!(none.is_none(), "the dealer has a Δ of {p:?}");
                    assert_eq!(lambda, sum(&[of(p0, p1), of(p0, p2)]), "{p:?} at the dealer {dealer}");
                    assert_eq!(
                        at(p1),
                        (of(p0, p1).clone(), Some(of(p1, p2).clone())),
                        "{p:?}, dealer {dealer}"
                    );
                    assert_eq!(
                        at(p2),
                        (of(p0, p2).clone(), Some(of(p1, p2).clone())),
                        "{p:?}, dealer {dealer}"
                    );
                    assert_eq!(sum(&[&lambda, of(p1, p2)]), w, "{p:?} is not shared");
                }
                for party in Party::ALL {
                    let lacks = &c[party.index()];
                    let others: Vec<_> = (0..3).filter(|&i| i != party.index()).map(|i| &c[i]).collect();
                    let forbidden =
                        [lacks.clone(), sum(&[lacks, others[0]]), sum(&[lacks, others[1]]), w.clone()];
                    let holding = &holdings[party.index()];
                    for role in Role::ALL {
                        let (lambda, delta) = holding.values(p, role).unwrap();
                        for value in [Some(lambda), delta].into_iter().flatten() {
                            assert!(!forbidden.contains(&words(&value)), "{party} knows too much of {p:?}");
                        }
                    }
                    for side in [Side::Before, Side::After] {
                        let value = words(&holding.component(p, side, true).unwrap());
                        assert!(others.contains(&&value), "{party} holds something else of {p:?}");
                    }
                }
            }
        }
    }

    /// What is drawn where it is used is what would be stored, and only what comes in full is stored.
    #[test]
    fn regenerated_components_are_those_that_would_be_stored() {
        let config = ModelConfig::toy();
        let mut source = RandomModel::new(config.clone(), 3).unwrap();
        let stored = holdings(&config, &mut source);
        let drawn = holdings(&config, &mut source).map(|h| h.keeping(Weights::Regenerated));
        for (stored, drawn) in stored.iter().zip(&drawn) {
            for p in Parameter::all(&config) {
                for side in [Side::Before, Side::After] {
                    let [a, b] = [stored, drawn].map(|h| h.component(p, side, true).unwrap());
                    assert_eq!(words(&a), words(&b), "{p:?} at {}", drawn.party);
                    let expected = p.usage() == Use::Matrix && drawn.seeds[side as usize].is_some();
                    assert_eq!(matches!(b, Values::Drawn(_)), expected, "{p:?} at {}", drawn.party);
                }
            }
        }
    }

    #[test]
    fn what_is_sent_to_a_party_names_two_components_only() {
        let seeds = Party::ALL.map(|party| SEEDS.for_party(party));
        let has = |party: Party, seed: &protocol::Key| seeds[party.index()].chunks(32).any(|s| s == seed);
        assert!(has(Party::Zero, &SEEDS.one) && has(Party::Zero, &SEEDS.zero));
        assert!(has(Party::One, &SEEDS.one) && !has(Party::One, &SEEDS.zero));
        assert!(has(Party::Two, &SEEDS.zero) && !has(Party::Two, &SEEDS.one));
        // Seeds of the wrong number are another party's.
        let config = ModelConfig::toy();
        for (party, bytes) in [(Party::Zero, 32), (Party::One, 64), (Party::Two, 0), (Party::One, 33)] {
            assert!(Holding::new(&device(), party, &config, &vec![7; bytes]).is_err(), "{party}, {bytes}");
        }
    }

    /// What a device had no memory for, or lost on the way, is not kept: the next session has it made, and has it right.
    #[test]
    fn a_lack_of_memory_leaves_nothing_without_content() {
        let Some(shim) = Shim::new(Order::Forward).map(Arc::new) else { return };
        let config = ModelConfig::toy();
        let p = Parameter::Qkv(0);
        let made = |holding: &Holding| {
            let all = [
                holding.component(p, Side::Before, true),
                holding.component(p, Side::After, true),
                holding.sum(p),
            ];
            all.into_iter().collect::<Result<Vec<Values>, SharedModelError>>()
        };
        let on = |driver: &Arc<Failing>| {
            let device: Device = Arc::new(Cuda::with_driver(driver.clone()));
            let seeds = SEEDS.for_party(Party::Zero);
            (Holding::new(&device, Party::Zero, &config, &seeds).unwrap(), device)
        };
        let all = Arc::new(Failing::lacking_after(u64::MAX, shim.clone()));
        let (holding, device) = on(&all);
        let want: Vec<Words> = made(&holding).unwrap().iter().map(|v| product(&device, v)).collect();
        let want: Vec<Vec<u64>> = want.iter().map(Words::to_vec).collect();
        device.status().unwrap();
        let counted = Arc::new(Failing::lacking_after(u64::MAX, shim.clone()));
        made(&on(&counted).0).unwrap();
        assert!(counted.operations() > 4, "{} allocations", counted.operations());
        for n in 0..counted.operations() {
            let (holding, device) = on(&Arc::new(Failing::lacking_after(n, shim.clone())));
            let error = made(&holding).map(drop).expect_err("no memory").to_string();
            assert!(error.contains("P0") && error.contains("out of memory"), "{n}: {error}");
            // The next session.
            device.begin();
            let again = made(&holding).unwrap_or_else(|e| panic!("allocation {n}: {e}"));
            let again: Vec<Vec<u64>> = again.iter().map(|v| product(&device, v).to_vec()).collect();
            device.status().unwrap_or_else(|e| panic!("allocation {n}: {e}"));
            assert!(again == want, "allocation {n}: something without content was kept");
        }
        for n in 0..all.operations() {
            let (holding, device) = on(&Arc::new(Failing::after(n, shim.clone())));
            if let Err(error) = made(&holding) {
                assert!(error.to_string().contains("driver error 719"), "{n}: {error}");
                assert!(device.status().is_err());
                let held = &holding.parameters[&p];
                assert!(held.sum.get().is_none(), "operation {n}: the sum was kept");
            }
        }
    }

    /// A value's words times ones, so that a matrix is read through its products.
    fn product(device: &Device, v: &Values) -> Words {
        match v {
            Values::Rows(w) => w.clone(),
            Values::Matrix(m) => m.apply(&Words::upload(device, (1..=m.inputs() as u64).collect())),
            Values::Drawn(_) => panic!("nothing is drawn in these tests"),
        }
    }
}
