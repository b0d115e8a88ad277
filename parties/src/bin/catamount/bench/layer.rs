//! `catamount bench layer`: one layer of a shape, where its time goes.

use super::gates::table;
use super::rates::Rates;
use super::report::{HtmlArgument, Report, command, machine};
use super::scopes::{Measured, fastest};
use crate::device::{DeviceArgument, WeightsArgument};
use crate::host::{Host, ONE_DEALER, interruptible};
use crate::output::JsonArgument;
use crate::processes::Setup;
use crate::trace::TraceArgument;
use crate::{block_on, model};
use models::calibrate::spread_tokens;
use models::checkpoint::ModelConfig;
use models::dry::Dry;
use models::model::{Cache, OutputRows};
use parties::private::Pass;
use std::sync::Arc;

/// The embedding and the output layer of the model that the layer is put into: they are passed, and not shown.
const VOCAB: usize = 512;

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct BenchLayer {
    #[arg(help = model::HELP)]
    model: String,
    /// Tokens that go through it at once.
    #[arg(long, value_name = "N", default_value_t = 32)]
    tokens: usize,
    /// How often; the fastest is shown.
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: usize,
    #[command(flatten)]
    device: DeviceArgument,
    #[command(flatten)]
    weights: WeightsArgument,
    #[command(flatten)]
    html: HtmlArgument,
    #[command(flatten)]
    trace: TraceArgument,
    #[command(flatten)]
    json: JsonArgument,
}

impl BenchLayer {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        anyhow::ensure!(self.tokens > 0 && self.runs > 0, "0 tokens or runs measure nothing");
        let devices = self.device.open()?;
        let shape = model::shape(&self.model)?;
        let config = ModelConfig { layers: 1, vocab: shape.vocab.min(VOCAB), ..shape };
        let owned = Arc::new(model::made_up(config.clone(), |_, _| ())?);
        let limit = owned.public.plan.longest;
        anyhow::ensure!(
            self.tokens <= limit,
            "{} tokens, the model takes {limit}; ask for fewer",
            self.tokens
        );
        let rates = block_on(interruptible(Rates::measure(&devices[1], self.tokens, None)))?;
        let all = spread_tokens(&config);
        let tokens: Vec<u32> = all.iter().copied().cycle().take(self.tokens).collect();
        let times = block_on(interruptible(async {
            let model = (&config, &owned.tables);
            let weights = self.weights.of_model(&self.device, &devices, model, self.tokens);
            let setup = Setup { devices: self.device.choices(), weights };
            let host = Host::local(&owned, setup, None, ONE_DEALER).await?;
            let model = host.model().await?.timed();
            let mut times = vec![];
            // One more, which warms up and does not count.
            for _ in 0..=self.runs {
                let mut run = model.run(OutputRows::Last, self.tokens).await?;
                run.pass(Pass { tokens: &tokens, segment: None }).await?;
                times.extend(run.take_times());
                run.close().await?;
            }
            times.remove(0);
            host.close().await;
            Ok(times)
        }))?;
        self.trace.write(&times)?;
        let dry = Dry::model(&config, &owned.tables);
        let measured = Measured {
            title: "One layer".into(),
            about: format!(
                "Made-up weights; three party processes on this machine, the fastest of {} runs.",
                self.runs
            ),
            times: fastest(&times).ok_or_else(|| anyhow::anyhow!("no runs"))?,
            charges: Dry::itemised(&dry, self.tokens, &mut Cache::new(&config), OutputRows::Last),
        };
        let section = measured.section(Some("layer.0"), &rates);
        self.json.say(&table(&section));
        let same = section.as_declared();
        let title = format!("A layer of {}, {} tokens{}", self.model, self.tokens, self.device.on());
        let report = Report { title, command: command(), machine: machine(), rates, sections: vec![section] };
        self.html.write(&report)?;
        self.json.write(&report)?;
        anyhow::ensure!(same, "the layer does not cost what it declares; see above");
        Ok(())
    }
}
