// Words of a few bits, to and from bytes, which are written and read as little-endian words.

// Bits 64·o to 64·o + 63 of the message with the low bits of a's n words one after the other.
__device__ __forceinline__ u64 packed_word(const u64 *a, u32 bits, u64 o, u64 n) {
    u64 i = 64 * o / bits;
    // Where a[i] begins, seen from the word's first bit: at or before it.
    u32 before = (u32)(64 * o - i * bits);
    u64 word = (a[i] & low_mask(bits)) >> before;
    u32 filled = bits - before;
    for (i++; filled < 64 && i < n; i++, filled += bits) word |= (a[i] & low_mask(bits)) << filled;
    return word;
}

// The low bits of word i of the message from byte `first` on, of as many words as the bits up to there take.
__device__ __forceinline__ u64 unpacked_word(const u64 *message, u64 first, u32 bits, u64 i) {
    u64 bit = 8 * first + i * bits, at = bit / 64;
    u32 skip = (u32)(bit % 64);
    u64 word = message[at] >> skip;
    if (skip + bits > 64) word |= message[at + 1] << (64 - skip);
    return word & low_mask(bits);
}

// Word o of out = word o of the message with n words of a: of bits, a, out, n.
__device__ __forceinline__ void pack(const u64 *args, u64 o) {
    ((u64 *)args[2])[o] = packed_word((const u64 *)args[1], (u32)args[0], o, args[3]);
}

// masked[i] = (a[i] op mask[i]) mod 2^bits, unless there is no `masked`, and then as `pack`: of op, bits, a, mask, masked, out, n. A
// thread keeps the words that begin in its word of the message, and makes the one before again.
__device__ __forceinline__ void mask_and_pack(const u64 *args, u64 o) {
    const u64 *a = (const u64 *)args[2], *mask = (const u64 *)args[3];
    u64 *masked = (u64 *)args[4];
    u32 bits = (u32)args[1];
    u64 i = 64 * o / bits, n = args[6];
    u32 filled = 0, before = (u32)(64 * o - i * bits);
    u64 word = 0;
    for (; filled < 64 && i < n; i++) {
        u64 own = combine((u32)args[0], a[i], mask[i]) & low_mask(bits);
        if (masked && before == 0) masked[i] = own;
        word |= own >> before << filled;
        filled += bits - before;
        before = 0;
    }
    ((u64 *)args[5])[o] = word;
}
