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
//! Matrices are kept as factors of products, one word a weight in each role ([`coefficients`]):
//! ```text
//! dealer  before − after      P1  after + 2·before      P2  before + 2·after
//! ```
//! Parties 1 and 2 keep, of a component c that was sent in full and the stream s of their seed, c + 2·s in its place: what they
//! multiply by where party 0 deals. The other roles' are c + 2·s − 3·s (up to its sign) and 2·(c + 2·s) − 3·s.
//!
//! What is added to c + 2·s need not be stored ([`Weights::Regenerated`]): a party then multiplies by c + 2·s and by a stream, or,
//! party 0, by two streams.
//!
//! Memory: 8 bytes a weight for each role that a party plays, and at parties 1 and 2 the 8 bytes of c + 2·s in any case; with
//! regenerated components none but these. The embedding table and rows are kept as two components. Each is made when it is
//! first needed and shared by all sessions.

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
use protocol::{Component, DrawnMatrix, Party, Role, Seed, Shape, Share, SharedMatrix, coefficients};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// Which of its two components: the one that a party holds with the party before it, or with the one after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Before => Side::After,
            Side::After => Side::Before,
        }
    }

    /// On which side a role has its half of λ, or the dealer that of P1.
    fn of_lambda(role: Role) -> Side {
        match role {
            Role::Dealer | Role::P2 => Side::After,
            Role::P1 => Side::Before,
        }
    }
}

/// A component in the form in which it is used, or of a matrix that came in full c + 2·s.
#[derive(Clone)]
enum Values {
    Matrix(Matrix),
    Rows(Words),
}

