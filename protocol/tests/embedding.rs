//! Private embedding: the right rows, exact sizes and costs, and keys and messages that say nothing about the tokens.

mod common;

use common::{hash, solve_views};
use kernels::{Device, DpfKeys, Ring, Words, dpf_key_bytes, dpf_levels};
use protocol::gates::embedding::{self, EmbeddingKeys, KeyError, SharedTable, token_bytes};
use protocol::gates::product;
use protocol::testing::{MemoryNetwork, Outcome, World};
use protocol::{
    ChaChaStreams, Cost, Cx, Key, KeyId, Ledger, Purpose, Role, Sent, Session, Shape, Share, Streams,
};

const F: u32 = 18;

fn key(n: u64) -> Key {
    std::array::from_fn(|i| hash(&[n, i as u64]) as u8)
}

/// The parties' parts of a d × V table.
fn share_table(w: &World, values: &[u64], shape: Shape) -> [SharedTable; 3] {
    let n = embedding::packed(shape).len();
    let masks = w.data(900, 2 * n, 64);
    let up = |v: Vec<u64>| Words::upload(w.device(), v);
    let words = embedding::pack(&up(values[..n].to_vec()), &up(values[n..].to_vec()));
    let (one, zero) = (up(masks[..n].to_vec()), up(masks[n..].to_vec()));
    let delta = words - &one - &zero;
    [(&one, &zero), (&one, &delta), (&zero, &delta)].map(|(a, b)| SharedTable::new(a, b, shape, F))
}

/// Any numbers that entries may be, the first and the last of which are the largest and the smallest.
fn values(shape: Shape) -> Vec<u64> {
    let range = 1i64 << (embedding::ENTRY_BITS - 1);
    let number = |i: u64| (hash(&[i, 5]) as i64).rem_euclid(2 * range - 1) - (range - 1);
    let mut values: Vec<u64> = (0..shape.len() as u64).map(|i| number(i) as u64).collect();
    values[0] = (range - 1) as u64;
    *values.last_mut().unwrap() = (1 - range) as u64;
    values
}

fn parse(device: &Device, parts: &[Vec<u8>; 3], tokens: usize, vocab: usize) -> [EmbeddingKeys; 3] {
    Role::ALL.map(|r| EmbeddingKeys::parse(device, r, &parts[r.index()], tokens, vocab).unwrap())
}

fn keys(w: &World, tokens: &[u32], vocab: usize, seed: u64) -> [EmbeddingKeys; 3] {
    let parts = embedding::split(w.device(), tokens, vocab, &key(seed)).unwrap();
    assert_eq!(parts.each_ref().map(Vec::len), [tokens.len() * token_bytes(vocab); 3]);
    parse(w.device(), &parts, tokens.len(), vocab)
}

fn embed(w: &World, keys: [EmbeddingKeys; 3], tables: [SharedTable; 3]) -> Outcome<Share> {
    let inputs: Vec<_> = keys.into_iter().zip(tables).collect();
    w.run(inputs.try_into().unwrap(), |cx, (keys, table)| {
        Box::pin(async move { embedding::embed(&cx, &keys, &table).await })
    })
}

/// Entries as they are: in the low halves of words exactly, in the high ones or a unit beside.
fn assert_entries(seen: &[u64], e: &[u64], tokens: &[u32], d: usize, vocab: usize) {
    assert_eq!(seen.len(), tokens.len() * d);
    for (row, t) in seen.chunks_exact(d).zip(tokens) {
        for (i, seen) in row.iter().enumerate() {
            let apart = seen.wrapping_sub(e[i * vocab + *t as usize]) as i64;
            let units = if i < d.div_ceil(2) { 0 } else { 1 };
            assert!(apart.abs() <= units, "output {i} of token {t}: {apart} units apart");
        }
    }
}

fn assert_rows(w: &World, tokens: &[u32], d: usize, vocab: usize) {
    let shape = Shape::new(d, vocab);
    let e = values(shape);
    let o = embed(w, keys(w, tokens, vocab, 3), share_table(w, &e, shape));
    assert_eq!((o.results[0].shape, o.results[0].scale), (Shape::new(tokens.len(), d), F));
    assert_entries(&w.open(&o.results).values, &e, tokens, d, vocab);
    assert_cost(&o, embedding::cost(tokens.len(), d));
}

