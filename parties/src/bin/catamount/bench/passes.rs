//! Passes through a model at three parties, timed at the client.

use crate::host::Host;
use models::model::OutputRows;
use models::shared::Dealing;
use parties::private::{Pass, PassTimes, Run};
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
    /// Whether the dealer deals ahead.
    pub(super) ahead: Ahead,
}

/// When the dealer works for tokens after the first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ahead {
    /// As far ahead as it may.
    Allowed,
    /// The same, and before each run another in which it deals nothing ahead.
    Compared,
    /// Once it is asked.
    Nothing,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Passes {
    /// Of each run, seconds from splitting the prompt to its outputs at the client.
    pub(super) pass_s: Vec<f64>,
    /// Of each run, each further token.
    pub(super) decode_s: Vec<f64>,
    /// The same where the dealer dealt nothing ahead.
    pub(super) decode_without_ahead_s: Vec<f64>,
    /// When the dealer worked for all further tokens.
    pub(super) dealing: Dealing,
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
        let (mut done, context) = (Passes::default(), self.tokens.len() + self.decode);
        for _ in 0..self.runs {
            if self.ahead == Ahead::Compared {
                let mut run = model.run(OutputRows::Last, context).await?;
                run.pass(Pass { tokens: self.tokens, segment: None }).await?;
                self.go_on(&mut run, &mut done.decode_without_ahead_s).await?;
                run.close().await?;
            }
            let mut run = match self.ahead {
                Ahead::Nothing => model.run(OutputRows::Last, context).await?,
                _ => model.run_stepwise(self.tokens.len(), self.decode).await?,
            };
            let start = Instant::now();
            let (outputs, cost) = run.pass(Pass { tokens: self.tokens, segment: None }).await?;
            done.pass_s.push(start.elapsed().as_secs_f64());
            done.cost = cost;
            done.outputs.push(outputs);
            run.take_dealing();
            done.decode_cost = self.go_on(&mut run, &mut done.decode_s).await?.or(done.decode_cost);
            done.dealing += run.take_dealing();
            done.times.push(run.take_times());
            run.close().await?;
        }
        Ok(done)
    }

    /// Further tokens, one a pass: seconds of each, and the cost of the first.
    async fn go_on(&self, run: &mut Run<'_>, seconds: &mut Vec<f64>) -> anyhow::Result<Option<Ledger>> {
        let mut first = None;
        for _ in 0..self.decode {
            let start = Instant::now();
            let (_, cost) = run.pass(Pass { tokens: &[self.next], segment: None }).await?;
            seconds.push(start.elapsed().as_secs_f64());
            first.get_or_insert(cost);
        }
        Ok(first)
    }
}
