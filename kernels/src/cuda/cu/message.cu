// Words of a few bits, to and from bytes, which are written and read as little-endian words.

// Word o of out = bits 64·o to 64·o + 63 of the message with the low bits of a's n words one after the other.
extern "C" __global__ void pack(const u64 *a, u32 bits, u64 *out, u64 n, u64 words) {
    FOR_EACH(o, words) {
        u64 i = 64 * o / bits;
        // Where a[i] begins, seen from the word's first bit: at or before it.
        u32 before = (u32)(64 * o - i * bits);
        u64 word = (a[i] & low_mask(bits)) >> before;
        u32 filled = bits - before;
        for (i++; filled < 64 && i < n; i++, filled += bits) word |= (a[i] & low_mask(bits)) << filled;
        out[o] = word;
    }
}

// out[i] = bits i·bits to (i + 1)·bits - 1 of the message, of as many words as these bits take.
extern "C" __global__ void unpack(const u64 *message, u32 bits, u64 *out, u64 n) {
    FOR_EACH(i, n) {
        u64 at = i * bits / 64;
        u32 skip = (u32)(i * bits % 64);
        u64 word = message[at] >> skip;
        if (skip + bits > 64) word |= message[at + 1] << (64 - skip);
        out[i] = word & low_mask(bits);
    }
}
