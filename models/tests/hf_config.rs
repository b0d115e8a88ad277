//! `config.json`: those of known models, what is refused, and text from anyone.

use models::checkpoint::{Activation, CheckpointError, Family, Head, HfConfig, ModelConfig, Rotary};
use proptest::prelude::*;
use serde_json::{Value, json};

fn parse(json: &Value) -> Result<HfConfig, CheckpointError> {
    HfConfig::parse(&json.to_string())
}

fn with(mut json: Value, key: &str, value: Value) -> Value {
    json.as_object_mut().unwrap().insert(key.to_owned(), value);
    json
}

fn without(mut json: Value, key: &str) -> Value {
    json.as_object_mut().unwrap().remove(key).expect(key);
    json
}

fn refused(json: &Value, words: &[&str]) {
    let error = parse(json).expect_err(&json.to_string()).to_string();
    assert!(words.iter().all(|w| error.contains(w)), "{error}: {words:?}");
}

fn minilm() -> Value {
    json!({
        "_name_or_path": "nreimers/MiniLM-L6-H384-uncased", "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": false, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "hidden_size": 384, "initializer_range": 0.02,
        "intermediate_size": 1536, "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
        "model_type": "bert", "num_attention_heads": 12, "num_hidden_layers": 6, "pad_token_id": 0,
        "position_embedding_type": "absolute", "transformers_version": "4.8.2", "type_vocab_size": 2,
        "use_cache": true, "vocab_size": 30522
    })
}

fn gpt2() -> Value {
    json!({
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12,
        "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "summary_type": "cls_index",
        "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50}},
        "vocab_size": 50257
    })
}

fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "head_dim": 64,
        "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
        "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"
        },
        "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 128256
    })
}

fn qwen2() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
        "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2",
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true,
        "use_sliding_window": false, "vocab_size": 151936
    })
}

