//! Distributed comparison functions against their meaning, and against the figure of the paper written down a
//! second time with `rand_chacha` as the generator.

use super::{Numbers, up};
use kernels::{DcfKeys, Device, Words};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

struct Batch {
    bits: u32,
    roots: [Words; 2],
    keys: DcfKeys<Words>,
}

impl Batch {
    fn new(device: &Device, r: &mut Numbers, bits: u32, alpha: &[u64], beta: &[u64]) -> Batch {
        let roots = [0, 1].map(|_| up(device, &r.words(2 * alpha.len())));
        let keys = up(device, alpha).dcf_generate(bits, &up(device, beta), &roots[0], &roots[1]);
        Batch { bits, roots, keys }
    }

    fn share(&self, party: u8, points: &Words, per_key: usize) -> Vec<u64> {
        points.dcf_evaluate(party, self.bits, &self.roots[party as usize], &self.keys, per_key).to_vec()
    }

    fn check(&self, device: &Device, alpha: &[u64], beta: &[u64], points: &[u64], per_key: usize) {
        let words = up(device, points);
        let (f0, f1) = (self.share(0, &words, per_key), self.share(1, &words, per_key));
        assert_eq!(f0.len(), points.len());
        for (i, &x) in points.iter().enumerate() {
            let (alpha, beta) = (alpha[i / per_key], beta[i / per_key]);
            let want = if x < alpha { beta } else { 0 };
            assert_eq!(f0[i].wrapping_add(f1[i]), want, "{} bits, α = {alpha}, x = {x}", self.bits);
        }
    }
}

pub(crate) fn exhaustive(device: &Device) {
    let mut r = Numbers(60);
    for bits in 1..=6 {
        let size = 1u64 << bits;
        for beta in [1, u64::MAX, 1 << 63, r.next(), 0] {
            let alpha: Vec<u64> = (0..size).collect();
            let beta = vec![beta; size as usize];
            let points: Vec<u64> = (0..size).flat_map(|_| 0..size).collect();
            let batch = Batch::new(device, &mut r, bits, &alpha, &beta);
            batch.check(device, &alpha, &beta, &points, size as usize);
        }
    }
}

/// Points near and far from α, repeated and unordered, of wide inputs.
fn points(r: &mut Numbers, bits: u32, alpha: u64, n: usize) -> Vec<u64> {
    let mask = (1u64 << bits) - 1;
    let mut points = Vec::new();
    for i in 0..n {
        points.push(match i % 8 {
            0 => alpha,
            1 => alpha.wrapping_add(1) & mask,
            2 => alpha.wrapping_sub(1) & mask,
            3 => alpha ^ (1 << r.below(bits as usize)),
            4 if i > 4 => points[r.below(i)],
            5 => [0, mask][r.below(2)],
            _ => r.next() & mask,
        });
    }
    points
}

pub(crate) fn wide(device: &Device) {
    let mut r = Numbers(61);
    for (bits, count, per_key) in
        [(8, 40, 100), (20, 17, 64), (32, 33, 368), (33, 3, 700), (63, 5, 50), (35, 100, 1)]
    {
        let mask = (1u64 << bits) - 1;
        let mut alpha: Vec<u64> = (0..count).map(|_| r.next() & mask).collect();
        alpha[0] = 0;
        alpha[1] = mask;
        let beta = r.words(count);
        let x: Vec<u64> = alpha.iter().flat_map(|&a| points(&mut r, bits, a, per_key)).collect();
        Batch::new(device, &mut r, bits, &alpha, &beta).check(device, &alpha, &beta, &x, per_key);
    }
}

/// Left and right (seed, value, control) of a node.
fn generator(seed: [u64; 2]) -> [([u64; 2], u64, u64); 2] {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed[0].to_le_bytes());
    key[8..16].copy_from_slice(&seed[1].to_le_bytes());
    key[16..].copy_from_slice(b"Catamount DCF v1");
    let mut rng = ChaCha12Rng::from_seed(key);
    let w: [u64; 8] = std::array::from_fn(|_| rng.next_u64());
    [([w[0], w[1]], w[4], w[6] & 1), ([w[2], w[3]], w[5], w[6] >> 1 & 1)]
}

fn signed(minus: u64, v: u64) -> u64 {
    if minus == 1 { v.wrapping_neg() } else { v }
}

/// A level's corrections: seed, value, left and right control bit.
type Level = ([u64; 2], u64, [u64; 2]);

/// Gen of Fig. 1, for one key.
fn gen_by_figure(bits: u32, alpha: u64, beta: u64, roots: [[u64; 2]; 2]) -> (Vec<Level>, u64) {
    let (mut s, mut t, mut v_alpha) = (roots, [0u64, 1], 0u64);
    let mut levels = Vec::new();
    for i in 0..bits {
        let bit = alpha >> (bits - 1 - i) & 1;
        let g = s.map(generator);
        let (keep, lose) = if bit == 0 { (0, 1) } else { (1, 0) };
        let s_cw = [0, 1].map(|w| g[0][lose].0[w] ^ g[1][lose].0[w]);
        let mut v_cw = signed(t[1], g[1][lose].1.wrapping_sub(g[0][lose].1).wrapping_sub(v_alpha));
        if lose == 0 {
            v_cw = v_cw.wrapping_add(signed(t[1], beta));
        }
        v_alpha = v_alpha.wrapping_sub(g[1][keep].1).wrapping_add(g[0][keep].1);
        v_alpha = v_alpha.wrapping_add(signed(t[1], v_cw));
        let t_cw = [g[0][0].2 ^ g[1][0].2 ^ bit ^ 1, g[0][1].2 ^ g[1][1].2 ^ bit];
        for b in 0..2 {
            s[b] = [0, 1].map(|w| g[b][keep].0[w] ^ (t[b] * s_cw[w]));
            t[b] = g[b][keep].2 ^ (t[b] * t_cw[keep]);
        }
        levels.push((s_cw, v_cw, t_cw));
    }
    (levels, signed(t[1], s[1][0].wrapping_sub(s[0][0]).wrapping_sub(v_alpha)))
}

