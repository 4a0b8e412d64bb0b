//! A node of another make, as seen from the wire: the handshake with whatever identity a test gives it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use replicator::peer::handshake::{
    Handshake, HandshakeError, KnownPeer, LocalIdentity, PROTOCOL_VERSIONS, Progress, Secret, VoterKind,
};
use replicator::units::{NodeId, VoterId};

use crate::harness::{Cluster, RESOURCE, SECRET, SOON, Voter};

fn number(voter: Voter) -> NodeId {
    NodeId(u8::try_from(voter.index()).expect("small"))
}

/// A node that could be `voter`, until the test changes something.
pub fn identity(voter: Voter) -> LocalIdentity {
    LocalIdentity {
        resource: RESOURCE.to_owned(),
        node: number(voter),
        name: voter.name().to_owned(),
        voter: VoterId(77),
        kind: VoterKind::Replica,
        volume_bytes: 64 << 20,
        configuration_digest: 1,
        versions: PROTOCOL_VERSIONS,
    }
}

fn known(voter: Voter) -> KnownPeer {
    KnownPeer { node: number(voter), name: voter.name().to_owned(), kind: VoterKind::Replica }
}

fn secret() -> Secret {
    Secret::new(SECRET.as_bytes().to_vec()).expect("long enough")
}

/// Dials the daemon of `peer`; why there is no link, as the foreign node sees it.
pub fn dial(cluster: &Cluster, local: LocalIdentity, peer: Voter) -> HandshakeError {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, cluster.port(peer))).expect("it listens");
    refusal(stream, Handshake::dial(local, known(peer), secret(), [7; 32]))
}

/// Stands where the daemon of `voter` is expected and refuses the first one that dials.
pub fn refuse_one(cluster: &Cluster, voter: Voter, local: LocalIdentity) -> HandshakeError {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, cluster.port(voter))).expect("the port is free");
    let (stream, _) = listener.accept().expect("the other one dials");
    refusal(stream, Handshake::listen(local, vec![known(voter.other())], secret(), [9; 32]))
}

fn refusal(mut stream: TcpStream, mut handshake: Handshake) -> HandshakeError {
    stream.set_read_timeout(Some(SOON)).expect("set");
    stream.write_all(&handshake.first_bytes().unwrap_or_default()).expect("sent");
    loop {
        let mut bytes = vec![0; handshake.bytes_wanted()];
        stream.read_exact(&mut bytes).expect("an answer");
        let mut answer = Vec::new();
        let step = handshake.on_bytes(&bytes, &mut answer);
        stream.write_all(&answer).expect("sent");
        match step.progress {
            Progress::More => {}
            Progress::Refused(reason) => return reason,
            Progress::Done(peer) => panic!("linked to {peer:?}"),
        }
    }
}
