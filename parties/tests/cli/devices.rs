//! `--device`: who computes on what is settled and said before anything else happens, and a GPU that cannot be had ends
//! the program at once.

use crate::{
    cluster::{Cluster, catamount},
    process::{Ended, Process, run},
    tiny,
};
use std::{path::Path, process::Command, time::Duration};

/// A GPU that no machine has.
const ABSENT: &str = "cuda:4095";

fn party(config: &Path, more: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_party"));
    Process::start(command.arg("--config").arg(config).args(more))
}

/// One clear line that begins with "no CUDA device", soon.
fn assert_no_device(ended: &Ended) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let lines: Vec<&str> = ended.err.lines().filter(|l| l.contains("no CUDA device")).collect();
    assert_eq!(lines.len(), 1, "{}", ended.err);
    assert!(
        lines[0].starts_with("error: no CUDA device") && lines[0].contains("--device cpu"),
        "{}",
        lines[0]
    );
    assert!(!ended.err.contains("panicked at"), "{}", ended.err);
    assert!(ended.took < Duration::from_secs(15), "{:?}", ended.took);
}

#[test]
fn a_party_names_its_device_or_does_not_start() {
    let cluster = Cluster::new();
    let config = &cluster.files.paths[0];
    let mut running = party(config, &[]);
    running.until("its device", 20, |p| p.err().contains("P0 computes on cpu ("));
    drop(running);
    assert_no_device(&party(config, &["--device", ABSENT]).end(30));
    cluster.edit(0, |text| text.replace("role = 0\n", &format!("role = 0\ndevice = \"{ABSENT}\"\n")));
    assert_no_device(&party(config, &[]).end(30));
    // The option goes before the file.
    let mut running = party(config, &["--device", "cpu"]);
    running.until("its device", 20, |p| p.err().contains("P0 computes on cpu ("));
    drop(running);
    cluster.edit(0, |text| text.replace(ABSENT, "gpu"));
    party(config, &[]).end(30).refused(&["party0.toml", "\"gpu\" is no device", "cuda:N"]);
}

#[test]
fn commands_that_start_parties_end_where_a_device_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tiny", 1);
    let model = model.to_str().unwrap();
    let one_of_three = format!("cpu,cpu,{ABSENT}");
    let commands: [&[&str]; 5] = [
        &["demo", "--model", model],
        &["bench", "model", model],
        &["bench", "layer", model],
        &["bench", "gates"],
        &["demo", "--model", model],
    ];
    for (i, command) in commands.into_iter().enumerate() {
        let device = if i < 4 { ABSENT } else { &one_of_three };
        assert_no_device(&run(catamount().args(command).args(["--device", device])));
    }
    run(catamount().args(["demo", "--device", "cpu,cpu"])).refused(&["2 devices", "or three"]);
}

#[test]
fn figures_name_the_devices() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tiny", 1);
    let arguments = ["--device", "cpu,cpu,cpu", "--tokens", "3", "--runs", "1", "--json", "-"];
    let figures = run(catamount().args(["bench", "model"]).arg(&model).args(arguments)).fine().json();
    assert_eq!((&figures["device"], &figures["declared"]), (&"cpu".into(), &true.into()));
}
