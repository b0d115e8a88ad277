//! Catamount's command line: everything a person does.

mod ask;
mod bench;
mod cost;
mod demo;
mod device;
mod encode;
mod eval;
mod host;
mod inspect;
mod model;
mod network;
mod output;
mod processes;
mod share;
mod trace;

use clap::{Parser, Subcommand};
use parties::device::DeviceChoice;
use parties::init::{LOCAL_HOSTS, init_cluster};
use parties::weights::WeightsChoice;
use std::path::PathBuf;
use std::process::ExitCode;

/// Private inference of transformers.
///
/// A client asks a language model a question; three parties that do not trust each other compute the answer on random
/// shares. No party learns the prompt, the answer or the model's weights, as long as no two of them join forces.
///
/// Without a subcommand, `catamount` runs the demo.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Three party processes on this machine, a real model, a private answer beside the plaintext answer.
    Demo(demo::Demo),
    /// Clusters of three parties.
    Cluster {
        #[command(subcommand)]
        command: Cluster,
    },
    /// Split a model's weights into shares and send them to the three parties.
    ///
    /// Finds the ranges of all gates first: bounds that hold for every input where they fit, sample text with a margin of
    /// two where they do not. These ranges become public with the model's shape and tokenizer; the weights do not.
    ShareModel(share::ShareModel),
    /// Ask a model. The answer is printed as it comes.
    ///
    /// The prompt is tokenised on this machine, and each token turned into keys of point functions, from which no party
    /// learns it. Who chooses the tokens of the answer, `--reveal` says. The parties learn the number of tokens of prompt and answer, and when they came.
    Ask(ask::Ask),
    /// Sentence embeddings of texts, and how close they are to each other.
    ///
    /// The parties compute the sum of the last layer's rows on shares; the client divides it by its length. They learn
    /// the number of tokens of each text.
    Embed(encode::Embed),
    /// The label of a text, or of a pair of texts.
    ///
    /// The client learns the labels' scores; the parties learn the number of tokens, and of a pair where the first ends.
    Classify(encode::Classify),
    /// How good a model is, in plain floating point, in the protocol's integers and in secret.
    ///
    /// Ranges of the gates come from a sample text of this program, which is not among the data.
    Eval(eval::Eval),
    /// What a model is: family, sizes, what each party stores, what a pass costs. Needs no weights.
    Inspect(inspect::Inspect),
    /// What a computation costs: exchanges, bytes on each link, modelled seconds. Nothing is computed.
    Cost(cost::CostCommand),
    /// Measure on this machine: three party processes, real or made-up weights.
    Bench {
        #[command(subcommand)]
        command: Bench,
    },
    /// Run one party (what the `party` program does).
    #[command(hide = true)]
    Party {
        /// The party's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// What to compute on, whatever the configuration says.
        #[arg(long, value_name = "DEVICE")]
        device: Option<DeviceChoice>,
        /// Keep weights stored, regenerated or as there is room (auto), whatever the configuration says.
        #[arg(long, value_name = "HOW")]
        weights: Option<WeightsChoice>,
        /// End with standard input: with the process that holds its other end.
        #[arg(long)]
        until_input_ends: bool,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// Passes through a whole model: seconds, exchanges, bytes, memory, and the difference to plain floating point.
    Model(bench::BenchModel),
    /// One layer of a shape, on made-up weights.
    Layer(bench::BenchLayer),
    /// Each gate by itself, three parties in this process over QUIC on the loopback interface.
    Gates(bench::BenchGates),
    /// One device: products, random streams, round trips and the local part of every gate, beside what it could at best.
    ///
    /// Results are compared with the processor's bit for bit before anything is timed.
    Device(bench::BenchDevice),
    /// The transport alone: MB/s, processor time, exchanges; beside TLS over TCP, TCP and UDP.
    Network(network::BenchNetwork),
    /// What passes must cost at least on this machine, and what they do cost: one table, that of docs/floors.md.
    ///
    /// Counts are declared costs, rates are measured just before, times are those of three party processes.
    Floors(bench::floors::BenchFloors),
    /// Catamount and SecretFlow-SPU (PUMA's own implementation), alternately on this machine: seconds and bytes.
    ///
    /// Needs a Python (3.10 or 3.11) with `pip install spu==0.9.5 jax==0.4.34 jaxlib==0.4.34 numpy==1.26.4`.
    Peer(bench::peer::BenchPeer),
}

#[derive(Subcommand)]
enum Cluster {
    /// Write keys and configuration of a new cluster: party0.toml, party1.toml, party2.toml, client.toml.
    ///
    /// All secrets are made on this machine: move each party's files to its own machine and delete them here.
    Init {
        /// Where to; nothing there is overwritten.
        directory: PathBuf,
        /// The parties' addresses, P0's first.
        #[arg(long, value_delimiter = ',', value_name = "IP:PORT,IP:PORT,IP:PORT", default_values = LOCAL_HOSTS)]
        hosts: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command.unwrap_or_else(|| Command::Demo(demo::Demo::default())) {
        Command::Demo(demo) => demo.run(),
        Command::ShareModel(share) => share.run(),
        Command::Ask(ask) => ask.run(),
        Command::Cost(cost) => cost.run(),
        Command::Embed(embed) => embed.run(),
        Command::Classify(classify) => classify.run(),
        Command::Bench { command: Bench::Model(bench) } => bench.run(),
        Command::Bench { command: Bench::Layer(bench) } => bench.run(),
        Command::Bench { command: Bench::Gates(bench) } => bench.run(),
        Command::Bench { command: Bench::Device(bench) } => bench.run(),
        Command::Bench { command: Bench::Network(bench) } => bench.run(),
        Command::Bench { command: Bench::Floors(bench) } => bench.run(),
        Command::Bench { command: Bench::Peer(bench) } => bench.run(),
        Command::Eval(eval) => eval.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Cluster { command: Cluster::Init { directory, hosts } } => {
            for file in init_cluster(&directory, &hosts)? {
                println!("{}", file.display());
            }
            println!("start each party with `party --config FILE`; give client.toml to the client");
            Ok(())
        }
        Command::Party { config, device, weights, until_input_ends } => {
            parties::init_logging();
            if until_input_ends {
                std::thread::spawn(|| {
                    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                    std::process::exit(1);
                });
            }
            Ok(parties::server::run_party(&config, device, weights)?)
        }
    }
}

/// A thread of its own drives the client's connections, so that they stay alive while this one computes.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let done = runtime.block_on(future);
    // Of an interrupted command, threads may still wait for parties that are gone.
    runtime.shutdown_background();
    done
}
