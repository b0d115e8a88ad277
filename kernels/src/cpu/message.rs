//! Words of a few bits, to and from bytes.

use super::lanes::Lanes;
use super::par;
use crate::backend::Zip;
use crate::buffer;

pub(super) fn pack(lanes: &dyn Lanes, a: &[u64], bits: u32, out: &mut Vec<u8>) {
    check(bits);
    out.reserve(bytes(a.len(), bits));
    lanes.pack(a, bits, out);
}

pub(super) fn unpack(lanes: &dyn Lanes, bytes_in: &[u8], bits: u32, n: usize) -> Vec<u64> {
    check(bits);
    assert_eq!(bytes_in.len(), bytes(n, bits), "bytes for {n} words of {bits} bits");
    let mut out = buffer::unwritten(n);
    // Whole bytes of the message.
    const CHUNK: usize = 1 << 14;
    par::chunks(&mut out, CHUNK, |c, out| lanes.unpack(&bytes_in[bytes(c * CHUNK, bits)..], bits, out));
    out
}

/// a ← (a op mask) mod 2^bits, packed.
pub(super) fn mask_and_pack(
    lanes: &dyn Lanes,
    op: Zip,
    a: &mut [u64],
    mask: &[u64],
    bits: u32,
    out: &mut Vec<u8>,
) {
    check(bits);
    assert_eq!(a.len(), mask.len(), "one mask for each word");
    out.reserve(bytes(a.len(), bits));
    lanes.mask_and_pack(op, a, mask, bits, out);
}

/// (a op mask) mod 2^bits, packed.
pub(super) fn pack_masked(lanes: &dyn Lanes, op: Zip, a: &[u64], mask: &[u64], bits: u32, out: &mut Vec<u8>) {
    check(bits);
    assert_eq!(a.len(), mask.len(), "one mask for each word");
    out.reserve(bytes(a.len(), bits));
    lanes.pack_masked(op, a, mask, bits, out);
}

/// a ← (a op w) mod 2^bits for the words w of a message.
pub(super) fn combine_packed(lanes: &dyn Lanes, op: Zip, a: &mut [u64], bytes_in: &[u8], bits: u32) {
    check(bits);
    assert_eq!(bytes_in.len(), bytes(a.len(), bits), "bytes for {} words of {bits} bits", a.len());
    lanes.combine_packed(op, a, bytes_in, bits);
}

pub(super) fn check(bits: u32) {
    assert!((1..=64).contains(&bits), "width of {bits} bits");
}

pub(super) fn bytes(n: usize, bits: u32) -> usize {
    n.checked_mul(bits as usize).expect("message size").div_ceil(8)
}
