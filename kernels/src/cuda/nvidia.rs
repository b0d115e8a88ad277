//! NVIDIA's driver, opened at run time.

use crate::backend::Device;

/// Why there is no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoDevice {
    /// The driver's library was not found.
    #[error(
        "no NVIDIA driver on this machine (libcuda.so.1 was not found); install it, or compute with --device cpu"
    )]
    NoDriver,
}

/// Device `index` of this machine, as the driver counts them.
pub fn open(index: usize) -> Result<Device, NoDevice> {
    let _ = index;
    Err(NoDevice::NoDriver)
}
