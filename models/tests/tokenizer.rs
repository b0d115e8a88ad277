//! The tokenizer: the default model's against recorded ids, and descriptions from untrusted parties.

mod common;

use common::{Writer, default_model};
use models::gguf::Gguf;
use models::tokenizer::{ChatFormat, Tokenizer, TokenizerError, TokenizerInfo};
use proptest::prelude::*;
use serde_json::{Value, json};

const SYSTEM: &str = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

fn default_tokenizer(test: &str) -> Option<Tokenizer> {
    let path = default_model(test)?;
    Some(Tokenizer::from_gguf(&Gguf::open(path).unwrap()).unwrap())
}

fn recorded() -> Vec<Value> {
    let Value::Array(prompts) = serde_json::from_str(include_str!("data/smollm2_greedy.json")).unwrap()
    else {
        panic!("not a list")
    };
    assert_eq!(prompts.len(), 8);
    prompts
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The 256 single bytes, two merges, two special tokens.
fn small() -> Writer {
    let mut tokens: Vec<String> = Vec::new();
    let mut next = 0x100;
    for byte in 0..=255u8 {
        let code = if matches!(byte, 33..=126 | 0xa1..=0xac | 0xae..) {
            u32::from(byte)
        } else {
            next += 1;
            next - 1
        };
        tokens.push(char::from_u32(code).unwrap().to_string());
    }
    tokens.extend(["\u{120}t", "\u{120}th", "<|im_start|>", "<|im_end|>", "<tool>"].map(String::from));
    let mut kinds = vec![1; tokens.len()];
    kinds[258..].copy_from_slice(&[3, 3, 4]);
    let mut w = Writer::new();
    w.string("tokenizer.ggml.model", "gpt2");
    w.string("tokenizer.ggml.pre", "smollm");
    w.strings("tokenizer.ggml.tokens", &tokens.iter().map(String::as_str).collect::<Vec<_>>());
    w.strings("tokenizer.ggml.merges", &["\u{120} t", "\u{120}t h"]);
    w.ints("tokenizer.ggml.token_type", &kinds);
    w.put("tokenizer.ggml.eos_token_id", common::U32, &259u32.to_le_bytes());
    w.put("tokenizer.ggml.bos_token_id", common::U32, &258u32.to_le_bytes());
    w
}

fn small_tokenizer() -> Tokenizer {
    Tokenizer::from_gguf(&small().open().unwrap()).unwrap()
}

#[test]
fn recorded_prompts() {
    let Some(tokenizer) = default_tokenizer("recorded_prompts") else { return };
    assert_eq!(tokenizer.vocab_size(), 49_152);
    assert_eq!((tokenizer.eos(), tokenizer.bos()), (&[2][..], None));
    assert_eq!(tokenizer.chat_format(), &ChatFormat::ChatMl { system: Some(SYSTEM.into()) });
    for case in recorded() {
        let prompt = case["prompt"].as_str().unwrap();
        let prompt = if case["kind"] == "chat" { tokenizer.chat(prompt) } else { prompt.to_owned() };
        let expected = ids(&case["prompt_ids"]);
        assert_eq!(tokenizer.encode(&prompt).unwrap(), expected, "{prompt:?}");
        assert_eq!(tokenizer.decode(&expected, false).unwrap(), prompt);
        let answer = ids(&case["greedy_ids"]);
        assert!(answer[..answer.len() - 1].iter().all(|id| !tokenizer.is_eos(*id)));
        let text = tokenizer.decode(&answer, true).unwrap();
        assert!(!text.is_empty() && !text.contains('\u{fffd}') && !text.contains("<|"), "{text:?}");
    }
}

#[test]
fn texts_survive_and_streams_agree() {
    let Some(tokenizer) = default_tokenizer("texts_survive_and_streams_agree") else { return };
    let texts = [
        "",
        " ",
        "  leading and trailing  ",
        "tabs\t\tand\r\n\r\nlines\n",
        "1234567890 3.14 12,345",
        "na\u{ef}ve caf\u{e9} \u{df}traße \u{1f600}\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
        "\u{4e2d}\u{6587}\u{5b57}\u{7b26} \u{0645}\u{0631}\u{062d}\u{0628}\u{0627} \u{fffd}",
        "don't we'll I'VE",
        "<|im_start|>user\n<|im_end|><|im_end|> <|im_start",
        "def f(x):\n    return x ** 2  # comment\n",
    ];
    let copy = Tokenizer::from_info(&tokenizer.info().unwrap()).unwrap();
    assert_eq!(copy.info().unwrap(), tokenizer.info().unwrap());
    for text in texts {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        assert_eq!(copy.encode(text).unwrap(), ids, "{text:?}");
        stream_equals_batch(&tokenizer, &ids);
    }
    let ids = tokenizer.encode("<|im_start|>user\nHi<|im_end|>").unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "user\nHi");
    assert!(matches!(tokenizer.decode(&[49_152], true), Err(TokenizerError::UnknownId { id: 49_152, .. })));
}

