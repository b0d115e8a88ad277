//! What a device must be able to do. One implementation drives a graphics processor ([`super::open`]); another one
//! runs the same kernels on the host, for tests where there is none.

use crate::failure::Fault;
use std::fmt::Debug;

/// A place in the device's memory.
pub type Address = u64;

/// How a kernel is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Its name in the sources.
    pub kernel: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

impl Launch {
    /// Threads of a block where nothing else is needed.
    pub const THREADS: u32 = 256;
    /// More blocks do not make a device busier; kernels loop over what is left.
    const BLOCKS: u64 = 1 << 14;

    /// At least one thread for each of `n` elements, or as many as make sense: the kernel loops, see `FOR_EACH` in
    /// `prelude.cuh`.
    pub fn over(kernel: &'static str, n: usize) -> Launch {
        Launch::blocks(kernel, (n as u64).div_ceil(u64::from(Launch::THREADS)))
    }

    /// So many blocks, or as many as make sense: the kernel loops.
    pub fn blocks(kernel: &'static str, blocks: u64) -> Launch {
        let blocks = blocks.min(Launch::BLOCKS) as u32;
        Launch { kernel, grid: [blocks, 1, 1], block: [Launch::THREADS, 1, 1], shared: 0 }
    }

    /// One warp of 32 threads for each element, see `FOR_EACH_WARP`.
    pub fn warps(kernel: &'static str, n: usize) -> Launch {
        Launch::blocks(kernel, (n as u64).div_ceil(u64::from(Launch::THREADS / 32)))
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg<'a> {
    /// `u64*`, `u32*`, …
    Pointer(Address),
    /// `u64`
    U64(u64),
    /// `u32`
    U32(u32),
    /// A structure of so many words, passed by value.
    Block(&'a [u64]),
}

impl Arg<'_> {
    /// Words that are or may be addresses.
    pub fn addresses(&self) -> impl Iterator<Item = Address> {
        let (one, words) = match self {
            Arg::Pointer(at) => (Some(*at), &[][..]),
            Arg::Block(words) => (None, *words),
            Arg::U64(_) | Arg::U32(_) => (None, &[][..]),
        };
        one.into_iter().chain(words.iter().copied())
    }

    /// Where its bytes are, for an interface that takes pointers to arguments and does not write to them.
    pub fn place(&self) -> *const u8 {
        match self {
            Arg::Pointer(v) | Arg::U64(v) => (&raw const *v).cast(),
            Arg::U32(v) => (&raw const *v).cast(),
            Arg::Block(words) => words.as_ptr().cast(),
        }
    }
}

impl From<u64> for Arg<'_> {
    fn from(v: u64) -> Self {
        Arg::U64(v)
    }
}

impl From<usize> for Arg<'_> {
    fn from(v: usize) -> Self {
        Arg::U64(v as u64)
    }
}

impl From<u32> for Arg<'_> {
    fn from(v: u32) -> Self {
        Arg::U32(v)
    }
}

/// A device with memory of its own that runs kernels. Everything happens in the order in which it was asked for; only
/// `copy_out` waits for it. A copy to the device may wait for an earlier one, but a small one not for any of the last 63, and
/// none for anything that was asked after the copy it waits for.
pub trait Driver: Send + Sync + Debug {
    /// For people.
    fn name(&self) -> String;
    /// Free bytes, and all.
    fn memory(&self) -> Option<(u64, u64)>;
    /// Whether anything that was started before is known to have failed. Does not wait.
    fn status(&self) -> Result<(), Fault>;
    /// Memory for `bytes` (at least 1), aligned to 256 bytes, with anything in it.
    fn alloc(&self, bytes: u64) -> Result<Address, Fault>;

    /// Takes memory back once everything asked for so far is done.
    ///
    /// # Safety
    /// `at` came from `alloc` of this driver and is used no more.
    unsafe fn free(&self, at: Address);
    /// Writes zeros.
    ///
    /// # Safety
    /// `bytes` from `at` on are allocated.
    unsafe fn zero(&self, at: Address, bytes: u64) -> Result<(), Fault>;
    /// Copies from the host. `from` may change once this returns.
    ///
    /// # Safety
    /// As many bytes from `to` on are allocated.
    unsafe fn copy_in(&self, to: Address, from: &[u8]) -> Result<(), Fault>;
    /// Copies to the host, once everything asked for so far is done.
    ///
    /// # Safety
    /// As many bytes from `from` on are allocated.
    unsafe fn copy_out(&self, to: &mut [u8], from: Address) -> Result<(), Fault>;
    /// Runs a kernel.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and with this shape it stays inside the memory they point to.
    unsafe fn launch(&self, launch: &Launch, args: &[Arg<'_>]) -> Result<(), Fault>;
}