fn assert_cost<T>(o: &Outcome<T>, declared: Cost) {
    let mut l = Ledger::default();
    l += &declared;
    assert_eq!((o.ledger.exchanges, o.ledger.sent), (l.exchanges, l.sent));
}

// ---- Values and costs.

#[test]
fn every_token_of_small_vocabularies() {
    let w = World::new(1);
    for vocab in [1usize, 2, 3, 61, 128] {
        // In groups of 1 to 5, then all at once: more than are evaluated together.
        let all: Vec<u32> = (0..vocab as u32).collect();
        let mut rest = &all[..];
        for size in (1..=5).cycle() {
            let (tokens, next) = rest.split_at(size.min(rest.len()));
            assert_rows(&w, tokens, 5, vocab);
            rest = next;
            if rest.is_empty() {
                break;
            }
        }
        assert_rows(&w, &all, 18, vocab);
    }
}

#[test]
fn tokens_of_a_large_vocabulary() {
    let w = World::new(2);
    let tokens = [30521, 0, 16384, 8192, 101];
    for n in 1..=5 {
        assert_rows(&w, &tokens[5 - n..], 3, 30522);
    }
    // Repeated tokens get keys of their own.
    assert_rows(&w, &[7, 7, 30000, 7], 2, 30522);
}

#[test]
fn entries_of_one_number_and_no_tokens() {
    assert_rows(&World::new(3), &[60, 0, 31], 1, 61);
    assert_rows(&World::new(4), &[], 4, 61);
}

/// The high number of a word is rounded from high + low/2^32: off by one as often as that says, to either side.
#[test]
fn high_numbers_are_rounded() {
    let (w, n) = (World::new(12), 4096);
    let largest = (1i64 << (embedding::ENTRY_BITS - 1)) - 1;
    for (low, apart) in [(largest, 1), (-largest, -1)] {
        for high in [77, largest, -largest] {
            let shape = Shape::new(2, 2);
            let table = [0, low as u64, 0, high as u64];
            let o = embed(&w, keys(&w, &vec![1; n], 2, 4), share_table(&w, &table, shape));
            let seen = w.open(&o.results).values;
            let off = |row: &[u64]| (row[1] as i64).wrapping_sub(high);
            assert!(seen.chunks_exact(2).all(|row| row[0] as i64 == low && [0, apart].contains(&off(row))));
            let count = seen.chunks_exact(2).filter(|row| off(row) != 0).count() as f64;
            // A quarter of them: six standard deviations.
            let (n, limit) = (n as f64, 6.0 * (n as f64 * 3.0 / 16.0).sqrt());
            assert!((count - n / 4.0).abs() < limit, "{count} of {n}");
        }
    }
}

#[test]
fn products_with_rows_that_are_shared() {
    let w = World::new(5);
    for (rows, d, vocab) in [(1, 1, 1), (3, 5, 61), (4, 17, 128)] {
        // Two numbers a word, of which only the words are of interest here.
        let shape = Shape::new(2 * d, vocab);
        let e = values(shape);
        let e: Vec<u64> = (0..d * vocab).map(|i| embedding::pair(e[i], e[i + d * vocab])).collect();
        let one_hot = |i: usize| u64::from(i % vocab == hash(&[(i / vocab) as u64]) as usize % vocab);
        let anything = |i: usize| hash(&[i as u64, 8]);
        for x in
            [(0..rows * vocab).map(one_hot).collect::<Vec<_>>(), (0..rows * vocab).map(anything).collect()]
        {
            let inputs: Vec<_> = w
                .share(&x, Shape::new(rows, vocab), 0, 1)
                .into_iter()
                .zip(share_table(&w, &values(shape), shape))
                .collect();
            let o = w.run(inputs.try_into().unwrap(), |cx, (x, table)| {
                Box::pin(async move { embedding::matmul(&cx, &x, &table) })
            });
            let want = |i: usize| {
                (0..vocab).fold(0u64, |s, t| {
                    s.wrapping_add(x[i / d * vocab + t].wrapping_mul(e[i % d * vocab + t]))
                })
            };
            assert_eq!(w.open_product(&o.results), (0..rows * d).map(want).collect::<Vec<_>>());
            assert_eq!((o.results[1].shape, o.results[1].scale), (Shape::new(rows, d), F));
            assert_cost(&o, product::product_cost(rows * d, 64));
        }
    }
}

