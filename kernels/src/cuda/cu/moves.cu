// Words to other places, and sums of segments.

// out[i] = a[idx[i]]
extern "C" __global__ void gather(const u64 *a, const u32 *idx, u64 *out, u64 n) {
    FOR_EACH(i, n) out[i] = a[idx[i]];
}

// Place i of rows of `cols` places, `col` from each other, the rows `row`.
__device__ __forceinline__ u64 grid_place(u64 i, u64 start, u64 row, u64 cols, u64 col) {
    return start + i / cols * row + i % cols * col;
}

// The same where the places follow a rule.
extern "C" __global__ void gather_grid(const u64 *a, u64 start, u64 row, u64 cols, u64 col, u64 *out, u64 n) {
    FOR_EACH(i, n) out[i] = a[grid_place(i, start, row, cols, col)];
}

// out[idx[i]] = a[i]
extern "C" __global__ void scatter(const u64 *a, const u32 *idx, u64 *out, u64 n) {
    FOR_EACH(i, n) out[idx[i]] = a[i];
}

// The same where the places follow a rule.
extern "C" __global__ void scatter_grid(const u64 *a, u64 start, u64 row, u64 cols, u64 col, u64 *out, u64 n) {
    FOR_EACH(i, n) out[grid_place(i, start, row, cols, col)] = a[i];
}

// Where segment s begins, and segment s - 1 ends: segments are given by offsets, or else all have `len` elements.
__device__ __forceinline__ u64 segment(const u64 *offsets, u64 len, u64 s) { return offsets ? offsets[s] : s * len; }

// out[s] = sum, or xor, of a over segment s: a warp for each segment.
extern "C" __global__ void COOPERATIVE reduce_segments(u32 op, const u64 *a, const u64 *offsets, u64 len, u64 *out,
                                                       u64 segments) {
    FOR_EACH_WARP(s, segments) {
        u64 sum = 0, end = segment(offsets, len, s + 1);
        for (u64 i = segment(offsets, len, s) + lane_index(); i < end; i += 32) sum = combine(op, sum, a[i]);
        for (int far = 16; far > 0; far /= 2) sum = combine(op, sum, __shfl_xor_sync(FULL_WARP, sum, far));
        if (lane_index() == 0) out[s] = sum;
    }
}
