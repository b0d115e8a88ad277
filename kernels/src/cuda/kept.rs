//! What a device keeps between operations.

use super::buffer::{Core, DeviceWords};
use std::sync::{Arc, Mutex};

/// A table's copy on the device that used it last. It goes when the table does, so a device keeps no more than what is
/// still of use to somebody.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Option<Arc<DeviceWords>>>);

impl Kept {
    /// The copy on a device, made by `upload` the first time.
    pub(super) fn on(&self, core: &Arc<Core>, upload: impl FnOnce() -> DeviceWords) -> Arc<DeviceWords> {
        let mut kept = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(words) = kept.as_ref().filter(|words| words.is_of(core)) {
            return words.clone();
        }
        let words = Arc::new(upload());
        // After a failure it may have no content, which is this thread's matter and no other user's.
        if core.sees_no_failure() {
            *kept = Some(words.clone());
        }
        words
    }
}
