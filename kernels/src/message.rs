//! Messages of many parts. What a device packs stays with it until a message is whole, and a message that came goes to the
//! device as a whole, so that one copy takes many parts.

use crate::cuda::{Kept, Owed};
use std::sync::Arc;

/// Bytes (64 KiB) from which on a part makes its message a long one, and the room that such a message gets (8 MiB).
const LONG: usize = 1 << 16;
const ROOM: usize = 1 << 23;

/// A message under way.
#[derive(Debug, Default)]
pub struct Message {
    /// What is there, with room for what a device owes.
    bytes: Vec<u8>,
    owed: Option<Owed>,
}

impl From<Vec<u8>> for Message {
    /// A message that begins with these bytes.
    fn from(bytes: Vec<u8>) -> Message {
        Message { bytes, owed: None }
    }
}

impl Message {
    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Nothing so far.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Room for so many bytes more; for many, for several times as many at once, as what is there has to be copied when it is not
    /// enough.
    pub fn reserve(&mut self, more: usize) {
        if self.bytes.capacity() - self.bytes.len() < more {
            self.bytes.reserve(if more < LONG { more } else { more.max(ROOM) });
        }
    }

    /// What is there so far. Waits for the device, and is zero where that failed.
    pub fn so_far(&mut self) -> &[u8] {
        self.settle();
        &self.bytes
    }

    /// All of it. Waits for the device, and is zero where that failed.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.settle();
        self.bytes
    }

    /// Fetches what a device owes.
    pub(crate) fn settle(&mut self) {
        if let Some(owed) = self.owed.take() {
            owed.settle(&mut self.bytes);
        }
    }

    /// The bytes, behind which a processor appends a part.
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The bytes, and what is owed of them.
    pub(crate) fn parts(&mut self) -> (&mut Vec<u8>, &mut Option<Owed>) {
        (&mut self.bytes, &mut self.owed)
    }
}

/// A message that came, from which words are read part by part.
#[derive(Debug, Default)]
pub struct Received {
    bytes: Arc<Vec<u8>>,
    kept: Kept,
}

impl From<Vec<u8>> for Received {
    fn from(bytes: Vec<u8>) -> Received {
        Received { bytes: Arc::new(bytes), kept: Kept::default() }
    }
}

impl Received {
    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The part from byte `at` on that `n` words of `bits` bits take.
    ///
    /// # Panics
    /// If the message is shorter.
    pub fn part(&self, at: usize, bits: u32, n: usize) -> &[u8] {
        &self.bytes[at..at + n.checked_mul(bits as usize).expect("message size").div_ceil(8)]
    }

    /// All of it, to keep.
    pub(crate) fn shared(&self) -> Arc<Vec<u8>> {
        self.bytes.clone()
    }

    /// What a device keeps of it.
    pub(crate) fn kept(&self) -> &Kept {
        &self.kept
    }
}
