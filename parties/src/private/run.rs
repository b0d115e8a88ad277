//! A session of one client with a model: tokens go in, outputs come out.

use super::times::{Doing, PassTimes, Times};
use super::{PrivateError, PrivateModel};
use crate::client::{PassOutput, Session, SessionOptions as Opening};
use crate::owner::random;
use crate::wire;
use models::model::OutputRows;
use models::shared::{Account, SessionOptions, SharedModelError, client as shares};
use protocol::{Ledger, Party};

/// The first words that each party received of the prompt: what it knows of it.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Seen {
    /// Hexadecimal words, by role.
    pub words: [Vec<String>; 3],
}

/// Tokens for one pass.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'t> {
    /// The tokens.
    pub tokens: &'t [u32],
    /// How many of them are of the first type; all if `None`.
    pub segment: Option<usize>,
}

/// One session under way.
pub struct Run<'m> {
    pub(super) model: &'m PrivateModel<'m>,
    pub(super) session: Session,
    pub(super) position: usize,
    pub(super) seen: Option<Seen>,
    pub(super) times: Times,
}

impl PrivateModel<'_> {
    /// Most tokens of one sequence.
    pub fn longest(&self) -> usize {
        self.public().plan.longest.min(self.client.limits().max_context_tokens as usize)
    }

    /// Opens a session for passes that yield outputs of these rows, up to `context` tokens. A decoder remembers the
    /// tokens of earlier passes, an encoder does not.
    ///
    /// # Errors
    /// A party refuses or is lost.
    pub async fn run(&self, rows: OutputRows, context: usize) -> Result<Run<'_>, PrivateError> {
        self.open_run(SessionOptions { rows, ..SessionOptions::default() }, context).await
    }

    pub(super) async fn open_run(
        &self,
        options: SessionOptions,
        context: usize,
    ) -> Result<Run<'_>, PrivateError> {
        let options = SessionOptions { profile: self.timed, ..options };
        let opening = Opening {
            model: self.name.clone(),
            digest: self.digest,
            context_tokens: context as u32,
            options: serde_json::to_vec(&options).expect("plain data"),
        };
        let session = self.client.open_session(opening).await?;
        Ok(Run { model: self, session, position: 0, seen: None, times: Times::new(self.timed) })
    }

    /// What can never be computed is refused before anything is sent.
    pub(super) fn check(&self, tokens: &[u32], new: usize) -> Result<(), PrivateError> {
        let (limit, vocab) = (self.longest(), self.config().vocab);
        match tokens.iter().find(|&&t| t as usize >= vocab) {
            _ if tokens.is_empty() => Err(PrivateError::EmptyPrompt),
            _ if tokens.len().saturating_add(new) > limit => {
                Err(PrivateError::TooLong { prompt: tokens.len(), new, limit })
            }
            Some(&t) => Err(PrivateError::UnknownToken(t)),
            None => Ok(()),
        }
    }
}

