//! Distributed point functions against their meaning, and against the figure of the paper written down a second time
//! with `rand_chacha` as the generator.

use super::{Numbers, up};
use kernels::{DPF_LEAF, Device, DpfKeys, Words, dpf_key_bytes, dpf_levels};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

struct Batch {
    points: usize,
    roots: [Words; 2],
    keys: DpfKeys<Words>,
}

impl Batch {
    fn new(device: &Device, r: &mut Numbers, points: usize, alpha: &[u64]) -> Batch {
        let roots = [0, 1].map(|_| up(device, &r.words(2 * alpha.len())));
        let keys = up(device, alpha).dpf_generate(points, &roots[0], &roots[1]);
        Batch { points, roots, keys }
    }

    fn shares(&self) -> [Vec<u64>; 2] {
        [0, 1].map(|b| self.roots[b as usize].dpf_evaluate(b, self.points, &self.keys).to_vec())
    }

    fn check(&self, alpha: &[u64]) {
        let [f0, f1] = self.shares();
        let words = self.points.div_ceil(64);
        assert_eq!((f0.len(), f1.len()), (alpha.len() * words, alpha.len() * words));
        for (i, (a, b)) in f0.iter().zip(&f1).enumerate() {
            let (key, word) = (i / words, i % words);
            let want = u64::from(word as u64 == alpha[key] / 64) << (alpha[key] % 64);
            assert_eq!(a ^ b, want, "{} points, α = {}, word {word}", self.points, alpha[key]);
            let points = (self.points - 64 * word).min(64);
            assert_eq!(a & !(u64::MAX >> (64 - points)), 0, "bits beyond the last of {} points", self.points);
        }
    }
}

/// Every α of every small domain.
pub(crate) fn exhaustive(device: &Device) {
    let mut r = Numbers(70);
    for points in (1..=40).chain([61, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257, 511, 513]) {
        let alpha: Vec<u64> = (0..points as u64).collect();
        Batch::new(device, &mut r, points, &alpha).check(&alpha);
    }
}

/// Several fronts and subtrees, the last one cut anywhere; enough work for all threads.
pub(crate) fn wide(device: &Device) {
    let mut r = Numbers(71);
    for points in [4096, 4097, 8191, 8193, 16384, 16385, 30522, 49152, 100_003, 131_072, 131_073, 262_200] {
        let n = points as u64;
        let alpha = [0, n - 1, n / 2, r.next() % n, n.min(8192) - 1, 8192 % n];
        let count = 1 + r.below(alpha.len());
        Batch::new(device, &mut r, points, &alpha[..count]).check(&alpha[..count]);
    }
}

/// Left and right (seed, control) of a node.
fn generator(seed: [u64; 2]) -> [([u64; 2], u64); 2] {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed[0].to_le_bytes());
    key[8..16].copy_from_slice(&seed[1].to_le_bytes());
    key[16..].copy_from_slice(b"Catamount DPF v1");
    let mut rng = ChaCha12Rng::from_seed(key);
    let w: [u64; 8] = std::array::from_fn(|_| rng.next_u64());
    [([w[0], w[1]], w[6] & 1), ([w[2], w[3]], w[6] >> 1 & 1)]
}

/// A level's corrections: seed, left and right control bit.
type Level = ([u64; 2], [u64; 2]);

/// Gen of Fig. 1 for the leaf of α, with the unit vector of its 128 bits as payload.
fn gen_by_figure(levels: usize, alpha: u64, roots: [[u64; 2]; 2]) -> (Vec<Level>, [u64; 2]) {
    let (mut s, mut t) = (roots, [0u64, 1]);
    let mut corrections = Vec::new();
    for i in 0..levels {
        let bit = (alpha / 128) >> (levels - 1 - i) & 1;
        let g = s.map(generator);
        let (keep, lose) = if bit == 0 { (0, 1) } else { (1, 0) };
        let s_cw = [0, 1].map(|w| g[0][lose].0[w] ^ g[1][lose].0[w]);
        let t_cw = [g[0][0].1 ^ g[1][0].1 ^ bit ^ 1, g[0][1].1 ^ g[1][1].1 ^ bit];
        for b in 0..2 {
            s[b] = [0, 1].map(|w| g[b][keep].0[w] ^ (t[b] * s_cw[w]));
            t[b] = g[b][keep].1 ^ (t[b] * t_cw[keep]);
        }
        corrections.push((s_cw, t_cw));
    }
    let payload = 1u128 << (alpha % 128);
    (corrections, [0, 1].map(|w| s[0][w] ^ s[1][w] ^ (payload >> (64 * w)) as u64))
}

/// Point x of row `key`.
fn bit(shares: &[u64], points: usize, key: usize, x: usize) -> u64 {
    shares[key * points.div_ceil(64) + x / 64] >> (x % 64) & 1
}

/// Eval of Fig. 1, at one point.
fn eval_by_figure(party: u64, root: [u64; 2], key: &(Vec<Level>, [u64; 2]), x: usize) -> u64 {
    let (mut s, mut t) = (root, party);
    for (i, (s_cw, t_cw)) in key.0.iter().enumerate() {
        let side = (x / 128) >> (key.0.len() - 1 - i) & 1;
        let g = generator(s)[side];
        s = [0, 1].map(|w| g.0[w] ^ (t * s_cw[w]));
        t = g.1 ^ (t * t_cw[side]);
    }
    let word = x % 128 / 64;
    (s[word] ^ (t * key.1[word])) >> (x % 64) & 1
}

