// Distributed comparison functions; cpu/dcf.rs says what is computed and why it is safe, this file how.

// Key of a node's ChaCha12 after its seed: the 16 bytes "Catamount DCF v1".
#define DCF_DOMAIN 0x61746143, 0x6e756f6d, 0x43442074, 0x31762046
#define DCF_CHILDREN 0
#define DCF_OUTPUTS 1

// A node's block for its children or its outputs, as eight words.
__device__ __forceinline__ void dcf_expand(const u64 seed[2], u64 block, u64 words[8]) {
    const u32 key[8] = {(u32)seed[0], (u32)(seed[0] >> 32), (u32)seed[1], (u32)(seed[1] >> 32), DCF_DOMAIN};
    u32 x[16];
    chacha12_block(key, block, 0, x);
#pragma unroll
    for (int i = 0; i < 8; i++) words[i] = join(x[2 * i], x[2 * i + 1]);
}

// -v where `minus` is all ones, v where it is 0.
__device__ __forceinline__ u64 dcf_sign(u32 minus, u64 v) { return (v ^ join(minus, minus)) - join(minus, minus); }

// One of four words, without an array in memory.
__device__ __forceinline__ u64 one_of_four(const u64 w[4], u64 which) {
    u64 low = which & 1 ? w[1] : w[0], high = which & 1 ? w[3] : w[2];
    return which & 2 ? high : low;
}

// Number of the stop at bit s, in ascending order. `stops` has a bit for each.
__device__ __forceinline__ u32 dcf_stop(u64 stops, int s) { return __popcll(stops & ((1ull << s) - 1)); }

// Stops answered at a level are those from dcf_lowest to dcf_highest, as far as there are: one, at the root's two.
__device__ __forceinline__ int dcf_lowest(int bits, int level) { return max(bits - 2 - level, 0); }
__device__ __forceinline__ int dcf_highest(int bits, int level) { return level == 0 ? bits - 1 : bits - 2 - level; }

// Keys of rows: seeds, values and controls have `levels` entries a key (seeds two words each), outputs four words a stop.
// Neighbouring lanes are the two parties of a key and exchange what they expand. On the path to alpha the control bits of the
// parties differ, so each knows the other's.
extern "C" __global__ void COOPERATIVE __launch_bounds__(64)
dcf_generate(u32 bits, u32 levels, u64 stops, const u64 *alpha, const u64 *beta, const u64 *root0, const u64 *root1,
             u64 *seeds, u64 *values, u64 *controls, u64 *outputs, u64 keys) {
    const u64 mine = thread_index() / 2, i = min(mine, keys - 1);
    const u32 party = threadIdx.x & 1;
    // Both lanes compute the same words; each stores some of them.
    const bool first = mine < keys && party == 0, second = mine < keys && party == 1;
    const u64 path = alpha[i] & low_mask(bits), payload = beta[i], stop_count = __popcll(stops);
    const u64 *root = party ? root1 : root0;
    u64 seed[2] = {root[2 * i], root[2 * i + 1]}, sum = 0;
    u32 control = 0 - party;
    for (int level = 0; level <= (int)levels; level++) {
        // Whether corrections count negatively: the second party's control bit.
        const u32 minus = party ? control : ~control;
        u64 w[8];
        for (int s = dcf_lowest(bits, level); s <= dcf_highest(bits, level); s++) {
            if (!(stops >> s & 1)) continue;
            dcf_expand(seed, DCF_OUTPUTS, w);
            u64 *to = outputs + 4 * (i * stop_count + dcf_stop(stops, s)), own = path >> s & 3;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                // Words of the second party less those of the first.
                u64 other = __shfl_xor_sync(FULL_WARP, w[j], 1), difference = party ? w[j] - other : other - w[j];
                if (first) to[j] = dcf_sign(minus, (j < own ? payload : 0) + difference - sum);
            }
        }
        if (level == (int)levels) break;
        dcf_expand(seed, DCF_CHILDREN, w);
        const bool right = path >> (bits - 1 - level) & 1;
        const u64 kept[2] = {right ? w[2] : w[0], right ? w[3] : w[1]}, lost[2] = {right ? w[0] : w[2], right ? w[1] : w[3]};
        const u64 kept_value = right ? w[5] : w[4], lost_value = right ? w[4] : w[5];
        u64 seed_correction[2];
#pragma unroll
        for (int j = 0; j < 2; j++) seed_correction[j] = lost[j] ^ __shfl_xor_sync(FULL_WARP, lost[j], 1);
        u64 other_kept = __shfl_xor_sync(FULL_WARP, kept_value, 1), other_lost = __shfl_xor_sync(FULL_WARP, lost_value, 1);
        u32 bits_here = (u32)w[6], t = bits_here ^ __shfl_xor_sync(FULL_WARP, bits_here, 1);
        // beta belongs to everything left of the path, that is where the path goes right.
        u64 lost_difference = party ? lost_value - other_lost : other_lost - lost_value;
        u64 kept_difference = party ? kept_value - other_kept : other_kept - kept_value;
        u64 value_correction = dcf_sign(minus, (right ? payload : 0) + lost_difference - sum);
        sum += dcf_sign(minus, value_correction) - kept_difference;
        u32 left_control = (t ^ right ^ 1) & 1, right_control = (t >> 1 ^ right) & 1;
        u64 at = i * levels + level;
        if (first) {
            seeds[2 * at] = seed_correction[0];
            seeds[2 * at + 1] = seed_correction[1];
        }
        if (second) {
            values[at] = value_correction;
            controls[at] = left_control | right_control << 1;
        }
#pragma unroll
        for (int j = 0; j < 2; j++) seed[j] = kept[j] ^ (join(control, control) & seed_correction[j]);
        control = (u32)spread(bits_here >> right) ^ (control & (u32)spread(right ? right_control : left_control));
    }
}

