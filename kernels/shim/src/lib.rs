//! The CUDA kernels on the host: [`Shim`] is a driver whose memory is that of the machine and whose kernels are the same
//! sources, compiled by the C++ compiler. It shows whether kernels and their launches compute the right thing, not how
//! they do on a device.
//!
//! Every copy is checked against the blocks of memory that are there, pointers of a launch must point to live blocks,
//! fresh memory is full of noise, and what lies before and behind each block is looked at after each launch and when it is
//! freed. A violation panics.

mod counting;
mod failing;
mod library;
mod memory;

pub use counting::{Asked, Counting};
pub use failing::Failing;
use kernels::cuda::Cuda;
use kernels::cuda::driver::{Address, Arg, Driver, Launch};
use kernels::cuda::source::source;
use kernels::{Device, Fault};
pub use library::NotBuilt;
use library::{Kernels, Shape};
use memory::Memory;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// In which order the threads and blocks of a kernel run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The first thread of the first block first.
    Forward,
    /// The last thread of the last block first.
    Reverse,
}

/// Memory of a device that is not told otherwise: 4 GiB.
const CAPACITY: u64 = 4 << 30;

/// A device on the host.
#[derive(Debug)]
pub struct Shim {
    kernels: Arc<Kernels>,
    order: Order,
    memory: Mutex<Memory>,
    /// Blocks of a kernel whose blocks go on to what is left.
    blocks: u32,
    /// Kernels that had fewer blocks for that.
    cut: Mutex<BTreeSet<&'static str>>,
}

/// A device with Catamount's kernels. `None`, and a line on standard error, if there is no C++ compiler.
pub fn device(order: Order) -> Option<Device> {
    Some(Arc::new(Cuda::with_driver(Arc::new(Shim::new(order)?))))
}

/// Catamount's kernels, compiled once for each version of the sources.
fn ours() -> Option<Arc<Kernels>> {
    static BUILT: OnceLock<Option<Arc<Kernels>>> = OnceLock::new();
    BUILT.get_or_init(|| built(Kernels::new(&source())).map(Arc::new)).clone()
}

