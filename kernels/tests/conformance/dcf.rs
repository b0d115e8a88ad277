//! Distributed comparison functions against their meaning, and against the figure of the paper written down a
//! second time with `rand_chacha` as the generator.

use super::{Numbers, up};
use kernels::{DcfKeys, DcfShape, DcfThresholds, Device, Words};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

struct Batch {
    shape: DcfShape,
    alpha: Vec<u64>,
    beta: Vec<u64>,
    roots: [Words; 2],
    keys: DcfKeys<Words>,
    /// Shares of the constants.
    constants: [Words; 2],
}

/// A threshold, and the number of the stop at which it is compared.
type At = (u64, usize);

impl Batch {
    fn new(device: &Device, r: &mut Numbers, shape: &DcfShape, alpha: &[u64], beta: &[u64]) -> Batch {
        let roots = [0, 1].map(|_| up(device, &r.words(2 * alpha.len())));
        let keys = up(device, alpha).dcf_generate(shape, &up(device, beta), &roots[0], &roots[1]);
        let constants = [0, 1].map(|_| up(device, &r.words(alpha.len())));
        Batch { shape: shape.clone(), alpha: alpha.to_vec(), beta: beta.to_vec(), roots, keys, constants }
    }

    fn share(&self, party: u8, base: &Words, points: &[At]) -> Vec<u64> {
        let points = DcfThresholds::new(&self.shape, points.iter().copied());
        let own = party as usize;
        base.dcf_evaluate(party, &self.roots[own], &self.keys, &self.constants[own], &points).to_vec()
    }

    /// Shares add up to v = c + β·\[⌊x/2^s⌋ < ⌊α/2^s⌋\], or to 1 − v.
    fn check(&self, device: &Device, base: &[u64], points: &[At]) {
        let words = up(device, base);
        let (f0, f1) = (self.share(0, &words, points), self.share(1, &words, points));
        assert_eq!(f0.len(), base.len() * points.len());
        let mask = (1 << self.shape.bits()) - 1;
        let c = (&self.constants[0] + &self.constants[1]).to_vec();
        for (i, (b, alpha)) in base.iter().zip(&self.alpha).enumerate() {
            for (j, &(tau, stop)) in points.iter().enumerate() {
                let (x, s) = (b.wrapping_sub(tau) & mask, self.shape.stops()[stop]);
                let v = c[i].wrapping_add(if x >> s < alpha >> s { self.beta[i] } else { 0 });
                let stays = b.wrapping_sub(tau) >> self.shape.bits() & 1 == 1;
                let want = if stays { v } else { 1u64.wrapping_sub(v) };
                let at = i * points.len() + j;
                assert_eq!(
                    f0[at].wrapping_add(f1[at]),
                    want,
                    "{:?} at {s}: α = {alpha}, x = {x}",
                    self.shape
                );
            }
        }
    }
}

/// Shapes with one stop, with all, and with every third.
fn shapes_of(bits: u32) -> Vec<DcfShape> {
    let every = |n| (0..bits).step_by(n).collect();
    let mut all = vec![DcfShape::exact(bits), DcfShape::new(bits, every(1)), DcfShape::new(bits, every(3))];
    all.extend((bits > 1).then(|| DcfShape::new(bits, vec![bits - 1])));
    all
}

/// All α and all points at all stops: by thresholds at one stop, and at as many as there are in ascending order.
pub(crate) fn exhaustive(device: &Device) {
    let mut r = Numbers(60);
    for bits in 1..=6 {
        for shape in shapes_of(bits) {
            for beta in [1, u64::MAX, 1 << 63, r.next(), 0] {
                let alpha: Vec<u64> = (0..1 << bits).collect();
                let batch = Batch::new(device, &mut r, &shape, &alpha, &vec![beta; alpha.len()]);
                let stops = shape.stops().len();
                for stop in 0..stops {
                    let taus: Vec<At> = (0..1 << bits).map(|tau| (tau, stop)).collect();
                    batch.check(device, &vec![0; alpha.len()], &taus);
                }
                let mixed: Vec<At> = (0..1 << bits).map(|t| (t, (t as usize * stops) >> bits)).collect();
                for base in 0..1 << bits {
                    batch.check(device, &vec![base; alpha.len()], &mixed);
                }
            }
        }
    }
}

