//! What a relay really gives on this machine: round trips and throughput of plain datagrams through it.

use super::{
    NetworkModel, Relay, RelayError, Route, bits,
    port::{Buffers, Port},
    shaper::{HEADERS, Train},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};
use serde::Serialize;
use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// A free port of the loopback interface.
pub(crate) const LOCAL: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
/// Round trips measured.
const PINGS: usize = 100;
const SPACING: Duration = Duration::from_millis(5);
/// How long data is sent.
const SENDING: Duration = Duration::from_millis(500);
/// Less of the asked bandwidth than this is said aloud.
const ENOUGH: f64 = 0.9;

/// What a network model was measured to give.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Measured {
    /// The setting.
    pub asked: NetworkModel,
    /// Median round trip of a small datagram, seconds.
    pub ping_median_s: f64,
    /// All but a twentieth of the round trips are no longer, seconds.
    pub ping_p95_s: f64,
    /// One direction, headers counted.
    pub bits_per_second: f64,
    /// Whether that is at least nine tenths of what was asked for (less what is lost).
    pub carries: bool,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; measured: ping {:.3} ms (95 %: {:.3} ms), {}",
            self.asked,
            self.ping_median_s * 1e3,
            self.ping_p95_s * 1e3,
            bits(self.bits_per_second)
        )?;
        if !self.carries {
            write!(
                f,
                "\nTHIS MACHINE DOES NOT CARRY THE BANDWIDTH ASKED FOR: read times as of a {} link",
                bits(self.bits_per_second)
            )?;
        }
        Ok(())
    }
}

/// Measures a relay of this model, on loopback. Takes one to four seconds.
///
/// # Errors
/// No sockets, or nothing comes through.
pub fn measure(model: NetworkModel) -> Result<Measured, RelayError> {
    let mut trips = pings(model)?;
    trips.sort_unstable_by(f64::total_cmp);
    let last = trips.len().checked_sub(1).ok_or(RelayError::Silent)?;
    let bits_per_second = throughput(model)?;
    Ok(Measured {
        asked: model,
        ping_median_s: trips[last / 2],
        ping_p95_s: trips[last * 19 / 20],
        bits_per_second,
        carries: bits_per_second >= ENOUGH * model.bits_per_second * (1.0 - model.loss),
    })
}

fn local() -> io::Result<UdpSocket> {
    UdpSocket::bind(LOCAL)
}

/// Round trips of those pings that came back, seconds.
fn pings(model: NetworkModel) -> Result<Vec<f64>, RelayError> {
    let (near, far) = (local()?, local()?);
    let relay = Relay::start(model, &[Route::to(far.local_addr()?)])?;
    let patience = Duration::from_secs_f64(2.0 * (model.latency + model.jitter)) + Duration::from_millis(500);
    near.set_read_timeout(Some(patience))?;
    far.set_read_timeout(Some(patience))?;
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while let Ok((size, from)) = far.recv_from(&mut buffer) {
                let _ = far.send_to(&buffer[..size], from);
            }
        });
        scope.spawn(|| {
            for _ in 0..PINGS {
                let sent = start.elapsed().as_nanos() as u64;
                let _ = near.send_to(&sent.to_le_bytes(), relay.addresses()[0]);
                thread::sleep(SPACING);
            }
        });
        let (mut trips, mut buffer) = (vec![], [0; 8]);
        while trips.len() < PINGS && near.recv_from(&mut buffer).is_ok_and(|(size, _)| size == 8) {
            let sent = Duration::from_nanos(u64::from_le_bytes(buffer));
            trips.push((start.elapsed().saturating_sub(sent)).as_secs_f64());
        }
        Ok(trips)
    })
}

