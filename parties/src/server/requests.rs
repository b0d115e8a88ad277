//! One request of a client, on its own stream.

use super::{Shared, session};
use crate::{
    config::Permission,
    engine::{StoredModel, Upload},
    tls::ClientIdentity,
    transport::frame::FrameError,
    wire::{
        Failure, FailureCode, FrameReader, FrameWriter, Hello, PublicLimits, Reply, Request, WireError,
        check_model_name,
    },
};
use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// A request must come within this time after its stream, and chunks of an upload after each other.
const PATIENCE: Duration = Duration::from_secs(60);
/// Progress is told after so many bytes.
const PROGRESS_STEP: u64 = 16 << 20;

pub(super) fn bad(message: impl Into<String>) -> Failure {
    Failure::new(FailureCode::BadRequest, message, "use a client of the same version")
}

fn internal(message: impl Into<String>) -> Failure {
    Failure::new(FailureCode::Internal, message, "see this party's log")
}

pub(super) async fn serve(
    shared: Arc<Shared>,
    client: Arc<ClientIdentity>,
    send: SendStream,
    receive: RecvStream,
) {
    let mut writer = FrameWriter { stream: send };
    let max_body = shared.limits.max_message_bytes;
    let first = timeout(PATIENCE, async {
        let (_, mut reader) = FrameReader::<Request>::accept(receive, max_body).await?;
        let first = reader.next().await?;
        Ok::<_, FrameError>(first.map(|first| (reader, first)))
    });
    let result = match first.await {
        Ok(Ok(Some((reader, (request, body))))) => {
            dispatch(&shared, &client, &mut writer, reader, request, body).await
        }
        Ok(Ok(None)) => Ok(()),
        Ok(Err(error)) => Err(bad(error.to_string())),
        Err(_) => Err(bad("no request came on the stream")),
    };
    if let Err(failure) = result {
        tracing::warn!("{} for client {}: {failure}", shared.party, client.name);
        let _ = writer.send(&Reply::Error(failure), Bytes::new()).await;
    }
    let _ = writer.stream.finish();
}

pub(super) fn gone(_: WireError) -> Failure {
    internal("the client has gone")
}

/// Runs an engine call on a thread that may block.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(call).await.unwrap_or_else(|_| Err(internal("the engine has failed")))
}

async fn dispatch(
    shared: &Arc<Shared>,
    client: &Arc<ClientIdentity>,
    writer: &mut FrameWriter,
    reader: FrameReader<Request>,
    request: Request,
    body: Vec<u8>,
) -> Result<(), Failure> {
    let engine = shared.engine.clone();
    let allowed = |permission: Permission, what: &str| {
        let (party, name) = (shared.party, &client.name);
        client.may(permission).then_some(()).ok_or_else(|| {
            Failure::new(
                FailureCode::Forbidden,
                format!("client {name} may not {what} at {party}"),
                format!("{party}'s operator can grant it under [[clients]] in its configuration"),
            )
        })
    };
    match request {
        Request::Welcome => {
            let limits = PublicLimits {
                max_context_tokens: shared.limits.max_context_tokens,
                max_sequences: shared.limits.max_sequences,
                max_drafted_tokens: shared.limits.max_drafted_tokens,
                max_body_bytes: shared.limits.max_message_bytes as u64,
                dealer: shared.limits.dealer.only(),
            };
            let reply = Reply::Welcome { party: shared.party, software: Hello::this().software, limits };
            writer.send(&reply, Bytes::new()).await.map_err(gone)
        }
        Request::ListModels => {
            for model in blocking(move || engine.list_models()).await? {
                send_model(writer, model).await?;
            }
            done(writer).await
        }
        Request::ModelInfo { name } => {
            check_model_name(&name)?;
            let model = blocking(move || engine.model_info(&name)).await?;
            send_model(writer, model).await
        }
        Request::PutModel(model) => {
            allowed(Permission::ShareModel, "store models")?;
            check_model_name(&model.name)?;
            let total = model.total;
            let upload = {
                let client = client.clone();
                blocking(move || engine.begin_upload(&client, model, body)).await?
            };
            receive_model(writer, reader, upload, total).await
        }
        Request::DeleteModel { name } => {
            allowed(Permission::ShareModel, "delete models")?;
            check_model_name(&name)?;
            let client = client.clone();
            blocking(move || engine.delete_model(&client, &name)).await?;
            done(writer).await
        }
        Request::OpenSession(open) => {
            allowed(Permission::Ask, "open sessions")?;
            check_model_name(&open.model)?;
            session::serve(shared, client, writer, reader, open, body).await
        }
        Request::Chunk { .. } | Request::Commit | Request::Pass(_) | Request::CloseSession => {
            Err(bad("this request does not begin a stream"))
        }
    }
}

async fn done(writer: &mut FrameWriter) -> Result<(), Failure> {
    writer.send(&Reply::Done, Bytes::new()).await.map_err(gone)
}

async fn send_model(writer: &mut FrameWriter, model: StoredModel) -> Result<(), Failure> {
    writer.send(&Reply::Model(model.info), model.metadata.into()).await.map_err(gone)
}

/// Takes in the chunks of an upload. Whatever ends it early drops the upload, which leaves nothing behind.
async fn receive_model(
    writer: &mut FrameWriter,
    mut reader: FrameReader<Request>,
    mut upload: Box<dyn Upload>,
    total: u64,
) -> Result<(), Failure> {
    let (mut done, mut told) = (0_u64, 0_u64);
    loop {
        let frame = timeout(PATIENCE, reader.next()).await;
        let frame = frame.map_err(|_| internal("the upload has stalled; nothing of it is kept"))?;
        match frame.map_err(|e| bad(format!("the upload broke off, nothing of it is kept: {e}")))? {
            Some((Request::Chunk { tensor, offset }, bytes)) => {
                done += bytes.len() as u64;
                if done > total {
                    return Err(bad(format!("more than the {total} bytes announced; nothing is kept")));
                }
                upload = blocking(move || {
                    upload.chunk(tensor, offset, &bytes)?;
                    Ok(upload)
                })
                .await?;
                if done - told >= PROGRESS_STEP {
                    told = done;
                    let reply = Reply::Progress { done, total };
                    writer.send(&reply, Bytes::new()).await.map_err(gone)?;
                }
            }
            Some((Request::Commit, _)) if done == total => {
                let digest = blocking(move || upload.commit()).await?;
                return writer.send(&Reply::Stored { digest }, Bytes::new()).await.map_err(gone);
            }
            Some((Request::Commit, _)) => {
                return Err(bad(format!("{done} of the {total} bytes announced have come; nothing is kept")));
            }
            Some(_) => return Err(bad("only chunks and a commit belong into an upload; nothing is kept")),
            None => return Err(bad("the upload ends without a commit; nothing of it is kept")),
        }
    }
}
