// Products of matrices over Z_2^64.
//
// C = A · W^T, both with their k inputs contiguous, filled up with zeros to a multiple of 32. The inputs may be split
// among blocks, which then add what they have to zeros: sums modulo 2^64 are the same in any order.

// A block's part of a result: all of it, or one of several.
__device__ __forceinline__ void deposit(u64 *c, u64 v, bool add) {
    if (add) {
        atomicAdd(c, v);
    } else {
        *c = v;
    }
}

// out[i][j] = in[i][j], or 0 beyond the last of k columns.
extern "C" __global__ void pad_rows(const u64 *in, u64 k, u64 *out, u64 rows, u64 pitch) {
    FOR_EACH(i, rows * pitch) {
        u64 row = i / pitch, l = i % pitch;
        out[i] = l < k ? in[row * k + l] : 0;
    }
}

// ---- Few rows: a warp reads some outputs' weights once and multiplies them with all rows.

// Sums of COUNT (a power of two) numbers over a warp. In each step a lane hands half of them to its partner, FAR lanes away;
// the lanes from e · 32 / COUNT on get sum e.
template <int COUNT, int FAR = 16>
__device__ __forceinline__ u64 add_lanes(const u64 (&v)[COUNT]) {
    constexpr int HALF = COUNT > 1 ? COUNT / 2 : 1;
    u64 less[HALF];
#pragma unroll
    for (int i = 0; i < HALF; i++) {
        bool upper = COUNT > 1 && (lane_index() & FAR);
        u64 away = upper ? v[i] : v[COUNT / 2 + i], keep = upper ? v[COUNT / 2 + i] : v[i];
        less[i] = keep + __shfl_xor_sync(FULL_WARP, away, FAR);
    }
    if constexpr (FAR > 1) {
        return add_lanes<HALF, FAR / 2>(less);
    } else {
        return less[0];
    }
}

template <int ROWS, int OUTPUTS>
__device__ __forceinline__ void few_rows(const u64 *a, const u64 *w, u64 *c, u64 n, u64 k, u64 span) {
    constexpr int SUMS = OUTPUTS * (ROWS > 4 ? 8 : ROWS > 2 ? 4 : ROWS);
    u64 first = (thread_index() >> 5) * OUTPUTS, begin = blockIdx.y * span, end = min(begin + span, k);
    u64 sum[ROWS][OUTPUTS] = {};
    for (u64 l = begin + 2 * lane_index(); l < end; l += 64) {
        ulonglong2 weights[OUTPUTS];
#pragma unroll
        for (int j = 0; j < OUTPUTS; j++) weights[j] = load_once(w + min(first + j, n - 1) * k + l);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            ulonglong2 x = *(const ulonglong2 *)(a + i * k + l);
#pragma unroll
            for (int j = 0; j < OUTPUTS; j++) sum[i][j] += x.x * weights[j].x + x.y * weights[j].y;
        }
    }
    u64 all[SUMS] = {};
#pragma unroll
    for (int i = 0; i < ROWS * OUTPUTS; i++) all[i] = sum[i / OUTPUTS][i % OUTPUTS];
    u64 one = add_lanes(all);
    int i = lane_index() / (32 / SUMS) / OUTPUTS, j = lane_index() / (32 / SUMS) % OUTPUTS;
    if (lane_index() % (32 / SUMS) == 0 && i < ROWS && first + j < n) deposit(c + i * n + first + j, one, gridDim.y > 1);
}

