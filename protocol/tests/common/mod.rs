//! Scripted streams: one run of a gate over a long tensor enumerates every mask, or solves for the masks that give
//! a wanted transcript.
#![allow(dead_code)]

pub(crate) mod detect;

use kernels::{Device, Ring, Words};
use protocol::testing::{Outcome, World};
use protocol::{Cx, KeyId, Purpose, Result, Role, Sent, Shape, Share, Streams};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

/// What a program under test returns.
pub(crate) type Fut<'a> = Pin<Box<dyn Future<Output = Result<Vec<Share>>> + 'a>>;
/// A program under test.
pub(crate) type Program<'p> = &'p (dyn for<'a> Fn(Cx<'a>, Vec<Share>) -> Fut<'a> + Sync);

/// A stream drawn: role, key, operation, lane, words, bits.
pub(crate) type Draw = (Role, KeyId, u64, u8, usize, u32);
type Script = Arc<dyn Fn(Draw) -> Vec<u64> + Send + Sync>;

/// Scripts by the seed of their world.
static SCRIPTS: Mutex<BTreeMap<u64, Script>> = Mutex::new(BTreeMap::new());

struct Scripted {
    role: Role,
    script: Script,
}

/// Who knows a key.
pub(crate) fn knows(role: Role, key: KeyId) -> bool {
    match key {
        KeyId::K01 => role != Role::P2,
        KeyId::K02 => role != Role::P1,
        KeyId::K12 => role != Role::Dealer,
    }
}

/// The key whose streams mask what `party` receives.
pub(crate) fn foreign(party: Role) -> KeyId {
    if party == Role::P1 { KeyId::K02 } else { KeyId::K01 }
}

impl Streams for Scripted {
    fn draw(&self, device: &Device, key: KeyId, op: u64, lane: u8, n: usize, bits: u32) -> Option<Words> {
        knows(self.role, key)
            .then(|| Words::upload(device, (self.script)((self.role, key, op, lane, n, bits))).low(bits))
    }
}

/// Runs in a world whose streams are `script`. Seeds must differ between tests that run at the same time.
pub(crate) fn run_scripted(
    seed: u64,
    ring: Ring,
    script: impl Fn(Draw) -> Vec<u64> + Send + Sync + 'static,
    inputs: [Vec<Share>; 3],
    program: Program<'_>,
) -> (World, Outcome<Vec<Share>>) {
    SCRIPTS.lock().unwrap().insert(seed, Arc::new(script));
    let world = World::new(seed).ring(ring).recorded().streams(|role, w| {
        let seed = u64::from_le_bytes(w.keys()[0][..8].try_into().unwrap());
        Box::new(Scripted { role, script: SCRIPTS.lock().unwrap()[&seed].clone() })
    });
    let outcome = world.run(inputs, |cx, i| program(cx, i));
    for sent in &outcome.sent {
        assert!(sent.iter().all(|s| s.to != Role::Dealer), "the dealer received something");
    }
    let [_, p1, p2] = Role::ALL;
    assert_eq!(outcome.ledger.link(p1, Role::Dealer) + outcome.ledger.link(p2, Role::Dealer), 0);
    (world, outcome)
}

