//! What is kept of a reading's outputs, and the table at the end.

use super::{Example, Reading};
use models::evaluation::Task;
use models::evaluation::metrics::{agreement, auc, cosine, log_softmax_at, max_difference, perplexity};
use models::float_math::normalised;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// One example under one reading.
#[derive(Clone, Debug)]
pub(super) struct Score {
    /// Cosine of a pair; log-probability of the tokens to predict.
    value: f64,
    /// Label, or the likeliest tokens.
    choice: Vec<usize>,
    /// Whether the likeliest tokens are the ones to predict.
    right: bool,
    /// Log-probability of each token to predict.
    log_probs: Vec<f64>,
    /// Distance of the two highest scores, at the closest decision.
    gap: f64,
    /// What errors are measured on: unit vectors, label scores, scores of tokens.
    outputs: Vec<f32>,
}

impl Score {
    /// Of the outputs for each sequence.
    pub(super) fn of(task: Task, example: &Example, mut outputs: Vec<Vec<f32>>) -> Score {
        match task {
            Task::Mrpc => {
                let units: Vec<Vec<f32>> = outputs.into_iter().map(normalised).collect();
                let value = cosine(&units[0], &units[1]).unwrap_or(0.0);
                let (choice, gap) = (vec![], f64::INFINITY);
                Score { value, choice, right: false, log_probs: vec![], gap, outputs: units.concat() }
            }
            Task::Sst2Router => {
                let scores = outputs.swap_remove(0);
                let (choice, gap) = highest(&scores);
                let choice = vec![choice];
                Score { value: 0.0, choice, right: false, log_probs: vec![], gap, outputs: scores }
            }
            Task::Lambada | Task::Perplexity => {
                let (rows, tokens) = (outputs.swap_remove(0), &example.sequences[0]);
                let width = rows.len() / tokens.len();
                let outputs = rows[(example.from - 1) * width..(tokens.len() - 1) * width].to_vec();
                let (mut log_probs, mut choice, mut right, mut gap) = (vec![], vec![], true, f64::INFINITY);
                for (row, &token) in outputs.chunks_exact(width).zip(&tokens[example.from..]) {
                    log_probs.push(log_softmax_at(row, token as usize).unwrap_or(f64::NEG_INFINITY));
                    let (likeliest, distance) = highest(row);
                    right &= likeliest == token as usize;
                    choice.push(likeliest);
                    gap = gap.min(distance);
                }
                let value = log_probs.iter().sum();
                Score { value, choice, right, log_probs, gap, outputs }
            }
        }
    }
}

/// The highest score, the first of equal ones, and its distance to the next.
fn highest(scores: &[f32]) -> (usize, f64) {
    let (mut best, mut second) = (0, f32::NEG_INFINITY);
    for (i, &s) in scores.iter().enumerate().skip(1) {
        if s > scores[best] {
            second = scores[best];
            best = i;
        } else if s > second {
            second = s;
        }
    }
    (best, f64::from(scores.get(best).copied().unwrap_or(0.0) - second))
}

/// One reading over all examples.
#[derive(Clone, Debug, Serialize)]
struct Column {
    reading: Reading,
    /// Area under the curve, fraction of the first label, fraction of right words, perplexity.
    value: f64,
    /// Fraction of examples decided as under the first reading.
    same_decisions: f64,
    /// Examples decided otherwise although the first reading's gap is more than the largest error.
    clear_differences: usize,
    /// Largest difference of an output to the first reading.
    max_error: f64,
    seconds: f64,
    #[serde(skip)]
    values: Vec<f64>,
    #[serde(skip)]
    choices: Vec<Vec<usize>>,
    #[serde(skip)]
    right: usize,
    #[serde(skip)]
    log_probs: Vec<f64>,
    /// (gap under the first reading, error, whether decided otherwise) of each example.
    #[serde(skip)]
    decisions: Vec<(f64, f64, bool)>,
}

