//! A session at the three parties.

use super::{Call, Client, ClientError, all, randomness};
use crate::{
    ids::{Digest, PublicKey, SessionId},
    seal::{self, Aad, Purpose},
    wire::{OpenSession, Pass, Reply, Request},
};
use bytes::Bytes;
use protocol::{Party, Role};
use std::{fmt, sync::atomic::Ordering};

/// What a session is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOptions {
    /// The model's name.
    pub model: String,
    /// Its digest, from [`Client::model_info`].
    pub digest: Digest,
    /// How many sequences it works on.
    pub sequences: u32,
    /// Most tokens that each of them will have.
    pub context_tokens: u32,
    /// For the engine; opaque here, and not secret.
    pub options: Vec<u8>,
}

/// What the parties answered in one pass, by role. Output is shared: only its combination means anything.
#[derive(Clone, PartialEq, Eq)]
pub struct PassOutput(pub [Vec<u8>; 3]);

impl fmt::Debug for PassOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PassOutput({:?} bytes redacted)", self.0.each_ref().map(Vec::len))
    }
}

/// An open session. Dropping it ends it at the parties; [`Session::close`] does so in order.
pub struct Session {
    id: SessionId,
    /// By role, as the keys are.
    calls: [Call; 3],
    keys: [PublicKey; 3],
    counter: u64,
}

impl Client {
    /// Opens a session under a fresh id at all three parties, which agree on the digest first.
    ///
    /// # Errors
    /// Names the party that refuses, is missing or disagrees.
    pub async fn open_session(&self, options: SessionOptions) -> Result<Session, ClientError> {
        // Three sessions in a row load the parties alike, unless these have settled who deals.
        let turn = Party::ALL[self.turn.fetch_add(1, Ordering::Relaxed) % 3];
        let id = SessionId::dealt_by(self.limits().dealer.unwrap_or(turn)).map_err(randomness)?;
        self.open_session_as(id, options).await
    }

    /// As [`Client::open_session`], under an id of the caller's, which must be fresh and random; it says who deals
    /// ([`SessionId::dealer`]).
    ///
    /// # Errors
    /// As [`Client::open_session`].
    pub async fn open_session_as(
        &self,
        id: SessionId,
        options: SessionOptions,
    ) -> Result<Session, ClientError> {
        let request = Request::OpenSession(OpenSession {
            session: id,
            attempt: 0,
            model: options.model,
            digest: options.digest,
            sequences: options.sequences,
            context_tokens: options.context_tokens,
        });
        let body = Bytes::from(options.options);
        let open = |party: usize| {
            let (request, body) = (&request, body.clone());
            async move {
                let mut call = self.parties[party].call("opening a session").await?;
                call.send(request, body).await?;
                match call.receive().await? {
                    (Reply::Opened, _) => Ok(call),
                    (other, _) => Err(call.nonsense(&other)),
                }
            }
        };
        let calls = by_role(id.dealer(), all(open(0), open(1), open(2)).await?);
        let keys = by_role(id.dealer(), self.parties.each_ref().map(|party| party.x25519));
        Ok(Session { id, calls, keys, counter: 0 })
    }
}

impl Session {
    /// Its id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// One pass. `shares` are the parties' input shares, in the order of their roles; each is sealed to its party.
    /// After an error the session is over.
    ///
    /// # Errors
    /// Names the party that failed.
    pub async fn pass(&mut self, pass: Pass, shares: [Vec<u8>; 3]) -> Result<PassOutput, ClientError> {
        let (pass, sealed) = self.seal(pass, shares)?;
        let [a, b, c] = &mut self.calls;
        let outputs = all(
            one(a, pass.clone(), sealed[0].clone()),
            one(b, pass.clone(), sealed[1].clone()),
            one(c, pass, sealed[2].clone()),
        )
        .await?;
        Ok(PassOutput(outputs))
    }

