//! Several tokens a pass: the client guesses, the parties verify.
//!
//! A pass over a token and k guesses has as many exchanges as a pass over the token alone and reads the weights once. Its
//! k + 1 rows of scores tell the client which guesses are the likeliest tokens; the first that is not, and all after it, are
//! taken back: the parties cut them off their keys and values, and what they compute next is masked by fresh streams.
//!
//! **The parties learn how many guesses of each pass were right**, and so does whoever sees how fast the answer proceeds.
//! That depends on the text: Wei et al. ([arXiv 2411.01076](https://arxiv.org/abs/2411.01076)) recognise which of 50 prompts
//! was asked in more than 75 % of cases by such numbers. So it is never the default. Nothing else is learned: all passes
//! after the prompt have the same number of tokens, whether there was anything to guess or not, until the answer's end.

use super::{Answer, Answers, Generation, PrivateError, PrivateModel, Progress, Reveal};
use crate::draft::Draft;
use crate::sampling::Sampling;

/// Who guesses, and how much.
pub struct Speculation<'d> {
    /// Guesses in each pass.
    pub tokens: usize,
    /// Who makes them.
    pub draft: &'d mut dyn Draft,
}

impl std::fmt::Debug for Speculation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Speculation({} tokens)", self.tokens)
    }
}

impl Speculation<'_> {
    /// Whether an answer can be made so.
    ///
    /// # Errors
    /// Only the client knows its guesses, so it must see scores; a guess is right if it is the likeliest token.
    pub fn check(tokens: usize, how: &Generation) -> Result<(), PrivateError> {
        let refuse = |what: &str| Err(PrivateError::Speculation(what.into()));
        if tokens == 0 {
            return refuse("with 0 drafted tokens does nothing; draft at least 1, or leave it out");
        }
        if how.reveal != Reveal::Logits {
            return refuse(
                "compares the client's guesses with output scores, which `--reveal tokens` hides; use `--reveal logits`",
            );
        }
        if how.sampling != Sampling::Greedy {
            return refuse("takes the likeliest tokens; leave the temperature at 0");
        }
        Ok(())
    }

    /// What goes into a pass that may give `room` tokens: no more than are wanted, as a pass gives one more token than it
    /// has guesses, and no fewer, so that passes look alike.
    pub(super) fn propose(&mut self, text: &[u32], room: usize, vocab: usize) -> Vec<u32> {
        let count = self.tokens.min(room.saturating_sub(1));
        let mut drafts = self.draft.propose(text, count);
        let known = drafts.iter().take_while(|t| (**t as usize) < vocab).count();
        drafts.truncate(known);
        drafts.resize(count, text.last().copied().unwrap_or(0));
        drafts
    }
}

impl PrivateModel<'_> {
    /// Answers a prompt as [`PrivateModel::generate`] does, with the same tokens, in fewer passes where `speculation` guesses
    /// right. Tokens may differ where two scores are closer than the protocol's rounding, as they may from one call of
    /// `generate` to the next.
    ///
    /// The parties learn how many guesses of each pass were right ([`Answer::gains`]), which depends on the text.
    ///
    /// # Errors
    /// As [`PrivateModel::generate`]; or tokens are not chosen greedily, by the client, or a party allows fewer guesses.
    pub async fn speculate(
        &self,
        prompt: &[u32],
        how: &Generation,
        speculation: Speculation<'_>,
        progress: impl FnMut(Progress),
    ) -> Result<Answer, PrivateError> {
        Speculation::check(speculation.tokens, how)?;
        self.answer(prompt, how, Some(speculation), progress).await
    }

    /// The same for several prompts side by side, as [`PrivateModel::generate_all`].
    ///
    /// # Errors
    /// As [`PrivateModel::speculate`] and [`PrivateModel::generate_all`].
    pub async fn speculate_all(
        &self,
        prompts: &[Vec<u32>],
        how: &Generation,
        speculation: Speculation<'_>,
        progress: impl FnMut(usize, Progress),
    ) -> Result<Answers, PrivateError> {
        Speculation::check(speculation.tokens, how)?;
        self.answers(prompts, how, Some(speculation), progress).await
    }

    /// Whether the parties allow passes over a token and so many drafted ones of each of so many sequences.
    pub(super) fn check_passes(&self, sequences: usize, drafts: usize) -> Result<(), PrivateError> {
        let (drafted, allowed) =
            (sequences.saturating_mul(drafts), self.client.limits().max_drafted_tokens as usize);
        if drafted > allowed {
            let what = format!(
                "with {drafted} drafted tokens in a pass: the parties allow {allowed}; draft fewer, ask fewer prompts at a time, or let their operators raise limits.max_drafted_tokens"
            );
            return Err(PrivateError::Speculation(what));
        }
        let (tokens, limit) = (sequences.saturating_add(drafted), self.pass_limit());
        if tokens > limit {
            return Err(PrivateError::LongPass { tokens, limit });
        }
        Ok(())
    }
}