/// SplitMix64 of several numbers.
pub(crate) fn hash(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9e37_79b9_7f4a_7c15, |h, p| {
        let mut z = h ^ p.wrapping_mul(0xff51_afd7_ed55_8ccd);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// Whether streams of a lane are xored.
pub(crate) fn is_xor(lane: u8) -> bool {
    use Purpose::*;
    [
        WrapBit,
        OneHot,
        Thermometer,
        CarryBits,
        CarryMonomials,
        Carry,
        Planes,
        ZeroTest,
        Flags,
        AndMonomials,
        And,
    ]
    .iter()
    .any(|p| *p as u8 == lane)
}

/// A gate over one element, to be enumerated by running it over many at once.
pub(crate) struct Case<'p> {
    /// A number no other test uses; worlds of a case have seeds from here on.
    pub seed: u64,
    /// The ring.
    pub ring: Ring,
    /// Words of each input, for one element, and its scale.
    pub inputs: &'p [(usize, u32)],
    /// Consecutive words that belong to one element, by lane; streams are laid out [outer][element][inner].
    pub inner: &'p (dyn Fn(u8) -> usize + Sync),
    /// The gate.
    pub program: Program<'p>,
}

/// The layout of most gates: one variable after the other.
pub(crate) fn flat(_: u8) -> usize {
    1
}

fn place(i: usize, elements: usize, inner: usize) -> (usize, usize) {
    ((i / inner) % elements, i / (inner * elements) * inner + i % inner)
}

fn index(element: usize, variable: usize, elements: usize, inner: usize) -> usize {
    variable / inner * inner * elements + element * inner + variable % inner
}

impl Case<'_> {
    /// Streams drawn for a single element: (key, op, lane) → bits of each variable and number of variables.
    pub(crate) fn streams(&self) -> BTreeMap<(KeyId, u64, u8), (u32, usize)> {
        let drawn: Arc<Mutex<BTreeSet<Draw>>> = Arc::default();
        let d = drawn.clone();
        let script = move |draw: Draw| {
            d.lock().unwrap().insert(draw);
            (0..draw.4).map(|i| hash(&[draw.2, u64::from(draw.3), i as u64])).collect()
        };
        let zeros = self.inputs.iter().map(|(c, _)| vec![vec![0; *c]; 3]).collect::<Vec<_>>();
        let inputs = self.shares(self.seed, &zeros, 1);
        run_scripted(self.seed, self.ring, script, inputs, self.program);
        let drawn = drawn.lock().unwrap();
        drawn.iter().map(|&(_, key, op, lane, n, bits)| ((key, op, lane), (bits, n))).collect()
    }

    /// Shares of inputs given as [value, x0, x1], each with all elements.
    fn shares(&self, seed: u64, parts: &[Vec<Vec<u64>>], elements: usize) -> [Vec<Share>; 3] {
        let world = World::new(seed).ring(self.ring);
        let mut all = [vec![], vec![], vec![]];
        for (p, (c, scale)) in parts.iter().zip(self.inputs) {
            let shares = world.share_under(&p[0], &p[1], &p[2], Shape::new(elements, *c), *scale);
            for (all, s) in all.iter_mut().zip(shares) {
                all.push(s);
            }
        }
        all
    }

    /// Enumerates every word of the streams `party` does not know, for every secret and for `settings` choices of
    /// everything it does know: the words it receives must take each combination of values exactly once. Calls
    /// `check` with each secret and the opened outputs of an element. Returns the enumerated bits.
    pub(crate) fn assert_views_uniform(
        &self,
        party: Role,
        secrets: &[Vec<u64>],
        settings: u64,
        check: impl Fn(&[u64], &[Vec<u64>]),
    ) -> u32 {
        match self.views(party, secrets, settings, check) {
            Ok(bits) => bits,
            Err(e) => panic!("view of {party}: {e}"),
        }
    }

    /// Like [`Case::assert_views_uniform`], with the verdict as a result.
    pub(crate) fn views(
        &self,
        party: Role,
        secrets: &[Vec<u64>],
        settings: u64,
        check: impl Fn(&[u64], &[Vec<u64>]),
    ) -> std::result::Result<u32, String> {
        let mut offsets: HashMap<(u64, u8), u32> = HashMap::new();
        let mut total = 0;
        for ((key, op, lane), (bits, n)) in self.streams() {
            if key == foreign(party) {
                offsets.insert((op, lane), total);
                total += bits * n as u32;
            }
        }
        assert!(total <= 24, "{total} bits are too many to enumerate");
        let elements = secrets.len() << total;
        let inner: Vec<usize> = (0..=255).map(self.inner).collect();
        for setting in 0..settings {
            let seed = self.seed + 1 + setting;
            let (offsets, lanes) = (offsets.clone(), inner.clone());
            let script = move |(_, key, op, lane, n, bits): Draw| {
                let (c, mask) = (lanes[lane as usize], u64::MAX >> (64 - bits));
                let own = |v: usize| hash(&[seed, key as u64, op, u64::from(lane), v as u64]) & mask;
                let offset = (key == foreign(party)).then(|| offsets[&(op, lane)]);
                let word = |i: usize| {
                    let (e, v) = place(i, elements, c);
                    match offset {
                        Some(o) => e as u64 >> (o + v as u32 * bits) & mask,
                        None => own(v),
                    }
                };
                (0..n).map(word).collect()
            };
            // The party's two components of each input are fixed, the third follows from the secret.
            let mut from = 0;
            let mut parts = vec![];
            for (input, (c, _)) in self.inputs.iter().enumerate() {
                let word = |f: &dyn Fn(u64, u64) -> u64| -> Vec<u64> {
                    let each = |i: usize| {
                        let (e, v) = (i / c, i % c);
                        let delta = hash(&[seed, 7, input as u64, v as u64]);
                        f(secrets[e >> total][from + v], delta)
                    };
                    (0..elements * c).map(each).collect()
                };
                let own = |v: u64| hash(&[seed, 8, input as u64, v]);
                let (x, delta) = (word(&|x, _| x), word(&|_, d| d));
                let own: Vec<u64> = (0..elements * c).map(|i| own((i % c) as u64)).collect();
                let other: Vec<u64> =
                    (0..own.len()).map(|i| x[i].wrapping_sub(delta[i]).wrapping_sub(own[i])).collect();
                parts.push(if party == Role::P1 { vec![x, other, own] } else { vec![x, own, other] });
                from += c;
            }
            let (world, o) =
                run_scripted(seed, self.ring, script, self.shares(seed, &parts, elements), self.program);

            let mut view: Vec<&Sent> = o.sent.iter().flatten().filter(|s| s.to == party).collect();
            view.sort_by_key(|s| (s.op, s.lane));
            let mut codes = vec![0u32; elements];
            let mut width = 0;
            for s in view {
                for v in 0..s.values.len() / elements {
                    if width + s.bits > 24 {
                        return Err(format!("more words received than masks ({total} bits)"));
                    }
                    for (e, code) in codes.iter_mut().enumerate() {
                        *code |= (s.values[index(e, v, elements, inner[s.lane as usize])] as u32) << width;
                    }
                    width += s.bits;
                }
            }
            if width != total {
                return Err(format!("{width} bits received under {total} bits of masks"));
            }
            for (secret, codes) in secrets.iter().zip(codes.chunks(1 << total)) {
                let mut seen = vec![0u64; (1usize << total).div_ceil(64)];
                for &c in codes {
                    let (word, bit) = (c as usize / 64, 1u64 << (c % 64));
                    if seen[word] & bit != 0 {
                        return Err(format!("setting {setting}, secret {secret:?}: {c:x} received twice"));
                    }
                    seen[word] |= bit;
                }
            }
            self.check_outputs(&world, &o, elements, |e, out| check(&secrets[e >> total], out));
        }
        Ok(total)
    }

    /// Runs the gate on every combination of the given values, both components of the mask of each input (`x0`, `x1`
    /// say which), and of the streams in `digits`; all other words are pseudo-random. Calls `check` with the values,
    /// the masks and the outputs of each element.
    pub(crate) fn assert_correct(
        &self,
        values: &[Vec<u64>],
        masks: &[Vec<u64>],
        digits: &[(KeyId, Purpose)],
        check: impl Fn(&[u64], &[u64], &[Vec<u64>]),
    ) {
        let mut offsets: HashMap<(KeyId, u64, u8), u32> = HashMap::new();
        let mut total = 0;
        for ((key, op, lane), (bits, n)) in self.streams() {
            if digits.iter().any(|(k, p)| *k == key && *p as u8 == lane) {
                offsets.insert((key, op, lane), total);
                total += bits * n as u32;
            }
        }
        let elements = (values.len() * masks.len()) << total;
        let inner: Vec<usize> = (0..=255).map(self.inner).collect();
        let seed = self.seed + 999;
        let script = move |(_, key, op, lane, n, bits): Draw| {
            let (c, mask) = (inner[lane as usize], u64::MAX >> (64 - bits));
            let offset = offsets.get(&(key, op, lane)).copied();
            let word = |i: usize| {
                let (e, v) = place(i, elements, c);
                match offset {
                    Some(o) => e as u64 >> (o + v as u32 * bits) & mask,
                    None => hash(&[seed, key as u64, op, u64::from(lane), v as u64, e as u64]) & mask,
                }
            };
            (0..n).map(word).collect()
        };
        let (mut from, mut parts) = (0, vec![]);
        for (c, _) in self.inputs {
            let each =
                |f: &dyn Fn(usize, usize) -> u64| (0..elements * c).map(|i| f(i / c, from + i % c)).collect();
            let x: Vec<u64> = each(&|e, v| values[(e >> total) / masks.len()][v]);
            // masks are [x0.., x1..] over all input words
            let half = masks[0].len() / 2;
            let x0: Vec<u64> = each(&|e, v| masks[(e >> total) % masks.len()][v]);
            let x1: Vec<u64> = each(&|e, v| masks[(e >> total) % masks.len()][half + v]);
            parts.push(vec![x, x0, x1]);
            from += c;
        }
        let (world, o) =
            run_scripted(seed, self.ring, script, self.shares(seed, &parts, elements), self.program);
        self.check_outputs(&world, &o, elements, |e, out| {
            check(&values[(e >> total) / masks.len()], &masks[(e >> total) % masks.len()], out);
        });
    }

    fn check_outputs(
        &self,
        world: &World,
        o: &Outcome<Vec<Share>>,
        elements: usize,
        mut check: impl FnMut(usize, &[Vec<u64>]),
    ) {
        let opened: Vec<Vec<u64>> = (0..o.results[0].len())
            .map(|i| world.open(&o.results.each_ref().map(|r| r[i].clone())).values)
            .collect();
        let mut out: Vec<Vec<u64>> = vec![vec![]; opened.len()];
        for e in 0..elements {
            for (out, all) in out.iter_mut().zip(&opened) {
                let size = all.len() / elements;
                out.clear();
                out.extend_from_slice(&all[e * size..(e + 1) * size]);
            }
            check(e, &out);
        }
    }
}

