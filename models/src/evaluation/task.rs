//! What is measured.

use std::fmt;
use std::str::FromStr;

/// A kind of model, by what comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelKind {
    /// A vector for a text, such as [`crate::fetch::minilm`].
    SentenceEncoder,
    /// A score for each of a few labels, such as [`crate::fetch::router`].
    Classifier,
    /// A score for every next token, such as [`crate::fetch::default_model`].
    LanguageModel,
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ModelKind::SentenceEncoder => "sentence encoder",
            ModelKind::Classifier => "classifier",
            ModelKind::LanguageModel => "language model",
        })
    }
}

/// A measurement, named as on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// `mrpc`: paraphrases told apart by the cosine of two embeddings.
    Mrpc,
    /// `sst2-router`: labels that the query router gives to sentences.
    Sst2Router,
    /// `lambada`: the last word of a passage.
    Lambada,
    /// `perplexity`: the next token of plain text.
    Perplexity,
}

impl Task {
    /// All tasks.
    pub const ALL: [Task; 4] = [Task::Mrpc, Task::Sst2Router, Task::Lambada, Task::Perplexity];

    /// What is measured, in one sentence.
    pub const fn description(self) -> &'static str {
        match self {
            Task::Mrpc => {
                "Microsoft Research Paraphrase Corpus, validation set: whether the cosine of two sentences' \
                 embeddings tells paraphrases from others, as area under the ROC curve"
            }
            Task::Sst2Router => {
                "Stanford Sentiment Treebank, validation set: how often two ways of computing a classifier \
                 give a sentence the same label; the router is not trained for sentiment, so this is no accuracy"
            }
            Task::Lambada => {
                "LAMBADA: how often the likeliest tokens are a passage's last word, and that word's log-probability"
            }
            Task::Perplexity => "perplexity of plain text, by default Moby-Dick, in windows of equal length",
        }
    }

    /// The kind of model it is for.
    pub const fn model(self) -> ModelKind {
        match self {
            Task::Mrpc => ModelKind::SentenceEncoder,
            Task::Sst2Router => ModelKind::Classifier,
            Task::Lambada | Task::Perplexity => ModelKind::LanguageModel,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Task::Mrpc => "mrpc",
            Task::Sst2Router => "sst2-router",
            Task::Lambada => "lambada",
            Task::Perplexity => "perplexity",
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no task has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no task {0:?}; there are mrpc, sst2-router, lambada and perplexity")]
pub struct UnknownTask(pub String);

impl FromStr for Task {
    type Err = UnknownTask;

    fn from_str(name: &str) -> Result<Self, UnknownTask> {
        Task::ALL.into_iter().find(|task| task.name() == name).ok_or_else(|| UnknownTask(name.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for task in Task::ALL {
            assert_eq!(task.to_string().parse(), Ok(task));
        }
        let error = "MRPC".parse::<Task>().unwrap_err().to_string();
        assert!(Task::ALL.iter().all(|task| error.contains(task.name())), "{error}");
    }
}
