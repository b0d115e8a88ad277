// Operations that do not depend on each other, all in one launch. Each has so many elements, which threads take one by one, and
// blocks of 256 of them. The numbers of operations are those of wave.rs.

enum {
    FORMULA,
    SCATTER_BY_TABLE,
    SCATTER_BY_RULE,
    DRAW,
    PACK,
    MASK_AND_PACK,
    FLIP_BIT,
    BIT_AT,
    COUNT_BITS,
    ROTATE_BITS,
    SUFFIX_XOR,
    RANDOM_COMBINATIONS,
    TRANSPOSE_BITS,
    MAKE_MASK_AND_PACK,
};

// As `mask_and_pack`, of words and masks that are made here: of op, bits, masked, out, n, the temporary word of a formula without
// results that has them in the end, the stream of masks (as for `draw`), and the formula.
__device__ __forceinline__ void make_mask_and_pack(const u64 *args, u64 o, u64 (*temporary)[256]) {
    u64 *masked = (u64 *)args[2];
    u32 bits = (u32)args[1];
    u64 i = 64 * o / bits, n = args[4], word = 0;
    u32 filled = 0, before = (u32)(64 * o - i * bits);
    for (; filled < 64 && i < n; i++) {
        formula(args + 14, i, temporary);
        u64 made = temporary[args[5]][threadIdx.x];
        u64 own = combine((u32)args[0], made, drawn_word(args + 6, i)) & low_mask(bits);
        if (masked && before == 0) masked[i] = own;
        word |= own >> before << filled;
        filled += bits - before;
        before = 0;
    }
    ((u64 *)args[3])[o] = word;
}

enum { WAVE_OPERATIONS = 48, WAVE_WORDS = 448 };

// An operation is its number (8 bits), the place of its words (24), and its first block. Its words are the number of its elements,
// and its arguments.
struct Wave {
    u64 count, blocks;
    u64 operation[WAVE_OPERATIONS];
    u64 word[WAVE_WORDS];
};

extern "C" __global__ void __launch_bounds__(256) wave(const __grid_constant__ Wave w) {
    __shared__ u64 temporary[FORMULA_TEMPORARIES][256];
    u32 o = 0;
    for (u64 block = blockIdx.x; block < w.blocks; block += gridDim.x) {
        while (o + 1 < w.count && w.operation[o + 1] >> 32 <= block) o++;
        u64 operation = w.operation[o];
        const u64 *words = w.word + (operation >> 8 & 0xffffff), *args = words + 1;
        u64 i = (block - (operation >> 32)) * 256 + threadIdx.x;
        if (i >= words[0]) continue;
        switch (operation & 255) {
        case FORMULA: formula(args, i, temporary); break;
        case SCATTER_BY_TABLE: scatter_by_table(args, i); break;
        case SCATTER_BY_RULE: scatter_by_rule(args, i); break;
        case DRAW: draw(args, i); break;
        case PACK: pack(args, i); break;
        case MASK_AND_PACK: mask_and_pack(args, i); break;
        case FLIP_BIT: flip_bit(args, i); break;
        case BIT_AT: bit_at(args, i); break;
        case COUNT_BITS: count_bits(args, i); break;
        case ROTATE_BITS: rotate_bits(args, i); break;
        case SUFFIX_XOR: suffix_xor(args, i); break;
        case RANDOM_COMBINATIONS: random_combinations(args, i); break;
        case TRANSPOSE_BITS: transpose_bits(args, i); break;
        default: make_mask_and_pack(args, i, temporary); break;
        }
    }
}
