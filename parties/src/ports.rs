//! Ports for parties that share a machine, as those of demos and tests do.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    ops::Range,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// Above those of well-known services, below those that a system gives to whoever asks for any port (on Linux from 32768, elsewhere
/// from 49152): another program's client must not get a party's port in the moment between its choice and its use, or while the party
/// is started again.
const RANGE: Range<u32> = 10_000..32_768;

/// Three addresses of the loopback interface that nobody holds, and that this process has not been given before.
///
/// # Errors
/// None is left, or the system gives no random bytes.
pub fn free_hosts() -> io::Result<Vec<String>> {
    static FIRST: OnceLock<u32> = OnceLock::new();
    static TRIED: AtomicU32 = AtomicU32::new(0);
    // Processes that start at the same time begin at different ports.
    let random = getrandom::u32().map_err(io::Error::other)?;
    let first = *FIRST.get_or_init(|| random);
    let count = RANGE.end - RANGE.start;
    let free = (0..count).filter_map(|_| {
        let place = first.wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed)) % count;
        let port = u16::try_from(RANGE.start + place).expect("the range ends below 65536");
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        UdpSocket::bind(address).is_ok().then(|| address.to_string())
    });
    let hosts: Vec<_> = free.take(3).collect();
    if hosts.len() == 3 { Ok(hosts) } else { Err(io::ErrorKind::AddrNotAvailable.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::HashSet, net::SocketAddr};

    #[test]
    fn no_port_comes_twice_or_from_the_system_s_own() {
        let hosts: Vec<_> = (0..50).flat_map(|_| free_hosts().unwrap()).collect();
        assert_eq!(hosts.iter().collect::<HashSet<_>>().len(), 150);
        for host in &hosts {
            let address: SocketAddr = host.parse().unwrap();
            assert!(address.ip().is_loopback() && RANGE.contains(&u32::from(address.port())), "{host}");
        }
    }

    #[test]
    fn ports_that_are_held_are_left_out() {
        let hosts = free_hosts().unwrap();
        let next = hosts[2].parse::<SocketAddr>().unwrap().port() + 1;
        // Whoever holds it, we or another.
        let _held = UdpSocket::bind((Ipv4Addr::LOCALHOST, next));
        let more = free_hosts().unwrap();
        assert!(more.iter().all(|host| !host.ends_with(&format!(":{next}"))), "{next}: {more:?}");
    }
}