fn mistral() -> Value {
    json!({
        "architectures": ["MistralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0, "sliding_window": null, "tie_word_embeddings": false, "vocab_size": 32768
    })
}

fn roberta() -> Value {
    json!({
        "architectures": ["RobertaForSequenceClassification"], "bos_token_id": 0, "eos_token_id": 2,
        "hidden_act": "gelu", "hidden_size": 768, "id2label": {"0": "negative", "1": "neutral", "2": "positive"},
        "intermediate_size": 3072, "label2id": {"negative": 0, "neutral": 1, "positive": 2},
        "layer_norm_eps": 1e-05, "max_position_embeddings": 514, "model_type": "roberta",
        "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1, "type_vocab_size": 1,
        "vocab_size": 50265
    })
}

#[test]
fn known_models() {
    let bert = ModelConfig {
        family: Family::Bert,
        head: Head::MeanPooling,
        layers: 6,
        d_model: 384,
        d_ff: 1536,
        heads: 12,
        kv_heads: 12,
        head_dim: 32,
        vocab: 30_522,
        context: 512,
        types: 2,
        position_offset: 0,
        norm_eps: 1e-12,
        activation: Activation::Gelu,
        rotary: None,
        qkv_bias: true,
        tied: false,
    };
    let expected = HfConfig { config: bert.clone(), labels: vec![], eos: vec![], bos: None };
    assert_eq!(parse(&minilm()).unwrap(), expected);
    assert_eq!(parse(&without(minilm(), "architectures")).unwrap(), expected);
    assert_eq!(parse(&without(minilm(), "model_type")).unwrap(), expected);

    let found = parse(&roberta()).unwrap();
    assert_eq!(found.labels, ["negative", "neutral", "positive"]);
    let expected = ModelConfig {
        family: Family::Roberta,
        head: Head::Classifier { labels: 3 },
        layers: 12,
        d_model: 768,
        d_ff: 3072,
        head_dim: 64,
        vocab: 50_265,
        types: 1,
        position_offset: 2,
        norm_eps: 1e-5,
        ..bert.clone()
    };
    assert_eq!(found.config, expected);

    let found = parse(&gpt2()).unwrap();
    assert_eq!((found.eos, found.bos), (vec![50_256], Some(50_256)));
    let gpt2_config = ModelConfig {
        family: Family::Gpt2,
        head: Head::LanguageModel,
        vocab: 50_257,
        context: 1024,
        types: 0,
        position_offset: 0,
        activation: Activation::GeluTanh,
        tied: true,
        ..expected
    };
    assert_eq!(found.config, gpt2_config);
    let wide = parse(&with(gpt2(), "n_inner", json!(2000))).unwrap().config;
    assert_eq!((wide.d_ff, wide.tied), (2000, true));
    assert!(!parse(&with(gpt2(), "tie_word_embeddings", json!(false))).unwrap().config.tied);

    let found = parse(&qwen2()).unwrap().config;
    let qwen2_config = ModelConfig {
        family: Family::Llama,
        layers: 24,
        d_model: 896,
        d_ff: 4864,
        heads: 14,
        kv_heads: 2,
        vocab: 151_936,
        context: 32_768,
        norm_eps: 1e-6,
        activation: Activation::Silu,
        rotary: Some(Rotary { base: 1e6, interleaved: false, factors: vec![] }),
        ..gpt2_config
    };
    assert_eq!(found, qwen2_config);
    let found = parse(&mistral()).unwrap().config;
    let expected = ModelConfig {
        layers: 32,
        d_model: 4096,
        d_ff: 14_336,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        vocab: 32_768,
        norm_eps: 1e-5,
        qkv_bias: false,
        tied: false,
        ..qwen2_config
    };
    assert_eq!(found, expected);
}

#[test]
fn labels() {
    let classifier = with(minilm(), "architectures", json!(["BertForSequenceClassification"]));
    let default = parse(&classifier).unwrap();
    assert_eq!(default.labels, ["LABEL_0", "LABEL_1"]);
    assert_eq!(default.config.head, Head::Classifier { labels: 2 });
    let five = parse(&with(classifier.clone(), "num_labels", json!(5))).unwrap();
    assert_eq!(five.config.head, Head::Classifier { labels: 5 });
    // In the order of the numbers, not of their text.
    let map: serde_json::Map<_, _> = (0..12).map(|i| (i.to_string(), json!(format!("l{i}")))).collect();
    let twelve = parse(&with(classifier.clone(), "id2label", map.into())).unwrap();
    assert_eq!(twelve.labels[2..4], ["l2", "l3"]);
    refused(&with(classifier.clone(), "num_labels", json!(0)), &["labels: 0"]);
    refused(&with(classifier.clone(), "num_labels", json!(u64::MAX)), &["num_labels is"]);
    refused(&with(classifier.clone(), "id2label", json!({"0": "a", "2": "b"})), &["id2label"]);
    refused(&with(classifier.clone(), "id2label", json!({"0": 7})), &["id2label"]);
    let two = with(classifier, "id2label", json!({"0": "a", "1": "b"}));
    refused(&with(two, "num_labels", json!(3)), &["num_labels is 3", "2 labels"]);
}

#[test]
fn rotary_scaling() {
    let found = parse(&llama()).unwrap();
    assert_eq!((&found.eos[..], found.bos), (&[128_001, 128_008, 128_009][..], Some(128_000)));
    assert!(found.config.tied && !found.config.qkv_bias);
    let rotary = found.config.rotary.unwrap();
    assert_eq!((rotary.base, rotary.interleaved, rotary.factors.len()), (500_000.0, false, 32));
    // Computed once with the branches of the Python library, in f64.
    for (pair, factor) in LLAMA_3_2 {
        assert!((rotary.factors[pair] / factor - 1.0).abs() < 1e-12, "{pair}: {}", rotary.factors[pair]);
    }
    let newer = json!({
        "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_theta": 500000.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"
    });
    let json = with(without(without(llama(), "rope_scaling"), "rope_theta"), "rope_parameters", newer);
    assert_eq!(parse(&json).unwrap().config.rotary, Some(rotary));

    let scaled = |scaling: Value| with(llama(), "rope_scaling", scaling);
    let factors = |scaling| parse(&scaled(scaling)).unwrap().config.rotary.unwrap().factors;
    assert_eq!(factors(json!({"type": "linear", "factor": 2.5})), [2.5; 32]);
    assert_eq!(factors(json!({"rope_type": "default"})), [0f64; 0]);
    assert_eq!(factors(json!(null)), [0f64; 0]);
    for other in ["dynamic", "yarn", "longrope"] {
        refused(&scaled(json!({"rope_type": other, "factor": 2.0})), &[other, "llama3", "linear"]);
    }
    refused(&scaled(json!({"type": "linear"})), &["factor", "nothing"]);
    refused(&scaled(json!({"type": "linear", "factor": -1.0})), &["rotary factors"]);
    refused(&scaled(json!("linear")), &["rope_scaling"]);
    let mut equal = llama();
    equal["rope_scaling"]["low_freq_factor"] = json!(4.0);
    refused(&equal, &["llama3"]);
    refused(&with(llama(), "head_dim", json!(1u64 << 60)), &["head_dim"]);
    refused(&with(llama(), "rope_theta", json!(0.5)), &["rotary base"]);
}

const LLAMA_3_2: [(usize, f64); 6] = [
    (0, 1.0),
    (14, 1.0),
    (15, 1.651_329_245_763_898_2),
    (16, 3.292_262_102_940_884_3),
    (17, 9.666_728_978_753_29),
    (31, 32.0),
];

#[test]
fn what_is_not_implemented() {
    for class in ["GemmaForCausalLM", "BertForMaskedLM", "LlamaForSequenceClassification", "T5Model"] {
        let json = without(with(minilm(), "architectures", json!([class])), "model_type");
        refused(&json, &[class, "Qwen2ForCausalLM", "RobertaForSequenceClassification"]);
    }
    for model_type in ["gemma", "xlm-roberta", "distilbert", "phi3", "qwen3", "gpt_neox"] {
        refused(&with(minilm(), "model_type", json!(model_type)), &[model_type, "BertModel"]);
    }
    refused(&json!({}), &["neither"]);
    refused(&json!({"word_embedding_dimension": 384, "pooling_mode_mean_tokens": true}), &["neither"]);
    refused(&with(minilm(), "model_type", json!("gpt2")), &["gpt2", "BertModel"]);

    for act in ["relu", "silu", "quick_gelu"] {
        refused(&with(minilm(), "hidden_act", json!(act)), &[act, "gelu_new"]);
        refused(&with(gpt2(), "activation_function", json!(act)), &[act, "gelu_new"]);
    }
    refused(&with(llama(), "hidden_act", json!("gelu")), &["gelu", "silu"]);
    for kind in ["relative_key", "relative_key_query"] {
        refused(&with(minilm(), "position_embedding_type", json!(kind)), &[kind, "absolute"]);
    }
    for (json, key, value) in [
        (minilm(), "is_decoder", true),
        (minilm(), "add_cross_attention", true),
        (gpt2(), "add_cross_attention", true),
        (gpt2(), "scale_attn_weights", false),
        (gpt2(), "scale_attn_by_inverse_layer_idx", true),
        (llama(), "attention_bias", true),
        (llama(), "mlp_bias", true),
    ] {
        assert!(parse(&with(json.clone(), key, json!(!value))).is_ok());
        refused(&with(json.clone(), key, json!(value)), &[key]);
        refused(&with(json, key, json!("yes")), &[key, "true or false"]);
    }
    refused(&with(mistral(), "sliding_window", json!(4096)), &["sliding window"]);
    assert!(parse(&with(mistral(), "sliding_window", json!(32_768))).is_ok());
    refused(&with(qwen2(), "use_sliding_window", json!(true)), &["sliding window"]);
    let kinds = |kind: &str| with(qwen2(), "layer_types", json!(["full_attention", kind]));
    refused(&kinds("sliding_attention"), &["sliding window"]);
    assert!(parse(&kinds("full_attention")).is_ok());
    refused(&with(llama(), "partial_rotary_factor", json!(0.5)), &["0.5"]);
    refused(&with(llama(), "quantization_config", json!({"quant_method": "gptq"})), &["quantised"]);
}

#[test]
fn activations() {
    for (name, expected) in [
        ("gelu", Activation::Gelu),
        ("gelu_new", Activation::GeluTanh),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
    ] {
        assert_eq!(parse(&with(minilm(), "hidden_act", json!(name))).unwrap().config.activation, expected);
        let json = with(gpt2(), "activation_function", json!(name));
        assert_eq!(parse(&json).unwrap().config.activation, expected);
    }
}

#[test]
fn impossible_values() {
    for key in ["hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size"]
    {
        for json in [minilm(), llama(), roberta()] {
            refused(&without(json.clone(), key), &[key, "nothing"]);
            refused(&with(json.clone(), key, json!(null)), &[key, "nothing"]);
            refused(&with(json.clone(), key, json!(-1)), &[key, "-1"]);
            refused(&with(json.clone(), key, json!(1.5)), &[key, "1.5"]);
            refused(&with(json.clone(), key, json!("12")), &[key, "12"]);
            assert!(parse(&with(json.clone(), key, json!(0))).is_err());
            assert!(parse(&with(json, key, json!(u64::MAX))).is_err());
        }
    }
    refused(&with(minilm(), "num_attention_heads", json!(5)), &["5 heads"]);
    refused(&with(gpt2(), "n_head", json!(7)), &["7 heads"]);
    refused(&with(gpt2(), "n_embd", json!(u64::MAX)), &["heads"]);
    refused(&with(llama(), "num_key_value_heads", json!(3)), &["key heads"]);
    refused(&without(qwen2(), "num_key_value_heads"), &["num_key_value_heads"]);
    refused(&with(roberta(), "max_position_embeddings", json!(1)), &["positions"]);
    refused(&with(roberta(), "pad_token_id", json!(u64::MAX)), &["positions"]);
    refused(&with(minilm(), "layer_norm_eps", json!(1.0)), &["epsilon"]);
    refused(&with(minilm(), "type_vocab_size", json!(17)), &["token types"]);
    refused(&with(gpt2(), "eos_token_id", json!("x")), &["eos_token_id"]);
    refused(&with(minilm(), "architectures", json!("BertModel")), &["architectures"]);
    for text in ["", "[]", "3", "{", "\u{0}"] {
        assert!(HfConfig::parse(text).is_err(), "{text:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_text(
        which in 0usize..5,
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0x20u8..0x7f), 1..4),
    ) {
        let json = [minilm(), gpt2(), llama(), qwen2(), roberta()][which].to_string();
        let mut bytes = json.into_bytes();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(found) = HfConfig::parse(&String::from_utf8(bytes).unwrap()) {
            found.config.validate().unwrap();
        }
    }
}
