//! The kernels' sources: one translation unit.

/// Files in their order, the prelude first.
pub const FILES: [(&str, &str); 13] = [
    ("prelude.cuh", include_str!("cu/prelude.cuh")),
    ("elementwise.cu", include_str!("cu/elementwise.cu")),
    ("message.cu", include_str!("cu/message.cu")),
    ("formula.cu", include_str!("cu/formula.cu")),
    ("moves.cu", include_str!("cu/moves.cu")),
    ("stream.cu", include_str!("cu/stream.cu")),
    ("bits.cu", include_str!("cu/bits.cu")),
    ("wave.cu", include_str!("cu/wave.cu")),
    ("select.cu", include_str!("cu/select.cu")),
    ("machine.cuh", include_str!("cu/machine.cuh")),
    ("gemm.cu", include_str!("cu/gemm.cu")),
    ("dcf.cu", include_str!("cu/dcf.cu")),
    ("dpf.cu", include_str!("cu/dpf.cu")),
];

/// All of them, with the names and lines that a compiler shall report.
pub fn source() -> String {
    FILES.iter().map(|(name, text)| format!("#line 1 \"{name}\"\n{text}")).collect()
}

/// A kernel as it is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether its threads meet at barriers or in shuffles.
    pub cooperative: bool,
    /// The axis of the grid along which its blocks go on to what is left, so that any number of them does the work.
    pub turns: Option<usize>,
}

/// The kernels declared in `source`, see `prelude.cuh` for how.
pub fn kernels(source: &str) -> Vec<Kernel<'_>> {
    let declarations = source.split("\nextern \"C\" __global__ void ").skip(1);
    declarations
        .filter_map(|text| {
            let (head, name) = match text.split_once("__launch_bounds__(") {
                Some((head, rest)) if !head.contains('{') => (head, rest.split_once(')')?.1),
                _ => (text, text),
            };
            let name = name.split_once('(')?.0.split_whitespace().last()?;
            let cooperative = head.split(['(', '{']).next()?.split_whitespace().any(|w| w == "COOPERATIVE");
            Some(Kernel { name, cooperative, turns: turns(body(text)) })
        })
        .collect()
}

/// From the first brace to the one that closes it.
fn body(text: &str) -> &str {
    let begin = text.find('{').unwrap_or(text.len());
    let mut open = 0;
    let closes = |c| {
        open += i32::from(c == '{') - i32::from(c == '}');
        c == '}' && open == 0
    };
    let end = text[begin..].find(closes).map_or(text.len(), |at| begin + at);
    &text[begin..end]
}

/// The axis of the loop in which a kernel takes one turn after the other.
fn turns(body: &str) -> Option<usize> {
    if body.contains("FOR_EACH") {
        return Some(0);
    }
    ["+= gridDim.x", "+= gridDim.y", "+= gridDim.z"].iter().position(|step| body.contains(step))
}

/// FNV-1a of what is compiled: the PTX in the repository names the sources it was made from (this is no security
/// measure).
pub fn hash(source: &str) -> u64 {
    source.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations() {
        let found = kernels(
            "\nextern \"C\" __global__ void plain(u64 a) { f(a); }\n\
             extern \"C\" __global__ void COOPERATIVE __launch_bounds__(128, 2) both(u64 a) { }\n\
             extern \"C\" __global__ void COOPERATIVE meets(\nu64 a) { }\n\
             extern \"C\" __global__ void __launch_bounds__(64) bounded(u64 a) { COOPERATIVE; }\n\
             void helper() { FOR_EACH(i, 1) { } }\n\
             extern \"C\" __global__ void all(u64 n) { if (n) { } FOR_EACH(i, n) f(i); }\n\
             extern \"C\" __global__ void products(u64 n) { for (u64 p = 0; p < n; p += gridDim.y) { } }",
        );
        let all = found.iter().map(|k| (k.name, k.cooperative, k.turns)).collect::<Vec<_>>();
        assert_eq!(
            all,
            [
                ("plain", false, None),
                ("both", true, None),
                ("meets", true, None),
                ("bounded", false, None),
                ("all", false, Some(0)),
                ("products", false, Some(1)),
            ]
        );
    }

    #[test]
    fn every_kernel_has_a_name_of_its_own() {
        let source = source();
        let mut names: Vec<&str> = kernels(&source).iter().map(|k| k.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert!(
            names.len() == all
                && all == source.lines().filter(|l| l.contains("__global__") && !l.starts_with("//")).count(),
            "{names:?}"
        );
    }
}
