//! Parts of a message that are packed and still on the device.

use super::DeviceWords;
use super::buffer::Core;
use super::wave::Span;
use std::sync::Arc;

/// A buffer of the device with parts of a message.
#[derive(Debug)]
pub(crate) struct Owed {
    words: DeviceWords,
    used: usize,
    /// Where each begins in the buffer and in the message, and its bytes.
    parts: Vec<[usize; 3]>,
}

impl Owed {
    /// Bytes of a buffer for parts that are fetched together. A longer part is fetched by itself: then it is the copy that
    /// takes long, not to wait for it.
    pub(super) const MOST: usize = 64 << 10;

    /// Copies all parts to their places in the message.
    pub(crate) fn settle(self, message: &mut [u8]) {
        let mut fetched = vec![0; 8 * self.used];
        self.words.read("message", &mut fetched);
        for [word, at, size] in self.parts {
            message[at..at + size].copy_from_slice(&fetched[8 * word..][..size]);
        }
    }

    /// Room on the device for a part of `size` bytes at the end of a message: `pack` fills it, given whole words.
    /// The message's bytes come later, or now if there are many.
    pub(super) fn append(
        core: &Arc<Core>,
        (message, owed): (&mut Vec<u8>, &mut Option<Owed>),
        size: usize,
        pack: impl FnOnce(Span),
    ) {
        let (at, words) = (message.len(), size.div_ceil(8));
        message.resize(at + size, 0);
        if size > Owed::MOST {
            let part = core.alloc("message", words);
            pack(part.span());
            return part.read("message", &mut message[at..]);
        }
        if owed.as_ref().is_some_and(|o| !o.words.is_of(core) || 8 * (o.used + words) > Owed::MOST)
            && let Some(full) = owed.take()
        {
            full.settle(message);
        }
        let owed = owed.get_or_insert_with(|| {
            let words = core.alloc("message", Owed::MOST / 8);
            Owed { words, used: 0, parts: Vec::new() }
        });
        pack(owed.words.span_of(owed.used..owed.used + words));
        owed.parts.push([owed.used, at, size]);
        owed.used += words;
    }
}
