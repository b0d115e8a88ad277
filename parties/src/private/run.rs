//! A session of one client with a model: tokens go in, outputs come out.

use super::times::{Doing, PassTimes, Times};
use super::{PrivateError, PrivateModel};
use crate::client::{PassOutput, Session, SessionOptions as Opening};
use crate::owner::random;
use crate::wire;
use models::model::OutputRows;
use models::shared::{
    Account, Dealing, SessionOptions, SharedModelError, Stepwise, client as shares, output_width,
};
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

/// Tokens of one sequence for a pass over several.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'t> {
    /// Which of the session's sequences: 0, 1, …
    pub sequence: usize,
    /// Its new tokens.
    pub pass: Pass<'t>,
    /// How many of them are guesses: none, or all but the first.
    pub drafted: usize,
}

/// One session under way.
pub struct Run<'m> {
    pub(super) model: &'m PrivateModel<'m>,
    pub(super) session: Session,
    rows: OutputRows,
    /// Tokens of each sequence so far.
    pub(super) positions: Vec<usize>,
    pub(super) seen: Option<Seen>,
    pub(super) times: Times,
    pub(super) dealing: Dealing,
}

impl PrivateModel<'_> {
    /// Most tokens of one sequence.
    pub fn longest(&self) -> usize {
        self.public().plan.longest.min(self.pass_limit())
    }

    /// Most tokens of a pass over all its sequences that the parties allow.
    pub(super) fn pass_limit(&self) -> usize {
        self.client.limits().max_context_tokens as usize
    }

    /// Opens a session for passes that yield outputs of these rows, up to `context` tokens. A decoder remembers the
    /// tokens of earlier passes, an encoder does not.
    ///
    /// # Errors
    /// A party refuses or is lost.
    pub async fn run(&self, rows: OutputRows, context: usize) -> Result<Run<'_>, PrivateError> {
        self.run_batch(rows, 1, context).await
    }

    /// The same for several sequences of up to `context` tokens each, which passes take side by side.
    ///
    /// # Errors
    /// As [`PrivateModel::run`].
    pub async fn run_batch(
        &self,
        rows: OutputRows,
        sequences: usize,
        context: usize,
    ) -> Result<Run<'_>, PrivateError> {
        self.open_run(SessionOptions { rows, ..SessionOptions::default() }, sequences, context).await
    }

    /// The same for a prompt of `prompt` tokens and then `steps` tokens, one a pass, with outputs of the last token: the
    /// dealer works ahead, as far as it may.
    ///
    /// # Errors
    /// A party refuses or is lost.
    pub async fn run_stepwise(&self, prompt: usize, steps: usize) -> Result<Run<'_>, PrivateError> {
        let context = prompt.saturating_add(steps);
        let stepwise = Some(Stepwise { from: prompt, to: context });
        self.open_run(SessionOptions { stepwise, ..SessionOptions::default() }, 1, context).await
    }

    pub(super) async fn open_run(
        &self,
        options: SessionOptions,
        sequences: usize,
        context: usize,
    ) -> Result<Run<'_>, PrivateError> {
        let limit = self.client.limits().max_sequences as usize;
        if sequences > limit {
            return Err(PrivateError::TooMany { sequences, limit });
        }
        let rows = options.rows;
        let options = SessionOptions { profile: self.timed, ..options };
        let opening = Opening {
            model: self.name.clone(),
            digest: self.digest,
            sequences: u32::try_from(sequences).unwrap_or(u32::MAX),
            // Parties refuse what is out of all bounds.
            context_tokens: u32::try_from(context).unwrap_or(u32::MAX),
            options: serde_json::to_vec(&options).expect("plain data"),
        };
        let session = self.client.open_session(opening).await?;
        let (positions, times, dealing) = (vec![0; sequences], Times::new(self.timed), Dealing::default());
        Ok(Run { model: self, session, rows, positions, seen: None, times, dealing })
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
    /// Sends tokens of the only sequence as keys, puts the evaluators' messages together: rows of output, and the cost.
    ///
    /// # Errors
    /// The tokens do not fit, or a party fails; the session is over then.
    pub async fn pass(&mut self, pass: Pass<'_>) -> Result<(Vec<f32>, Ledger), PrivateError> {
        let (rows, cost) = self.batch(&[Turn { sequence: 0, pass, drafted: 0 }]).await?;
        Ok((rows.concat(), cost))
    }

    /// One pass over some sequences, in ascending order: rows of output of each, and the cost. As many exchanges as for one.
    ///
    /// Tokens may be followed by guesses, which are to be verified: the scores after each token come back then. Guesses that
    /// turn out wrong are taken back with [`Run::take_back`] before the sequence's next pass.
    ///
    /// # Errors
    /// No such turns, or their tokens do not fit: nothing was sent then. Or a party fails or refuses so many guesses; the
    /// session is over then.
    pub async fn batch(&mut self, turns: &[Turn<'_>]) -> Result<(Vec<Vec<f32>>, Ledger), PrivateError> {
        let m = self.model;
        self.check_turns(turns)?;
        let parts = self.parts(turns)?;
        self.times.turn(Doing::Waits);
        let pass = self.wire_pass(turns, 0);
        let PassOutput(outputs) = self.session.pass(pass, parts).await?;
        self.advance(turns);
        self.times.turn(Doing::Combines);
        let (ledger, [_, p1, p2]) = self.told(&outputs)?;
        let mut numbers = &shares::combine_outputs(&m.device, m.config(), p1, p2)?[..];
        let all = self.rows == OutputRows::All || turns.iter().any(|t| t.drafted > 0);
        let mut rows = vec![];
        for turn in turns {
            let count = if all && m.config().is_decoder() { turn.pass.tokens.len() } else { 1 };
            let own = numbers.split_off(..count * output_width(m.config())).ok_or_else(|| {
                SharedModelError::Damaged("fewer rows of output than were asked for".into())
            })?;
            rows.push(own.to_vec());
        }
        if !numbers.is_empty() {
            return Err(SharedModelError::Damaged("more rows of output than were asked for".into()).into());
        }
        self.times.end();
        Ok((rows, ledger))
    }

    /// Where the time of each pass so far went, if [`PrivateModel::timed`].
    pub fn take_times(&mut self) -> Vec<PassTimes> {
        self.times.take()
    }

    /// When the dealer worked for the passes since this was asked last.
    pub fn take_dealing(&mut self) -> Dealing {
        std::mem::take(&mut self.dealing)
    }

    /// The sequence's next pass follows what was before its last `tokens` tokens, which must be guesses of its last pass. The
    /// parties learn their number.
    ///
    /// # Errors
    /// There is no such sequence.
    pub fn take_back(&mut self, sequence: usize, tokens: usize) -> Result<(), PrivateError> {
        let sequences = self.positions.len();
        let position = self.positions.get_mut(sequence).ok_or_else(|| no_sequence(sequence, sequences))?;
        *position = position.saturating_sub(tokens);
        Ok(())
    }

    /// What is no pass of this session is refused before anything is sent.
    fn check_turns(&self, turns: &[Turn<'_>]) -> Result<(), PrivateError> {
        let sequences = self.positions.len();
        match turns.last() {
            None => {
                return Err(PrivateError::Pass("a pass over no sequence; give it at least one turn".into()));
            }
            _ if !turns.is_sorted_by(|a, b| a.sequence < b.sequence) => {
                let what = "a pass over sequences that are out of order; give each at most one turn, in ascending order";
                return Err(PrivateError::Pass(what.into()));
            }
            Some(last) if last.sequence >= sequences => return Err(no_sequence(last.sequence, sequences)),
            Some(_) => {}
        }
        turns.iter().try_for_each(|turn| self.model.check(turn.pass.tokens, 0))
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

    pub(super) fn wire_pass(&self, turns: &[Turn<'_>], new_tokens: usize) -> wire::Pass {
        let part = |t: &Turn<'_>| wire::Part {
            sequence: t.sequence as u32,
            position: self.positions[t.sequence] as u64,
            tokens: t.pass.tokens.len() as u32,
            drafted: t.drafted as u32,
            segment: t.pass.segment.map(|s| s as u32),
        };
        wire::Pass { counter: 0, parts: turns.iter().map(part).collect(), new_tokens: new_tokens as u32 }
    }

    pub(super) fn parts(&mut self, turns: &[Turn<'_>]) -> Result<[Vec<u8>; 3], PrivateError> {
        self.times.turn(Doing::Splits);
        let m = self.model;
        let seed = zeroize::Zeroizing::new(random().map_err(PrivateError::Randomness)?);
        let tokens: Vec<u32> = turns.iter().flat_map(|t| t.pass.tokens).copied().collect();
        let parts = shares::split_tokens(&m.device, m.config().vocab, &tokens, &seed)?;
        if self.seen.is_none() {
            self.seen = Some(Seen { words: parts.each_ref().map(|p| first_words(p)) });
        }
        Ok(parts)
    }

    pub(super) fn advance(&mut self, turns: &[Turn<'_>]) {
        if self.model.config().is_decoder() {
            turns.iter().for_each(|t| self.positions[t.sequence] += t.pass.tokens.len());
        }
    }

    /// The parties' accounts together, and their messages.
    pub(super) fn told<'o>(
        &mut self,
        outputs: &'o [Vec<u8>; 3],
    ) -> Result<(Ledger, [&'o [u8]; 3]), PrivateError> {
        let (mut ledgers, mut profiles) = (vec![], vec![]);
        let mut messages = [&[][..]; 3];
        for (output, message) in outputs.iter().zip(&mut messages) {
            let (account, rest) = split_output(output).map_err(SharedModelError::Damaged)?;
            ledgers.push(account.cost);
            profiles.extend(account.profile);
            self.dealing += account.dealing.unwrap_or_default();
            *message = rest;
        }
        self.times.parties(profiles).map_err(SharedModelError::Damaged)?;
        Ok((Ledger::merge(&ledgers), messages))
    }
}

fn no_sequence(sequence: usize, of: usize) -> PrivateError {
    PrivateError::Pass(format!(
        "the session has {of} sequences, and none of number {sequence}; they count from 0"
    ))
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