#[test]
fn rows_that_are_shared_select_entries() {
    let w = World::new(15);
    for (tokens, d, vocab) in [(vec![0u32], 1, 1), (vec![60, 7, 0], 5, 61), (vec![127, 64, 127, 3], 18, 128)]
    {
        let shape = Shape::new(d, vocab);
        let one_hot: Vec<u64> =
            tokens.iter().flat_map(|t| (0..vocab).map(move |i| u64::from(i == *t as usize))).collect();
        let inputs: Vec<_> = w
            .share(&one_hot, Shape::new(tokens.len(), vocab), 0, 1)
            .into_iter()
            .zip(share_table(&w, &values(shape), shape))
            .collect();
        let o = w.run(inputs.try_into().unwrap(), |cx, (x, table)| {
            Box::pin(async move { embedding::select(&cx, &x, &table).await })
        });
        assert_eq!((o.results[1].shape, o.results[1].scale), (Shape::new(tokens.len(), d), F));
        assert_entries(&w.open(&o.results).values, &values(shape), &tokens, d, vocab);
        assert_cost(&o, embedding::select_cost(tokens.len(), d));
    }
}

// ---- Keys.

/// Each half of a party's message: roots and correction words of its two components.
fn halves(device: &Device, part: &[u8], vocab: usize) -> [(Words, DpfKeys<Words>); 2] {
    let (a, b) = part.split_at(part.len() / 2);
    [a, b].map(|bytes| DpfKeys::unpack(device, vocab, bytes).unwrap())
}

/// For each component, (party, which of its halves) with bit 0 and with bit 1.
const HOLDERS: [[(usize, usize); 2]; 3] = [[(0, 0), (1, 0)], [(0, 1), (2, 0)], [(1, 1), (2, 1)]];

#[test]
fn the_keys_of_a_pair_add_up_to_the_unit_vector() {
    let w = World::new(6);
    for vocab in [1usize, 2, 3, 61, 128, 30522] {
        let tokens: Vec<u32> = (0..5).map(|i| (hash(&[i]) % vocab as u64) as u32).collect();
        let parts = embedding::split(w.device(), &tokens, vocab, &key(6)).unwrap();
        let halves = parts.each_ref().map(|p| halves(w.device(), p, vocab));
        for [(p, i), (q, j)] in HOLDERS {
            let ((root0, keys0), (root1, keys1)) = (&halves[p][i], &halves[q][j]);
            // Pairs differ in their roots only.
            assert!(root0.to_vec().iter().zip(root1.to_vec()).all(|(a, b)| *a != b));
            assert_eq!(keys0.seeds.to_vec(), keys1.seeds.to_vec());
            assert_eq!(keys0.controls.to_vec(), keys1.controls.to_vec());
            assert_eq!(keys0.last.to_vec(), keys1.last.to_vec());
            let sum = (root0.dpf_evaluate(0, vocab, keys0) ^ root1.dpf_evaluate(1, vocab, keys1)).to_vec();
            for (row, token) in sum.chunks_exact(vocab.div_ceil(64)).zip(&tokens) {
                let one = |word: usize| u64::from(word == *token as usize / 64) << (token % 64);
                assert!(row.iter().enumerate().all(|(word, bits)| *bits == one(word)));
            }
        }
    }
}

#[test]
fn sizes_are_exact() {
    // (levels · 16.25 + 32) for each key, levels = ⌈log2 V⌉ − 7; control bits are whole bytes.
    for (vocab, party) in [(1, 64), (61, 64), (129, 98), (30522, 324), (49152, 358), (128_256, 390)] {
        assert_eq!(token_bytes(vocab), party);
        let parts = embedding::split(World::new(7).device(), &[0], vocab, &key(7)).unwrap();
        assert_eq!(parts.map(|p| p.len()), [party; 3]);
    }
    assert_eq!(3 * token_bytes(128_256), 1170);
}

