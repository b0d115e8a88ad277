//! Words of a few bits, to and from bytes.

use super::elementwise::zip_number;
use super::{Cuda, DeviceWords, Launch};
use crate::backend::Zip;

impl Cuda {
    pub(super) fn packed(&self, a: &DeviceWords, bits: u32, out: &mut Vec<u8>) {
        let size = bytes(a.len(), bits);
        let words = size.div_ceil(8);
        let from = out.len();
        out.resize(from + size, 0);
        if bits == 64 {
            return a.read("pack", &mut out[from..]);
        }
        let message = self.core.alloc("pack", words);
        let args = [a.arg(), bits.into(), message.arg(), a.len().into(), words.into()];
        self.launch(Launch::over("pack", words), &args);
        message.read("pack", &mut out[from..]);
    }

    pub(super) fn mask_packed(
        &self,
        op: Zip,
        a: &DeviceWords,
        mask: &DeviceWords,
        bits: u32,
        out: &mut Vec<u8>,
    ) {
        assert_eq!(a.len(), mask.len(), "one mask for each word");
        let size = bytes(a.len(), bits);
        let (words, n, from) = (size.div_ceil(8), a.len(), out.len());
        out.resize(from + size, 0);
        if bits == 64 {
            self.zip_into(op, a, mask, a);
            return a.read("mask_and_pack", &mut out[from..]);
        }
        let message = self.core.alloc("mask_and_pack", words);
        let args =
            [zip_number(op).into(), a.arg(), mask.arg(), bits.into(), message.arg(), n.into(), words.into()];
        self.launch(Launch::warps("mask_and_pack", n.div_ceil(64)), &args);
        message.read("mask_and_pack", &mut out[from..]);
    }

    pub(super) fn combine_with(&self, op: Zip, a: &DeviceWords, message: &[u8], bits: u32) {
        assert_eq!(message.len(), bytes(a.len(), bits), "bytes for {} words of {bits} bits", a.len());
        let (message, n) = (self.core.upload("combine_packed", message), a.len());
        let args = [zip_number(op).into(), a.arg(), message.arg(), bits.into(), n.into()];
        self.launch(Launch::over("combine_packed", n), &args);
    }

    pub(super) fn unpacked(&self, message: &[u8], bits: u32, n: usize) -> DeviceWords {
        assert_eq!(message.len(), bytes(n, bits), "bytes for {n} words of {bits} bits");
        let message = self.core.upload("unpack", message);
        if bits == 64 {
            return message;
        }
        let out = self.core.alloc("unpack", n);
        self.launch(Launch::over("unpack", n), &[message.arg(), bits.into(), out.arg(), n.into()]);
        out
    }
}

fn bytes(n: usize, bits: u32) -> usize {
    assert!((1..=64).contains(&bits), "width of {bits} bits");
    n.checked_mul(bits as usize).expect("message size").div_ceil(8)
}