/// Thresholds small and large, repeated, of wide inputs, each at some stop.
fn points(r: &mut Numbers, shape: &DcfShape, n: usize) -> Vec<At> {
    let (bits, stops) = (shape.bits(), shape.stops().len());
    let mask = (1u64 << bits) - 1;
    let (mut taus, mut at): (Vec<u64>, Vec<usize>) = (vec![], vec![]);
    for i in 0..n {
        taus.push(match i % 8 {
            0 => 0,
            1 => 1 & mask,
            2 => mask,
            3 => 1 << r.below(bits as usize),
            4 if i > 4 => taus[r.below(i)],
            5 => (1 << r.below(bits as usize)) - 1,
            _ => r.next() & mask,
        });
        at.push(r.below(stops));
    }
    taus.sort_unstable();
    at.sort_unstable();
    taus.into_iter().zip(at).collect()
}

/// Next to α and away from it, at both ends, and anywhere.
fn bases(r: &mut Numbers, alpha: &[u64]) -> Vec<u64> {
    let near = |(i, a): (usize, &u64)| match i % 4 {
        3 => r.next(),
        i => a.wrapping_add(i as u64).wrapping_sub(1),
    };
    alpha.iter().enumerate().map(near).collect()
}

pub(crate) fn wide(device: &Device) {
    let mut r = Numbers(61);
    for (bits, count, per_key) in
        [(8, 40, 100), (20, 17, 64), (32, 33, 368), (33, 3, 700), (63, 5, 50), (35, 100, 1)]
    {
        for shape in shapes_of(bits) {
            let mask = (1u64 << bits) - 1;
            let mut alpha: Vec<u64> = (0..count).map(|_| r.next() & mask).collect();
            alpha[1] = mask;
            alpha[2] = 0;
            let beta = r.words(count);
            let batch = Batch::new(device, &mut r, &shape, &alpha, &beta);
            batch.check(device, &bases(&mut r, &alpha), &points(&mut r, &shape, per_key));
        }
    }
}

/// Many thresholds on geometric segments, the coarser the larger, as a row gate has them.
pub(crate) fn geometric(device: &Device) {
    let mut r = Numbers(65);
    let shape = DcfShape::new(31, (0..20).step_by(3).collect());
    let points: Vec<At> =
        (0..321u32).map(|j| ((128.0 * 2f64.powf(f64::from(j) / 16.0)) as u64, (j / 48) as usize)).collect();
    let alpha: Vec<u64> = (0..40).map(|_| r.next() >> 33).collect();
    let beta = r.words(40);
    let batch = Batch::new(device, &mut r, &shape, &alpha, &beta);
    batch.check(device, &bases(&mut r, &alpha), &points);
    let beyond: Vec<u64> = alpha.iter().map(|a| a + (1 << (r.next() % 28))).collect();
    batch.check(device, &beyond, &points);
    // Few an octave, and one alone at the coarsest stop: trees that share lanes, as many as fill them, more, and fewer.
    let shape = DcfShape::new(30, (0..=21).step_by(3).collect());
    let points: Vec<At> =
        (0..85u32).map(|j| ((32.0 * 2f64.powf(f64::from(j) / 4.0)) as u64, (j / 12) as usize)).collect();
    for count in [1, 2, 15, 16, 17, 32, 49] {
        let alpha: Vec<u64> = (0..count).map(|_| r.next() >> 34).collect();
        let beta = r.words(count);
        let batch = Batch::new(device, &mut r, &shape, &alpha, &beta);
        let mut spread = |a: &u64| a.wrapping_add(1 << (r.next() % 30)).wrapping_sub(1 << (r.next() % 30));
        let base: Vec<u64> = alpha.iter().map(&mut spread).collect();
        batch.check(device, &base, &points);
    }
}

/// Seed, value and control bit of a child.
type Child = ([u64; 2], u64, u64);

/// The left and right child of a node, and its outputs.
fn generator(seed: [u64; 2]) -> ([Child; 2], [u64; 4]) {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed[0].to_le_bytes());
    key[8..16].copy_from_slice(&seed[1].to_le_bytes());
    key[16..].copy_from_slice(b"Catamount DCF v1");
    let mut rng = ChaCha12Rng::from_seed(key);
    let w: [u64; 16] = std::array::from_fn(|_| rng.next_u64());
    ([([w[0], w[1]], w[4], w[6] & 1), ([w[2], w[3]], w[5], w[6] >> 1 & 1)], [w[8], w[9], w[10], w[11]])
}

