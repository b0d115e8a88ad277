//! What a network is to a computation: bandwidth, latency, loss, jitter; and how people write it.

use serde::Serialize;
use std::{fmt, str::FromStr, time::Duration};

/// Beyond this the parties take each other for lost before a handshake is through.
const MOST_SECONDS: f64 = 1.0;
/// Less does not carry the transport's own probes.
const LEAST_BITS: f64 = 100e3;
/// More than this is no network that a computation could use.
const MOST_LOSS: f64 = 0.5;

/// A network between the parties: the same in each direction of each link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NetworkModel {
    /// Bits a second, with the headers of UDP and IP.
    pub bits_per_second: f64,
    /// One way, seconds.
    pub latency: f64,
    /// Probability that a datagram is lost.
    pub loss: f64,
    /// Seconds that a datagram may be late at most, uniformly; none overtakes another.
    pub jitter: f64,
}

impl NetworkModel {
    /// 10 Gb/s, 0.1 ms one way.
    pub const LAN: NetworkModel =
        NetworkModel { bits_per_second: 10e9, latency: 0.1e-3, loss: 0.0, jitter: 0.0 };
    /// 100 Mb/s, 40 ms one way.
    pub const WAN: NetworkModel =
        NetworkModel { bits_per_second: 100e6, latency: 40e-3, loss: 0.0, jitter: 0.0 };

    /// How long so many bytes occupy a link.
    pub fn transmission(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 * 8.0 / self.bits_per_second)
    }

    /// One way for a single small datagram, jitter not counted.
    pub fn delay(&self) -> Duration {
        Duration::from_secs_f64(self.latency)
    }

    /// Bytes that may wait in front of a link: what is under way in one round trip, at least 1 MiB or what 100 ms carry,
    /// whichever is less, and at least a few large datagrams.
    pub fn queue_bytes(&self) -> usize {
        let carries = |seconds: f64| (self.bits_per_second / 8.0 * seconds) as usize;
        carries(2.0 * self.latency).max(carries(0.1).min(1 << 20)).max(64 << 10)
    }
}

/// Why a text is no network.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ModelError {
    /// Not of this form.
    #[error(
        "{0:?} is no network; write lan, wan or BANDWIDTH,LATENCY[,LOSS[,JITTER]], for example 1Gbps,5ms,0.1%,1ms"
    )]
    Form(String),
    /// A number that cannot be.
    #[error("{part} of {text:?} is {problem}")]
    Range {
        /// Which of them.
        part: &'static str,
        /// As it was written.
        text: String,
        /// What is wrong, and what is possible.
        problem: String,
    },
}

impl FromStr for NetworkModel {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        match text {
            "lan" => return Ok(Self::LAN),
            "wan" => return Ok(Self::WAN),
            _ => {}
        }
        let wrong = || ModelError::Form(text.to_owned());
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let (bandwidth, latency, loss, jitter) = match parts[..] {
            [b, l] => (b, l, "0%", "0s"),
            [b, l, loss] => (b, l, loss, "0s"),
            [b, l, loss, jitter] => (b, l, loss, jitter),
            _ => return Err(wrong()),
        };
        let times = [("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("s", 1.0)];
        let rates = [("Gbps", 1e9), ("Mbps", 1e6), ("kbps", 1e3)];
        let model = Self {
            bits_per_second: number(bandwidth, &rates).ok_or_else(wrong)?,
            latency: number(latency, &times).ok_or_else(wrong)?,
            loss: number(loss, &[("%", 1e-2)]).ok_or_else(wrong)?,
            jitter: number(jitter, &times).ok_or_else(wrong)?,
        };
        let range = |part, text: &str, problem: String| {
            Err(ModelError::Range { part, text: text.to_owned(), problem })
        };
        if model.bits_per_second < LEAST_BITS {
            return range("bandwidth", bandwidth, "too little; give 100kbps or more".into());
        }
        for (part, text, value) in [("latency", latency, model.latency), ("jitter", jitter, model.jitter)] {
            if value > MOST_SECONDS {
                return range(
                    part,
                    text,
                    "too much: the parties would take each other for lost; give 1s at most".into(),
                );
            }
        }
        if model.loss > MOST_LOSS {
            return range("loss", loss, "too much; give 50% at most".into());
        }
        Ok(model)
    }
}

/// A number with one of these units; finite and not negative.
fn number(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let (digits, factor) =
        units.iter().find_map(|(unit, factor)| text.strip_suffix(unit).map(|digits| (digits, factor)))?;
    let value: f64 = digits.trim().parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some(value * factor)
}

impl fmt::Display for NetworkModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} ms one way", bits(self.bits_per_second), self.latency * 1e3)?;
        if self.loss > 0.0 {
            write!(f, ", {} % lost", self.loss * 1e2)?;
        }
        if self.jitter > 0.0 {
            write!(f, ", up to {} ms of jitter", self.jitter * 1e3)?;
        }
        Ok(())
    }
}

