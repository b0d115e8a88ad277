//! One session of a client: its stream on one side, its worker thread on the other.

use super::{
    Shared,
    requests::{bad, gone},
};
use crate::{
    engine::{PassRequest, SessionContext, SessionRunner},
    keys::StaticSecret,
    seal::{self, Aad, Purpose},
    tls::ClientIdentity,
    transport::{AbortHandle, SessionLinks, SessionSpec, TransportError},
    wire::{Failure, FailureCode, FrameReader, FrameWriter, OpenSession, Part, Pass, Reply, Request},
};
use bytes::Bytes;
use protocol::{NetError, Party, Step};
use std::{
    sync::{
        Arc,
        mpsc::{self as blocking, RecvTimeoutError, TryRecvError},
    },
    thread,
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, sleep_until, timeout},
};

/// Output that waits for a slow client: pieces.
const OUTPUT_QUEUE: usize = 4;
/// How often a dealer looks whether its full links have room.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long a worker may take to end when its session is closed.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the worker tells the stream's task.
enum Event {
    Opened,
    Output(Vec<u8>),
    PassDone(u64),
    Failed(Failure),
}

/// A pass for the worker; it opens the sealed share itself, off the transport's thread.
struct Job {
    pass: Pass,
    sealed: Vec<u8>,
}

/// Serves a session on its stream until it is closed, fails, expires or the client goes.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    client: &Arc<ClientIdentity>,
    writer: &mut FrameWriter,
    mut reader: FrameReader<Request>,
    open: OpenSession,
    options: Vec<u8>,
) -> Result<(), Failure> {
    let party = shared.party;
    let permit = admit(shared, &open).inspect_err(|failure| {
        // The others need not wait for this party.
        shared.transport.refuse(open.session, &failure.message);
    })?;
    let dealer = open.session.dealer();
    let spec = SessionSpec { session: open.session, attempt: open.attempt, dealer, program: open.digest };
    let (links, keys) = shared.transport.open(spec).await.map_err(open_failure)?;
    let abort = links.abort_handle();
    let context =
        SessionContext { party, session: open.session, attempt: open.attempt, keys, client: client.clone() };
    let (sequences, context_tokens) = (open.sequences, u64::from(open.context_tokens));
    let session = open.session;
    let (jobs, job_queue) = blocking::channel();
    let (events, mut from_worker) = mpsc::channel(OUTPUT_QUEUE);
    let worker = Worker { links, secret: shared.secret.clone(), events, _permit: permit };
    let engine = shared.engine.clone();
    let start = move || {
        worker.run(job_queue, move || engine.open_session(context, open, options));
    };
    thread::Builder::new().name(format!("session {}", session.short())).spawn(start).map_err(|e| {
        abort.abort("it could not start a thread");
        Failure::new(FailureCode::Internal, e.to_string(), "see this party's limits on threads")
    })?;

    // Frames are read by a task of their own, which is never cancelled in the middle of one.
    let (frames, mut from_client) = mpsc::channel(1);
    let reading = tokio::spawn(async move {
        loop {
            let frame = reader.next().await;
            let last = !matches!(frame, Ok(Some(_)));
            if frames.send(frame).await.is_err() || last {
                return;
            }
        }
    });
    let idle = Duration::from_secs(shared.limits.idle_session_seconds);
    let mut state = State {
        next_counter: 0,
        running: 1,
        idle_since: Instant::now(),
        sequences,
        context_tokens,
        drafts: shared.limits.max_drafted_tokens,
        pass_tokens: shared.limits.max_context_tokens,
    };
    let result = loop {
        let expiry = state.idle_since + idle;
        tokio::select! {
            frame = from_client.recv() => match frame {
                Some(Ok(Some((Request::Pass(pass), sealed)))) => {
                    if let Err(failure) = state.admit(party, &pass) {
                        break Err(failure);
                    }
                    // A worker that is gone says why through its events.
                    let _ = jobs.send(Job { pass, sealed });
                }
                Some(Ok(Some((Request::CloseSession, _)))) => break Ok(()),
                Some(Ok(Some(_))) => break Err(bad("only passes and a close belong into a session")),
                Some(Err(error)) => break Err(bad(format!("the client has gone: {error}"))),
                Some(Ok(None)) | None => break Err(bad("the client has gone without closing the session")),
            },
            event = from_worker.recv() => match event {
                Some(event) => {
                    state.note(&event);
                    // A client that does not read its output is as good as gone.
                    match timeout(idle, forward(writer, event)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(failure)) => break Err(failure),
                        Err(_) => break Err(bad("the client does not read its output")),
                    }
                }
                None => break Err(worker_failed(party)),
            },
            () = abort.ended(), if state.running == 0 => {
                let error = abort.failure().unwrap_or(NetError::Lost { peer: party, reason: "closed".into() });
                break Err(error.into());
            }
            () = sleep_until(expiry), if state.running == 0 => {
                let message = format!("{party} has dropped the session after {} s without a request", idle.as_secs());
                break Err(Failure::new(FailureCode::Expired, message, "open a new session"));
            }
        }
    };
    reading.abort();
    drop(jobs);
    match &result {
        // Whoever leaves in the middle of a pass does not want its end.
        Ok(()) if state.running > 0 => abort.abort("the client has closed the session"),
        Ok(()) => farewell(&mut from_worker, &abort).await,
        Err(failure) => abort.abort(&failure.message),
    }
    result?;
    writer.send(&Reply::Done, Bytes::new()).await.map_err(gone)
}

