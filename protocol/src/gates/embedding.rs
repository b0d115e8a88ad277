//! Embedding: the rows of a shared table at positions that only the client knows, by distributed point functions.
//!
//! The table is E = λ1 + λ0 + Δ; each component is known to two parties. For each token the client makes three
//! **independent** pairs of keys of the point function that is 1 at the token, one for each component:
//! ```text
//! component    key with bit 0    key with bit 1
//!    λ1              P0                P1
//!    λ0              P0                P2
//!    Δ               P1                P2
//! ```
//! A pair's shares of the one-hot row add up to it, so with p_i the sum, over the two components that P_i knows, of its
//! share times the component, p0 + p1 + p2 = E\[token\], exactly. P0 deals p0, P1 and P2 add their shares of it to p1
//! and p2, and reshare. A party's two keys belong to different pairs, each of them hides the token computationally, and
//! together they do too, because the pairs have independent roots. How a party evaluates does not depend on its keys.
//!
//! The client sends each party two keys a token, [`dpf_key_bytes`] each, instead of a row of 8·V bytes: 552 bytes for
//! V = 49152. Nothing checks that keys are those of a unit vector: a client that deviates can get any combination of
//! rows.
//!
//! Cost: one exchange, and before it one more one-way flight: here P0 waits for data, those of the client, so that the
//! way of p0 from P0 to P2 is on the critical path. (Resharing in the same flight would save it, at the price of a
//! primitive of its own: P0's words to both evaluators.) A party reads two tables of 8·V·d bytes once for every 32
//! tokens. Evaluating its keys takes V blocks of ChaCha12 a token, beside 2·V·d products: at d = 576 a sixth of their
//! time. AES instructions would need a quarter of that by count (20 rounds a node, four to an instruction), which
//! saves too little to want a second generator.
//!
//! Sources: Boyle, Gilboa and Ishai, CCS 2016 (eprint 2018/707); for point functions on replicated shares see also Bunn,
//! Kushilevitz and Ostrovsky (eprint 2021/163).

use super::product::{product_cost, reshare, reshare_cost, ring_item};
use crate::{Ahead, Cost, Cx, Key, Network, Product, Purpose, Result, Role, Session, Shape, Share};
use kernels::{Device, DpfKeys, Matrix, Words, dpf_key_bytes};

/// Tokens whose one-hot rows are held at the same time, 16·V bytes each: so many share one reading of the table.
pub const TOGETHER: usize = 32;

/// The two parties of each pair of keys: for λ1, λ0 and Δ.
const PAIRS: [[Role; 2]; 3] = [[Role::Dealer, Role::P1], [Role::Dealer, Role::P2], [Role::P1, Role::P2]];

/// What one party holds of a shared table, d outputs of V inputs, prepared for products with rows of length V.
#[derive(Clone, Debug)]
pub struct SharedTable {
    /// Fractional bits of the entries.
    pub scale: u32,
    /// λ1 at P0 and P1, λ0 at P2.
    first: Matrix,
    /// λ0 at P0, Δ at P1 and P2.
    second: Matrix,
}

impl SharedTable {
    /// Prepares the two components of a d × V matrix that a party knows: λ1 and λ0 at P0, λ1 and Δ at P1, λ0 and Δ at
    /// P2.
    ///
    /// # Panics
    /// If a component is not of that shape.
    pub fn new(first: &Words, second: &Words, shape: Shape, scale: u32) -> SharedTable {
        let matrix = |component| Matrix::new(component, shape.rows, shape.cols);
        SharedTable::of([matrix(first), matrix(second)], scale)
    }

    /// As [`SharedTable::new`], of components that are prepared already.
    pub fn of([first, second]: [Matrix; 2], scale: u32) -> SharedTable {
        SharedTable { scale, first, second }
    }

    /// d: length of an entry.
    pub fn outputs(&self) -> usize {
        self.first.outputs()
    }

    /// V: number of entries.
    pub fn inputs(&self) -> usize {
        self.first.inputs()
    }
}

