//! A party's share of a model, put together from what its owner sends.

use super::{PublicModel, SharedModelError};
use crate::checkpoint::ModelConfig;
use crate::model::{ActivationId, Model, NormId, Parts};
use crate::parameter::{Parameter, Use};
use crate::plan::{FunctionTable, PlanTables};
use crate::secure::SecureValues;
use kernels::{Device, Words};
use protocol::gates::choice::SampleTables;
use protocol::gates::embedding::SharedTable;
use protocol::gates::input::{self, InputPart};
use protocol::gates::norm::NormTable;
use protocol::gates::softmax::SoftmaxTables;
use protocol::{Role, Shape, Share, SharedMatrix};
use std::collections::HashMap;
use std::sync::Arc;

/// One party's parts of a model while they arrive.
pub struct Assembly {
    device: Device,
    role: Role,
    seeds: Vec<u8>,
    config: ModelConfig,
    parameters: Vec<Parameter>,
    held: HashMap<Parameter, Held>,
}

/// A party's share of a parameter, in the form in which it is used.
enum Held {
    Table(SharedTable),
    Matrix(SharedMatrix),
    Rows(Share),
}

impl Assembly {
    /// For one party with its seeds.
    ///
    /// # Errors
    /// They are not a party's seeds.
    pub fn new(
        device: &Device,
        role: Role,
        config: &ModelConfig,
        seeds: Vec<u8>,
    ) -> Result<Assembly, SharedModelError> {
        let expected = if role == Role::Dealer { 64 } else { 32 };
        if seeds.len() != expected {
            return Err(SharedModelError::Upload(format!("{} bytes of seeds for {role}", seeds.len())));
        }
        let parameters = Parameter::all(config);
        let config = config.clone();
        Ok(Assembly { device: device.clone(), role, seeds, config, parameters, held: HashMap::new() })
    }

    fn part(&self, delta: Option<Words>) -> Result<InputPart, SharedModelError> {
        let key = |i: usize| self.seeds[32 * i..32 * (i + 1)].try_into().expect("checked in new");
        let missing = || SharedModelError::Upload("an evaluator's parameter without its values".into());
        Ok(match self.role {
            Role::Dealer => InputPart::Dealer(key(0), key(1)),
            Role::P1 => InputPart::P1(key(0), delta.ok_or_else(missing)?),
            Role::P2 => InputPart::P2(key(0), delta.ok_or_else(missing)?),
        })
    }

    /// Takes parameter number `index`; the dealer has no Δ.
    ///
    /// # Errors
    /// There is none of this number, or its size is wrong.
    pub fn put(&mut self, index: usize, delta: Option<Words>) -> Result<(), SharedModelError> {
        let unknown = || SharedModelError::Upload(format!("no parameter {index}"));
        let p = *self.parameters.get(index).ok_or_else(unknown)?;
        let (rows, cols) = p.shape(&self.config);
        if let Some(d) = &delta
            && d.len() != rows * cols
        {
            let what = format!("{p:?} has {} values, {} are needed", d.len(), rows * cols);
            return Err(SharedModelError::Upload(what));
        }
        let (shape, scale, stream) = (Shape::new(rows, cols), p.scale(), index as u32);
        let part = self.part(delta)?;
        let share = |part| input::share(&self.device, part, shape, scale, stream);
        let held = match p.usage() {
            Use::Table => Held::Table(self.table(&part, shape, scale, stream)),
            Use::Matrix => Held::Matrix(SharedMatrix::new(&share(&part), self.role == Role::P1)),
            Use::Rows => Held::Rows(share(&part)),
        };
        self.held.insert(p, held);
        Ok(())
    }

    /// A table keeps the party's two components apart.
    fn table(&self, part: &InputPart, shape: Shape, scale: u32, stream: u32) -> SharedTable {
        let component = |seed| input::component(&self.device, seed, stream, shape.len());
        match part {
            InputPart::Dealer(one, zero) => SharedTable::new(&component(one), &component(zero), shape, scale),
            InputPart::P1(seed, delta) | InputPart::P2(seed, delta) => {
                SharedTable::new(&component(seed), delta, shape, scale)
            }
        }
    }

    /// One party's share of a benchmark model, made up on the device parameter by parameter. What an owner that shares the
    /// same weights under the same seeds would have sent, so that all that follows is the same.
    ///
    /// # Errors
    /// It is no benchmark model.
    pub fn make_up(
        device: &Device,
        role: Role,
        public: PublicModel,
        tables: PlanTables,
    ) -> Result<PartyModel, SharedModelError> {
        let secret = || SharedModelError::Upload("the weights of this model are not public".into());
        let weights = public.benchmark.ok_or_else(secret)?;
        let (config, seeds) = (public.config.clone(), weights.seeds());
        let mut assembly = Assembly::new(device, role, &config, seeds.for_party(role))?;
        if role != Role::Dealer {
            for (i, p) in Parameter::all(&config).into_iter().enumerate() {
                let component = |seed| input::component(device, seed, i as u32, p.len(&config));
                let delta =
                    weights.integers(device, &config, p) - component(&seeds.one) - component(&seeds.zero);
                assembly.put(i, Some(delta))?;
            }
        }
        assembly.finish(public, tables)
    }

    /// All parameters are there.
    ///
    /// # Errors
    /// One is not.
    pub fn finish(mut self, public: PublicModel, tables: PlanTables) -> Result<PartyModel, SharedModelError> {
        if self.role == Role::Dealer {
            for i in 0..self.parameters.len() {
                self.put(i, None)?;
            }
        }
        let digest = public.digest(&tables);
        let mut parts = SharedParts { held: self.held, tables: &tables };
        let model = Model::build(&self.config, &mut parts)?;
        let sampling = tables.sampling.clone();
        Ok(PartyModel { public, digest, model, device: self.device, role: self.role, sampling })
    }
}

struct SharedParts<'t> {
    held: HashMap<Parameter, Held>,
    tables: &'t PlanTables,
}

fn missing(p: Parameter) -> SharedModelError {
    SharedModelError::Upload(format!("{p:?} is missing"))
}

impl Parts<SecureValues> for SharedParts<'_> {
    type Error = SharedModelError;

    fn table(&mut self) -> Result<SharedTable, SharedModelError> {
        match self.held.remove(&Parameter::Embedding) {
            Some(Held::Table(t)) => Ok(t),
            _ => Err(missing(Parameter::Embedding)),
        }
    }

    fn matrix(&mut self, p: Parameter) -> Result<SharedMatrix, SharedModelError> {
        match self.held.remove(&p) {
            Some(Held::Matrix(m)) => Ok(m),
            _ => Err(missing(p)),
        }
    }

    fn rows(&mut self, p: Parameter) -> Result<Share, SharedModelError> {
        match self.held.remove(&p) {
            Some(Held::Rows(r)) => Ok(r),
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

/// One party's share of a model.
pub struct PartyModel {
    /// What is public.
    pub public: PublicModel,
    /// What parties compare.
    pub digest: [u8; 32],
    pub(crate) model: Model<SecureValues>,
    pub(super) device: Device,
    pub(super) role: Role,
    /// For choosing tokens.
    pub(super) sampling: Arc<SampleTables>,
}

impl PartyModel {
    /// What it lies on, and what its sessions compute on.
    pub fn device(&self) -> &Device {
        &self.device
    }
}
