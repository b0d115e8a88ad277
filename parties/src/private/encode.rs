//! Sentence embeddings and classification.

use super::{Pass, PrivateError, PrivateModel};
use models::checkpoint::Head;
use models::float_math::{normalised, softmax};
use models::model::OutputRows;
use protocol::Ledger;

/// A sentence embedding.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// Of length 1.
    pub vector: Vec<f32>,
    /// Tokens of the sentence.
    pub tokens: usize,
    /// What it took on the network between the parties.
    pub cost: Ledger,
}

/// Scores of a classifier's labels.
#[derive(Clone, Debug)]
pub struct Classification {
    /// Score of each label, in the model's order.
    pub scores: Vec<f32>,
    /// Tokens of the text.
    pub tokens: usize,
    /// What it took on the network between the parties.
    pub cost: Ledger,
}

impl Classification {
    /// The likeliest label.
    pub fn best(&self) -> usize {
        let best = self.scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        best.map_or(0, |(i, _)| i)
    }

    /// Probabilities: softmax of the scores.
    pub fn probabilities(&self) -> Vec<f32> {
        let mut p = self.scores.clone();
        softmax(&mut p);
        p
    }
}

impl PrivateModel<'_> {
    /// Embeddings of texts, one session for all of them; `progress` is told how many are done.
    ///
    /// # Errors
    /// The model makes no embeddings, a text is empty or too long, or a party fails.
    pub async fn embed(
        &self,
        texts: &[impl AsRef<str>],
        mut progress: impl FnMut(usize),
    ) -> Result<Vec<Embedding>, PrivateError> {
        if self.config().head != Head::MeanPooling {
            return Err(
                self.unsuitable("make sentence embeddings", "share one that does, such as all-MiniLM-L6-v2")
            );
        }
        let sentences = texts.iter().map(|t| self.raw(t.as_ref())).collect::<Result<Vec<_>, _>>()?;
        sentences.iter().try_for_each(|s| self.check(s, 0))?;
        let longest = sentences.iter().map(Vec::len).max().unwrap_or(1);
        let mut run = self.run(OutputRows::Last, longest).await?;
        let mut all = vec![];
        for sentence in &sentences {
            let (sum, cost) = run.pass(Pass { tokens: sentence, segment: None }).await?;
            // Of a sum over tokens and of their mean this is the same.
            all.push(Embedding { vector: normalised(sum), tokens: sentence.len(), cost });
            progress(all.len());
        }
        run.close().await?;
        Ok(all)
    }

    /// Scores of labels for a text, or for a pair of texts.
    ///
    /// # Errors
    /// The model is no classifier, the text is empty or too long, or a party fails.
    pub async fn classify(&self, text: &str, second: Option<&str>) -> Result<Classification, PrivateError> {
        if !matches!(self.config().head, Head::Classifier { .. }) {
            return Err(self.unsuitable("classify", "share a classifier, such as the query router"));
        }
        let (tokens, segment) = match second {
            None => (self.raw(text)?, None),
            Some(second) => {
                let (tokens, first) = self.tokenizer()?.encode_pair(text, second)?;
                (tokens, Some(first))
            }
        };
        self.check(&tokens, 0)?;
        let mut run = self.run(OutputRows::Last, tokens.len()).await?;
        let (scores, cost) = run.pass(Pass { tokens: &tokens, segment }).await?;
        run.close().await?;
        Ok(Classification { scores, tokens: tokens.len(), cost })
    }
}
