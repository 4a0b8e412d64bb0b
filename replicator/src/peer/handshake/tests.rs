//! Two sides of a handshake against each other, and against an enemy who holds the wire but not the secret.

use super::*;

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec()).expect("long enough")
}

fn identity(node: u8, name: &str) -> LocalIdentity {
    LocalIdentity {
        resource: "mail".to_owned(),
        node: NodeId(node),
        name: name.to_owned(),
        voter: VoterId(100 + u64::from(node)),
        kind: VoterKind::Replica,
        volume_bytes: 1 << 30,
        configuration_digest: 77,
        versions: PROTOCOL_VERSIONS,
    }
}

fn known(node: u8, name: &str) -> KnownPeer {
    KnownPeer { node: NodeId(node), name: name.to_owned(), kind: VoterKind::Replica }
}

fn dialer_of(local: LocalIdentity) -> Handshake {
    Handshake::dial(local, known(1, "beta"), secret("correct horse battery"), [1; 32])
}

fn listener_of(local: LocalIdentity) -> Handshake {
    let peers = vec![known(0, "alpha"), known(2, "gamma")];
    Handshake::listen(local, peers, secret("correct horse battery"), [2; 32])
}

fn dialer() -> Handshake {
    dialer_of(identity(0, "alpha"))
}

fn listener() -> Handshake {
    listener_of(identity(1, "beta"))
}

fn give(side: &mut Handshake, bytes: &[u8]) -> (Progress, Vec<u8>) {
    let mut out = Vec::new();
    let step = side.on_bytes(bytes, &mut out);
    (step.progress, out)
}

/// Lets both talk until nothing more is said; what each ended with.
fn converse(dialer: &mut Handshake, listener: &mut Handshake) -> (Progress, Progress) {
    let mut to_listener = dialer.first_bytes().expect("the dialer begins");
    let (mut at_dialer, mut at_listener) = (Progress::More, Progress::More);
    while !to_listener.is_empty() {
        let (progress, to_dialer) = give(listener, &to_listener);
        at_listener = progress;
        let (progress, answer) = give(dialer, &to_dialer);
        (at_dialer, to_listener) = (progress, answer);
    }
    (at_dialer, at_listener)
}

fn refusal(progress: &Progress) -> &HandshakeError {
    match progress {
        Progress::Refused(error) => error,
        Progress::More | Progress::Done(_) => panic!("not refused: {progress:?}"),
    }
}

/// The listener's reason, and that the dialer was told about it.
fn refused_by_listener(dialer: LocalIdentity, listener: LocalIdentity) -> HandshakeError {
    let (at_dialer, at_listener) = converse(&mut dialer_of(dialer), &mut listener_of(listener));
    let error = refusal(&at_listener).clone();
    let reason = error.told().expect("told");
    assert_eq!(refusal(&at_dialer), &HandshakeError::RefusedByPeer { reason });
    error
}

#[test]
fn two_nodes_with_one_secret_end_as_who_they_are() {
    let (at_dialer, at_listener) = converse(&mut dialer(), &mut listener());
    let peer = |node, name: &str| PeerIdentity {
        node: NodeId(node),
        name: name.to_owned(),
        voter: VoterId(100 + u64::from(node)),
        version: 1,
        configuration_digest: 77,
    };
    assert_eq!(at_dialer, Progress::Done(peer(1, "beta")));
    assert_eq!(at_listener, Progress::Done(peer(0, "alpha")));
}

#[test]
fn byte_by_byte_ends_as_at_once_and_never_takes_a_byte_of_a_frame() {
    let (mut dialer, mut listener) = (dialer(), listener());
    let (mut to_listener, mut to_dialer) = (dialer.first_bytes().expect("begins"), Vec::new());
    while !to_listener.is_empty() || !to_dialer.is_empty() {
        for byte in std::mem::take(&mut to_listener) {
            assert_eq!(listener.on_bytes(&[byte], &mut to_dialer).consumed, 1);
        }
        for byte in std::mem::take(&mut to_dialer) {
            assert_eq!(dialer.on_bytes(&[byte], &mut to_listener).consumed, 1);
        }
    }
    for side in [&mut dialer, &mut listener] {
        assert_eq!(side.bytes_wanted(), 0);
        let step = side.on_bytes(b"a frame", &mut Vec::new());
        assert_eq!(step.consumed, 0);
        assert!(matches!(step.progress, Progress::Done(_)));
    }
}

