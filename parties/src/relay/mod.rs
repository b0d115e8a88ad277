//! Networks on one machine: a relay that stands between two UDP sockets and makes their datagrams wait.
//!
//! It needs no rights: a party dials the relay instead of the other party, and what comes in at one of its two sockets
//! leaves by the other when the [`NetworkModel`] says so. One thread serves all links: it sleeps in `poll` until a
//! datagram comes or the next is due, takes and sends many datagrams with one system call, and never spins, so that
//! it takes from the measured parties no more than the copies that a network card would make for them. It runs in the
//! process that starts the parties, which has nothing to do while they compute; a process of its own would stand in the
//! same queue for the processor and could be left behind. Tokio is not used for it: its timers go by milliseconds, and a
//! local network has a tenth of one.
//!
//! How late datagrams left, because the machine was busy, is counted ([`Statistics::late_p95`]).

mod between;
mod measure;
mod model;
mod port;
mod shaper;

pub use between::Between;
pub(crate) use measure::{LOCAL, flood};
pub use measure::{Measured, measure};
pub use model::{ModelError, NetworkModel, bits};

use port::Buffers;
pub(crate) use port::Port;
use rustix::{
    event::{PollFd, PollFlags, poll},
    time::{ClockId, Timespec, clock_gettime},
};
use shaper::{Random, Shaper};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Where a relay listens, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Where it is dialled; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where what comes is sent on to.
    pub target: SocketAddr,
}

impl Route {
    /// To `target`, by a free port of the loopback interface.
    pub fn to(target: SocketAddr) -> Self {
        Self { listen: LOCAL, target }
    }
}

/// Why there is no relay, or no figures of it.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The address is taken or not ours.
    #[error(
        "the relay cannot listen on {address}: {error}; choose another address or end the process that has it"
    )]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The system refuses something else.
    #[error("the relay cannot start: {0}")]
    System(#[from] io::Error),
    /// Nothing came through.
    #[error("nothing came through the relay; is the loopback interface up?")]
    Silent,
}

/// What a relay has done so far, both directions of all links together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Datagrams sent on.
    pub datagrams: u64,
    /// Bytes of UDP payload in them.
    pub bytes: u64,
    /// Datagrams that found a queue full.
    pub dropped: u64,
    /// Datagrams lost as the network model has it.
    pub lost: u64,
    /// Datagrams that the system refused to send.
    pub refused: u64,
    /// All but a twentieth of the datagrams left with no more than this delay beyond the model's.
    pub late_p95: Duration,
    /// Processor time of the relay's thread.
    pub cpu: Duration,
}

/// Lateness in whole microseconds; the last place holds all that is later.
const LATE: usize = 10_000;

#[derive(Debug)]
struct Counters {
    totals: Statistics,
    late: Vec<u64>,
}

/// Running links. They end when this is dropped; what waits in them is gone.
#[derive(Debug)]
pub struct Relay {
    addresses: Vec<SocketAddr>,
    stop: Arc<AtomicBool>,
    counters: Arc<Mutex<Counters>>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts one link for each route, all with the same model, each direction by itself.
    ///
    /// # Errors
    /// An address is in use, or the system gives no sockets.
    pub fn start(model: NetworkModel, routes: &[Route]) -> Result<Self, RelayError> {
        let lines = routes.iter().map(|route| Line::new(model, *route)).collect::<Result<Vec<_>, _>>()?;
        let addresses = lines.iter().map(|line| line.front.address()).collect::<Result<_, _>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let counters =
            Arc::new(Mutex::new(Counters { totals: Statistics::default(), late: vec![0; LATE + 1] }));
        let (stopped, counted) = (stop.clone(), counters.clone());
        let thread = std::thread::Builder::new().name("relay".into()).spawn(move || {
            if let Err(error) = serve(lines, &stopped, &counted) {
                tracing::error!("the relay has failed: {error}");
            }
        })?;
        Ok(Self { addresses, stop, counters, thread: Some(thread) })
    }