// Points of a block's walk, and its threads.
#define DCF_POINTS 512
#define DCF_THREADS 64

// Evaluates `group` keys at thresholds `chunk`·blockIdx.y to the next chunk: shares of c + f(x), or of 1 - that.
//
// Points are numbered by key and threshold. Those of a key descend, but for one step up where they wrap around; so points
// that share a prefix are neighbours, but for that step. A run of them shares a node, which its first point leads: that
// is compared most closely, so it goes deepest. `list` has the leaders. On each level every leader expands its node once,
// and where the run's points part, the first of the others leads a run of its own. At the depth of a stop each leader
// expands its node's outputs for those of its points that are answered there.
//
// thresholds: their values, then for each stop the number of the first threshold at this stop or a later one.
extern "C" __global__ void COOPERATIVE __launch_bounds__(DCF_THREADS)
dcf_evaluate(u32 party, u32 bits, u32 levels, u64 stops, const u64 *root, const u64 *seeds, const u64 *values,
             const u64 *controls, const u64 *outputs, const u64 *base, const u64 *constant, const u64 *thresholds,
             u64 count, u64 chunk, u64 group, u64 keys, u64 *out) {
    __shared__ u64 point[DCF_POINTS], seed[2][DCF_POINTS], value[DCF_POINTS];
    __shared__ u32 control[DCF_POINTS], list[2][DCF_POINTS], listed[3];
    // One past the last point of the run that a point leads.
    __shared__ u32 run_end[DCF_POINTS];
    const u64 key0 = blockIdx.x * group, from = blockIdx.y * chunk;
    const u32 width = (u32)(min(from + chunk, count) - from), points = (u32)min(group, keys - key0) * width;
    const u64 *first_at = thresholds + count, stop_count = __popcll(stops);

    for (u32 p = threadIdx.x; p < points; p += DCF_THREADS) {
        point[p] = (base[key0 + p / width] - thresholds[from + p % width]) & low_mask(bits);
        if (p % width == 0) run_end[p] = p + width;
    }
    if (threadIdx.x < 3) listed[threadIdx.x] = 0;
    __syncthreads();
    for (u32 p = threadIdx.x; p < points; p += DCF_THREADS) {
        bool leads = p % width == 0, wraps = !leads && point[p] > point[p - 1];
        if (!leads && !wraps) continue;
        u64 key = key0 + p / width;
        u32 head = p - p % width;
        seed[0][p] = root[2 * key];
        seed[1][p] = root[2 * key + 1];
        value[p] = party ? 0 - constant[key] : constant[key];
        control[p] = 0 - party;
        list[0][atomicAdd(&listed[0], 1u)] = p;
        if (wraps) {
            run_end[p] = head + width;
            run_end[head] = p;
        }
    }
    __syncthreads();

    // Thresholds of the chunk that are still to be answered.
    u32 active = width;
    for (u32 level = 0; active > 0; level++) {
        const u32 *leaders = list[level % 2], leader_count = listed[level % 3];
        for (int s = dcf_highest(bits, level); s >= dcf_lowest(bits, level); s--) {
            if (!(stops >> s & 1)) continue;
            const u32 stop = dcf_stop(stops, s);
            const u64 first = first_at[stop];
            const u32 answered = (u32)min(first > from ? first - from : 0, (u64)active);
            for (u32 l = threadIdx.x; l < leader_count && answered < active; l += DCF_THREADS) {
                const u32 leader = leaders[l], head = leader - leader % width, end = min(run_end[leader], head + active);
                u32 p = max(leader, head + answered);
                if (p >= end) continue;
                const u64 key = key0 + leader / width, mask = join(control[leader], control[leader]), b = base[key];
                const u64 own[2] = {seed[0][leader], seed[1][leader]};
                const u64 *corrections = outputs + 4 * (key * stop_count + stop);
                u64 w[8];
                dcf_expand(own, DCF_OUTPUTS, w);
#pragma unroll
                for (int j = 0; j < 4; j++) w[j] += value[leader] + (mask & corrections[j]);
                for (; p < end; p++) {
                    const u64 j = from + (p - head), y = b - thresholds[j];
                    const u32 flips = ~(u32)(y >> bits) & 1;
                    // The second party's sums are negated, and those of 1 - v.
                    const u64 sum = dcf_sign((u32)spread(party ^ flips), one_of_four(w, point[p] >> s & 3));
                    out[key * count + j] = sum + (flips & ~party & 1);
                }
            }
            active = answered;
        }
        if (active == 0) break;
        const u32 bit = bits - 1 - level;
        for (u32 l = threadIdx.x; l < leader_count; l += DCF_THREADS) {
            const u32 leader = leaders[l], head = leader - leader % width, end = min(run_end[leader], head + active);
            if (leader >= end) continue;
            const u64 at = (key0 + leader / width) * levels + level;
            const u64 own[2] = {seed[0][leader], seed[1][leader]}, sum = value[leader];
            const u32 own_control = control[leader];
            const u64 mask = join(own_control, own_control);
            u64 w[8];
            dcf_expand(own, DCF_CHILDREN, w);
#pragma unroll
            for (int j = 0; j < 4; j++) w[j] ^= mask & seeds[2 * at + j % 2];
#pragma unroll
            for (int j = 4; j < 6; j++) w[j] += sum + (mask & values[at]);
            const u32 child_controls = (u32)w[6] ^ (own_control & (u32)controls[at]);
            const u64 side = point[leader] >> bit & 1;
            auto descend = [&](u32 to, bool right) {
                seed[0][to] = right ? w[2] : w[0];
                seed[1][to] = right ? w[3] : w[1];
                value[to] = right ? w[5] : w[4];
                control[to] = (u32)spread(child_controls >> right);
                list[(level + 1) % 2][atomicAdd(&listed[(level + 1) % 3], 1u)] = to;
            };
            u32 parts = end;
            if ((point[end - 1] >> bit & 1) != side) {
                // The first point on the other side is in low + 1..=parts.
                u32 low = leader;
                parts = end - 1;
                while (parts - low > 1) {
                    u32 middle = (low + parts) / 2;
                    if ((point[middle] >> bit & 1) == side) {
                        low = middle;
                    } else {
                        parts = middle;
                    }
                }
                run_end[parts] = end;
                descend(parts, !side);
            }
            run_end[leader] = parts;
            descend(leader, side);
        }
        // Nobody reads this one any more, and nobody adds to it yet.
        if (threadIdx.x == 0) listed[(level + 2) % 3] = 0;
        __syncthreads();
    }
}