// One kernel for each number of rows. A warp has four outputs; parts of the inputs, `span` each, run over grid y.
extern "C" __global__ void COOPERATIVE __launch_bounds__(128)
few_rows1(const u64 *a, const u64 *w, u64 *c, u64 n, u64 k, u64 span) { few_rows<1, 4>(a, w, c, n, k, span); }
extern "C" __global__ void COOPERATIVE __launch_bounds__(128)
few_rows2(const u64 *a, const u64 *w, u64 *c, u64 n, u64 k, u64 span) { few_rows<2, 4>(a, w, c, n, k, span); }
extern "C" __global__ void COOPERATIVE __launch_bounds__(128)
few_rows3(const u64 *a, const u64 *w, u64 *c, u64 n, u64 k, u64 span) { few_rows<3, 4>(a, w, c, n, k, span); }
extern "C" __global__ void COOPERATIVE __launch_bounds__(128)
few_rows4(const u64 *a, const u64 *w, u64 *c, u64 n, u64 k, u64 span) { few_rows<4, 4>(a, w, c, n, k, span); }
extern "C" __global__ void COOPERATIVE __launch_bounds__(128)
few_rows5(const u64 *a, const u64 *w, u64 *c, u64 n, u64 k, u64 span) { few_rows<5, 4>(a, w, c, n, k, span); }
extern "C" __global__ void COOPERATIVE __launch_bounds__(128)
few_rows6(const u64 *a, const u64 *w, u64 *c, u64 n, u64 k, u64 span) { few_rows<6, 4>(a, w, c, n, k, span); }
extern "C" __global__ void COOPERATIVE __launch_bounds__(128)
few_rows7(const u64 *a, const u64 *w, u64 *c, u64 n, u64 k, u64 span) { few_rows<7, 4>(a, w, c, n, k, span); }
extern "C" __global__ void COOPERATIVE __launch_bounds__(128)
few_rows8(const u64 *a, const u64 *w, u64 *c, u64 n, u64 k, u64 span) { few_rows<8, 4>(a, w, c, n, k, span); }

// ---- Rows of bits.

#define BIT_ROWS 8
#define BIT_OUTPUTS 2

// C = A · W^T, where A's rows are bits in `words` words each. A warp has two outputs of eight rows, which run over grid z; parts
// of the inputs, `span` (a multiple of 64) each, over grid y. In each step the lanes share a word of each row.
extern "C" __global__ void COOPERATIVE __launch_bounds__(128)
bit_rows(const u64 *a, u64 words, const u64 *w, u64 *c, u64 rows, u64 n, u64 k, u64 span) {
    u64 first = (thread_index() >> 5) * BIT_OUTPUTS, begin = blockIdx.y * span, end = min(begin + span, k);
    u64 row0 = (u64)blockIdx.z * BIT_ROWS;
    u64 sum[BIT_ROWS * BIT_OUTPUTS] = {};
    for (u64 l = begin + 2 * lane_index(); l < end; l += 64) {
        ulonglong2 weights[BIT_OUTPUTS];
#pragma unroll
        for (int j = 0; j < BIT_OUTPUTS; j++) weights[j] = load_once(w + min(first + j, n - 1) * k + l);
#pragma unroll
        for (int i = 0; i < BIT_ROWS; i++) {
            u64 both = a[min(row0 + i, rows - 1) * words + l / 64] >> (l % 64);
#pragma unroll
            for (int j = 0; j < BIT_OUTPUTS; j++) {
                sum[i * BIT_OUTPUTS + j] += (spread(both) & weights[j].x) + (spread(both >> 1) & weights[j].y);
            }
        }
    }
    u64 one = add_lanes(sum);
    u64 i = row0 + lane_index() / 2 / BIT_OUTPUTS, j = first + lane_index() / 2 % BIT_OUTPUTS;
    if (lane_index() % 2 == 0 && i < rows && j < n) deposit(c + i * n + j, one, gridDim.y > 1);
}

// ---- Few rows, of a matrix that is made in registers, and of one beside it that is read.