/// What is wrong with keys, or with the tokens to make them for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A message that is not two keys a token.
    #[error("{actual} bytes of keys for {tokens} tokens out of {vocab}: not two keys a token")]
    Length {
        /// Tokens announced.
        tokens: usize,
        /// Size of the vocabulary.
        vocab: usize,
        /// Bytes there are.
        actual: usize,
    },
    /// A token that the table does not have.
    #[error("token {token} in a vocabulary of {vocab}")]
    Token {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A table without entries.
    #[error("an empty vocabulary")]
    Empty,
}

/// Bytes that each party receives for one token of a vocabulary.
pub const fn token_bytes(vocab: usize) -> usize {
    2 * dpf_key_bytes(vocab)
}

/// The client's part: what P0, P1 and P2 receive for `tokens`, [`token_bytes`] a token each. All roots are expanded
/// from `seed`, which must come fresh from the operating system's randomness for every call and serve nothing else.
pub fn split(
    device: &Device,
    tokens: &[u32],
    vocab: usize,
    seed: &Key,
) -> std::result::Result<[Vec<u8>; 3], KeyError> {
    if vocab == 0 {
        return Err(KeyError::Empty);
    }
    if let Some(&token) = tokens.iter().find(|t| **t as usize >= vocab) {
        return Err(KeyError::Token { token, vocab });
    }
    let n = tokens.len();
    let alpha = Words::upload(device, tokens.iter().map(|t| u64::from(*t)).collect());
    let mut parts = [const { Vec::new() }; 3];
    for (stream, pair) in PAIRS.iter().enumerate() {
        let roots = Words::chacha12(device, seed, stream as u64, 4 * n, 64);
        let roots = [roots.slice(0..2 * n), roots.slice(2 * n..4 * n)];
        let keys = alpha.dpf_generate(vocab, &roots[0], &roots[1]);
        for (role, root) in pair.iter().zip(&roots) {
            keys.pack(vocab, root, &mut parts[role.index()]);
        }
    }
    Ok(parts)
}

/// Keys of one component, at most [`TOGETHER`].
#[derive(Clone, Debug)]
struct Batch {
    bit: u8,
    root: Words,
    keys: DpfKeys<Words>,
}

impl Batch {
    fn one_hot(&self, vocab: usize) -> Words {
        self.root.dpf_evaluate(self.bit, vocab, &self.keys)
    }
}

/// One party's keys for a sequence of tokens.
#[derive(Clone, Debug)]
pub struct EmbeddingKeys {
    role: Role,
    tokens: usize,
    vocab: usize,
    /// For the first and the second component that the party knows.
    batches: [Vec<Batch>; 2],
}

