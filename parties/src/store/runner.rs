//! A session's passes over a stored model.

use super::bad;
use super::room::Promise;
use crate::{
    engine::{PassRequest, SessionContext, SessionRunner},
    wire::{self, Failure, FailureCode},
};
use models::model::OutputRows;
use models::shared::{Account, Part, PartySession, Request, SessionOptions, Work};
use protocol::{Network, Party, Step};

/// Output goes to the client in pieces of this size.
const OUTPUT_PIECE: usize = 4 << 20;

/// One session at this party.
pub(super) struct Runner {
    party: Party,
    dealer: Party,
    session: PartySession,
    options: SessionOptions,
    /// How many of the last tokens of each sequence are drafts, which the client may take back.
    drafted: Vec<u64>,
    /// Room for keys and values, and how much of it a token takes.
    room: (Promise, u64),
}

impl Runner {
    pub(super) fn new(
        context: &SessionContext,
        session: PartySession,
        options: SessionOptions,
        room: (Promise, u64),
    ) -> Runner {
        let drafted = session.tokens().iter().map(|_| 0).collect();
        Runner { party: context.party, dealer: context.session.dealer(), session, options, drafted, room }
    }

    /// Whether a sequence's part follows what was read, and its drafts can be verified.
    fn check(&self, part: &wire::Part) -> Result<(), Failure> {
        let party = self.party;
        let wire::Part { sequence, tokens, position, segment, drafted: drafts } = *part;
        let refuse = |what, remedy: &str| Err(Failure::new(FailureCode::BadRequest, what, remedy));
        let of = self.session.tokens().iter().zip(&self.drafted).nth(sequence as usize);
        let Some((read, &drafted)) = of else {
            return refuse(
                format!("{party} has no sequence {sequence} in this session"),
                "open a new session",
            );
        };
        let read = *read as u64;
        if tokens == 0 || position > read {
            return refuse(
                format!("{tokens} tokens at {position} after {read} tokens"),
                "open a new session",
            );
        }
        if position < read - drafted {
            let what = format!(
                "{tokens} tokens at {position} after {read} tokens: {party} takes back drafts only, which the last {drafted} are"
            );
            return refuse(what, "open a new session");
        }
        if segment.is_some_and(|s| s > tokens) {
            let what = format!("a first segment of {} of {tokens} tokens", segment.unwrap_or(0));
            return refuse(what, "open a new session");
        }
        if drafts == 0 {
            return Ok(());
        }
        if drafts != tokens - 1 {
            let what = format!("{drafts} drafts in a pass of {tokens} tokens at {party}");
            return refuse(what, "send one token and its drafts");
        }
        if self.options.choice.is_some() || !self.session.remembers() {
            let what = format!("{party} yields no scores that drafts could be compared with in this session");
            return refuse(what, "leave drafts out, or let the client choose (--reveal logits)");
        }
        Ok(())
    }
}

impl SessionRunner for Runner {
    fn pass(
        &mut self,
        network: &mut dyn Network,
        request: PassRequest,
        reply: &mut dyn FnMut(Vec<u8>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        request.parts.iter().try_for_each(|part| self.check(part))?;
        let parts: Vec<Part> = request.parts.iter().map(part).collect();
        let count = parts.iter().map(|p| p.count).sum();
        let keys = self.session.keys(&request.share, count).map_err(|e| bad(e.to_string()))?;
        for part in &request.parts {
            self.drafted[part.sequence as usize] = u64::from(part.drafted);
        }
        let work = match self.options.choice {
            None if request.parts.iter().any(|p| p.drafted > 0) => Work::Outputs(OutputRows::All),
            None => Work::Outputs(self.options.rows),
            Some(_) if request.new_tokens == 0 => Work::Read,
            Some(choice) => Work::Choose { choice, count: request.new_tokens as usize },
        };
        let (party, dealer) = (self.party, self.dealer);
        let (promise, token) = &mut self.room;
        // Tokens whose keys and values are there at the next answer.
        let mut there = self.session.tokens().to_vec();
        parts.iter().for_each(|p| there[p.sequence] = p.keep + p.count);
        let (mut there, sequences) = (there.iter().sum::<usize>() as u64, parts.len() as u64);
        // What the work took at this party goes first, then an evaluator's message.
        let mut send = |account: Account, message: Option<Vec<u8>>| {
            let account = serde_json::to_vec(&account).map_err(|e| Ended::Failed(bad(e.to_string())))?;
            let mut output = [&(account.len() as u32).to_le_bytes()[..], &account].concat();
            output.extend(message.unwrap_or_default());
            promise.fill(*token * there);
            there += sequences;
            if matches!(work, Work::Choose { .. }) {
                return reply(output).map_err(Ended::Failed);
            }
            output.chunks(OUTPUT_PIECE).try_for_each(|piece| reply(piece.to_vec())).map_err(Ended::Failed)
        };
        let request = Request { keys, parts, work };
        let done = self.session.pass(network, &request, &mut send).map_err(|e| e.failure(party, dealer));
        let tokens: usize = self.session.tokens().iter().sum();
        promise.fill(*token * tokens as u64);
        done
    }

    fn run_ahead(&mut self, network: &mut dyn Network) -> Step {
        self.session.deal_ahead(network)
    }
}

/// For the model.
fn part(p: &wire::Part) -> Part {
    Part {
        sequence: p.sequence as usize,
        count: p.tokens as usize,
        segment: p.segment.map(|s| s as usize),
        keep: p.position as usize,
    }
}

/// What ends a pass early.
enum Ended {
    Protocol(protocol::Error),
    Failed(Failure),
}

impl From<protocol::Error> for Ended {
    fn from(e: protocol::Error) -> Ended {
        Ended::Protocol(e)
    }
}

impl Ended {
    fn failure(self, party: Party, dealer: Party) -> Failure {
        match self {
            Ended::Failed(failure) => failure,
            Ended::Protocol(protocol::Error::Net { scope, source }) => {
                let failure = Failure::from(source.named(|role| role.party(dealer)));
                Failure { message: format!("{party} at {scope}: {}", failure.message), ..failure }
            }
            Ended::Protocol(protocol::Error::Diverged { scope, peer, what }) => {
                let peer = peer.party(dealer);
                let message =
                    format!("{party} at {scope}: {peer} runs a different program or is out of step ({what})");
                Failure::new(
                    FailureCode::Disagreement,
                    message,
                    "use the same version, model and request everywhere",
                )
            }
            Ended::Protocol(protocol::Error::Device { scope, source, .. }) => {
                let remedy = "the party's operator finds more in its log";
                Failure::new(FailureCode::Internal, format!("{party} at {scope}: {source}"), remedy)
            }
            Ended::Protocol(e) => {
                Failure::new(FailureCode::Disagreement, format!("{party}: {e}"), "share the model again")
            }
        }
    }
}
