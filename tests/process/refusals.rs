//! What daemons refuse, and in which words.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::process::Output;

use replicator::peer::handshake::{LocalIdentity, VersionRange};

use crate::foreign;
use crate::harness::{Cluster, RESOURCE, SOON, Settings, Voter, files};

/// Why a replica has no replication with its peer, and what its status says to do.
#[derive(Debug, Default)]
struct Told {
    reason: String,
    action: String,
}

impl Told {
    fn by(cluster: &Cluster, replica: Voter) -> Option<Self> {
        let status = cluster.status(replica)?;
        let text = |pointer: &str| status.pointer(pointer)?.as_str().map(str::to_owned);
        let reason = text("/connections/0/reason")?;
        // The advice on the peer is the one that gives its reason.
        let advice = status.pointer("/advice")?.as_array()?.iter();
        let mut on_peer =
            advice.filter(|advice| advice["status"].as_str().is_some_and(|said| said.contains(&reason)));
        let action = on_peer.next()?["action"].as_str()?.to_owned();
        Some(Self { reason, action })
    }

    /// What it says once it says that, instead of that nobody listens there yet.
    fn wait(cluster: &mut Cluster, replica: Voter, reason: &str) -> Self {
        let mut told = Self::default();
        let what = format!("{} says: {reason}", replica.name());
        cluster.wait_until(&what, SOON, |cluster| {
            told = Self::by(cluster, replica).unwrap_or_default();
            told.reason.contains(reason)
        });
        let state = cluster.value(replica, "/connections/0/connection-state").expect("a status");
        assert_ne!(state, "Connected");
        told
    }
}

/// A pair of which the second node is spoilt before it starts. The second one dials.
fn spoilt_pair(spoil: impl Fn(&Cluster)) -> Cluster {
    let mut cluster = Cluster::make(&Settings::default());
    spoil(&cluster);
    for voter in Voter::ALL {
        cluster.start_process(voter);
    }
    cluster
}

#[test]
fn a_peer_with_another_secret_is_refused_by_name_and_learns_no_more_than_that() {
    let mut cluster = spoilt_pair(|cluster| {
        files::write_for_owner(&cluster.secret(Voter::B), "another secret, just as long");
    });
    let accepting = Told::wait(&mut cluster, Voter::A, "could not prove that it knows the shared secret");
    assert!(accepting.reason.contains("from 127.0.0.1 that says it is the peer"), "{accepting:?}");
    assert!(accepting.action.contains("Compare the secret files"), "{accepting:?}");
    let dialing = Told::wait(&mut cluster, Voter::B, "refused by the other side");
    assert_eq!(dialing.reason, "refused by the other side: authentication failed");
    assert!(dialing.action.contains("secret files and the names of the nodes"), "{dialing:?}");
}

#[test]
fn a_peer_with_another_configuration_is_refused_by_name() {
    let other = Settings { peer_timeout: "700ms", ..Settings::default() };
    let mut cluster = spoilt_pair(|cluster| cluster.configure(Voter::B, &other));
    for replica in Voter::REPLICAS {
        let told = Told::wait(&mut cluster, replica, "its configuration differs");
        assert!(told.action.contains("Make the configuration file the same"), "{told:?}");
    }
}

#[test]
fn a_peer_with_a_volume_of_another_size_is_refused_by_name() {
    let mut cluster = spoilt_pair(|cluster| {
        cluster.configure(Voter::B, &Settings { size: "32MiB", ..Settings::default() });
        cluster.expect(Voter::B, &["create-metadata", RESOURCE, "--uptodate-zeroed", "--force"]);
    });
    let values = "the volume has 67108864 bytes here and 33554432 on the peer";
    let accepting = Told::wait(&mut cluster, Voter::A, values);
    assert_eq!(accepting.action, "Make `size` the same on both nodes.");
    let dialing = Told::wait(&mut cluster, Voter::B, "its volume has another size");
    assert!(dialing.action.contains("`twinblk status` on the other node"), "{dialing:?}");
}

#[test]
fn a_peer_that_serves_another_resource_is_refused_by_name_on_both_ends() {
    let other = |voter| LocalIdentity { resource: "post".to_owned(), ..foreign::identity(voter) };
    let mut cluster = Cluster::make(&Settings::default());
    cluster.start_process(Voter::A);
    cluster.wait_until("a runs", SOON, |cluster| cluster.status(Voter::A).is_some());
    let dialing = foreign::dial(&cluster, other(Voter::B), Voter::A);
    assert_eq!(dialing.to_string(), "refused by the other side: it serves another resource");
    let accepting = Told::wait(&mut cluster, Voter::A, "this node serves resource demo, the peer post");
    assert!(accepting.action.contains("Make `resource` the same"), "{accepting:?}");

    assert!(cluster.stop(Voter::A).success());
    cluster.start_process(Voter::B);
    foreign::refuse_one(&cluster, Voter::A, other(Voter::A));
    Told::wait(&mut cluster, Voter::B, "refused by the other side: it serves another resource");
}

