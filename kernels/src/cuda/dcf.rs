//! Distributed comparison functions: two neighbouring threads make a key, a block walks the trees of some.
//!
//! Most of a walk is shared by points with a common prefix, so a block walks to all points of a key together and has a list
//! of the nodes of a level. The alternative, a thread for each point that walks from the root, has less to organise, but for
//! a row gate's key (31 bits, 321 thresholds over 20 octaves, 7 stops; mean over random bases) it needs
//!
//! | | expansions | of warps |
//! |---|---|---|
//! | each point alone | 6876 | 215 |
//! | together | 928 for children, 321 for outputs | 61 |
//!
//! **Cost.** An expansion is about 700 instructions of a warp, 430 of which (logic and shifts) share the pipe that decides.
//! It does 64 of them a cycle in each of an H100's 132 multiprocessors, which is 18 · 10^6 of those keys a second at
//! 1.755 GHz, or 0.23 ms for 4096. This is computed from published rates and was not measured. A key is 1.2 KB to read, its
//! shares 2.6 KB to write. Making one takes both lanes 36 expansions.

use super::driver::Launch;
use super::{Cuda, DeviceWords};
use crate::backend::Storage;
use crate::comparison::{DcfKeys, DcfShape, DcfThresholds};

/// Threads of a block, of both kernels.
const THREADS: usize = 64;
/// Points that a block can walk to.
const POINTS: usize = 512;
/// Blocks that keep a device of 132 multiprocessors busy.
const BLOCKS: usize = 8 * 132;

/// A bit for each stop.
fn stops(shape: &DcfShape) -> u64 {
    shape.stops().iter().fold(0, |all, s| all | 1 << s)
}

impl Cuda {
    pub(super) fn comparison_keys(
        &self,
        shape: &DcfShape,
        alpha: &Storage,
        beta: &Storage,
        root0: &Storage,
        root1: &Storage,
    ) -> DcfKeys<Storage> {
        let [alpha, beta, root0, root1] = [alpha, beta, root0, root1].map(|s| self.words(s));
        let (n, levels) = (alpha.len(), shape.levels());
        assert!(
            beta.len() == n && root0.len() == 2 * n && root1.len() == 2 * n,
            "one α, β and two roots of two words for each key"
        );
        let words = |each: usize| self.core.alloc("dcf_generate", n * each);
        let keys = DcfKeys {
            seeds: words(2 * levels),
            values: words(levels),
            controls: words(levels),
            outputs: words(shape.outputs()),
        };
        let grid = [(2 * n).div_ceil(THREADS) as u32, 1, 1];
        let launch = Launch { kernel: "dcf_generate", grid, block: [THREADS as u32, 1, 1], shared: 0 };
        let args = [
            shape.bits().into(),
            (levels as u32).into(),
            stops(shape).into(),
            alpha.arg(),
            beta.arg(),
            root0.arg(),
            root1.arg(),
            keys.seeds.arg(),
            keys.values.arg(),
            keys.controls.arg(),
            keys.outputs.arg(),
            n.into(),
        ];
        self.launch(launch, &args);
        keys.map(|words| self.made(words))
    }

    pub(super) fn comparisons(
        &self,
        party: u8,
        root: &Storage,
        keys: &DcfKeys<&Storage>,
        base: &Storage,
        constant: &Storage,
        thresholds: &DcfThresholds,
    ) -> Storage {
        let keys: DcfKeys<&DeviceWords> = keys.as_ref().map(|w| self.words(w));
        let [root, base, constant] = [root, base, constant].map(|s| self.words(s));
        let (n, count, shape) = (base.len(), thresholds.len(), thresholds.shape());
        let levels = shape.levels();
        assert!(party < 2, "evaluator {party}");
        assert!(
            root.len() == 2 * n && constant.len() == n,
            "a root of two words and a constant for each key"
        );
        assert!(
            keys.seeds.len() == n * levels * 2
                && keys.values.len() == n * levels
                && keys.controls.len() == n * levels
                && keys.outputs.len() == n * shape.outputs(),
            "correction words of {n} keys of {shape:?}"
        );
        let out = self.core.alloc("dcf_evaluate", n * count);
        if n == 0 || count == 0 {
            return self.made(out);
        }
        let first = |stop: usize| thresholds.at_stop(stop).start as u64;
        let plan = thresholds.list().iter().copied().chain((0..shape.stops().len()).map(first));
        let plan = self.uploaded("dcf_evaluate", &plan.collect::<Vec<_>>());
        // Several keys fill a block, as long as there are blocks enough.
        let chunk = count.min(POINTS);
        let group = (POINTS / chunk).min(n.div_ceil(BLOCKS).max(THREADS.div_ceil(chunk)));
        let grid = [n.div_ceil(group) as u32, count.div_ceil(chunk) as u32, 1];
        let launch = Launch { kernel: "dcf_evaluate", grid, block: [THREADS as u32, 1, 1], shared: 0 };
        let args = [
            u32::from(party).into(),
            shape.bits().into(),
            (levels as u32).into(),
            stops(shape).into(),
            root.arg(),
            keys.seeds.arg(),
            keys.values.arg(),
            keys.controls.arg(),
            keys.outputs.arg(),
            base.arg(),
            constant.arg(),
            plan.arg(),
            count.into(),
            chunk.into(),
            group.into(),
            n.into(),
            out.arg(),
        ];
        self.launch(launch, &args);
        self.made(out)
    }
}