impl Values {
    fn new(words: Words, usage: Use, shape: Shape) -> Values {
        match usage {
            Use::Table | Use::Matrix => Values::Matrix(Matrix::new(&words, shape.rows, shape.cols)),
            Use::Rows => Values::Rows(words),
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

/// What is there already of one parameter.
#[derive(Default)]
struct Held {
    stream: u32,
    sides: [OnceLock<Values>; 2],
    /// Matrices by role.
    factors: [OnceLock<SharedMatrix>; 3],
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
        let held = |stream| Held { stream, ..Held::default() };
        let parameters = Parameter::all(config).into_iter().zip((0..).map(held)).collect();
        let (seeds, weights) = (seeds.map(|seed| seed.map(Seed::new)), Weights::Stored);
        Ok(Holding { device: device.clone(), party, config: config.clone(), seeds, weights, parameters })
    }

    /// The same, which keeps its matrices so.
    pub(super) fn keeping(self, weights: Weights) -> Holding {
        Holding { weights, ..self }
    }

    fn shape(&self, p: Parameter) -> Shape {
        p.shared(&self.config)
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
        let unwanted = || SharedModelError::Upload(format!("values of {p:?} for {}", self.party));
        let (Some(held), Some((full, seed))) = (self.parameters.get(&p), self.full()) else {
            return Err(unwanted());
        };
        let values = match p.usage() {
            Use::Matrix => {
                let stream = input::component(&self.device, seed.key(), held.stream, shape.len());
                Words::formula([&values, &stream], |[full, stream]| full + (stream << 1u32))
            }
            Use::Table | Use::Rows => values,
        };
        let values = self.made(Values::new(values, p.usage(), shape))?;
        held.sides[full as usize].set(values).map_err(|_| unwanted())
    }

    /// On which side a component came in full, and the seed of the other.
    fn full(&self) -> Option<(Side, &Seed)> {
        match &self.seeds {
            [None, Some(after)] => Some((Side::Before, after)),
            [Some(before), None] => Some((Side::After, before)),
            _ => None,
        }
    }

    /// Whether everything has come that comes in full.
    pub(super) fn check(&self) -> Result<(), SharedModelError> {
        let here = |h: &Held| self.seeds.iter().zip(&h.sides).all(|(s, v)| s.is_some() || v.get().is_some());
        match self.parameters.iter().find(|(_, held)| !here(held)) {
            Some((&p, _)) => Err(missing(p)),
            None => Ok(()),
        }
    }

    fn held(&self, p: Parameter) -> Result<&Held, SharedModelError> {
        self.parameters.get(&p).ok_or_else(|| missing(p))
    }

    /// The words of a component of a seed.
    fn stream(&self, p: Parameter, side: Side) -> Result<Words, SharedModelError> {
        let (held, seed) = (self.held(p)?, self.seeds[side as usize].as_ref());
        let seed = seed.ok_or_else(|| missing(p))?;
        Ok(input::component(&self.device, seed.key(), held.stream, self.shape(p).len()))
    }

    /// A component of a table or of rows, which is kept.
    fn component(&self, p: Parameter, side: Side) -> Result<Values, SharedModelError> {
        assert_ne!(p.usage(), Use::Matrix, "of a matrix other words are kept");
        let place = &self.held(p)?.sides[side as usize];
        if let Some(values) = place.get() {
            return Ok(values.clone());
        }
        let values = self.made(Values::new(self.stream(p, side)?, p.usage(), self.shape(p)))?;
        Ok(place.get_or_init(|| values).clone())
    }

    /// The components of rows: a role's half of λ and Δ, or the dealer's λ1 and λ0.
    fn rows(&self, p: Parameter, role: Role) -> Result<[Words; 2], SharedModelError> {
        let side = Side::of_lambda(role);
        let rows = |side| match self.component(p, side)? {
            Values::Rows(words) => Ok(words),
            Values::Matrix(_) => Err(missing(p)),
        };
        Ok([rows(side)?, rows(side.other())?])
    }

    /// What a role multiplies by, as components times numbers, of which the first is stored at parties 1 and 2.
    fn terms(&self, p: Parameter, role: Role) -> Result<Vec<(u64, Component)>, SharedModelError> {
        let [own, other] = coefficients(role);
        let coefficient = |side| if side == Side::of_lambda(role) { own } else { other };
        let (held, shape) = (self.held(p)?, self.shape(p));
        let drawn = |seed| Component::Drawn(DrawnMatrix::new(seed, held.stream, shape.rows, shape.cols));
        let Some((full, seed)) = self.full() else {
            let of = |side| {
                let seed = self.seeds[side as usize].as_ref().ok_or_else(|| missing(p))?;
                Ok((coefficient(side), drawn(seed)))
            };
            return [Side::Before, Side::After].map(of).into_iter().collect();
        };
        let Some(Values::Matrix(m)) = held.sides[full as usize].get() else { return Err(missing(p)) };
        // a·c + b·s = a·(c + 2·s) + (b − 2·a)·s.
        let [a, b] = [full, full.other()].map(coefficient);
        let rest = b.wrapping_sub(a.wrapping_mul(2));
        let rest = (rest != 0).then(|| (rest, drawn(seed)));
        Ok([(a, Component::Stored(m.clone()))].into_iter().chain(rest).collect())
    }

    /// What a role multiplies by.
    fn factor(&self, p: Parameter, role: Role) -> Result<SharedMatrix, SharedModelError> {
        let place = &self.held(p)?.factors[role.index()];
        if let Some(matrix) = place.get() {
            return Ok(matrix.clone());
        }
        let terms = self.terms(p, role)?;
        let terms = if self.weights == Weights::Regenerated { terms } else { vec![self.stored(p, terms)?] };
        let matrix = SharedMatrix::of(p.scale(), terms);
        Ok(place.get_or_init(|| matrix).clone())
    }

    /// One stored matrix, times 1 or −1, in the place of a sum of components.
    fn stored(
        &self,
        p: Parameter,
        terms: Vec<(u64, Component)>,
    ) -> Result<(u64, Component), SharedModelError> {
        let shape = self.shape(p);
        let packed = |words: &Words| Matrix::new(words, shape.rows, shape.cols);
        let matrix = match &terms[..] {
            [_] => return Ok(terms.into_iter().next().expect("one term")),
            [(a, Component::Stored(m)), (b, _)] => {
                let (full, _) = self.full().ok_or_else(|| missing(p))?;
                let stream = self.stream(p, full.other())?;
                // The sign of a stays outside: −E + 3·s = −(E − 3·s).
                let (sign, b) = if *a == u64::MAX { (*a, b.wrapping_neg()) } else { (1, *b) };
                let stream = packed(&(stream * b));
                let mut sum = m.plus(&stream);
                drop(stream);
                if *a == 2 {
                    sum = sum.plus(m);
                }
                return Ok((sign, Component::Stored(self.made(sum)?)));
            }
            [(a, _), (b, _)] => {
                let [before, after] = [self.stream(p, Side::Before)?, self.stream(p, Side::After)?];
                let sum = Words::formula([&before, &after], |[before, after]| before * *a + after * *b);
                drop([before, after]);
                packed(&sum)
            }
            _ => return Err(missing(p)),
        };
        Ok((1, Component::Stored(self.made(matrix)?)))
    }

    /// What the device made, if it did: what it failed to make has no content, and is not kept for other sessions.
    fn made<T>(&self, values: T) -> Result<T, SharedModelError> {
        match self.device.status() {
            Ok(()) => Ok(values),
            Err(e) => Err(SharedModelError::Device { party: self.party, what: e.to_string() }),
        }
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
        let side = Side::of_lambda(self.role);
        let matrix = |side| match self.holding.component(p, side)? {
            Values::Matrix(m) => Ok(m),
            Values::Rows(_) => Err(missing(p)),
        };
        let (outputs, _) = p.shape(&self.holding.config);
        Ok(SharedTable::of([matrix(side)?, matrix(side.other())?], outputs, p.scale()))
    }

    fn matrix(&mut self, p: Parameter) -> Result<SharedMatrix, SharedModelError> {
        self.holding.factor(p, self.role)
    }

    fn bits(&self, p: Parameter) -> u32 {
        self.tables.bits(p)
    }

    fn rows(&mut self, p: Parameter) -> Result<Share, SharedModelError> {
        let [own, other] = self.holding.rows(p, self.role)?;
        let (delta, lambda, first) = match self.role {
            Role::Dealer => (None, &own + &other, Some(own)),
            Role::P1 | Role::P2 => (Some(other), own, None),
        };
        Ok(Share { shape: self.holding.shape(p), scale: p.scale(), delta, lambda, first })
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
    use crate::checkpoint::{RandomModel, TensorSource};
    use crate::folded;
    use crate::shared::Seeds;
    use kernels::cuda::Cuda;
    use kernels_shim::{Failing, Order, Shim};

    const SEEDS: Seeds = Seeds { one: [1; 32], zero: [2; 32] };

    fn device() -> Device {
        kernels::cpu::Cpu::best()
    }

    /// The words of a matrix, row by row, of its product with the unit matrix.
    fn entries(apply: impl Fn(&Words) -> Words, (n, k): (usize, usize)) -> Vec<u64> {
        let unit = (0..k * k).map(|i| u64::from(i / k == i % k)).collect();
        let columns = apply(&Words::upload(&device(), unit)).to_vec();
        (0..n * k).map(|i| columns[i % k * n + i / k]).collect()
    }

    fn words(v: &Values) -> Vec<u64> {
        match v {
            Values::Rows(w) => w.to_vec(),
            Values::Matrix(m) => entries(|x| m.apply(x), (m.outputs(), m.inputs())),
        }
    }

    fn factor(holding: &Holding, p: Parameter, role: Role) -> Vec<u64> {
        let m = holding.factor(p, role).unwrap();
        entries(|x| m.apply(x, 64), (m.outputs(), m.inputs()))
    }

    fn scaled(words: &[u64], by: u64) -> Vec<u64> {
        words.iter().map(|w| w.wrapping_mul(by)).collect()
    }

    fn sum(parts: &[&Vec<u64>]) -> Vec<u64> {
        (0..parts[0].len()).map(|i| parts.iter().fold(0u64, |s, p| s.wrapping_add(p[i]))).collect()
    }

    /// A parameter's words, and its three components by the party that lacks them, from the seeds.
    fn components(source: &mut RandomModel, index: usize, p: Parameter) -> (Vec<u64>, [Vec<u64>; 3]) {
        let c = TensorSource::config(source).clone();
        let w = p.words(&c, &folded::load(source, p).unwrap(), 0..p.shared(&c).len());
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
                let words = p.words(config, &folded::load(source, p).unwrap(), 0..p.shared(config).len());
                let rest = SEEDS.rest(&device(), i, 0, words);
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

    /// Whatever a party makes of its share in any role is made of its own two components, and the roles' parts are those
    /// of one sharing, whoever deals and however a party keeps them.
    #[test]
    fn no_party_ever_has_the_third_component() {
        let configs = [ModelConfig::toy(), ModelConfig::toy_gpt2(), ModelConfig::toy_bert()];
        for config in configs {
            let mut source = RandomModel::new(config.clone(), 3).unwrap();
            let holdings = holdings(&config, &mut source);
            let drawing = self::holdings(&config, &mut source).map(|h| h.keeping(Weights::Regenerated));
            for (i, p) in Parameter::all(&config).into_iter().enumerate() {
                let (w, c) = components(&mut source, i, p);
                // The component that two parties hold is the one that the third lacks.
                let of = |a: Party, b: Party| &c[3 - a.index() - b.index()];
                for dealer in Party::ALL {
                    let [p0, p1, p2] = Role::ALL.map(|role| role.party(dealer));
                    let (lambda1, lambda0, delta) = (of(p0, p1), of(p0, p2), of(p1, p2));
                    assert_eq!(sum(&[lambda1, lambda0, delta]), w, "{p:?} is not shared");
                    let what = format!("{p:?}, dealer {dealer}");
                    if p.usage() == Use::Matrix {
                        let minus = scaled(lambda1, u64::MAX);
                        let (first, second) = (scaled(lambda1, 2), scaled(lambda0, 2));
                        let expected =
                            [sum(&[lambda0, &minus]), sum(&[delta, &first]), sum(&[delta, &second])];
                        for (role, expected) in Role::ALL.into_iter().zip(expected) {
                            let party = role.party(dealer).index();
                            assert_eq!(factor(&holdings[party], p, role), expected, "{what}, {role}");
                            assert_eq!(factor(&drawing[party], p, role), expected, "{what}, {role}, drawn");
                        }
                        continue;
                    }
                    let at = |party: Party, side| words(&holdings[party.index()].component(p, side).unwrap());
                    assert_eq!(
                        [at(p0, Side::After), at(p0, Side::Before)],
                        [lambda1.clone(), lambda0.clone()]
                    );
                    assert_eq!([at(p1, Side::Before), at(p1, Side::After)], [lambda1.clone(), delta.clone()]);
                    assert_eq!([at(p2, Side::After), at(p2, Side::Before)], [lambda0.clone(), delta.clone()]);
                    if p.usage() == Use::Rows {
                        let at = |role: Role| {
                            let own = holdings[role.party(dealer).index()].rows(p, role).unwrap();
                            own.map(|words| words.to_vec())
                        };
                        assert_eq!(at(Role::Dealer), [lambda1.clone(), lambda0.clone()], "{what}");
                        assert_eq!(at(Role::P1), [lambda1.clone(), delta.clone()], "{what}");
                        assert_eq!(at(Role::P2), [lambda0.clone(), delta.clone()], "{what}");
                    }
                }
                // What is there at a party of a component that came in full: of a matrix with its own stream.
                for party in Party::ALL {
                    let holding = &holdings[party.index()];
                    let Some((full, _)) = holding.full() else { continue };
                    let kept = words(holding.parameters[&p].sides[full as usize].get().unwrap());
                    let stream = &c[if party == Party::One { 2 } else { 1 }];
                    let expected = match p.usage() {
                        Use::Matrix => sum(&[&c[0], &scaled(stream, 2)]),
                        Use::Table | Use::Rows => c[0].clone(),
                    };
                    assert_eq!(kept, expected, "{p:?} at {party}");
                }
            }
        }
    }

    /// Only what comes in full is stored where components are drawn; else one matrix a role, and one for both where they are
    /// the same.
    #[test]
    fn what_is_stored() {
        let config = ModelConfig::toy();
        let mut source = RandomModel::new(config.clone(), 3).unwrap();
        let p = Parameter::Down(1);
        for holding in holdings(&config, &mut source) {
            let home = holding.party.role(Party::Zero);
            for role in Role::ALL {
                let stored = holding.stored(p, holding.terms(p, role).unwrap()).unwrap();
                let Component::Stored(m) = stored.1 else { panic!("{role} of {}", holding.party) };
                let kept = holding.full().map(|(full, _)| holding.parameters[&p].sides[full as usize].get());
                let same = matches!(kept, Some(Some(Values::Matrix(kept))) if kept.is(&m));
                assert_eq!(same, holding.full().is_some() && role == home, "{role} of {}", holding.party);
            }
            let drawing = holding.keeping(Weights::Regenerated);
            for role in Role::ALL {
                let terms = drawing.terms(p, role).unwrap();
                let stored = terms.iter().filter(|(_, c)| matches!(c, Component::Stored(_))).count();
                assert_eq!(stored, usize::from(drawing.full().is_some()));
                assert_eq!(terms.len(), if role == home && drawing.full().is_some() { 1 } else { 2 });
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
            let all = Role::ALL.map(|role| holding.factor(p, role));
            all.into_iter().collect::<Result<Vec<SharedMatrix>, SharedModelError>>()
        };
        let on = |driver: &Arc<Failing>| {
            let device: Device = Arc::new(Cuda::with_driver(driver.clone()));
            let seeds = SEEDS.for_party(Party::Zero);
            (Holding::new(&device, Party::Zero, &config, &seeds).unwrap(), device)
        };
        let all = Arc::new(Failing::lacking_after(u64::MAX, shim.clone()));
        let (holding, device) = on(&all);
        let want: Vec<Words> = made(&holding).unwrap().iter().map(|m| product(&device, m)).collect();
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
            let again: Vec<Vec<u64>> = again.iter().map(|m| product(&device, m).to_vec()).collect();
            device.status().unwrap_or_else(|e| panic!("allocation {n}: {e}"));
            assert!(again == want, "allocation {n}: something without content was kept");
        }
        for n in 0..all.operations() {
            let (holding, device) = on(&Arc::new(Failing::after(n, shim.clone())));
            if let Err(error) = made(&holding) {
                assert!(error.to_string().contains("driver error 719"), "{n}: {error}");
                assert!(device.status().is_err());
                let held = &holding.parameters[&p];
                assert!(held.factors.iter().any(|f| f.get().is_none()), "operation {n}: all were kept");
            }
        }
    }

    /// A product with all of a matrix' words.
    fn product(device: &Device, m: &SharedMatrix) -> Words {
        m.apply(&Words::upload(device, (1..=m.inputs() as u64).collect()), 64)
    }
}