/// Eval of Fig. 1, at one point.
fn eval_by_figure(party: u64, bits: u32, root: [u64; 2], key: &(Vec<Level>, u64), x: u64) -> u64 {
    let (mut s, mut t, mut v) = (root, party, 0u64);
    for (i, (s_cw, v_cw, t_cw)) in key.0.iter().enumerate() {
        let side = (x >> (bits as usize - 1 - i) & 1) as usize;
        let g = generator(s)[side];
        v = v.wrapping_add(signed(party, g.1.wrapping_add(t.wrapping_mul(*v_cw))));
        s = [0, 1].map(|w| g.0[w] ^ (t * s_cw[w]));
        t = g.2 ^ (t * t_cw[side]);
    }
    v.wrapping_add(signed(party, s[0].wrapping_add(t.wrapping_mul(key.1))))
}

/// Keys and shares are the very bits of the definition.
pub(crate) fn equals_definition(device: &Device) {
    let mut r = Numbers(62);
    for (bits, count, per_key) in
        [(1, 3, 2), (5, 20, 32), (16, 18, 40), (32, 35, 100), (63, 4, 33), (12, 2, 3000)]
    {
        let mask = (1u64 << bits) - 1;
        let alpha: Vec<u64> = (0..count).map(|_| r.next() & mask).collect();
        let beta = r.words(count);
        let batch = Batch::new(device, &mut r, bits, &alpha, &beta);
        let roots = batch.roots.each_ref().map(Words::to_vec);
        let (seeds, values, controls) =
            (batch.keys.seeds.to_vec(), batch.keys.values.to_vec(), batch.keys.controls.to_vec());
        let x: Vec<u64> = alpha.iter().flat_map(|&a| points(&mut r, bits, a, per_key)).collect();
        // Bits of a point beyond the width do not matter.
        let wild: Vec<u64> = x.iter().map(|x| x | (r.next() & !mask)).collect();
        let shares = [0, 1].map(|b| batch.share(b, &up(device, &wild), per_key));
        let n = bits as usize;
        for i in 0..count {
            let root = [0, 1].map(|b: usize| [roots[b][2 * i], roots[b][2 * i + 1]]);
            let key = gen_by_figure(bits, alpha[i], beta[i], root);
            for (l, (s_cw, v_cw, t_cw)) in key.0.iter().enumerate() {
                assert_eq!(seeds[2 * (i * n + l)..][..2], *s_cw);
                assert_eq!(values[i * (n + 1) + l], *v_cw);
                assert_eq!(controls[i * n + l], t_cw[0] | t_cw[1] << 1);
            }
            assert_eq!(values[i * (n + 1) + n], key.1);
            for j in (i * per_key..(i + 1) * per_key).step_by(if count > 2 { 1 } else { 7 }) {
                for b in 0..2 {
                    let want = eval_by_figure(b, bits, root[b as usize], &key, x[j]);
                    assert_eq!(shares[b as usize][j], want, "{bits} bits, key {i}, point {}", x[j]);
                }
            }
        }
    }
}

/// No keys, no points, and all points equal.
pub(crate) fn shapes(device: &Device) {
    let mut r = Numbers(63);
    Batch::new(device, &mut r, 10, &[], &[]).check(device, &[], &[], &[], 3);
    let (alpha, beta) = ([5, 900], [r.next(), r.next()]);
    let batch = Batch::new(device, &mut r, 10, &alpha, &beta);
    batch.check(device, &alpha, &beta, &[], 0);
    batch.check(device, &alpha, &beta, &[4; 80], 40);
    batch.check(device, &alpha, &beta, &[5; 2], 1);
    for per_key in [15, 16, 17, 31, 33] {
        let x: Vec<u64> = alpha.iter().flat_map(|&a| points(&mut r, 10, a, per_key)).collect();
        batch.check(device, &alpha, &beta, &x, per_key);
    }
}

/// Correction words may be anything: every device computes the same from them.
pub(crate) fn hostile_keys(device: &Device) {
    let mut r = Numbers(64);
    for (bits, count, per_key) in [(9, 3, 40), (40, 5, 21), (63, 2, 1)] {
        let n = bits as usize;
        let roots = [0, 1].map(|_| up(device, &r.words(2 * count)));
        let (seeds, values, controls) =
            (r.words(2 * n * count), r.words((n + 1) * count), r.words(n * count));
        let keys = DcfKeys {
            seeds: up(device, &seeds),
            values: up(device, &values),
            controls: up(device, &controls),
        };
        let x: Vec<u64> = (0..count * per_key).map(|_| r.next() % (1 << bits)).collect();
        for party in [0, 1] {
            let root = roots[party as usize].to_vec();
            let got =
                up(device, &x).dcf_evaluate(party, bits, &roots[party as usize], &keys, per_key).to_vec();
            for (j, &x) in x.iter().enumerate() {
                let i = j / per_key;
                let levels = (0..n).map(|l| {
                    let at = i * n + l;
                    let t = [controls[at] & 1, controls[at] >> 1 & 1];
                    ([seeds[2 * at], seeds[2 * at + 1]], values[i * (n + 1) + l], t)
                });
                let key = (levels.collect(), values[i * (n + 1) + n]);
                let want = eval_by_figure(party as u64, bits, [root[2 * i], root[2 * i + 1]], &key, x);
                assert_eq!(got[j], want, "{bits} bits, key {i}, point {x}");
            }
        }
    }
}
