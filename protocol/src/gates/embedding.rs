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
//! The keys of a pair give bits a_i and b_i at all positions i: the same ones, but for the token's position j. So each party
//! adds up the table's rows that its bits select, without a product, and the difference of a pair is
//! ```text
//! X = Σ a_i·C_i − Σ b_i·C_i = σ·C_j,    σ = a_j − b_j = ±1,    C the component.
//! ```
//! The sign must not become known: who knows it and one of the keys knows in which half of the positions the token is. The
//! same difference of a column of ones is σ itself, that is, of the *numbers* of bits: it is shared as X is, and σ·X = C_j.
//!
//! So with the rows and, behind them, their signs as one vector X, of each component:
//!
//! 1. X of Δ is opened under masks of both evaluators. Of λ1 and λ0, the one evaluator that has a key masks its summand with
//!    a stream that P0 knows and shows it to the other: X = λ + Δ with λ = P0's summand + the mask, and Δ what was shown.
//! 2. P0 deals its two summands, and Σ λσ·λX of all three components.
//! 3. Σ σ·X over the three components, a sum of products of such shares, is taken apart and truncated, which reshares it.
//!
//! **Two numbers a word.** Entries are numbers of 31 bits, so a word of the table holds those of two outputs ([`pack`]), and half
//! of the table is read and added up. What these steps make is a word, z = low + 2^32·high, whose numbers two
//! truncations in one gate take apart: of 2^32·z, which is 2^32·low, and of z. The first is exact; the second rounds
//! high + low/2^32, so that it is off by a unit with the probability |low|/2^32.
//!
//! **Who learns what.** Besides its keys, two of different pairs and roots, a party sees words that are masked as all others
//! are: towards P2 by streams of k01, towards P1 by streams of k02, each used once ([decision
//! 2](../../../docs/decisions/0002-masked-values.md)). P0 receives nothing. So its view is that of its keys, each of
//! which hides the token computationally, and together they do too, because the pairs have independent roots. The three signs
//! are independent, and no party ever has one. What a party computes does not depend on its keys; which of some sums in the
//! first-level cache it reads does ([`Matrix::apply_bits`]).
//!
//! The client sends each party two keys a token, [`dpf_key_bytes`] each, instead of a row of 8·V bytes: 358 bytes for
//! V = 49152. Nothing checks that keys are those of a unit vector: a client that deviates can get any combination of
//! rows.
//!
//! Cost: three exchanges. P0 waits for data here, those of the client; what it deals is on its way during the first
//! exchange, so that the time is that of three messages in a row. A party reads two tables of 4·V·d bytes, on the processor
//! once whatever the number of tokens; a key takes V/128 blocks of ChaCha12.
//!
//! Sources: Boyle, Gilboa and Ishai, CCS 2016 (eprint 2018/707); for point functions on replicated shares see also Bunn,
//! Kushilevitz and Ostrovsky (eprint 2021/163).

use super::product::{product_cost, ring_item};
use super::truncate::{self, truncate};
use crate::{Ahead, Cost, Cx, Key, KeyId, Network, Pads, Product, Purpose, Result};
use crate::{Role, Session, Shape, Share, bytes};
use kernels::{Device, DpfKeys, Indices, Matrix, Words, dpf_key_bytes};

/// The two parties of each pair of keys: for λ1, λ0 and Δ.
const PAIRS: [[Role; 2]; 3] = [[Role::Dealer, Role::P1], [Role::Dealer, Role::P2], [Role::P1, Role::P2]];

/// Bits of a word, and of a number in it.
const RING: u32 = 64;
const HALF: u32 = RING / 2;
/// |e| < 2^30 for all entries e, signed numbers of so many bits without the least: truncation wants a bit to spare.
pub const ENTRY_BITS: u32 = HALF - 1;

/// The shape of the words that hold the numbers of a table: ⌈d/2⌉ outputs.
pub const fn packed(table: Shape) -> Shape {
    Shape::new(table.rows.div_ceil(2), table.cols)
}

/// The word of two numbers, outputs i and i + ⌈d/2⌉ of an entry; what is beyond the last is 0.
pub const fn pair(low: u64, high: u64) -> u64 {
    low.wrapping_add(high << HALF)
}

