// Element-wise formulas: all steps on the word at one place of each buffer. The numbers of places are those of formula.rs,
// those of operations these of `combine` and, from MAPS on, of `change`.
//
// A formula is its sizes (bytes 0 to 2: steps, inputs, results), four words for each input, the addresses of the results,
// the steps, two in a word, and a constant for each step. Byte 0 of a step is the operation, 1 the place of the result, 2 and 3
// those of the operands; a place is its kind, and its number in six bits. The constant is for `change`.

enum { FORMULA_TEMPORARIES = 12 };
enum { TEMPORARY, INPUT, OUTPUT };
enum { MAPS = 16 };

// Which words of an input are taken, by its second word: word i is input[i] if that is IN_ORDER; input[t[i]] for the u32 *t at
// the third word's address if it is TABLE; if it is PACKED, the third word's number of bits of a message from the byte on that the
// fourth says; else input[i / cols * row + i % cols * col] for the three words cols, row and col.
enum : u64 { IN_ORDER = 0, TABLE = ~0ull, PACKED = ~1ull };

__device__ __forceinline__ u64 input_word(const u64 *input, u64 i) {
    const u64 *words = (const u64 *)input[0];
    u64 cols = input[1];
    if (cols == IN_ORDER) return words[i];
    if (cols == TABLE) return words[((const u32 *)input[2])[i]];
    if (cols == PACKED) return unpacked_word(words, input[3], (u32)input[2], i);
    u64 row = i / cols;
    return words[row * input[2] + (i - row * cols) * input[3]];
}

// As a step needs an instruction or two of a device and some more to be read, a formula takes about as long as its inputs
// and results take to come from memory. Each thread has a column of temporary words.
__device__ __forceinline__ void formula(const u64 *f, u64 i, u64 (*temporary)[256]) {
    u32 steps = f[0] & 255, inputs = f[0] >> 8 & 255, outputs = f[0] >> 16 & 255;
    const u64 *input = f + 1, *output = input + 4 * inputs, *step = output + outputs, *constant = step + (steps + 1) / 2;
    auto word = [&](u32 place) {
        u32 number = place & 63;
        switch (place >> 6) {
        case TEMPORARY: return temporary[number][threadIdx.x];
        case INPUT: return input_word(input + 4 * number, i);
        default: return ((const u64 *)output[number])[i];
        }
    };
    for (u32 s = 0; s < steps; s++) {
        u32 code = (u32)(step[s / 2] >> (32 * (s % 2))), op = code & 255, to = code >> 8 & 255;
        u64 a = word(code >> 16 & 255);
        u64 result = op < MAPS ? combine(op, a, word(code >> 24)) : change(op - MAPS, a, constant[s]);
        if (to >> 6 == TEMPORARY) {
            temporary[to & 63][threadIdx.x] = result;
        } else {
            ((u64 *)output[to & 63])[i] = result;
        }
    }
}