// C += Y · R^T, or X · S^T + Y · R^T if S is STORED, with `pitch` words from row to row. R's words, row by row, are the
// stream's. k is a multiple of 8, so that a lane's block of the stream is eight inputs of one output. A block of 8 warps
// has 64 outputs; parts of the inputs, SPAN each, run over grid y. X and Y lie in shared memory so that a warp's lanes, each
// of which needs its own eight words, read side by side.
template <int ROWS, int SPAN, bool STORED>
__device__ __forceinline__ void regenerated(const u64 *x, const u64 *stored, u64 pitch, const u64 *y, u64 k0, u64 k1, u64 k2,
                                            u64 k3, u64 nonce, u64 piece, u64 *c, u64 n, u64 k) {
    __shared__ ulonglong2 shared_x[STORED ? ROWS : 1][STORED ? SPAN / 2 : 1], shared_y[ROWS][SPAN / 2];
    const u64 begin = (u64)blockIdx.y * SPAN;
    const int lane = lane_index();
    for (int i = threadIdx.x; i < ROWS * SPAN / 2; i += 256) {
        // Words 2p and 2p + 1 are pair p % 4 of lane p / 4 % 32 in step p / 128.
        const int row = i / (SPAN / 2), p = i % (SPAN / 2), at = (p / 128 * 4 + p % 4) * 32 + p / 4 % 32;
        const u64 l = begin + 2 * p;
        const ulonglong2 none = {0, 0};
        if constexpr (STORED) shared_x[row][at] = l < k ? *(const ulonglong2 *)(x + row * k + l) : none;
        shared_y[row][at] = l < k ? *(const ulonglong2 *)(y + row * k + l) : none;
    }
    __syncthreads();
    const u32 key[8] = {
        (u32)k0, (u32)(k0 >> 32), (u32)k1, (u32)(k1 >> 32), (u32)k2, (u32)(k2 >> 32), (u32)k3, (u32)(k3 >> 32),
    };
    const u64 first = blockIdx.x * 64ull, end = min(first + 64, n);
    for (u64 j = first + threadIdx.x / 32; j < end; j += 8) {
        u64 sum[ROWS] = {};
        for (int step = 0; step < SPAN / 256; step++) {
            const u64 l = begin + 256 * step + 8 * lane;
            if (l >= k) continue;
            ulonglong2 weights[4];
            if constexpr (STORED) {
#pragma unroll
                for (int p = 0; p < 4; p++) weights[p] = *(const ulonglong2 *)(stored + j * pitch + l + 2 * p);
            }
            u32 made[16];
            piece_block(key, (j * k + l) / 8, nonce, piece, made);
#pragma unroll
            for (int p = 0; p < 4; p++) {
#pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    const int at = (step * 4 + p) * 32 + lane;
                    const ulonglong2 b = shared_y[i][at];
                    sum[i] += b.x * join(made[4 * p], made[4 * p + 1]) + b.y * join(made[4 * p + 2], made[4 * p + 3]);
                    if constexpr (STORED) {
                        const ulonglong2 a = shared_x[i][at];
                        sum[i] += a.x * weights[p].x + a.y * weights[p].y;
                    }
                }
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const u64 one[1] = {sum[i]}, all = add_lanes(one);
            if (lane == 0) deposit(c + i * n + j, all, true);
        }
    }
}

// One kernel for each number of rows, with a stored matrix …
extern "C" __global__ void COOPERATIVE __launch_bounds__(256)
regenerated1(const u64 *x, const u64 *stored, u64 pitch, const u64 *y, u64 k0, u64 k1, u64 k2, u64 k3, u64 nonce, u64 piece,
             u64 *c, u64 n, u64 k) {
    regenerated<1, 1024, true>(x, stored, pitch, y, k0, k1, k2, k3, nonce, piece, c, n, k);
}

extern "C" __global__ void COOPERATIVE __launch_bounds__(256)
regenerated2(const u64 *x, const u64 *stored, u64 pitch, const u64 *y, u64 k0, u64 k1, u64 k2, u64 k3, u64 nonce, u64 piece,
             u64 *c, u64 n, u64 k) {
    regenerated<2, 1024, true>(x, stored, pitch, y, k0, k1, k2, k3, nonce, piece, c, n, k);
}

extern "C" __global__ void COOPERATIVE __launch_bounds__(256)
regenerated3(const u64 *x, const u64 *stored, u64 pitch, const u64 *y, u64 k0, u64 k1, u64 k2, u64 k3, u64 nonce, u64 piece,
             u64 *c, u64 n, u64 k) {
    regenerated<3, 512, true>(x, stored, pitch, y, k0, k1, k2, k3, nonce, piece, c, n, k);
}

