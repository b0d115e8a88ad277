//! Compiles the CUDA kernels to `kernels/src/cuda/catamount.ptx`, after a change of them:
//!
//! ```sh
//! pip install --target /tmp/nvrtc nvidia-cuda-nvrtc==13.0.88
//! LD_LIBRARY_PATH=/tmp/nvrtc/nvidia/cu13/lib cargo run -p kernels --example ptx
//! ```

use kernels::cuda::{nvrtc, ptx};
use std::process::ExitCode;

fn main() -> ExitCode {
    let made = if nvrtc::is_present() {
        ptx::generate()
    } else {
        Err("libnvrtc was not found: install nvidia-cuda-nvrtc 13.0 with pip and name its folder in LD_LIBRARY_PATH"
            .into())
    };
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cuda/catamount.ptx");
    let written = made.and_then(|text| std::fs::write(path, text).map_err(|e| format!("{path}: {e}")));
    match written {
        Ok(()) => {
            println!("{path}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
