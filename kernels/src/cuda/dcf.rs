//! Distributed comparison functions.

use super::Cuda;
use crate::backend::{Backend, Storage};
use crate::comparison::{DcfKeys, DcfShape, DcfThresholds};

impl Cuda {
    pub(super) fn comparison_keys(
        &self,
        shape: &DcfShape,
        alpha: &Storage,
        beta: &Storage,
        root0: &Storage,
        root1: &Storage,
    ) -> DcfKeys<Storage> {
        let (host, [alpha, beta, root0, root1]) = self.on_host([alpha, beta, root0, root1]);
        let keys = host.dcf_generate(shape, &alpha, &beta, &root0, &root1);
        keys.map(|w| self.upload(host.download(&w).into_owned()))
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
        let (host, [root, base, constant]) = self.on_host([root, base, constant]);
        let keys = keys.as_ref().map(|w| host.upload(self.download(w).into_owned()));
        let out = host.dcf_evaluate(party, &root, &keys.as_ref(), &base, &constant, thresholds);
        self.upload(host.download(&out).into_owned())
    }
}