/// For each of `secrets` (flat over all inputs) and one random transcript: solves, one message after the other, for
/// the foreign masks that make `party` receive exactly that transcript, its own words being the same for all secrets.
/// That it always succeeds shows that masks and transcripts are in bijection whatever the secret. Messages of
/// `unmasked` lanes (comparison keys, which hide computationally) are left alone. Returns the number of messages.
pub(crate) fn solve_views(
    seed: u64,
    ring: Ring,
    party: Role,
    inputs: &[(Shape, u32)],
    secrets: &[Vec<u64>],
    unmasked: &[u8],
    program: Program<'_>,
) -> std::result::Result<usize, String> {
    type Pads = BTreeMap<(u64, u8), Vec<u64>>;
    let mut count = 0;
    for secret in secrets {
        let shares = {
            let world = World::new(seed).ring(ring);
            let mut all = [vec![], vec![], vec![]];
            let mut from = 0;
            for (i, (shape, scale)) in inputs.iter().enumerate() {
                let x = &secret[from..from + shape.len()];
                from += shape.len();
                let word = |what, j: usize| hash(&[seed, what, i as u64, j as u64]);
                let own: Vec<u64> = (0..x.len()).map(|j| word(1, j)).collect();
                let other: Vec<u64> =
                    (0..x.len()).map(|j| x[j].wrapping_sub(word(2, j)).wrapping_sub(own[j])).collect();
                let (x0, x1) = if party == Role::P1 { (&other, &own) } else { (&own, &other) };
                for (all, s) in all.iter_mut().zip(world.share_under(x, x0, x1, *shape, *scale)) {
                    all.push(s);
                }
            }
            all
        };
        let order: Arc<Mutex<Vec<(u64, u8)>>> = Arc::default();
        let run = |pads: &Pads| {
            let (pads, order, keys) = (pads.clone(), order.clone(), unmasked);
            let unmasked = unmasked.to_vec();
            let script = move |(role, key, op, lane, n, bits): Draw| {
                let masked = key == foreign(party) && !unmasked.contains(&lane);
                if masked && role == Role::Dealer {
                    let mut order = order.lock().unwrap();
                    if !order.contains(&(op, lane)) {
                        order.push((op, lane));
                    }
                }
                match pads.get(&(op, lane)) {
                    Some(p) if masked => p.clone(),
                    _ if masked => vec![0; n],
                    _ => (0..n)
                        .map(|i| {
                            hash(&[seed, key as u64, op, u64::from(lane), i as u64])
                                & (u64::MAX >> (64 - bits))
                        })
                        .collect(),
                }
            };
            let (_, o) = run_scripted(seed, ring, script, shares.clone(), program);
            let received: BTreeMap<(u64, u8), Sent> = o
                .sent
                .into_iter()
                .flatten()
                .filter(|s| s.to == party && !keys.contains(&s.lane))
                .map(|s| ((s.op, s.lane), s))
                .collect();
            received
        };
        let target = |s: &Sent, i: usize| {
            hash(&[seed, 99, s.op, u64::from(s.lane), i as u64]) & (u64::MAX >> (64 - s.bits))
        };
        let mut pads = Pads::new();
        let first = run(&pads);
        let order = order.lock().unwrap().clone();
        let mut drawn = order.clone();
        drawn.sort_unstable();
        let received: Vec<(u64, u8)> = first.keys().copied().collect();
        if drawn != received {
            return Err(format!("masks drawn {drawn:?} are not the messages received {received:?}"));
        }
        count = order.len();
        for at in order {
            let message = &run(&pads)[&at];
            let mask = u64::MAX >> (64 - message.bits);
            let solve = |(i, g): (usize, &u64)| {
                let t = target(message, i);
                (if is_xor(message.lane) { g ^ t } else { g.wrapping_sub(t) }) & mask
            };
            pads.insert(at, message.values.iter().enumerate().map(solve).collect());
        }
        for s in run(&pads).values() {
            for (i, v) in s.values.iter().enumerate() {
                if *v != target(s, i) {
                    return Err(format!("op {} lane {}: no masks give this transcript", s.op, s.lane));
                }
            }
        }
    }
    Ok(count)
}

/// All vectors of `n` ring elements.
pub(crate) fn all(ring: Ring, n: u32) -> Vec<Vec<u64>> {
    let k = ring.bits();
    (0u64..1 << (k * n)).map(|i| (0..n).map(|j| ring.reduce(i >> (k * j))).collect()).collect()
}
