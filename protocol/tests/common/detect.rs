//! Detectors: words that are not uniform, or distributed differently for two secrets; and streams that make them fire.

use kernels::{Device, Words};
use protocol::testing::World;
use protocol::{KeyId, Role, Sent, Streams};
use std::collections::BTreeMap;

/// Everything received, by receiver and lane.
pub(crate) type Seen = Vec<(Role, u8, Vec<Sent>)>;

/// All bits received on a lane, as they travel, cut into symbols of `width` bits.
pub(crate) fn symbols(messages: &[Sent], width: usize) -> Vec<usize> {
    let bits =
        messages.iter().flat_map(|m| m.values.iter().flat_map(|v| (0..m.bits).map(move |b| v >> b & 1)));
    let mut out = vec![];
    let (mut word, mut have) = (0, 0);
    for b in bits {
        word |= (b as usize) << have;
        have += 1;
        if have == width {
            out.push(word);
            (word, have) = (0, 0);
        }
    }
    out
}

/// Standard normal quantile that a chi-square value of `df` degrees corresponds to (Wilson and Hilferty).
pub(crate) fn z_score(chi2: f64, df: f64) -> f64 {
    let v = 2.0 / (9.0 * df);
    ((chi2 / df).cbrt() - (1.0 - v)) / v.sqrt()
}

/// Six standard deviations: one in 10^9.
pub(crate) const LIMIT: f64 = 6.0;

/// Bits of a symbol, so that each is expected often enough.
pub(crate) fn width_for(messages: &[Sent]) -> usize {
    let bits: usize = messages.iter().map(|m| m.values.len() * m.bits as usize).sum();
    [8, 4, 2, 1].into_iter().find(|w| bits / w >= 8 << w).unwrap_or(1)
}

/// Lanes whose words are not uniform.
pub(crate) fn not_uniform(seen: &Seen) -> Vec<(Role, u8)> {
    let bad = |(_, _, messages): &&(Role, u8, Vec<Sent>)| {
        // Control corrections of a comparison key are two bits each and travel as such; all words count.
        let width = width_for(messages);
        let mut counts = vec![0f64; 1 << width];
        symbols(messages, width).into_iter().for_each(|s| counts[s] += 1.0);
        let expected = counts.iter().sum::<f64>() / counts.len() as f64;
        let chi2: f64 = counts.iter().map(|c| (c - expected).powi(2) / expected).sum();
        z_score(chi2, counts.len() as f64 - 1.0) > LIMIT
    };
    seen.iter().filter(bad).map(|(to, lane, _)| (*to, *lane)).collect()
}

/// Lanes whose words are distributed differently.
pub(crate) fn different(a: &Seen, b: &Seen) -> Vec<(Role, u8)> {
    let mut bad = vec![];
    for ((to, lane, a), (to_b, lane_b, b)) in a.iter().zip(b) {
        assert_eq!((to, lane), (to_b, lane_b), "other messages for another secret");
        let width = width_for(a);
        let mut counts = vec![[0f64; 2]; 1 << width];
        symbols(a, width).into_iter().for_each(|s| counts[s][0] += 1.0);
        symbols(b, width).into_iter().for_each(|s| counts[s][1] += 1.0);
        let chi2: f64 = counts.iter().map(|[x, y]| (x - y).powi(2) / (x + y).max(1.0)).sum();
        if z_score(chi2, counts.len() as f64 - 1.0) > LIMIT {
            bad.push((*to, *lane));
        }
    }
    bad
}

/// What an observer of the links sees: receivers, operations, widths and numbers of words.
pub(crate) fn lengths(sent: &[Vec<Sent>; 3]) -> Vec<(Role, u64, u8, u32, usize)> {
    sent.iter().flatten().map(|s| (s.to, s.op, s.lane, s.bits, s.values.len())).collect()
}

/// One pairwise key's streams are zero: the detectors must fire.
struct Zeroed(KeyId, Box<dyn Streams>);

impl Streams for Zeroed {
    fn draw(&self, device: &Device, key: KeyId, op: u64, lane: u8, n: usize, bits: u32) -> Option<Words> {
        let words = self.1.draw(device, key, op, lane, n, bits)?;
        Some(if key == self.0 { Words::zeros(device, n) } else { words })
    }
}

/// Streams of k01 are zero.
pub(crate) fn without_k01(role: Role, w: &World) -> Box<dyn Streams> {
    Box::new(Zeroed(KeyId::K01, Box::new(w.chacha(role))))
}

/// Streams of k02 are zero.
pub(crate) fn without_k02(role: Role, w: &World) -> Box<dyn Streams> {
    Box::new(Zeroed(KeyId::K02, Box::new(w.chacha(role))))
}

/// Messages by receiver and lane.
pub(crate) fn by_lane(sent: impl IntoIterator<Item = Sent>) -> Seen {
    let mut seen: BTreeMap<(Role, u8), Vec<Sent>> = BTreeMap::new();
    for s in sent {
        assert_ne!(s.to, Role::Dealer, "the dealer received something");
        seen.entry((s.to, s.lane)).or_default().push(s);
    }
    seen.into_iter().map(|((to, lane), s)| (to, lane, s)).collect()
}
