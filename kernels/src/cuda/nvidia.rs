//! NVIDIA's driver, opened at run time. A program starts and says what is missing where there is none.

mod staging;

use super::driver::{Address, Arg, Driver, Launch};
use super::{Cuda, ptx, source};
use crate::backend::Device;
use crate::failure::Fault;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaStream, sys};
use staging::Staging;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::panic::catch_unwind;
use std::sync::Arc;

/// Why there is no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoDevice {
    /// The driver's library was not found.
    #[error(
        "no NVIDIA driver on this machine (libcuda.so.1 was not found); install it, or compute with --device cpu"
    )]
    NoDriver,
    /// The library lacks what this program needs: it is a stub of the toolkit, or very old.
    #[error(
        "libcuda.so.1 is not a usable NVIDIA driver ({what}): take toolkit stubs out of the library path and install driver 580 or newer, or compute with --device cpu"
    )]
    Unusable {
        /// What is missing.
        what: String,
    },
    /// The driver is there and too old, or does not fit its kernel module.
    #[error(
        "the NVIDIA driver cannot be used (error {code}): update it to 580 or newer and restart the machine, or compute with --device cpu"
    )]
    TooOld {
        /// The driver's number of it.
        code: u32,
    },
    /// The driver sees no device.
    #[error(
        "the NVIDIA driver sees no device: check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or compute with --device cpu"
    )]
    NoDevices,
    /// There are devices, but not this one.
    #[error("no CUDA device {index}: this machine has {count}, numbered from 0")]
    NoSuchDevice {
        /// What was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The device is older than compute capability 8.0.
    #[error(
        "CUDA device {index} has compute capability {major}.{minor}, 8.0 or newer is needed; compute with --device cpu"
    )]
    TooSmall {
        /// Which device.
        index: usize,
        /// Its compute capability.
        major: i32,
        /// The same, after the point.
        minor: i32,
    },
    /// The driver refuses the device.
    #[error(
        "CUDA device {index} cannot be used, error {code} while {doing}; see `nvidia-smi`, or compute with --device cpu"
    )]
    Refused {
        /// Which device.
        index: usize,
        /// The driver's number of it.
        code: u32,
        /// What was asked.
        doing: &'static str,
    },
}

/// Device `index` of this machine, as the driver counts them from 0.
pub fn open(index: usize) -> Result<Device, NoDevice> {
    // SAFETY: opens the library and closes it again. Without this, the first call to the driver would panic.
    if !unsafe { sys::is_culib_present() } {
        return Err(NoDevice::NoDriver);
    }
    if let Some(missing) = NEEDED.iter().find(|name| !has(name)) {
        return Err(NoDevice::Unusable { what: format!("it has no {missing}") });
    }
    // A function that is missing all the same shows by a panic; nothing that outlives it was begun.
    let opened = catch_unwind(|| Nvidia::new(index))
        .unwrap_or_else(|_| Err(NoDevice::Unusable { what: "a function of it is missing".into() }))?;
    Ok(Arc::new(Cuda::with_driver(Arc::new(opened))))
}

/// Functions of the driver that this file calls, by the names of the library.
const NEEDED: [&str; 34] = [
    "cuInit",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetName",
    "cuDeviceGetDefaultMemPool",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuCtxGetCurrent",
    "cuCtxSynchronize",
    "cuMemPoolSetAttribute",
    "cuMemPoolGetAttribute",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamQuery",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventDestroy_v2",
    "cuGetErrorString",
];

fn has(name: &str) -> bool {
    // SAFETY: the library is there; the function is not called.
    unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()).is_ok() }
}

/// Unused memory that the device's pool keeps for this process between operations; the rest goes back to other
/// processes on the device.
const KEPT: u64 = 2 << 30;

/// Shared memory of a block that every kernel may use without asking.
const SHARED: u32 = 48 << 10;

/// A device of compute capability 8.0 or newer.
struct Nvidia {
    name: String,
    pool: sys::CUmemoryPool,
    kernels: HashMap<String, sys::CUfunction>,
    staging: Staging,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
}

// SAFETY: the driver's functions may be called from any thread; handles are used with the context bound to the calling
// thread, and host buffers are behind locks.
unsafe impl Send for Nvidia {}
// SAFETY: as above.
unsafe impl Sync for Nvidia {}