#[test]
fn wrong_messages_are_refused() {
    let device = kernels::cpu::Cpu::best();
    let vocab = 61;
    let bytes: Vec<u8> = (0..3 * token_bytes(vocab)).map(|i| hash(&[i as u64]) as u8).collect();
    for role in Role::ALL {
        let read = |bytes: &[u8], tokens| EmbeddingKeys::parse(&device, role, bytes, tokens, vocab);
        assert_eq!(read(&bytes, 3).unwrap().tokens(), 3);
        assert_eq!(read(&[], 0).unwrap().tokens(), 0);
        let one = token_bytes(vocab);
        for (length, tokens) in
            [(0, 1), (one - 1, 1), (one / 2, 1), (2 * one, 1), (one, 0), (3 * one - 1, 3), (one, usize::MAX)]
        {
            let error = read(&bytes[..length], tokens).unwrap_err();
            assert_eq!(error, KeyError::Length { tokens, vocab, actual: length });
            assert!(error.to_string().contains(&format!("{length} bytes of keys for {tokens} tokens")));
        }
        assert_eq!(EmbeddingKeys::parse(&device, role, &[], 0, 0).unwrap_err(), KeyError::Empty);
    }
    let split = |tokens: &[u32], vocab| embedding::split(&device, tokens, vocab, &key(8)).map(|_| ());
    assert_eq!(split(&[0, 61, 3], 61), Err(KeyError::Token { token: 61, vocab: 61 }));
    assert_eq!(split(&[60, u32::MAX], 61), Err(KeyError::Token { token: u32::MAX, vocab: 61 }));
    assert_eq!(split(&[], 0), Err(KeyError::Empty));
    assert_eq!(split(&[], 61), Ok(()));
}

/// Bytes of the right length are keys of something: wrong rows, but no panic.
#[test]
fn any_bytes_are_keys() {
    let w = World::new(8);
    for vocab in [1usize, 3, 61] {
        let shape = Shape::new(4, vocab);
        for fill in [0u8, 0xff, 0x5a] {
            let parts = [(); 3].map(|()| vec![fill; 2 * token_bytes(vocab)]);
            let o = embed(&w, parse(w.device(), &parts, 2, vocab), share_table(&w, &values(shape), shape));
            assert_eq!(w.open(&o.results).values.len(), 8);
        }
    }
}

// ---- What keys say about tokens.

/// Ways to make keys.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Maker {
    Honest,
    /// The three pairs have the same roots.
    RootsOfAllPairs,
    /// All tokens have the same roots.
    RootsOfAllTokens,
    /// A level's seed correction is left out.
    NoSeedCorrection(usize),
    /// Control corrections without the random bits in them.
    BareControls,
    /// The correction of the leaf is the token's place in it.
    BareLeaf,
}

/// Keys for one token many times over, made a second time.
fn make(device: &Device, maker: Maker, token: u32, n: usize, vocab: usize, seed: &Key) -> [Vec<u8>; 3] {
    let levels = dpf_levels(vocab);
    let alpha = Words::upload(device, vec![u64::from(token); n]);
    let mut parts = [const { Vec::new() }; 3];
    for (pair, holders) in HOLDERS.iter().enumerate() {
        let stream = if maker == Maker::RootsOfAllPairs { 0 } else { pair as u64 };
        let mut roots = Words::chacha12(device, seed, stream, 4 * n, 64).to_vec();
        if maker == Maker::RootsOfAllTokens {
            let (zero, one) = ([roots[0], roots[1]], [roots[2 * n], roots[2 * n + 1]]);
            roots = [zero.repeat(n), one.repeat(n)].concat();
        }
        let roots = [0, 1].map(|b| Words::upload(device, roots[2 * n * b..][..2 * n].to_vec()));
        let mut keys = alpha.dpf_generate(vocab, &roots[0], &roots[1]);
        if let Maker::NoSeedCorrection(level) = maker {
            let mut seeds = keys.seeds.to_vec();
            seeds.chunks_exact_mut(2 * levels).for_each(|k| k[2 * level..2 * level + 2].fill(0));
            keys.seeds = Words::upload(device, seeds);
        }
        if maker == Maker::BareControls {
            let bare = (0..n * levels)
                .map(|i| 1 + u64::from((token / 128) >> (levels - 1 - i % levels) & 1))
                .collect();
            keys.controls = Words::upload(device, bare);
        }
        if maker == Maker::BareLeaf {
            let place = 1u128 << (token % 128);
            keys.last = Words::upload(device, [place as u64, (place >> 64) as u64].repeat(n));
        }
        for ((party, _), root) in holders.iter().zip(&roots) {
            keys.pack(vocab, root, &mut parts[*party]);
        }
    }
    parts
}

