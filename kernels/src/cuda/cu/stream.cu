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

// out[i] = bits i · 2^cell .. (i + 1) · 2^cell of the stream, masked; cell below 6. Threads write next to each other what
// 128 blocks are cut into.
extern "C" __global__ void COOPERATIVE __launch_bounds__(128)
chacha12_cells(u64 k0, u64 k1, u64 k2, u64 k3, u64 nonce, u32 cell, u64 mask, u64 *out, u64 n) {
    // A word more for each block: its threads write to different banks.
    __shared__ u32 tile[128 * 17];
    const u32 key[8] = {
        (u32)k0, (u32)(k0 >> 32), (u32)k1, (u32)(k1 >> 32), (u32)k2, (u32)(k2 >> 32), (u32)k3, (u32)(k3 >> 32),
    };
    u64 words = 128 * 512 >> cell;
    for (u64 turn = blockIdx.x; turn * words < n; turn += gridDim.x) {
        u32 x[16];
        chacha12_block(key, 128 * turn + threadIdx.x, nonce, x);
#pragma unroll
        for (int j = 0; j < 16; j++) tile[17 * threadIdx.x + j] = x[j];
        __syncthreads();
        u64 *to = out + turn * words, count = n - turn * words < words ? n - turn * words : words;
        for (u32 i = threadIdx.x; i < count; i += 128) {
            u32 bit = i << cell, word = bit / 32;
            to[i] = tile[word + word / 16] >> (bit % 32) & mask;
        }
        __syncthreads();
    }
}
