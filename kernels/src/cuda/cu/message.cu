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

// Word o of out = word o of the message.
extern "C" __global__ void pack(const u64 *a, u32 bits, u64 *out, u64 n, u64 words) {
    FOR_EACH(o, words) out[o] = packed_word(a, bits, o, n);
}

// a[i] = (a[i] op mask[i]) mod 2^bits, and then as `pack`: a warp for each 64 words, which are `bits` whole words of the
// message.
extern "C" __global__ void COOPERATIVE __launch_bounds__(256)
    mask_and_pack(u32 op, u64 *a, const u64 *mask, u32 bits, u64 *out, u64 n, u64 words) {
    __shared__ u64 masked[8][64];
    u64 *own = masked[threadIdx.x / 32];
    FOR_EACH_WARP(group, (n + 63) / 64) {
        const u64 first = 64 * group, count = min(n - first, (u64)64), packed = min(words - bits * group, (u64)bits);
        for (u32 i = lane_index(); i < count; i += 32)
            own[i] = a[first + i] = combine(op, a[first + i], mask[first + i]) & low_mask(bits);
        __syncwarp();
        for (u32 o = lane_index(); o < packed; o += 32) out[bits * group + o] = packed_word(own, bits, o, count);
        __syncwarp();
    }
}

// out[i] = word i of the message.
extern "C" __global__ void unpack(const u64 *message, u64 first, u32 bits, u64 *out, u64 n) {
    FOR_EACH(i, n) out[i] = unpacked_word(message, first, bits, i);
}

// a[i] = (a[i] op word i of the message) mod 2^bits.
extern "C" __global__ void combine_packed(u32 op, u64 *a, const u64 *message, u64 first, u32 bits, u64 n) {
    FOR_EACH(i, n) a[i] = combine(op, a[i], unpacked_word(message, first, bits, i)) & low_mask(bits);
}