extern "C" __global__ void COOPERATIVE __launch_bounds__(256)
regenerated4(const u64 *x, const u64 *stored, u64 pitch, const u64 *y, u64 k0, u64 k1, u64 k2, u64 k3, u64 nonce, u64 piece,
             u64 *c, u64 n, u64 k) {
    regenerated<4, 512, true>(x, stored, pitch, y, k0, k1, k2, k3, nonce, piece, c, n, k);
}

// … and without.
extern "C" __global__ void COOPERATIVE __launch_bounds__(256)
drawn1(const u64 *y, u64 k0, u64 k1, u64 k2, u64 k3, u64 nonce, u64 piece, u64 *c, u64 n, u64 k) {
    regenerated<1, 1024, false>(nullptr, nullptr, 0, y, k0, k1, k2, k3, nonce, piece, c, n, k);
}

extern "C" __global__ void COOPERATIVE __launch_bounds__(256)
drawn2(const u64 *y, u64 k0, u64 k1, u64 k2, u64 k3, u64 nonce, u64 piece, u64 *c, u64 n, u64 k) {
    regenerated<2, 1024, false>(nullptr, nullptr, 0, y, k0, k1, k2, k3, nonce, piece, c, n, k);
}

extern "C" __global__ void COOPERATIVE __launch_bounds__(256)
drawn3(const u64 *y, u64 k0, u64 k1, u64 k2, u64 k3, u64 nonce, u64 piece, u64 *c, u64 n, u64 k) {
    regenerated<3, 1024, false>(nullptr, nullptr, 0, y, k0, k1, k2, k3, nonce, piece, c, n, k);
}

extern "C" __global__ void COOPERATIVE __launch_bounds__(256)
drawn4(const u64 *y, u64 k0, u64 k1, u64 k2, u64 k3, u64 nonce, u64 piece, u64 *c, u64 n, u64 k) {
    regenerated<4, 1024, false>(nullptr, nullptr, 0, y, k0, k1, k2, k3, nonce, piece, c, n, k);
}

extern "C" __global__ void COOPERATIVE __launch_bounds__(256)
drawn5(const u64 *y, u64 k0, u64 k1, u64 k2, u64 k3, u64 nonce, u64 piece, u64 *c, u64 n, u64 k) {
    regenerated<5, 512, false>(nullptr, nullptr, 0, y, k0, k1, k2, k3, nonce, piece, c, n, k);
}

extern "C" __global__ void COOPERATIVE __launch_bounds__(256)
drawn6(const u64 *y, u64 k0, u64 k1, u64 k2, u64 k3, u64 nonce, u64 piece, u64 *c, u64 n, u64 k) {
    regenerated<6, 512, false>(nullptr, nullptr, 0, y, k0, k1, k2, k3, nonce, piece, c, n, k);
}

extern "C" __global__ void COOPERATIVE __launch_bounds__(256)
drawn7(const u64 *y, u64 k0, u64 k1, u64 k2, u64 k3, u64 nonce, u64 piece, u64 *c, u64 n, u64 k) {
    regenerated<7, 512, false>(nullptr, nullptr, 0, y, k0, k1, k2, k3, nonce, piece, c, n, k);
}

extern "C" __global__ void COOPERATIVE __launch_bounds__(256)
drawn8(const u64 *y, u64 k0, u64 k1, u64 k2, u64 k3, u64 nonce, u64 piece, u64 *c, u64 n, u64 k) {
    regenerated<8, 512, false>(nullptr, nullptr, 0, y, k0, k1, k2, k3, nonce, piece, c, n, k);
}

// c[i][first + j] += part[i][j], for `rows` rows of `columns` columns in c of n.
extern "C" __global__ void add_columns(const u64 *part, u64 columns, u64 *c, u64 n, u64 first, u64 rows) {
    FOR_EACH(i, rows * columns) c[i / columns * n + first + i % columns] += part[i];
}

