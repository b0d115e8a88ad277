//! Weights from folders of Hugging Face, for every family: each tensor arrives where it belongs, and what does not fit
//! the configuration is refused by name.

mod folder;

use folder::Folder;
use folder::checkpoints::{Style, Weights};
use models::checkpoint::{
    Activation, Checkpoint, CheckpointError, FileCheckpoint, Head, ModelConfig, RandomModel, Rotary,
    TensorId, TensorSource,
};

fn open(folder: &Folder) -> Result<FileCheckpoint, CheckpointError> {
    let opened = Checkpoint::open(folder.path())?;
    FileCheckpoint::new(opened.config, opened.tensors.expect("a folder with weights"))
}

fn refused(folder: &Folder, words: &[&str]) {
    let error = open(folder).expect_err(&words.join(" ")).to_string();
    assert!(words.iter().all(|w| error.contains(w)), "{error}: {words:?}");
}

fn llama() -> ModelConfig {
    let rotary = Some(Rotary { base: 5e5, interleaved: false, factors: vec![] });
    ModelConfig { rotary, ..ModelConfig::toy() }
}

fn qwen2() -> ModelConfig {
    ModelConfig { qkv_bias: true, ..llama() }
}

fn pooled(config: ModelConfig) -> ModelConfig {
    ModelConfig { head: Head::MeanPooling, ..config }
}

/// Names and extents.
type Extra = &'static [(&'static str, &'static [usize])];

/// Every family with the tensors that its checkpoints carry for nothing.
fn all() -> Vec<(ModelConfig, Style, Extra)> {
    let (plain, bare) = (Style::default(), Style { bare: true, gamma: false });
    let untied = |config: ModelConfig| ModelConfig { tied: false, ..config };
    vec![
        (
            llama(),
            plain,
            &[("model.layers.0.self_attn.rotary_emb.inv_freq", &[4]), ("lm_head.weight", &[61, 32])],
        ),
        (untied(llama()), plain, &[]),
        (ModelConfig { kv_heads: 1, head_dim: 12, ..qwen2() }, plain, &[]),
        (untied(ModelConfig { kv_heads: 4, ..qwen2() }), bare, &[]),
        (ModelConfig::toy_gpt2(), plain, &[("lm_head.weight", &[61, 32])]),
        (
            ModelConfig { activation: Activation::Gelu, d_ff: 80, ..ModelConfig::toy_gpt2() },
            bare,
            &[("h.0.attn.bias", &[1, 1, 64, 64]), ("h.1.attn.masked_bias", &[1])],
        ),
        (untied(ModelConfig::toy_gpt2()), plain, &[]),
        (ModelConfig::toy_bert(), plain, &[("bert.embeddings.position_ids", &[1, 64])]),
        (
            pooled(ModelConfig::toy_bert()),
            bare,
            &[
                ("pooler.dense.weight", &[32, 32]),
                ("pooler.dense.bias", &[32]),
                ("embeddings.position_ids", &[1, 64]),
            ],
        ),
        (
            pooled(ModelConfig::toy_bert()),
            Style { bare: false, gamma: true },
            &[
                ("bert.pooler.dense.weight", &[32, 32]),
                ("cls.predictions.bias", &[61]),
                ("cls.predictions.transform.LayerNorm.gamma", &[32]),
                ("cls.seq_relationship.weight", &[2, 32]),
            ],
        ),
        (
            ModelConfig::toy_roberta(),
            plain,
            &[("roberta.embeddings.position_ids", &[1, 66]), ("roberta.pooler.dense.weight", &[32, 32])],
        ),
        (
            pooled(ModelConfig::toy_roberta()),
            plain,
            &[("lm_head.dense.weight", &[32, 32]), ("lm_head.bias", &[61])],
        ),
    ]
}

