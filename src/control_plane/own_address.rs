//! Where a node listens for peers, if its address is a name: on what the name stands for here.
//!
//! Rule: a node that others dial from elsewhere does not listen where they cannot get. Debian's installer, for one,
//! makes the host's own name stand for 127.0.1.1: its peer would be refused for ever, and nobody would know why.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use replicator::units::NodeId;

use super::RunError;
use super::listen::{self, TcpSocket};
use super::peer_link::{Direction, PeerSettings};
use crate::config_file::{HostPort, ResourceConfig};

/// Listens for the peers of the voter `local`.
///
/// # Errors
/// Its address means nothing here or cannot be reached from elsewhere, or the kernel refuses.
pub fn listen_for_peers(config: &ResourceConfig, local: NodeId) -> Result<TcpSocket, RunError> {
    let own = config.address_of(local).expect("every voter has an address");
    let (first, found) = super::resolve(own)?;
    let dialers = super::peer_settings(config, local);
    let is_dialed_from_elsewhere = || dialers.iter().any(dials_from_elsewhere);
    Ok(listen::on_address(choose(own, first, &found, is_dialed_from_elsewhere)?)?)
}

/// Whether a voter dials this one, and lives on another host. A name that nobody knows here is not this host's.
fn dials_from_elsewhere(peer: &PeerSettings) -> bool {
    let is_here = |address: &str| {
        let mut found = address.to_socket_addrs().into_iter().flatten().peekable();
        found.peek().is_some() && found.all(|address| is_loopback(&address))
    };
    peer.direction == Direction::Accept && !is_here(&peer.address)
}

/// The address to listen on: the first that others can reach.
fn choose(
    own: &HostPort,
    first: SocketAddr,
    found: &[SocketAddr],
    is_dialed_from_elsewhere: impl FnOnce() -> bool,
) -> Result<SocketAddr, RunError> {
    let reachable = found.iter().find(|address| !is_loopback(address));
    // Whoever writes an address instead of a name knows what is there: a tunnel, say.
    let is_name = own.host.parse::<IpAddr>().is_err();
    match reachable {
        Some(address) => Ok(*address),
        None if is_name && is_dialed_from_elsewhere() => {
            Err(RunError::OwnNameIsLoopback { address: own.clone(), found: first.ip() })
        }
        None => Ok(first),
    }
}

fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(own: &str, found: &[&str], is_dialed_from_elsewhere: bool) -> Result<String, String> {
        let own = HostPort::parse(own).expect("an address");
        let found: Vec<SocketAddr> = found.iter().map(|text| text.parse().expect("an address")).collect();
        let outcome = choose(&own, found[0], &found, || is_dialed_from_elsewhere);
        outcome.map(|address| address.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_that_others_can_reach_goes_before_loopback() {
        let found = ["127.0.1.1:7", "[::1]:7", "192.0.2.1:7"];
        for is_dialed in [false, true] {
            assert_eq!(chosen("alpha:7", &found, is_dialed), Ok("192.0.2.1:7".to_owned()));
        }
    }

    #[test]
    fn a_name_that_stands_for_loopback_is_refused_only_where_others_dial_it() {
        let refused = chosen("alpha:7", &["127.0.1.1:7"], true).expect_err("unreachable");
        assert!(refused.contains(": `alpha` stands for 127.0.1.1 on this host"), "{refused}");
        assert!(chosen("alpha:7", &["[::ffff:127.0.0.1]:7"], true).is_err(), "the same in other words");
        assert_eq!(chosen("alpha:7", &["127.0.1.1:7"], false), Ok("127.0.1.1:7".to_owned()));
        assert_eq!(chosen("127.0.0.1:7", &["127.0.0.1:7"], true), Ok("127.0.0.1:7".to_owned()));
    }

    #[test]
    fn a_node_that_others_dial_by_a_loopback_name_does_not_start() {
        let text = "resource = \"mail\"\nsize = \"1GiB\"\non-peer-lost = \"quorum\"\nsecret-file = \"/s\"\n\
            [[node]]\nname = \"a\"\naddress = \"localhost:7\"\ndata = \"/d\"\nmetadata = \"internal\"\n\
            [[node]]\nname = \"b\"\naddress = \"192.0.2.2:7\"\ndata = \"/d\"\nmetadata = \"internal\"\n\
            [tiebreaker]\naddress = \"192.0.2.3:7\"\nstate = \"/t\"\n";
        let config = ResourceConfig::parse("mail.toml".as_ref(), text).expect("good");
        let refused = listen_for_peers(&config, NodeId(0)).expect_err("b cannot get there");
        assert!(matches!(refused, RunError::OwnNameIsLoopback { .. }), "{refused}");
        let refused = refused.to_string();
        assert!(refused.starts_with("cannot listen on localhost:7: `localhost` stands for"), "{refused}");
    }
}
