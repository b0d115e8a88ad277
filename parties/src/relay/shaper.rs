//! One direction of one link: when each datagram arrives at the other end, if it does.
//!
//! A link sends one datagram after the other at its bandwidth; those that find the queue in front of it full are dropped.
//! What has left it travels for the latency plus a random part of the jitter, never faster than what left before.
//! No clock is read here: times come in, so that the rules can be tested alone.

use super::NetworkModel;
use quinn::udp::EcnCodepoint;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Headers of IPv4 and UDP, which occupy the link too.
pub(super) const HEADERS: usize = 28;

/// What happened to datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Accepted.
    pub(super) passed: u64,
    /// Found the queue full.
    pub(super) dropped: u64,
    /// Lost at random.
    pub(super) lost: u64,
}

struct Datagram {
    due: Instant,
    bytes: Vec<u8>,
    ecn: Option<EcnCodepoint>,
}

/// Datagrams of one size that are due, one behind the other: one system call sends them all.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Train {
    /// Size of each but the last, which may be shorter.
    pub(super) segment: usize,
    pub(super) count: usize,
    /// When the first was due.
    pub(super) due: Instant,
    pub(super) ecn: Option<EcnCodepoint>,
}

/// Most bytes in one system call.
const TRAIN_BYTES: usize = 65_507;
/// Buffers kept for the next datagrams.
const SPARE: usize = 1024;

pub(super) struct Shaper {
    model: NetworkModel,
    queue: VecDeque<Datagram>,
    /// When the link has sent all that it accepted.
    free: Instant,
    last_due: Instant,
    random: Random,
    spare: Vec<Vec<u8>>,
    pub(super) counts: Counts,
}

impl Shaper {
    pub(super) fn new(model: NetworkModel, now: Instant, random: Random) -> Self {
        Self {
            model,
            queue: VecDeque::new(),
            free: now,
            last_due: now,
            random,
            spare: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// A datagram comes in.
    pub(super) fn push(&mut self, now: Instant, datagram: &[u8], ecn: Option<EcnCodepoint>) {
        let size = datagram.len() + HEADERS;
        let waits = self.free.saturating_duration_since(now);
        let waiting = waits.as_secs_f64() * self.model.bits_per_second / 8.0;
        if waiting + size as f64 > self.model.queue_bytes() as f64 {
            self.counts.dropped += 1;
            return;
        }
        self.free = self.free.max(now) + self.model.transmission(size);
        // It has occupied the link all the same.
        if self.model.loss > 0.0 && self.random.unit() < self.model.loss {
            self.counts.lost += 1;
            return;
        }
        let jitter = if self.model.jitter > 0.0 { self.model.jitter * self.random.unit() } else { 0.0 };
        let arrives = self.free + self.model.delay() + Duration::from_secs_f64(jitter);
        self.last_due = self.last_due.max(arrives);
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(datagram);
        self.queue.push_back(Datagram { due: self.last_due, bytes, ecn });
        self.counts.passed += 1;
    }

    /// When the next is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queue.front().map(|datagram| datagram.due)
    }

    /// Takes what is due by `now`, up to `most` datagrams that one call can send, into `bytes`.
    pub(super) fn pop(&mut self, now: Instant, most: usize, bytes: &mut Vec<u8>) -> Option<Train> {
        bytes.clear();
        let first = self.queue.front().filter(|datagram| datagram.due <= now)?;
        let mut train = Train { segment: first.bytes.len(), count: 0, due: first.due, ecn: first.ecn };
        while let Some(next) = self.queue.front() {
            let size = next.bytes.len();
            // An empty datagram has no place in a train: its end could not be told.
            let joins = train.count == 0
                || (train.count < most.max(1)
                    && next.due <= now
                    && next.ecn == train.ecn
                    && (1..=train.segment).contains(&size)
                    && bytes.len() + size <= TRAIN_BYTES);
            if !joins {
                break;
            }
            let Some(taken) = self.queue.pop_front() else { break };
            bytes.extend_from_slice(&taken.bytes);
            train.count += 1;
            if self.spare.len() < SPARE {
                self.spare.push(taken.bytes);
            }
            if size < train.segment {
                break;
            }
        }
        Some(train)
    }
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): chance for loss and jitter, no secrets.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shaper(network: &str) -> (Shaper, Instant) {
        let now = Instant::now();
        (Shaper::new(network.parse().unwrap(), now, Random::new(7)), now)
    }

    /// All datagrams with their times.
    fn all(shaper: &mut Shaper) -> Vec<(Instant, Vec<u8>)> {
        let mut bytes = Vec::new();
        let mut out = Vec::new();
        while let Some(due) = shaper.next_due() {
            let train = shaper.pop(due, 1, &mut bytes).unwrap();
            assert_eq!((train.count, train.due), (1, due));
            out.push((due, bytes.clone()));
        }
        out
    }

