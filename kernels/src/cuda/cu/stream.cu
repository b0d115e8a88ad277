// ChaCha12 key streams.

// out[i] = word i of the stream, masked: a thread for each block of eight words. The key is k0 to k3, little-endian.
extern "C" __global__ void chacha12(u64 k0, u64 k1, u64 k2, u64 k3, u64 nonce, u64 mask, u64 *out, u64 n) {
    const u32 key[8] = {
        (u32)k0, (u32)(k0 >> 32), (u32)k1, (u32)(k1 >> 32), (u32)k2, (u32)(k2 >> 32), (u32)k3, (u32)(k3 >> 32),
    };
    FOR_EACH(block, (n + 7) / 8) {
        u32 x[16];
        chacha12_block(key, block, nonce, x);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            if (8 * block + j < n) out[8 * block + j] = join(x[2 * j], x[2 * j + 1]) & mask;
        }
    }
}
