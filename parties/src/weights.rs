//! How a party keeps its weights, as people and configuration files say it.

use kernels::Device;
use models::shared::Weights;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What a party keeps of weight matrices' pseudo-random components, of which it has the seed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WeightsChoice {
    /// All words, unless a device with memory of its own has no room for them and a session.
    #[default]
    Auto,
    /// All words.
    Stored,
    /// None: they are drawn from the seed in each product.
    Regenerated,
}

/// A word that names no way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no way to keep weights; give auto, stored or regenerated")]
pub struct UnknownWeights(String);

impl WeightsChoice {
    /// The way on this device, where a session and stored weights need so many bytes of what is free now.
    pub fn on(self, device: &Device, stored: u64) -> Weights {
        match self {
            WeightsChoice::Stored => Weights::Stored,
            WeightsChoice::Regenerated => Weights::Regenerated,
            WeightsChoice::Auto => match device.memory() {
                Some((free, _)) if stored > free => Weights::Regenerated,
                _ => Weights::Stored,
            },
        }
    }
}

impl From<Weights> for WeightsChoice {
    fn from(weights: Weights) -> WeightsChoice {
        match weights {
            Weights::Stored => WeightsChoice::Stored,
            Weights::Regenerated => WeightsChoice::Regenerated,
        }
    }
}

impl FromStr for WeightsChoice {
    type Err = UnknownWeights;

    fn from_str(text: &str) -> Result<Self, UnknownWeights> {
        match text {
            "auto" => Ok(WeightsChoice::Auto),
            "stored" => Ok(WeightsChoice::Stored),
            "regenerated" => Ok(WeightsChoice::Regenerated),
            _ => Err(UnknownWeights(text.into())),
        }
    }
}

impl fmt::Display for WeightsChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WeightsChoice::Auto => "auto",
            WeightsChoice::Stored => "stored",
            WeightsChoice::Regenerated => "regenerated",
        })
    }
}

impl TryFrom<String> for WeightsChoice {
    type Error = UnknownWeights;

    fn try_from(text: String) -> Result<Self, UnknownWeights> {
        text.parse()
    }
}

impl From<WeightsChoice> for String {
    fn from(choice: WeightsChoice) -> String {
        choice.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_regenerated_where_nobody_says_otherwise() {
        for choice in [WeightsChoice::Auto, WeightsChoice::Stored, WeightsChoice::Regenerated] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert!("drawn".parse::<WeightsChoice>().unwrap_err().to_string().contains("regenerated"));
        // The processor's memory is the machine's.
        let cpu = kernels::cpu::Cpu::best();
        assert_eq!(WeightsChoice::Auto.on(&cpu, u64::MAX), Weights::Stored);
        let Some(own) = kernels_shim::device(kernels_shim::Order::Forward) else { return };
        let (free, _) = own.memory().expect("memory of its own");
        assert_eq!(WeightsChoice::Auto.on(&own, free), Weights::Stored);
        assert_eq!(WeightsChoice::Auto.on(&own, free + 1), Weights::Regenerated);
        assert_eq!(WeightsChoice::Stored.on(&own, free + 1), Weights::Stored);
        assert_eq!(WeightsChoice::Regenerated.on(&cpu, 0), Weights::Regenerated);
    }
}
