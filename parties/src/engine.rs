//! What a party process needs from whoever runs the models.
//!
//! All calls block and come from threads that may block; none comes from the transport's thread.

use crate::{
    ids::{Digest, SessionId},
    keys::SessionKeys,
    tls::ClientIdentity,
    wire::{Failure, FailureCode, ModelInfo, OpenSession, Part, PutModel},
};
use protocol::{Network, Party, Role, Step};
use std::sync::Arc;

/// A stored model and its public metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredModel {
    /// Name and digest.
    pub info: ModelInfo,
    /// Opaque here.
    pub metadata: Vec<u8>,
}

/// What a new session knows about itself.
#[derive(Debug, Clone)]
pub struct SessionContext {
    /// This party.
    pub party: Party,
    /// The session; its id says who deals.
    pub session: SessionId,
    /// Attempt (epoch) number.
    pub attempt: u32,
    /// The keys shared with the two others; fresh for this session.
    pub keys: SessionKeys,
    /// Who asks.
    pub client: Arc<ClientIdentity>,
}

impl SessionContext {
    /// This party's part.
    pub fn role(&self) -> Role {
        self.party.role(self.session.dealer())
    }
}

/// One pass, its input share already opened.
#[derive(Clone, PartialEq, Eq)]
pub struct PassRequest {
    /// Number of this pass: 0, 1, …
    pub counter: u64,
    /// Sequence by sequence, in ascending order, at least one; lengths and drafts are within the party's limits.
    pub parts: Vec<Part>,
    /// How many tokens to choose after each part.
    pub new_tokens: u32,
    /// This party's input share.
    pub share: Vec<u8>,
}

impl std::fmt::Debug for PassRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { counter, parts, new_tokens, share } = self;
        let size = share.len();
        write!(f, "PassRequest({counter}, {parts:?} + {new_tokens} tokens, {size} bytes redacted)")
    }
}

/// Stores models and runs sessions.
pub trait Engine: Send + Sync + 'static {
    /// The models that are stored.
    ///
    /// # Errors
    /// The store cannot be read.
    fn list_models(&self) -> Result<Vec<StoredModel>, Failure>;

    /// One model.
    ///
    /// # Errors
    /// There is none of this name.
    fn model_info(&self, name: &str) -> Result<StoredModel, Failure>;

    /// Begins to store a model. The name has been checked, the client may share models.
    ///
    /// # Errors
    /// It exists, or the store refuses.
    fn begin_upload(
        &self,
        client: &ClientIdentity,
        model: PutModel,
        metadata: Vec<u8>,
    ) -> Result<Box<dyn Upload>, Failure>;

    /// Deletes a model.
    ///
    /// # Errors
    /// There is none of this name, or the store refuses.
    fn delete_model(&self, client: &ClientIdentity, name: &str) -> Result<(), Failure>;

    /// Prepares a session. Called on the session's own thread, after all three parties have agreed on the digest that
    /// the client named; the engine must check that this is the digest of the model it has.
    ///
    /// # Errors
    /// There is no such model, or it has another digest.
    fn open_session(
        &self,
        context: SessionContext,
        request: OpenSession,
        options: Vec<u8>,
    ) -> Result<Box<dyn SessionRunner>, Failure>;
}

/// A model on its way into the store. Dropped without [`Upload::commit`], it leaves nothing behind.
pub trait Upload: Send {
    /// Part of a tensor.
    ///
    /// # Errors
    /// No such tensor or place, or the disk refuses.
    fn chunk(&mut self, tensor: u32, offset: u64, bytes: &[u8]) -> Result<(), Failure>;

    /// All chunks have come. Makes the model visible and returns its digest.
    ///
    /// # Errors
    /// Something is missing, or the disk refuses.
    fn commit(self: Box<Self>) -> Result<Digest, Failure>;
}

/// One session's state, made and used by its own thread only.
pub trait SessionRunner {
    /// One pass. Output goes out in pieces through `reply`.
    ///
    /// # Errors
    /// The session ends, here and at the other parties. Messages travel: no secrets in them.
    fn pass(
        &mut self,
        network: &mut dyn Network,
        request: PassRequest,
        reply: &mut dyn FnMut(Vec<u8>) -> Result<(), Failure>,
    ) -> Result<(), Failure>;

    /// Called while no request waits: a dealer may deal for passes to come. It must return soon, and not wait for the
    /// network. Says when to call again: at once after [`Step::More`], in a while after [`Step::Full`], after the next pass
    /// after [`Step::Complete`].
    fn run_ahead(&mut self, network: &mut dyn Network) -> Step {
        let _ = network;
        Step::Complete
    }
}

/// An engine without models.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoModels;

impl NoModels {
    fn none<T>(name: &str) -> Result<T, Failure> {
        let message = format!("there is no model {name:?}");
        Err(Failure::new(FailureCode::NotFound, message, "this party stores no models"))
    }
}

impl Engine for NoModels {
    fn list_models(&self) -> Result<Vec<StoredModel>, Failure> {
        Ok(Vec::new())
    }

    fn model_info(&self, name: &str) -> Result<StoredModel, Failure> {
        Self::none(name)
    }

    fn begin_upload(
        &self,
        _client: &ClientIdentity,
        model: PutModel,
        _metadata: Vec<u8>,
    ) -> Result<Box<dyn Upload>, Failure> {
        Self::none(&model.name)
    }

    fn delete_model(&self, _client: &ClientIdentity, name: &str) -> Result<(), Failure> {
        Self::none(name)
    }

    fn open_session(
        &self,
        _context: SessionContext,
        request: OpenSession,
        _options: Vec<u8>,
    ) -> Result<Box<dyn SessionRunner>, Failure> {
        Self::none(&request.model)
    }
}
