//! Reading FlatBuffers, without trust and without a schema compiler.
//!
//! A table begins with the distance back to its *vtable*, which holds for each field (*slot*) where in the
//! table it lies, or 0 if it is left out. A field is a number, or the distance forward to a table, a
//! string or a vector; these two begin with their length. All little-endian.
//! Layout: <https://flatbuffers.dev/internals/>.

use std::array;

/// A table in a buffer. Positions are checked as fields are read: a wrong one reads as `None`.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    buffer: &'a [u8],
    at: usize,
}

impl<'a> Table<'a> {
    /// The table that a buffer is about.
    pub(super) fn root(buffer: &'a [u8]) -> Option<Self> {
        Self::after(buffer, 0)
    }

    /// The table at the distance that is noted at a position.
    fn after(buffer: &'a [u8], at: usize) -> Option<Self> {
        Some(Self { buffer, at: forward(buffer, at)? })
    }

    fn place(&self, slot: usize) -> Option<usize> {
        let back = i64::from(i32::from_le_bytes(bytes(self.buffer, self.at)?));
        let vtable = usize::try_from(i64::try_from(self.at).ok()? - back).ok()?;
        let size = usize::from(u16::from_le_bytes(bytes(self.buffer, vtable)?));
        let entry = 4 + 2 * slot;
        if entry + 2 > size {
            return None;
        }
        let place = usize::from(u16::from_le_bytes(bytes(self.buffer, vtable.checked_add(entry)?)?));
        if place == 0 { None } else { self.at.checked_add(place) }
    }

    /// Whether a field is there.
    pub(super) fn has(&self, slot: usize) -> bool {
        self.place(slot).is_some()
    }

    /// A number's bytes; 0, which is the default of all that are read here, if it is left out.
    pub(super) fn number<const N: usize>(&self, slot: usize) -> [u8; N] {
        self.place(slot).and_then(|at| bytes(self.buffer, at)).unwrap_or([0; N])
    }

    /// A table.
    pub(super) fn table(&self, slot: usize) -> Option<Self> {
        Self::after(self.buffer, self.place(slot)?)
    }

    /// A vector's number of elements, and from its first element on, the buffer.
    fn vector(&self, slot: usize) -> Option<(usize, usize)> {
        let at = forward(self.buffer, self.place(slot)?)?;
        let length = u32::from_le_bytes(bytes(self.buffer, at)?);
        Some((at.checked_add(4)?, length as usize))
    }

    /// A string.
    pub(super) fn string(&self, slot: usize) -> Option<&'a str> {
        let (at, length) = self.vector(slot)?;
        str::from_utf8(self.buffer.get(at..)?.get(..length)?).ok()
    }

    /// A vector of tables; one that is not there is `None`.
    pub(super) fn tables(&self, slot: usize) -> Option<impl ExactSizeIterator<Item = Option<Self>>> {
        let (at, length) = self.vector(slot)?;
        let places = self.buffer.get(at..)?.get(..length.checked_mul(4)?)?;
        let buffer = self.buffer;
        Some((0..places.len() / 4).map(move |i| Self::after(buffer, at + 4 * i)))
    }

    /// A vector of structures of two numbers.
    pub(super) fn pairs(&self, slot: usize) -> Option<impl ExactSizeIterator<Item = [i64; 2]>> {
        let (at, length) = self.vector(slot)?;
        let (numbers, _) = self.buffer.get(at..)?.get(..length.checked_mul(16)?)?.as_chunks::<8>();
        let (pairs, _) = numbers.as_chunks::<2>();
        Some(pairs.iter().map(|pair| array::from_fn(|i| i64::from_le_bytes(pair[i]))))
    }
}

fn bytes<const N: usize>(buffer: &[u8], at: usize) -> Option<[u8; N]> {
    buffer.get(at..)?.first_chunk().copied()
}

fn forward(buffer: &[u8], at: usize) -> Option<usize> {
    at.checked_add(u32::from_le_bytes(bytes(buffer, at)?) as usize)
}