/// Standard normal quantile that a chi-square value of `df` degrees corresponds to (Wilson and Hilferty).
fn z_score(chi2: f64, df: f64) -> f64 {
    let v = 2.0 / (9.0 * df);
    ((chi2 / df).cbrt() - (1.0 - v)) / v.sqrt()
}

/// Six standard deviations: one in 10^9.
const LIMIT: f64 = 6.0;

/// Samples (one row of bytes each) of what a party has of each token: its two keys; their difference; and the
/// differences of neighbours. Independent keys make all of them uniform.
fn views(part: &[u8], vocab: usize) -> [Vec<Vec<u8>>; 3] {
    let (first, second) = part.split_at(part.len() / 2);
    let size = dpf_key_bytes(vocab);
    let xor = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| a ^ b).collect::<Vec<u8>>();
    let pairs = || first.chunks_exact(size).zip(second.chunks_exact(size));
    let both: Vec<Vec<u8>> = pairs().map(|(a, b)| [a, b].concat()).collect();
    let within = pairs().map(|(a, b)| xor(a, b)).collect();
    let between = both.chunks_exact(2).map(|c| xor(&c[0], &c[1])).collect();
    [both, within, between]
}

fn counts(rows: &[Vec<u8>], position: usize) -> [f64; 256] {
    let mut counts = [0f64; 256];
    rows.iter().for_each(|r| counts[r[position] as usize] += 1.0);
    counts
}

/// The least uniform byte position of a view, in standard deviations.
fn not_uniform(rows: &[Vec<u8>]) -> f64 {
    let expected = rows.len() as f64 / 256.0;
    let chi2 = |at| counts(rows, at).iter().map(|c| (c - expected).powi(2) / expected).sum();
    (0..rows[0].len()).map(|at| z_score(chi2(at), 255.0)).fold(f64::MIN, f64::max)
}

/// The byte position that differs most between two views of equal size.
fn different(a: &[Vec<u8>], b: &[Vec<u8>]) -> f64 {
    let at = |at| {
        let (a, b) = (counts(a, at), counts(b, at));
        let seen = a.iter().zip(&b).filter(|(x, y)| *x + *y > 0.0);
        let (chi2, n) = seen.fold((0.0, 0.0), |(s, n), (x, y)| (s + (x - y).powi(2) / (x + y), n + 1.0));
        if n > 1.0 { z_score(chi2, n - 1.0) } else { 0.0 }
    };
    (0..a[0].len()).map(at).fold(f64::MIN, f64::max)
}

const KEYS: usize = 1 << 12;

/// For each party: the worst of each view over two tokens, and the worst difference between the tokens.
fn detect(maker: Maker, vocab: usize, seed: u64) -> [([f64; 3], f64); 3] {
    let device = kernels::cpu::Cpu::best();
    let parts = [0, vocab as u32 / 3 * 2 + 1]
        .map(|token| make(&device, maker, token, KEYS, vocab, &key(seed + u64::from(token))));
    [0, 1, 2].map(|party| {
        let [a, b] = parts.each_ref().map(|p| views(&p[party], vocab));
        let uniform = [0, 1, 2].map(|v| not_uniform(&a[v]).max(not_uniform(&b[v])));
        (uniform, [0, 1, 2].map(|v| different(&a[v], &b[v])).into_iter().fold(f64::MIN, f64::max))
    })
}