    #[test]
    fn a_datagram_takes_transmission_and_latency() {
        // 1000 bytes at 1 Mb/s: 8 ms.
        let (mut link, now) = shaper("1Mbps,5ms");
        for i in 0..3 {
            link.push(now, &[i; 1000 - HEADERS], None);
        }
        for (i, (due, bytes)) in all(&mut link).into_iter().enumerate() {
            let expected = now + Duration::from_millis(8 * (i as u64 + 1) + 5);
            assert!(due.max(expected) - due.min(expected) < Duration::from_micros(1));
            assert_eq!(bytes[0], i as u8);
        }
        // A link that has been idle does not send in advance.
        let later = now + Duration::from_secs(1);
        link.push(later, &[0; 1000 - HEADERS], None);
        let due = link.next_due().unwrap();
        assert!((due - later).abs_diff(Duration::from_millis(13)) < Duration::from_micros(1));
        assert!(link.pop(due - Duration::from_micros(1), 1, &mut Vec::new()).is_none());
    }

    #[test]
    fn a_full_queue_drops_what_comes() {
        let (mut link, now) = shaper("100kbps,1ms");
        for _ in 0..100 {
            link.push(now, &[0; 1000 - HEADERS], None);
        }
        assert_eq!(link.counts, Counts { passed: 65, dropped: 35, lost: 0 });
        // Once it is half empty there is room for the other half.
        let later = now + NetworkModel { ..link.model }.transmission(32_500);
        for _ in 0..100 {
            link.push(later, &[0; 1000 - HEADERS], None);
        }
        assert!((97..=98).contains(&link.counts.passed), "{:?}", link.counts);
    }

    #[test]
    fn as_many_are_lost_as_asked_for() {
        let (mut link, now) = shaper("10Gbps,1ms,10%");
        for i in 0..20_000 {
            link.push(now + Duration::from_micros(10 * i), &[0; 100], None);
        }
        // Deviation of a count of 2000: 42.
        assert!((1800..2200).contains(&link.counts.lost), "{:?}", link.counts);
        assert_eq!(link.counts.lost + link.counts.passed, 20_000);
    }

    #[test]
    fn jitter_keeps_order_and_its_bounds() {
        let (mut link, now) = shaper("10Gbps,10ms,0%,4ms");
        let sent: Vec<_> = (0..2000u64).map(|i| now + Duration::from_millis(i)).collect();
        for (i, &at) in sent.iter().enumerate() {
            link.push(at, &(i as u32).to_le_bytes(), None);
        }
        let arrived = all(&mut link);
        let mut delays: Vec<f64> = vec![];
        for (i, pair) in arrived.windows(2).enumerate() {
            assert!(pair[0].0 <= pair[1].0);
            assert_eq!(pair[0].1, (i as u32).to_le_bytes());
            delays.push((pair[0].0 - sent[i]).as_secs_f64() * 1e3);
        }
        assert!(delays.iter().all(|d| (10.0..14.001).contains(d)));
        let spread = delays.iter().copied().fold(0.0, f64::max) - delays.iter().copied().fold(99.0, f64::min);
        assert!(spread > 3.5, "{spread}");
    }

    #[test]
    fn trains_hold_what_one_call_can_send() {
        let (mut link, now) = shaper("10Gbps,1ms");
        for size in [1000, 1000, 1000, 400, 1000, 0, 1200] {
            link.push(now, &vec![size as u8; size], None);
        }
        link.push(now, &[1; 1200], Some(EcnCodepoint::Ce));
        let (late, mut bytes) = (now + Duration::from_secs(1), Vec::new());
        let mut trains = vec![];
        while let Some(train) = link.pop(late, 64, &mut bytes) {
            trains.push((train.segment, train.count, bytes.len(), train.ecn));
        }
        let ce = Some(EcnCodepoint::Ce);
        assert_eq!(
            trains,
            [
                (1000, 4, 3400, None),
                (1000, 1, 1000, None),
                (0, 1, 0, None),
                (1200, 1, 1200, None),
                (1200, 1, 1200, ce)
            ]
        );
        for _ in 0..100 {
            link.push(late, &[2; 9000], None);
        }
        let train = link.pop(late + Duration::from_secs(1), 64, &mut bytes).unwrap();
        assert_eq!((train.count, bytes.len()), (7, 63_000));
        assert_eq!(link.pop(late + Duration::from_secs(1), 3, &mut bytes).unwrap().count, 3);
    }
}