fn signed(minus: u64, v: u64) -> u64 {
    if minus == 1 { v.wrapping_neg() } else { v }
}

/// A level's corrections: seed, value, left and right control bit.
type Level = ([u64; 2], u64, [u64; 2]);

/// One key: the levels' corrections, and those of the outputs at each stop.
struct Figure {
    levels: Vec<Level>,
    outputs: Vec<[u64; 4]>,
}

/// Levels above a stop's nodes: they answer for two bits, or for what there is.
fn depth(bits: u32, stop: u32) -> u32 {
    (bits - stop).max(2) - 2
}

/// Gen of Fig. 1, for one key; its last lines at every stop.
fn gen_by_figure(shape: &DcfShape, alpha: u64, beta: u64, roots: [[u64; 2]; 2]) -> Figure {
    let (mut s, mut t, mut v_alpha) = (roots, [0u64, 1], 0u64);
    let mut figure = Figure { levels: vec![], outputs: vec![[0; 4]; shape.stops().len()] };
    for i in 0..=depth(shape.bits(), shape.stops()[0]) {
        let (g, outputs) = (s.map(|s| generator(s).0), s.map(|s| generator(s).1));
        for (cw, &stop) in figure.outputs.iter_mut().zip(shape.stops()) {
            if depth(shape.bits(), stop) == i {
                *cw = std::array::from_fn(|x| {
                    let less = if (x as u64) < (alpha >> stop) % 4 { beta } else { 0 };
                    let sum = outputs[1][x].wrapping_sub(outputs[0][x]).wrapping_sub(v_alpha);
                    signed(t[1], sum.wrapping_add(less))
                });
            }
        }
        if i == depth(shape.bits(), shape.stops()[0]) {
            break;
        }
        let bit = alpha >> (shape.bits() - 1 - i) & 1;
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
        figure.levels.push((s_cw, v_cw, t_cw));
    }
    figure
}

/// Eval of Fig. 1 at y and a stop, from a share c on, and flipped by the bit above the point.
fn eval_by_figure(party: u64, shape: &DcfShape, root: [u64; 2], key: &Figure, c: u64, (y, stop): At) -> u64 {
    let x = y & ((1 << shape.bits()) - 1);
    let (mut s, mut t, mut v) = (root, party, c);
    let dropped = shape.stops()[stop];
    for (i, (s_cw, v_cw, t_cw)) in key.levels[..depth(shape.bits(), dropped) as usize].iter().enumerate() {
        let side = (x >> (shape.bits() as usize - 1 - i) & 1) as usize;
        let g = generator(s).0[side];
        v = v.wrapping_add(signed(party, g.1.wrapping_add(t.wrapping_mul(*v_cw))));
        s = [0, 1].map(|w| g.0[w] ^ (t * s_cw[w]));
        t = g.2 ^ (t * t_cw[side]);
    }
    let word = (x >> dropped) as usize % 4;
    let output = generator(s).1[word].wrapping_add(t.wrapping_mul(key.outputs[stop][word]));
    let v = v.wrapping_add(signed(party, output));
    if y >> shape.bits() & 1 == 1 { v } else { (1 - party).wrapping_sub(v) }
}

