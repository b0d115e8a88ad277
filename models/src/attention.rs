//! Attention, and which scores it computes.
//!
//! Scores are flat: sequence by sequence, head by head, query by query, all keys that the query may see. Nothing is
//! computed for masked pairs, or across sequences. The *square* layout `[head][query][key]` of a sequence is what matrix
//! products read and write.

use crate::algebra::{Act, Algebra, ByRows, Linear, Scored, Softmax};
use crate::model::Kept;
use crate::rotary::Rotation;
use kernels::{GemmBatch, Indices, Segments, Strides};
use protocol::Result;
use std::ops::Range;

/// softmax(q · k^T) · v of every head and sequence; queries, keys and values are what `qkv` makes of `x`, side by side, and
/// `kept` holds each sequence's earlier keys and values.
pub(crate) async fn attend<A: Algebra>(
    a: &A,
    x: &Act<A>,
    qkv: &Linear<A::V>,
    rotation: Option<&Rotation>,
    kept: &mut [&mut Kept<A::V>],
    s: &AttentionShape,
    softmax: &Softmax<A>,
) -> Result<Act<A>> {
    let old_keys: Vec<_> = kept.iter().map(|kept| kept.as_ref().map(|(k, _)| k)).collect();
    let Scored { scores, keys, values } = a.scores(x, qkv, rotation, &old_keys, s, softmax).await?;
    // Replaced as a whole, between two exchanges: a dealer that breaks off goes on from what is there.
    for ((kept, keys), block) in kept.iter_mut().zip(keys).zip(&s.blocks) {
        let new = values.rows(block.queries.start, block.queries.end);
        let values = new.below(kept.as_ref().map(|(_, v)| v));
        **kept = Some((keys, values));
    }
    let e = a.scope("softmax").exponentials(&scores, s, softmax).await?;
    let values: Vec<_> = kept.iter().flat_map(|kept| kept.as_ref().map(|(_, v)| v)).collect();
    a.weighted_mean(&e, &values, s, softmax).await
}

/// Heads and lengths of one attention over several sequences, with the index tables of its layouts.
#[derive(Clone, Debug)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves heads / kv_heads query heads.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// Sequence by sequence.
    pub blocks: Vec<Block>,
    /// Flat scores of each row (sequence by sequence, head · queries + query).
    pub offsets: Segments,
    /// Row of each flat score.
    pub row_of: Indices,
    /// Row of each element of the output (queries × heads · head_dim).
    pub row_of_output: Indices,
}

/// One sequence's part of an attention.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its new tokens, as rows of all queries.
    pub queries: Range<usize>,
    /// All of its tokens so far, the new ones included.
    pub keys: usize,
    /// Its flat scores.
    pub scores: Range<usize>,
    /// Position of each of them in its square layout.
    pub square: Indices,
}

impl Block {
    fn count(&self) -> usize {
        self.queries.len()
    }
}

impl AttentionShape {
    /// Of each sequence, new tokens and all tokens: each attends to all before it.
    pub fn causal(
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        sequences: &[(usize, usize)],
    ) -> AttentionShape {
        assert!(sequences.iter().all(|(queries, keys)| queries <= keys), "attention shape");
        Self::new(heads, kv_heads, head_dim, sequences, |queries, keys, query| keys - queries + query + 1)
    }

    /// All tokens of a sequence attend to each other; their number, sequence by sequence.
    pub fn full(heads: usize, kv_heads: usize, head_dim: usize, sequences: &[usize]) -> AttentionShape {
        let sequences: Vec<_> = sequences.iter().map(|&tokens| (tokens, tokens)).collect();
        Self::new(heads, kv_heads, head_dim, &sequences, |_, keys, _| keys)
    }

    /// Of so many queries and keys, query i sees the first `visible(queries, keys, i)` keys.
    fn new(
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        sequences: &[(usize, usize)],
        visible: impl Fn(usize, usize, usize) -> usize,
    ) -> AttentionShape {
        assert!(heads.is_multiple_of(kv_heads), "attention shape");
        let (mut blocks, mut offsets, mut row_of_output) = (vec![], vec![0], vec![]);
        let (mut scores, mut tokens) = (0, 0);
        for &(queries, keys) in sequences {
            let (start, first_row, rows) = (scores, heads * tokens, heads * queries);
            let visible = |row: usize| visible(queries, keys, row % queries);
            for row in 0..rows {
                scores += visible(row);
                offsets.push(scores);
            }
            // One new token of a sequence, or all of a text that is read both ways, see all there is.
            let square = if scores - start == rows * keys {
                Indices::first(rows * keys)
            } else {
                (0..rows).flat_map(|row| (0..visible(row)).map(move |j| (row * keys + j) as u32)).collect()
            };
            let row = |t: usize| move |c: usize| (first_row + c / head_dim * queries + t) as u32;
            row_of_output.extend((0..queries).flat_map(|t| (0..heads * head_dim).map(row(t))));
            blocks.push(Block { queries: tokens..tokens + queries, keys, scores: start..scores, square });
            tokens += queries;
        }
        let offsets = Segments::new(offsets);
        let (row_of, row_of_output) = (offsets.numbers(), row_of_output.into());
        AttentionShape { heads, kv_heads, head_dim, blocks, offsets, row_of, row_of_output }
    }

    /// Number of new tokens.
    pub fn queries(&self) -> usize {
        self.blocks.last().map_or(0, |b| b.queries.end)
    }

    /// Tokens of the longest sequence: no row has more scores.
    pub fn longest(&self) -> usize {
        self.blocks.iter().map(|b| b.keys).max().unwrap_or(0)
    }

    /// Number of scores.
    pub fn scores(&self) -> usize {
        self.offsets.end()
    }

    /// Number of rows of scores.
    pub fn score_rows(&self) -> usize {
        self.offsets.count()
    }

    /// Number of elements of a sequence's square layout.
    pub fn square_len(&self, b: &Block) -> usize {
        self.heads * b.count() * b.keys
    }

    /// Columns of queries, and of keys or values.
    pub(crate) fn widths(&self) -> (usize, usize) {
        (self.heads * self.head_dim, self.kv_heads * self.head_dim)
    }

    fn kv_of(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads) * self.head_dim
    }

    /// q · k^T into the square layout: q of all sequences, k of this one.
    pub fn score_products(&self, b: &Block) -> GemmBatch {
        let (dq, dk) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let first = b.queries.start * dq;
        GemmBatch {
            m: b.count(),
            n: b.keys,
            k: self.head_dim,
            a: Strides { row: dq, col: 1 },
            b: Strides { row: 1, col: dk },
            c_row: b.keys,
            offsets: (0..self.heads)
                .map(|h| [first + h * self.head_dim, self.kv_of(h), h * b.count() * b.keys])
                .collect(),
            c_len: self.square_len(b),
        }
    }

    /// (square) · v into the sequence's queries × heads · head_dim.
    pub fn value_products(&self, b: &Block) -> GemmBatch {
        let (dq, dk) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        GemmBatch {
            m: b.count(),
            n: self.head_dim,
            k: b.keys,
            a: Strides { row: b.keys, col: 1 },
            b: Strides { row: dk, col: 1 },
            c_row: dq,
            offsets: (0..self.heads)
                .map(|h| [h * b.count() * b.keys, self.kv_of(h), h * self.head_dim])
                .collect(),
            c_len: b.count() * dq,
        }
    }
}
