//! Sharing a model: chunks to the three parties, with back-pressure.

use super::{Call, Client, ClientError, all};
use crate::{
    ids::Digest,
    wire::{PutModel, Reply, Request, check_model_name},
};
use bytes::Bytes;
use protocol::Party;
use quinn::VarInt;
use std::{fmt, time::Duration};
use tokio::{sync::mpsc, time::timeout};

/// How long parties have to take back what they have kept of a model that another party has refused.
const WITHDRAWAL: Duration = Duration::from_secs(5);

/// A model that is going to be shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadSpec {
    /// Its name.
    pub name: String,
    /// What the parties compare.
    pub digest: Digest,
    /// Public metadata, the same for all parties; opaque here.
    pub metadata: Vec<u8>,
    /// Bytes that each party will get.
    pub totals: [u64; 3],
}

/// Part of one party's share of a tensor.
#[derive(Clone, PartialEq, Eq)]
pub struct UploadChunk {
    /// Whose share.
    pub party: Party,
    /// Which tensor.
    pub tensor: u32,
    /// Where in it.
    pub offset: u64,
    /// The bytes; 1 to 4 MiB are a good size.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for UploadChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { party, tensor, offset, bytes } = self;
        write!(f, "UploadChunk(tensor {tensor} at {offset} to {party}, {} bytes redacted)", bytes.len())
    }
}

/// A model on its way to the parties. Dropped without [`ModelUpload::commit`], it leaves nothing behind there.
#[derive(Debug)]
pub struct ModelUpload {
    calls: Option<[Call; 3]>,
    sent: [u64; 3],
    totals: [u64; 3],
}

impl Client {
    /// Begins to share a model.
    ///
    /// # Errors
    /// A party refuses.
    pub async fn begin_upload(&self, spec: UploadSpec) -> Result<ModelUpload, ClientError> {
        check_model_name(&spec.name)
            .map_err(|failure| ClientError::Invalid { problem: failure.message, remedy: failure.remedy })?;
        let begin = |party: usize| {
            let total = spec.totals[party];
            let put = PutModel { name: spec.name.clone(), digest: spec.digest, total };
            let body = Bytes::from(spec.metadata.clone());
            async move {
                let mut call = self.parties[party].call("storing a model").await?;
                call.send(&Request::PutModel(put), body).await?;
                Ok(call)
            }
        };
        let calls = all(begin(0), begin(1), begin(2)).await?;
        Ok(ModelUpload { calls: Some(calls), sent: [0; 3], totals: spec.totals })
    }

    /// Shares a model whose chunks a producer on another thread puts into a bounded channel. `progress` gets the bytes
    /// sent so far and in all. If the producer fails or stops early, nothing is kept anywhere.
    ///
    /// # Errors
    /// A party refuses or is lost, or the producer says why it failed.
    pub async fn upload_model(
        &self,
        spec: UploadSpec,
        mut chunks: mpsc::Receiver<Result<UploadChunk, String>>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), ClientError> {
        let (name, digest, total) = (spec.name.clone(), spec.digest, spec.totals.iter().sum());
        let mut upload = self.begin_upload(spec).await?;
        let mut done = 0;
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk.map_err(|problem| ClientError::Invalid {
                problem,
                remedy: "nothing was kept at the parties; share the model again".into(),
            })?;
            done += chunk.bytes.len() as u64;
            upload.chunk(chunk).await?;
            progress(done, total);
        }
        let result = upload.commit(digest).await;
        if result.is_err() {
            let _ = timeout(WITHDRAWAL, self.withdraw(&name, digest)).await;
        }
        result
    }

    /// Deletes what some parties have kept of a model that others have not.
    async fn withdraw(&self, name: &str, digest: Digest) {
        let at = |party: usize| async move {
            let party = &self.parties[party];
            if party.info(name).await?.0.digest == digest {
                party.delete(name).await?;
            }
            Ok::<_, ClientError>(())
        };
        let _ = tokio::join!(at(0), at(1), at(2));
    }
}

impl ModelUpload {
    /// Sends a chunk; waits while the party is behind.
    ///
    /// # Errors
    /// The party refuses or is lost.
    pub async fn chunk(&mut self, chunk: UploadChunk) -> Result<(), ClientError> {
        let party = chunk.party.index();
        let Some(calls) = &mut self.calls else { return Ok(()) };
        self.sent[party] += chunk.bytes.len() as u64;
        let request = Request::Chunk { tensor: chunk.tensor, offset: chunk.offset };
        calls[party].send(&request, chunk.bytes.into()).await
    }

    /// Makes the model visible at all parties, and checks that each has stored `digest`.
    ///
    /// # Errors
    /// Bytes are missing, or a party refuses.
    pub async fn commit(mut self, digest: Digest) -> Result<(), ClientError> {
        if self.sent != self.totals {
            return Err(ClientError::Invalid {
                problem: format!("{:?} bytes were sent of {:?}", self.sent, self.totals),
                remedy: "nothing was kept at the parties; share the model again".into(),
            });
        }
        let Some(mut calls) = self.calls.take() else { return Ok(()) };
        let [a, b, c] = &mut calls;
        all(commit(a, digest), commit(b, digest), commit(c, digest)).await.map(drop)
    }
}

impl Drop for ModelUpload {
    fn drop(&mut self) {
        for call in self.calls.iter_mut().flatten() {
            let _ = call.writer.stream.reset(VarInt::from_u32(1));
        }
    }
}

async fn commit(call: &mut Call, digest: Digest) -> Result<(), ClientError> {
    call.send(&Request::Commit, Bytes::new()).await?;
    loop {
        match call.receive().await? {
            (Reply::Progress { .. }, _) => {}
            (Reply::Stored { digest: stored }, _) if stored == digest => return Ok(()),
            (other, _) => return Err(call.nonsense(&other)),
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({}, {})", self.party, self.doing)
    }
}