#[test]
fn a_peer_of_another_protocol_version_is_refused_by_name_on_both_ends() {
    let versions = VersionRange { lowest: 2, highest: 3 };
    let other = |voter| LocalIdentity { versions, ..foreign::identity(voter) };
    let mut cluster = Cluster::make(&Settings::default());
    cluster.start_process(Voter::A);
    cluster.wait_until("a runs", SOON, |cluster| cluster.status(Voter::A).is_some());
    let dialing = foreign::dial(&cluster, other(Voter::B), Voter::A);
    let told = "no common protocol version: this node speaks 1 to 1, the peer 2 to 3";
    assert_eq!(dialing.to_string(), format!("refused by the other side: {told}"));
    let accepting = Told::wait(&mut cluster, Voter::A, told);
    assert_eq!(accepting.action, "Upgrade the older of the two nodes.");

    assert!(cluster.stop(Voter::A).success());
    cluster.start_process(Voter::B);
    foreign::refuse_one(&cluster, Voter::A, other(Voter::A));
    Told::wait(
        &mut cluster,
        Voter::B,
        "no common protocol version: this node speaks 2 to 3, the peer 1 to 1",
    );
}

#[test]
fn a_disconnected_pair_says_on_both_ends_who_did_it_and_how_to_undo_it() {
    let mut cluster = Cluster::start(&Settings::default());
    cluster.expect(Voter::A, &["disconnect", RESOURCE, "--peer", "b"]);
    let here = Told::wait(&mut cluster, Voter::A, "disconnected by an operator");
    assert_eq!(here.action, "`twinblk connect demo` reverses it.");
    let there = Told::wait(&mut cluster, Voter::B, "an operator has disconnected it from this node");
    assert!(there.action.contains("`twinblk"), "{there:?}");
    cluster.expect(Voter::A, &["connect", RESOURCE]);
    cluster.wait_until_linked();
}

#[test]
fn a_daemon_whose_volume_is_not_the_configured_size_does_not_start() {
    let cluster = Cluster::make(&Settings::default());
    cluster.configure(Voter::A, &Settings { size: "32MiB", ..Settings::default() });
    let (status, said) = outcome(&cluster.run(Voter::A, &["run", RESOURCE]));
    assert_eq!(status, Some(10), "{said}");
    assert!(said.contains("for a volume of 67108864 bytes, the configuration says 33554432"), "{said}");
    assert!(said.contains("action: write size = \"67108864\""), "{said}");
}

/// The exit status of a process that should not have started, and what it said last.
fn outcome(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_second_daemon_of_a_resource_is_refused_by_the_name_of_the_socket() {
    let cluster = Cluster::start(&Settings::default());
    let (status, said) = outcome(&cluster.run(Voter::A, &["run", RESOURCE]));
    assert_eq!(status, Some(11), "{said}");
    assert!(said.contains("demo.sock") && said.contains("action: `twinblk status demo`"), "{said}");
}

#[test]
fn a_daemon_whose_nbd_socket_or_port_is_taken_is_refused_by_its_name() {
    let cluster = Cluster::make(&Settings::default());
    let socket = cluster.nbd_socket(Voter::A);
    let holder = UnixListener::bind(&socket).expect("bound");
    let (status, said) = outcome(&cluster.run(Voter::A, &["run", RESOURCE]));
    assert_eq!(status, Some(11), "{said}");
    assert!(said.contains("another process listens on") && said.contains("demo.nbd"), "{said}");
    drop(holder);

    let port = cluster.port(Voter::A);
    let _holder = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("bound");
    let (status, said) = outcome(&cluster.run(Voter::A, &["run", RESOURCE]));
    assert_eq!(status, Some(11), "{said}");
    assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("action: `ss -ltnp"), "{said}");
}

#[test]
fn a_second_tiebreaker_on_the_same_file_is_refused() {
    let cluster = Cluster::start(&Settings::default());
    let (status, said) = outcome(&cluster.run(Voter::Tiebreaker, &["tiebreaker", RESOURCE]));
    assert_eq!(status, Some(11), "{said}");
    assert!(said.contains("another tiebreaker runs on it") && said.contains("action: end"), "{said}");
}

/// Starts another daemon for the disks of A; gives how it ended and what it said.
pub fn second_daemon(cluster: &Cluster) -> (Option<i32>, String) {
    // The same disks, but a folder, sockets and ports of its own, so that nothing else stands in the way.
    let elsewhere = cluster.scratch().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("made");
    let config = std::fs::read_to_string(cluster.run_dir(Voter::A).join("demo.toml")).expect("there");
    let port = cluster.port(Voter::A).to_string();
    let other_port = files::free_ports::<1>()[0].to_string();
    let config = config.replace(&port, &other_port).replace("a/demo.nbd", "elsewhere/demo.nbd");
    std::fs::write(elsewhere.join("demo.toml"), config).expect("written");
    let folder = elsewhere.to_str().expect("plain");
    let output = std::process::Command::new(crate::harness::TWINBLK)
        .args(["run", RESOURCE, "--node", "a", "--config-dir", folder, "--run-dir", folder])
        .output()
        .expect("the executable");
    outcome(&output)
}

#[test]
fn a_second_daemon_on_the_same_disk_is_refused() {
    let mut cluster = Cluster::start(&Settings::default());
    let (status, said) = second_daemon(&cluster);
    assert_eq!(status, Some(11), "{said}");
    assert!(said.contains("/a/data is in use by another process"), "{said}");
    assert!(said.contains("action: `fuser -v"), "{said}");
    // The first one goes on.
    cluster.promote(Voter::A);
    assert!(cluster.stop(Voter::B).success());
}

#[test]
fn metadata_that_exists_is_not_replaced_without_force() {
    let cluster = Cluster::make(&Settings::default());
    let output = cluster.run(Voter::A, &["create-metadata", RESOURCE, "--uptodate-zeroed"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(11), "{said}");
    assert!(said.contains("--force"), "{said}");
}