/// Bits a second that arrive when a little more than the bandwidth is sent.
fn throughput(model: NetworkModel) -> Result<f64, RelayError> {
    let far = Port::bind(LOCAL)?;
    let relay = Relay::start(model, &[Route::to(far.address()?)])?;
    // Datagrams as the transport sends them: as large as loopback takes them, where they do not fill slow links.
    let size = if model.bits_per_second < 1e9 { 1200 } else { 8900 };
    let travels = Duration::from_secs_f64(model.latency + model.jitter);
    flood(&far, relay.addresses()[0], 1.05 * model.bits_per_second, size, travels)
}

/// Sends datagrams of `size` bytes to `to` at this rate, with no regard to what gets lost, and returns the rate, bits a
/// second with headers, at which they come in at `far`.
pub(crate) fn flood(
    far: &Port,
    to: SocketAddr,
    bits_per_second: f64,
    size: usize,
    travels: Duration,
) -> Result<f64, RelayError> {
    let near = Port::bind(LOCAL)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| arrivals(far, &done));
        let sent = send(&near, to, bits_per_second, size);
        thread::sleep(travels + Duration::from_millis(100));
        done.store(true, Ordering::Relaxed);
        let arrived = reader.join().map_err(|_| RelayError::Silent)?;
        sent?;
        arrived
    })
}

fn send(port: &Port, to: SocketAddr, bits_per_second: f64, size: usize) -> io::Result<()> {
    let most = port.most_segments().min(64_000 / size).max(1);
    let bytes = vec![0; most * size];
    let (start, mut sent) = (Instant::now(), 0usize);
    while start.elapsed() < SENDING {
        let wanted = bits_per_second / 8.0 * start.elapsed().as_secs_f64();
        let count = ((wanted as usize).saturating_sub(sent) / (size + HEADERS)).min(most);
        if count == 0 {
            thread::sleep(Duration::from_micros(50));
            continue;
        }
        let train = Train { segment: size, count, due: start, ecn: None };
        // A full socket buffer: the machine's limit, which the reader sees.
        let _ = port.send(to, &bytes[..count * size], &train);
        sent += count * (size + HEADERS);
    }
    Ok(())
}

/// Counts from the first datagram to the last.
fn arrivals(port: &Port, done: &AtomicBool) -> Result<f64, RelayError> {
    let mut buffers = Buffers::new();
    let (mut first, mut last, mut all, mut head): (Option<Instant>, Option<Instant>, usize, usize) =
        (None, None, 0, 0);
    while !done.load(Ordering::Relaxed) {
        port.receive(&mut buffers, |now, datagram, _| {
            let size = datagram.len() + HEADERS;
            if *first.get_or_insert(now) == now {
                head += size;
            }
            last = Some(now);
            all += size;
        })?;
        let mut socket = [PollFd::from_borrowed_fd(port.fd(), PollFlags::IN)];
        let _ = poll(&mut socket, Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 }));
    }
    let (Some(first), Some(last)) = (first, last) else { return Err(RelayError::Silent) };
    let seconds = (last - first).as_secs_f64();
    if seconds == 0.0 {
        return Err(RelayError::Silent);
    }
    Ok((all - head) as f64 * 8.0 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_far_link_is_measured_as_such() {
        let model: NetworkModel = "20Mbps,15ms".parse().unwrap();
        let measured = measure(model).unwrap();
        println!("{measured}");
        assert!((30e-3..60e-3).contains(&measured.ping_median_s), "{measured}");
        assert!(measured.ping_p95_s >= measured.ping_median_s);
        // Never faster than the setting; slower only where the machine is very busy.
        assert!((14e6..20.4e6).contains(&measured.bits_per_second), "{measured}");
    }

    #[test]
    fn loss_shows_in_the_throughput() {
        let measured = measure("20Mbps,1ms,30%".parse().unwrap()).unwrap();
        assert!((10e6..17e6).contains(&measured.bits_per_second), "{measured}");
    }

    #[test]
    fn what_the_machine_does_not_carry_is_said() {
        let asked: NetworkModel = "10000Gbps,1ms".parse().unwrap();
        let measured = measure(asked).unwrap();
        assert!(!measured.carries && measured.to_string().contains("DOES NOT CARRY"), "{measured}");
    }
}
