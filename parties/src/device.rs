//! Which device a party computes on, as people and configuration files say it.

use kernels::Device;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A device of one machine: `cpu`, `cuda` (its first GPU) or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The processor.
    #[default]
    Cpu,
    /// The GPU of this number, in the order of the CUDA driver.
    Cuda(usize),
}

/// A GPU that cannot be had: why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoDevice {
    index: usize,
    why: kernels::cuda::NoDevice,
}

impl fmt::Display for NoDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no CUDA device {}: ", self.index)?;
        match &self.why {
            kernels::cuda::NoDevice::NoSuchDevice { count, .. } => {
                write!(
                    f,
                    "this machine has {count}, numbered from 0; name one of them, or compute with --device cpu"
                )
            }
            why => why.fmt(f),
        }
    }
}

impl std::error::Error for NoDevice {}

/// A word that names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no device; give cpu, cuda or cuda:N, N from 0")]
pub struct UnknownDevice(String);

impl DeviceChoice {
    /// Opens it. Opening the processor cannot fail.
    ///
    /// # Errors
    /// There is no such GPU, or it cannot be used; the message begins with "no CUDA device" and says what to do.
    pub fn open(self) -> Result<Device, NoDevice> {
        match self {
            DeviceChoice::Cpu => Ok(kernels::cpu::Cpu::best()),
            DeviceChoice::Cuda(index) => kernels::cuda::open(index).map_err(|why| NoDevice { index, why }),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, UnknownDevice> {
        let unknown = || UnknownDevice(text.into());
        match text.split_once(':') {
            None if text == "cpu" => Ok(DeviceChoice::Cpu),
            None if text == "cuda" => Ok(DeviceChoice::Cuda(0)),
            // `parse` takes a sign as well.
            Some(("cuda", number)) if number.bytes().all(|b| b.is_ascii_digit()) => {
                number.parse().map(DeviceChoice::Cuda).map_err(|_| unknown())
            }
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = UnknownDevice;

    fn try_from(text: String) -> Result<Self, UnknownDevice> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> String {
        choice.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        for (text, device) in [
            ("cpu", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Cuda(0)),
            ("cuda:0", DeviceChoice::Cuda(0)),
            ("cuda:12", DeviceChoice::Cuda(12)),
        ] {
            assert_eq!(text.parse(), Ok(device));
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        let wrong =
            ["", "CPU", "gpu", "cuda:", "cuda:-1", "cuda:+1", "cuda:x", "cpu:0", "cuda:99999999999999999999"];
        for text in wrong {
            assert!(text.parse::<DeviceChoice>().unwrap_err().to_string().contains("cuda:N"), "{text}");
        }
    }
}
