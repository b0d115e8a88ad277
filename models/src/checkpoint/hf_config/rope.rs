use std::f64::consts::TAU;

use super::fields::Fields;
use crate::checkpoint::{CheckpointError, FileError, Rotary};

/// The rotary embedding: base and scaling, as one object `rope_parameters` or, in older files, as
/// `rope_theta` and `rope_scaling`.
pub(super) fn rotary(fields: &Fields<'_>, head_dim: usize) -> Result<Rotary, CheckpointError> {
    let newer = fields.object("rope_parameters")?;
    let scaling = newer.or(fields.object("rope_scaling")?).map(Fields::new);
    let inner = newer.map(Fields::new).map(|newer| newer.number("rope_theta")).transpose()?.flatten();
    let base = match inner {
        Some(base) => base,
        None => fields.number("rope_theta")?.unwrap_or(10_000.0),
    };
    let pairs = head_dim / 2;
    let mut factors = Vec::new();
    if let Some(scaling) = scaling {
        let kind = match scaling.text("rope_type")? {
            Some(kind) => kind,
            None => scaling.text("type")?.unwrap_or("default"),
        };
        match kind {
            "default" => {}
            "linear" => factors = vec![scaling.require_number("factor")?; bounded(pairs)?],
            "llama3" => factors = Llama3::read(&scaling)?.factors(base, bounded(pairs)?),
            other => {
                return Err(FileError::Unsupported {
                    what: format!("rotary scaling {other:?}"),
                    supported: "models with \"llama3\", \"linear\" or no scaling",
                }
                .into());
            }
        }
    }
    Ok(Rotary { base, interleaved: false, factors })
}

/// The head width is checked later, with everything else; here it only must not take all memory.
fn bounded(pairs: usize) -> Result<usize, CheckpointError> {
    match pairs {
        0..=1024 => Ok(pairs),
        _ => Err(CheckpointError::Config(format!("head_dim is {}; up to 1024 is possible", 2 * pairs))),
    }
}

/// The scaling of LLaMA 3.1: frequencies whose wave is longer than the old context are divided by
/// `factor`, those whose wave is much shorter stay, and those between are blended.
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    old_context: f64,
}

impl Llama3 {
    fn read(scaling: &Fields<'_>) -> Result<Self, CheckpointError> {
        let read = Self {
            factor: scaling.require_number("factor")?,
            low: scaling.require_number("low_freq_factor")?,
            high: scaling.require_number("high_freq_factor")?,
            old_context: scaling.require_number("original_max_position_embeddings")?,
        };
        if !(read.factor >= 1.0 && read.low > 0.0 && read.high > read.low && read.old_context >= 1.0) {
            return Err(CheckpointError::Config(
                "rotary scaling \"llama3\" needs a factor from 1 on and low_freq_factor below high_freq_factor"
                    .into(),
            ));
        }
        Ok(read)
    }

    /// What the frequency of each pair is divided by.
    fn factors(&self, base: f64, pairs: usize) -> Vec<f64> {
        let divisor = |pair: usize| {
            let wave = TAU * base.powf(pair as f64 / pairs as f64);
            let waves = self.old_context / wave;
            // 0 where the old context holds `low` waves or fewer, 1 from `high` on.
            let share = ((waves - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
            1.0 / ((1.0 - share) / self.factor + share)
        };
        (0..pairs).map(divisor).collect()
    }
}