/// The words of a table's first ⌈d/2⌉ outputs and of the others, each the numbers of all inputs.
///
/// # Panics
/// If there are more of the others.
pub fn pack(low: &Words, high: &Words) -> Words {
    if high.len() < low.len() {
        return pack(low, &Words::concat(&[high, &Words::zeros(low.device(), low.len() - high.len())]));
    }
    Words::formula([low, high], |[low, high]| low + (high << HALF))
}

/// What one party holds of a shared table, d outputs of V inputs, prepared for products with rows of length V.
#[derive(Clone, Debug)]
pub struct SharedTable {
    /// Fractional bits of the entries.
    pub scale: u32,
    /// d.
    outputs: usize,
    /// λ1 at P0 and P1, λ0 at P2.
    first: Matrix,
    /// λ0 at P0, Δ at P1 and P2.
    second: Matrix,
}

impl SharedTable {
    /// Prepares the two components that a party knows of the words ([`pack`]) of a d × V table: λ1 and λ0 at P0, λ1 and Δ at
    /// P1, λ0 and Δ at P2.
    ///
    /// # Panics
    /// If a component is not of the table's [`packed`] shape.
    pub fn new(first: &Words, second: &Words, shape: Shape, scale: u32) -> SharedTable {
        let words = packed(shape);
        let matrix = |component| Matrix::new(component, words.rows, words.cols);
        SharedTable::of([matrix(first), matrix(second)], shape.rows, scale)
    }

    /// As [`SharedTable::new`], of components that are prepared already, for entries of so many outputs.
    ///
    /// # Panics
    /// If those are not of as many outputs as their words.
    pub fn of([first, second]: [Matrix; 2], outputs: usize, scale: u32) -> SharedTable {
        assert!(
            [&first, &second].iter().all(|m| m.outputs() == outputs.div_ceil(2)),
            "words of another table"
        );
        SharedTable { scale, outputs, first, second }
    }

    /// d: length of an entry.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The words of an entry.
    fn words(&self) -> usize {
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

/// One party's keys of one component.
#[derive(Clone, Debug)]
struct Side {
    bit: u8,
    root: Words,
    keys: DpfKeys<Words>,
}

impl Side {
    /// The sum of the rows that the keys' bits select, for each token; behind all of these, how many they are.
    fn sums(&self, vocab: usize, table: &Matrix) -> Words {
        let bits = self.root.dpf_evaluate(self.bit, vocab, &self.keys);
        Words::concat(&[&table.apply_bits(&bits), &bits.count_bits(vocab)])
    }
}

/// One party's keys for a sequence of tokens.
#[derive(Clone, Debug)]
pub struct EmbeddingKeys {
    role: Role,
    tokens: usize,
    vocab: usize,
    /// For the first and the second component that the party knows.
    sides: [Side; 2],
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
            let (root, keys) = DpfKeys::unpack(device, vocab, bytes).ok_or_else(wrong)?;
            Ok(Side { bit, root, keys })
        };
        let (first, second) = bytes.split_at(bytes.len() / 2);
        Ok(EmbeddingKeys { role, tokens, vocab, sides: [read(bits[0], first)?, read(bits[1], second)?] })
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// This party's summands of the two components' X.
    fn summands(&self, table: &SharedTable) -> [Words; 2] {
        let [first, second] = &self.sides;
        let sums = [(first, &table.first), (second, &table.second)];
        let sums = |i: usize| sums[i].0.sums(self.vocab, sums[i].1);
        // Components in one order whatever the role, so that sessions meet at the same one.
        if self.role == Role::P1 {
            let second = sums(1);
            return [sums(0), second];
        }
        [sums(0), sums(1)]
    }
}

/// The shape of the rows of words, tokens × ⌈d/2⌉, and what is made of blocks of rows and signs.
#[derive(Clone, Copy)]
struct Rows(Shape);

impl Rows {
    /// Words of one X: rows, then signs.
    fn block(self) -> usize {
        self.0.len() + self.0.rows
    }

