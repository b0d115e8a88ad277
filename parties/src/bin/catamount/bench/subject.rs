//! What `bench model` measures: a model that its owner shares, or a shape whose weights the parties make up.

use crate::host::{self, Host};
use crate::model;
use models::checkpoint::ModelConfig;
use models::float::Float;
use models::folded::{Folding, ParameterSource};
use models::plan::PlanTables;
use models::shared::PublicModel;
use parties::owner::{OwnedModel, benchmark_model, share_benchmark};
use std::sync::Arc;

/// Which model.
#[derive(clap::Args)]
pub(crate) struct SubjectArguments {
    #[arg(help = model::HELP, required_unless_present = "shape", conflicts_with = "shape")]
    model: Option<String>,
    /// A shape without weights: a published one (see random:SHAPE), or a model's files, of which only the configuration is
    /// read.
    #[arg(long, value_name = "SHAPE", requires = "random_weights")]
    shape: Option<String>,
    /// The parties make the weights up on their devices, from a seed that all know: nothing is sent, the owner's memory
    /// and processor are not needed. Such a model has no secrets: it serves for measuring, and for nothing else.
    #[arg(long, requires = "shape", conflicts_with = "model")]
    random_weights: bool,
    /// Only so many layers.
    #[arg(long, value_name = "N", requires = "shape", conflicts_with = "model")]
    layers: Option<usize>,
}

/// A model with what the benchmark needs of it.
pub(crate) enum Subject {
    /// Somebody's weights, or random ones, split on this machine.
    Owned(Arc<OwnedModel>),
    /// Weights of nobody.
    MadeUp(Box<PublicModel>, PlanTables),
}

impl SubjectArguments {
    /// For people.
    pub(crate) fn name(&self) -> String {
        let layers = self.layers.map_or(String::new(), |n| format!(", {n} layers"));
        self.model.clone().or(self.shape.clone()).unwrap_or_default() + &layers
    }

    /// Finds it, and its ranges.
    pub(crate) fn load(&self) -> anyhow::Result<Subject> {
        let Some(shape) = &self.shape else {
            return Ok(Subject::Owned(model::load(self.model.as_deref().unwrap_or_default())?));
        };
        let config = model::shape_of(shape)?;
        let config = ModelConfig { layers: self.layers.unwrap_or(config.layers), ..config };
        config.validate()?;
        let public = benchmark_model(config)?;
        let tables = public.plan.tables(&kernels::cpu::Cpu::best(), &public.config);
        Ok(Subject::MadeUp(Box::new(public), tables))
    }
}

impl Subject {
    /// What is public.
    pub(crate) fn public(&self) -> &PublicModel {
        match self {
            Subject::Owned(owned) => &owned.public,
            Subject::MadeUp(public, _) => public,
        }
    }

    /// Its tables on this machine.
    pub(crate) fn tables(&self) -> &PlanTables {
        match self {
            Subject::Owned(owned) => &owned.tables,
            Subject::MadeUp(_, tables) => tables,
        }
    }

    /// What a pass of these tokens yields in plain floating point; one layer is in memory at a time.
    pub(crate) fn expected(&self, tokens: &[u32]) -> anyhow::Result<Vec<f32>> {
        let pass = |source: &mut dyn ParameterSource| Float::streamed(source, tokens);
        let outputs = match self {
            Subject::Owned(owned) => pass(&mut Folding(&mut **owned.source())),
            Subject::MadeUp(public, _) => {
                let weights = public.benchmark.expect("it is a benchmark model");
                pass(&mut weights.parameters(&kernels::cpu::Cpu::best(), &public.config))
            }
        };
        Ok(outputs?.data)
    }

    /// Puts it there.
    pub(crate) async fn share(&self, host: &Host) -> anyhow::Result<()> {
        match self {
            Subject::Owned(owned) => host::share(owned, &host.client, &host.name).await.map(drop),
            Subject::MadeUp(public, tables) => {
                Ok(share_benchmark(&host.client, &host.name, public, tables).await.map(drop)?)
            }
        }
    }
}
