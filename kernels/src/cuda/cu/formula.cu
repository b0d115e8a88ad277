// Element-wise formulas: all steps on one word of each buffer, then on the next. The numbers of places are those of
// formula.rs, those of operations these of `combine` and, from MAPS on, of `change`.

enum { FORMULA_STEPS = 80, FORMULA_INPUTS = 20, FORMULA_OUTPUTS = 6, FORMULA_TEMPORARIES = 12 };
enum { TEMPORARY, INPUT, OUTPUT };
enum { MAPS = 16 };

// Which words of an input are taken: word i is input[i / cols * row + i % cols * col]; if cols is IN_ORDER, input[i]; if it
// is TABLE, input[t[i]] for the u32 *t at the address `row`.
struct Places {
    u64 cols, row, col;
};
enum : u64 { IN_ORDER = 0, TABLE = ~0ull };

// Byte 0 of a step is the operation, 1 the place of the result, 2 and 3 those of the operands. A place is its kind, and its
// number in six bits. `constant` belongs to the step, for `change`.
struct Formula {
    u32 step[FORMULA_STEPS];
    u64 constant[FORMULA_STEPS];
    const u64 *input[FORMULA_INPUTS];
    Places places[FORMULA_INPUTS];
    u64 *output[FORMULA_OUTPUTS];
};

__device__ __forceinline__ u64 input_place(const Places &p, u64 i) {
    if (p.cols == IN_ORDER) return i;
    if (p.cols == TABLE) return ((const u32 *)p.row)[i];
    u64 row = i / p.cols;
    return row * p.row + (i - row * p.cols) * p.col;
}

// As a step needs an instruction or two of a device and some more to be read, a formula takes about as long as its inputs
// and results take to come from memory, or, if these are short, as a launch takes by itself.
extern "C" __global__ void __launch_bounds__(256) formula(const __grid_constant__ Formula f, u32 steps, u64 n) {
    // A column for each thread.
    __shared__ u64 temporary[FORMULA_TEMPORARIES][256];
    FOR_EACH(i, n) {
        auto word = [&](u32 place) {
            u32 number = place & 63;
            switch (place >> 6) {
            case TEMPORARY: return temporary[number][threadIdx.x];
            case INPUT: return f.input[number][input_place(f.places[number], i)];
            default: return (u64)f.output[number][i];
            }
        };
        for (u32 s = 0; s < steps; s++) {
            u32 step = f.step[s], op = step & 255, to = step >> 8 & 255;
            u64 a = word(step >> 16 & 255);
            u64 result = op < MAPS ? combine(op, a, word(step >> 24)) : change(op - MAPS, a, f.constant[s]);
            if (to >> 6 == TEMPORARY) {
                temporary[to & 63][threadIdx.x] = result;
            } else {
                f.output[to & 63][i] = result;
            }
        }
    }
}
