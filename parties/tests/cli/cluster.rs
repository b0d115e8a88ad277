//! Three party processes started as a person starts them, and the commands asked of them.

use crate::{
    common::Files,
    process::{Ended, Process, run, signal},
    tiny,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The command line.
pub(crate) fn catamount() -> Command {
    Command::new(env!("CARGO_BIN_EXE_catamount"))
}

/// A cluster's files and its running parties.
pub(crate) struct Cluster {
    pub(crate) files: Files,
    pub(crate) parties: [Option<Process>; 3],
}

impl Cluster {
    /// The files only; parties wait for each other for at most 3 seconds.
    pub(crate) fn new() -> Self {
        let cluster = Self { files: Files::new(), parties: [None, None, None] };
        for role in 0..3 {
            cluster.edit(role, |text| text.replace("[limits]", "[limits]\nrendezvous_seconds = 3"));
        }
        cluster
    }

    /// All three running.
    pub(crate) fn started() -> Self {
        let mut cluster = Self::new();
        (0..3).for_each(|role| cluster.start(role));
        cluster
    }

    /// All three running, with the tiny model.
    pub(crate) fn with_model() -> Self {
        let cluster = Self::started();
        cluster.share(1, "tiny", &[]).fine();
        cluster
    }

    /// Changes a configuration: 0 to 2 a party's, 3 the client's.
    pub(crate) fn edit(&self, file: usize, change: impl Fn(String) -> String) {
        let path = &self.files.paths[file];
        let (before, after) = {
            let before = fs::read_to_string(path).unwrap();
            (before.clone(), change(before))
        };
        assert_ne!(before, after);
        fs::write(path, after).unwrap();
    }

    /// Starts a party and waits until it listens.
    pub(crate) fn start(&mut self, role: usize) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_party"));
        let mut party = Process::start(command.arg("--config").arg(&self.files.paths[role]));
        party.until("listening", 20, |p| p.err().contains("listens on"));
        self.parties[role] = Some(party);
    }

    pub(crate) fn party(&mut self, role: usize) -> &mut Process {
        self.parties[role].as_mut().unwrap()
    }

    pub(crate) fn kill(&mut self, role: usize) {
        self.party(role).kill();
        self.parties[role] = None;
    }

    /// Ends a party as a service manager does. It says nothing of panics.
    pub(crate) fn stop(&mut self, role: usize) -> Ended {
        let party = self.parties[role].take().unwrap();
        signal("TERM", i64::from(party.id()));
        party.end(8).fine()
    }

    /// Ends all parties, in order.
    pub(crate) fn finish(mut self) {
        for role in 0..3 {
            if self.parties[role].is_some() {
                self.stop(role);
            }
        }
    }

    /// Where a party keeps its share of a model.
    pub(crate) fn share_file(&self, role: usize, name: &str) -> PathBuf {
        self.files.paths[role].with_file_name(format!("models{role}")).join(name)
    }

    /// What a party has stored.
    pub(crate) fn stored(&self, role: usize) -> Vec<String> {
        let entries = fs::read_dir(self.share_file(role, "x").parent().unwrap());
        let mut names: Vec<_> =
            entries.unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn command(&self, name: &str) -> Command {
        let mut command = catamount();
        command.arg(name).arg("--cluster").arg(&self.files.paths[3]);
        command
    }

    /// `catamount share-model` with the tiny model of a seed.
    pub(crate) fn share(&self, seed: u64, name: &str, more: &[&str]) -> Ended {
        let model = tiny::write(self.files.directory.path(), &format!("seed{seed}"), seed);
        self.share_path(&model, name, more)
    }

    /// `catamount share-model` with any file.
    pub(crate) fn share_path(&self, model: &Path, name: &str, more: &[&str]) -> Ended {
        run(self.command("share-model").arg(model).args(["--name", name]).args(more))
    }

    /// `catamount ask` of the model `tiny`.
    pub(crate) fn asking(&self, prompt: &str, tokens: usize, more: &[&str]) -> Process {
        let mut command = self.command("ask");
        command.args(["--model", "tiny", "--max-tokens", &tokens.to_string()]).args(more).arg(prompt);
        Process::start(&mut command)
    }

    /// Asks and waits.
    pub(crate) fn ask(&self, prompt: &str, tokens: usize) -> Ended {
        self.asking(prompt, tokens, &[]).end(60)
    }

    /// The text of an answer that must come.
    pub(crate) fn answer(&self, prompt: &str, tokens: usize) -> String {
        self.ask(prompt, tokens).fine().out
    }
}