/// Keys and shares are the very bits of the definition.
pub(crate) fn equals_definition(device: &Device) {
    let mut r = Numbers(62);
    for (bits, count, per_key) in
        [(1, 3, 2), (2, 3, 5), (5, 20, 32), (16, 18, 40), (32, 35, 100), (63, 4, 33), (12, 2, 3000)]
    {
        for shape in shapes_of(bits) {
            let mask = (1u64 << bits) - 1;
            let alpha: Vec<u64> = (0..count).map(|_| r.next() & mask).collect();
            let beta = r.words(count);
            let batch = Batch::new(device, &mut r, &shape, &alpha, &beta);
            let roots = batch.roots.each_ref().map(Words::to_vec);
            let [seeds, values, controls, outputs] =
                [&batch.keys.seeds, &batch.keys.values, &batch.keys.controls, &batch.keys.outputs]
                    .map(Words::to_vec);
            // Of bits of a base beyond the width only the first matters.
            let base: Vec<u64> = bases(&mut r, &alpha).iter().map(|b| b ^ (r.next() & !mask)).collect();
            let constants = batch.constants.each_ref().map(Words::to_vec);
            let points = points(&mut r, &shape, per_key);
            let shares = [0, 1].map(|b| batch.share(b, &up(device, &base), &points));
            let (n, stops) = (shape.levels(), shape.stops().len());
            for i in 0..count {
                let root = [0, 1].map(|b: usize| [roots[b][2 * i], roots[b][2 * i + 1]]);
                let key = gen_by_figure(&shape, alpha[i], beta[i], root);
                assert_eq!(key.levels.len(), n);
                for (l, (s_cw, v_cw, t_cw)) in key.levels.iter().enumerate() {
                    assert_eq!(seeds[2 * (i * n + l)..][..2], *s_cw);
                    assert_eq!(values[i * n + l], *v_cw);
                    assert_eq!(controls[i * n + l], t_cw[0] | t_cw[1] << 1);
                }
                assert_eq!(outputs[4 * stops * i..][..4 * stops], *key.outputs.as_flattened());
                for (j, &(tau, stop)) in points.iter().enumerate().step_by(if count > 2 { 1 } else { 7 }) {
                    let y = base[i].wrapping_sub(tau);
                    for b in 0..2 {
                        let (c, root) = (constants[b][i], root[b]);
                        let want = eval_by_figure(b as u64, &shape, root, &key, c, (y, stop));
                        let got = shares[b][i * per_key + j];
                        assert_eq!(got, want, "{shape:?}, key {i}, y {y}");
                    }
                }
            }
        }
    }
}

/// No keys, no points, and all points equal.
pub(crate) fn shapes(device: &Device) {
    let mut r = Numbers(63);
    let shape = DcfShape::new(10, vec![0, 4]);
    Batch::new(device, &mut r, &shape, &[], &[]).check(device, &[], &[(3, 0)]);
    let (alpha, beta) = ([5, 900], [r.next(), r.next()]);
    let batch = Batch::new(device, &mut r, &shape, &alpha, &beta);
    batch.check(device, &[1, 2], &[]);
    batch.check(device, &[4, 4], &[(0, 0); 40]);
    batch.check(device, &[4, 4], &[(1023, 1); 40]);
    batch.check(device, &[5, 5], &[(0, 0)]);
    for per_key in [15, 16, 17, 31, 33] {
        batch.check(device, &alpha, &points(&mut r, &shape, per_key));
    }
}

/// Correction words may be anything: every device computes the same from them.
pub(crate) fn hostile_keys(device: &Device) {
    let mut r = Numbers(64);
    for (bits, count, per_key) in [(9, 3, 40), (40, 5, 21), (63, 2, 1)] {
        for shape in shapes_of(bits) {
            let (n, stops) = (shape.levels(), shape.stops().len());
            let roots = [0, 1].map(|_| r.words(2 * count));
            let [seeds, values, controls, outputs] =
                [2 * n, n, n, 4 * stops].map(|words| r.words(words * count));
            let keys = DcfKeys {
                seeds: up(device, &seeds),
                values: up(device, &values),
                controls: up(device, &controls),
                outputs: up(device, &outputs),
            };
            let (base, c) = (r.words(count), r.words(count));
            let at = points(&mut r, &shape, per_key);
            for party in [0, 1u8] {
                let root = &roots[party as usize];
                let thresholds = DcfThresholds::new(&shape, at.iter().copied());
                let (root_words, c_words) = (up(device, root), up(device, &c));
                let got =
                    up(device, &base).dcf_evaluate(party, &root_words, &keys, &c_words, &thresholds).to_vec();
                for i in 0..count {
                    let levels = (0..n).map(|l| {
                        let at = i * n + l;
                        let t = [controls[at] & 1, controls[at] >> 1 & 1];
                        ([seeds[2 * at], seeds[2 * at + 1]], values[at], t)
                    });
                    let outputs = outputs[4 * stops * i..][..4 * stops].as_chunks::<4>().0.to_vec();
                    let key = Figure { levels: levels.collect(), outputs };
                    for (j, &(tau, stop)) in at.iter().enumerate() {
                        let y = base[i].wrapping_sub(tau);
                        let root = [root[2 * i], root[2 * i + 1]];
                        let want = eval_by_figure(party as u64, &shape, root, &key, c[i], (y, stop));
                        assert_eq!(got[i * per_key + j], want, "{shape:?}, key {i}, y {y}");
                    }
                }
            }
        }
    }
}
