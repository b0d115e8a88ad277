//! Products of matrices. A prepared matrix is as it was given, n × k.

use super::Cuda;
use crate::backend::{Backend, GemmBatch, Storage};

impl Cuda {
    pub(super) fn packed_matrix(&self, b: &Storage, k: usize, n: usize) -> Storage {
        assert_eq!(self.words(b).len(), k * n, "matrix of {n} × {k}");
        b.clone()
    }

    pub(super) fn product(&self, a: &Storage, b: &Storage, m: usize, k: usize, n: usize) -> Storage {
        let (host, [a, b]) = self.on_host([a, b]);
        let c = host.gemm(&a, &host.pack_matrix(&b, k, n), m, k, n);
        self.upload(host.download(&c).into_owned())
    }

    pub(super) fn products(&self, a: &Storage, b: &Storage, shape: &GemmBatch) -> Storage {
        let (host, [a, b]) = self.on_host([a, b]);
        let c = host.gemm_batch(&a, &b, shape);
        self.upload(host.download(&c).into_owned())
    }
}
