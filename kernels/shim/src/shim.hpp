// Runs CUDA kernels on the host. The kernels' sources follow this file, then a table of them (see library.rs).
//
// A kernel whose threads never meet is a loop over its threads. A COOPERATIVE one runs each thread of a block in a fibre:
// a fibre runs until it meets a barrier or a shuffle, and goes on once all others that have to are there too. Threads run
// in ascending or in descending order; a result that depends on it lacks a barrier. Blocks run one after the other.
//
// Not shown by this: what depends on real concurrency (memory ordering, atomics between blocks), speed, and code inside
// #ifndef CATAMOUNT_SHIM.
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>
#include <ucontext.h>

#define CATAMOUNT_SHIM 1
#define __global__
#define __device__ static
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
// One block runs at a time, in a section that is filled with noise before it.
#define __shared__ static __attribute__((section("shim_shared")))

extern "C" __attribute__((weak, visibility("hidden"))) unsigned char __start_shim_shared[], __stop_shim_shared[];

struct dim3 { unsigned x, y, z; };
static dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {
static void aligned(const void *at, size_t to);
}

// A vector's words. A device stops where one in memory is not aligned; so do these, wherever one is copied.
template <class T, int N> struct alignas(N * sizeof(T)) Words;
template <class T> struct alignas(2 * sizeof(T)) Words<T, 2> {
    T x, y;
};
template <class T> struct alignas(4 * sizeof(T)) Words<T, 4> {
    T x, y, z, w;
};
template <class T, int N> struct Vector : Words<T, N> {
    Vector() = default;
    template <class... A> Vector(T x, T y, A... rest) : Words<T, N>{x, y, rest...} {}
    Vector(const Vector &from) { *this = from; }
    Vector &operator=(const Vector &from) {
        shim::aligned(this, alignof(Vector));
        shim::aligned(&from, alignof(Vector));
        memcpy(this, &from, sizeof from);
        return *this;
    }
};
using uint2 = Vector<unsigned, 2>;
using uint4 = Vector<unsigned, 4>;
using ulonglong2 = Vector<unsigned long long, 2>;
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) { return {x, y}; }

