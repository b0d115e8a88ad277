//! `--device` and `--weights`: what the parties that a command starts compute on, and how they keep their weights.

use kernels::Device;
use models::checkpoint::ModelConfig;
use models::memory::{Demand, Holder, MemoryPlan};
use models::plan::PlanTables;
use models::shared::Weights;
use parties::device::{DeviceChoice, UnknownDevice};
use parties::private::prompt_passes;
use parties::weights::WeightsChoice;
use protocol::Party;
use std::str::FromStr;

/// A device for each party.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(crate) struct DeviceArgument {
    /// What the parties compute on: cpu, cuda (the first GPU) or cuda:N for all three, or P0's, P1's and P2's, as in
    /// `cpu,cuda:0,cpu`. All give the same results.
    #[arg(long, value_name = "DEVICE[,DEVICE,DEVICE]", default_value = "cpu")]
    device: Devices,
}

/// How the parties keep their weights.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(crate) struct WeightsArgument {
    /// How the parties keep their weights: stored (faster), regenerated from their seeds in each product (8 bytes a weight
    /// or none), or auto, which is stored except where a GPU has no room for it. All give the same results.
    #[arg(long, value_name = "HOW", default_value = "auto")]
    weights: WeightsChoice,
}

impl WeightsArgument {
    /// Each party's way, where stored weights and a session need so many bytes: parties on one device decide together.
    pub(crate) fn of(
        &self,
        argument: &DeviceArgument,
        devices: &[Device; 3],
        stored: impl Fn(Party) -> u64,
    ) -> [Weights; 3] {
        let choices = argument.choices();
        Party::ALL.map(|party| {
            let together = Party::ALL.into_iter().filter(|p| choices[p.index()] == choices[party.index()]);
            self.weights.on(&devices[party.index()], together.map(&stored).sum())
        })
    }

    /// The same for a model of which party 0 always deals, and sessions of up to `context` tokens.
    pub(crate) fn of_model(
        &self,
        argument: &DeviceArgument,
        devices: &[Device; 3],
        (config, tables): (&ModelConfig, &PlanTables),
        context: usize,
    ) -> [WeightsChoice; 3] {
        let pass = prompt_passes(&[context], context).into_iter().flatten().max().unwrap_or(1);
        let demand = Demand { context, pass, sequences: 1 };
        let stored = |party: Party| {
            let holder = Holder { party, plays: Some(party.role(Party::Zero)), weights: Weights::Stored };
            MemoryPlan::new(config, tables, holder, demand, 0).device()
        };
        self.of(argument, devices, stored).map(WeightsChoice::from)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Devices([DeviceChoice; 3]);

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Devices, String> {
        let all: Result<Vec<DeviceChoice>, UnknownDevice> = text.split(',').map(str::parse).collect();
        match all.map_err(|e| e.to_string())?[..] {
            [same] => Ok(Devices([same; 3])),
            [p0, p1, p2] => Ok(Devices([p0, p1, p2])),
            ref other => Err(format!("{} devices; give one for all parties, or three", other.len())),
        }
    }
}

impl DeviceArgument {
    /// Each party's.
    pub(crate) fn choices(&self) -> [DeviceChoice; 3] {
        self.device.0
    }

    /// Opens them in this process, each once however many parties compute on it. Where the parties are processes of
    /// their own, this tells early that one would not start.
    pub(crate) fn open(&self) -> anyhow::Result<[Device; 3]> {
        let mut opened: Vec<(DeviceChoice, Device)> = vec![];
        let mut device = |choice: DeviceChoice| -> anyhow::Result<Device> {
            if let Some((_, device)) = opened.iter().find(|(c, _)| *c == choice) {
                return Ok(device.clone());
            }
            let device = choice.open()?;
            opened.push((choice, device.clone()));
            Ok(device)
        };
        let [p0, p1, p2] = self.choices();
        Ok([device(p0)?, device(p1)?, device(p2)?])
    }

    /// For a title: nothing where all compute on the processor.
    pub(crate) fn on(&self) -> String {
        match self.name() {
            name if name == "cpu" => String::new(),
            name => format!(" on {name}"),
        }
    }

    /// For a figure: `cpu`, or `cpu,cuda:0,cpu`.
    pub(crate) fn name(&self) -> String {
        match self.choices() {
            [a, b, c] if a == b && b == c => a.to_string(),
            all => all.map(|c| c.to_string()).join(","),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_device_for_all_or_one_for_each() {
        let (cpu, gpu) = (DeviceChoice::Cpu, DeviceChoice::Cuda(0));
        let argument = |text: &str| text.parse().map(|device| DeviceArgument { device });
        for (text, choices, name) in [
            ("cpu", [cpu; 3], "cpu"),
            ("cuda", [gpu; 3], "cuda:0"),
            ("cpu,cuda:0,cpu", [cpu, gpu, cpu], "cpu,cuda:0,cpu"),
        ] {
            let argument = argument(text).unwrap();
            assert_eq!((argument.choices(), argument.name().as_str()), (choices, name));
            assert_eq!(argument.on(), if name == "cpu" { String::new() } else { format!(" on {name}") });
        }
        for (wrong, word) in [("cpu,cpu", "2 devices"), ("cpu,,cpu", "cuda:N"), ("cpu,cpu,gpu", "\"gpu\"")] {
            assert!(argument(wrong).unwrap_err().contains(word), "{wrong}");
        }
    }
}
