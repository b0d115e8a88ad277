//! Weights as the algebra wants them: norm gains and 1/√head_dim folded in, matrices that share an input joined.

use crate::checkpoint::{CheckpointError, LayerTensor, LlamaTensor, TensorSource};
use crate::llama::MatrixId;

/// Loads one folded matrix, outputs × inputs row-major.
pub fn load(source: &mut dyn TensorSource, id: MatrixId) -> Result<Vec<f32>, CheckpointError> {
    let c = source.config().clone();
    let layer = LlamaTensor::Layer;
    Ok(match id {
        MatrixId::Embedding => transpose(&source.load(LlamaTensor::Embedding)?, c.vocab, c.d_model),
        MatrixId::Qkv(i) => {
            let gain = source.load(layer(i, LayerTensor::AttnNorm))?;
            let mut q = source.load(layer(i, LayerTensor::Q))?;
            let scale = 1.0 / (c.head_dim as f32).sqrt();
            q.iter_mut().for_each(|w| *w *= scale);
            q.extend(source.load(layer(i, LayerTensor::K))?);
            q.extend(source.load(layer(i, LayerTensor::V))?);
            with_gain(q, &gain)
        }
        MatrixId::O(i) => source.load(layer(i, LayerTensor::O))?,
        MatrixId::GateUp(i) => {
            let gain = source.load(layer(i, LayerTensor::FfnNorm))?;
            let mut w = source.load(layer(i, LayerTensor::Gate))?;
            w.extend(source.load(layer(i, LayerTensor::Up))?);
            with_gain(w, &gain)
        }
        MatrixId::Down(i) => source.load(layer(i, LayerTensor::Down))?,
        MatrixId::Output => {
            let gain = source.load(LlamaTensor::FinalNorm)?;
            with_gain(source.load(LlamaTensor::Output)?, &gain)
        }
    })
}

/// W · diag(gain).
fn with_gain(mut w: Vec<f32>, gain: &[f32]) -> Vec<f32> {
    for row in w.chunks_exact_mut(gain.len()) {
        row.iter_mut().zip(gain).for_each(|(w, g)| *w *= g);
    }
    w
}

fn transpose(w: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; w.len()];
    for (i, row) in w.chunks_exact(cols).enumerate() {
        for (j, &v) in row.iter().enumerate() {
            out[j * rows + i] = v;
        }
    }
    out
}
