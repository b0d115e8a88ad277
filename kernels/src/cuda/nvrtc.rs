//! Compiling the kernels with NVIDIA's run-time compiler, where it is installed: to make the PTX in the repository, and to
//! test it. A party never does this.

use cudarc::nvrtc::{result, sys};
use std::ffi::{CString, c_char};

/// Whether libnvrtc can be opened. It finds its own parts by `LD_LIBRARY_PATH`, which has to be set before a program
/// starts.
pub fn is_present() -> bool {
    // SAFETY: opens the library and closes it again.
    unsafe { sys::is_culib_present() }
}

/// The compiler's version, `13.0`. Call it only if the library [is present](is_present).
pub fn version() -> Result<String, String> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both numbers are written.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor).result() }.map_err(|e| format!("{e:?}"))?;
    Ok(format!("{major}.{minor}"))
}

/// What the compiler made.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// PTX.
    pub ptx: String,
    /// Warnings, and for a real architecture registers and spills of each kernel.
    pub log: String,
}

/// Compiles `source` for an architecture: `compute_80` gives PTX alone, `sm_80` also makes the machine code and reports
/// on it. The error is the compiler's text. Call it only if the library [is present](is_present).
pub fn compile(source: &str, architecture: &str) -> Result<Compiled, String> {
    let text = CString::new(source).map_err(|e| e.to_string())?;
    let program = result::create_program(&text, Some(c"catamount.cu")).map_err(|e| format!("{e:?}"))?;
    let mut options = vec![format!("--gpu-architecture={architecture}"), "--std=c++17".into()];
    if architecture.starts_with("sm_") {
        options.push("--ptxas-options=-v".into());
    }
    // SAFETY: the program was just made, and is destroyed once, at the end.
    unsafe {
        let compiled = result::compile_program(program, &options);
        let log = result::get_program_log(program).map(string).unwrap_or_default();
        let ptx = result::get_ptx(program).map(string);
        let _ = result::destroy_program(program);
        compiled.map_err(|e| format!("{e:?}\n{log}"))?;
        Ok(Compiled { ptx: ptx.map_err(|e| format!("{e:?}"))?, log })
    }
}

/// Text that ends with a zero.
fn string(chars: Vec<c_char>) -> String {
    let bytes: Vec<u8> = chars.into_iter().map(|c| c as u8).take_while(|c| *c != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