    /// Where each route is dialled, in the order of [`Relay::start`].
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What has passed so far.
    pub fn statistics(&self) -> Statistics {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let all: u64 = counters.late.iter().sum();
        let mut left = all - all / 20;
        let micros = counters.late.iter().position(|&count| {
            left = left.saturating_sub(count);
            left == 0
        });
        Statistics { late_p95: Duration::from_micros(micros.unwrap_or(0) as u64), ..counters.totals }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One link: the caller's side and the target's side.
struct Line {
    front: Port,
    back: Port,
    target: SocketAddr,
    /// Who dialled: learned from what comes in at the front.
    caller: Option<SocketAddr>,
    to_target: Shaper,
    to_caller: Shaper,
}

impl Line {
    fn new(model: NetworkModel, route: Route) -> Result<Self, RelayError> {
        let bind = |address| Port::bind(address).map_err(|error| RelayError::Bind { address, error });
        let now = Instant::now();
        let shaper = || -> io::Result<Shaper> {
            let mut seed = [0; 8];
            getrandom::fill(&mut seed).map_err(io::Error::other)?;
            Ok(Shaper::new(model, now, Random::new(u64::from_le_bytes(seed))))
        };
        Ok(Self {
            front: bind(route.listen)?,
            back: bind(SocketAddr::new(route.listen.ip(), 0))?,
            target: route.target,
            caller: None,
            to_target: shaper()?,
            to_caller: shaper()?,
        })
    }

    /// Takes in what has come.
    fn receive(&mut self, buffers: &mut Buffers) -> io::Result<()> {
        let (caller, there, back) = (&mut self.caller, &mut self.to_target, &mut self.to_caller);
        self.front.receive(buffers, |now, datagram, meta| {
            *caller = Some(meta.addr);
            there.push(now, datagram, meta.ecn);
        })?;
        let target = self.target;
        self.back.receive(buffers, |now, datagram, meta| {
            // The link is for the target alone.
            if meta.addr == target {
                back.push(now, datagram, meta.ecn);
            }
        })
    }

    /// Sends on what is due; tells `sent` of each train.
    fn send(&mut self, bytes: &mut Vec<u8>, counters: &mut Counters) {
        let ways = [
            (&mut self.to_target, &self.back, Some(self.target)),
            (&mut self.to_caller, &self.front, self.caller),
        ];
        for (shaper, port, to) in ways {
            let Some(to) = to else { continue };
            let now = Instant::now();
            while let Some(train) = shaper.pop(now, port.most_segments(), bytes) {
                let count = train.count as u64;
                if port.send(to, bytes, &train).is_ok() {
                    counters.totals.datagrams += count;
                    counters.totals.bytes += bytes.len() as u64;
                } else {
                    counters.totals.refused += count;
                }
                let late = now.saturating_duration_since(train.due).as_micros() as usize;
                counters.late[late.min(LATE)] += count;
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        [&self.to_target, &self.to_caller].into_iter().filter_map(Shaper::next_due).min()
    }
}

/// How soon a relay ends after it was told to.
const HEARTBEAT: Duration = Duration::from_millis(50);

fn serve(mut lines: Vec<Line>, stop: &AtomicBool, counters: &Mutex<Counters>) -> io::Result<()> {
    precise_sleep();
    let (mut buffers, mut bytes) = (Buffers::new(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let due = lines.iter().filter_map(Line::next_due).min();
        let wait = due.map_or(HEARTBEAT, |due| due.saturating_duration_since(now).min(HEARTBEAT));
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.as_nanos() as _ };
        let mut sockets: Vec<PollFd<'_>> = lines
            .iter()
            .flat_map(|line| [&line.front, &line.back])
            .map(|port| PollFd::from_borrowed_fd(port.fd(), PollFlags::IN))
            .collect();
        let ready: Vec<bool> = match poll(&mut sockets, Some(&wait)) {
            Ok(_) => sockets.iter().map(|socket| !socket.revents().is_empty()).collect(),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let mut counters = counters.lock().unwrap_or_else(PoisonError::into_inner);
        for (line, ready) in lines.iter_mut().zip(ready.chunks_exact(2)) {
            if ready.contains(&true) {
                line.receive(&mut buffers)?;
            }
            line.send(&mut bytes, &mut counters);
        }
        let counts = lines.iter().flat_map(|line| [line.to_target.counts, line.to_caller.counts]);
        (counters.totals.dropped, counters.totals.lost) =
            counts.fold((0, 0), |(dropped, lost), c| (dropped + c.dropped, lost + c.lost));
        let cpu = clock_gettime(ClockId::ThreadCPUTime);
        counters.totals.cpu = Duration::new(cpu.tv_sec as u64, cpu.tv_nsec as u32);
    }
    Ok(())
}

/// The system wakes a thread up to 50 µs late to save power unless it is asked not to.
fn precise_sleep() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn socket() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    #[test]
    fn datagrams_arrive_late_in_order_and_both_ways() {
        let (near, far) = (socket(), socket());
        let route = Route::to(far.local_addr().unwrap());
        let relay = Relay::start("1Gbps,20ms".parse().unwrap(), &[route]).unwrap();
        let (start, mut buffer) = (Instant::now(), [0; 2000]);
        for i in 0..50u8 {
            near.send_to(&vec![i; 100 + usize::from(i)], relay.addresses()[0]).unwrap();
        }
        let mut back = None;
        for i in 0..50u8 {
            let (size, from) = far.recv_from(&mut buffer).unwrap();
            assert_eq!((size, buffer[0]), (100 + usize::from(i), i));
            back = Some(from);
        }
        let one_way = start.elapsed();
        far.send_to(b"back", back.unwrap()).unwrap();
        let (size, from) = near.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..size], from), (&b"back"[..], relay.addresses()[0]));
        assert!(one_way >= Duration::from_millis(20), "{one_way:?}");
        assert!(start.elapsed() >= Duration::from_millis(40) && start.elapsed() < Duration::from_secs(2));
        // Strangers do not get in by the target's side.
        socket().send_to(b"stranger", back.unwrap()).unwrap();
        near.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(near.recv_from(&mut buffer).is_err());
        let seen = relay.statistics();
        assert_eq!((seen.datagrams, seen.dropped, seen.lost, seen.refused), (51, 0, 0, 0));
        assert_eq!(seen.bytes, (0..50).map(|i| 100 + i).sum::<u64>() + 4);
    }

    #[test]
    fn a_relay_ends_at_once_and_gives_its_port_back() {
        let far = socket();
        let route = Route::to(far.local_addr().unwrap());
        let relay = Relay::start(NetworkModel::WAN, &[route, route, route]).unwrap();
        let taken = Route { listen: relay.addresses()[1], ..route };
        let error = Relay::start(NetworkModel::LAN, &[taken]).unwrap_err();
        assert!(error.to_string().contains(&relay.addresses()[1].to_string()), "{error}");
        let start = Instant::now();
        drop(relay);
        assert!(start.elapsed() < Duration::from_secs(2));
        drop(Relay::start(NetworkModel::LAN, &[taken]).unwrap());
    }
}