impl Run<'_> {
    /// Sends tokens as keys, puts the evaluators' messages together: rows of output, and the cost.
    ///
    /// # Errors
    /// The tokens do not fit, or a party fails; the session is over then.
    pub async fn pass(&mut self, pass: Pass<'_>) -> Result<(Vec<f32>, Ledger), PrivateError> {
        self.send(pass, 0).await
    }

    /// A pass whose last `drafted` tokens are guesses.
    async fn send(&mut self, pass: Pass<'_>, drafted: usize) -> Result<(Vec<f32>, Ledger), PrivateError> {
        self.model.check(pass.tokens, 0)?;
        let parts = self.parts(pass.tokens)?;
        self.times.turn(Doing::Waits);
        let wire_pass = wire::Pass { drafted: drafted as u32, ..self.wire_pass(pass, 0) };
        let PassOutput(outputs) = self.session.pass(wire_pass, parts).await?;
        self.advance(pass.tokens.len());
        self.times.turn(Doing::Combines);
        let (ledger, [_, p1, p2]) = split_outputs(&outputs, &mut self.times)?;
        let m = self.model;
        let rows = shares::combine_outputs(&m.device, m.config(), p1, p2)?;
        self.times.end();
        Ok((rows, ledger))
    }

    /// Where the time of each pass so far went, if [`PrivateModel::timed`].
    pub fn take_times(&mut self) -> Vec<PassTimes> {
        self.times.take()
    }

    /// Sends a token and guesses of what follows it; yields the scores after each of them, and the cost. As many exchanges
    /// as for one token. Guesses that turn out wrong are taken back with [`Run::take_back`] before the next pass.
    ///
    /// # Errors
    /// As [`Run::pass`], or a party refuses so many guesses.
    pub async fn verify(&mut self, token: u32, drafts: &[u32]) -> Result<(Vec<f32>, Ledger), PrivateError> {
        let tokens = [&[token], drafts].concat();
        self.send(Pass { tokens: &tokens, segment: None }, drafts.len()).await
    }

    /// The next pass follows what was before the last `tokens` tokens, which must be guesses of the last pass. The parties
    /// learn their number.
    pub fn take_back(&mut self, tokens: usize) {
        self.position = self.position.saturating_sub(tokens);
    }

    /// Who deals in it.
    pub fn dealer(&self) -> Party {
        self.session.id().dealer()
    }

    /// Ends the session.
    ///
    /// # Errors
    /// A party has failed meanwhile.
    pub async fn close(self) -> Result<(), PrivateError> {
        Ok(self.session.close().await?)
    }

    pub(super) fn wire_pass(&self, pass: Pass<'_>, new_tokens: usize) -> wire::Pass {
        wire::Pass {
            counter: 0,
            position: self.position as u64,
            tokens: pass.tokens.len() as u32,
            drafted: 0,
            segment: pass.segment.map(|s| s as u32),
            new_tokens: new_tokens as u32,
        }
    }

    pub(super) fn parts(&mut self, tokens: &[u32]) -> Result<[Vec<u8>; 3], PrivateError> {
        self.times.turn(Doing::Splits);
        let m = self.model;
        let seed = zeroize::Zeroizing::new(random().map_err(PrivateError::Randomness)?);
        let parts = shares::split_tokens(&m.device, m.config().vocab, tokens, &seed)?;
        if self.seen.is_none() {
            self.seen = Some(Seen { words: parts.each_ref().map(|p| first_words(p)) });
        }
        Ok(parts)
    }

    pub(super) fn advance(&mut self, tokens: usize) {
        if self.model.config().is_decoder() {
            self.position += tokens;
        }
    }
}

/// The parties' accounts together, and their messages.
pub(super) fn split_outputs<'o>(
    outputs: &'o [Vec<u8>; 3],
    times: &mut Times,
) -> Result<(Ledger, [&'o [u8]; 3]), PrivateError> {
    let (mut ledgers, mut profiles) = (vec![], vec![]);
    let mut messages = [&[][..]; 3];
    for (output, message) in outputs.iter().zip(&mut messages) {
        let (account, rest) = split_output(output).map_err(SharedModelError::Damaged)?;
        ledgers.push(account.cost);
        profiles.extend(account.profile);
        *message = rest;
    }
    times.parties(profiles).map_err(SharedModelError::Damaged)?;
    Ok((Ledger::merge(&ledgers), messages))
}

/// A party's account of the pass, then its message.
fn split_output(output: &[u8]) -> Result<(Account, &[u8]), String> {
    let (length, rest) = output.split_first_chunk::<4>().ok_or("an answer without a beginning")?;
    let (account, message) =
        rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or("a truncated answer")?;
    Ok((serde_json::from_slice(account).map_err(|e| e.to_string())?, message))
}

/// The first four words of a part.
fn first_words(part: &[u8]) -> Vec<String> {
    let word = |w: &[u8]| format!("{:016x}", u64::from_le_bytes(w.try_into().expect("8 bytes")));
    part.chunks_exact(8).take(4).map(word).collect()
}