// ---- Many rows: tensor cores.
//
// Words are eight unsigned bytes x_i, y_j; of the 64 products of bytes the 36 with i + j < 8 count modulo 2^64. Those with
// the same i + j = l add up in a 32-bit accumulator of the tensor core over 32 inputs, and then to the 64-bit sum, shifted
// by 8l. The accumulator holds at most (l + 1) · 32 · 255² ≤ 16 646 400 < 2^24: exact, for any k. Bytes of the same place
// are brought together in registers, so matrices need no other form in memory.

#define DEPTH 32
// Words from row to row in shared memory: the eight lanes that read 16 bytes each at the same time meet in no bank.
#define PITCH (DEPTH + 2)

// o[i] = bytes i of the four words.
__device__ __forceinline__ void transpose_bytes(u32 a, u32 b, u32 c, u32 d, u32 o[4]) {
    u32 ab = __byte_perm(a, b, 0x5140), cd = __byte_perm(c, d, 0x5140);
    o[0] = __byte_perm(ab, cd, 0x5410);
    o[1] = __byte_perm(ab, cd, 0x7632);
    ab = __byte_perm(a, b, 0x7362), cd = __byte_perm(c, d, 0x7362);
    o[2] = __byte_perm(ab, cd, 0x5410);
    o[3] = __byte_perm(ab, cd, 0x7632);
}

// limb[i] = bytes i of four consecutive words.
__device__ __forceinline__ void limbs(const u64 *four, u32 limb[8]) {
    ulonglong2 x = *(const ulonglong2 *)four, y = *(const ulonglong2 *)(four + 2);
    transpose_bytes((u32)x.x, (u32)x.y, (u32)y.x, (u32)y.y, limb);
    transpose_bytes((u32)(x.x >> 32), (u32)(x.y >> 32), (u32)(y.x >> 32), (u32)(y.y >> 32), limb + 4);
}

// A block of DOWN × ACROSS warps, each with 16 rows and 8 · WIDTH columns. The next 32 inputs are on their way to shared
// memory while these are multiplied. Row tiles run over grid x, so that blocks side by side share their weights; parts of
// the inputs, `span` each, over grid z.
template <int WIDTH, int DOWN, int ACROSS>
__device__ __forceinline__ void tensor_product(u64 *tiles, const u64 *a, const u64 *w, u64 *c, u64 m, u64 n, u64 k,
                                               u64 span) {
    constexpr int ROWS = 16 * DOWN, COLUMNS = 8 * WIDTH * ACROSS, THREADS = 32 * DOWN * ACROSS;
    const u64 row0 = (u64)blockIdx.x * ROWS, column0 = (u64)blockIdx.y * COLUMNS;
    const u64 begin = blockIdx.z * span, end = min(begin + span, k);
    const int warp = threadIdx.x / 32, g = lane_index() / 4, t = lane_index() % 4;
    const int down = warp / ACROSS * 16, across = warp % ACROSS * 8 * WIDTH;

    const int line = threadIdx.x / (DEPTH / 2), at = threadIdx.x % (DEPTH / 2) * 2;
    const u64 *left = a + (row0 + line) * k + begin + at, *right = w + (column0 + line) * k + begin + at;
    // Two words of every STEP-th line from this thread's on; zeros beyond the last of them.
    auto copy_lines = [&](u64 *tile, const u64 *from, int lines, u64 there) {
        constexpr int STEP = 2 * THREADS / DEPTH;
#pragma unroll 1
        for (int r = line; r < lines; r += STEP) {
            copy_async(tile + r * PITCH + at, r < there ? from : a, r < there);
            from += STEP * k;
        }
    };
    auto fetch = [&](int tile) {
        copy_lines(tiles + tile, left, ROWS, m - row0);
        copy_lines(tiles + tile + ROWS * PITCH, right, COLUMNS, n - column0);
        copies_commit();
        left += DEPTH;
        right += DEPTH;
    };

    u64 sum[WIDTH][4] = {};
    int now = 0;
    fetch(now);
    for (u32 steps = (u32)((end - begin) / DEPTH); steps > 0; steps--) {
        const int next = (ROWS + COLUMNS) * PITCH - now;
        if (steps > 1) {
            fetch(next);
            copies_wait<1>();
        } else {
            copies_wait<0>();
        }
        __syncthreads();
        Left x;
#pragma unroll
        for (int q = 0; q < 4; q++) {
            u32 limb[8];
            limbs(tiles + now + (down + g + 8 * (q % 2)) * PITCH + 16 * (q / 2) + 4 * t, limb);
#pragma unroll
            for (int s = 0; s < 8; s++) x.limb[s][q] = limb[s];
        }
        present(x);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            Right y;
#pragma unroll
            for (int q = 0; q < 2; q++) {
                u32 limb[8];
                limbs(tiles + now + (ROWS + across + 8 * j + g) * PITCH + 16 * q + 4 * t, limb);
#pragma unroll
                for (int s = 0; s < 8; s++) y.limb[s][q] = limb[s];
            }
            present(y);
            // Two places at a time: sums that do not wait for each other.
#pragma unroll
            for (int place = 0; place < 8; place += 2) {
                int d[2][4] = {};
#pragma unroll
                for (int s = 0; s < place + 2; s++) {
                    if (s <= place) multiply(d[0], x, s, y, place - s);
                    multiply(d[1], x, s, y, place + 1 - s);
                }
#pragma unroll
                for (int q = 0; q < 4; q++) {
                    sum[j][q] += (u64)(u32)d[0][q] << (8 * place);
                    sum[j][q] += (u64)(u32)d[1][q] << (8 * place + 8);
                }
            }
        }
        __syncthreads();
        now = next;
    }