namespace shim {

constexpr int THREADS = 1024, WARP = 32;
constexpr size_t STACK = 256 << 10;

enum class At { RUNNING, BLOCK, WARP, DONE };

struct Fibre {
    ucontext_t start;
    jmp_buf go_on;
    dim3 thread;
    At at;
    // The line of the barrier it waits at.
    int line;
    bool started;
    std::unique_ptr<char[]> stack;
};

static Fibre fibres[THREADS];
static int current;
static bool in_fibre;
static jmp_buf scheduler, stopped;
static void (*body)(void *);
static void *body_data;
static char message[256];
alignas(128) static unsigned char dynamic_shared[256 << 10];
static unsigned long long slots[THREADS];

// Ends the kernel. Fibres that are left behind begin anew.
template <class... A> [[noreturn]] static void stop(const char *format, A... args) {
    snprintf(message, sizeof message, format, args...);
    for (auto &f : fibres) f.started = false;
    _longjmp(stopped, 1);
}

static inline __attribute__((always_inline)) void aligned(const void *at, size_t to) {
    // The compiler takes it for granted otherwise.
    asm("" : "+r"(at));
    if ((size_t)at % to) stop("%p is not aligned for a vector of %zu bytes", at, to);
}

static void fibre_main() {
    for (;;) {
        body(body_data);
        Fibre &f = fibres[current];
        f.at = At::DONE;
        if (_setjmp(f.go_on) == 0) _longjmp(scheduler, 1);
    }
}

// Stops this thread until the others of its block or warp are here.
static __attribute__((noinline)) void meet(At what, int line) {
    if (!in_fibre) stop("line %d: threads meet in a kernel that is not declared COOPERATIVE", line);
    Fibre &f = fibres[current];
    f.at = what;
    f.line = line;
    if (_setjmp(f.go_on) == 0) _longjmp(scheduler, 1);
}

static __attribute__((noinline)) void resume(int i) {
    Fibre &f = fibres[i];
    current = i;
    threadIdx = f.thread;
    f.at = At::RUNNING;
    if (_setjmp(scheduler) == 0) {
        if (f.started) _longjmp(f.go_on, 1);
        f.started = true;
        if (!f.stack) f.stack.reset(new char[STACK]);
        getcontext(&f.start);
        f.start.uc_stack.ss_sp = f.stack.get();
        f.start.uc_stack.ss_size = STACK;
        f.start.uc_link = nullptr;
        makecontext(&f.start, fibre_main, 0);
        setcontext(&f.start);
    }
}

[[noreturn]] static void stuck(const char *what, int a, int b) {
    stop("%s (threads %d at line %d and %d at line %d)", what, a, fibres[a].line, b, fibres[b].line);
}

// One block, in fibres.
static void run_block(int threads, bool reverse) {
    for (int i = 0; i < threads; i++) {
        unsigned x = blockDim.x, y = blockDim.y;
        fibres[i].thread = {i % x, i / x % y, i / (x * y)};
        fibres[i].at = At::RUNNING;
        fibres[i].line = 0;
    }
    int warps = (threads + WARP - 1) / WARP;
    for (;;) {
        for (int w = 0; w < warps; w++) {
            int warp = reverse ? warps - 1 - w : w, first = warp * WARP, last = std::min(first + WARP, threads) - 1;
            if (fibres[first].at != At::RUNNING) continue;
            for (;;) {
                for (int i = first; i <= last; i++) resume(reverse ? first + last - i : i);
                const Fibre &f = fibres[first];
                for (int i = first + 1; i <= last; i++) {
                    if (f.at == At::WARP && (fibres[i].at != f.at || fibres[i].line != f.line))
                        stuck("not all lanes take part in a shuffle", first, i);
                    if (f.at != At::WARP && fibres[i].at == At::WARP)
                        stuck("not all lanes take part in a shuffle", i, first);
                }
                if (f.at != At::WARP) break;
            }
        }
        const Fibre &f = fibres[0];
        for (int i = 1; i < threads; i++)
            if (fibres[i].at != f.at || (f.at == At::BLOCK && fibres[i].line != f.line))
                stuck("not all threads meet at a barrier", 0, i);
        if (f.at == At::DONE) return;
        for (int i = 0; i < threads; i++) fibres[i].at = At::RUNNING;
    }
}

struct Launch {
    unsigned grid[3], block[3], shared, reverse;
};

template <class F> static const char *run(const Launch &l, bool cooperative, F f) {
    gridDim = {l.grid[0], l.grid[1], l.grid[2]};
    blockDim = {l.block[0], l.block[1], l.block[2]};
    unsigned long long blocks = 1ull * gridDim.x * gridDim.y * gridDim.z;
    unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    if (threads == 0 || threads > THREADS || l.shared > sizeof dynamic_shared) return "impossible size of a block";
    if (_setjmp(stopped)) return message;
    for (unsigned long long n = 0; n < blocks; n++) {
        unsigned long long b = l.reverse ? blocks - 1 - n : n;
        blockIdx = {unsigned(b % gridDim.x), unsigned(b / gridDim.x % gridDim.y), unsigned(b / gridDim.x / gridDim.y)};
        // What an earlier block left in shared memory must not matter.
        memset(dynamic_shared, 0xa5, l.shared);
        if (cooperative) {
            if (__start_shim_shared) memset(__start_shim_shared, 0xa5, __stop_shim_shared - __start_shim_shared);
            body = [](void *data) { (*static_cast<F *>(data))(); };
            body_data = &f;
            in_fibre = true;
            run_block(threads, l.reverse);
        } else {
            in_fibre = false;
            for (unsigned t = 0; t < threads; t++) {
                unsigned i = l.reverse ? threads - 1 - t : t, x = blockDim.x, y = blockDim.y;
                threadIdx = {i % x, i / x % y, i / (x * y)};
                f();
            }
        }
    }
    return nullptr;
}

// Kinds of arguments: 0 for a pointer, else the size.
template <class T> constexpr unsigned kind = std::is_pointer_v<T> ? 0 : sizeof(T);

template <auto F> struct Kernel;
template <class... A, void (*F)(A...)> struct Kernel<F> {
    template <size_t... I>
    static const char *call(const Launch &l, bool cooperative, void *const *args, std::index_sequence<I...>) {
        return run(l, cooperative, [&] { F(*static_cast<std::remove_const_t<A> *>(args[I])...); });
    }
    // Ends with one more, as there may be none.
    static constexpr unsigned want[] = {kind<A>..., 0};
    static constexpr unsigned count = sizeof...(A);
    static const char *start(const Launch &l, bool cooperative, void *const *args, const unsigned *kinds, unsigned n) {
        if (n != sizeof...(A)) return "wrong number of arguments";
        for (unsigned i = 0; i < n; i++)
            if (kinds[i] != want[i]) {
                snprintf(message, sizeof message, "argument %u has the wrong type", i);
                return message;
            }
        return call(l, cooperative, args, std::index_sequence_for<A...>{});
    }
};

struct Entry {
    const char *name;
    const char *(*start)(const Launch &, bool, void *const *, const unsigned *, unsigned);
    bool cooperative;
    // Kinds of its arguments.
    const unsigned *kinds;
    unsigned count;
};

// The word of another lane.
template <class T> static inline T from_lane(T v, int lane, int line) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    int warp = current & ~(WARP - 1);
    memcpy(&slots[current], &v, sizeof v);
    meet(At::WARP, line);
    T other;
    memcpy(&other, &slots[warp + (lane & (WARP - 1))], sizeof other);
    meet(At::WARP, line);
    return other;
}

