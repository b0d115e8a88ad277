//! A party's device, opened again when it is lost. Sessions that were on it end with an error; the next request finds the
//! models on the new one.

use super::{Entry, ModelStore, lock};
use crate::{
    device::DeviceChoice,
    wire::{Failure, FailureCode},
};
use kernels::Device;
use models::shared::PublicModel;
use std::sync::{Arc, Mutex, PoisonError};

/// The device that is open now, and how to open it again.
pub(super) struct Reopened {
    open: Box<dyn Fn() -> Result<Device, String> + Send + Sync>,
    now: Mutex<Now>,
}

struct Now {
    /// None once it was lost. The last handle on a lost device must go before a driver can open it again; sessions that
    /// are about to end have the others.
    device: Option<Device>,
    /// What happened to it.
    lost: String,
    /// Names and descriptions of the models that were on it.
    left: Vec<(String, Vec<u8>)>,
}

impl Reopened {
    pub(super) fn new(device: Device, choice: DeviceChoice) -> Reopened {
        let open = Box::new(move || choice.open().map_err(|e| e.to_string()));
        Reopened { open, now: Mutex::new(Now { device: Some(device), lost: String::new(), left: vec![] }) }
    }
}

impl ModelStore {
    /// Opens a lost device in another way than by its name in the configuration.
    #[must_use]
    pub fn reopened_by(
        mut self,
        open: impl Fn() -> Result<Device, String> + Send + Sync + 'static,
    ) -> ModelStore {
        self.devices.open = Box::new(open);
        self
    }

    /// The device. If it was lost, it is opened again and all models are loaded onto it first.
    pub(super) fn device(&self) -> Result<Device, Failure> {
        // Whoever comes meanwhile waits here until the models are there.
        let mut now = self.devices.now.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = &now.device {
            // What this thread computed before is no matter of whoever asks now.
            device.begin();
            let Err(lost) = device.status() else { return Ok(device.clone()) };
            tracing::warn!("{} has lost its device ({lost}); opening it again", self.party);
            let models = std::mem::take(&mut *lock(&self.models));
            let left = models.into_iter().map(|(name, entry)| (name, entry.metadata)).collect();
            *now = Now { device: None, lost: lost.to_string(), left };
        }
        let failed = |why: String| {
            let message =
                format!("{} has lost its device ({}) and has no other ({why})", self.party, now.lost);
            Failure::new(FailureCode::Internal, message, "its operator must start the party again")
        };
        let device = (self.devices.open)().map_err(failed)?;
        self.load_all(&device).map_err(failed)?;
        if self.directory.is_none() {
            now.left.drain(..).for_each(|(name, metadata)| self.make_up_again(&device, name, &metadata));
        }
        now.device = Some(device.clone());
        Ok(device)
    }

    /// Without a directory only what nobody has sent comes back.
    fn make_up_again(&self, device: &Device, name: String, metadata: &[u8]) {
        let public = PublicModel::from_bytes(metadata).ok().filter(|p| p.benchmark.is_some());
        let made = public.map(|_| self.incoming(device, metadata).and_then(|i| i.finish(self.dealer)));
        match made {
            Some(Ok(model)) => {
                let entry = Entry { model: Arc::new(model), metadata: metadata.to_vec() };
                lock(&self.models).insert(name, entry);
            }
            Some(Err(e)) => tracing::warn!("{name} could not be made up again: {e}"),
            None => tracing::warn!("{name} was kept in memory only and is lost: share it again"),
        }
    }
}
