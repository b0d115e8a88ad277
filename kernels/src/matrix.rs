//! Matrices and tables that are prepared once, for many products and look-ups.

use crate::backend::{Device, KeyStream, Storage};
use crate::readings::{Manner, Readings};
use crate::words::Words;
use std::sync::Arc;

/// A right-hand matrix prepared for products, n outputs of k inputs each.
#[derive(Clone)]
pub struct Matrix {
    device: Device,
    data: Arc<Storage>,
    /// Of products with words, and with bits.
    readings: Arc<[Readings; 2]>,
    k: usize,
    n: usize,
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matrix({} outputs of {} inputs)", self.n, self.k)
    }
}

impl Matrix {
    /// Prepares `weights`, n rows of k words.
    pub fn new(weights: &Words, n: usize, k: usize) -> Matrix {
        assert_eq!(weights.len(), n * k, "matrix size");
        let data = weights.device.pack_matrix(&weights.data, k, n);
        Matrix::of(&weights.device, data, n, k)
    }

    fn of(device: &Device, data: Storage, n: usize, k: usize) -> Matrix {
        Matrix { device: device.clone(), data: Arc::new(data), readings: Arc::default(), k, n }
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.n
    }

    /// Whether both are one matrix, not only equal ones.
    pub fn is(&self, other: &Matrix) -> bool {
        Arc::ptr_eq(&self.data, &other.data)
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.k
    }

    /// self + other, element by element.
    ///
    /// # Panics
    /// If they are of different shapes.
    pub fn plus(&self, other: &Matrix) -> Matrix {
        assert_eq!((self.n, self.k), (other.n, other.k), "sum of matrices of different shapes");
        Matrix::of(&self.device, self.device.add_matrices(&self.data, &other.data, self.k), self.n, self.k)
    }

    /// `x[m×k] · self^T = [m×n]`. Few rows are taken along by a product that another thread makes with this matrix, if
    /// there is one to come.
    pub fn apply(&self, x: &Words) -> Words {
        self.product(x, 64, Manner::Passing)
    }

    /// [`Matrix::apply`] modulo 2^bits; the words of the result are below that.
    ///
    /// # Panics
    /// If `bits` is 0 or above 64.
    pub fn apply_low(&self, x: &Words, bits: u32) -> Words {
        self.product(x, bits, Manner::Passing)
    }

    /// The same at a place of a program that other threads run as well: if some of them came to this matrix together
    /// with this thread the last time, it waits a moment for them, so that one reading serves all.
    ///
    /// # Panics
    /// As [`Matrix::apply_low`].
    pub fn apply_in_step(&self, x: &Words, bits: u32) -> Words {
        self.product(x, bits, Manner::InStep)
    }

    fn product(&self, x: &Words, bits: u32, manner: Manner) -> Words {
        assert!((1..=64).contains(&bits), "a product modulo 2^{bits}");
        let m = x.len() / self.k;
        assert_eq!(x.len(), m * self.k, "input width");
        let (k, n) = (self.k, self.n);
        if m > self.device.rows_together() {
            return x.with(self.device.gemm_low(&x.data, &self.data, m, k, n, bits));
        }
        // Few rows wait for memory, whatever the modulus, and others' rows may have another one.
        let multiply = |x: &Storage, m| {
            let product = self.device.gemm(x, &self.data, m, k, n);
            (product, self.device.status().is_ok())
        };
        x.with(self.readings[0].product(&self.device, &multiply, &x.data, m, manner)).low(bits)
    }

    /// `x[m×k] · self^T = [m×n]` for rows of bits, see [`crate::Backend::gemm_bits`], in step with other threads as
    /// [`Matrix::apply_in_step`].
    ///
    /// # Panics
    /// If x is no whole number of rows.
    pub fn apply_bits(&self, x: &Words) -> Words {
        let words = self.k.div_ceil(64);
        let m = x.len() / words;
        assert_eq!(x.len(), m * words, "input width");
        let multiply = |x: &Storage, m| {
            let sums = self.device.gemm_bits(x, &self.data, m, self.k, self.n);
            (sums, self.device.status().is_ok())
        };
        x.with(self.readings[1].product(&self.device, &multiply, &x.data, m, Manner::InStep))
    }

    /// `x[m×k] · self^T + y[m×k] · R^T` = `[m×n]`, where R is as large as this matrix and its words are the stream's: of
    /// both matrices' products with few rows each word is read, or made, once. See [`crate::Backend::gemm_regenerated`].
    pub fn apply_beside(&self, x: &Words, y: &Words, stream: KeyStream<'_>) -> Words {
        let m = x.len() / self.k;
        assert!(x.len() == m * self.k && y.len() == x.len(), "input width");
        let (shape, beside) = ([m, self.k, self.n], Some((&x.data, &*self.data)));
        y.with(y.device.gemm_regenerated(&y.data, &stream, beside, shape))
    }
}

/// Public tables for [`Words::select`].
#[derive(Clone, Debug)]
pub struct Tables {
    pub(crate) data: Arc<Storage>,
    pub(crate) entries: usize,
    pub(crate) columns: usize,
}

impl Tables {
    /// `columns[c][phase · entries + i]`.
    pub fn new(device: &Device, columns: &[Vec<u64>], entries: usize) -> Tables {
        Tables { data: Arc::new(device.prepare_tables(columns, entries)), entries, columns: columns.len() }
    }

    /// Entries of one column in one phase.
    pub fn entries(&self) -> usize {
        self.entries
    }
}
