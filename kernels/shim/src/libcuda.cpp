// What NVIDIA's driver library offers to Catamount, over the shim: so that the code that talks to the driver can be run
// without one. Follows the shim and the kernels' table.
//
// The device is lazy: what is asked of its stream happens only when somebody waits for it, so that memory that is used
// again too early shows. Copies must be from and to pinned memory, and every call needs the context on its thread.
// CATAMOUNT_FAKE_CUDA changes single answers: "init=100" is what cuInit returns, and so on, see `setting`.
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>

namespace fake {

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, NOT_FOUND = 500, NOT_READY = 600, LAUNCH_FAILED = 719 };

static std::mutex mutex;
static std::deque<std::function<void()>> queue;
static unsigned long long asked, done, used, waits, unwiped;
static int lost;
static std::map<unsigned long long, size_t> blocks;
static std::map<unsigned char *, size_t> pinned;
static std::set<unsigned long long *> events;
static std::string ptx;
static thread_local void *context;
static int the_context, the_stream, the_pool, the_module;

static unsigned long long setting(const char *name, unsigned long long otherwise) {
    const char *all = getenv("CATAMOUNT_FAKE_CUDA");
    std::string text = std::string(",") + (all ? all : ""), key = std::string(",") + name + "=";
    size_t at = text.find(key);
    return at == std::string::npos ? otherwise : strtoull(text.c_str() + at + key.size(), nullptr, 10);
}

// Somebody waits for the n-th operation of the stream, which runs up to it.
static void run(unsigned long long n) {
    waits += done < n;
    while (done < n) {
        auto next = std::move(queue.front());
        queue.pop_front();
        done++;
        if (!lost) next();
    }
}

static int later(std::function<void()> f) {
    if (context != &the_context) return INVALID_CONTEXT;
    if (lost) return lost;
    asked++;
    queue.push_back(std::move(f));
    if (asked == setting("fail", ~0ull)) queue.back() = [] { lost = LAUNCH_FAILED; };
    return OK;
}

static bool inside(unsigned long long at, size_t bytes) {
    auto next = blocks.upper_bound(at);
    if (next == blocks.begin()) return false;
    auto block = std::prev(next);
    return at - block->first + bytes <= block->second;
}

static bool is_pinned(const void *at, size_t bytes) {
    auto next = pinned.upper_bound((unsigned char *)at);
    if (next == pinned.begin()) return false;
    auto block = std::prev(next);
    return (unsigned char *)at - block->first + bytes <= block->second;
}

static void *place(unsigned long long at) { return reinterpret_cast<void *>(at); }

} // namespace fake

#define API extern "C" __attribute__((visibility("default"))) int
#define LOCK std::lock_guard<std::mutex> lock(fake::mutex)
#define CONTEXT if (fake::context != &fake::the_context) return fake::INVALID_CONTEXT
using namespace fake;

API cuInit(unsigned) { return setting("init", OK); }
API cuDeviceGetCount(int *n) { *n = setting("count", 1); return OK; }
API cuDeviceGet(int *device, int index) { *device = index; return OK; }
API cuDeviceGetName(char *name, int size, int) { snprintf(name, size, "fake"); return OK; }
API cuDeviceGetAttribute(int *value, int attribute, int) {
    *value = attribute == 75 ? setting("major", 8) : attribute == 76 ? 0 : 1;
    return OK;
}
API cuDeviceGetDefaultMemPool(void **pool, int) { *pool = &the_pool; return OK; }
API cuDevicePrimaryCtxRetain(void **c, int) { *c = &the_context; return setting("retain", OK); }
API cuDevicePrimaryCtxRelease_v2(int) { return OK; }
API cuCtxSetCurrent(void *c) { context = c; return OK; }
API cuCtxGetCurrent(void **c) { *c = context; return OK; }
API cuCtxSynchronize() { LOCK; CONTEXT; run(asked); return lost; }

