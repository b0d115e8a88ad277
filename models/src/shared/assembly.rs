//! A party's share of a model, put together from what its owner sends.

use super::holding::Holding;
use super::{PublicModel, SharedModelError};
use crate::checkpoint::ModelConfig;
use crate::model::Model;
use crate::parameter::Parameter;
use crate::plan::PlanTables;
use crate::secure::SecureValues;
use kernels::{Device, Words};
use protocol::gates::choice::SampleTables;
use protocol::{Party, Role};
use std::sync::{Arc, OnceLock};

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

    /// Takes parameter number `index` at a party that gets values.
    ///
    /// # Errors
    /// There is none of this number, or its size is wrong.
    pub fn put(&mut self, index: usize, values: Words) -> Result<(), SharedModelError> {
        let unknown = || SharedModelError::Upload(format!("no parameter {index}"));
        self.holding.put(*self.parameters.get(index).ok_or_else(unknown)?, values)
    }

    /// All parameters are there. If one party deals in all sessions, `dealer` says so: the share is then made ready for
    /// this party's part now, and the dealer keeps nothing that only evaluators need.
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
        };
        if let Some(dealer) = dealer {
            let role = model.party.role(dealer);
            model.playing(role)?;
            if role == Role::Dealer {
                model.holding = None;
            }
        }
        Ok(model)
    }
}

type Built = Result<Model<SecureValues>, SharedModelError>;

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
    /// None where only the dealer's part is kept.
    holding: Option<Holding>,
    tables: PlanTables,
    /// As each role computes with it.
    roles: [OnceLock<Built>; 3],
}

impl PartyModel {
    /// The model as this party computes with it in a role. Made when a role is first played, which takes as long as
    /// reading all weights a few times.
    ///
    /// # Errors
    /// What it takes is not kept: the party was told that it always deals.
    pub fn playing(&self, role: Role) -> Result<&Model<SecureValues>, SharedModelError> {
        let build = || match &self.holding {
            Some(holding) => holding.model(role, &self.tables),
            None => {
                let what = format!("{} keeps of this model what it needs to deal", self.party);
                Err(SharedModelError::Unsuitable(what))
            }
        };
        self.roles[role.index()].get_or_init(build).as_ref().map_err(Clone::clone)
    }
}
