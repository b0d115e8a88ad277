// Instructions that C++ has no words for, each with its meaning in plain words, for tests on the host.

// 16 bytes from global to shared memory past the registers: two words, or zeros unless they are `inside`.
__device__ __forceinline__ void copy_async(u64 *to, const u64 *from, bool inside) {
#ifdef CATAMOUNT_SHIM
    for (int i = 0; i < 2; i++) to[i] = inside ? from[i] : 0;
#else
    u32 at = (u32)__cvta_generic_to_shared(to), bytes = inside ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
#endif
}

// Ends a group of copies.
__device__ __forceinline__ void copies_commit() {
#ifndef CATAMOUNT_SHIM
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most so many of this thread's groups are on their way.
template <int PENDING>
__device__ __forceinline__ void copies_wait() {
#ifndef CATAMOUNT_SHIM
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// Two words that are read once.
__device__ __forceinline__ ulonglong2 load_once(const u64 *from) {
#ifdef CATAMOUNT_SHIM
    return ulonglong2{from[0], from[1]};
#else
    return __ldcs((const ulonglong2 *)from);
#endif
}

// A lane's part of 16 rows × 32 inputs of 64-bit words, byte by byte (limb 0 is the lowest): the `a` operands of eight
// mma.m16n8k32. With g = lane / 4 and t = lane % 4, word 2h + r of a limb holds row g + 8r, inputs 16h + 4t to 16h + 4t + 3.
struct Left {
    u32 limb[8][4];
};

// A lane's part of 32 inputs × 8 columns: word h of a limb holds column g, inputs 16h + 4t to 16h + 4t + 3.
struct Right {
    u32 limb[8][2];
};

#ifdef CATAMOUNT_SHIM
// What a tensor core sees of a warp's lanes: their bytes, as rows and columns of 32 inputs.
__shared__ short shim_left[32][8][16][32];
__shared__ short shim_right[32][8][8][32];
#endif

// All lanes have the left operand from now on.
__device__ __forceinline__ void present(const Left &a) {
#ifdef CATAMOUNT_SHIM
    u32 lane = lane_index(), warp = threadIdx.x / 32;
    __syncwarp();
    for (int x = 0; x < 8; x++)
        for (int q = 0; q < 4; q++)
            for (int byte = 0; byte < 4; byte++)
                shim_left[warp][x][lane / 4 + 8 * (q % 2)][16 * (q / 2) + 4 * (lane % 4) + byte]
                    = a.limb[x][q] >> (8 * byte) & 255;
    __syncwarp();
#endif
}

// The same for the right one.
__device__ __forceinline__ void present(const Right &b) {
#ifdef CATAMOUNT_SHIM
    u32 lane = lane_index(), warp = threadIdx.x / 32;
    __syncwarp();
    for (int y = 0; y < 8; y++)
        for (int q = 0; q < 2; q++)
            for (int byte = 0; byte < 4; byte++)
                shim_right[warp][y][lane / 4][16 * q + 4 * (lane % 4) + byte] = b.limb[y][q] >> (8 * byte) & 255;
    __syncwarp();
#endif
}

// d += limb x of the left operand · limb y of the right one, unsigned bytes, on the warp's tensor core. d[2r + s] is of
// row g + 8r, column 2t + s. Both operands were presented.
__device__ __forceinline__ void multiply(int d[4], const Left &a, int x, const Right &b, int y) {
#ifdef CATAMOUNT_SHIM
    u32 lane = lane_index(), warp = threadIdx.x / 32;
    for (int q = 0; q < 4; q++) {
        const short *row = shim_left[warp][x][lane / 4 + 8 * (q / 2)];
        const short *column = shim_right[warp][y][2 * (lane % 4) + q % 2];
        for (int l = 0; l < 32; l++) d[q] += row[l] * column[l];
    }
#else
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a.limb[x][0]), "r"(a.limb[x][1]), "r"(a.limb[x][2]), "r"(a.limb[x][3]), "r"(b.limb[y][0]),
          "r"(b.limb[y][1]));
#endif
}