/// The table.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    task: String,
    description: &'static str,
    n: usize,
    readings: Vec<Column>,
    /// Of the last reading to the first.
    difference: f64,
    #[serde(skip)]
    kind: Task,
    #[serde(skip)]
    labels: Vec<bool>,
}

impl Summary {
    pub(super) fn new(task: Task, readings: &[Reading]) -> Summary {
        let column = |&reading: &Reading| Column {
            reading,
            value: 0.0,
            same_decisions: 1.0,
            clear_differences: 0,
            max_error: 0.0,
            seconds: 0.0,
            values: vec![],
            choices: vec![],
            right: 0,
            log_probs: vec![],
            decisions: vec![],
        };
        Summary {
            task: task.to_string(),
            description: task.description(),
            n: 0,
            readings: readings.iter().map(column).collect(),
            difference: 0.0,
            kind: task,
            labels: vec![],
        }
    }

    pub(super) fn spent(&mut self, reading: usize, time: Duration) {
        self.readings[reading].seconds += time.as_secs_f64();
    }

    /// Takes one example's scores, one for each reading.
    pub(super) fn add(&mut self, example: &Example, scores: Vec<Score>) {
        self.n += 1;
        self.labels.push(example.label);
        let first = scores[0].clone();
        for (c, s) in self.readings.iter_mut().zip(scores) {
            let error = max_difference(&first.outputs, &s.outputs);
            c.max_error = c.max_error.max(error);
            c.values.push(s.value);
            c.right += usize::from(s.right);
            c.log_probs.extend(s.log_probs);
            c.decisions.push((first.gap, error, s.choice != first.choice));
            c.choices.push(s.choice);
        }
    }

    /// The figures over all examples.
    pub(super) fn finish(mut self) -> Summary {
        let reference = self.readings[0].choices.clone();
        let kind = self.kind;
        for c in &mut self.readings {
            let share = |count: usize| count as f64 / c.choices.len() as f64;
            c.value = match kind {
                Task::Mrpc => auc(&c.values, &self.labels).unwrap_or(f64::NAN),
                Task::Sst2Router => share(c.choices.iter().filter(|x| **x == [0]).count()),
                Task::Lambada => share(c.right),
                Task::Perplexity => perplexity(&c.log_probs).unwrap_or(f64::NAN),
            };
            c.same_decisions = agreement(&reference, &c.choices).unwrap_or(1.0);
            let clear = |(gap, error, other): &&(f64, f64, bool)| *other && gap > error;
            c.clear_differences = c.decisions.iter().filter(clear).count();
        }
        self.difference = self.readings.last().map_or(0.0, |c| c.value) - self.readings[0].value;
        self
    }

    fn measure(&self) -> &'static str {
        match self.kind {
            Task::Mrpc => "AUC",
            Task::Sst2Router => "share of the first label",
            Task::Lambada => "right words",
            Task::Perplexity => "perplexity",
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.description)?;
        writeln!(f, "{} on {} examples: {}", self.task, self.n, self.measure())?;
        writeln!(
            f,
            "{:<8} {:>10} {:>12} {:>12} {:>15} {:>10}",
            "reading", "value", "difference", "max error", "same decisions", "seconds"
        )?;
        let first = self.readings[0].value;
        for c in &self.readings {
            let decisions = match self.kind {
                Task::Sst2Router | Task::Lambada => format!("{:.2} %", 100.0 * c.same_decisions),
                _ => "-".into(),
            };
            writeln!(
                f,
                "{:<8} {:>10.5} {:>12.6} {:>12.6} {:>15} {:>10.1}",
                format!("{:?}", c.reading),
                c.value,
                c.value - first,
                c.max_error,
                decisions,
                c.seconds
            )?;
        }
        let otherwise: usize = self.readings.iter().map(|c| c.clear_differences).sum();
        if matches!(self.kind, Task::Sst2Router | Task::Lambada) {
            writeln!(f, "decided otherwise where the gap exceeds the error: {otherwise}")?;
        }
        Ok(())
    }
}
