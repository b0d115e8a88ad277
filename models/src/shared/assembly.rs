//! A party's share of a model, put together from what its owner sends.

use super::holding::Holding;
use super::{PublicModel, SharedModelError, Weights};
use crate::checkpoint::ModelConfig;
use crate::model::Model;
use crate::parameter::Parameter;
use crate::plan::PlanTables;
use crate::secure::SecureValues;
use kernels::{Device, Words};
use protocol::gates::choice::SampleTables;
use protocol::gates::input;
use protocol::{Party, Role};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// One party's parts of a model while they arrive.
pub struct Assembly {
    device: Device,
    party: Party,
    parameters: Vec<Parameter>,
    holding: Holding,
}

impl Assembly {
    /// For one party with its seeds.
    ///
    /// # Errors
    /// They are not a party's seeds.
    pub fn new(
        device: &Device,
        party: Party,
        config: &ModelConfig,
        seeds: &[u8],
    ) -> Result<Assembly, SharedModelError> {
        let holding = Holding::new(device, party, config, seeds)?;
        Ok(Assembly { device: device.clone(), party, parameters: Parameter::all(config), holding })
    }

    /// The same, of which matrices are kept so.
    #[must_use]
    pub fn keeping(self, weights: Weights) -> Assembly {
        Assembly { holding: self.holding.keeping(weights), ..self }
    }

    /// Takes parameter number `index` at a party that gets values.
    ///
    /// # Errors
    /// There is none of this number, or its size is wrong.
    pub fn put(&mut self, index: usize, values: Words) -> Result<(), SharedModelError> {
        let unknown = || SharedModelError::Upload(format!("no parameter {index}"));
        self.holding.put(*self.parameters.get(index).ok_or_else(unknown)?, values)
    }

    /// One party's share of a benchmark model, made up on the device parameter by parameter. What an owner that shares the
    /// same weights under the same seeds would have sent, so that all that follows is the same. `dealer` as for
    /// [`Assembly::finish`], `kept` as for [`Assembly::keeping`].
    ///
    /// # Errors
    /// It is no benchmark model.
    pub fn make_up(
        device: &Device,
        party: Party,
        public: PublicModel,
        tables: PlanTables,
        dealer: Option<Party>,
        kept: Weights,
    ) -> Result<PartyModel, SharedModelError> {
        let secret = || SharedModelError::Upload("the weights of this model are not public".into());
        let weights = public.benchmark.ok_or_else(secret)?;
        let (config, seeds) = (public.config.clone(), weights.seeds());
        let mut assembly = Assembly::new(device, party, &config, &seeds.for_party(party))?.keeping(kept);
        if party != Party::Zero {
            for (i, p) in Parameter::all(&config).into_iter().enumerate() {
                let component = |seed| input::component(device, seed, i as u32, p.shared(&config).len());
                let rest = weights.words(device, &config, p) - component(&seeds.one) - component(&seeds.zero);
                assembly.put(i, rest)?;
            }
        }
        assembly.finish(public, tables, dealer)
    }

    /// All parameters are there. If one party deals in all sessions, `dealer` says so: the share is then made ready for
    /// this party's part now, and nothing is kept that only other parts need.
    ///
    /// # Errors
    /// A parameter is missing.
    pub fn finish(
        self,
        public: PublicModel,
        tables: PlanTables,
        dealer: Option<Party>,
    ) -> Result<PartyModel, SharedModelError> {
        self.holding.check()?;
        let (digest, sampling) = (public.digest(&tables), tables.sampling.clone());
        let mut model = PartyModel {
            public,
            digest,
            device: self.device,
            sampling,
            party: self.party,
            holding: Some(self.holding),
            tables,
            roles: Default::default(),
            building: Mutex::default(),
        };
        if let Some(dealer) = dealer {
            model.playing(model.party.role(dealer))?;
            model.holding = None;
        }
        Ok(model)
    }
}

/// One party's share of a model, for all sessions and every role.
pub struct PartyModel {
    /// What is public.
    pub public: PublicModel,
    /// What parties compare.
    pub digest: [u8; 32],
    pub(super) device: Device,
    /// For choosing tokens.
    pub(super) sampling: Arc<SampleTables>,
    party: Party,
    /// None where only one part is kept.
    holding: Option<Holding>,
    tables: PlanTables,
    /// As each role computes with it.
    roles: [OnceLock<Model<SecureValues>>; 3],
    building: Mutex<()>,
}

impl PartyModel {
    /// The model as this party computes with it in a role. Made when a role is first played, which takes as long as
    /// reading all weights a few times.
    ///
    /// # Errors
    /// What it takes is not kept: the party was told who always deals. Or its device failed; it may be asked again.
    pub fn playing(&self, role: Role) -> Result<&Model<SecureValues>, SharedModelError> {
        let place = &self.roles[role.index()];
        // Whoever comes meanwhile waits: nothing is made twice.
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = place.get() {
            return Ok(model);
        }
        let Some(holding) = &self.holding else {
            let what =
                format!("{} keeps of this model what another part needs than that of {role}", self.party);
            return Err(SharedModelError::Unsuitable(what));
        };
        let model = holding.model(role, &self.tables)?;
        Ok(place.get_or_init(|| model))
    }

    /// What it lies on, and what its sessions compute on.
    pub fn device(&self) -> &Device {
        &self.device
    }
}
