//! Messages, eight words at a time: they are as many whole bytes as a word has bits.

use crate::backend::Zip;
use crate::cpu::message::bytes;
use std::arch::x86_64::*;

/// The operation as a function of vectors, in an expression for each.
macro_rules! by_operation {
    ($op:expr, |$f:ident| $do:expr) => {
        match $op {
            Zip::Add => by_operation!(@ _mm512_add_epi64, $f, $do),
            Zip::Sub => by_operation!(@ _mm512_sub_epi64, $f, $do),
            Zip::Mul => by_operation!(@ _mm512_mullo_epi64, $f, $do),
            Zip::Xor => by_operation!(@ _mm512_xor_si512, $f, $do),
            Zip::And => by_operation!(@ _mm512_and_si512, $f, $do),
        }
    };
    (@ $intrinsic:ident, $f:ident, $do:expr) => {{
        let $f = |a, b| $intrinsic(a, b);
        $do
    }};
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi")]
pub(super) fn pack(a: &[u64], bits: u32, out: &mut Vec<u8>) {
    let keep = low(bits);
    // SAFETY: only words below a.len() are asked for.
    append(a.len(), bits, out, |i, some| _mm512_and_si512(unsafe { load(a, i, some) }, keep));
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi")]
pub(super) fn mask_and_pack(op: Zip, a: &mut [u64], mask: &[u64], bits: u32, out: &mut Vec<u8>) {
    assert!(a.len() == mask.len(), "one mask for each word");
    let keep = low(bits);
    by_operation!(op, |f| append(a.len(), bits, out, |i, some| {
        // SAFETY: only words below a.len() are asked for, and there are as many masks.
        unsafe {
            let masked = _mm512_and_si512(f(load(a, i, some), load(mask, i, some)), keep);
            store(a, i, some, masked);
            masked
        }
    }))
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi")]
pub(super) fn pack_masked(op: Zip, a: &[u64], mask: &[u64], bits: u32, out: &mut Vec<u8>) {
    assert!(a.len() == mask.len(), "one mask for each word");
    let keep = low(bits);
    by_operation!(op, |f| append(a.len(), bits, out, |i, some| {
        // SAFETY: only words below a.len() are asked for, and there are as many masks.
        unsafe { _mm512_and_si512(f(load(a, i, some), load(mask, i, some)), keep) }
    }))
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi")]
pub(super) fn unpack(bytes: &[u8], bits: u32, out: &mut [u64]) {
    // SAFETY: only words below out.len() are given.
    read(bytes, bits, out.len(), |i, some, w| unsafe { store(out, i, some, w) });
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi")]
pub(super) fn combine_packed(op: Zip, a: &mut [u64], bytes: &[u8], bits: u32) {
    let keep = low(bits);
    by_operation!(op, |f| read(bytes, bits, a.len(), |i, some, w| {
        // SAFETY: only words below a.len() are given.
        unsafe { store(a, i, some, _mm512_and_si512(f(load(a, i, some), w), keep)) }
    }))
}

/// `bits` ones in each word.
#[inline]
#[target_feature(enable = "avx512f")]
fn low(bits: u32) -> __m512i {
    _mm512_set1_epi64((u64::MAX >> (64 - bits)) as i64)
}

/// Words i to i + 7, as many as `some` has ones; the others are zero.
///
/// # Safety
/// So many words are there.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(a: &[u64], i: usize, some: __mmask8) -> __m512i {
    debug_assert!(i + some.trailing_ones() as usize <= a.len());
    // SAFETY: by the caller; words that the mask leaves out are not read.
    unsafe { _mm512_maskz_loadu_epi64(some, a.as_ptr().add(i).cast()) }
}

/// Overwrites words i to i + 7, as many as `some` has ones.
///
/// # Safety
/// So many words are there.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(a: &mut [u64], i: usize, some: __mmask8, x: __m512i) {
    debug_assert!(i + some.trailing_ones() as usize <= a.len());
    // SAFETY: by the caller; words that the mask leaves out are not written.
    unsafe { _mm512_mask_storeu_epi64(a.as_mut_ptr().add(i).cast(), some, x) }
}

/// The first bit of each of eight words.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn first_bits(bits: u32) -> __m512i {
    _mm512_mullo_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), _mm512_set1_epi64(bits.into()))
}

/// Bytes of a vector.
const VECTOR: usize = 64;

