//! `embed`, `classify`, `eval`, `inspect` and `bench` with published encoders, in three real processes each; skipped,
//! loudly, where they cannot be fetched.

use crate::{cluster::catamount, gguf::or_skip, process::run, tiny};
use models::fetch;
use std::path::PathBuf;

fn router(test: &str) -> Option<PathBuf> {
    or_skip(test, "the query router", fetch::router(&mut |_| {}).map_err(|e| e.to_string()))
}

#[test]
fn a_text_is_classified_privately() {
    let Some(folder) = router("a_text_is_classified_privately") else { return };
    for (text, label) in [("summarise this document", "generic"), ("who signed the contract?", "directed")] {
        let ended = run(catamount().args(["classify", text, "--json", "-", "--model"]).arg(&folder)).fine();
        let figures = ended.json();
        assert_eq!(figures["label"], label, "{figures}");
        let probabilities = figures["probabilities"].as_array().unwrap();
        let sum: f64 = probabilities.iter().map(|p| p.as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-5 && figures["exchanges"].as_u64().unwrap() > 50, "{figures}");
    }
    // It neither embeds nor speaks.
    run(catamount().args(["embed", "a text", "--model"]).arg(&folder))
        .refused(&["does not make sentence embeddings"]);
    run(catamount().args(["ask", "a question", "--model"]).arg(&folder)).refused(&["does not generate text"]);
    run(catamount().args(["demo", "--model"]).arg(&folder)).refused(&["generates no text"]);
    run(catamount().args(["classify", "", "--model"]).arg(&folder)).refused(&["empty"]);
    let long = "word ".repeat(600);
    run(catamount().args(["classify", &long, "--model"]).arg(&folder)).refused(&["the limit is", "shorten"]);
}

#[test]
fn readings_of_the_router_agree() {
    let Some(folder) = router("readings_of_the_router_agree") else { return };
    let data = fetch::evaluation_data(&mut |_| {}).map_err(|e| e.to_string());
    if or_skip("readings_of_the_router_agree", "evaluation data", data).is_none() {
        return;
    }
    let arguments = ["eval", "--task", "sst2-router", "--limit", "6", "--json", "-", "--model"];
    let figures = run(catamount().args(arguments).arg(&folder)).fine().json();
    let readings = figures["readings"].as_array().unwrap();
    let names: Vec<&str> = readings.iter().map(|r| r["reading"].as_str().unwrap()).collect();
    assert_eq!(names, ["float", "clear", "secure"]);
    for r in readings {
        assert_eq!(r["same_decisions"], 1.0, "{figures}");
        assert!(r["max_error"].as_f64().unwrap() < 0.01, "{figures}");
    }
    assert!(readings[2]["max_error"].as_f64().unwrap() > 0.0, "fixed point without any error: {figures}");
    let wrong = ["eval", "--task", "lambada", "--limit", "1", "--model"];
    run(catamount().args(wrong).arg(&folder)).refused(&["task lambada is for a language model"]);
    run(catamount().args(["eval", "--task", "nonsense"])).refused(&["no task", "mrpc"]);
}

#[test]
fn sentences_are_embedded_privately() {
    let folder = fetch::minilm(&mut |_| {}).map_err(|e| e.to_string());
    let Some(folder) = or_skip("sentences_are_embedded_privately", "MiniLM", folder) else { return };
    let sentences = ["A cat sits on the mat.", "A feline rests on a rug.", "Stock markets fell today."];
    let mut command = catamount();
    command.arg("embed").args(sentences).args(["--json", "-", "--model"]).arg(folder);
    let figures = run(&mut command).fine().json();
    let cosine = |i: usize, j: usize| figures["cosines"][i][j].as_f64().unwrap();
    assert!((cosine(0, 0) - 1.0).abs() < 1e-5);
    assert!(cosine(0, 1) > 0.5 && cosine(0, 2) < 0.2, "{}", figures["cosines"]);
    assert_eq!(figures["embeddings"][0].as_array().unwrap().len(), 384);
}

#[test]
fn a_benchmark_measures_what_is_declared() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tiny", 1);
    let arguments = ["--tokens", "7", "--decode", "2", "--runs", "2", "--json", "-"];
    let figures = run(catamount().args(["bench", "model"]).arg(&model).args(arguments)).fine().json();
    assert_eq!(figures["declared"], true, "{figures}");
    assert_eq!(figures["pass_s"].as_array().unwrap().len(), 2);
    assert_eq!(figures["decode_s"].as_array().unwrap().len(), 4);
    let error = figures["max_error"].as_f64().unwrap();
    assert!(error > 0.0 && error < 0.05, "{figures}");
    // Vocabulary 258, three leaves of 128 points: two levels of 16 bytes and 2 bits, a root and a leaf's correction, six times.
    assert_eq!(figures["upload_bytes"], 6 * (32 + 2 * 16 + 1));
    let cost = ["cost", "--prompt-tokens", "7", "--json", "-", "--model"];
    let cost = run(catamount().args(cost).arg(&model)).fine().json();
    assert_eq!(figures["bytes"], cost["first_token"]["bytes"]);
    assert_eq!(figures["exchanges"], cost["first_token"]["exchanges"]);
    run(catamount().args(["bench", "model"]).arg(&model).args(["--tokens", "3000"]))
        .refused(&["the model takes 2048"]);
}

#[test]
fn shapes_without_weights() {
    let figures = run(catamount().args(["inspect", "random:llama-7b", "--json", "-"])).fine().json();
    assert_eq!(figures["parameters"], 6_738_149_376_u64);
    // A word of the embedding table holds two of its 32000 · 4096 numbers.
    assert_eq!(figures["shares"][1]["disk_bytes"], 8 * (6_738_149_376_u64 - 16_000 * 4096) + 32);
    assert!(figures["next_token"]["exchanges"].as_u64().unwrap() > 900);
    run(catamount().args(["inspect", "random:nothing"])).refused(&["no shape", "gpt2"]);
    run(catamount().args(["inspect", "random:bert-base", "--tokens", "513"])).refused(&["1 to 512"]);

    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    let llama = r#"{ "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 4096, "intermediate_size": 11008, "max_position_embeddings": 4096,
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": false, "vocab_size": 32000 }"#;
    std::fs::write(&config, llama).unwrap();
    let ended = run(catamount().arg("inspect").arg(&config)).fine();
    for words in ["LLaMA, language model", "share of P1", "exchanges a layer"] {
        assert!(ended.out.contains(words), "{}", ended.out);
    }
    std::fs::write(&config, llama.replace("silu", "relu")).unwrap();
    run(catamount().arg("inspect").arg(&config)).refused(&["relu"]);
}