/// `None`, and a line on standard error, if there is no C++ compiler.
fn built<T>(result: Result<T, NotBuilt>) -> Option<T> {
    match result {
        Ok(built) => Some(built),
        Err(e @ NotBuilt::NoCompiler(_)) if std::env::var_os(REQUIRED).is_none() => {
            eprintln!("SKIPPED: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// Set where tests must not be left out.
const REQUIRED: &str = "CATAMOUNT_REQUIRE_COMPILER";

/// A folder with a `libcuda.so` for `LD_LIBRARY_PATH` of another process, which takes the host for a device. It is lazy:
/// nothing happens before somebody waits for it. `None`, and a line on standard error, if there is no C++ compiler.
///
/// `CATAMOUNT_FAKE_CUDA` changes its answers: `init=100` is what `cuInit` returns; `count`, `retain`, `major` and
/// `module` likewise; `memory` is its size in bytes; `fail=7` loses the device at the seventh operation.
pub fn driver_folder() -> Option<PathBuf> {
    let library = built(library::build(&source(), include_str!("libcuda.cpp"), "libcuda.so"))?;
    library.parent().map(Path::to_path_buf)
}

/// What the library of [`driver_folder`] has seen in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How often somebody waited for something that had not happened yet.
    pub waits: u64,
    /// Bytes of pinned memory.
    pub pinned: u64,
    /// Bytes of pinned memory that were given back with something in them.
    pub unwiped: u64,
}

impl Seen {
    /// Now. `None` if another library, or none, is in the driver's place.
    pub fn now() -> Option<Seen> {
        // SAFETY: it is open already, or has no constructors; the function takes a number and returns one.
        unsafe {
            let library = libloading::Library::new("libcuda.so").ok()?;
            let ask = library.get::<unsafe extern "C" fn(u32) -> u64>(b"catamount_fake\0").ok()?;
            Some(Seen { waits: ask(0), pinned: ask(1), unwiped: ask(2) })
        }
    }
}

impl Shim {
    /// With Catamount's kernels. `None`, and a line on standard error, if there is no C++ compiler.
    pub fn new(order: Order) -> Option<Shim> {
        Some(Shim::of(ours()?, order))
    }

    /// With other kernels, to test the shim itself.
    pub fn with_kernels(source: &str, order: Order) -> Result<Shim, NotBuilt> {
        Ok(Shim::of(Arc::new(Kernels::new(source)?), order))
    }

    fn of(kernels: Arc<Kernels>, order: Order) -> Shim {
        let memory = Mutex::new(Memory::new(CAPACITY));
        Shim { kernels, order, memory, blocks: u32::MAX, cut: Mutex::default() }
    }

    /// The same with at most so many blocks of a kernel whose blocks go on to what is left, as on a device where that is more.
    pub fn blocks(self, most: u32) -> Shim {
        Shim { blocks: most, ..self }
    }

    /// Kernels that had fewer blocks for that.
    pub fn cut(&self) -> BTreeSet<&'static str> {
        self.cut.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The grid of a launch, with no more blocks than it may have.
    fn grid(&self, launch: &Launch) -> [u32; 3] {
        let mut grid = launch.grid;
        if let Some(axis) = self.kernels.turns(launch.kernel)
            && grid[axis] > self.blocks
        {
            grid[axis] = self.blocks;
            self.cut.lock().unwrap_or_else(|e| e.into_inner()).insert(launch.kernel);
        }
        grid
    }

    /// The same with so many bytes of memory.
    pub fn capacity(self, bytes: u64) -> Shim {
        Shim { memory: Mutex::new(Memory::new(bytes)), ..self }
    }

    fn memory_now(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Driver for Shim {
    fn name(&self) -> String {
        format!("cuda on the host ({:?})", self.order)
    }

    fn memory(&self) -> Option<(u64, u64)> {
        Some(self.memory_now().free_bytes())
    }

    fn status(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn alloc(&self, bytes: u64) -> Result<Address, Fault> {
        let mut memory = self.memory_now();
        let none = Fault::OutOfMemory { asked: bytes, free: memory.free_bytes().0 };
        memory.alloc(bytes).ok_or(none)
    }

    unsafe fn free(&self, at: Address) {
        self.memory_now().free(at);
    }

    unsafe fn zero(&self, at: Address, bytes: u64) -> Result<(), Fault> {
        self.memory_now().check_range(at, bytes, "zero");
        // SAFETY: inside a live block.
        unsafe { (at as *mut u8).write_bytes(0, bytes as usize) };
        Ok(())
    }

    unsafe fn copy_in(&self, to: Address, from: &[u8]) -> Result<(), Fault> {
        self.memory_now().check_range(to, from.len() as u64, "copy in");
        // SAFETY: inside a live block, which nothing of the host overlaps.
        unsafe { (to as *mut u8).copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        Ok(())
    }

    unsafe fn copy_out(&self, to: &mut [u8], from: Address) -> Result<(), Fault> {
        self.memory_now().check_range(from, to.len() as u64, "copy out");
        // SAFETY: as above.
        unsafe { (from as *const u8).copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch, args: &[Arg<'_>]) -> Result<(), Fault> {
        let blocks: Vec<Address> = {
            let memory = self.memory_now();
            let pointers = args.iter().filter_map(|a| match a {
                // Nothing may be read from an empty buffer, which is nowhere.
                Arg::Pointer(0) => None,
                Arg::Pointer(at) => Some(*at),
                _ => None,
            });
            let live =
                |at| memory.block_of(at).unwrap_or_else(|| panic!("{launch:?}: {at:#x} is no live block"));
            // A structure's words do not say which of them are addresses: those of blocks are taken for such.
            let inside = || args.iter().flat_map(|a| if let Arg::Block(words) = a { words } else { &[][..] });
            let gone = inside().find(|at| memory.is_gone(**at));
            assert!(gone.is_none(), "{}: {gone:#x?} is no live block any more", launch.kernel);
            pointers.map(live).chain(inside().filter_map(|at| memory.block_of(*at))).collect()
        };
        let places: Vec<*const c_void> = args.iter().map(|a| a.place().cast()).collect();
        let kinds: Vec<u32> = args
            .iter()
            .map(|a| match a {
                Arg::Pointer(_) => 0,
                Arg::U64(_) => 8,
                Arg::U32(_) => 4,
                Arg::Block(words) => size_of_val(*words) as u32,
            })
            .collect();
        let reverse = u32::from(self.order == Order::Reverse);
        let shape = Shape { grid: self.grid(launch), block: launch.block, shared: launch.shared, reverse };
        // SAFETY: there is a place for each argument; the rest is the caller's promise.
        let run = unsafe { self.kernels.launch(launch.kernel, &shape, &places, &kinds) };
        run.unwrap_or_else(|wrong| panic!("{launch:?}: {wrong}"));
        let memory = self.memory_now();
        blocks.iter().for_each(|at| memory.check(*at, launch.kernel));
        Ok(())
    }
}
