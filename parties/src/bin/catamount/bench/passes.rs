//! Passes through a model at three parties, timed at the client.

use crate::host::Host;
use models::model::OutputRows;
use parties::private::{Pass, PassTimes};
use protocol::Ledger;
use std::time::Instant;

/// What is run: a prompt or a text, then further tokens.
pub(super) struct Plan<'a> {
    pub(super) tokens: &'a [u32],
    /// Each of the further tokens.
    pub(super) next: u32,
    pub(super) decode: usize,
    /// How often all of it, in sessions of their own.
    pub(super) runs: usize,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Passes {
    /// Of each run, seconds from splitting the prompt to its outputs at the client.
    pub(super) pass_s: Vec<f64>,
    /// Of each run, each further token.
    pub(super) decode_s: Vec<f64>,
    /// Of the pass over the prompt.
    pub(super) cost: Ledger,
    /// Of the first further token.
    pub(super) decode_cost: Option<Ledger>,
    /// Of each run, outputs of the pass over the prompt.
    pub(super) outputs: Vec<Vec<f32>>,
    /// Where the time went, if it is `timed`.
    pub(super) times: Vec<Vec<PassTimes>>,
}

impl Plan<'_> {
    pub(super) async fn run(&self, host: &Host, timed: bool) -> anyhow::Result<Passes> {
        let model = host.model().await?;
        let model = if timed { model.timed() } else { model };
        let mut done = Passes::default();
        for _ in 0..self.runs {
            let mut run = model.run(OutputRows::Last, self.tokens.len() + self.decode).await?;
            let start = Instant::now();
            let (outputs, cost) = run.pass(Pass { tokens: self.tokens, segment: None }).await?;
            done.pass_s.push(start.elapsed().as_secs_f64());
            done.cost = cost;
            done.outputs.push(outputs);
            for i in 0..self.decode {
                let start = Instant::now();
                let (_, cost) = run.pass(Pass { tokens: &[self.next], segment: None }).await?;
                done.decode_s.push(start.elapsed().as_secs_f64());
                if i == 0 {
                    done.decode_cost = Some(cost);
                }
            }
            done.times.push(run.take_times());
            run.close().await?;
        }
        Ok(done)
    }
}