fn stream_equals_batch(tokenizer: &Tokenizer, ids: &[u32]) {
    for skip in [false, true] {
        let mut stream = tokenizer.stream(skip);
        let mut pieces: Vec<String> = ids.iter().filter_map(|id| stream.push(*id).unwrap()).collect();
        assert!(pieces.iter().all(|p| !p.is_empty()));
        pieces.extend(stream.finish());
        assert_eq!(pieces.concat(), tokenizer.decode(ids, skip).unwrap());
    }
}

#[test]
fn characters_come_out_whole() {
    let tokenizer = small_tokenizer();
    let smile = tokenizer.encode("\u{1f600}").unwrap();
    assert_eq!(smile.len(), 4);
    let mut stream = tokenizer.stream(false);
    let out: Vec<Option<String>> = smile.iter().map(|id| stream.push(*id).unwrap()).collect();
    assert_eq!(out, [None, None, None, Some("\u{1f600}".into())]);
    assert_eq!(stream.finish(), None);
    // A character that breaks off shows as soon as the next byte rules it out, or at the end.
    let mut stream = tokenizer.stream(false);
    assert_eq!(stream.push(smile[0]).unwrap(), None);
    assert_eq!(stream.push(u32::from(b'x')).unwrap().as_deref(), Some("\u{fffd}x"));
    assert_eq!(stream.push(smile[0]).unwrap(), None);
    assert_eq!(stream.finish().as_deref(), Some("\u{fffd}"));
}

#[test]
fn a_small_tokenizer() {
    let tokenizer = small_tokenizer();
    assert_eq!(tokenizer.encode("the then 12<|im_end|><tool>").unwrap(), {
        let mut expected: Vec<u32> = b"the".iter().map(|b| u32::from(*b)).collect();
        expected.extend([257, u32::from(b'e'), u32::from(b'n'), u32::from(b' ')]);
        expected.extend([u32::from(b'1'), u32::from(b'2'), 259, 260]);
        expected
    });
    assert_eq!(tokenizer.decode(&[257, 259, 260], true).unwrap(), " th<tool>");
    assert_eq!(tokenizer.chat("Hi"), "Hi");
    assert_eq!(tokenizer.bos(), None);

    let mut w = small();
    w.put("tokenizer.ggml.add_bos_token", common::BOOL, &[1]);
    let tokenizer = Tokenizer::from_gguf(&w.open().unwrap()).unwrap();
    assert_eq!(tokenizer.encode("x").unwrap(), [258, u32::from(b'x')]);
    let mut w = small();
    w.string("tokenizer.ggml.pre", "llama-bpe");
    let tokenizer = Tokenizer::from_gguf(&w.open().unwrap()).unwrap();
    assert_eq!(tokenizer.encode("x").unwrap(), [258, u32::from(b'x')], "BOS is this kind's default");
    let copy = Tokenizer::from_info(&tokenizer.info().unwrap()).unwrap();
    assert_eq!(copy.encode(" thx 1234\n").unwrap(), tokenizer.encode(" thx 1234\n").unwrap());

    let long = "a".repeat((1 << 20) + 1);
    assert!(matches!(tokenizer.encode(&long), Err(TokenizerError::TextTooLong { .. })));
    // Text on which a careless pattern would take for ever.
    let blank = " ".repeat(1 << 19);
    assert_eq!(tokenizer.decode(&tokenizer.encode(&blank).unwrap(), true).unwrap(), blank);
}

