// Sums of table entries selected by rows of bits.

// out[c][e] = sum of the entries i of table c, phase phase[e], turned by rot[e], whose bit of row e of u is set. A warp
// for each row reads every entry once, at places that depend on rot and phase only. entries is a power of two.
extern "C" __global__ void COOPERATIVE select_entries(const u64 *u, const u64 *tables, u64 entries, u64 columns,
                                                      u64 phases, const u64 *rot, const u64 *phase, u64 *out, u64 rows) {
    u64 words = (entries + 63) / 64;
    FOR_EACH_WARP(e, rows) {
        u64 turn = rot[e];
        for (u64 c = 0; c < columns; c++) {
            const u64 *table = tables + (c * phases + phase[e] % phases) * entries;
            u64 sum = 0;
            for (u64 i = lane_index(); i < entries; i += 32) {
                sum += table[(i + turn) & (entries - 1)] & spread(u[e * words + i / 64] >> (i % 64));
            }
            for (int far = 16; far > 0; far /= 2) sum += __shfl_xor_sync(FULL_WARP, sum, far);
            if (lane_index() == 0) out[c * rows + e] = sum;
        }
    }
}
