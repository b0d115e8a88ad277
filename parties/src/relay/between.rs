//! A relay on each link between three parties.

use super::{NetworkModel, Relay, RelayError, Route, Statistics};
use crate::transport::dials;
use protocol::Party;
use std::net::SocketAddr;

/// A network between three parties of this machine. It ends when this is dropped.
#[derive(Debug)]
pub struct Between {
    relay: Relay,
    /// Who dials whom, in the order of the relay's addresses.
    pairs: Vec<(Party, Party)>,
}

impl Between {
    /// Puts it in front of where the parties listen: P0, P1, P2.
    ///
    /// # Errors
    /// The system gives no sockets.
    pub fn start(model: NetworkModel, listen: &[SocketAddr; 3]) -> Result<Self, RelayError> {
        let all = Party::ALL.into_iter().flat_map(|own| Party::ALL.map(|peer| (own, peer)));
        let pairs: Vec<(Party, Party)> = all.filter(|&(own, peer)| dials(own, peer)).collect();
        let routes: Vec<Route> = pairs.iter().map(|(_, peer)| Route::to(listen[peer.index()])).collect();
        Ok(Self { relay: Relay::start(model, &routes)?, pairs })
    }

    /// What `own` has to dial instead of `peer`; `None` if `peer` is not dialled by it.
    pub fn dialled(&self, own: Party, peer: Party) -> Option<SocketAddr> {
        let place = self.pairs.iter().position(|pair| *pair == (own, peer))?;
        Some(self.relay.addresses()[place])
    }

    /// What has passed so far.
    pub fn statistics(&self) -> Statistics {
        self.relay.statistics()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn every_link_has_a_way_of_its_own() {
        let sockets = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let between =
            Between::start(NetworkModel::LAN, &sockets.each_ref().map(|s| s.local_addr().unwrap())).unwrap();
        let caller = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (own, peer) in [(Party::Zero, Party::One), (Party::Zero, Party::Two), (Party::One, Party::Two)] {
            caller.send_to(&[own.index() as u8], between.dialled(own, peer).unwrap()).unwrap();
            let mut byte = [9];
            sockets[peer.index()].recv(&mut byte).unwrap();
            assert_eq!(usize::from(byte[0]), own.index());
            assert!(between.dialled(peer, own).is_none());
        }
        assert_eq!(between.statistics().datagrams, 3);
    }
}