#[test]
fn broken_metadata() {
    let refused = |w: &Writer, words: &str| {
        let error = Tokenizer::from_gguf(&w.open().unwrap()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let string = |key: &str, value: &str| {
        let mut w = small();
        w.string(key, value);
        w
    };
    refused(&string("tokenizer.ggml.model", "llama"), "\"llama\" is not supported");
    refused(&string("tokenizer.ggml.pre", "tekken"), "\"tekken\" is not supported");
    refused(&string("tokenizer.ggml.tokens", "a"), "not an array of strings");
    let strings = |key: &str, values: &[&str]| {
        let mut w = small();
        w.strings(key, values);
        w
    };
    refused(&strings("tokenizer.ggml.merges", &["ab"]), "two halves");
    refused(&strings("tokenizer.ggml.merges", &["a b"]), "ab");
    refused(&strings("tokenizer.ggml.tokens", &["a", "b"]), "2 tokens but 261 token types");
    let mut w = strings("tokenizer.ggml.tokens", &["a", "a"]);
    w.ints("tokenizer.ggml.token_type", &[1, 1]);
    refused(&w, "listed twice");
    let mut w = strings("tokenizer.ggml.tokens", &[]);
    w.ints("tokenizer.ggml.token_type", &[]);
    refused(&w, "0 tokens");
    let mut w = small();
    w.put("tokenizer.ggml.eos_token_id", common::U32, &261u32.to_le_bytes());
    refused(&w, "261");
}

#[test]
fn json_from_anyone() {
    let good: Value = serde_json::from_str(&small_tokenizer().to_json().unwrap()).unwrap();
    assert!(Tokenizer::from_json(&good.to_string()).is_ok());
    let change = |pointer: &str, value: Value| {
        let mut json = good.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match json.pointer_mut(parent).unwrap() {
            Value::Object(map) => drop(map.insert(key.to_owned(), value)),
            Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
            _ => panic!("{pointer}"),
        }
        Tokenizer::from_json(&json.to_string())
    };
    for (pointer, value) in [
        ("/model/type", json!("Unigram")),
        ("/model/dropout", json!(0.5)),
        ("/model/continuing_subword_prefix", json!("##########")),
        ("/model/end_of_word_suffix", json!("</w>")),
        ("/model/byte_fallback", json!(true)),
        ("/model/unk_token", json!("nowhere")),
        ("/model/merges", json!([["a", "\u{1f600}"]])),
        ("/model/merges", json!(["a"])),
        ("/model/merges", json!(7)),
        ("/model/vocab/x", json!(300)),
        ("/model/vocab/x", json!(0)),
        ("/model/vocab/x", json!(-1)),
        ("/model/vocab/x", json!(4_294_967_295u32)),
        ("/model/vocab/", json!(261)),
        ("/model/vocab", json!({})),
        ("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"})),
        ("/pre_tokenizer", Value::Null),
        ("/pre_tokenizer", json!({"type": "Whitespace"})),
        ("/pre_tokenizer/pretokenizers/0", json!({"type": "Digits", "individual_digits": false})),
        (
            "/pre_tokenizer/pretokenizers/0",
            json!({"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": false}),
        ),
        (
            "/post_processor",
            json!({"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}),
        ),
        ("/decoder", Value::Null),
        ("/decoder", json!({"type": "WordPiece", "prefix": "##", "cleanup": true})),
        ("/added_tokens/0/id", json!(0)),
        ("/added_tokens/0/id", json!(4_294_967_295u32)),
        ("/added_tokens/0/content", json!("")),
        ("/added_tokens/0/content", json!("new")),
    ] {
        let result = change(pointer, value.clone());
        assert!(result.is_err(), "{pointer} = {value}");
    }
    // Settings of others that change nothing here are left aside.
    let longest = json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 9});
    assert_eq!(change("/truncation", longest).unwrap().encode("abc").unwrap().len(), 3);
    for text in ["", "null", "[]", "{", "{}", "{\"model\":{}}", &"[".repeat(100_000)] {
        assert!(matches!(Tokenizer::from_json(text), Err(TokenizerError::Broken(_))), "{text:.20}");
    }

    let info = small_tokenizer().info().unwrap();
    assert!(Tokenizer::from_info(&info).is_ok());
    assert!(Tokenizer::from_info(&TokenizerInfo { bos: Some(261), ..info.clone() }).is_err());
    assert!(Tokenizer::from_info(&TokenizerInfo { eos: vec![u32::MAX], ..info.clone() }).is_err());
    let chat = ChatFormat::ChatMl { system: Some("a".repeat(1 << 20)) };
    assert!(Tokenizer::from_info(&TokenizerInfo { chat, ..info }).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_survives(text in any::<String>()) {
        let tokenizer = small_tokenizer();
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }

    #[test]
    fn any_ids_stream(ids in prop::collection::vec(0u32..261, 0..60)) {
        let tokenizer = small_tokenizer();
        stream_equals_batch(&tokenizer, &ids);
        // The byte tokens alone: the text is that of the bytes.
        let bytes: Vec<u8> = ids.iter().filter(|id| **id < 256).map(|id| *id as u8).collect();
        let ids: Vec<u32> = bytes.iter().map(|b| u32::from(*b)).collect();
        prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn mutated_json(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0x20u8..0x7f), 1..6),
        head in any::<bool>(),
    ) {
        let mut bytes = small_tokenizer().to_json().unwrap().into_bytes();
        for (at, value) in changes {
            let reach = if head { 1500.min(bytes.len()) } else { bytes.len() };
            bytes[at.index(reach)] = value;
        }
        if let Ok(json) = String::from_utf8(bytes)
            && let Ok(tokenizer) = Tokenizer::from_json(&json)
        {
            let ids = tokenizer.encode("then <|im_end|> 12 \u{1f600}").unwrap();
            tokenizer.decode(&ids, true).unwrap();
        }
    }
}
