//! Attention, and which scores it computes.
//!
//! Scores are flat: head by head, query by query, all keys that the query may see. Nothing is computed for masked
//! pairs. The *square* layout `[head][query][key]` is what matrix products read and write.

use crate::algebra::{Act, Algebra, Linear, Scored, Softmax};
use crate::model::Kept;
use crate::rotary::Rotation;
use kernels::{GemmBatch, Strides};
use protocol::Result;

/// softmax(q · k^T) · v of every head; queries, keys and values are what `qkv` makes of `x`, side by side, and `kept` holds
/// earlier keys and values.
pub(crate) async fn attend<A: Algebra>(
    a: &A,
    x: &Act<A>,
    qkv: &Linear<A::V>,
    rotation: Option<&Rotation>,
    kept: &mut Kept<A::V>,
    s: &AttentionShape,
    softmax: &Softmax<A>,
) -> Result<Act<A>> {
    let (old_k, old_v) = kept.take().unzip();
    let Scored { scores, keys: k, values } = a.scores(x, qkv, rotation, old_k.as_ref(), s, softmax).await?;
    let v = a.append(old_v.as_ref(), &values);
    let e = a.scope("softmax").exponentials(&scores, s, softmax).await?;
    let mean = a.weighted_mean(&e, &v, s, softmax).await?;
    *kept = Some((k, v));
    Ok(mean)
}

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
        assert!(queries <= keys, "attention shape");
        Self::new(heads, kv_heads, head_dim, queries, keys, |query| keys - queries + query + 1)
    }

    /// All of `tokens` tokens attend to each other.
    pub fn full(heads: usize, kv_heads: usize, head_dim: usize, tokens: usize) -> AttentionShape {
        Self::new(heads, kv_heads, head_dim, tokens, tokens, |_| tokens)
    }

    /// Query i sees the first `visible(i)` keys.
    fn new(
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        queries: usize,
        keys: usize,
        visible: impl Fn(usize) -> usize,
    ) -> AttentionShape {
        assert!(heads.is_multiple_of(kv_heads), "attention shape");
        let (mut square, mut offsets, mut row_of) = (vec![], vec![0], vec![]);
        for row in 0..heads * queries {
            let visible = visible(row % queries);
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

    /// Columns of queries, and of keys or values.
    pub(crate) fn widths(&self) -> (usize, usize) {
        (self.heads * self.head_dim, self.kv_heads * self.head_dim)
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
