//! The files of a test's resource.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Cluster, Listeners, OnPeerLost, RESOURCE, Settings, Voter};

/// The configuration, with `SECRET` in the place of the secret's path.
pub fn configuration(cluster: &Cluster, settings: &Settings) -> String {
    let Settings { size, heartbeat, peer_timeout, journal_size, protocol, listeners, on_peer_lost } =
        settings;
    // Every voter has its own copy of the file, but all must be able to read the same one: `FENCE` is replaced too.
    let lost = match on_peer_lost {
        OnPeerLost::Quorum => "on-peer-lost = \"quorum\"",
        OnPeerLost::Fence => "on-peer-lost = \"fence\"\nfence = { command = [FENCE], timeout = \"5s\" }",
        OnPeerLost::Continue => "on-peer-lost = \"continue\"",
    };
    let mut text = format!(
        "resource = \"{RESOURCE}\"\nsize = \"{size}\"\n{lost}\nsecret-file = SECRET\n\
         heartbeat = \"{heartbeat}\"\npeer-timeout = \"{peer_timeout}\"\n"
    );
    for replica in Voter::REPLICAS {
        text.push_str(&format!(
            "\n[[node]]\nname = \"{}\"\naddress = \"127.0.0.1:{}\"\njournal-size = \"{journal_size}\"\ndata = {}\nmetadata = {}\nnbd = {{ {} }}\n",
            replica.name(),
            cluster.port(replica),
            quoted(&cluster.data(replica)),
            quoted(&cluster.metadata(replica)),
            nbd(cluster, replica, *listeners),
        ));
    }
    text.push_str(&format!("\n[[link]]\nnodes = [\"a\", \"b\"]\nprotocol = \"{protocol}\"\n"));
    if *on_peer_lost != OnPeerLost::Quorum {
        return text;
    }
    let state = quoted(&cluster.run_dir(Voter::Tiebreaker).join("vote"));
    let port = cluster.port(Voter::Tiebreaker);
    text.push_str(&format!("\n[tiebreaker]\naddress = \"127.0.0.1:{port}\"\nstate = {state}\n"));
    text
}

/// Where a replica listens for clients.
fn nbd(cluster: &Cluster, replica: Voter, listeners: Listeners) -> String {
    let unix = format!("unix = {}", quoted(&cluster.nbd_socket(replica)));
    let tcp = format!("tcp = \"127.0.0.1:{}\"", cluster.nbd_port(replica));
    match listeners {
        Listeners::Unix => unix,
        Listeners::Tcp => tcp,
        Listeners::Both => format!("{unix}, {tcp}"),
    }
}

/// A path as a string in a configuration file.
pub fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_str().expect("temporary folders have plain names"))
}

/// Writes a file that only its owner may read.
pub fn write_for_owner(path: &Path, text: &str) {
    let mut file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .expect("made");
    file.write_all(text.as_bytes()).expect("written");
}

/// Ports on loopback that nobody uses at the moment.
pub fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let held = [(); COUNT].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
    held.map(|listener| listener.local_addr().expect("bound").port())
}
