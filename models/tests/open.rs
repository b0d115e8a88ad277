//! Models from paths: files and folders of every kind, and those that are none.

mod common;
mod folder;

use common::{Writer, default_model};
use folder::{Folder, safetensors};
use models::checkpoint::{Checkpoint, Family, Head, ModelConfig, Naming};
use serde_json::{Value, json};

fn tokenizer(name: &str) -> Value {
    let file: Value = serde_json::from_str(include_str!("data/tokenizers_small.json")).unwrap();
    file["families"][name]["tokenizer"].clone()
}

fn bert() -> Value {
    json!({
        "architectures": ["BertForSequenceClassification"], "model_type": "bert", "hidden_size": 8,
        "id2label": {"0": "no", "1": "yes"}, "intermediate_size": 16, "max_position_embeddings": 32,
        "num_attention_heads": 2, "num_hidden_layers": 1, "type_vocab_size": 2, "vocab_size": 500
    })
}

fn weights(folder: &Folder) {
    let bytes = (0..8).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let tensors = [("bert.embeddings.LayerNorm.weight", "F32", &[8][..], bytes)];
    folder.write("model.safetensors", &safetensors(&tensors));
}

fn complete(config: &Value) -> Folder {
    let folder = Folder::new();
    folder.write_json("config.json", config);
    folder.write_json("tokenizer.json", &tokenizer("bert"));
    weights(&folder);
    folder
}

fn refused(folder: &Folder, words: &str) {
    let error = Checkpoint::open(folder.path()).expect_err(words).to_string();
    assert!(error.contains(words), "{error}");
}

#[test]
fn a_folder() {
    let folder = complete(&bert());
    let opened = Checkpoint::open(folder.path()).unwrap();
    assert_eq!((opened.config.family, opened.config.head), (Family::Bert, Head::Classifier { labels: 2 }));
    assert_eq!(opened.labels, ["no", "yes"]);
    assert_eq!(opened.tokenizer.unwrap().encode_pair("a", "b").unwrap().1, 3);
    let mut tensors = opened.tensors.unwrap();
    assert_eq!(tensors.naming(), Naming::HuggingFace);
    let name = "bert.embeddings.LayerNorm.weight";
    assert_eq!((tensors.names(), tensors.shape(name)), (vec![name.to_owned()], Some(vec![8])));
    assert_eq!(tensors.load(name).unwrap()[7], 7.0);

    // The configuration alone.
    let config = Checkpoint::open(folder.path().join("config.json")).unwrap();
    assert_eq!((&config.config, &config.labels), (&opened.config, &opened.labels));
    assert!(config.tensors.is_none() && config.tokenizer.is_none());
    assert!(format!("{config:?}").contains("vocab: 500"));
}

#[test]
fn a_decoder_folder_has_stop_tokens() {
    let folder = Folder::new();
    folder.write_json(
        "config.json",
        &json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 8, "eos_token_id": 5,
            "intermediate_size": 16, "max_position_embeddings": 32, "num_attention_heads": 2,
            "num_hidden_layers": 1, "num_key_value_heads": 1, "vocab_size": 500
        }),
    );
    let vocabulary = tokenizer("qwen2");
    folder.write_json("tokenizer.json", &vocabulary);
    folder.write_json("generation_config.json", &json!({"eos_token_id": [6]}));
    folder.write_json("tokenizer_config.json", &json!({"chat_template": "x"}));
    folder.write("chat_template.jinja", b"<|im_start|>system\nHello.<|im_end|>");
    weights(&folder);
    let tokenizer = Checkpoint::open(folder.path()).unwrap().tokenizer.unwrap();
    assert_eq!(tokenizer.eos()[..2], [5, 6]);
    assert!(tokenizer.chat("Hi").starts_with("<|im_start|>system\nHello.<|im_end|>\n"));
}

