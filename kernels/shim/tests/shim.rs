//! The shim notices what it is there to notice.

use kernels::Fault;
use kernels::cuda::driver::{Address, Arg, Driver, Launch};
use kernels::cuda::source::FILES;
use kernels_shim::{NotBuilt, Order, Shim};

/// Behind what all kernels share.
const KERNELS: &str = r#"
extern "C" __global__ void count(u64 *out, u64 n) {
    u64 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] += i;
}

extern "C" __global__ void last_writer(u64 *out) { *out = blockIdx.x * blockDim.x + threadIdx.x; }

extern "C" __global__ void turns(u64 *out, u64 n) { FOR_EACH(i, n) out[i] = 10 * gridDim.x + blockIdx.x; }

extern "C" __global__ void COOPERATIVE reversed_block(const u64 *a, u64 *out) {
    __shared__ u64 tile[64];
    tile[threadIdx.x] = a[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = tile[63 - threadIdx.x];
}

extern "C" __global__ void COOPERATIVE without_barrier(const u64 *a, u64 *out) {
    __shared__ u64 tile[64];
    tile[threadIdx.x] = a[threadIdx.x];
    out[threadIdx.x] = tile[63 - threadIdx.x];
}

extern "C" __global__ void COOPERATIVE dynamic(const u64 *a, u64 *out) {
    DYNAMIC_SHARED(u64, tile);
    tile[threadIdx.x] = a[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x ^ 1];
}

extern "C" __global__ void COOPERATIVE warp_sums(const u64 *a, u64 *out, u32 rounds) {
    u64 v = a[threadIdx.x];
    // Warps need not agree on how often.
    for (u32 i = 0; i < rounds * (1 + threadIdx.x / 32); i++)
        for (int far = 16; far > 0; far /= 2) v += __shfl_xor_sync(~0u, v, far);
    out[threadIdx.x] = v;
}

extern "C" __global__ void COOPERATIVE warp_moves(u32 *out) {
    u32 lane = threadIdx.x;
    out[lane] = __shfl_up_sync(~0u, lane, 3) | __shfl_down_sync(~0u, lane, 5) << 8 | __shfl_sync(~0u, lane, 7) << 16;
    out[32 + lane] = __ballot_sync(~0u, lane % 3 == 0);
}

extern "C" __global__ void COOPERATIVE divergent(u64 *out) {
    if (threadIdx.x < 32) __syncthreads();
    else __syncthreads();
    out[0] = 1;
}

extern "C" __global__ void COOPERATIVE early(u64 *out) {
    if (threadIdx.x == 5) return;
    __syncthreads();
    out[0] = 1;
}

extern "C" __global__ void COOPERATIVE half_a_warp(u64 *out) {
    u64 v = threadIdx.x;
    if (threadIdx.x < 16) v += __shfl_xor_sync(~0u, v, 1);
    out[threadIdx.x] = v;
}

extern "C" __global__ void beyond(u64 *out, u64 at) { out[at] = 7; }

extern "C" __global__ void meets_undeclared(u64 *out) { __syncthreads(); }

extern "C" __global__ void two_words(u64 *out, u64 at) { *(ulonglong2 *)(out + at) = {5, 6}; }

extern "C" __global__ void COOPERATIVE two_words_later(u64 *out, u64 at) {
    __syncthreads();
    if (threadIdx.x == 40) *(ulonglong2 *)(out + at) = {5, 6};
}

extern "C" __global__ void COOPERATIVE mma(const u32 *a, const u32 *b, int *out) {
    u32 lane = threadIdx.x;
    Left left = {};
    Right right = {};
    for (int i = 0; i < 4; i++) left.limb[3][i] = a[4 * lane + i];
    for (int i = 0; i < 2; i++) right.limb[5][i] = b[2 * lane + i];
    int d[4] = {1, 1, 1, 1};
    present(left);
    present(right);
    multiply(d, left, 3, right, 5);
    for (int i = 0; i < 4; i++) out[4 * lane + i] = d[i];
}
"#;

fn shim(order: Order) -> Option<Shim> {
    let shared = FILES.iter().filter(|(name, _)| name.ends_with(".cuh")).map(|(_, text)| *text);
    let source: String = shared.chain([KERNELS]).collect();
    match Shim::with_kernels(&source, order) {
        Ok(shim) => Some(shim),
        Err(e @ NotBuilt::NoCompiler(_)) => {
            eprintln!("SKIPPED: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

fn put(shim: &Shim, words: &[u64]) -> Address {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let at = shim.alloc(bytes.len() as u64).expect("room");
    // SAFETY: as many bytes were allocated.
    unsafe { shim.copy_in(at, &bytes) }.expect("host memory");
    at
}

fn get(shim: &Shim, at: Address, words: usize) -> Vec<u64> {
    let mut bytes = vec![0; 8 * words];
    // SAFETY: checked by the shim.
    unsafe { shim.copy_out(&mut bytes, at) }.expect("host memory");
    bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect()
}

fn launch(shim: &Shim, kernel: &'static str, blocks: u32, threads: u32, args: &[Arg<'_>]) {
    let launch = Launch { kernel, grid: [blocks, 1, 1], block: [threads, 1, 1], shared: 512 };
    // SAFETY: kernels of this file stay inside their buffers, or write into a guard.
    unsafe { shim.launch(&launch, args) }.expect("kernels do not fail");
}

/// What a panic says.
fn panics(f: impl FnOnce()) -> String {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).expect_err("a violation");
    panic.downcast_ref::<String>().cloned().expect("a formatted message")
}

const ORDERS: [Order; 2] = [Order::Forward, Order::Reverse];

#[test]
fn grids_and_order() {
    for order in ORDERS {
        let Some(shim) = shim(order) else { return };
        let out = put(&shim, &[100; 70]);
        launch(&shim, "count", 3, 32, &[Arg::Pointer(out), Arg::U64(70)]);
        assert_eq!(get(&shim, out, 70), (100..170).collect::<Vec<u64>>());
        launch(&shim, "last_writer", 3, 32, &[Arg::Pointer(out)]);
        assert_eq!(get(&shim, out, 1), [if order == Order::Forward { 95 } else { 0 }]);
    }
}

#[test]
fn fewer_blocks_take_turns() {
    for order in ORDERS {
        let Some(shim) = shim(order).map(|s| s.blocks(2)) else { return };
        let out = put(&shim, &[0; 70]);
        launch(&shim, "turns", 2, 32, &[Arg::Pointer(out), Arg::U64(70)]);
        assert!(shim.cut().is_empty());
        launch(&shim, "turns", 3, 32, &[Arg::Pointer(out), Arg::U64(70)]);
        assert_eq!(get(&shim, out, 70), (0..70).map(|i| 20 + i / 32 % 2).collect::<Vec<u64>>());
        // One whose blocks do not go on has all of them.
        launch(&shim, "count", 3, 32, &[Arg::Pointer(out), Arg::U64(70)]);
        assert_eq!(get(&shim, out, 70), (0..70).map(|i| 20 + i / 32 % 2 + i).collect::<Vec<u64>>());
        assert_eq!(shim.cut().into_iter().collect::<Vec<_>>(), ["turns"]);
    }
}

#[test]
fn barriers_make_threads_wait_and_their_lack_shows() {
    for order in ORDERS {
        let Some(shim) = shim(order) else { return };
        let words: Vec<u64> = (1000..1064).collect();
        let want: Vec<u64> = words.iter().rev().copied().collect();
        let (a, out) = (put(&shim, &words), put(&shim, &[0; 64]));
        let args = [Arg::Pointer(a), Arg::Pointer(out)];
        launch(&shim, "without_barrier", 1, 64, &args);
        assert_ne!(get(&shim, out, 64), want);
        launch(&shim, "reversed_block", 1, 64, &args);
        assert_eq!(get(&shim, out, 64), want);
        launch(&shim, "dynamic", 1, 64, &args);
        assert_eq!(get(&shim, out, 4), [1001, 1000, 1003, 1002]);
    }
}

#[test]
fn warps_exchange_words() {
    for order in ORDERS {
        let Some(shim) = shim(order) else { return };
        let (a, out) = (put(&shim, &(0..96).collect::<Vec<u64>>()), put(&shim, &[0; 96]));
        launch(&shim, "warp_sums", 1, 96, &[Arg::Pointer(a), Arg::Pointer(out), Arg::U32(1)]);
        let sum = |w: u64| (32 * w..32 * w + 32).sum::<u64>();
        let want: Vec<u64> = (0..3).flat_map(|w| [sum(w) << (5 * w); 32]).collect();
        assert_eq!(get(&shim, out, 96), want);
        launch(&shim, "warp_moves", 1, 32, &[Arg::Pointer(out)]);
        let halves: Vec<u64> =
            get(&shim, out, 32).into_iter().flat_map(|w| [w & 0xffff_ffff, w >> 32]).collect();
        for (lane, got) in (0..32).zip(&halves) {
            let up = if lane < 3 { lane } else { lane - 3 };
            let down = if lane + 5 > 31 { lane } else { lane + 5 };
            assert_eq!(*got, up | down << 8 | 7 << 16);
        }
        let ballot = (0..32).filter(|lane| lane % 3 == 0).map(|lane| 1 << lane).sum::<u64>();
        assert_eq!(halves[32..], vec![ballot; 32]);
    }
}

/// Fragments as NVIDIA's PTX manual numbers them, against the product written plainly.
#[test]
fn tensor_products() {
    let Some(shim) = shim(Order::Forward) else { return };
    let a = |row: usize, k: usize| ((row * 37 + k * 11) % 256) as u64;
    let b = |k: usize, col: usize| ((k * 29 + col * 101 + 3) % 256) as u64;
    let four = |f: &dyn Fn(usize) -> u64| (0..4).map(|i| f(i) << (8 * i)).sum::<u64>();
    let (mut fa, mut fb) = (vec![], vec![]);
    for lane in 0..32 {
        let (group, t) = (lane / 4, lane % 4);
        let word = |reg: usize| four(&|i| a(group + 8 * (reg % 2), 4 * t + i + 16 * (reg / 2)));
        fa.extend([word(0) | word(1) << 32, word(2) | word(3) << 32]);
        let word = |reg: usize| four(&|i| b(4 * t + i + 16 * reg, group));
        fb.push(word(0) | word(1) << 32);
    }
    let (fa, fb, out) = (put(&shim, &fa), put(&shim, &fb), put(&shim, &[0; 64]));
    launch(&shim, "mma", 1, 32, &[Arg::Pointer(fa), Arg::Pointer(fb), Arg::Pointer(out)]);
    let got: Vec<u64> = get(&shim, out, 64).into_iter().flat_map(|w| [w & 0xffff_ffff, w >> 32]).collect();
    for lane in 0..32 {
        for i in 0..4 {
            let (row, col) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
            let want = 1 + (0..32).map(|k| a(row, k) * b(k, col)).sum::<u64>();
            assert_eq!(got[4 * lane + i], want, "row {row}, column {col}");
        }
    }
}

#[test]
fn threads_that_miss_each_other_are_reported() {
    for order in ORDERS {
        let Some(shim) = shim(order) else { return };
        let out = put(&shim, &[0; 64]);
        let run = |kernel| panics(|| launch(&shim, kernel, 1, 64, &[Arg::Pointer(out)]));
        assert!(run("divergent").contains("not all threads meet at a barrier"));
        assert!(run("early").contains("not all threads meet at a barrier"));
        assert!(run("half_a_warp").contains("not all lanes take part in a shuffle"));
        assert!(run("meets_undeclared").contains("not declared COOPERATIVE"));
        // And the shim goes on.
        let a = put(&shim, &[1; 64]);
        launch(&shim, "reversed_block", 1, 64, &[Arg::Pointer(a), Arg::Pointer(out)]);
        assert_eq!(get(&shim, out, 64), [1; 64]);
    }
}

/// A device stops where a vector is not aligned; so does the shim.
#[test]
fn vectors_are_aligned() {
    let Some(shim) = shim(Order::Forward) else { return };
    let out = put(&shim, &[0; 64]);
    for kernel in ["two_words", "two_words_later"] {
        let run = |at| launch(&shim, kernel, 1, 64, &[Arg::Pointer(out), Arg::U64(at)]);
        run(2);
        assert_eq!(get(&shim, out, 4), [0, 0, 5, 6]);
        assert!(panics(|| run(3)).contains("is not aligned"));
    }
}

#[test]
fn arguments_are_held_against_the_kernel() {
    let Some(shim) = shim(Order::Forward) else { return };
    let out = put(&shim, &[0; 4]);
    let run = |args: &[Arg]| panics(|| launch(&shim, "count", 1, 32, args));
    assert!(run(&[Arg::Pointer(out)]).contains("number of arguments"));
    assert!(run(&[Arg::Pointer(out), Arg::U32(4)]).contains("argument 1 has the wrong type"));
    assert!(run(&[Arg::U64(out), Arg::U64(4)]).contains("argument 0 has the wrong type"));
    assert!(run(&[Arg::Pointer(out - 4096), Arg::U64(4)]).contains("no live block"));
    assert!(panics(|| launch(&shim, "absent", 1, 32, &[])).contains("no such kernel"));
}

#[test]
fn memory_is_guarded() {
    let Some(shim) = shim(Order::Forward) else { return };
    let out = put(&shim, &[1, 2, 3]);
    for at in [3, u64::MAX] {
        let says = panics(|| launch(&shim, "beyond", 1, 1, &[Arg::Pointer(out), Arg::U64(at)]));
        assert!(says.contains("outside a block of 24 bytes (beyond)"), "{says}");
        // SAFETY: the guard belongs to the block.
        unsafe { ((out as *mut u64).wrapping_add(at as usize)).write(0xa5a5_a5a5_a5a5_a5a5) };
    }
    assert!(panics(|| drop(get(&shim, out, 4))).contains("not inside a live block"));
    assert_eq!(get(&shim, out, 3), [1, 2, 3]);
    // SAFETY: it is not used any more, other than to see that the shim knows.
    unsafe { shim.free(out) };
    assert!(panics(|| drop(get(&shim, out, 1))).contains("not inside a live block"));
    assert!(
        panics(|| launch(&shim, "beyond", 1, 1, &[Arg::Pointer(out), Arg::U64(0)])).contains("no live block")
    );
    // In a structure as well.
    assert!(
        panics(|| launch(&shim, "beyond", 1, 1, &[Arg::Block(&[7, out])])).contains("no live block any more")
    );
    // SAFETY: as above.
    assert!(panics(|| unsafe { shim.free(out) }).contains("not a live block"));
}

#[test]
fn fresh_memory_is_noise_and_memory_ends() {
    let Some(shim) = shim(Order::Forward).map(|s| s.capacity(100)) else { return };
    let a = shim.alloc(80).expect("room");
    assert_eq!(get(&shim, a, 10), [0xa5a5_a5a5_a5a5_a5a5; 10]);
    assert_eq!(shim.alloc(24), Err(Fault::OutOfMemory { asked: 24, free: 20 }));
    assert_eq!(shim.memory(), Some((20, 100)));
    // SAFETY: nobody uses it.
    unsafe { shim.free(a) };
    assert_eq!(shim.memory(), Some((100, 100)));
    // SAFETY: as many bytes were allocated.
    unsafe { shim.zero(shim.alloc(24).expect("room again"), 24) }.expect("host memory");
}
