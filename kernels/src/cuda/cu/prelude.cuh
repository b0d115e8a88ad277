// Included before every other file: all sources are one translation unit. Kernels are plain C++ without headers, so that
// the run-time compiler takes them, and tests compile them for the host.
//
// A kernel reads `extern "C" __global__ void [COOPERATIVE] [__launch_bounds__(n)] name(arguments)`. Arguments are
// pointers, u64 and u32. COOPERATIVE says that its threads meet, at __syncthreads() or in a warp's shuffle; a thread of
// it must not leave early, and all 32 lanes take part in a shuffle.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define COOPERATIVE
#ifndef CATAMOUNT_SHIM
// Shared memory whose size the launch gives.
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

#define FULL_WARP 0xffffffffu

// Threads before this one in the grid, and all of them.
__device__ __forceinline__ u64 thread_index() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ u64 thread_count() { return (u64)gridDim.x * blockDim.x; }

// Every i below n, by the threads of the whole grid.
#define FOR_EACH(i, n) for (u64 i = thread_index(); i < (n); i += thread_count())

// Every i below n, by the warps of the whole grid: the lanes of a warp share i.
#define FOR_EACH_WARP(i, n) for (u64 i = thread_index() >> 5; i < (n); i += thread_count() >> 5)

__device__ __forceinline__ u32 lane_index() { return threadIdx.x & 31; }

__device__ __forceinline__ u64 join(u32 low, u32 high) { return (u64)low | (u64)high << 32; }

// All ones if the lowest bit is set, else zero.
__device__ __forceinline__ u64 spread(u64 bit) { return 0 - (bit & 1); }

// The low bits of a word, 1 to 64.
__device__ __forceinline__ u64 low_mask(u32 bits) { return ~0ull >> (64 - bits); }

__device__ __forceinline__ u32 rotate_left(u32 x, u32 by) { return x << by | x >> (32 - by); }

__device__ __forceinline__ void quarter_round(u32 &a, u32 &b, u32 &c, u32 &d) {
    a += b; d = rotate_left(d ^ a, 16);
    c += d; b = rotate_left(b ^ c, 12);
    a += b; d = rotate_left(d ^ a, 8);
    c += d; b = rotate_left(b ^ c, 7);
}

// One block of ChaCha with 12 rounds, as RFC 8439 with a 64-bit counter and a 64-bit nonce.
__device__ __forceinline__ void chacha12_block(const u32 key[8], u64 counter, u64 nonce, u32 x[16]) {
    const u32 s[16] = {
        0x61707865, 0x3320646e, 0x79622d32, 0x6b206574,
        key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7],
        (u32)counter, (u32)(counter >> 32), (u32)nonce, (u32)(nonce >> 32),
    };
#pragma unroll
    for (int i = 0; i < 16; i++) x[i] = s[i];
#pragma unroll
    for (int round = 0; round < 6; round++) {
        quarter_round(x[0], x[4], x[8], x[12]);
        quarter_round(x[1], x[5], x[9], x[13]);
        quarter_round(x[2], x[6], x[10], x[14]);
        quarter_round(x[3], x[7], x[11], x[15]);
        quarter_round(x[0], x[5], x[10], x[15]);
        quarter_round(x[1], x[6], x[11], x[12]);
        quarter_round(x[2], x[7], x[8], x[13]);
        quarter_round(x[3], x[4], x[9], x[14]);
    }
#pragma unroll
    for (int i = 0; i < 16; i++) x[i] += s[i];
}

// Block number `block` of a stream in pieces of 2^piece blocks, each under the next nonce.
__device__ __forceinline__ void piece_block(const u32 key[8], u64 block, u64 nonce, u64 piece, u32 x[16]) {
    chacha12_block(key, block & ((1ull << piece) - 1), nonce + (block >> piece), x);
}
