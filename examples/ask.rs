//! Asks a shared model a question from a program of your own and prints the answer while it is made.
//!
//! ```text
//! cargo run --release -p catamount-examples --example ask -- CLUSTER_FILE MODEL [QUESTION]
//! ```
//!
//! `CLUSTER_FILE` is the `client.toml` that `catamount cluster init` writes, `MODEL` the name that the model was shared
//! under. Three parties must be running; the README shows how to start them.
//!
//! The question never leaves this process in the clear: it is turned into tokens and split into three random shares
//! here, and the words of the answer are chosen here, from output scores that only this process can put together.

use anyhow::{Context, Result, bail};
use parties::client::Client;
use parties::cluster::ClusterConfig;
use parties::private::{Generation, MaxTokens, PrivateModel, Progress};
use parties::sampling::Sampling;
use std::io::Write as _;

// The connections need a thread that is never busy for long: parties give up on a client that is silent for seconds.
// So the runtime gets a worker beside the main thread.
#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (file, name, question) = match arguments.as_slice() {
        [file, name] => (file, name, "Name three rivers."),
        [file, name, question] => (file, name, question.as_str()),
        _ => bail!("usage: ask CLUSTER_FILE MODEL [QUESTION]"),
    };

    // Where the parties are, which certificates they have, and who we are.
    let cluster = ClusterConfig::load(file.as_ref())?;
    // One authenticated connection to each party. A certificate other than the pinned one is an error.
    let client = Client::connect(&cluster).await?;
    // Shape, ranges and tokenizer of the model: public, and the same at all three parties, or this fails.
    let model =
        PrivateModel::open(&client, name).await.with_context(|| format!("cannot use model {name}"))?;
    eprintln!(
        "{name}: {} layers, {} tokens of vocabulary",
        model.public().config.layers,
        model.public().config.vocab
    );

    // A user's message in the model's chat format. `model.raw` takes plain text to be continued instead.
    let prompt = model.chat(question)?;
    let how = Generation {
        max_tokens: MaxTokens(40),
        // At random, among the likeliest tokens that together have a probability of 0.9. The choice is made on this
        // machine: the parties do not learn which token it was.
        sampling: Sampling::new(0.7, 0.9, 0).map_err(anyhow::Error::msg)?,
        ..Generation::default()
    };
    // One prompt, one session at the parties. It ends with the answer, or when the future is dropped.
    let answer = model
        .generate(&prompt, &how, |progress| match progress {
            Progress::Prompt(read, all) => eprintln!("{read} of {all} prompt tokens read"),
            Progress::Text(text) => {
                print!("{text}");
                let _ = std::io::stdout().flush();
            }
        })
        .await?;
    println!();

    eprintln!(
        "{} tokens, the first after {:.1} s, {} exchanges between the evaluators",
        answer.tokens.len(),
        answer.first_token.as_secs_f64(),
        answer.prompt_cost.exchanges + answer.decode_cost.exchanges,
    );
    client.close().await;
    Ok(())
}
