//! Guesses of how a text goes on, for speculative decoding (Leviathan, Kalman and Matias, ICML 2023,
//! [arXiv 2211.17192](https://arxiv.org/abs/2211.17192)): whoever drafts is fast and may be wrong, whoever verifies is slow
//! and right.
//!
//! A draft runs at the client, which knows the text, and uses nothing of the shared model but its vocabulary.

use models::checkpoint::{Checkpoint, CheckpointError, FileCheckpoint};
use models::float::{Float, complete};
use models::model::{Cache, Model, OutputRows};
use models::tokenizer::Tokenizer;
use std::path::Path;

use crate::sampling::Sampling;

/// Guesses tokens.
pub trait Draft {
    /// The `count` tokens that it expects after `tokens`, prompt and answer so far; fewer where it has no idea. What comes
    /// of wrong guesses is lost time, never another answer.
    fn propose(&mut self, tokens: &[u32], count: usize) -> Vec<u32>;
}

/// Prompt lookup decoding (Saxena 2023, <https://github.com/apoorvumang/prompt-lookup-decoding>): the text goes on as it did
/// where its last tokens stood before. Good where an answer repeats its prompt or itself: lists, code, quotations.
#[derive(Clone, Copy, Debug, Default)]
pub struct PromptLookup;

/// Longest run of last tokens that is looked up.
const LONGEST: usize = 3;

impl Draft for PromptLookup {
    fn propose(&mut self, tokens: &[u32], count: usize) -> Vec<u32> {
        let Some(before) = tokens.len().checked_sub(1) else { return vec![] };
        // The longest run that occurred before, where it did so last.
        let follower = (1..=LONGEST.min(before)).rev().find_map(|n| {
            let last = &tokens[tokens.len() - n..];
            tokens[..before].windows(n).rposition(|run| run == last).map(|at| at + n)
        });
        let Some(follower) = follower else { return vec![] };
        // A text of a short period goes on into its own continuation.
        let mut text = tokens.to_vec();
        (follower..follower + count).for_each(|at| text.push(text[at]));
        text.split_off(tokens.len())
    }
}

/// Why a model cannot draft.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// Its files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Something about it.
    #[error("the draft model {0}")]
    Unsuitable(String),
}

/// A public model, computed in floating point on the client's machine. It should be much smaller than the shared one.
pub struct ModelDraft {
    model: Model<Float>,
    tokenizer: Tokenizer,
    cache: Cache<Float>,
    /// The tokens in the cache.
    read: Vec<u32>,
}

impl ModelDraft {
    /// Loads a GGUF file or a folder of Hugging Face, all of it.
    ///
    /// # Errors
    /// The files cannot be used, or the model does not generate.
    pub fn load(path: &Path) -> Result<ModelDraft, DraftError> {
        let Checkpoint { config, tensors, tokenizer, .. } = Checkpoint::open(path)?;
        let unsuitable = |what: &str| DraftError::Unsuitable(what.into());
        let (Some(tensors), Some(tokenizer)) = (tensors, tokenizer) else {
            return Err(unsuitable("lacks weights or tokenizer; give a whole model"));
        };
        if !config.is_decoder() {
            return Err(unsuitable("generates no text; give one of a family that does"));
        }
        let model = Float::load(&mut FileCheckpoint::new(config, tensors)?)?;
        let cache = Cache::new(&model.config);
        Ok(ModelDraft { model, tokenizer, cache, read: vec![] })
    }

    /// Whether its tokens are those of a shared model.
    ///
    /// # Errors
    /// They are not.
    pub fn check(&self, shared: &Tokenizer) -> Result<(), DraftError> {
        if self.tokenizer.has_same_vocabulary(shared) {
            return Ok(());
        }
        let what = "has another vocabulary than the shared one; give a model of the same family, or leave --draft out";
        Err(DraftError::Unsuitable(what.into()))
    }

    /// The likeliest token after `tokens`; the cache holds them then.
    fn next(&mut self, tokens: &[u32]) -> Option<u32> {
        // What is new, and at least the last token, whose scores are wanted.
        let same = self.read.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let same = same.min(tokens.len().checked_sub(1)?);
        let (float, new) = (Float::default(), tokens[same..].to_vec());
        self.cache.cut(same);
        self.read.truncate(same);
        let scores = complete(self.model.forward(&float, &new, new.len(), &mut self.cache, OutputRows::Last));
        let scores = scores.ok()?.data;
        self.read.extend(&new);
        Sampling::Greedy.choose(&scores).ok()
    }
}

impl Draft for ModelDraft {
    fn propose(&mut self, tokens: &[u32], count: usize) -> Vec<u32> {
        let (vocab, room) = (self.model.config.vocab, self.model.config.context.saturating_sub(tokens.len()));
        if tokens.iter().any(|&t| t as usize >= vocab) {
            return vec![];
        }
        let mut text = tokens.to_vec();
        while text.len() < tokens.len() + count.min(room) {
            let Some(token) = self.next(&text) else { break };
            text.push(token);
        }
        text.split_off(tokens.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_goes_on_as_it_did_before() {
        let propose = |tokens: &[u32], count| PromptLookup.propose(tokens, count);
        // After the longest run (2 3), not after the last single token (3).
        assert_eq!(propose(&[1, 2, 3, 4, 5, 9, 3, 7, 2, 3], 3), [4, 5, 9]);
        // Where that stood last.
        assert_eq!(propose(&[2, 3, 4, 8, 2, 3, 5, 8, 2, 3], 2), [5, 8]);
        // Into its own continuation.
        assert_eq!(propose(&[1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
        assert_eq!(propose(&[7, 7], 3), [7, 7, 7]);
        // No idea.
        for tokens in [&[][..], &[1], &[1, 2, 3]] {
            assert_eq!(propose(tokens, 4), [0; 0]);
        }
        assert_eq!(propose(&[1, 1], 0), [0; 0]);
    }
}