#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
#pragma unroll
        for (int q = 0; q < 4; q++) {
            u64 row = row0 + down + g + 8 * (q / 2), column = column0 + across + 8 * j + 2 * t + q % 2;
            if (row < m && column < n) deposit(c + row * n + column, sum[j][q], gridDim.z > 1);
        }
    }
}

// Tiles of 64 × 64, four warps.
extern "C" __global__ void COOPERATIVE __launch_bounds__(128, 2)
tensor64(const u64 *a, const u64 *w, u64 *c, u64 m, u64 n, u64 k, u64 span) {
    DYNAMIC_SHARED(ulonglong2, tiles);
    tensor_product<8, 4, 1>((u64 *)tiles, a, w, c, m, n, k, span);
}

// Tiles of 16 × 128, four warps.
extern "C" __global__ void COOPERATIVE __launch_bounds__(128, 2)
tensor16(const u64 *a, const u64 *w, u64 *c, u64 m, u64 n, u64 k, u64 span) {
    DYNAMIC_SHARED(ulonglong2, tiles);
    tensor_product<4, 1, 4>((u64 *)tiles, a, w, c, m, n, k, span);
}

// ---- Batches: any strides, integer units.

struct Layout {
    u64 row, column;
};

#define INPUTS 16

// Brings 16 inputs of LINES rows of A or columns of B to shared memory, tile[input][line], zeros beyond the last of either.
// Neighbours read neighbours, along a line or across.
template <int LINES, int THREADS>
__device__ __forceinline__ void fetch_lines(u64 *tile, const u64 *from, u64 line_step, u64 input_step, u64 line0, u64 lines,
                                       u64 input0, u64 inputs) {
    const bool along = input_step == 1;
    const int t = threadIdx.x, line = along ? t / INPUTS : t % LINES, input = along ? t % INPUTS : t / LINES;
    const int lines_on = along ? THREADS / INPUTS : 0, inputs_on = along ? 0 : THREADS / LINES;
    constexpr int EACH = (LINES * INPUTS + THREADS - 1) / THREADS;
    u64 word[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        u64 r = line0 + line + i * lines_on, l = input0 + input + i * inputs_on;
        word[i] = r < lines && l < inputs ? from[r * line_step + l * input_step] : 0;
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int r = line + i * lines_on, l = input + i * inputs_on;
        if (r < LINES && l < INPUTS) tile[l * (LINES + 2) + r] = word[i];
    }
}

