//! The kernels' PTX belongs to their sources, and the compiler, where there is one, makes the same again.

use kernels::cuda::source::{kernels, source};
use kernels::cuda::{nvrtc, ptx};

#[test]
fn ptx_is_that_of_the_sources() {
    assert!(
        ptx::made_by(ptx::TEXT).is_some(),
        "the kernels or their PTX changed: cargo run -p kernels --example ptx (it says what it needs)"
    );
    // A change by hand, of code or heading, shows without the compiler.
    let changed = [
        ptx::TEXT.replacen("add.s64", "sub.s64", 1),
        ptx::TEXT.replacen("Sources: ", "Sources: 0", 1),
        ptx::TEXT.replacen("Code: ", "Code: 0", 1),
        format!("{}\n", ptx::TEXT),
    ];
    for text in &changed {
        assert!(text != ptx::TEXT && ptx::made_by(text).is_none(), "{}", &text[..160]);
    }
    for kernel in kernels(&source()) {
        assert!(ptx::TEXT.contains(&format!(".entry {}(", kernel.name)), "{} is missing", kernel.name);
    }
}

/// The compiler's report on each kernel: name and lines about it.
fn reports(log: &str) -> Vec<(&str, &str)> {
    let parts = log.split("Compiling entry function '").skip(1);
    parts.filter_map(|p| p.split_once('\'')).collect()
}

#[test]
fn compiler_makes_the_same_ptx_and_spills_nothing() {
    if !nvrtc::is_present() {
        eprintln!("SKIPPED: no libnvrtc in LD_LIBRARY_PATH, CUDA kernels are not compiled for devices");
        return;
    }
    let source = source();
    for architecture in ["sm_80", "sm_90"] {
        let compiled =
            nvrtc::compile(&source, architecture).unwrap_or_else(|e| panic!("{architecture}: {e}"));
        let reports = reports(&compiled.log);
        for kernel in kernels(&source) {
            let (_, report) = reports.iter().find(|(name, _)| *name == kernel.name).expect("a report");
            assert!(
                report.contains(" 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"),
                "{} for {architecture}:{report}",
                kernel.name
            );
            let registers = report.lines().find(|l| l.contains("registers")).unwrap_or_default();
            println!("{architecture} {}: {}", kernel.name, registers.trim_start_matches("ptxas info    : "));
        }
    }
    let made_by = ptx::made_by(ptx::TEXT).expect("the compiler's version");
    let ours = nvrtc::version().expect("a version");
    if made_by == ours {
        assert!(ptx::generate().expect("it compiles") == ptx::TEXT, "cargo run -p kernels --example ptx");
    } else {
        eprintln!("SKIPPED: the PTX is by NVRTC {made_by} and not compared with that of {ours}");
    }
}
