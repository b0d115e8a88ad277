//! Why a device stopped.

/// What a device computed since may be wrong. See [`crate::Backend::status`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{device}: {operation}: {fault}")]
pub struct DeviceError {
    /// Which device.
    pub device: String,
    /// The operation that failed first.
    pub operation: String,
    /// What happened.
    pub fault: Fault,
}

/// What went wrong on a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// There is no room for a buffer.
    #[error(
        "out of memory, {asked} bytes asked and {free} free; ask with fewer tokens, use a smaller model, or leave the device to one party"
    )]
    OutOfMemory {
        /// Bytes of the buffer.
        asked: u64,
        /// Bytes that were free.
        free: u64,
    },
    /// These words were to be computed when there was no memory.
    #[error("words that an earlier failure left without content; ask again")]
    Void,
    /// The driver reports an error: the device was lost, or a kernel went wrong.
    #[error(
        "driver error {code} ({text}); start the party again, and if it returns, test the device or compute with --device cpu"
    )]
    Driver {
        /// The driver's number of it.
        code: u32,
        /// The driver's words for it.
        text: String,
    },
}
