// Distributed point functions; cpu/dpf.rs says what is computed, this file how.

// Key of a node's ChaCha12 after its seed: the 16 bytes "Catamount DPF v1".
#define DPF_DOMAIN 0x61746143, 0x6e756f6d, 0x50442074, 0x31762046

// Points of a leaf.
#define DPF_LEAF 128

// Levels of a subtree that a block walks, and the nodes above its lowest level.
#define DPF_LEVELS 10
#define DPF_NODES (1 << DPF_LEVELS)
#define DPF_THREADS 128

// A node of one party; control bits are spread.
struct DpfNode {
    u64 seed[2];
    u32 control;
};

// Left and right child before they are corrected.
__device__ __forceinline__ void dpf_expand(const DpfNode &node, DpfNode child[2]) {
    const u32 key[8] = {
        (u32)node.seed[0], (u32)(node.seed[0] >> 32), (u32)node.seed[1], (u32)(node.seed[1] >> 32), DPF_DOMAIN,
    };
    u32 x[16];
    chacha12_block(key, 0, 0, x);
#pragma unroll
    for (int side = 0; side < 2; side++) {
        child[side].seed[0] = join(x[4 * side], x[4 * side + 1]);
        child[side].seed[1] = join(x[4 * side + 2], x[4 * side + 3]);
        child[side].control = (u32)spread(x[12] >> side);
    }
}

// Both children. A level has a seed correction of two words and one of the control bits.
__device__ __forceinline__ void dpf_children(const DpfNode &node, const u64 *seed, u64 controls, DpfNode child[2]) {
    dpf_expand(node, child);
    const u64 mask = join(node.control, node.control);
#pragma unroll
    for (int side = 0; side < 2; side++) {
        child[side].seed[0] ^= mask & seed[0];
        child[side].seed[1] ^= mask & seed[1];
        child[side].control ^= node.control & (u32)spread(controls >> side);
    }
}

// Keys of rows: seeds (two words) and controls have `levels` entries a key, last two words. Neighbouring lanes are the two
// parties of a key and exchange what they expand.
extern "C" __global__ void COOPERATIVE __launch_bounds__(64)
dpf_generate(u32 levels, const u64 *alpha, const u64 *root0, const u64 *root1, u64 *seeds, u64 *controls, u64 *last,
             u64 keys) {
    const u64 mine = thread_index() / 2, i = min(mine, keys - 1), path = alpha[i];
    const u32 party = threadIdx.x & 1;
    const bool stores = mine < keys && party == 0;
    const u64 *root = party ? root1 : root0;
    DpfNode node = {{root[2 * i], root[2 * i + 1]}, 0 - party};
    for (u32 level = 0; level < levels; level++) {
        DpfNode child[2];
        dpf_expand(node, child);
        const bool right = path / DPF_LEAF >> (levels - 1 - level) & 1;
        const DpfNode kept = right ? child[1] : child[0], lost = right ? child[0] : child[1];
        u64 correction[2];
#pragma unroll
        for (int j = 0; j < 2; j++) correction[j] = lost.seed[j] ^ __shfl_xor_sync(FULL_WARP, lost.seed[j], 1);
        const u32 both = (child[0].control & 1) | (child[1].control & 2), t = both ^ __shfl_xor_sync(FULL_WARP, both, 1);
        // Off the path control bits become equal, on it different.
        const u32 control = t ^ (right ? 2 : 1);
        if (stores) {
            seeds[2 * (i * levels + level)] = correction[0];
            seeds[2 * (i * levels + level) + 1] = correction[1];
            controls[i * levels + level] = control;
        }
        const u64 mask = join(node.control, node.control);
#pragma unroll
        for (int j = 0; j < 2; j++) node.seed[j] = kept.seed[j] ^ (mask & correction[j]);
        node.control = kept.control ^ (node.control & (u32)spread(control >> right));
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const u64 one = (u64)(path % DPF_LEAF / 64 == j) << path % 64;
        const u64 theirs = __shfl_xor_sync(FULL_WARP, node.seed[j], 1);
        if (stores) last[2 * i + j] = node.seed[j] ^ theirs ^ one;
    }
}

// Both words of a leaf, as far as they, `at` and the one after, are among the row's.
__device__ __forceinline__ void dpf_leaf(const DpfNode &leaf, const u64 *last, u64 *row, u64 at, u64 words, u64 points) {
    const u64 mask = join(leaf.control, leaf.control);
#pragma unroll
    for (int j = 0; j < 2; j++) {
        if (at + j < words) row[at + j] = (leaf.seed[j] ^ (mask & last[j])) & row_mask(points, words, at + j);
    }
}

// Bit x of row `key` of `out`, `words` words each, is the share of f(x). A block walks one of the subtrees, blockIdx.y, of `group` keys level by level: the nodes of a
// level lie side by side in shared memory, and those of a level behind those of the one above. The lowest nodes never
// get there: their bits are written. What is behind the last point is left out.
extern "C" __global__ void COOPERATIVE __launch_bounds__(DPF_THREADS)
dpf_evaluate(u32 party, u32 levels, u64 points, u64 words, const u64 *root, const u64 *seeds, const u64 *controls, const u64 *last,
             u64 group, u64 keys, u64 *out) {
    __shared__ u64 node_seed[2][DPF_NODES];
    __shared__ u32 node_control[DPF_NODES];
    const u32 depth = min(levels, (u32)DPF_LEVELS), top = levels - depth;
    const u64 key0 = blockIdx.x * group, subtree = blockIdx.y;
    const u32 here = (u32)min(group, keys - key0);
    // First word and leaves of the subtree.
    const u64 word0 = subtree << (depth + 1);
    const u32 leaves = (u32)((min(words - word0, 2ull << depth) + 1) / 2);

    for (u32 q = threadIdx.x; q < here; q += DPF_THREADS) {
        const u64 key = key0 + q;
        DpfNode node = {{root[2 * key], root[2 * key + 1]}, 0 - party};
        for (u32 level = 0; level < top; level++) {
            DpfNode child[2];
            dpf_children(node, seeds + 2 * (key * levels + level), controls[key * levels + level], child);
            node = subtree >> (top - 1 - level) & 1 ? child[1] : child[0];
        }
        if (depth == 0) {
            dpf_leaf(node, last + 2 * key, out + key * words, 0, words, points);
        } else {
            const u32 to = q << depth;
            node_seed[0][to] = node.seed[0];
            node_seed[1][to] = node.seed[1];
            node_control[to] = node.control;
        }
    }
    for (u32 level = 0; level < depth; level++) {
        __syncthreads();
        const u32 below = depth - level, needed = (leaves + (1u << below) - 1) >> below, first = (1u << level) - 1;
        for (u32 item = threadIdx.x; item < here * needed; item += DPF_THREADS) {
            const u32 q = item / needed, i = item % needed, at = (q << depth) + first + i;
            const u64 key = key0 + q, correction = key * levels + top + level;
            const DpfNode node = {{node_seed[0][at], node_seed[1][at]}, node_control[at]};
            DpfNode child[2];
            dpf_children(node, seeds + 2 * correction, controls[correction], child);
#pragma unroll
            for (u32 side = 0; side < 2; side++) {
                if (below == 1) {
                    dpf_leaf(child[side], last + 2 * key, out + key * words, word0 + 4 * i + 2 * side, words, points);
                } else {
                    const u32 to = (q << depth) + 2 * first + 1 + 2 * i + side;
                    node_seed[0][to] = child[side].seed[0];
                    node_seed[1][to] = child[side].seed[1];
                    node_control[to] = child[side].control;
                }
            }
        }
    }
}
