//! Other people's NBD clients against a real pair: what each of them does, it must be able to do, and afterwards both
//! replicas must be equal.
//!
//! A test whose tool is missing names it and skips; with `TWINBLK_TESTS_MUST_RUN=1` it fails.

#[path = "../common/harness.rs"]
mod harness;

mod body;
mod tools;

use self::body::Export;
use self::harness::{Cluster, Listeners, Settings, Voter};

/// Runs one client against a fresh pair whose first node is Primary, over its Unix socket.
fn with_pair(tool: &str, body: impl Fn(&Export)) {
    with_pair_behind(Listeners::Unix, tool, body);
}

/// The same, over what the pair listens on.
fn with_pair_behind(listeners: Listeners, tool: &str, body: impl Fn(&Export)) {
    if !tools::is_there(tool) {
        return;
    }
    let mut cluster = Cluster::start(&Settings { size: "64MiB", listeners, ..Settings::default() });
    cluster.promote(Voter::A);
    cluster.wait_until_synced(Voter::A);
    let uri = |replica| match listeners {
        Listeners::Unix => cluster.uri(replica),
        Listeners::Tcp | Listeners::Both => cluster.tcp_uri(replica),
    };
    let export = Export {
        uri: uri(Voter::A),
        size_bytes: 64 << 20,
        scratch: cluster.scratch().to_owned(),
        secondary_uri: uri(Voter::B),
    };
    body(&export);
    cluster.wait_until_unused(Voter::A);
    cluster.stop_and_compare(Voter::A);
}

#[test]
fn nbdinfo_sees_what_is_offered() {
    with_pair("nbdinfo", body::information);
}

#[test]
fn nbdinfo_and_qemu_img_are_told_why_a_secondary_serves_nobody() {
    with_pair("nbdinfo", body::secondary_by_nbdinfo);
    with_pair("qemu-img", body::secondary_by_qemu_img);
}

#[test]
fn nbdcopy_copies_in_and_out_over_several_connections() {
    with_pair("nbdcopy", body::copies);
}

#[test]
fn libnbd_gets_every_command_and_flag_right() {
    with_pair(tools::PYTHON, |export| body::script(export, "commands.py"));
}

#[test]
fn libnbd_gets_along_without_structured_replies() {
    with_pair(tools::PYTHON, |export| body::script(export, "simple.py"));
}

#[test]
fn libnbd_sees_one_volume_over_several_connections() {
    with_pair(tools::PYTHON, |export| body::script(export, "connections.py"));
}

#[test]
fn libnbd_is_refused_politely_and_served_on() {
    with_pair(tools::PYTHON, |export| body::script(export, "refusals.py"));
}

#[test]
fn qemu_img_converts_compares_and_maps() {
    with_pair("qemu-img", body::images);
}

#[test]
fn qemu_io_reads_its_patterns_back() {
    with_pair("qemu-io", body::patterns);
}

#[test]
fn fio_verifies_what_it_wrote_deep_queues_and_several_connections() {
    with_pair("fio", body::verified_load);
}

#[test]
fn over_tcp_nbdinfo_sees_what_is_offered_and_nothing_on_a_secondary() {
    with_pair_behind(Listeners::Tcp, "nbdinfo", |export| {
        body::information(export);
        body::secondary_by_nbdinfo(export);
    });
}

#[test]
fn over_tcp_libnbd_gets_every_command_and_flag_right() {
    with_pair_behind(Listeners::Tcp, tools::PYTHON, |export| body::script(export, "commands.py"));
}

#[test]
fn over_tcp_qemu_io_reads_its_patterns_back() {
    with_pair_behind(Listeners::Tcp, "qemu-io", body::patterns);
}
