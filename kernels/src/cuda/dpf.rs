//! Distributed point functions.

use super::Cuda;
use crate::backend::{Backend, DpfKeys, Storage};

impl Cuda {
    pub(super) fn point_keys(
        &self,
        points: usize,
        alpha: &Storage,
        root0: &Storage,
        root1: &Storage,
    ) -> DpfKeys<Storage> {
        let (host, [alpha, root0, root1]) = self.on_host([alpha, root0, root1]);
        let keys = host.dpf_generate(points, &alpha, &root0, &root1);
        let up = |w: &Storage| self.upload(host.download(w).into_owned());
        DpfKeys { seeds: up(&keys.seeds), controls: up(&keys.controls), last: up(&keys.last) }
    }

    pub(super) fn points(
        &self,
        party: u8,
        points: usize,
        root: &Storage,
        keys: &DpfKeys<&Storage>,
    ) -> Storage {
        let (host, [root, seeds, controls, last]) =
            self.on_host([root, keys.seeds, keys.controls, keys.last]);
        let keys = DpfKeys { seeds: &seeds, controls: &controls, last: &last };
        let out = host.dpf_evaluate(party, points, &root, &keys);
        self.upload(host.download(&out).into_owned())
    }
}