/// A rate for people.
pub fn bits(bits_per_second: f64) -> String {
    let (unit, factor) = match bits_per_second {
        b if b >= 1e9 => ("Gb/s", 1e9),
        b if b >= 1e6 => ("Mb/s", 1e6),
        _ => ("kb/s", 1e3),
    };
    let rounded = (bits_per_second / factor * 100.0).round() / 100.0;
    format!("{rounded} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NetworkModel, ModelError> {
        text.parse()
    }

    #[test]
    fn the_grammar() {
        assert_eq!(parse("lan"), Ok(NetworkModel::LAN));
        assert_eq!(parse("wan"), Ok(NetworkModel::WAN));
        let short = NetworkModel { bits_per_second: 1e9, latency: 5e-3, loss: 0.0, jitter: 0.0 };
        assert_eq!(parse("1Gbps,5ms"), Ok(short));
        assert_eq!(parse(" 1000 Mbps , 5000us "), Ok(short));
        assert_eq!(parse("1Gbps,5ms,1%"), Ok(NetworkModel { loss: 0.01, ..short }));
        assert_eq!(parse("1Gbps,5ms,0%,2ms"), Ok(NetworkModel { jitter: 2e-3, ..short }));
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in [
            "",
            "fast",
            "LAN",
            "1Gbps",
            "1,1",
            "-1Gbps,1ms",
            "1Gbps,-1ms",
            "NaNGbps,1ms",
            "infGbps,1ms",
            "1Gbps,1",
            "1Gbps,1ms,0.1",
            "1Gbps,1ms,1%,1",
            "1Gbps,1ms,1%,1ms,1",
            "1Gbps,1ms,",
            ",",
            "ms,Gbps",
        ] {
            assert!(matches!(parse(wrong), Err(ModelError::Form(_))), "{wrong}: {:?}", parse(wrong));
        }
        for (wrong, part) in [
            ("0Gbps,1ms", "bandwidth"),
            ("1kbps,1ms", "bandwidth"),
            ("1Gbps,2s", "latency"),
            ("1Gbps,1ms,51%", "loss"),
            ("1Gbps,1ms,1%,2s", "jitter"),
        ] {
            let text = parse(wrong).unwrap_err().to_string();
            assert!(text.starts_with(part), "{wrong}: {text}");
        }
    }

    #[test]
    fn what_is_shown() {
        assert_eq!(NetworkModel::WAN.to_string(), "100 Mb/s, 40 ms one way");
        let all = parse("2Mbps,5ms,1%,2ms").unwrap().to_string();
        assert_eq!(all, "2 Mb/s, 5 ms one way, 1 % lost, up to 2 ms of jitter");
        assert_eq!(bits(9.8765e9), "9.88 Gb/s");
    }

    #[test]
    fn queues_hold_a_round_trip() {
        assert_eq!(NetworkModel::WAN.queue_bytes(), 1 << 20);
        assert_eq!(parse("1Gbps,40ms").unwrap().queue_bytes(), 10_000_000);
        assert_eq!(parse("100kbps,1ms").unwrap().queue_bytes(), 64 << 10);
    }
}