/// Appends `n` words to a message. `words(i, some)` are words i to i + 7, all below 2^bits: as many as `some` has ones, then
/// zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi")]
fn append(n: usize, bits: u32, out: &mut Vec<u8>, words: impl FnMut(usize, __mmask8) -> __m512i) {
    let first_bit = first_bits(bits);
    match bits {
        1 => put_eights(n, bits, out, words, |w, to| {
            // SAFETY: more than these eight bytes may be written.
            unsafe { to.cast::<u64>().write_unaligned(_mm512_test_epi64_mask(w, w).into()) }
        }),
        2..=7 => put_eights(n, bits, out, words, |w, to| {
            let all = _mm512_reduce_or_epi64(_mm512_sllv_epi64(w, first_bit));
            // SAFETY: more than these eight bytes may be written.
            unsafe { to.cast::<i64>().write_unaligned(all) }
        }),
        8..=57 => {
            // A word is shifted to where it begins within a byte, and still has eight bytes at most. A byte of the message is
            // one of these or, where the next word begins within it, two.
            let within = _mm512_and_si512(first_bit, _mm512_set1_epi64(7));
            let (mut own, mut next, mut begins) = ([0; VECTOR], [0; VECTOR], 0);
            for j in 0..8 {
                let (byte, within) = (j * bits as usize / 8, j * bits as usize % 8);
                let shared = usize::from(within > 0);
                (shared..8).for_each(|k| own[byte + k] = (8 * j + k) as i8);
                next[byte] = 8 * j as i8;
                begins |= (shared as u64) << byte;
            }
            // SAFETY: both are 64 bytes.
            let [own, next] = [own, next].map(|b| unsafe { _mm512_loadu_si512(b.as_ptr().cast()) });
            put_eights(n, bits, out, words, |w, to| {
                let w = _mm512_sllv_epi64(w, within);
                let next = _mm512_maskz_permutexvar_epi8(begins, next, w);
                let all = _mm512_or_si512(_mm512_permutexvar_epi8(own, w), next);
                // SAFETY: 64 bytes may be written.
                unsafe { _mm512_storeu_si512(to.cast(), all) }
            });
        }
        _ => {
            // A word moves down by what those below it leave free, and the next one fills the rest of its 64 bits.
            let down = _mm512_sub_epi64(first_bits(64), first_bit);
            let up = _mm512_sub_epi64(_mm512_set1_epi64(bits.into()), down);
            put_eights(n, bits, out, words, |w, to| {
                let next = _mm512_maskz_alignr_epi64::<1>(0x7f, w, w);
                let all = _mm512_or_si512(_mm512_srlv_epi64(w, down), _mm512_sllv_epi64(next, up));
                // SAFETY: 64 bytes may be written.
                unsafe { _mm512_storeu_si512(to.cast(), all) }
            });
        }
    }
}

/// [`append`], where `put` writes eight words, and up to 64 bytes with what is behind them.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi")]
fn put_eights(
    n: usize,
    bits: u32,
    out: &mut Vec<u8>,
    mut words: impl FnMut(usize, __mmask8) -> __m512i,
    put: impl Fn(__m512i, *mut u8),
) {
    let (size, eight) = (bytes(n, bits), bits as usize);
    out.reserve(size);
    let room = out.spare_capacity_mut();
    let to: *mut u8 = room.as_mut_ptr().cast();
    let fast = fast(n, bits, room.len());
    for i in 0..fast {
        // SAFETY: behind this place is room for 64 bytes.
        put(words(8 * i, 0xff), unsafe { to.add(i * eight) });
    }
    for i in fast..n.div_ceil(8) {
        let (mut last, at) = ([0; VECTOR], i * eight);
        put(words(8 * i, first(n - 8 * i)), last.as_mut_ptr());
        room[at..size.min(at + eight)].iter_mut().zip(last).for_each(|(to, byte)| _ = to.write(byte));
    }
    // SAFETY: there was room for `size` bytes, and all are written.
    unsafe { out.set_len(out.len() + size) }
}

/// Groups of eight among `n` words that begin 64 bytes or more before the end of so many bytes.
#[inline]
fn fast(n: usize, bits: u32, bytes: usize) -> usize {
    bytes.checked_sub(VECTOR).map_or(0, |last| (last / bits as usize + 1).min(n / 8))
}

/// A one for each of the next eight words if `n` are left.
#[inline]
fn first(n: usize) -> __mmask8 {
    0xff >> (8 - n.min(8))
}

/// Calls `each(i, some, w)` with words i to i + 7 of the `n` at the beginning of a message, as many as `some` has ones.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi")]
fn read(message: &[u8], bits: u32, n: usize, each: impl FnMut(usize, __mmask8, __m512i)) {
    assert!(message.len() >= bytes(n, bits), "bytes for {n} words of {bits} bits");
    // Up to 57 bits lie in eight bytes wherever they begin.
    if bits <= 57 {
        windows::<false>(message, bits, n, each)
    } else {
        windows::<true>(message, bits, n, each)
    }
}

/// [`read`] by a window of eight bytes for each word, nine if `WIDE`.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi")]
fn windows<const WIDE: bool>(
    message: &[u8],
    bits: u32,
    n: usize,
    mut each: impl FnMut(usize, __mmask8, __m512i),
) {
    let (keep, first_bit) = (low(bits), first_bits(bits));
    let down = _mm512_and_si512(first_bit, _mm512_set1_epi64(7));
    let up = _mm512_sub_epi64(_mm512_set1_epi64(64), down);
    let first_byte = _mm512_srli_epi64::<3>(first_bit);
    // Its number in every byte, and the numbers of bytes 0 to 7.
    let spread = _mm512_mullo_epi64(first_byte, _mm512_set1_epi64(0x0101_0101_0101_0101));
    let window = _mm512_add_epi64(spread, _mm512_set1_epi64(0x0706_0504_0302_0100));
    let ninth = _mm512_add_epi64(first_byte, _mm512_set1_epi64(8));
    let words = |x: __m512i| {
        let mut w = _mm512_srlv_epi64(_mm512_permutexvar_epi8(window, x), down);
        if WIDE {
            w = _mm512_or_si512(w, _mm512_sllv_epi64(_mm512_permutexvar_epi8(ninth, x), up));
        }
        _mm512_and_si512(w, keep)
    };
    let (eight, fast) = (bits as usize, fast(n, bits, message.len()));
    for i in 0..fast {
        // SAFETY: these 64 bytes are the message's.
        let x = unsafe { _mm512_loadu_si512(message.as_ptr().add(i * eight).cast()) };
        each(8 * i, 0xff, words(x));
    }
    for i in fast..n.div_ceil(8) {
        let rest = &message[i * eight..];
        let some = u64::MAX >> (VECTOR - rest.len().min(VECTOR));
        // SAFETY: bytes that the mask leaves out are not read.
        let x = unsafe { _mm512_maskz_loadu_epi8(some, rest.as_ptr().cast()) };
        each(8 * i, first(n - 8 * i), words(x));
    }
}