/// Vocabularies whose control bits fill whole bytes.
#[test]
fn keys_look_the_same_for_all_tokens() {
    for vocab in [2048, 30522] {
        for (party, (uniform, different)) in detect(Maker::Honest, vocab, 40).into_iter().enumerate() {
            assert!(uniform.iter().all(|z| *z < LIMIT), "{vocab} tokens, P{party}: {uniform:?}");
            assert!(different < LIMIT, "{vocab} tokens, P{party}: {different}");
        }
    }
}

#[test]
fn detectors_fire_on_broken_keys() {
    // The keys above are the client's.
    let device = kernels::cpu::Cpu::best();
    let client = embedding::split(&device, &[77; 9], 2048, &key(50)).unwrap();
    assert_eq!(make(&device, Maker::Honest, 77, 9, 2048, &key(50)), client);
    // Each fault shows in the view that is made for it, at every party; some also as a difference between two tokens.
    let faults = [
        (Maker::RootsOfAllPairs, 1, false),
        (Maker::RootsOfAllTokens, 2, true),
        (Maker::BareControls, 0, true),
        (Maker::BareLeaf, 0, true),
    ];
    let seeds = (0..dpf_levels(2048)).map(|level| (Maker::NoSeedCorrection(level), 0, false));
    for (maker, view, differ) in faults.into_iter().chain(seeds) {
        for (uniform, different) in detect(maker, 2048, 60) {
            assert!(uniform[view] > 5.0 * LIMIT, "{maker:?}: {uniform:?}");
            let found = if differ { different > 5.0 * LIMIT } else { different < LIMIT };
            assert!(found, "{maker:?}: {different}");
        }
    }
}

/// Why pairs need roots of their own: P1 has a key with bit 1 and one with bit 0.
#[test]
fn a_party_does_not_hold_a_pair() {
    let device = kernels::cpu::Cpu::best();
    let p1_sees = |maker| {
        let [(root, keys), (other_root, other)] =
            halves(&device, &make(&device, maker, 77, 1, 512, &key(70))[1], 512);
        (root.dpf_evaluate(1, 512, &keys) ^ other_root.dpf_evaluate(0, 512, &other)).to_vec()
    };
    assert_eq!(p1_sees(Maker::RootsOfAllPairs), [0, 1 << (77 - 64), 0, 0, 0, 0, 0, 0]);
    let ones: u32 = p1_sees(Maker::Honest).iter().map(|w| w.count_ones()).sum();
    assert!(ones.abs_diff(256) < 70, "{ones} of 512 random bits");
}

// ---- What the bits of keys say about tokens.

/// For each pair, the bit at the token of each token's key with bit 0: it is the pair's sign.
fn signs(parts: &[Vec<u8>; 3], token: u32, vocab: usize) -> [Vec<bool>; 3] {
    let device = kernels::cpu::Cpu::best();
    HOLDERS.map(|[(party, i), _]| {
        let [a, b] = halves(&device, &parts[party], vocab);
        let (root, keys) = if i == 0 { a } else { b };
        let bits = root.dpf_evaluate(0, vocab, &keys).to_vec();
        bits.chunks_exact(vocab.div_ceil(64))
            .map(|row| row[token as usize / 64] >> (token % 64) & 1 == 1)
            .collect()
    })
}

/// How uneven the outcomes of two signs are together, in standard deviations. A party has a key of each of two pairs: if
/// these were not four equally likely outcomes, its bits would say something about where the token is.
fn uneven(a: &[bool], b: &[bool]) -> f64 {
    let mut counts = [0f64; 4];
    a.iter().zip(b).for_each(|(a, b)| counts[usize::from(*a) + 2 * usize::from(*b)] += 1.0);
    let expected = a.len().min(b.len()) as f64 / 4.0;
    z_score(counts.iter().map(|c| (c - expected).powi(2) / expected).sum(), 3.0)
}