#[test]
fn every_tensor_arrives() {
    for (i, (config, style, extra)) in all().into_iter().enumerate() {
        let mut made = RandomModel::new(config.clone(), 11).unwrap();
        let mut weights = Weights::of(&mut made, style);
        extra.iter().for_each(|(name, shape)| weights.add(name, shape));
        for folder in [weights.folder(&config), weights.sharded(&config, 3)] {
            let mut read = open(&folder).unwrap_or_else(|e| panic!("model {i}: {e}"));
            assert_eq!(read.config(), &config);
            for which in TensorId::all(&config) {
                assert!(read.load(which).unwrap() == made.load(which).unwrap(), "model {i}: {which:?}");
            }
            if config.tied {
                assert!(read.load(TensorId::Output).unwrap() == made.load(TensorId::Embedding).unwrap());
            }
        }
    }
}

#[test]
fn missing_extra_and_misshapen_tensors_are_refused() {
    for (config, style, _) in all() {
        let whole = || Weights::of(&mut RandomModel::new(config.clone(), 11).unwrap(), style);
        let names: Vec<String> = whole().0.into_keys().collect();
        for name in &names {
            // Only the first of the tensors that lack is named, so its prefix may be taken for another.
            let mut lacking = whole();
            lacking.0.remove(name);
            refused(&lacking.folder(&config), &["lacks tensor", name.rsplit_once('.').unwrap().0]);

            let mut misshapen = whole();
            let (shape, data) = misshapen.0.get_mut(name).unwrap();
            shape[0] += 1;
            data.resize(shape.iter().product(), 0.0);
            refused(&misshapen.folder(&config), &["has shape", name]);
            let (shape, data) = misshapen.0.get_mut(name).unwrap();
            shape[0] -= 1;
            shape.push(1);
            data.truncate(shape.iter().product());
            refused(&misshapen.sharded(&config, 2), &["has shape", name]);
        }
        // The layer after the last, and a bias or a matrix that the family does not have.
        let layer = names.iter().find(|name| name.contains(".1.") || name.contains("h.1.")).unwrap();
        let stem = layer.replacen("1", "2", 1);
        for extra in [&stem[..], "model.layers.0.mlp.up_proj.bias", "adapter.weight"] {
            let mut weights = whole();
            weights.add(extra, &[32]);
            refused(&weights.folder(&config), &["for which a plain", extra]);
        }
    }
    // Of another width, transposed, or untied where the configuration says tied.
    let mut made = RandomModel::new(ModelConfig::toy_gpt2(), 11).unwrap();
    let mut weights = Weights::of(&mut made, Style::default());
    weights.find("h.0.attn.c_attn.weight").0 = vec![96, 32];
    refused(&weights.folder(&ModelConfig::toy_gpt2()), &["c_attn.weight", "[96, 32]", "[32, 96]"]);
    let weights = Weights::of(&mut made, Style::default());
    let untied = ModelConfig { tied: false, ..ModelConfig::toy_gpt2() };
    refused(&weights.folder(&untied), &["lacks tensor", "lm_head.weight"]);
}

#[test]
fn weights_that_no_computation_can_use() {
    for (config, style, _) in all() {
        let mut made = RandomModel::new(config.clone(), 11).unwrap();
        for (i, bad) in
            [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 8192.0, -1e9, f32::MAX].into_iter().enumerate()
        {
            let mut weights = Weights::of(&mut made, style);
            let count = weights.0.len();
            let (name, (_, data)) = weights.0.iter_mut().nth((7 * i + 3) % count).unwrap();
            let (name, at) = (name.clone(), data.len() - 1);
            data[at] = bad;
            let mut read = open(&weights.folder(&config)).unwrap();
            let errors: Vec<String> = TensorId::all(&config)
                .into_iter()
                .filter_map(|which| read.load(which).err().map(|e| e.to_string()))
                .collect();
            // A joined tensor is read for each of its parts.
            assert!((1..=3).contains(&errors.len()), "{name} with {bad}: {errors:?}");
            for e in errors {
                assert!(e.contains(&name) && e.contains(&at.to_string()), "{name} with {bad}: {e}");
            }
        }
        let mut weights = Weights::of(&mut made, style);
        weights.0.values_mut().for_each(|(_, data)| data[0] = 8191.0);
        let mut read = open(&weights.folder(&config)).unwrap();
        assert!(
            TensorId::all(&config).into_iter().all(|which| read.load(which).is_ok()),
            "just below the limit"
        );
    }
}
