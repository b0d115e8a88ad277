//! The kernels, compiled for the host.

use kernels::cuda::source::{Kernel, hash, kernels};
use libloading::Library;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// What precedes the kernels.
const SHIM: &str = include_str!("shim.hpp");

/// Options of the compiler.
const OPTIONS: [&str; 6] = ["-std=c++20", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-w"];

/// What follows them: finds and starts a kernel.
const START: &str = r#"
extern "C" __attribute__((visibility("default")))
const char *catamount_launch(const char *name, const shim::Launch *launch, void *const *args, const unsigned *kinds, unsigned n) {
    for (const auto &entry : shim_kernels)
        if (strcmp(entry.name, name) == 0) return entry.start(*launch, entry.cooperative, args, kinds, n);
    return "no such kernel";
}
"#;

type Start =
    unsafe extern "C" fn(*const c_char, *const Shape, *const *const c_void, *const u32, u32) -> *const c_char;

/// `shim::Launch`
#[repr(C)]
pub(crate) struct Shape {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared: u32,
    pub(crate) reverse: u32,
}

/// Why there are no kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotBuilt {
    /// There is nothing to compile them with: no C++ compiler, or not Linux.
    NoCompiler(String),
    /// They do not compile, or could not be written or opened.
    Failed(String),
}

impl std::fmt::Display for NotBuilt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotBuilt::NoCompiler(why) => write!(f, "no C++ compiler, CUDA kernels are not tested ({why})"),
            NotBuilt::Failed(why) => write!(f, "the kernels do not compile for the host:\n{why}"),
        }
    }
}

/// Compiled kernels.
#[derive(Debug)]
pub(crate) struct Kernels {
    start: Start,
    /// The axes along which kernels take turns.
    turns: BTreeMap<String, usize>,
    _library: Library,
}

/// Compiles the shim with the kernels of `source` and what comes `after` to a library of this name, or finds it compiled.
pub(crate) fn build(source: &str, after: &str, name: &str) -> Result<PathBuf, NotBuilt> {
    if !cfg!(target_os = "linux") {
        return Err(NotBuilt::NoCompiler("the shim is written for Linux".into()));
    }
    static BUILDING: Mutex<()> = Mutex::new(());
    let _alone = BUILDING.lock().unwrap_or_else(|e| e.into_inner());
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let version = run(Command::new(&compiler).arg("--version")).map_err(NotBuilt::NoCompiler)?;
    let entry = |k: &Kernel<'_>| {
        let (name, meets) = (k.name, k.cooperative);
        format!("    {{\"{name}\", K<{name}>::start, {meets}, K<{name}>::want, K<{name}>::count}},\n")
    };
    let table: String = kernels(source).iter().map(entry).collect();
    let all = format!(
        "{SHIM}{source}\n#line 1 \"table\"\ntemplate <auto F> using K = shim::Kernel<F>;\n\
         static const shim::Entry shim_kernels[] = {{\n{table}}};\n{after}"
    );
    let folder = folder().join(format!("{:016x}", hash(&format!("{version}{OPTIONS:?}{all}"))));
    let library = folder.join(name);
    if !library.exists() {
        compile(&compiler, &all, &library).map_err(NotBuilt::Failed)?;
    }
    Ok(library)
}

impl Kernels {
    /// Those of `source`, ready to run.
    pub(crate) fn new(source: &str) -> Result<Kernels, NotBuilt> {
        let library = build(source, START, "kernels.so")?;
        let turns = kernels(source).iter().filter_map(|k| Some((k.name.to_owned(), k.turns?))).collect();
        // SAFETY: the library was made from the sources above; loading it runs nothing but the constructors of its globals.
        unsafe {
            let failed = |e| NotBuilt::Failed(format!("{}: {e}", library.display()));
            let opened = Library::new(&library).map_err(failed)?;
            let start = *opened.get::<Start>(b"catamount_launch\0").map_err(failed)?;
            Ok(Kernels { start, turns, _library: opened })
        }
    }

    /// The axis of the grid along which a kernel's blocks go on to what is left.
    pub(crate) fn turns(&self, kernel: &str) -> Option<usize> {
        self.turns.get(kernel).copied()
    }

    /// Runs a kernel. The error says what it did wrong.
    ///
    /// # Safety
    /// `args` are pointers to the kernel's arguments, of `kinds` (0 for a pointer, else the size), and with them it stays
    /// inside memory that is allocated.
    pub(crate) unsafe fn launch(
        &self,
        name: &str,
        shape: &Shape,
        args: &[*const c_void],
        kinds: &[u32],
    ) -> Result<(), String> {
        let name = CString::new(name).map_err(|e| e.to_string())?;
        // Kernels keep the state of their threads in global variables, and a library opened twice has them once.
        static RUNNING: Mutex<()> = Mutex::new(());
        let _running = RUNNING.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: as the caller promises; the number of arguments and their kinds are checked on the other side.
        unsafe {
            let wrong = (self.start)(name.as_ptr(), shape, args.as_ptr(), kinds.as_ptr(), args.len() as u32);
            if wrong.is_null() { Ok(()) } else { Err(CStr::from_ptr(wrong).to_string_lossy().into_owned()) }
        }
    }
}

fn run(command: &mut Command) -> Result<String, String> {
    let out = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&out.stderr)))
    }
}

/// Several processes may do this at once: each writes files of its own, and the last step is a renaming.
fn compile(compiler: &str, text: &str, library: &Path) -> Result<(), String> {
    let folder = library.parent().expect("a file in a folder");
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let own = |ending: &str| library.with_extension(format!("{}.{ending}", std::process::id()));
    let [source, object] = ["cpp", "so"].map(own);
    std::fs::write(&source, text).map_err(|e| format!("{}: {e}", source.display()))?;
    run(Command::new(compiler).args(OPTIONS).arg(&source).arg("-o").arg(&object))?;
    std::fs::rename(&object, library).map_err(|e| format!("{}: {e}", library.display()))?;
    let _ = std::fs::remove_file(&source);
    Ok(())
}

/// Beside the program, where cargo builds it, else the folder of temporary files.
fn folder() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let built = program.ancestors().find(|p| p.ends_with("deps")).and_then(Path::parent);
    built.map_or_else(std::env::temp_dir, Path::to_path_buf).join("kernels-shim")
}