#[test]
fn signs_are_balanced_and_independent() {
    let device = kernels::cpu::Cpu::best();
    // Wherever the token is: in the first, in the last leaf, at a leaf's ends.
    for (vocab, token) in [(1, 0), (61, 60), (300, 127), (300, 128), (2048, 2047)] {
        let parts = make(&device, Maker::Honest, token, KEYS, vocab, &key(110 + u64::from(token)));
        let [one, zero, delta] = signs(&parts, token, vocab);
        for (a, b) in [(&one, &zero), (&one, &delta), (&zero, &delta)] {
            let z = uneven(a, b);
            assert!(z < LIMIT, "token {token} of {vocab}: {z}");
        }
        // With one root for all pairs a party's two signs are related.
        let parts = make(&device, Maker::RootsOfAllPairs, token, KEYS, vocab, &key(120));
        let [one, zero, _] = signs(&parts, token, vocab);
        assert!(uneven(&one, &zero) > 4.0 * LIMIT);
    }
}

/// Bits of many keys of one party for one token, a row for each.
fn bits(part: &[u8], i: usize, bit: u8, vocab: usize) -> Vec<Vec<u64>> {
    let device = kernels::cpu::Cpu::best();
    let (root, keys) = &halves(&device, part, vocab)[i];
    let bits = root.dpf_evaluate(bit, vocab, keys).to_vec();
    bits.chunks_exact(vocab.div_ceil(64)).map(<[u64]>::to_vec).collect()
}

/// How far each position's number of ones in such rows is from half of them, in standard deviations.
fn unbalanced(rows: &[Vec<u64>], vocab: usize) -> Vec<f64> {
    let n = rows.len() as f64;
    let ones = |x: usize| rows.iter().map(|row| (row[x / 64] >> (x % 64) & 1) as f64).sum::<f64>();
    (0..vocab).map(|x| ((ones(x) - n / 2.0) / (n / 4.0).sqrt()).abs()).collect()
}

/// Every position of a key's bits is as often 1 as 0, whatever the token; not so if the client makes keys until the pair's
/// sign is 1.
#[test]
fn bits_of_a_key_are_balanced() {
    let device = kernels::cpu::Cpu::best();
    let vocab = 300;
    for token in [0, 130, 299] {
        let parts = make(&device, Maker::Honest, token, KEYS, vocab, &key(130 + u64::from(token)));
        for [(p, i), (q, j)] in HOLDERS {
            for (party, i, bit) in [(p, i, 0), (q, j, 1)] {
                let mut rows = bits(&parts[party], i, bit, vocab);
                for (x, z) in unbalanced(&rows, vocab).into_iter().enumerate() {
                    assert!(z < LIMIT, "P{party}, token {token}, position {x}: {z}");
                }
                // Keys with bit 0 have a 1 at the token, the others a 0.
                rows.retain(|row| row[token as usize / 64] >> (token % 64) & 1 == u64::from(1 - bit));
                let z = unbalanced(&rows, vocab);
                let at_token = z[token as usize];
                assert!(at_token > 4.0 * LIMIT, "P{party}, token {token}: {at_token}");
                assert!(z.iter().filter(|z| **z >= LIMIT).count() == 1, "P{party}: only there");
            }
        }
    }
}

/// Its streams have one name in a run, and would be the same for another embedding.
#[test]
#[should_panic(expected = "what is dealt late has one name in a run")]
fn a_run_has_one_embedding() {
    let (w, shape) = (World::new(3), Shape::new(2, 61));
    let [table, _, _] = share_table(&w, &values(shape), shape);
    let [keys, _, _] = keys(&w, &[5], 61, 140);
    // The dealer waits for nobody.
    let [mut net, _p1, _p2] = MemoryNetwork::three();
    let streams = Box::new(ChaChaStreams::new([Some(key(1)), Some(key(2)), None]));
    let mut dealer = Session::new(Role::Dealer, w.device().clone(), Ring::Z64, streams);
    let twice = async |cx: Cx<'_>| {
        embedding::embed(&cx, &keys, &table).await?;
        embedding::embed(&cx, &keys, &table).await
    };
    let _ = dealer.run(&mut net, twice);
}

// ---- What the parties send.