// One bit of each lane.
static inline unsigned ballot(bool bit, int line) {
    int warp = current & ~(WARP - 1);
    slots[current] = bit;
    meet(At::WARP, line);
    unsigned all = 0;
    for (int i = 0; i < WARP; i++) all |= unsigned(slots[warp + i]) << i;
    meet(At::WARP, line);
    return all;
}

static inline int lane() { return current & (WARP - 1); }

} // namespace shim

#define DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(shim::dynamic_shared)
#define __syncthreads() shim::meet(shim::At::BLOCK, __LINE__)
#define __syncwarp(...) shim::meet(shim::At::WARP, __LINE__)
#define __shfl_xor_sync(mask, v, far) shim::from_lane(v, shim::lane() ^ (far), __LINE__)
#define __shfl_sync(mask, v, from) shim::from_lane(v, from, __LINE__)
#define __shfl_down_sync(mask, v, by) shim::from_lane(v, shim::lane() + (by) > 31 ? shim::lane() : shim::lane() + (by), __LINE__)
#define __shfl_up_sync(mask, v, by) shim::from_lane(v, shim::lane() < int(by) ? shim::lane() : shim::lane() - int(by), __LINE__)
#define __ballot_sync(mask, bit) shim::ballot(bit, __LINE__)

template <class T, class V> static inline T atomicAdd(T *p, V v) { T old = *p; *p += v; return old; }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    unsigned long long both = (unsigned long long)y << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        unsigned s = selector >> (4 * i), byte = both >> (8 * (s & 7)) & 0xff;
        if (s & 8) byte = byte & 0x80 ? 0xff : 0;
        out |= byte << (8 * i);
    }
    return out;
}
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline unsigned long long min(unsigned long long a, unsigned long long b) { return a < b ? a : b; }
static inline unsigned long long max(unsigned long long a, unsigned long long b) { return a > b ? a : b; }