    /// Begins a pass whose outputs come one by one, by [`Session::next_output`].
    ///
    /// # Errors
    /// Names the party that failed.
    pub async fn begin(&mut self, pass: Pass, shares: [Vec<u8>; 3]) -> Result<(), ClientError> {
        let (pass, sealed) = self.seal(pass, shares)?;
        let [a, b, c] = &mut self.calls;
        let begin = async |call: &mut Call, sealed: &Bytes| {
            call.doing = "in a pass";
            call.send(&Request::Pass(pass.clone()), sealed.clone()).await
        };
        all(begin(a, &sealed[0]), begin(b, &sealed[1]), begin(c, &sealed[2])).await.map(drop)
    }

    /// The next outputs of a pass that was begun; `None` at its end.
    ///
    /// # Errors
    /// Names the party that failed.
    pub async fn next_output(&mut self) -> Result<Option<PassOutput>, ClientError> {
        let [a, b, c] = &mut self.calls;
        let next = async |call: &mut Call| match call.receive().await? {
            (Reply::Output, piece) => Ok(Some(piece)),
            (Reply::PassDone { .. }, _) => Ok(None),
            (other, _) => Err(call.nonsense(&other)),
        };
        match all(next(a), next(b), next(c)).await? {
            [Some(a), Some(b), Some(c)] => Ok(Some(PassOutput([a, b, c]))),
            [None, None, None] => Ok(None),
            _ => Err(ClientError::Invalid {
                problem: "the parties ended a pass at different places".into(),
                remedy: "use the same version everywhere".into(),
            }),
        }
    }

    /// Numbers the pass and seals its shares.
    fn seal(&mut self, pass: Pass, shares: [Vec<u8>; 3]) -> Result<(Pass, Vec<Bytes>), ClientError> {
        let pass = Pass { counter: self.counter, ..pass };
        let about = pass.about();
        self.counter += 1;
        let mut sealed = Vec::with_capacity(3);
        for ((role, key), share) in Role::ALL.into_iter().zip(&self.keys).zip(shares) {
            let party = role.party(self.id.dealer());
            let aad =
                Aad { session: self.id, counter: pass.counter, about, party, purpose: Purpose::PassInput };
            let share = zeroize::Zeroizing::new(share);
            let boxed = seal::seal(key, &aad, &share).map_err(|e| ClientError::Invalid {
                problem: format!("the input share cannot be sealed to {party}: {e}"),
                remedy: format!("correct {party}'s x25519 key in the cluster file"),
            })?;
            sealed.push(Bytes::from(boxed));
        }
        Ok((pass, sealed))
    }

    /// Ends the session.
    ///
    /// # Errors
    /// Names a party that has failed meanwhile; the session is over all the same.
    pub async fn close(self) -> Result<(), ClientError> {
        let [a, b, c] = self.calls;
        all(end(a), end(b), end(c)).await.map(drop)
    }
}

/// What the parties have, in the order of their roles where `dealer` deals.
fn by_role<T>(dealer: Party, mut parties: [T; 3]) -> [T; 3] {
    parties.rotate_left(dealer.index());
    parties
}

async fn one(call: &mut Call, pass: Pass, sealed: Bytes) -> Result<Vec<u8>, ClientError> {
    call.doing = "in a pass";
    let sent = pass.counter;
    call.send(&Request::Pass(pass), sealed).await?;
    let mut output = Vec::new();
    loop {
        match call.receive().await? {
            (Reply::Output, piece) if output.is_empty() => output = piece,
            (Reply::Output, piece) => output.extend_from_slice(&piece),
            (Reply::PassDone { counter }, _) if counter == sent => return Ok(output),
            (other, _) => return Err(call.nonsense(&other)),
        }
    }
}

async fn end(mut call: Call) -> Result<(), ClientError> {
    call.doing = "closing a session";
    call.send(&Request::CloseSession, Bytes::new()).await?;
    match call.receive().await? {
        (Reply::Done, _) => Ok(()),
        (other, _) => Err(call.nonsense(&other)),
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", self.id.short())
    }
}
