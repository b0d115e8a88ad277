//! Published encoders: Float against recorded 64-bit outputs, Clear against Float.

mod common;
mod plain;
mod read;

use models::calibrate;
use models::checkpoint::{Checkpoint, FileCheckpoint, Head};
use models::fetch;
use models::tokenizer::Tokenizer;
use plain::Plain;
use read::{Readings, difference};
use std::path::Path;

struct Encoder {
    tokenizer: Tokenizer,
    labels: Vec<String>,
    plain: Plain,
    readings: Readings,
}

fn open(folder: &Path) -> Encoder {
    let Checkpoint { config, labels, tensors, tokenizer } = Checkpoint::open(folder).unwrap();
    let tokenizer = tokenizer.unwrap();
    let mut source = FileCheckpoint::new(config.clone(), tensors.unwrap()).unwrap();
    let texts = calibrate::sample_tokens(&tokenizer, &config).unwrap();
    let readings = Readings::calibrated(&mut source, &texts);
    Encoder { tokenizer, labels, plain: Plain::load(&mut source), readings }
}

fn unit(mut v: Vec<f64>) -> Vec<f64> {
    let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
    v.iter_mut().for_each(|x| *x /= length);
    v
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[derive(serde::Deserialize)]
struct Sentences {
    sentences: Vec<Sentence>,
    cosine: Vec<Vec<f64>>,
}

#[derive(serde::Deserialize)]
struct Sentence {
    text: String,
    ids: Vec<u32>,
    first: Vec<f64>,
}

#[test]
fn minilm() {
    let path = fetch::minilm(&mut |_| {}).map_err(|e| e.to_string());
    let Some(folder) = common::or_skip("minilm", "all-MiniLM-L6-v2", path) else { return };
    let e = open(&folder);
    assert_eq!(e.readings.float_model.config.head, Head::MeanPooling);
    let recorded: Sentences = serde_json::from_str(include_str!("data/minilm.json")).unwrap();
    let (mut float, mut clear) = (vec![], vec![]);
    let long = e.tokenizer.encode(calibrate::SAMPLE_TEXT).unwrap()[..200].to_vec();
    let long = Sentence { text: "a long text".into(), ids: long, first: vec![] };
    for s in recorded.sentences.iter().chain([&long]) {
        if !s.first.is_empty() {
            assert_eq!(e.tokenizer.encode(&s.text).unwrap(), s.ids);
        }
        let f = unit(e.readings.float(&s.ids, None));
        assert!(difference(&f[..s.first.len()], &s.first) < 1e-6, "{:?}", s.text);
        assert!(difference(&f, &unit(e.plain.outputs(&s.ids, None))) < 1e-5, "{:?}", s.text);
        let c = unit(e.readings.clear(&s.ids, None).unwrap());
        let error = difference(&c, &f);
        println!("{:?}: error {error:.1e}, cosine distance {:.1e}", s.text, 1.0 - cosine(&c, &f));
        assert!(error < 1e-3, "{:?}: embeddings differ by {error}", s.text);
        float.push(f);
        clear.push(c);
    }
    for (i, row) in recorded.cosine.iter().enumerate() {
        for (j, &expected) in row.iter().enumerate() {
            assert!((cosine(&float[i], &float[j]) - expected).abs() < 2e-6);
            let found = cosine(&clear[i], &clear[j]);
            assert!((found - expected).abs() < 5e-4, "cosine of {i} and {j}: {found} for {expected}");
        }
    }
}

#[derive(serde::Deserialize)]
struct Questions {
    rows: Vec<Question>,
}

#[derive(serde::Deserialize)]
struct Question {
    text: String,
    ids: Vec<u32>,
    logits: Vec<f64>,
    label: String,
}

#[test]
fn router() {
    let path = fetch::router(&mut |_| {}).map_err(|e| e.to_string());
    let Some(folder) = common::or_skip("router", "the query router", path) else { return };
    let e = open(&folder);
    assert_eq!(e.labels, ["generic", "directed"]);
    let recorded: Questions = serde_json::from_str(include_str!("data/router.json")).unwrap();
    let agree = |ids: &[u32], segment| {
        let f = e.readings.float(ids, segment);
        assert!(difference(&f, &e.plain.outputs(ids, segment)) < 2e-5);
        let c = e.readings.clear(ids, segment).unwrap();
        let error = difference(&c, &f);
        println!("{} tokens: logits {f:.4?}, error {error:.1e}", ids.len());
        assert!(error < 2e-3, "{c:?} for {f:?}");
        (f, c)
    };
    for q in &recorded.rows {
        assert_eq!(e.tokenizer.encode(&q.text).unwrap(), q.ids);
        let (f, c) = agree(&q.ids, None);
        assert!(difference(&f, &q.logits) < 2e-5, "{:?}: {f:?}", q.text);
        assert_eq!(e.labels[usize::from(c[1] > c[0])], q.label);
    }
    let (pair, segment) = e.tokenizer.encode_pair(&recorded.rows[0].text, &recorded.rows[5].text).unwrap();
    let (two, _) = agree(&pair, Some(segment));
    let (one, _) = agree(&pair, None);
    assert!(difference(&two, &one) > 0.01, "token types change {one:?} to {two:?}");
}