impl EmbeddingKeys {
    /// Reads what the client sent to `role`. Any bytes of the right length are keys, of something.
    pub fn parse(
        device: &Device,
        role: Role,
        bytes: &[u8],
        tokens: usize,
        vocab: usize,
    ) -> std::result::Result<EmbeddingKeys, KeyError> {
        if vocab == 0 {
            return Err(KeyError::Empty);
        }
        let wrong = || KeyError::Length { tokens, vocab, actual: bytes.len() };
        if tokens.checked_mul(token_bytes(vocab)) != Some(bytes.len()) {
            return Err(wrong());
        }
        // As in `PAIRS`.
        let bits = match role {
            Role::Dealer => [0, 0],
            Role::P1 => [1, 0],
            Role::P2 => [1, 1],
        };
        let read = |bit: u8, bytes: &[u8]| {
            let batch = |bytes| {
                let (root, keys) = DpfKeys::unpack(device, vocab, bytes)?;
                Some(Batch { bit, root, keys })
            };
            let batches: Option<Vec<Batch>> =
                bytes.chunks(TOGETHER * dpf_key_bytes(vocab)).map(batch).collect();
            batches.ok_or_else(wrong)
        };
        let (first, second) = bytes.split_at(bytes.len() / 2);
        Ok(EmbeddingKeys { role, tokens, vocab, batches: [read(bits[0], first)?, read(bits[1], second)?] })
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// This party's p: tokens × d.
    fn summand(&self, device: &Device, table: &SharedTable) -> Words {
        let rows: Vec<Words> = self.batches[0]
            .iter()
            .zip(&self.batches[1])
            .map(|(a, b)| {
                let both = [(&table.first, a), (&table.second, b)];
                let part =
                    |(matrix, keys): (&Matrix, &Batch)| matrix.apply_in_step(&keys.one_hot(self.vocab));
                // Components in one order whatever the role, so that sessions meet at the same one.
                let order = if self.role == Role::P1 { [1, 0] } else { [0, 1] };
                let [p, q] = order.map(|i| part(both[i]));
                p + q
            })
            .collect();
        if rows.is_empty() {
            return Words::zeros(device, 0);
        }
        Words::concat(&rows.iter().collect::<Vec<_>>())
    }
}

/// The tokens' entries, tokens × d at the table's scale. Cost: [`cost`].
///
/// # Panics
/// If the keys are another party's or for a table of another size.
pub async fn embed(cx: &Cx<'_>, keys: &EmbeddingKeys, table: &SharedTable) -> Result<Share> {
    assert_eq!(keys.role, cx.role(), "another party's keys");
    assert_eq!(keys.vocab, table.inputs(), "keys for another vocabulary");
    sum(cx, keys.tokens, Some(keys), table).await
}

/// The dealer's part of [`embed`] before the keys of `tokens` tokens are there: everything but what [`deal_late`] sends.
///
/// # Panics
/// At another party.
pub async fn embed_ahead(cx: &Cx<'_>, tokens: usize, table: &SharedTable) -> Result<Share> {
    assert!(cx.is_dealer(), "an evaluator has its keys");
    sum(cx, tokens, None, table).await
}

/// What [`embed_ahead`] left out, when the keys are there.
///
/// # Panics
/// As [`embed`].
pub fn deal_late(
    session: &mut Session,
    net: &mut dyn Network,
    ahead: &mut Ahead,
    keys: &EmbeddingKeys,
    table: &SharedTable,
) -> Result<()> {
    assert_eq!((keys.role, keys.vocab), (Role::Dealer, table.inputs()), "other keys");
    let own = keys.summand(session.device(), table);
    session.deal_late(net, ahead, &own)
}

async fn sum(cx: &Cx<'_>, tokens: usize, keys: Option<&EmbeddingKeys>, table: &SharedTable) -> Result<Share> {
    let shape = Shape::new(tokens, table.outputs());
    let op = cx.op("embedding");
    // Before the dealt words, which take P0 as long.
    let own = keys.map(|keys| keys.summand(cx.device(), table));
    let dealt = cx.deal_late(op, shape.len(), own.as_ref())?;
    let half = dealt.zip(own).map(|(share, own)| cx.reduce(share + own));
    reshare(cx, Product { shape, scale: table.scale, half }).await
}

/// x · E^T for rows x that the parties hold as a share, for example one-hot rows at scale 0:
/// ```text
/// P1: λ1·Δx + Δ·(Δx + λx1)    P2: λ0·Δx + Δ·λx0    P0 deals (λ1 + λ0)·λx
/// ```
/// Dealt: 8 bytes an element of the result. No exchange.
pub fn matmul(cx: &Cx, x: &Share, table: &SharedTable) -> Result<Product> {
    let shape = Shape::new(x.shape.rows, table.outputs());
    let op = cx.op("table product");
    let both = |a: &Words, b: &Words| table.first.apply(a) + table.second.apply(b);
    let item = ring_item(cx, op, Purpose::Theta, shape.len());
    let theta = cx.deal(item, || both(&x.lambda, &x.lambda))?;
    let half = theta.zip(x.delta.as_ref()).map(|(theta, delta)| {
        let own = if cx.is_p1() { delta + &x.lambda } else { x.lambda.clone() };
        cx.reduce(both(delta, &own) + theta)
    });
    Ok(Product { shape, scale: x.scale + table.scale, half })
}

/// Bytes that a party holds at the most in [`embed`], beside the table: both one-hot rows of a batch of tokens, and the
/// last level of a tree while its leaves are made.
pub const fn held(tokens: usize, vocab: usize) -> u64 {
    let rows = if tokens < TOGETHER { tokens } else { TOGETHER };
    (3 * 8 * rows * vocab) as u64
}

/// Declared cost of [`embed`]: 8·T·d bytes from the dealer to P2, then one exchange of as many.
pub fn cost(tokens: usize, outputs: usize, ring_bits: u32) -> Cost {
    let n = tokens * outputs;
    product_cost(n, ring_bits).then(reshare_cost(n, ring_bits))
}