API cuMemPoolSetAttribute(void *pool, int attribute, void *) { return pool == &the_pool && attribute == 4 ? OK : INVALID_VALUE; }
API cuMemPoolGetAttribute(void *pool, int attribute, void *value) {
    LOCK;
    // Reserved and used; some of what is reserved is idle.
    *static_cast<unsigned long long *>(value) = attribute == 5 ? used + 1000 : used;
    return pool == &the_pool ? OK : INVALID_VALUE;
}
API cuMemGetInfo_v2(size_t *free, size_t *total) {
    LOCK;
    CONTEXT;
    *total = setting("memory", 4ull << 30);
    *free = *total - used - 1000;
    return OK;
}
API cuMemAllocAsync(unsigned long long *at, size_t bytes, void *stream) {
    LOCK;
    CONTEXT;
    if (lost) return lost;
    if (stream != &the_stream || bytes == 0) return INVALID_VALUE;
    if (used + bytes > setting("memory", 4ull << 30)) return OUT_OF_MEMORY;
    void *p = aligned_alloc(256, (bytes + 511) / 256 * 256);
    memset(p, 0xa5, bytes);
    blocks[*at = (unsigned long long)p] = bytes;
    used += bytes;
    return OK;
}
API cuMemFreeAsync(unsigned long long at, void *) {
    LOCK;
    if (!blocks.count(at)) return INVALID_VALUE;
    return later([at] { used -= blocks[at]; blocks.erase(at); free(place(at)); });
}
API cuMemHostAlloc(void **at, size_t bytes, unsigned flags) {
    LOCK;
    CONTEXT;
    // Memory for reading must not be write-combined (4).
    if (flags != 0) return INVALID_VALUE;
    pinned[(unsigned char *)(*at = malloc(bytes))] = bytes;
    memset(*at, 0xa5, bytes);
    return OK;
}
API cuMemFreeHost(void *at) {
    LOCK;
    CONTEXT;
    auto block = pinned.find((unsigned char *)at);
    if ((done != asked && !lost) || block == pinned.end()) return INVALID_VALUE;
    for (size_t i = 0; i < block->second; i++) unwiped += block->first[i] != 0;
    pinned.erase(block);
    free(at);
    return OK;
}
API cuMemsetD8Async(unsigned long long at, unsigned char value, size_t bytes, void *) {
    LOCK;
    if (!inside(at, bytes)) return INVALID_VALUE;
    return later([=] { memset(place(at), value, bytes); });
}
API cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t bytes, void *) {
    LOCK;
    if (!inside(to, bytes) || !is_pinned(from, bytes)) return INVALID_VALUE;
    return later([=] { memcpy(place(to), from, bytes); });
}
API cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, size_t bytes, void *) {
    LOCK;
    if (!inside(from, bytes) || !is_pinned(to, bytes)) return INVALID_VALUE;
    return later([=] { memcpy(to, place(from), bytes); });
}

API cuModuleLoadData(void **module, const void *text) {
    *module = &the_module;
    ptx = static_cast<const char *>(text);
    return setting("module", ptx.find(".target sm_80") == std::string::npos ? 218 : OK);
}
API cuModuleGetFunction(const void **function, void *, const char *name) {
    if (ptx.find(std::string(".entry ") + name + "(") == std::string::npos) return NOT_FOUND;
    for (const auto &entry : shim_kernels)
        if (strcmp(entry.name, name) == 0) {
            *function = &entry;
            return OK;
        }
    return NOT_FOUND;
}
// Of each function, from when it is asked for on: launches of other threads may come between.
static std::map<const void *, unsigned> allowed_shared;
API cuFuncSetAttribute(const void *function, int attribute, int value) {
    LOCK;
    if (attribute != 8) return INVALID_VALUE;
    allowed_shared[function] = value;
    return OK;
}
API cuLaunchKernel(const void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **params, void **) {
    LOCK;
    auto allowed = allowed_shared.find(function);
    if (shared > (allowed == allowed_shared.end() ? 48 << 10 : allowed->second)) return INVALID_VALUE;
    if (stream != &the_stream || gx == 0) return INVALID_VALUE;
    auto entry = static_cast<const shim::Entry *>(function);
    std::vector<std::vector<unsigned long long>> values(entry->count);
    for (unsigned i = 0; i < entry->count; i++) {
        unsigned size = entry->kinds[i] ? entry->kinds[i] : 8;
        values[i].resize((size + 7) / 8);
        memcpy(values[i].data(), params[i], size);
    }
    return later([=] {
        shim::Launch launch = {{gx, gy, gz}, {bx, by, bz}, shared, 0};
        std::vector<const void *> args;
        for (const auto &v : values) args.push_back(v.data());
        if (entry->start(launch, entry->cooperative, (void *const *)args.data(), entry->kinds, entry->count)) lost = LAUNCH_FAILED;
    });
}

API cuStreamCreate(void **stream, unsigned flags) { CONTEXT; *stream = &the_stream; return flags == 1 ? OK : INVALID_VALUE; }
API cuStreamDestroy_v2(void *) { LOCK; CONTEXT; run(asked); return lost; }
API cuStreamSynchronize(void *) { LOCK; CONTEXT; run(asked); return lost; }
API cuStreamQuery(void *) { LOCK; CONTEXT; return lost ? lost : done == asked ? OK : NOT_READY; }
API cuEventCreate(void **event, unsigned) {
    LOCK;
    CONTEXT;
    auto number = new unsigned long long(0);
    events.insert(number);
    *event = number;
    return OK;
}
API cuEventRecord(void *event, void *) { LOCK; CONTEXT; *static_cast<unsigned long long *>(event) = asked; return lost; }
API cuEventSynchronize(void *event) { LOCK; CONTEXT; run(*static_cast<unsigned long long *>(event)); return lost; }
API cuEventDestroy_v2(void *event) {
    LOCK;
    CONTEXT;
    auto number = static_cast<unsigned long long *>(event);
    if (!events.erase(number)) return INVALID_VALUE;
    delete number;
    return OK;
}

// What tests ask: how often somebody had to wait, bytes of pinned memory, and how many of what was given back still held
// something.
extern "C" __attribute__((visibility("default"))) unsigned long long catamount_fake(unsigned which) {
    LOCK;
    unsigned long long held = 0;
    for (const auto &block : pinned) held += block.second;
    return which == 0 ? waits : which == 1 ? held : unwiped;
}

API cuGetErrorString(int code, const char **text) { *text = code == LAUNCH_FAILED ? "launch failed" : "an error"; return OK; }
API cuGetErrorName(int code, const char **text) { return cuGetErrorString(code, text); }
