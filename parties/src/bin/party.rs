//! One party process.

use clap::Parser;
use parties::device::DeviceChoice;
use parties::server::{ServerError, run_party};
use parties::weights::WeightsChoice;
use std::path::PathBuf;
use std::process::ExitCode;

/// One of the three parties of a Catamount cluster.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// The party's configuration, as `catamount cluster init` writes it.
    #[arg(long, value_name = "FILE", required_unless_present = "print_defaults")]
    config: Option<PathBuf>,
    /// Compute on cpu, cuda (the first GPU) or cuda:N, whatever the configuration says.
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceChoice>,
    /// Keep weights stored, regenerated or as there is room (auto), whatever the configuration says.
    #[arg(long, value_name = "HOW")]
    weights: Option<WeightsChoice>,
    /// Print every key of a configuration, its meaning and its default.
    #[arg(long)]
    print_defaults: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), ServerError> {
    if arguments.print_defaults {
        print!("{}", parties::config::PartyConfig::defaults_toml());
        return Ok(());
    }
    parties::init_logging();
    if let Some(config) = arguments.config {
        run_party(&config, arguments.device, arguments.weights)?;
    }
    Ok(())
}
