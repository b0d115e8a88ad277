//! Float against the recorded reference of the published model, Clear against Float.

mod common;

use models::calibrate;
use models::checkpoint::{Checkpoint, FileCheckpoint, TensorSource};
use models::clear::Clear;
use models::float::{Float, Mat, complete};
use models::model::{Cache, Model, OutputRows};

/// A recorded prompt of the published model.
#[derive(serde::Deserialize)]
struct Reference {
    prompt: String,
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    gaps: Vec<f64>,
    first_step_top5: Vec<(u32, f64)>,
}

fn references() -> Vec<Reference> {
    serde_json::from_str(include_str!("data/smollm2_greedy.json")).expect("own test data")
}

fn argmax(v: &[f32]) -> usize {
    v.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i)
}

/// Greedy tokens of the plaintext reference, with the output scores before each.
fn greedy(model: &Model<Float>, prompt: &[u32], count: usize, eos: &[u32]) -> (Vec<u32>, Vec<Vec<f32>>) {
    let (float, mut cache) = (Float::default(), Cache::new(&model.config));
    let (mut input, mut tokens, mut scores) = (prompt.to_vec(), vec![], vec![]);
    while tokens.len() < count {
        let n = input.len();
        let logits: Mat = complete(model.forward(&float, &input, n, &mut cache, OutputRows::Last)).unwrap();
        let next = argmax(&logits.data) as u32;
        scores.push(logits.data);
        tokens.push(next);
        if eos.contains(&next) {
            break;
        }
        input = vec![next];
    }
    (tokens, scores)
}

#[test]
fn float_and_clear_agree_with_the_reference() {
    let Some(path) = common::default_model("readings") else { return };
    let opened = Checkpoint::open(&path).unwrap();
    let tokenizer = opened.tokenizer.unwrap();
    let mut source = FileCheckpoint::new(opened.config, opened.tensors.unwrap()).unwrap();
    let float = Float::load(&mut source).unwrap();
    let t = std::time::Instant::now();
    let texts = calibrate::sample_tokens(&tokenizer, source.config()).unwrap();
    let plan = calibrate::calibrate(&mut source, &texts, |_, _| {}).unwrap();
    println!("calibrated in {:?}, longest {}", t.elapsed(), plan.longest);
    let device = kernels::cpu::Cpu::best();
    let tables = plan.tables(&device, source.config());
    let clear = Clear::load(&device, &mut source, &tables).unwrap();
    let mut worst = 0f64;
    for r in references() {
        let (tokens, scores) = greedy(&float, &r.prompt_ids, r.greedy_ids.len(), tokenizer.eos());
        let agree = tokens.iter().zip(&r.greedy_ids).take_while(|(a, b)| a == b).count();
        println!("{:?}: {agree} of {}", r.prompt, r.greedy_ids.len());
        assert!(agree == r.greedy_ids.len() || r.gaps[agree] < 0.005, "parts at a clear choice");
        for &(id, v) in &r.first_step_top5 {
            assert!(
                (scores[0][id as usize] as f64 - v).abs() < 2e-3,
                "logit of {id}: {} for {v}",
                scores[0][id as usize]
            );
        }
        let (reading, mut cache) = (Clear::new(&device), Cache::new(&clear.config));
        let mut input = r.prompt_ids.clone();
        for (step, s) in scores.iter().enumerate().take(10) {
            let n = input.len();
            let out = complete(clear.forward(&reading, &input, n, &mut cache, OutputRows::Last)).unwrap();
            let got: Vec<f32> = out.data.iter().map(|&v| (v as i64 as f64 / 2f64.powi(36)) as f32).collect();
            let error = got.iter().zip(s).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            worst = worst.max(error.into());
            if r.gaps[step] > 2.0 * f64::from(error) {
                assert_eq!(argmax(&got) as u32, tokens[step]);
            }
            input = vec![tokens[step]];
        }
    }
    println!("Clear against Float: max logit error {worst:.4}");
    assert!(worst < 0.05, "logit error {worst}");
}
