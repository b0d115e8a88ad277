//! Where the time of passes goes, at the client and at the parties.

use protocol::profile::{Clock, Profile};

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Turns tokens into keys.
    Splits,
    /// Seals and sends them, and waits for the parties.
    Waits,
    /// Puts their messages together.
    Combines,
}

impl Doing {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Doing::Splits => "tokens to keys",
            Doing::Waits => "wait for the parties",
            Doing::Combines => "put outputs together",
        }
    }
}

/// A stretch of a client's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSpan {
    /// What it does.
    pub doing: Doing,
    /// Start, in nanoseconds of the system's clock since 1970.
    pub start: u64,
    /// Nanoseconds.
    pub length: u64,
}

/// One pass. Where the parties choose tokens by themselves, each token is one.
#[derive(Clone, Debug, Default)]
pub struct PassTimes {
    /// At the three parties, by role.
    pub parties: [Profile; 3],
    /// At the client.
    pub client: Vec<ClientSpan>,
}

/// Collects them, if they are wanted.
pub(super) struct Times {
    passes: Option<Vec<PassTimes>>,
    client: Vec<ClientSpan>,
    now: Option<(Doing, u64)>,
    clock: Clock,
}

impl Times {
    pub(super) fn new(wanted: bool) -> Times {
        Times { passes: wanted.then(Vec::new), client: vec![], now: None, clock: Clock::new() }
    }

    /// The client turns to something.
    pub(super) fn turn(&mut self, doing: Doing) {
        if self.passes.is_some() {
            self.stop();
            self.now = Some((doing, self.clock.now()));
        }
    }

    fn stop(&mut self) {
        if let Some((doing, start)) = self.now.take() {
            let length = self.clock.now() - start;
            self.client.push(ClientSpan { doing, start, length });
        }
    }

    /// The parties have told theirs.
    pub(super) fn parties(&mut self, profiles: Vec<Profile>) -> Result<(), String> {
        let Some(passes) = &mut self.passes else { return Ok(()) };
        let parties: [Profile; 3] =
            profiles.try_into().map_err(|_| "a party did not say where its time went".to_string())?;
        if !parties.iter().all(Profile::is_sound) {
            return Err("a party's account of its time makes no sense".into());
        }
        passes.push(PassTimes { parties, client: vec![] });
        Ok(())
    }

    /// The client is done with the pass that the parties told of last.
    pub(super) fn end(&mut self) {
        self.stop();
        if let Some(pass) = self.passes.as_mut().and_then(|p| p.last_mut()) {
            pass.client = std::mem::take(&mut self.client);
        }
    }

    pub(super) fn take(&mut self) -> Vec<PassTimes> {
        self.passes.as_mut().map(std::mem::take).unwrap_or_default()
    }
}