// A block of DOWN × ACROSS threads, each with HEIGHT rows and 4 columns, two by two. 16 inputs at a time are in shared memory.
// Of matrix A, element (i, l) is a[i · a.row + l · a.column], of B element (l, j) b[l · b.row + j · b.column].
template <int HEIGHT, int DOWN, int ACROSS>
__device__ __forceinline__ void batch_product(const u64 *a, Layout la, const u64 *b, Layout lb, u64 *c, u64 c_row, u64 m,
                                              u64 n, u64 begin, u64 end, bool add) {
    constexpr int ROWS = HEIGHT * DOWN, COLUMNS = 4 * ACROSS, THREADS = DOWN * ACROSS;
    __shared__ ulonglong2 shared_a[INPUTS * (ROWS + 2) / 2], shared_b[INPUTS * (COLUMNS + 2) / 2];
    u64 *left = (u64 *)shared_a, *right = (u64 *)shared_b;
    const u64 across = (n + COLUMNS - 1) / COLUMNS;
    const u64 row0 = blockIdx.x / across * ROWS, column0 = blockIdx.x % across * COLUMNS;
    const int down = threadIdx.x / ACROSS * HEIGHT, pair = threadIdx.x % ACROSS * 2;
    u64 sum[HEIGHT][4] = {};
    for (u64 l0 = begin; l0 < end; l0 += INPUTS) {
        fetch_lines<ROWS, THREADS>(left, a, la.row, la.column, row0, m, l0, end);
        fetch_lines<COLUMNS, THREADS>(right, b, lb.column, lb.row, column0, n, l0, end);
        __syncthreads();
#pragma unroll 4
        for (int l = 0; l < INPUTS; l++) {
            u64 y[4];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                ulonglong2 two = *(const ulonglong2 *)(right + l * (COLUMNS + 2) + h * COLUMNS / 2 + pair);
                y[2 * h] = two.x;
                y[2 * h + 1] = two.y;
            }
#pragma unroll
            for (int i = 0; i < HEIGHT; i++) {
                u64 x = left[l * (ROWS + 2) + down + i];
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] += x * y[j];
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < HEIGHT; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            u64 row = row0 + down + i, column = column0 + j / 2 * COLUMNS / 2 + pair + j % 2;
            if (row < m && column < n) deposit(c + row * c_row + column, sum[i][j], add);
        }
    }
}

// offsets[p] = those of A, B and C of product p: products run over grid y, tiles over grid x, parts of the inputs over grid z.
extern "C" __global__ void COOPERATIVE __launch_bounds__(256)
batch64(const u64 *a, u64 a_row, u64 a_column, const u64 *b, u64 b_row, u64 b_column, u64 *c, u64 c_row,
        const u64 *offsets, u64 products, u64 m, u64 n, u64 k, u64 span) {
    const u64 begin = blockIdx.z * span, end = min(begin + span, k);
    for (u64 p = blockIdx.y; p < products; p += gridDim.y) {
        const u64 *at = offsets + 3 * p;
        batch_product<4, 16, 16>(a + at[0], {a_row, a_column}, b + at[1], {b_row, b_column}, c + at[2], c_row, m, n, begin,
                                 end, gridDim.z > 1);
    }
}

// The same in tiles of 8 × 128 for few rows.
extern "C" __global__ void COOPERATIVE __launch_bounds__(256)
batch8(const u64 *a, u64 a_row, u64 a_column, const u64 *b, u64 b_row, u64 b_column, u64 *c, u64 c_row,
       const u64 *offsets, u64 products, u64 m, u64 n, u64 k, u64 span) {
    const u64 begin = blockIdx.z * span, end = min(begin + span, k);
    for (u64 p = blockIdx.y; p < products; p += gridDim.y) {
        const u64 *at = offsets + 3 * p;
        batch_product<1, 8, 32>(a + at[0], {a_row, a_column}, b + at[1], {b_row, b_column}, c + at[2], c_row, m, n, begin,
                                end, gridDim.z > 1);
    }
}