#[test]
fn frames_right_behind_the_last_message_are_left_alone() {
    let (mut dialer, mut listener) = (dialer(), listener());
    let (_, hello) = give(&mut listener, &dialer.first_bytes().expect("begins"));
    let (_, mut proof) = give(&mut dialer, &hello);
    let length = proof.len();
    proof.extend(b"frames of the dialer");
    let step = listener.on_bytes(&proof, &mut Vec::new());
    assert_eq!(step.consumed, length);
}

#[test]
fn a_node_without_the_secret_is_refused_and_learns_nothing() {
    let enemy = secret("correct horse batterx");
    let mut dialer = Handshake::dial(identity(0, "alpha"), known(1, "beta"), enemy.clone(), [1; 32]);
    let (at_dialer, at_listener) = converse(&mut dialer, &mut listener());
    assert_eq!(refusal(&at_listener), &HandshakeError::NotAuthentic);
    let reason = "authentication failed".to_owned();
    assert_eq!(refusal(&at_dialer), &HandshakeError::RefusedByPeer { reason });

    // The other way round: an enemy who listens cannot check the proof, so he answers with one of his own.
    let mut victim = self::dialer();
    let mut listener = listener();
    let (_, hello) = give(&mut listener, &victim.first_bytes().expect("begins"));
    assert_eq!(give(&mut victim, &hello).0, Progress::More);
    let (progress, _) = give(&mut victim, &wire::encode(Kind::Proof, &[0; 32]));
    assert_eq!(refusal(&progress), &HandshakeError::NotAuthentic);
}

#[test]
fn a_listener_proves_nothing_to_a_dialer_that_did_not() {
    let mut listener = listener();
    let (_, hello) = give(&mut listener, &dialer().first_bytes().expect("begins"));
    assert_eq!(hello[6..8], Kind::Hello.code().to_le_bytes());
    let (progress, answer) = give(&mut listener, &wire::encode(Kind::Proof, &[0; 32]));
    assert_eq!(refusal(&progress), &HandshakeError::NotAuthentic);
    assert_eq!(answer, wire::encode_refusal("authentication failed"));
}

#[test]
fn a_proof_sent_back_to_its_sender_proves_nothing() {
    let (mut dialer, mut listener) = (dialer(), listener());
    let (_, hello) = give(&mut listener, &dialer.first_bytes().expect("begins"));
    let (_, proof) = give(&mut dialer, &hello);
    let (progress, _) = give(&mut dialer, &proof);
    assert_eq!(refusal(&progress), &HandshakeError::NotAuthentic);
}

#[test]
fn a_hello_sent_back_to_its_sender_is_its_own() {
    let mut dialer = dialer();
    let hello = dialer.first_bytes().expect("begins");
    let (progress, _) = give(&mut dialer, &hello);
    assert_eq!(refusal(&progress), &HandshakeError::Itself { node: NodeId(0) });
}

#[test]
fn a_proof_of_an_earlier_conversation_proves_nothing() {
    let (mut dialer, mut earlier) = (dialer(), listener());
    let first = dialer.first_bytes().expect("begins");
    let (_, hello) = give(&mut earlier, &first);
    let (_, proof) = give(&mut dialer, &hello);
    assert!(matches!(give(&mut earlier, &proof).0, Progress::Done(_)));

    let peers = vec![known(0, "alpha")];
    let mut later = Handshake::listen(identity(1, "beta"), peers, secret("correct horse battery"), [3; 32]);
    give(&mut later, &first);
    let (progress, _) = give(&mut later, &proof);
    assert_eq!(refusal(&progress), &HandshakeError::NotAuthentic);
}

