// Rows of bits, kept in words = ceil(width / 64) words each. What is beyond the width is ignored, and zero in results.

// The bits of word i of a row that count.
__device__ __forceinline__ u64 row_mask(u64 width, u64 words, u64 i) {
    return i + 1 == words ? ~0ull >> ((64 - width % 64) % 64) : ~0ull;
}

// Flips bit idx[i] mod width of row i.
extern "C" __global__ void flip_bit(u64 *u, u64 width, u64 words, const u64 *idx, u64 rows) {
    FOR_EACH(i, rows) {
        u64 bit = idx[i] % width;
        u[i * words + bit / 64] ^= 1ull << (bit % 64);
    }
}

// out[i] = bit idx[i] mod width of row i.
extern "C" __global__ void bit_at(const u64 *u, u64 width, u64 words, const u64 *idx, u64 *out, u64 rows) {
    FOR_EACH(i, rows) {
        u64 bit = idx[i] % width;
        out[i] = u[i * words + bit / 64] >> (bit % 64) & 1;
    }
}

// out[i] = number of ones in row i.
extern "C" __global__ void count_bits(const u64 *u, u64 width, u64 words, u64 *out, u64 rows) {
    FOR_EACH(row, rows) {
        u64 ones = 0;
        for (u64 i = 0; i < words; i++) ones += __popcll(u[row * words + i] & row_mask(width, words, i));
        out[row] = ones;
    }
}

// Bit j of row i goes to bit (j + rot[i]) mod width, a power of two: a thread for each word of the result.
extern "C" __global__ void rotate_bits(const u64 *u, u64 width, u64 words, const u64 *rot, u64 *out, u64 n) {
    FOR_EACH(at, n) {
        u64 row = at / words, w = at % words;
        u64 by = rot[row] & (width - 1);
        if (words == 1) {
            u64 mask = low_mask((u32)width), x = u[row] & mask;
            // With by = 0, x would come back whole, or be shifted by 64.
            out[at] = by == 0 ? x : (x << by | x >> (width - by)) & mask;
        } else {
            u32 bits = by % 64;
            const u64 *from = u + row * words;
            u64 high = from[(w - by / 64) & (words - 1)], low = from[(w - by / 64 - 1) & (words - 1)];
            out[at] = bits == 0 ? high : high << bits | low >> (64 - bits);
        }
    }
}

// Bit j of each row becomes the xor of its bits j and above: a thread for each row.
extern "C" __global__ void suffix_xor(const u64 *u, u64 width, u64 words, u64 *out, u64 rows) {
    FOR_EACH(row, rows) {
        u64 above = 0;
        for (u64 i = words; i-- > 0;) {
            u64 mask = row_mask(width, words, i), x = u[row * words + i] & mask;
#pragma unroll
            for (int far = 1; far < 64; far *= 2) x ^= x >> far;
            x = (x ^ above) & mask;
            above = spread(x);
            out[row * words + i] = x;
        }
    }
}

// 64 bits of a row of so many words from bit `at` on, which is one of it; those beyond it are zero.
__device__ __forceinline__ u64 bits_from(const u64 *row, u64 words, u64 at) {
    u64 i = at / 64, low = row[i] >> (at % 64);
    return at % 64 == 0 || i + 1 == words ? low : low | row[i + 1] << (64 - at % 64);
}

// out[s][j] = xor over the rows i of segment s of (u row i and c), where bit l of c is p[j] xor q[l + j]; coins i are q, of
// width + planes bits, and p behind it, in `length` words: a thread for each word of the result.
extern "C" __global__ void random_combinations(const u64 *u, const u64 *coins, u64 width, u64 words, u64 planes, u64 length,
                                               const u64 *offsets, u64 len, u64 *out, u64 n) {
    FOR_EACH(at, n) {
        u64 place = at / words, w = at % words, s = place / planes, j = place % planes, sum = 0;
        u64 p = width + planes + j, end = segment(offsets, len, s + 1);
        for (u64 i = segment(offsets, len, s); i < end; i++) {
            const u64 *own = coins + i * length;
            sum ^= u[i * words + w] & (bits_from(own, length, 64 * w + j) ^ spread(own[p / 64] >> (p % 64)));
        }
        out[at] = sum & row_mask(width, words, w);
    }
}

// out[row][j] = sum over b < count of bit j of planes[row][first + b] times 2^b: a thread for each word of the result.
extern "C" __global__ void transpose_bits(const u64 *planes, u64 width, u64 words, u64 total, u64 first, u32 count,
                                          u64 *out, u64 n) {
    FOR_EACH(at, n) {
        u64 row = at / width, j = at % width, word = 0;
        const u64 *from = planes + (row * total + first) * words + j / 64;
        for (u32 b = 0; b < count; b++) word |= (from[b * words] >> (j % 64) & 1) << b;
        out[at] = word;
    }
}
