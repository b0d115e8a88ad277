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

// The binary logarithm of the bits that each word of a stream is cut from: the smallest power of two from `bits` on.
__device__ __forceinline__ u32 cell_of(u64 bits) {
    u32 cell = 0;
    while ((1u << cell) < bits) cell++;
    return cell;
}

__device__ __forceinline__ void key_of(const u64 *words, u32 key[8]) {
#pragma unroll
    for (int j = 0; j < 8; j++) key[j] = (u32)(words[j / 2] >> (32 * (j % 2)));
}

// Word i of a stream, as below: of key, nonce and, behind two others, bits.
__device__ __forceinline__ u64 drawn_word(const u64 *args, u64 i) {
    u32 key[8], x[16], cell = cell_of(args[7]);
    key_of(args, key);
    u64 bit = i << cell, word = 0;
    chacha12_block(key, bit / 512, args[4], x);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        if (j == bit / 64 % 8) word = join(x[2 * j], x[2 * j + 1]);
    }
    return word >> (bit % 64) & low_mask((u32)args[7]);
}

// A short stream, of key, nonce, out, n, bits: out[i] = the low bits of bits i · 2^cell .. (i + 1) · 2^cell. An element is a block.
__device__ __forceinline__ void draw(const u64 *args, u64 block) {
    u32 key[8], x[16], cell = cell_of(args[7]);
    key_of(args, key);
    chacha12_block(key, block, args[4], x);
    u64 first = block << (9 - cell), count = args[6] - first, mask = low_mask((u32)args[7]);
    u64 *to = (u64 *)args[5] + first;
    if (cell == 6) {
#pragma unroll
        for (int j = 0; j < 8; j++) {
            if (j < count) to[j] = join(x[2 * j], x[2 * j + 1]) & mask;
        }
    } else {
        u32 each = 32u >> cell;
#pragma unroll
        for (int j = 0; j < 16; j++) {
            for (u32 c = 0; c < each && j * each + c < count; c++) to[j * each + c] = x[j] >> (c << cell) & mask;
        }
    }
}

// A long one, whose threads write next to each other what 128 blocks are cut into.
extern "C" __global__ void COOPERATIVE __launch_bounds__(128) draw_long(const __grid_constant__ Draw d) {
    // A word more for each block: its threads write to different banks.
    __shared__ u32 tile[128 * 17];
    u32 key[8], cell = cell_of(d.bits);
    key_of(d.key, key);
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