/// An enemy on the wire changes one of the two Hellos; checksums he can make right.
fn changed_on_the_way(change: impl Fn(&mut Hello)) -> Progress {
    let (mut dialer, mut listener) = (dialer(), listener());
    let first = dialer.first_bytes().expect("begins");
    let mut hello = Hello::parse(&first[HANDSHAKE_HEADER_BYTES..]).expect("a Hello");
    change(&mut hello);
    let (_, answer) = give(&mut listener, &wire::encode(Kind::Hello, &hello.encode()));
    let mut answer = Hello::parse(&answer[HANDSHAKE_HEADER_BYTES..]).expect("a Hello");
    answer.peer = NodeId(0);
    let (_, proof) = give(&mut dialer, &wire::encode(Kind::Hello, &answer.encode()));
    give(&mut listener, &proof).0
}

#[test]
fn nothing_in_a_hello_can_be_changed_on_the_way() {
    assert!(matches!(changed_on_the_way(|_| ()), Progress::Done(_)), "unchanged, it is accepted");
    let swapped = |hello: &mut Hello| (hello.node, hello.name) = (NodeId(2), "gamma".to_owned());
    assert_eq!(refusal(&changed_on_the_way(swapped)), &HandshakeError::NotAuthentic);
    let another_voter = |hello: &mut Hello| hello.voter = VoterId(5);
    assert_eq!(refusal(&changed_on_the_way(another_voter)), &HandshakeError::NotAuthentic);
    let another_nonce = |hello: &mut Hello| hello.nonce[31] ^= 1;
    assert_eq!(refusal(&changed_on_the_way(another_nonce)), &HandshakeError::NotAuthentic);
    let another_configuration = |hello: &mut Hello| hello.configuration_digest ^= 1;
    assert_eq!(refusal(&changed_on_the_way(another_configuration)), &HandshakeError::NotAuthentic);
    let other_versions = |hello: &mut Hello| hello.versions.highest = 9;
    assert_eq!(refusal(&changed_on_the_way(other_versions)), &HandshakeError::NotAuthentic);
}

#[test]
fn nodes_that_do_not_belong_together_refuse_each_other_by_name() {
    let (alpha, beta) = (identity(0, "alpha"), identity(1, "beta"));
    let error = refused_by_listener(LocalIdentity { resource: "web".into(), ..alpha.clone() }, beta.clone());
    assert_eq!(error.to_string(), "this node serves resource mail, the peer web");
    let error = refused_by_listener(LocalIdentity { volume_bytes: 1 << 20, ..alpha.clone() }, beta.clone());
    assert_eq!(error, HandshakeError::OtherSize { ours: 1 << 30, theirs: 1 << 20 });
    let error = refused_by_listener(identity(0, "omega"), beta.clone());
    assert_eq!(error, HandshakeError::UnknownPeer { node: NodeId(0), name: "omega".into() });
    let error = refused_by_listener(identity(3, "alpha"), beta.clone());
    assert_eq!(error, HandshakeError::UnknownPeer { node: NodeId(3), name: "alpha".into() });
    let error = refused_by_listener(alpha.clone(), identity(2, "gamma"));
    assert_eq!(error, HandshakeError::NotMeant { ours: NodeId(2), theirs: NodeId(1) });
    let error = refused_by_listener(identity(1, "beta"), beta.clone());
    assert_eq!(error, HandshakeError::Itself { node: NodeId(1) });
    let error = refused_by_listener(LocalIdentity { voter: VoterId(101), ..alpha.clone() }, beta.clone());
    assert_eq!(error, HandshakeError::SameVoter { voter: VoterId(101) });
    let error = refused_by_listener(LocalIdentity { kind: VoterKind::Tiebreaker, ..alpha }, beta);
    assert_eq!(error.to_string(), "node 0 is a tiebreaker, the configuration here says replica");
}

