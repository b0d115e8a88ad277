//! Words of a few bits, to and from bytes.

use super::elementwise::zip_number;
use super::{Cuda, DeviceWords, Launch, Owed};
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
            self.launch(
                Launch::over("pack", words),
                &[a.arg(), bits.into(), to, a.len().into(), words.into()],
            );
        });
    }

    pub(super) fn mask_packed(
        &self,
        op: Zip,
        a: &DeviceWords,
        mask: &DeviceWords,
        bits: u32,
        out: &mut Message,
    ) {
        assert_eq!(a.len(), mask.len(), "one mask for each word");
        let (size, n) = (bytes(a.len(), bits), a.len());
        if bits == 64 && size > Owed::MOST {
            self.zip_into(op, a, mask, a);
            return a.append_to(out.bytes());
        }
        Owed::append(&self.core, out.parts(), size, |to| {
            let (op, words) = (zip_number(op).into(), size.div_ceil(8).into());
            let args = [op, a.arg(), mask.arg(), bits.into(), to, n.into(), words];
            self.launch(Launch::warps("mask_and_pack", n.div_ceil(64)), &args);
        });
    }

    pub(super) fn combine_with(&self, op: Zip, a: &DeviceWords, message: &[u8], bits: u32) {
        assert_eq!(message.len(), bytes(a.len(), bits), "bytes for {} words of {bits} bits", a.len());
        self.combine_from(op, a, &self.core.upload("combine_packed", message), 0, bits);
    }

    pub(super) fn combine_with_part(
        &self,
        op: Zip,
        a: &DeviceWords,
        message: &Received,
        at: usize,
        bits: u32,
    ) {
        let part = message.part(at, bits, a.len());
        match self.whole(message) {
            Some(whole) => self.combine_from(op, a, &whole, at, bits),
            None => self.combine_with(op, a, part, bits),
        }
    }

    /// a ← a op the words of a message on the device from byte `at` on.
    fn combine_from(&self, op: Zip, a: &DeviceWords, message: &DeviceWords, at: usize, bits: u32) {
        let n = a.len();
        let args = [zip_number(op).into(), a.arg(), message.arg(), at.into(), bits.into(), n.into()];
        self.launch(Launch::over("combine_packed", n), &args);
    }

    pub(super) fn unpacked(&self, message: &[u8], bits: u32, n: usize) -> DeviceWords {
        assert_eq!(message.len(), bytes(n, bits), "bytes for {n} words of {bits} bits");
        let message = self.core.upload("unpack", message);
        if bits == 64 {
            return message;
        }
        self.unpacked_from(&message, 0, bits, n)
    }

    pub(super) fn unpacked_part(&self, message: &Received, at: usize, bits: u32, n: usize) -> DeviceWords {
        let part = message.part(at, bits, n);
        match self.whole(message) {
            Some(whole) => self.unpacked_from(&whole, at, bits, n),
            None => self.unpacked(part, bits, n),
        }
    }

    /// The words of a message on the device from byte `at` on.
    fn unpacked_from(&self, message: &DeviceWords, at: usize, bits: u32, n: usize) -> DeviceWords {
        let out = self.core.alloc("unpack", n);
        let args = [message.arg(), at.into(), bits.into(), out.arg(), n.into()];
        self.launch(Launch::over("unpack", n), &args);
        out
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