/// Values received by an evaluator in embeddings from a table whose components are all zero, where nothing but the
/// masks of the protocol hides what is sent.
fn received(world: World, to: Role) -> Vec<Vec<u8>> {
    let (vocab, d) = (61, 64);
    let w = world.recorded();
    let zeros = Words::zeros(w.device(), d / 2 * vocab);
    let tables = [(); 3].map(|()| SharedTable::new(&zeros, &zeros, Shape::new(d, vocab), F));
    let tokens: Vec<u32> = (0..64).map(|i| i % 61).collect();
    let o = embed(&w, keys(&w, &tokens, vocab, 80), tables);
    let sent: Vec<Sent> = o.sent.into_iter().flatten().collect();
    assert!(sent.iter().all(|s| s.to != Role::Dealer), "the dealer received something");
    // The truncation's bits and halves of words are left to the views below.
    let whole = sent.iter().filter(|s| s.to == to && s.bits == 64);
    whole.flat_map(|s| &s.values).map(|v| v.to_le_bytes().to_vec()).collect()
}

/// One pairwise key's streams are zero.
struct Zeroed(KeyId, Box<dyn Streams>);

impl Streams for Zeroed {
    fn draw(&self, device: &Device, key: KeyId, op: u64, lane: u8, n: usize, bits: u32) -> Option<Words> {
        let words = self.1.draw(device, key, op, lane, n, bits)?;
        Some(if key == self.0 { Words::zeros(device, n) } else { words })
    }
}

#[test]
fn received_words_are_uniform() {
    let (opened, dealt) = (2 * 64 * 33 + 64 * 64, 2 * 64 * 33 + 64 * 32);
    for (to, words) in [(Role::P1, opened), (Role::P2, opened + dealt)] {
        let seen = received(World::new(90), to);
        assert_eq!(seen.len(), words);
        let z = not_uniform(&seen);
        assert!(z < LIMIT, "{to}: {z}");
    }
    let p2 = received(
        World::new(91).streams(|r, w| Box::new(Zeroed(KeyId::K01, Box::new(w.chacha(r))))),
        Role::P2,
    );
    assert!(not_uniform(&p2) > 5.0 * LIMIT, "P2 sees nothing without masks of k01");
}

/// Whatever the token, the same messages belong to exactly one choice of the masks that the party does not know.
#[test]
fn views_are_in_bijection_with_masks() {
    let w = World::new(0);
    let shape = Shape::new(5, 61);
    let tables = share_table(&w, &values(shape), shape);
    for (party, messages) in [(Role::P1, 3), (Role::P2, 5)] {
        for token in [0, 1, 60] {
            let keys = keys(&w, &[token, 30], 61, 100);
            let run = solve_views(1000 + party as u64, Ring::Z64, party, &[], &[vec![]], &[], &|cx, _| {
                let (keys, table) = (keys[cx.role().index()].clone(), tables[cx.role().index()].clone());
                Box::pin(async move { Ok(vec![embedding::embed(&cx, &keys, &table).await?]) })
            });
            assert_eq!(run, Ok(messages));
        }
    }
}

/// One stream masks what P0 deals, one what each evaluator shows; the rest is a truncation of ten numbers.
#[test]
fn messages_are_those_declared() {
    let w = World::new(9).recorded();
    let shape = Shape::new(5, 61);
    let o = embed(&w, keys(&w, &[3, 4], 61, 9), share_table(&w, &values(shape), shape));
    let sent =
        |i: usize| o.sent[i].iter().map(|s| (s.to, s.lane, s.bits, s.values.len())).collect::<Vec<_>>();
    let [result, bit] = [Purpose::Result, Purpose::WrapBit].map(|p| p as u8);
    let dealt = [(Purpose::Theta, 64, 2 * 8 + 6), (Purpose::WrapProduct, 32, 10)];
    assert_eq!(sent(0), dealt.map(|(purpose, bits, n)| (Role::P2, purpose as u8, bits, n)));
    for (from, to) in [(1, Role::P2), (2, Role::P1)] {
        assert_eq!(sent(from), [(to, result, 64, 2 * 8), (to, bit, 1, 10), (to, result, 64, 10)]);
    }
}