#[test]
fn a_dialer_refuses_another_node_than_it_dialled() {
    let peers = vec![known(0, "alpha")];
    let impostor = LocalIdentity { name: "omega".into(), ..identity(1, "beta") };
    let mut listener = Handshake::listen(impostor, peers, secret("correct horse battery"), [2; 32]);
    let (at_dialer, at_listener) = converse(&mut dialer(), &mut listener);
    let error = HandshakeError::UnknownPeer { node: NodeId(1), name: "omega".into() };
    assert_eq!(refusal(&at_dialer), &error);
    assert!(matches!(refusal(&at_listener), HandshakeError::RefusedByPeer { .. }));
}

#[test]
fn a_tiebreaker_need_not_know_the_size() {
    let tiebreaker = LocalIdentity { kind: VoterKind::Tiebreaker, volume_bytes: 0, ..identity(2, "gamma") };
    let peer = KnownPeer { kind: VoterKind::Tiebreaker, ..known(2, "gamma") };
    let secret = secret("correct horse battery");
    let mut listener = Handshake::listen(identity(1, "beta"), vec![peer], secret.clone(), [2; 32]);
    let mut dialer = Handshake::dial(tiebreaker, known(1, "beta"), secret, [1; 32]);
    let (at_dialer, at_listener) = converse(&mut dialer, &mut listener);
    assert!(matches!((at_dialer, at_listener), (Progress::Done(_), Progress::Done(_))));
}

#[test]
fn the_highest_common_version_is_spoken_and_without_one_both_ranges_are_named() {
    let speaking = |node, name, lowest, highest| LocalIdentity {
        versions: VersionRange { lowest, highest },
        ..identity(node, name)
    };
    let (mut dialer, mut listener) =
        (dialer_of(speaking(0, "alpha", 2, 5)), listener_of(speaking(1, "beta", 1, 4)));
    let (at_dialer, _) = converse(&mut dialer, &mut listener);
    assert!(matches!(at_dialer, Progress::Done(PeerIdentity { version: 4, .. })), "{at_dialer:?}");
    let error = refused_by_listener(speaking(0, "alpha", 5, 7), speaking(1, "beta", 1, 4));
    let text = "no common protocol version: this node speaks 1 to 4, the peer 5 to 7";
    assert_eq!(error.to_string(), text);
}

#[test]
fn every_flipped_bit_of_a_hello_is_refused_or_awaits_more() {
    let first = dialer().first_bytes().expect("begins");
    for bit in 0..first.len() * 8 {
        let mut bytes = first.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let mut listener = listener();
        let (progress, out) = give(&mut listener, &bytes);
        // A longer length makes it wait; whatever comes next is then refused by the checksum.
        let awaits_more = progress == Progress::More && out.is_empty() && (64..96).contains(&bit);
        assert!(awaits_more || matches!(progress, Progress::Refused(_)), "bit {bit}: {progress:?}");
    }
}

#[test]
fn a_truncated_or_longer_hello_is_refused() {
    let hello = Hello::of(&identity(0, "alpha"), NodeId(1), [1; 32]).encode();
    for length in 0..hello.len() {
        assert!(Hello::parse(&hello[..length]).is_err(), "{length} bytes");
    }
    assert_eq!(Hello::parse(&[hello, vec![0]].concat()), Err(FieldError::Trailing { bytes: 1 }));
}

#[test]
fn a_message_longer_than_a_kibibyte_is_refused_from_its_header_alone() {
    let mut bytes = wire::encode(Kind::Hello, &[0; HANDSHAKE_BYTES_MAX - HANDSHAKE_HEADER_BYTES]);
    assert!(matches!(give(&mut listener(), &bytes[..HANDSHAKE_HEADER_BYTES]).0, Progress::More));
    bytes[8..12].copy_from_slice(&1009u32.to_le_bytes());
    let (progress, _) = give(&mut listener(), &bytes[..HANDSHAKE_HEADER_BYTES]);
    assert_eq!(refusal(&progress), &HandshakeError::TooLong(1009));
    bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let (progress, _) = give(&mut listener(), &bytes[..HANDSHAKE_HEADER_BYTES]);
    assert_eq!(refusal(&progress), &HandshakeError::TooLong(u32::MAX));
}

