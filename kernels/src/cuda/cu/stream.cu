// ChaCha12 key streams.

// out[i] = word 8 · first + i of the stream, masked: a thread for each block of eight words. The key is k0 to k3,
// little-endian; a piece has 2^piece blocks.
extern "C" __global__ void chacha12(u64 k0, u64 k1, u64 k2, u64 k3, u64 nonce, u64 piece, u64 first, u64 mask, u64 *out,
                                    u64 n) {
    const u32 key[8] = {
        (u32)k0, (u32)(k0 >> 32), (u32)k1, (u32)(k1 >> 32), (u32)k2, (u32)(k2 >> 32), (u32)k3, (u32)(k3 >> 32),
    };
    FOR_EACH(block, (n + 7) / 8) {
        u32 x[16];
        piece_block(key, first + block, nonce, piece, x);
        u64 *to = out + 8 * block;
        if (8 * block + 8 <= n) {
            // Two words at a time: half as many transactions, for threads write far from each other.
#pragma unroll
            for (int j = 0; j < 4; j++) {
                ulonglong2 two = {join(x[4 * j], x[4 * j + 1]) & mask, join(x[4 * j + 2], x[4 * j + 3]) & mask};
                *(ulonglong2 *)(to + 2 * j) = two;
            }
        } else {
#pragma unroll
            for (int j = 0; j < 8; j++) {
                if (8 * block + j < n) to[j] = join(x[2 * j], x[2 * j + 1]) & mask;
            }
        }
    }
}

// The first n words of a stream, of `bits` bits each. The key is little-endian.
struct Draw {
    u64 key[4], nonce;
    u64 *out;
    u64 n, bits;
};
enum { DRAWS = 16 };
struct Draws {
    Draw draw[DRAWS];
};

// Several streams, one for each row of the grid: out[i] = the low bits of bits i · 2^cell .. (i + 1) · 2^cell of its stream,
// 2^cell the smallest power of two from `bits` on. Threads write next to each other what 128 blocks are cut into.
extern "C" __global__ void COOPERATIVE __launch_bounds__(128) chacha12_each(const __grid_constant__ Draws draws) {
    // A word more for each block: its threads write to different banks.
    __shared__ u32 tile[128 * 17];
    const Draw &d = draws.draw[blockIdx.y];
    u32 key[8], cell = 0;
#pragma unroll
    for (int j = 0; j < 8; j++) key[j] = (u32)(d.key[j / 2] >> (32 * (j % 2)));
    while ((1u << cell) < d.bits) cell++;
    u64 words = 128 * 512 >> cell, mask = low_mask((u32)d.bits);
    for (u64 turn = blockIdx.x; turn * words < d.n; turn += gridDim.x) {
        u32 x[16];
        chacha12_block(key, 128 * turn + threadIdx.x, d.nonce, x);
#pragma unroll
        for (int j = 0; j < 16; j++) tile[17 * threadIdx.x + j] = x[j];
        __syncthreads();
        u64 *to = d.out + turn * words, count = d.n - turn * words < words ? d.n - turn * words : words;
        for (u32 i = threadIdx.x; i < count; i += 128) {
            u32 bit = i << cell, at = bit / 32 + bit / 512;
            // A word of more than 32 bits is a whole one of the stream, and two of a block.
            u64 word = cell == 6 ? join(tile[at], tile[at + 1]) : tile[at] >> (bit % 32);
            to[i] = word & mask;
        }
        __syncthreads();
    }
}
