//! A session's passes over a stored model.

use super::bad;
use crate::{
    engine::{PassRequest, SessionRunner},
    wire::{Failure, FailureCode},
};
use models::shared::{Account, PartySession, Request, SessionOptions, Work};
use protocol::{Network, Role};

/// Output goes to the client in pieces of this size.
const OUTPUT_PIECE: usize = 4 << 20;

/// One session at this party.
pub(super) struct Runner {
    role: Role,
    session: PartySession,
    options: SessionOptions,
}

impl Runner {
    pub(super) fn new(role: Role, session: PartySession, options: SessionOptions) -> Runner {
        Runner { role, session, options }
    }
}

impl SessionRunner for Runner {
    fn pass(
        &mut self,
        network: &mut dyn Network,
        request: PassRequest,
        reply: &mut dyn FnMut(Vec<u8>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let count = request.tokens as usize;
        let read = self.session.tokens() as u64;
        let refuse = |what| Err(Failure::new(FailureCode::BadRequest, what, "open a new session"));
        if count == 0 || request.position != read {
            return refuse(format!("{count} tokens at {} after {read} tokens", request.position));
        }
        let segment = request.segment.map(|s| s as usize);
        if segment.is_some_and(|s| s > count) {
            return refuse(format!("a first segment of {} of {count} tokens", segment.unwrap_or(0)));
        }
        let keys = self.session.keys(&request.share, count).map_err(|e| bad(e.to_string()))?;
        let work = match self.options.choice {
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
        let request = Request { keys, segment, work };
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
            Ended::Protocol(e) => {
                Failure::new(FailureCode::Disagreement, format!("{role}: {e}"), "share the model again")
            }
        }
    }
}