impl std::fmt::Debug for Nvidia {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Nvidia {
    /// Errors are told by number here: to ask the driver for their text is one more thing that may fail.
    fn new(index: usize) -> Result<Nvidia, NoDevice> {
        let refused =
            |doing: &'static str| move |e: DriverError| NoDevice::Refused { index, code: e.0 as u32, doing };
        result::init().map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_NO_DEVICE => NoDevice::NoDevices,
            sys::CUresult::CUDA_ERROR_STUB_LIBRARY => {
                NoDevice::Unusable { what: "a stub of the toolkit".into() }
            }
            code => NoDevice::TooOld { code: code as u32 },
        })?;
        let count = CudaContext::device_count().map_err(refused("counting devices"))? as usize;
        if count == 0 {
            return Err(NoDevice::NoDevices);
        }
        if index >= count {
            return Err(NoDevice::NoSuchDevice { index, count });
        }
        let context = CudaContext::new(index).map_err(refused("opening it"))?;
        let (major, minor) = context.compute_capability().map_err(refused("asking what it is"))?;
        if major < 8 {
            return Err(NoDevice::TooSmall { index, major, minor });
        }
        let stream = context.new_stream().map_err(refused("making a stream"))?;
        // SAFETY: the device exists; the attribute is a 64-bit number.
        let pool = unsafe {
            result::device::get_default_mem_pool(context.cu_device()).and_then(|pool| {
                let mut kept = KEPT;
                let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
                result::mem_pool::set_attribute(pool, attribute, (&raw mut kept).cast()).map(|()| pool)
            })
        }
        .map_err(refused("asking for its memory"))?;
        let kernels = load().map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => NoDevice::TooOld { code: e.0 as u32 },
            _ => refused("loading the kernels")(e),
        })?;
        let staging = Staging::new().map_err(refused("asking for pinned memory"))?;
        let name = context.name().map_err(refused("asking its name"))?;
        let total = result::mem_get_info().map_err(refused("asking for its memory"))?.1;
        let name = format!("cuda:{index} ({name}, {} GiB)", total >> 30);
        Ok(Nvidia { name, pool, kernels, staging, stream, context })
    }

    /// Calls the driver, with this device's context on the calling thread.
    fn call<T>(&self, f: impl FnOnce(sys::CUstream) -> Result<T, DriverError>) -> Result<T, Fault> {
        self.context.bind_to_thread().and_then(|()| f(self.stream.cu_stream())).map_err(fault)
    }

    /// Bytes of the pool that nobody uses.
    fn idle(&self) -> Result<u64, DriverError> {
        let number = |attribute| {
            let mut n = 0u64;
            // SAFETY: the pool is the device's own; these attributes are 64-bit numbers.
            unsafe { result::mem_pool::get_attribute(self.pool, attribute, (&raw mut n).cast()) }.map(|()| n)
        };
        let reserved = number(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
        Ok(reserved.saturating_sub(number(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?))
    }
}

/// The kernels, by name. The module stays loaded for as long as the process has the device.
fn load() -> Result<HashMap<String, sys::CUfunction>, DriverError> {
    let text = CString::new(ptx::TEXT).expect("PTX is text");
    // SAFETY: text that ends with a zero, of which the driver makes a module in the bound context; names are text too.
    unsafe {
        let module = result::module::load_data(text.as_ptr().cast())?;
        let function = |name: &str| {
            let name_c = CString::new(name).expect("names are text");
            result::module::get_function(module, name_c).map(|f| (name.to_owned(), f))
        };
        source::kernels(&source::source()).iter().map(|k| function(k.name)).collect()
    }
}

fn fault(e: DriverError) -> Fault {
    let text = e.error_string().map(|s| s.to_string_lossy().into_owned());
    Fault::Driver { code: e.0 as u32, text: text.unwrap_or_else(|_| "unknown".into()) }
}

impl Driver for Nvidia {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn memory(&self) -> Option<(u64, u64)> {
        let asked = self.call(|_| Ok((result::mem_get_info()?, self.idle()?)));
        asked.ok().map(|((free, total), idle)| (free as u64 + idle, total as u64))
    }

    fn status(&self) -> Result<(), Fault> {
        // SAFETY: the stream lives as long as this.
        self.call(|stream| match unsafe { sys::cuStreamQuery(stream) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(()),
            other => other.result(),
        })
    }

    fn alloc(&self, bytes: u64) -> Result<Address, Fault> {
        self.context.bind_to_thread().map_err(fault)?;
        // SAFETY: the stream is of this context; what is in the memory does not matter.
        unsafe { result::malloc_async(self.stream.cu_stream(), bytes as usize) }.map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                Fault::OutOfMemory { asked: bytes, free: self.memory().map_or(0, |(free, _)| free) }
            }
            _ => fault(e),
        })
    }

    unsafe fn free(&self, at: Address) {
        // A device that is lost takes nothing back, and has lost it anyway.
        // SAFETY: the caller's promise.
        let _ = self.call(|stream| unsafe { result::free_async(at, stream) });
    }

    unsafe fn zero(&self, at: Address, bytes: u64) -> Result<(), Fault> {
        // SAFETY: the caller's promise.
        self.call(|stream| unsafe { result::memset_d8_async(at, 0, bytes as usize, stream) })
    }

    unsafe fn copy_in(&self, to: Address, from: &[u8]) -> Result<(), Fault> {
        // SAFETY: the caller's promise.
        self.call(|stream| unsafe { self.staging.copy_in(stream, to, from) })
    }

    unsafe fn copy_out(&self, to: &mut [u8], from: Address) -> Result<(), Fault> {
        // SAFETY: the caller's promise.
        self.call(|stream| unsafe { self.staging.copy_out(stream, to, from) })
    }

    unsafe fn launch(&self, launch: &Launch, args: &[Arg<'_>]) -> Result<(), Fault> {
        let function = self.kernels[launch.kernel];
        let mut places: Vec<*mut c_void> = args.iter().map(|a| a.place().cast_mut().cast()).collect();
        let [grid, block] = [launch.grid, launch.block].map(|[x, y, z]| (x, y, z));
        // SAFETY: there is a place for each argument, which the driver reads before it returns; the rest is the caller's
        // promise.
        self.call(|stream| unsafe {
            if launch.shared > SHARED {
                let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                result::function::set_function_attribute(function, most, launch.shared as i32)?;
            }
            result::launch_kernel(function, grid, block, launch.shared, stream, &mut places)
        })
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        // Pinned memory may go only when no copy uses it any more.
        // SAFETY: the stream lives until the fields are dropped.
        let _ = self.call(|stream| unsafe { result::stream::synchronize(stream) });
    }
}
