//! The pad rule, enforced: what leaves a party is masked by a stream its receiver does not know, and no stream is a
//! mask towards the same receiver twice (protocols: "the pad rule"; P1 lacks k02, P2 lacks k01, P0 receives nothing).

use crate::Role;
use crate::prg::KeyId;
use std::collections::HashSet;

/// A stream used as a mask of a message to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PadUse {
    /// The key of the stream.
    pub key: KeyId,
    /// The operation.
    pub op: u64,
    /// The stream inside the operation.
    pub lane: u8,
    /// Who received the masked words.
    pub to: Role,
}

/// One party's record of streams drawn and streams used as masks.
#[derive(Debug, Default)]
pub struct Registry {
    drawn: HashSet<(KeyId, u64, u8)>,
    pads: HashSet<PadUse>,
}

impl Registry {
    /// Records a draw.
    ///
    /// # Panics
    /// If the stream was drawn before: masks must be fresh.
    pub fn draw(&mut self, key: KeyId, op: u64, lane: u8) {
        assert!(self.drawn.insert((key, op, lane)), "stream ({key:?}, op {op}, lane {lane}) drawn twice");
    }

    /// Records that a stream masks a message.
    ///
    /// # Panics
    /// If the receiver knows the stream, if nobody may send there, if the stream was not drawn, or if it already
    /// masked a message.
    pub fn pad(&mut self, use_: PadUse) {
        let foreign = match use_.to {
            Role::Dealer => panic!("the dealer receives nothing"),
            Role::P1 => KeyId::K02,
            Role::P2 => KeyId::K01,
        };
        assert_eq!(use_.key, foreign, "the pad of a message to {} must come from {foreign:?}", use_.to);
        let drawn = self.drawn.contains(&(use_.key, use_.op, use_.lane));
        assert!(drawn, "message under a pad that was never drawn: {use_:?}");
        assert!(self.pads.insert(use_), "pad used twice: {use_:?}");
    }

    /// All recorded mask uses, so that the senders' records can be held against each other.
    pub fn pads(&self) -> impl Iterator<Item = &PadUse> {
        self.pads.iter()
    }
}
