//! An owner's memory: sharing and calibration hold one parameter or one layer at a time, whatever the model's size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, mpsc};

use models::calibrate;
use models::checkpoint::{Head, ModelConfig, RandomModel};
use models::folded;
use models::parameter::Parameter;
use models::shared::Seeds;
use protocol::gates::input::PIECE;

/// The system's allocator, with what is held now and the most that was.
struct Count;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn grow(size: usize) {
    let held = HELD.fetch_add(size, Relaxed) + size;
    MOST.fetch_max(held, Relaxed);
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Count {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // As if the old block went after the new one came.
        grow(size);
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Count = Count;

/// Tests count all threads' memory, so they run one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// The most that `f` holds beyond what was held before.
fn peak<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.load(Relaxed);
    MOST.store(before, Relaxed);
    let result = f();
    (result, MOST.load(Relaxed) - before)
}

const MIB: usize = 1 << 20;

/// Large enough that a fraction of the model is more than what is allowed.
fn configs() -> Vec<ModelConfig> {
    let large = |c: ModelConfig| ModelConfig {
        vocab: 16_384,
        d_model: 512,
        d_ff: 1536,
        heads: 8,
        kv_heads: 8,
        head_dim: 64,
        layers: 8,
        context: 512,
        ..c
    };
    let llama = ModelConfig { kv_heads: 4, tied: false, ..large(ModelConfig::toy()) };
    let bert = ModelConfig { head: Head::MeanPooling, ..large(ModelConfig::toy_bert()) };
    vec![llama, large(ModelConfig::toy_gpt2()), bert]
}

#[test]
fn sharing_holds_one_parameter() {
    let _alone = ALONE.lock();
    for config in configs() {
        let all = Parameter::all(&config);
        let largest = 8 * all.iter().map(|p| p.len(&config)).max().unwrap();
        let total: usize = all.iter().map(|p| 8 * p.shared(&config).len()).sum();
        let allowed = largest + 16 * MIB;
        assert!(allowed < total / 2, "{allowed} of {total}: too small a model to prove anything");
        let mut source = RandomModel::new(config.clone(), 41).unwrap();
        let device = kernels::cpu::Cpu::best();
        let seeds = Seeds { one: [1; 32], zero: [2; 32] };
        let (sent, most) = peak(|| {
            std::thread::scope(|s| {
                // As long as the owner's, to two parties.
                let (sender, receiver) = mpsc::sync_channel::<Vec<u8>>(4);
                let consumer = s.spawn(move || receiver.into_iter().map(|bytes| bytes.len()).sum::<usize>());
                for (i, p) in Parameter::all(&config).into_iter().enumerate() {
                    let weights = folded::load(&mut source, p).unwrap();
                    let words = p.shared(&config).len();
                    for (piece, start) in (0..words).step_by(PIECE).enumerate() {
                        let mut bytes = Vec::new();
                        let words = p.words(&config, &weights, start..words.min(start + PIECE));
                        seeds.rest(&device, i, piece, words).pack(64, &mut bytes);
                        sender.send(bytes.clone()).unwrap();
                        sender.send(bytes).unwrap();
                    }
                }
                drop(sender);
                consumer.join().unwrap()
            })
        });
        assert_eq!(sent, 2 * total);
        let name = config.family.name();
        println!("{name}: {} MiB of {} to share it, {} allowed", most / MIB, total / MIB, allowed / MIB);
        assert!(most < allowed, "{name}: {} MiB, {} allowed", most / MIB, allowed / MIB);
    }
}

#[test]
fn calibration_holds_one_layer() {
    let _alone = ALONE.lock();
    for config in configs() {
        let mut source = RandomModel::new(config.clone(), 42).unwrap();
        let largest = Parameter::all(&config).iter().map(|p| p.len(&config)).max().unwrap();
        let allowed = 8 * largest + 24 * MIB;
        let weights: usize = Parameter::all(&config).iter().map(|p| 4 * p.len(&config)).sum();
        assert!(allowed < weights, "too small a model to prove anything");
        let texts = vec![calibrate::spread_tokens(&config); 2];
        let (plan, most) = peak(|| calibrate::calibrate(&mut source, &texts, |_, _| {}).unwrap());
        assert_eq!(plan.layers.len(), config.layers);
        let name = config.family.name();
        println!("{name}: {} MiB to calibrate {}, {} allowed", most / MIB, weights / MIB, allowed / MIB);
        assert!(most < allowed, "{name}: {} MiB, {} allowed", most / MIB, allowed / MIB);
    }
}
