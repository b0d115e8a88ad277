//! A session's passes over a stored model.

use super::bad;
use crate::{
    engine::{PassRequest, SessionRunner},
    wire::{Failure, FailureCode},
};
use models::model::OutputRows;
use models::shared::{Account, PartySession, Request, SessionOptions, Work};
use protocol::{Network, Role};

/// Output goes to the client in pieces of this size.
const OUTPUT_PIECE: usize = 4 << 20;

/// One session at this party.
pub(super) struct Runner {
    role: Role,
    session: PartySession,
    options: SessionOptions,
    /// How many of the last tokens are drafts, which the client may take back.
    drafted: u64,
}

impl Runner {
    pub(super) fn new(role: Role, session: PartySession, options: SessionOptions) -> Runner {
        Runner { role, session, options, drafted: 0 }
    }

    /// Whether a pass follows what was read, and its drafts can be verified.
    fn check(&self, r: &PassRequest) -> Result<(), Failure> {
        let (role, read, drafted) = (self.role, self.session.tokens() as u64, self.drafted);
        let PassRequest { tokens, position, segment, .. } = *r;
        let refuse = |what, remedy: &str| Err(Failure::new(FailureCode::BadRequest, what, remedy));
        if tokens == 0 || position > read {
            return refuse(
                format!("{tokens} tokens at {position} after {read} tokens"),
                "open a new session",
            );
        }
        if position < read - drafted {
            let what = format!(
                "{tokens} tokens at {position} after {read} tokens: {role} takes back drafts only, which the last {drafted} are"
            );
            return refuse(what, "open a new session");
        }
        if segment.is_some_and(|s| s > tokens) {
            let what = format!("a first segment of {} of {tokens} tokens", segment.unwrap_or(0));
            return refuse(what, "open a new session");
        }
        if r.drafted == 0 {
            return Ok(());
        }
        if r.drafted != tokens - 1 {
            let what = format!("{} drafts in a pass of {tokens} tokens at {role}", r.drafted);
            return refuse(what, "send one token and its drafts");
        }
        if self.options.choice.is_some() || !self.session.remembers() {
            let what = format!("{role} yields no scores that drafts could be compared with in this session");
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
        self.check(&request)?;
        let keys =
            self.session.keys(&request.share, request.tokens as usize).map_err(|e| bad(e.to_string()))?;
        let (segment, keep) = (request.segment.map(|s| s as usize), request.position as usize);
        self.drafted = u64::from(request.drafted);
        let work = match self.options.choice {
            None if request.drafted > 0 => Work::Outputs(OutputRows::All),
            None => Work::Outputs(self.options.rows),
            Some(_) if request.new_tokens == 0 => Work::Read,
            Some(choice) => Work::Choose { choice, count: request.new_tokens as usize },
        };
        let role = self.role;
        // What the work took at this party goes first, then an evaluator's message.
        let mut send = |account: Account, message: Option<Vec<u8>>| {
            let account = serde_json::to_vec(&account).map_err(|e| Ended::Failed(bad(e.to_string())))?;
            let mut output = [&(account.len() as u32).to_le_bytes()[..], &account].concat();
            output.extend(message.unwrap_or_default());
            if matches!(work, Work::Choose { .. }) {
                return reply(output).map_err(Ended::Failed);
            }
            output.chunks(OUTPUT_PIECE).try_for_each(|piece| reply(piece.to_vec())).map_err(Ended::Failed)
        };
        let request = Request { keys, segment, keep, work };
        self.session.pass(network, &request, &mut send).map_err(|e| e.failure(role))
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
    fn failure(self, role: Role) -> Failure {
        match self {
            Ended::Failed(failure) => failure,
            Ended::Protocol(protocol::Error::Net { scope, source }) => {
                let failure = Failure::from(source);
                Failure { message: format!("{role} at {scope}: {}", failure.message), ..failure }
            }
            Ended::Protocol(protocol::Error::Device { scope, source, .. }) => {
                let remedy = "the party's operator finds more in its log";
                Failure::new(FailureCode::Internal, format!("{role} at {scope}: {source}"), remedy)
            }
            Ended::Protocol(e) => {
                Failure::new(FailureCode::Disagreement, format!("{role}: {e}"), "share the model again")
            }
        }
    }
}
