//! Which scores a causal attention computes, and where they lie.
//!
//! Scores are flat: head by head, query by query, keys 0 ..= position of the query. Nothing is computed for masked
//! pairs. The *square* layout `[head][query][key]` is what matrix products read and write.

use kernels::{GemmBatch, Strides};

/// Heads and lengths of one attention, with the index tables of its layouts.
#[derive(Clone, Debug)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves heads / kv_heads query heads.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// New tokens.
    pub queries: usize,
    /// All tokens so far, the new ones included.
    pub keys: usize,
    /// Position of each flat score in the square layout.
    pub square: Vec<u32>,
    /// Flat scores of row r (head · queries + query) are `offsets[r]..offsets[r + 1]`.
    pub offsets: Vec<usize>,
    /// Row of each flat score.
    pub row_of: Vec<u32>,
    /// Row of each element of the output (queries × heads · head_dim).
    pub row_of_output: Vec<u32>,
}

impl AttentionShape {
    /// The last `queries` of `keys` tokens attend to all before them.
    pub fn causal(
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        queries: usize,
        keys: usize,
    ) -> AttentionShape {
        assert!(heads.is_multiple_of(kv_heads) && queries <= keys, "attention shape");
        let (mut square, mut offsets, mut row_of) = (vec![], vec![0], vec![]);
        for row in 0..heads * queries {
            let visible = keys - queries + row % queries + 1;
            square.extend((0..visible).map(|j| (row * keys + j) as u32));
            row_of.extend(std::iter::repeat_n(row as u32, visible));
            offsets.push(square.len());
        }
        let row_of_output = (0..queries)
            .flat_map(|t| (0..heads * head_dim).map(move |c| (c / head_dim * queries + t) as u32))
            .collect();
        AttentionShape { heads, kv_heads, head_dim, queries, keys, square, offsets, row_of, row_of_output }
    }

    /// Number of scores.
    pub fn scores(&self) -> usize {
        self.square.len()
    }

    /// Number of rows of scores.
    pub fn score_rows(&self) -> usize {
        self.heads * self.queries
    }

    /// Number of elements of the square layout.
    pub fn square_len(&self) -> usize {
        self.heads * self.queries * self.keys
    }

    fn kv_of(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads) * self.head_dim
    }

    /// q · k^T into the square layout.
    pub fn score_products(&self) -> GemmBatch {
        let (dq, dk) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        GemmBatch {
            m: self.queries,
            n: self.keys,
            k: self.head_dim,
            a: Strides { row: dq, col: 1 },
            b: Strides { row: 1, col: dk },
            c_row: self.keys,
            offsets: (0..self.heads)
                .map(|h| [h * self.head_dim, self.kv_of(h), h * self.queries * self.keys])
                .collect(),
            c_len: self.square_len(),
        }
    }

    /// (square) · v into queries × heads · head_dim.
    pub fn value_products(&self) -> GemmBatch {
        let (dq, dk) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        GemmBatch {
            m: self.queries,
            n: self.head_dim,
            k: self.keys,
            a: Strides { row: self.keys, col: 1 },
            b: Strides { row: dk, col: 1 },
            c_row: dq,
            offsets: (0..self.heads)
                .map(|h| [h * self.queries * self.keys, self.kv_of(h), h * self.head_dim])
                .collect(),
            c_len: self.queries * dq,
        }
    }
}
