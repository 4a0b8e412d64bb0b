//! Checks that look at more than one value of a configuration file. They only report.

use std::collections::BTreeMap;

use replicator::config::{OnPeerLost, ReplicationProtocol};
use replicator::layout::zones::{self, JOURNAL_BYTES_MAX};
use replicator::units::{BLOCK_BYTES, Span};

use super::ReadNode;
use crate::config_file::problem::Problems;
use crate::config_file::section::{Field, Section};
use crate::config_file::values::show_size;
use crate::config_file::{LinkConfig, MetadataPlace, TiebreakerConfig};

/// A lost heartbeat must not already be a lost peer.
pub fn timeouts(root: &Section<'_>, heartbeat: Option<Span>, peer_timeout: Option<Span>) {
    let (Some(heartbeat), Some(peer_timeout)) = (heartbeat, peer_timeout) else { return };
    if peer_timeout < heartbeat.times(2) {
        let key = if root.has("peer-timeout") { "peer-timeout" } else { "heartbeat" };
        let wrong = format!("peer-timeout ({peer_timeout}) is less than twice the heartbeat ({heartbeat})");
        let instead =
            "write a longer peer-timeout or a shorter heartbeat, so that one late frame is no lost peer";
        root.problems().add(root.line_of(key), wrong, instead);
    }
}

/// An even number of replicas has no majority when it falls apart into halves.
pub fn number_of_voters(root: &Section<'_>, replicas: usize, on_peer_lost: Option<OnPeerLost>) {
    match on_peer_lost {
        None => return,
        Some(OnPeerLost::Quorum) => {}
        Some(OnPeerLost::Fence | OnPeerLost::Continue) => {
            if root.has("tiebreaker") {
                let wrong =
                    "[tiebreaker] has nothing to decide: nobody votes unless on-peer-lost is \"quorum\"";
                root.problems().add(root.line_of("tiebreaker"), wrong, "leave it out, or choose \"quorum\"");
            }
            return;
        }
    }
    let is_even = replicas > 0 && replicas.is_multiple_of(2);
    if is_even && !root.has("tiebreaker") {
        let wrong = format!("{replicas} nodes and no [tiebreaker]: neither half would ever be a majority");
        let instead =
            "write [tiebreaker] with its address and state; it runs on another machine and needs no disk";
        root.problems().add(root.line_of("on-peer-lost"), wrong, instead);
    }
    if !is_even && replicas > 0 && root.has("tiebreaker") {
        let wrong = format!("{replicas} nodes are an odd number of voters and need no [tiebreaker]");
        root.problems().add(
            root.line_of("tiebreaker"),
            wrong,
            "leave it out: it would only make halves possible",
        );
    }
}

/// A journal is neither tiny nor larger than the format knows.
pub fn journal_size(section: &Section<'_>, journal: &Field<u64>, volume_bytes: u64) {
    let min = zones::journal_bytes_min(volume_bytes);
    let shown = show_size(journal.value);
    if !(min..=JOURNAL_BYTES_MAX).contains(&journal.value) {
        let wrong =
            format!("journal-size: {shown} is out of range for a volume of {}", show_size(volume_bytes));
        let default = show_size(zones::journal_bytes_default(volume_bytes));
        let (min, max) = (show_size(min), show_size(JOURNAL_BYTES_MAX));
        let instead = format!("write {min} to {max}, or leave it out for {default}");
        section.problems().add(journal.line, wrong, instead);
    } else if !journal.value.is_multiple_of(BLOCK_BYTES) {
        let instead = journal.value / BLOCK_BYTES * BLOCK_BYTES;
        let wrong = format!("journal-size: {shown} is no multiple of 4096");
        section.problems().add(journal.line, wrong, format_args!("write {instead}"));
    }
}

/// Names are unique; a node's data and metadata are two places.
pub fn nodes(problems: &Problems, nodes: &[ReadNode]) {
    let mut first_lines = BTreeMap::new();
    for node in nodes.iter().filter(|node| !node.config.name.is_empty()) {
        if let Some(first) = first_lines.get(&node.config.name) {
            let wrong = format!("name: `{}` is the node of line {first} already", node.config.name);
            problems.add(node.line, wrong, "write another name");
        } else {
            first_lines.insert(node.config.name.clone(), node.line);
        }
        if node.config.metadata == MetadataPlace::Separate(node.config.data.clone()) {
            let wrong = format!("data and metadata of `{}` are the same", node.config.name);
            problems.add(node.line, wrong, "write metadata = \"internal\", or another path");
        }
    }
}

/// Addresses are unique; nodes on one host share neither disks nor sockets.
pub fn shared_places(
    problems: &Problems,
    nodes: &[ReadNode],
    tiebreaker: Option<&TiebreakerConfig>,
    tiebreaker_line: usize,
) {
    let mut places = Vec::new();
    for ReadNode { config, line, .. } in nodes.iter().filter(|node| node.is_whole) {
        let host = &config.address.host;
        places.push((*line, &config.name, "address", config.address.to_string()));
        places.push((*line, &config.name, "data", format!("{} on {host}", config.data.display())));
        if let MetadataPlace::Separate(path) = &config.metadata {
            places.push((*line, &config.name, "metadata", format!("{} on {host}", path.display())));
        }
        if let Some(path) = &config.nbd.unix {
            places.push((*line, &config.name, "nbd", format!("{} on {host}", path.display())));
        }
        if let Some(address) = config.nbd.tcp.as_ref().filter(|address| address.host == *host) {
            places.push((*line, &config.name, "nbd", address.to_string()));
        }
    }
    let name = "tiebreaker".to_owned();
    if let Some(tiebreaker) = tiebreaker {
        places.push((tiebreaker_line, &name, "address", tiebreaker.address.to_string()));
        let state = format!("{} on {}", tiebreaker.state.display(), tiebreaker.address.host);
        places.push((tiebreaker_line, &name, "state", state));
    }
    let mut owners: BTreeMap<String, (&str, &str)> = BTreeMap::new();
    for (line, owner, what, place) in places {
        match owners.get(&place) {
            // A node's data as its metadata has a text of its own.
            Some((first, "data")) if *first == owner.as_str() && what == "metadata" => {}
            Some((first, first_what)) => {
                let wrong = format!("{what}: {place} is `{first}`'s {first_what} already");
                problems.add(line, wrong, format_args!("write another {what} for `{owner}`"));
            }
            None => {
                owners.insert(place, (owner.as_str(), what));
            }
        }
    }
}

/// Says which nodes never take over from one another by themselves.
pub fn links_without_failover(problems: &Problems, nodes: &[ReadNode], links: &[Field<LinkConfig>]) {
    for link in links.iter().filter(|link| link.value.protocol != ReplicationProtocol::C) {
        let [one, other] = link.value.nodes.map(|id| nodes[id.index()].config.name.as_str());
        problems.warn(
            link.line,
            format_args!(
                "protocol {:?} between `{one}` and `{other}`: no automatic failover between them, because completed writes may be missing on the other; use C where one is to take over from the other",
                link.value.protocol
            ),
        );
    }
}
