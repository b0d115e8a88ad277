//! Three parties in this process, and a tiny model to share with them.
#![allow(dead_code, unreachable_pub)] // Each test file uses a part of this.

#[path = "../../../parties/tests/common/mod.rs"]
mod common;
#[path = "../../../models/tests/common/mod.rs"]
mod gguf;
#[path = "../../../parties/tests/cli/tiny.rs"]
mod tiny;

use common::{Files, Running};
use parties::{
    client::Client,
    config::{Limits, PartyConfig},
    owner::OwnedModel,
    store::ModelStore,
};
use std::{fs, path::PathBuf, sync::Arc, time::Duration};

pub struct Cluster {
    pub files: Files,
    pub running: [Running; 3],
    /// Where the model is.
    pub path: PathBuf,
    pub owned: Arc<OwnedModel>,
}

pub fn cluster() -> Cluster {
    cluster_with(|_, _| ())
}

/// With other limits than the defaults, party by party.
pub fn cluster_with(limits: impl Fn(usize, &mut Limits)) -> Cluster {
    cluster_of(|role, config| limits(role, &mut config.limits))
}

/// With other settings than the defaults, party by party.
pub fn cluster_of(settings: impl Fn(usize, &mut PartyConfig)) -> Cluster {
    let files = Files::new();
    let running = [0, 1, 2].map(|role| {
        let mut config = files.party(role);
        settings(role, &mut config);
        let store = ModelStore::open(&config).unwrap();
        Running::start(config, Arc::new(store))
    });
    let path = tiny::write(files.directory.path(), "tiny", 1);
    let owned = Arc::new(OwnedModel::load(&path, |_, _| ()).unwrap());
    Cluster { files, running, path, owned }
}

impl Cluster {
    /// Runs a client, and all must end within 30 seconds.
    pub fn run(self, client: impl AsyncFnOnce(&Client, &Self)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let connected = Client::connect(&self.files.client()).await.unwrap();
            tokio::time::timeout(Duration::from_secs(30), client(&connected, &self)).await.unwrap();
            connected.close().await;
        });
        drop(self.running);
    }

    /// Names of all files in the parties' stores.
    pub fn stored(&self) -> Vec<String> {
        let entries =
            (0..3).flat_map(|role| fs::read_dir(self.files.party(role).limits.model_directory).unwrap());
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }
}
