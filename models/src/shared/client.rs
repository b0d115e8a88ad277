//! The client's side: keys for tokens, and outputs from the evaluators' messages.

use super::{SharedModelError, output_width, revealed};
use crate::checkpoint::ModelConfig;
use kernels::{Device, Words};
use protocol::Key;
use protocol::gates::embedding;
use protocol::gates::reveal::Reveal;

/// Keys for `tokens` from a fresh random seed: what the dealer, P1 and P2 receive, less than 2 kB a token together.
///
/// # Errors
/// A token outside the vocabulary.
pub fn split_tokens(
    device: &Device,
    vocab: usize,
    tokens: &[u32],
    seed: &Key,
) -> Result<[Vec<u8>; 3], SharedModelError> {
    embedding::split(device, tokens, vocab, seed).map_err(|e| SharedModelError::Keys(e.to_string()))
}

/// What a pass yielded, row-major with [`output_width`] columns. Pooled rows are sums, not yet means.
///
/// # Errors
/// The messages have impossible lengths.
pub fn combine_outputs(
    device: &Device,
    c: &ModelConfig,
    p1: &[u8],
    p2: &[u8],
) -> Result<Vec<f32>, SharedModelError> {
    let format = revealed(c);
    let row = output_width(c) * format.bits as usize / 8;
    if p1.len() != p2.len() || p1.is_empty() || !p1.len().is_multiple_of(row) {
        let what = format!("outputs of {} and {} bytes from P1 and P2", p1.len(), p2.len());
        return Err(SharedModelError::Damaged(what));
    }
    let count = p1.len() / row * output_width(c);
    let read = |bytes: &[u8]| Words::unpack(device, bytes, format.bits, count).to_vec();
    Ok(read(p1).into_iter().zip(read(p2)).map(|(a, b)| format.combine(a, b) as f32).collect())
}

/// The tokens that the parties have chosen, one for each of so many sequences.
///
/// # Errors
/// The messages have impossible lengths, or name no token of the vocabulary.
pub fn combine_tokens(
    device: &Device,
    vocab: usize,
    sequences: usize,
    p1: &[u8],
    p2: &[u8],
) -> Result<Vec<u32>, SharedModelError> {
    let format = Reveal::TOKEN;
    let length = sequences * format.bits as usize / 8;
    let read = |bytes: &[u8]| {
        let fits = bytes.len() == length;
        fits.then(|| Words::unpack(device, bytes, format.bits, sequences).to_vec())
    };
    let (Some(a), Some(b)) = (read(p1), read(p2)) else {
        let what = format!("tokens of {} and {} bytes from P1 and P2", p1.len(), p2.len());
        return Err(SharedModelError::Damaged(what));
    };
    let token = |(a, b)| {
        let token = format.combine_exact(a, b);
        let known = u32::try_from(token).ok().filter(|t| (*t as usize) < vocab);
        known.ok_or_else(|| SharedModelError::Damaged(format!("token {token} in a vocabulary of {vocab}")))
    };
    a.into_iter().zip(b).map(token).collect()
}