/// Checks the limits; the permit is a session's right to exist.
fn admit(shared: &Shared, open: &OpenSession) -> Result<OwnedSemaphorePermit, Failure> {
    let (party, limits) = (shared.party, &shared.limits);
    let dealer = open.session.dealer();
    if let Some(only) = limits.dealer.only().filter(|&only| only != dealer) {
        let message = format!("{party} takes part in sessions that {only} deals, not {dealer}");
        let remedy = "connect again, or see limits.dealer of all three parties";
        return Err(Failure::new(FailureCode::Forbidden, message, remedy));
    }
    if open.context_tokens > limits.max_context_tokens {
        return Err(too_long(party, u64::from(open.context_tokens), limits.max_context_tokens));
    }
    if !(1..=limits.max_sequences).contains(&open.sequences) {
        let message =
            format!("{} sequences in a session, {party} allows {}", open.sequences, limits.max_sequences);
        let remedy = "ask fewer prompts at a time, at least one, or raise limits.max_sequences";
        return Err(Failure::new(FailureCode::Limit, message, remedy));
    }
    shared.sessions.clone().try_acquire_owned().map_err(|_| {
        let message = format!("{party} has {} sessions open, no more are allowed", limits.max_sessions);
        Failure::new(FailureCode::Busy, message, "try again later, or raise limits.max_sessions")
    })
}

/// Lets a worker end by itself, within bounds.
async fn farewell(from_worker: &mut mpsc::Receiver<Event>, abort: &AbortHandle) {
    let ended = async { while from_worker.recv().await.is_some() {} };
    if timeout(FAREWELL, ended).await.is_err() {
        abort.abort("the client has closed the session");
    }
}

struct State {
    next_counter: u64,
    /// Passes that the worker has not finished; its opening counts as one.
    running: usize,
    idle_since: Instant,
    sequences: u32,
    /// Most tokens of a sequence.
    context_tokens: u64,
    /// Most drafted tokens of a pass.
    drafts: u32,
    /// Most tokens of a pass.
    pass_tokens: u32,
}

impl State {
    /// A pass is taken only in its turn and within the session's context: no input is ever taken twice.
    fn admit(&mut self, party: Party, pass: &Pass) -> Result<(), Failure> {
        if pass.counter != self.next_counter {
            let message = format!("pass {} came to {party} instead of {}", pass.counter, self.next_counter);
            return Err(bad(message));
        }
        if !pass.parts.is_sorted_by(|a, b| a.sequence < b.sequence) {
            return Err(bad(format!("a pass over sequences that are out of order came to {party}")));
        }
        match pass.parts.last() {
            None => return Err(bad(format!("a pass over no sequence came to {party}"))),
            Some(last) if last.sequence >= self.sequences => {
                let message = format!("sequence {} of {} at {party}", last.sequence, self.sequences);
                return Err(bad(message));
            }
            Some(_) => {}
        }
        pass.parts.iter().try_for_each(|part| self.admit_part(party, part, pass.new_tokens))?;
        let drafted: u64 = pass.parts.iter().map(|part| u64::from(part.drafted)).sum();
        if drafted > u64::from(self.drafts) {
            let message = format!("{drafted} drafted tokens, {party} allows {} in a pass", self.drafts);
            let remedy =
                "draft fewer (--speculate), ask fewer prompts at a time, or raise limits.max_drafted_tokens";
            return Err(Failure::new(FailureCode::Limit, message, remedy));
        }
        if pass.tokens() > u64::from(self.pass_tokens) {
            let message = format!("{} tokens in a pass, {party} allows {}", pass.tokens(), self.pass_tokens);
            let remedy = "send fewer at a time, or raise limits.max_context_tokens";
            return Err(Failure::new(FailureCode::Limit, message, remedy));
        }
        if self.running > 1 {
            return Err(bad("a pass waits already"));
        }
        self.next_counter += 1;
        self.running += 1;
        Ok(())
    }

