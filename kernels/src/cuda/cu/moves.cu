// Words to other places, and sums of segments.

// out[i] = a[idx[i]]
extern "C" __global__ void gather(const u64 *a, const u32 *idx, u64 *out, u64 n) {
    FOR_EACH(i, n) out[i] = a[idx[i]];
}

// out[idx[i]] = a[i]
extern "C" __global__ void scatter(const u64 *a, const u32 *idx, u64 *out, u64 n) {
    FOR_EACH(i, n) out[idx[i]] = a[i];
}

// out[s] = sum, or xor, of a[offsets[s] .. offsets[s + 1]]: a warp for each segment.
extern "C" __global__ void COOPERATIVE reduce_segments(u32 op, const u64 *a, const u64 *offsets, u64 *out, u64 segments) {
    FOR_EACH_WARP(s, segments) {
        u64 sum = 0;
        for (u64 i = offsets[s] + lane_index(); i < offsets[s + 1]; i += 32) sum = combine(op, sum, a[i]);
        for (int far = 16; far > 0; far /= 2) sum = combine(op, sum, __shfl_xor_sync(FULL_WARP, sum, far));
        if (lane_index() == 0) out[s] = sum;
    }
}
