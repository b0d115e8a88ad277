//! Distributed point functions: two neighbouring threads make a key, a block walks a subtree of some.
//!
//! **Cost.** A node is a block of ChaCha12, about 675 instructions of a warp for 32 nodes, 400 of which share the pipe that
//! decides; a key of 49152 points has 384 nodes. On an H100 (132 multiprocessors, 64 of these a cycle each, 1.755 GHz) that
//! allows 10^8 such keys a second, far more than there is memory to read for their rows. This is computed from published
//! rates and was not measured.

use super::Cuda;
use super::driver::Launch;
use crate::backend::{DpfKeys, Storage, dpf_levels};

/// Levels of a subtree that a block walks.
const LEVELS: usize = 10;

impl Cuda {
    pub(super) fn point_keys(
        &self,
        points: usize,
        alpha: &Storage,
        root0: &Storage,
        root1: &Storage,
    ) -> DpfKeys<Storage> {
        let [alpha, root0, root1] = [alpha, root0, root1].map(|s| self.words(s));
        assert!(points > 0, "a point function of no points");
        let (n, levels) = (alpha.len(), dpf_levels(points));
        assert!(root0.len() == 2 * n && root1.len() == 2 * n, "one α and two roots for each key");
        let words = |each: usize| self.core.alloc("dpf_generate", n * each);
        let (seeds, controls, last) = (words(2 * levels), words(levels), words(2));
        let grid = [(2 * n).div_ceil(64) as u32, 1, 1];
        let launch = Launch { kernel: "dpf_generate", grid, block: [64, 1, 1], shared: 0 };
        let args = [
            (levels as u32).into(),
            alpha.arg(),
            root0.arg(),
            root1.arg(),
            seeds.arg(),
            controls.arg(),
            last.arg(),
            n.into(),
        ];
        self.launch(launch, &args);
        let [seeds, controls, last] = [seeds, controls, last].map(|words| self.made(words));
        DpfKeys { seeds, controls, last }
    }

    pub(super) fn points(
        &self,
        party: u8,
        points: usize,
        root: &Storage,
        keys: &DpfKeys<&Storage>,
    ) -> Storage {
        let [root, seeds, controls, last] =
            [root, keys.seeds, keys.controls, keys.last].map(|s| self.words(s));
        assert!(points > 0, "a point function of no points");
        assert!(party < 2, "party {party} of a point function");
        assert!(root.len().is_multiple_of(2), "roots are two words");
        let (n, levels) = (root.len() / 2, dpf_levels(points));
        assert!(
            seeds.len() == 2 * n * levels && controls.len() == n * levels && last.len() == 2 * n,
            "correction words of {n} keys of {points} points"
        );
        let words = points.div_ceil(64);
        let out = self.core.alloc("dpf_evaluate", n * words);
        // Small trees share a block.
        let depth = levels.min(LEVELS);
        let group = 1usize << (LEVELS - depth);
        let grid = [n.div_ceil(group) as u32, words.div_ceil(2 << depth) as u32, 1];
        let launch = Launch { kernel: "dpf_evaluate", grid, block: [128, 1, 1], shared: 0 };
        let args = [
            u32::from(party).into(),
            (levels as u32).into(),
            points.into(),
            words.into(),
            root.arg(),
            seeds.arg(),
            controls.arg(),
            last.arg(),
            group.into(),
            n.into(),
            out.arg(),
        ];
        self.launch(launch, &args);
        self.made(out)
    }
}
