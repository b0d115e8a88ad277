//! Words of a few bits, to and from bytes.

use super::elementwise::zip_number;
use super::formula::Taking;
use super::wave::{Kind, Operation};
use super::{Cuda, DeviceWords, Owed};
use crate::backend::Zip;
use crate::message::{Message, Received};
use std::sync::Arc;

impl Cuda {
    pub(super) fn packed(&self, a: &DeviceWords, bits: u32, out: &mut Message) {
        let size = bytes(a.len(), bits);
        let words = size.div_ceil(8);
        if bits == 64 && size > Owed::MOST {
            return a.append_to(out.bytes());
        }
        Owed::append(&self.core, out.parts(), size, |to| {
            let args = [bits.into(), a.span().words[0], to.words[0], a.len() as u64];
            let operation = Operation {
                kind: Kind::Pack,
                elements: words,
                args: &args,
                reads: &[a.span()],
                writes: &[to],
            };
            self.core.add("pack", &operation);
        });
    }

    /// Appends (a op mask) mod 2^bits. Its words are returned if they are wanted, unless a has become them.
    pub(super) fn mask_packed(
        &self,
        op: Zip,
        a: &DeviceWords,
        mask: &DeviceWords,
        bits: u32,
        wanted: bool,
        out: &mut Message,
    ) -> Option<DeviceWords> {
        assert_eq!(a.len(), mask.len(), "one mask for each word");
        let (size, n) = (bytes(a.len(), bits), a.len());
        if bits == 64 && size > Owed::MOST {
            self.zip_into(op, a, mask, a);
            a.append_to(out.bytes());
            return None;
        }
        let masked = wanted.then(|| self.core.alloc("mask_and_pack", n));
        Owed::append(&self.core, out.parts(), size, |to| {
            let reads = [a.span(), mask.span()];
            let kept = masked.as_ref().map(DeviceWords::span);
            let writes: Vec<_> = [Some(to), kept].into_iter().flatten().collect();
            let [a, mask] = reads.map(|s| s.words[0]);
            let kept = kept.map_or(0, |s| s.words[0]);
            let args = [zip_number(op).into(), bits.into(), a, mask, kept, to.words[0], n as u64];
            let (kind, elements) = (Kind::MaskAndPack, size.div_ceil(8));
            let operation = Operation { kind, elements, args: &args, reads: &reads, writes: &writes };
            self.core.add_mask("mask_and_pack", &operation);
        });
        masked
    }

    /// (a op w) mod 2^bits for the words w of a message.
    pub(super) fn combined_with_message(
        &self,
        op: Zip,
        a: &DeviceWords,
        message: &[u8],
        bits: u32,
    ) -> DeviceWords {
        assert_eq!(message.len(), bytes(a.len(), bits), "bytes for {} words of {bits} bits", a.len());
        let message = self.core.upload("combine_packed", message);
        self.combined_with(op, a, Taking::packed(&message, 0, bits), bits)
    }

    /// The same for those from byte `at` on.
    pub(super) fn combined_with_part(
        &self,
        op: Zip,
        a: &DeviceWords,
        message: &Received,
        at: usize,
        bits: u32,
    ) -> DeviceWords {
        let part = message.part(at, bits, a.len());
        match self.whole(message) {
            Some(whole) => self.combined_with(op, a, Taking::packed(&whole, at, bits), bits),
            None => self.combined_with_message(op, a, part, bits),
        }
    }

    pub(super) fn unpacked(&self, message: &[u8], bits: u32, n: usize) -> DeviceWords {
        assert_eq!(message.len(), bytes(n, bits), "bytes for {n} words of {bits} bits");
        let message = self.core.upload("unpack", message);
        if bits == 64 {
            return message;
        }
        self.taken("unpack", Taking::packed(&message, 0, bits), n)
    }

    pub(super) fn unpacked_part(&self, message: &Received, at: usize, bits: u32, n: usize) -> DeviceWords {
        let part = message.part(at, bits, n);
        match self.whole(message) {
            Some(whole) => self.taken("unpack", Taking::packed(&whole, at, bits), n),
            None => self.unpacked(part, bits, n),
        }
    }

    /// A message on the device, uploaded once, if it is not long: of a long one, parts come and go.
    fn whole(&self, message: &Received) -> Option<Arc<DeviceWords>> {
        let upload = || self.core.upload("message", message.bytes());
        (message.bytes().len() <= Owed::MOST).then(|| message.kept().on(&self.core, upload))
    }
}

fn bytes(n: usize, bits: u32) -> usize {
    assert!((1..=64).contains(&bits), "width of {bits} bits");
    n.checked_mul(bits as usize).expect("message size").div_ceil(8)
}