    /// Two X behind each other.
    fn halves(self, w: &Words) -> [Words; 2] {
        let n = self.block();
        [w.slice(0..n), w.slice(n..2 * n)]
    }

    /// Each sign of x times its row of y.
    fn signed(self, x: &Words, y: &Words) -> Words {
        let signs = Indices::grid(self.0.len(), [(self.0.rows, 1), (self.0.cols, 0)]);
        Words::formula([x.at(&signs), y.part(0..self.0.len())], |[sign, y]| sign * y)
    }

    /// Words of what P0 deals.
    fn dealt(self) -> usize {
        2 * self.block() + self.0.len()
    }

    /// What P0 deals: its own summands of λ1 and λ0, and Σ λσ·λX. `masks` are those of P1 and of P2.
    fn deal(self, own: &[Words; 2], masks: [&Words; 2]) -> Words {
        let [[of_one, p1], [of_zero, p2]] = masks.map(|m| self.halves(m));
        let lambdas = [&own[0] + of_one, &own[1] + of_zero, p1 + p2];
        let theta = lambdas.iter().map(|x| self.signed(x, x)).reduce(|a, b| a + b);
        Words::concat(&[&own[0], &own[1], &theta.expect("three components")])
    }

    /// An evaluator's half of Σ σ·X: of what P0 dealt, what was shown (its own, and the other's), and its masks.
    fn half(self, p1: bool, dealt: &Words, shown: (Words, Words), mask: &Words) -> Words {
        let n = self.block();
        let [mine, theirs] = [&shown.0, &shown.1].map(|w| self.halves(w));
        let [masks, open] = self.halves(mask);
        let mut lambdas = [dealt.slice(0..n), dealt.slice(n..2 * n), open];
        let own = if p1 { 0 } else { 1 };
        lambdas[own] = &lambdas[own] + masks;
        let both = &mine[1] + &theirs[1];
        let [of_own, of_other] = [&mine[0], &theirs[0]];
        let deltas = if p1 { [of_own, of_other, &both] } else { [of_other, of_own, &both] };
        let theta = dealt.slice(2 * n..self.dealt());
        deltas.into_iter().zip(&lambdas).fold(theta, |sum, (delta, lambda)| {
            let cross = if p1 { self.signed(delta, &(delta + lambda)) } else { self.signed(delta, lambda) };
            sum + cross + self.signed(lambda, delta)
        })
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
    let rows = Rows(Shape::new(keys.tokens, table.words()));
    let masks =
        [KeyId::K01, KeyId::K02].map(|key| session.draw_late(ahead, key, Purpose::Result, 2 * rows.block()));
    let value = rows.deal(&keys.summands(table), masks.each_ref());
    session.deal_late(net, ahead, &value)
}

async fn sum(cx: &Cx<'_>, tokens: usize, keys: Option<&EmbeddingKeys>, table: &SharedTable) -> Result<Share> {
    let rows = Rows(Shape::new(tokens, table.words()));
    let op = cx.op("embedding");
    let own = keys.map(|keys| keys.summands(table));
    // The dealer needs the masks when it deals: without keys that is not here.
    let masks = ring_item(cx, cx.late(op), Purpose::Result, 2 * rows.block());
    let pads = if own.is_some() { cx.pads(&masks) } else { Pads { p1: None, p2: None } };
    let half = own.as_ref().filter(|_| !cx.is_dealer()).map(|[first, second]| match cx.is_p1() {
        true => Words::concat(&[&-first, second]),
        false => Words::concat(&[&-first, &-second]),
    });
    let shown = cx.swap(masks, half, &pads).await?;
    let value = match (&own, &pads) {
        (Some(own), Pads { p1: Some(p1), p2: Some(p2) }) => Some(rows.deal(own, [p1, p2])),
        _ => None,
    };
    // Only now, so that it was on its way during the exchange.
    let dealt = cx.deal_late(op, rows.dealt(), value.as_ref())?;
    let half = dealt.zip(shown).map(|(dealt, shown)| {
        let mask = pads.p1.as_ref().or(pads.p2.as_ref()).expect("an evaluator knows its own");
        cx.reduce(rows.half(cx.is_p1(), &dealt, shown, mask))
    });
    take_apart(cx, half, Shape::new(tokens, table.outputs()), table.scale).await
}

/// Shares of the numbers of words, rows × ⌈d/2⌉, of which the evaluators have halves. Cost: [`apart_cost`].
async fn take_apart(cx: &Cx<'_>, words: Option<Words>, shape: Shape, scale: u32) -> Result<Share> {
    let (ring, row) = (cx.ring().bits(), shape.cols.div_ceil(2));
    assert_eq!(ring, RING, "two numbers in a word");
    let half = words.map(|words| {
        // 2^32·z − 1 and z, of which the high halves are the numbers. Both halves of 2^32·z end in zeros: no carry, which
        // truncation takes for a value to be rounded up.
        let raised = Words::formula([&words], |[z]| (z << HALF) - u64::from(cx.is_p1()));
        let both = Words::concat(&[&raised, &words]);
        let place = |t: usize, j: usize| if j < row { t * row + j } else { words.len() + t * row + j - row };
        let place =
            |i: usize| u32::try_from(place(i / shape.cols, i % shape.cols)).expect("words that fit memory");
        both.gather(&(0..shape.len()).map(place).collect())
    });
    truncate(cx, Product { shape, scale: scale + HALF, bits: ring, half }, HALF).await
}

fn apart_cost(n: usize) -> Cost {
    truncate::cost(n, HALF, RING)
}

/// The entries of rows that the parties hold as a share of unit vectors at scale 0, rows × d. Cost: [`select_cost`].
///
/// # Panics
/// If the rows have a scale.
pub async fn select(cx: &Cx<'_>, x: &Share, table: &SharedTable) -> Result<Share> {
    assert_eq!(x.scale, 0, "unit vectors");
    let words = matmul(cx, x, table)?;
    take_apart(cx, words.half, Shape::new(x.shape.rows, table.outputs()), table.scale).await
}

/// Declared cost of [`select`].
pub fn select_cost(rows: usize, outputs: usize) -> Cost {
    product_cost(packed(Shape::new(outputs, rows)).len(), RING).then(apart_cost(rows * outputs))
}

/// x · W^T for rows x that the parties hold as a share and the table's words W:
/// ```text
/// P1: λ1·Δx + Δ·(Δx + λx1)    P2: λ0·Δx + Δ·λx0    P0 deals (λ1 + λ0)·λx
/// ```
/// Dealt: 8 bytes a word of the result. No exchange.
pub fn matmul(cx: &Cx, x: &Share, table: &SharedTable) -> Result<Product> {
    let shape = Shape::new(x.shape.rows, table.words());
    let op = cx.op("table product");
    let both = |a: &Words, b: &Words| table.first.apply(a) + table.second.apply(b);
    let item = ring_item(cx, op, Purpose::Theta, shape.len());
    let theta = cx.deal(item, || both(&x.lambda, &x.lambda))?;
    let half = theta.zip(x.delta.as_ref()).map(|(theta, delta)| {
        let own = if cx.is_p1() { delta + &x.lambda } else { x.lambda.clone() };
        cx.reduce(both(delta, &own) + theta)
    });
    Ok(Product { shape, scale: x.scale + table.scale, bits: cx.ring().bits(), half })
}

/// Bytes that a party holds at the most in [`embed`] beside the table: the bits of all tokens' keys of one component, twice,
/// as their order is changed.
pub const fn held(tokens: usize, vocab: usize) -> u64 {
    (2 * 8 * tokens * vocab.div_ceil(64)) as u64
}

/// Declared cost of [`embed`], of w = ⌈d/2⌉ words an entry: 8·T·(3w + 2) + 4·T·d bytes from the dealer to P2; exchanges of
/// 16·T·(w + 1), T·d/8 and 8·T·d.
pub fn cost(tokens: usize, outputs: usize) -> Cost {
    let rows = Rows(Shape::new(tokens, outputs.div_ceil(2)));
    Cost::dealt(bytes(rows.dealt(), RING))
        .then(Cost::round(bytes(2 * rows.block(), RING)))
        .then(apart_cost(tokens * outputs))
}