#[test]
fn tokenizer_and_model_must_agree() {
    let folder = complete(&bert());
    let mut small = bert();
    small["vocab_size"] = json!(400);
    folder.write_json("config.json", &small);
    refused(&folder, "the tokenizer has 500 tokens, the model 400");
    small["vocab_size"] = json!(512);
    folder.write_json("config.json", &small);
    assert!(Checkpoint::open(folder.path()).is_ok());
    folder.write("tokenizer.json", b"{}");
    refused(&folder, "broken tokenizer");
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    assert!(Checkpoint::open(folder.path()).unwrap().tokenizer.is_none());
}

#[test]
fn sentence_models() {
    let mut config = bert();
    config["architectures"] = json!(["BertModel"]);
    let folder = complete(&config);
    let modules = |last: &str| {
        let module = |path: &str, kind: &str| json!({"path": path, "type": format!("sentence_transformers.models.{kind}")});
        json!([module("", "Transformer"), module("1_Pooling", "Pooling"), module("2", last)])
    };
    let open = || Checkpoint::open(folder.path()).map(|c| c.config.head);
    assert_eq!(open().unwrap(), Head::MeanPooling);
    folder.write_json("modules.json", &modules("Normalize"));
    assert_eq!(open().unwrap(), Head::MeanPooling);
    let pooling =
        |mode: &str| json!({"word_embedding_dimension": 8, "pooling_mode_max_tokens": false, mode: true});
    folder.write_json("1_Pooling/config.json", &pooling("pooling_mode_mean_tokens"));
    assert_eq!(open().unwrap(), Head::MeanPooling);
    folder.write_json("1_Pooling/config.json", &pooling("pooling_mode_cls_token"));
    refused(&folder, "pooling_mode_cls_token");
    folder.write_json("1_Pooling/config.json", &pooling("pooling_mode_mean_tokens"));
    folder.write_json("modules.json", &modules("Dense"));
    refused(&folder, "Dense");
    // A classifier does not pool.
    folder.write_json("config.json", &bert());
    assert!(open().is_ok());
}

#[test]
fn what_is_no_model() {
    let folder = Folder::new();
    refused(&folder, "without a config.json");
    folder.write_json("config.json", &bert());
    refused(&folder, "holds neither model.safetensors");
    weights(&folder);
    assert!(Checkpoint::open(folder.path()).is_ok());
    folder.write("config.json", b"\xff");
    refused(&folder, "not UTF-8");
    folder.write("config.json", &vec![b' '; (4 << 20) + 1]);
    refused(&folder, "longer than");
    let error = Checkpoint::open(folder.path().join("model.safetensors")).unwrap_err().to_string();
    assert!(error.contains("without a configuration"), "{error}");
    let error = Checkpoint::open(folder.path().join("absent")).unwrap_err().to_string();
    assert!(error.contains("absent"), "{error}");
    folder.write("model.gguf", b"not one");
    let error = Checkpoint::open(folder.path().join("model.gguf")).unwrap_err().to_string();
    assert!(error.contains("not a GGUF file"), "{error}");
}

#[test]
fn gguf_files() {
    let folder = Folder::new();
    folder.write("toy.gguf", &Writer::toy().bytes());
    let opened = Checkpoint::open(folder.path().join("toy.gguf")).unwrap();
    assert_eq!((opened.config, opened.tokenizer.is_none()), (ModelConfig::toy(), true));
    assert_eq!(opened.tensors.unwrap().load("output_norm.weight").unwrap().len(), 32);
    let mut w = Writer::toy();
    w.string("tokenizer.ggml.model", "llama");
    folder.write("toy.gguf", &w.bytes());
    let error = Checkpoint::open(folder.path().join("toy.gguf")).unwrap_err().to_string();
    assert!(error.contains("tokenizer model \"llama\""), "{error}");

    let Some(path) = default_model("gguf_files") else { return };
    let opened = Checkpoint::open(path).unwrap();
    assert_eq!(opened.tokenizer.unwrap().vocab_size(), opened.config.vocab);
    assert_eq!(opened.tensors.unwrap().shape("blk.0.attn_k.weight"), Some(vec![192, 576]));
}
