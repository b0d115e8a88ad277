// Rows of bits, kept in words = ceil(width / 64) words each. What is beyond the width is ignored, and zero in results.

// The bits of word i of a row that count.
__device__ __forceinline__ u64 row_mask(u64 width, u64 words, u64 i) {
    return i + 1 == words ? ~0ull >> ((64 - width % 64) % 64) : ~0ull;
}

// Rows as arguments of the operations below: the first three are u, width and words.
struct Rows {
    u64 *u;
    u64 width, words;
};
__device__ __forceinline__ Rows rows_of(const u64 *args) { return {(u64 *)args[0], args[1], args[2]}; }

// Flips bit idx[i] mod width of row i: of idx.
__device__ __forceinline__ void flip_bit(const u64 *args, u64 i) {
    Rows r = rows_of(args);
    u64 bit = ((const u64 *)args[3])[i] % r.width;
    r.u[i * r.words + bit / 64] ^= 1ull << (bit % 64);
}

// out[i] = bit idx[i] mod width of row i: of idx, out.
__device__ __forceinline__ void bit_at(const u64 *args, u64 i) {
    Rows r = rows_of(args);
    u64 bit = ((const u64 *)args[3])[i] % r.width;
    ((u64 *)args[4])[i] = r.u[i * r.words + bit / 64] >> (bit % 64) & 1;
}

// out[i] = number of ones in row i: of out.
__device__ __forceinline__ void count_bits(const u64 *args, u64 i) {
    Rows r = rows_of(args);
    u64 ones = 0;
    for (u64 w = 0; w < r.words; w++) ones += __popcll(r.u[i * r.words + w] & row_mask(r.width, r.words, w));
    ((u64 *)args[3])[i] = ones;
}

// Bit j of row i goes to bit (j + rot[i]) mod width, a power of two: of rot, out. An element is a word of the result.
__device__ __forceinline__ void rotate_bits(const u64 *args, u64 at) {
    Rows r = rows_of(args);
    u64 *out = (u64 *)args[4];
    u64 row = at / r.words, w = at % r.words;
    u64 by = ((const u64 *)args[3])[row] & (r.width - 1);
    if (r.words == 1) {
        u64 mask = low_mask((u32)r.width), x = r.u[row] & mask;
        // With by = 0, x would come back whole, or be shifted by 64.
        out[at] = by == 0 ? x : (x << by | x >> (r.width - by)) & mask;
    } else {
        u32 bits = by % 64;
        const u64 *from = r.u + row * r.words;
        u64 high = from[(w - by / 64) & (r.words - 1)], low = from[(w - by / 64 - 1) & (r.words - 1)];
        out[at] = bits == 0 ? high : high << bits | low >> (64 - bits);
    }
}

// Bit j of each row becomes the xor of its bits j and above: of out.
__device__ __forceinline__ void suffix_xor(const u64 *args, u64 row) {
    Rows r = rows_of(args);
    u64 above = 0;
    for (u64 i = r.words; i-- > 0;) {
        u64 mask = row_mask(r.width, r.words, i), x = r.u[row * r.words + i] & mask;
#pragma unroll
        for (int far = 1; far < 64; far *= 2) x ^= x >> far;
        x = (x ^ above) & mask;
        above = spread(x);
        ((u64 *)args[3])[row * r.words + i] = x;
    }
}

// 64 bits of a row of so many words from bit `at` on, which is one of it; those beyond it are zero.
__device__ __forceinline__ u64 bits_from(const u64 *row, u64 words, u64 at) {
    u64 i = at / 64, low = row[i] >> (at % 64);
    return at % 64 == 0 || i + 1 == words ? low : low | row[i + 1] << (64 - at % 64);
}

// out[s][j] = xor over the rows i of segment s of (u row i and c), where bit l of c is p[j] xor q[l + j]; coins i are q, of
// width + planes bits, and p behind it, in `length` words: of coins, planes, length, the segments' two, out. An element is a word
// of the result.
__device__ __forceinline__ void random_combinations(const u64 *args, u64 at) {
    Rows r = rows_of(args);
    const u64 *coins = (const u64 *)args[3], *offsets = (const u64 *)args[6];
    u64 planes = args[4], length = args[5], len = args[7];
    u64 place = at / r.words, w = at % r.words, s = place / planes, j = place % planes, sum = 0;
    u64 p = r.width + planes + j, end = segment(offsets, len, s + 1);
    for (u64 i = segment(offsets, len, s); i < end; i++) {
        const u64 *own = coins + i * length;
        sum ^= r.u[i * r.words + w] & (bits_from(own, length, 64 * w + j) ^ spread(own[p / 64] >> (p % 64)));
    }
    ((u64 *)args[8])[at] = sum & row_mask(r.width, r.words, w);
}

// out[row][j] = sum over b < count of bit j of planes[row][first + b] times 2^b: of total, first, count, out. An element is a
// word of the result.
__device__ __forceinline__ void transpose_bits(const u64 *args, u64 at) {
    Rows r = rows_of(args);
    u64 total = args[3], first = args[4], count = args[5];
    u64 row = at / r.width, j = at % r.width, word = 0;
    const u64 *from = r.u + (row * total + first) * r.words + j / 64;
    for (u64 b = 0; b < count; b++) word |= (from[b * r.words] >> (j % 64) & 1) << b;
    ((u64 *)args[6])[at] = word;
}