/// Keys and shares are the very bits of the definition.
pub(crate) fn equals_definition(device: &Device) {
    let mut r = Numbers(72);
    for (points, count) in [(1, 3), (61, 35), (128, 2), (129, 17), (1000, 16), (20_000, 5), (140_000, 2)] {
        let levels = dpf_levels(points);
        let alpha: Vec<u64> = (0..count).map(|_| r.below(points) as u64).collect();
        let batch = Batch::new(device, &mut r, points, &alpha);
        let roots = batch.roots.each_ref().map(Words::to_vec);
        let [seeds, controls, last] =
            [&batch.keys.seeds, &batch.keys.controls, &batch.keys.last].map(Words::to_vec);
        let shares = batch.shares();
        for i in 0..count {
            let root = [0, 1].map(|b: usize| [roots[b][2 * i], roots[b][2 * i + 1]]);
            let key = gen_by_figure(levels, alpha[i], root);
            for (l, (s_cw, t_cw)) in key.0.iter().enumerate() {
                assert_eq!(seeds[2 * (i * levels + l)..][..2], *s_cw);
                assert_eq!(controls[i * levels + l], t_cw[0] | t_cw[1] << 1);
            }
            assert_eq!(last[2 * i..][..2], key.1);
            let near = alpha[i] as usize / DPF_LEAF * DPF_LEAF;
            for x in (0..points).step_by(1 + points / 100).chain(near..points.min(near + DPF_LEAF)) {
                for b in 0..2 {
                    let want = eval_by_figure(b, root[b as usize], &key, x);
                    let got = bit(&shares[b as usize], points, i, x);
                    assert_eq!(got, want, "{points} points, key {i}, point {x}");
                }
            }
        }
    }
}

/// Correction words may be anything: every device computes the same from them, in words and in bytes.
pub(crate) fn hostile_keys(device: &Device) {
    let mut r = Numbers(73);
    for (points, count) in [(1, 2), (5, 3), (300, 19), (9000, 2), (150_000, 1)] {
        let levels = dpf_levels(points);
        let words = [2 * count, 2 * levels * count, levels * count, 2 * count].map(|n| r.words(n));
        let [root, seeds, controls, last] = words.each_ref().map(|w| up(device, w));
        let keys = DpfKeys { seeds, controls, last };
        let mut bytes = vec![];
        keys.pack(points, &root, &mut bytes);
        let (read_root, read) = DpfKeys::unpack(device, points, &bytes).unwrap();
        for party in [0, 1] {
            let got = root.dpf_evaluate(party, points, &keys).to_vec();
            assert_eq!(got, read_root.dpf_evaluate(party, points, &read).to_vec());
            for i in 0..count {
                let [root, seeds, controls, last] = &words;
                let levels = (0..levels).map(|l| i * levels + l);
                let level = |at: usize| {
                    ([seeds[2 * at], seeds[2 * at + 1]], [controls[at] & 1, controls[at] >> 1 & 1])
                };
                let key = (levels.map(level).collect(), [last[2 * i], last[2 * i + 1]]);
                for x in (0..points).step_by(1 + points / 100) {
                    let want = eval_by_figure(party as u64, [root[2 * i], root[2 * i + 1]], &key, x);
                    assert_eq!(bit(&got, points, i, x), want, "{points} points, key {i}, point {x}");
                }
            }
        }
    }
}

/// Sizes and places of what travels.
pub(crate) fn key_bytes(device: &Device) {
    let mut r = Numbers(74);
    let sizes =
        [(1, 32), (128, 32), (129, 49), (1024, 81), (1025, 97), (8192, 130), (30522, 162), (49152, 179)];
    for (points, size) in sizes.into_iter().chain([(128_256, 195)]) {
        assert_eq!(dpf_key_bytes(points), size, "{points} points");
        let alpha = [0, points as u64 - 1, r.below(points) as u64];
        let batch = Batch::new(device, &mut r, points, &alpha);
        let mut bytes = vec![7];
        batch.keys.pack(points, &batch.roots[0], &mut bytes);
        assert_eq!(bytes.len(), 1 + 3 * size);
        let (root, keys) = DpfKeys::unpack(device, points, &bytes[1..]).unwrap();
        assert_eq!(root.to_vec(), batch.roots[0].to_vec());
        assert_eq!(keys.seeds.to_vec(), batch.keys.seeds.to_vec());
        assert_eq!(keys.controls.to_vec(), batch.keys.controls.to_vec());
        assert_eq!(keys.last.to_vec(), batch.keys.last.to_vec());
        for wrong in [1, size - 1, size + 1, 3 * size - 1] {
            assert!(DpfKeys::unpack(device, points, &bytes[..wrong]).is_none(), "{wrong} of {size} bytes");
        }
    }
    // Nothing, and every byte in its place: root, levels, controls of four levels a byte, output.
    let (root, keys) = DpfKeys::unpack(device, 5000, &[]).unwrap();
    assert_eq!((root.len(), root.dpf_evaluate(1, 5000, &keys).len()), (0, 0));
    let bytes: Vec<u8> = (0..dpf_key_bytes(5000) as u8).collect();
    let (root, keys) = DpfKeys::unpack(device, 5000, &bytes).unwrap();
    let word = |first: u8| u64::from_le_bytes(std::array::from_fn(|i| first + i as u8));
    assert_eq!(root.to_vec(), [word(0), word(8)]);
    assert_eq!(keys.seeds.to_vec(), (0..12).map(|i| word(16 + 8 * i)).collect::<Vec<_>>());
    // 112 = 0b01110000, 113 = 0b01110001.
    assert_eq!(keys.controls.to_vec(), [0, 0, 3, 1, 1, 0]);
    assert_eq!(keys.last.to_vec(), [word(114), word(122)]);
}
