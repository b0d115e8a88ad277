//! Messages of many parts. What a device packs stays with it until a message is whole, and a message that came goes to the
//! device as a whole, so that one copy takes many parts.

use crate::cuda::{Kept, Owed};

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

    /// Room for so many bytes more.
    pub fn reserve(&mut self, more: usize) {
        self.bytes.reserve(more);
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
    bytes: Vec<u8>,
    kept: Kept,
}

impl From<Vec<u8>> for Received {
    fn from(bytes: Vec<u8>) -> Received {
        Received { bytes, kept: Kept::default() }
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

    /// What a device keeps of it.
    pub(crate) fn kept(&self) -> &Kept {
        &self.kept
    }
}
