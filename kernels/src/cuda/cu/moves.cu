// Words to other places, and sums of segments. Words from other places are inputs of formulas.

// out[idx[i]] = a[i], of a, idx, out.
__device__ __forceinline__ void scatter_by_table(const u64 *args, u64 i) {
    ((u64 *)args[2])[((const u32 *)args[1])[i]] = ((const u64 *)args[0])[i];
}

// The same at places in rows of `cols`, `col` from each other, the rows `row`: of a, start, row, cols, col, out.
__device__ __forceinline__ void scatter_by_rule(const u64 *args, u64 i) {
    u64 start = args[1], row = args[2], cols = args[3], col = args[4];
    ((u64 *)args[5])[start + i / cols * row + i % cols * col] = ((const u64 *)args[0])[i];
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