    /// One sequence's tokens.
    fn admit_part(&self, party: Party, part: &Part, new_tokens: u32) -> Result<(), Failure> {
        let new = u64::from(part.tokens).saturating_add(u64::from(new_tokens));
        let end = part.position.saturating_add(new);
        if end > self.context_tokens {
            return Err(too_long(party, end, self.context_tokens as u32));
        }
        Ok(())
    }

    fn note(&mut self, event: &Event) {
        if matches!(event, Event::Opened | Event::PassDone(_)) {
            self.running -= 1;
            self.idle_since = Instant::now();
        }
    }
}

async fn forward(writer: &mut FrameWriter, event: Event) -> Result<(), Failure> {
    let (reply, body) = match event {
        Event::Opened => (Reply::Opened, Vec::new()),
        Event::Output(bytes) => (Reply::Output, bytes),
        Event::PassDone(counter) => (Reply::PassDone { counter }, Vec::new()),
        Event::Failed(failure) => return Err(failure),
    };
    writer.send(&reply, body.into()).await.map_err(gone)
}

fn too_long(party: Party, tokens: u64, limit: u32) -> Failure {
    let message = format!("{tokens} tokens of context, {party} allows {limit}");
    Failure::new(FailureCode::Limit, message, "shorten the prompt, or raise limits.max_context_tokens")
}

fn worker_failed(party: Party) -> Failure {
    Failure::new(FailureCode::Internal, format!("{party}'s worker has failed"), format!("see {party}'s log"))
}

fn open_failure(error: TransportError) -> Failure {
    let code = match &error {
        TransportError::Disagreement { .. } => FailureCode::Disagreement,
        TransportError::InUse { .. } => FailureCode::Exists,
        TransportError::NoConnection { .. } | TransportError::NotJoined { .. } | TransportError::Net(_) => {
            FailureCode::PeerLost
        }
        _ => FailureCode::Internal,
    };
    // The remedy is the second half of these messages.
    let text = error.to_string();
    let (message, remedy) = text.split_once("; ").unwrap_or((&text, "open a new session"));
    Failure::new(code, message, remedy)
}

/// The session's own thread.
struct Worker {
    links: SessionLinks,
    secret: StaticSecret,
    events: mpsc::Sender<Event>,
    /// Held while the thread lives: a session counts until its memory is free.
    _permit: OwnedSemaphorePermit,
}

impl Worker {
    fn run(
        mut self,
        jobs: blocking::Receiver<Job>,
        open: impl FnOnce() -> Result<Box<dyn SessionRunner>, Failure>,
    ) {
        if let Err(failure) = self.work(&jobs, open) {
            self.links.abort(&failure.message);
            let _ = self.events.blocking_send(Event::Failed(failure));
        }
    }

    fn work(
        &mut self,
        jobs: &blocking::Receiver<Job>,
        open: impl FnOnce() -> Result<Box<dyn SessionRunner>, Failure>,
    ) -> Result<(), Failure> {
        let gone = |_| bad("the client has gone");
        let mut runner = open()?;
        self.events.blocking_send(Event::Opened).map_err(gone)?;
        while let Some(job) = self.next_job(jobs, &mut *runner) {
            let counter = job.pass.counter;
            let request = self.open_share(job)?;
            let events = &self.events;
            runner.pass(&mut self.links, request, &mut |bytes| {
                events.blocking_send(Event::Output(bytes)).map_err(gone)
            })?;
            self.events.blocking_send(Event::PassDone(counter)).map_err(gone)?;
            // So that the client hears of it now.
            self.links.pause();
        }
        Ok(())
    }

    /// The next pass; until it comes, work is done ahead. `None` when the session is over.
    fn next_job(&mut self, jobs: &blocking::Receiver<Job>, runner: &mut dyn SessionRunner) -> Option<Job> {
        let mut step = Step::More;
        loop {
            let job = match step {
                Step::More => jobs.try_recv(),
                Step::Full => jobs.recv_timeout(LOOK_AGAIN).map_err(|e| match e {
                    RecvTimeoutError::Timeout => TryRecvError::Empty,
                    RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
                }),
                Step::Complete => return jobs.recv().ok(),
            };
            match job {
                Ok(job) => return Some(job),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => step = runner.run_ahead(&mut self.links),
            }
        }
    }

    fn open_share(&self, job: Job) -> Result<PassRequest, Failure> {
        let about = job.pass.about();
        let Pass { counter, parts, new_tokens } = job.pass;
        let aad = Aad {
            session: self.links.id(),
            counter,
            about,
            party: self.links.party(),
            purpose: Purpose::PassInput,
        };
        let share = seal::open(&self.secret, &aad, &job.sealed).map_err(|e| {
            let message = format!("{}: {e}", self.links.party());
            Failure::new(
                FailureCode::BadRequest,
                message,
                "see that the client's cluster file has this party's key",
            )
        })?;
        Ok(PassRequest { counter, parts, new_tokens, share })
    }
}
