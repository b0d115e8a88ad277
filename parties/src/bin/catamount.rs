//! Catamount's command line.

use clap::{Parser, Subcommand};
use parties::init::{LOCAL_HOSTS, init_cluster};
use std::path::PathBuf;

/// Private inference of transformers by three parties.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Clusters of three parties.
    Cluster {
        #[command(subcommand)]
        command: Cluster,
    },
    /// Run one party (what the `party` binary does).
    #[command(hide = true)]
    Party {
        /// The party's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

#[derive(Subcommand)]
enum Cluster {
    /// Write keys and configuration of a new cluster: party0.toml, party1.toml, party2.toml, client.toml.
    Init {
        /// Where to; nothing there is overwritten.
        directory: PathBuf,
        /// The parties' addresses, P0's first.
        #[arg(long, value_delimiter = ',', value_name = "IP:PORT,IP:PORT,IP:PORT", default_values = LOCAL_HOSTS)]
        hosts: Vec<String>,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Cluster { command: Cluster::Init { directory, hosts } } => {
            for file in init_cluster(&directory, &hosts)? {
                println!("{}", file.display());
            }
            println!("start each party with `party --config FILE`; give client.toml to the client");
        }
        Command::Party { config } => {
            parties::init_logging();
            parties::server::run_party(&config)?;
        }
    }
    Ok(())
}