#[test]
fn messages_out_of_turn_are_refused() {
    let (progress, _) = give(&mut listener(), &wire::encode(Kind::Proof, &[0; 32]));
    assert_eq!(refusal(&progress), &HandshakeError::OutOfTurn { found: 3 });
    let mut listener = listener();
    let first = dialer().first_bytes().expect("begins");
    give(&mut listener, &first);
    let (progress, _) = give(&mut listener, &first);
    assert_eq!(refusal(&progress), &HandshakeError::OutOfTurn { found: 1 });
}

#[test]
fn a_refusal_cannot_make_a_terminal_obey() {
    let reason = b"\x1b[2Jgone\n\xff";
    let (progress, answer) = give(&mut dialer(), &wire::encode(Kind::Refuse, reason));
    let reason = "?[2Jgone?\u{fffd}".to_owned();
    assert_eq!(refusal(&progress), &HandshakeError::RefusedByPeer { reason });
    assert!(answer.is_empty());
    assert!(wire::encode_refusal(&"ü".repeat(600)).len() <= HANDSHAKE_BYTES_MAX);
}

#[test]
fn a_secret_is_never_printed_and_never_short() {
    assert_eq!(format!("{:?}", secret("correct horse battery")), "Secret(not shown)");
    assert!(!format!("{:?}", dialer()).contains("horse"));
    assert_eq!(Secret::new(vec![1; 15]).err(), Some(SecretTooShort { found: 15 }));
    assert!(Secret::new(vec![1; 16]).is_ok());
}

#[test]
fn a_refusal_before_the_proof_tells_nothing_that_the_other_side_has_not_said() {
    let local =
        LocalIdentity { resource: "tresor".to_owned(), volume_bytes: 7 << 20, ..identity(1, "hidden") };
    let strangers = [
        LocalIdentity { volume_bytes: 7 << 20, ..identity(0, "alpha") },
        LocalIdentity { resource: "tresor".to_owned(), ..identity(0, "alpha") },
        LocalIdentity { resource: "tresor".to_owned(), ..identity(5, "alpha") },
        LocalIdentity { resource: "tresor".to_owned(), kind: VoterKind::Tiebreaker, ..identity(0, "alpha") },
    ];
    for stranger in strangers {
        let told = refused_by_listener(stranger, local.clone()).told().expect("told");
        for secret in ["tresor", "hidden", "7340032", "gamma"] {
            assert!(!told.contains(secret), "{told}");
        }
    }
}

#[test]
fn a_peer_to_which_no_link_is_wanted_hears_so_only_with_the_secret() {
    let mut listener = listener().turning_away(vec![NodeId(0)]);
    let (at_dialer, at_listener) = converse(&mut dialer(), &mut listener);
    assert_eq!(refusal(&at_listener), &HandshakeError::NotWanted { node: NodeId(0) });
    assert!(refusal(&at_dialer).to_string().contains("an operator has disconnected it"));

    let mut stranger = Handshake::dial(
        identity(0, "alpha"),
        known(1, "beta"),
        secret("a guess of sufficient length"),
        [3; 32],
    );
    let mut listener = listener_of(identity(1, "beta")).turning_away(vec![NodeId(0)]);
    let (at_stranger, at_listener) = converse(&mut stranger, &mut listener);
    assert_eq!(refusal(&at_listener), &HandshakeError::NotAuthentic);
    assert_eq!(refusal(&at_stranger).to_string(), "refused by the other side: authentication failed");
    assert_eq!(listener.claimed(), Some(NodeId(0)), "by its own word");
}
