// Element-wise operations of words. Their numbers are those of elementwise.rs.

enum { ADD, SUB, MUL, XOR, AND };

__device__ __forceinline__ u64 combine(u32 op, u64 a, u64 b) {
    switch (op) {
    case ADD: return a + b;
    case SUB: return a - b;
    case MUL: return a * b;
    case XOR: return a ^ b;
    default: return a & b;
    }
}

enum { MAP_NEG, MAP_ADD, MAP_MUL, MAP_AND, MAP_XOR, MAP_SHL, MAP_SHR, MAP_EXP };

// See kernels::exp_fraction.
__device__ __forceinline__ u64 exp_fraction(u64 a, u32 s) {
    const u64 c[6] = {536870348, 536911427, 267967380, 91435588, 18738680, 7442371};
    u64 y = (a << (64 - s)) >> 33;
    u64 r = c[5];
#pragma unroll
    for (int degree = 4; degree >= 0; degree--) r = ((r * y) >> 31) + c[degree];
    return (r + (1 << 15)) >> 16;
}

// Shifts are below 64.
__device__ __forceinline__ u64 change(u32 op, u64 a, u64 c) {
    switch (op) {
    case MAP_NEG: return 0 - a;
    case MAP_ADD: return a + c;
    case MAP_MUL: return a * c;
    case MAP_AND: return a & c;
    case MAP_XOR: return a ^ c;
    case MAP_SHL: return a << c;
    case MAP_SHR: return a >> c;
    default: return exp_fraction(a, (u32)c);
    }
}
