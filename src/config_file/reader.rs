//! From the text of a configuration file to a [`ResourceConfig`] and all of its mistakes.

mod checks;
mod split_brain;

use std::path::{Path, PathBuf};

use replicator::config::{OnNoData, OnPeerLost, RESYNC_DEFAULT, ReplicationProtocol};
use replicator::resync::throttle::ThrottleLimits;
use replicator::units::{BLOCK_BYTES, NodeId, REPLICAS_MAX, Span, VOLUME_BYTES_MAX, VOLUME_BYTES_MIN};
use toml::de::DeTable;

use super::problem::Problems;
use super::reading::Reading;
use super::section::{Field, Section};
use super::values::{self, BadValue, HostPort, SOCKET_PATH_BYTES_MAX};
use super::{
    FenceConfig, LinkConfig, MetadataPlace, NbdConfig, NodeConfig, ResourceConfig, TiebreakerConfig,
};

const ROOT_KEYS: [&str; 17] = [
    "resource",
    "size",
    "on-peer-lost",
    "on-no-data",
    "fence",
    "secret-file",
    "heartbeat",
    "peer-timeout",
    "disk-timeout",
    "busy-poll",
    "resync",
    "split-brain",
    "rescue",
    "nbd",
    "node",
    "link",
    "tiebreaker",
];
const NODE_KEYS: [&str; 7] = ["name", "address", "data", "metadata", "journal-size", "max-peers", "nbd"];
const LINK_KEYS: [&str; 2] = ["nodes", "protocol"];
const NBD_KEYS: [&str; 2] = ["unix", "tcp"];
const FENCE_KEYS: [&str; 2] = ["command", "timeout"];
const RESYNC_KEYS: [&str; 2] = ["write-latency", "rate-min"];
const TIEBREAKER_KEYS: [&str; 2] = ["address", "state"];

/// How long a fence command may take: STONITH over a slow board takes its time.
const FENCE_TIMEOUT_DEFAULT: Span = Span::from_millis(60_000);
const HEARTBEAT: Span = Span::from_millis(1000);
const PEER_TIMEOUT: Span = Span::from_millis(3000);
const DISK_TIMEOUT: Span = Span::from_millis(30_000);
/// How long the data plane looks for completions before it sleeps, while they follow one another closely.
const BUSY_POLL: Span = Span(100);
/// Longer than this costs more than sleeping ever does.
const BUSY_POLL_MAX: Span = Span::from_millis(1);
/// A resync that is to go unnoticed to less than this would not go on at all.
const RESYNC_LATENCY_MIN: Span = Span::from_millis(1);
/// Bytes a second: less than this copies less than a TiB in a week.
const RESYNC_RATE_MIN: u64 = 1 << 20;
const TIMEOUT_MIN: Span = Span::from_millis(10);
const TIMEOUT_MAX: Span = Span::from_millis(600_000);
/// Most peers that metadata can be made for.
const MAX_PEERS: u64 = 7;
/// Room for peers unless more nodes are configured.
const MAX_PEERS_DEFAULT: u8 = 2;

/// A `[[node]]` and where it stands in the file.
struct ReadNode {
    config: NodeConfig,
    line: usize,
    /// Whether `metadata`, `data` and `address` were read; else they are placeholders not to be compared.
    is_whole: bool,
}

/// Reads the text of `file`.
pub fn read(file: &Path, text: &str) -> Reading {
    let problems = Problems::in_text(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let line = problems.line_of(error.span().map_or(0, |span| span.start));
        let wrong = format_args!("this is no TOML: {}", error.message().replace('\n', ", "));
        problems.add(line, wrong, "strings stand in quotes, sections in brackets (https://toml.io)");
    }
    if errors.is_empty() {
        return read_document(file, document.get_ref(), problems);
    }
    // A table recovered from broken text would only yield mistakes that nobody made.
    Reading { config: None, secret_file: None, node_names: None, has_tiebreaker: None, problems }
}

fn read_document(file: &Path, document: &DeTable<'_>, problems: Problems) -> Reading {
    let root = Section::new("the file", 1, document, &problems, &ROOT_KEYS);
    let resource = read_resource(file, &root);
    let size_bytes = read_size(&root);
    let on_peer_lost = read_on_peer_lost(&root);
    let on_no_data = read_on_no_data(&root);
    let fence = read_fence(&root, on_peer_lost);
    root.require("secret-file", "secret-file = \"/etc/twinblk/RES.secret\": the same secret on every voter");
    let secret_file = root.parsed("secret-file", values::parse_path);
    let heartbeat = read_timeout(&root, "heartbeat", HEARTBEAT);
    let peer_timeout = read_timeout(&root, "peer-timeout", PEER_TIMEOUT);
    let disk_timeout = read_timeout(&root, "disk-timeout", DISK_TIMEOUT);
    let busy_poll = read_busy_poll(&root);
    let resync = read_resync(&root);
    let split_brain = split_brain::read_policies(&root);
    let rescue = split_brain::read_rescue(&root);
    let default_nbd = read_nbd(&root, resource.as_deref());
    let nodes = read_nodes(&root, default_nbd.as_ref(), size_bytes);
    let links = read_links(&root, &nodes);
    let tiebreaker = read_tiebreaker(&root);
    checks::timeouts(&root, heartbeat, peer_timeout);
    checks::number_of_voters(&root, nodes.len(), on_peer_lost);
    checks::nodes(&problems, &nodes);
    checks::shared_places(&problems, &nodes, tiebreaker.as_ref(), root.line_of("tiebreaker"));
    checks::links_without_failover(&problems, &nodes, &links);
    let node_names = names_of(&nodes);
    let has_tiebreaker = Some(root.has("tiebreaker"));
    let secret = secret_file.clone();
    let whole = move || {
        let secret_file = secret?;
        Some(ResourceConfig {
            file: file.to_owned(),
            resource: resource?,
            size_bytes: size_bytes?,
            on_peer_lost: on_peer_lost?,
            on_no_data: on_no_data?,
            fence,
            secret_file: secret_file.value,
            secret_line: secret_file.line,
            heartbeat: heartbeat?,
            peer_timeout: peer_timeout?,
            disk_timeout: disk_timeout?,
            busy_poll: busy_poll?,
            split_brain: split_brain?,
            rescue: rescue?,
            resync: resync?,
            nodes: nodes.into_iter().map(|node| node.config).collect(),
            links: links.into_iter().map(|link| link.value).collect(),
            tiebreaker,
            warnings: Vec::new(),
        })
    };
    Reading { config: whole(), secret_file, node_names, has_tiebreaker, problems }
}

/// The names of all nodes, if each has one.
fn names_of(nodes: &[ReadNode]) -> Option<Vec<String>> {
    let names: Vec<String> = nodes.iter().map(|node| node.config.name.clone()).collect();
    let are_known = !names.is_empty() && names.iter().all(|name| !name.is_empty());
    are_known.then_some(names)
}

fn read_resource(file: &Path, root: &Section<'_>) -> Option<String> {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    root.require("resource", &format!("resource = \"{stem}\", the name of this file without .toml"));
    let name = root.parsed("resource", |text| values::check_resource_name(text).map(|()| text.to_owned()))?;
    if name.value != stem {
        let wrong = format!("resource: `{}` is not the name of this file", name.value);
        root.problems().add(name.line, wrong, format_args!("write \"{stem}\" or rename the file"));
    }
    Some(name.value)
}

fn read_size(root: &Section<'_>) -> Option<u64> {
    root.require("size", "size = \"100GiB\", the same on every node");
    let size = root.size("size")?;
    let bad = if size.value < VOLUME_BYTES_MIN {
        Some(("is below 1MiB", "1MiB or more".to_owned()))
    } else if size.value > VOLUME_BYTES_MAX {
        Some(("is beyond 16TiB", "16TiB or less".to_owned()))
    } else if !size.value.is_multiple_of(BLOCK_BYTES) {
        Some(("is no multiple of 4096", (size.value / BLOCK_BYTES * BLOCK_BYTES).to_string()))
    } else {
        None
    };
    match bad {
        None => Some(size.value),
        Some((wrong, instead)) => {
            let wrong = format!("size: {} {wrong}", values::show_size(size.value));
            root.problems().add(size.line, wrong, format_args!("write {instead}"));
            None
        }
    }
}

fn read_on_peer_lost(root: &Section<'_>) -> Option<OnPeerLost> {
    const CHOICE: &str = "write on-peer-lost = \"quorum\": a node goes on after the loss of a peer once a majority \
         of the voters has recorded it (two nodes need a [tiebreaker]). There is no default, because the \
         choice decides what can be lost: \"fence\" freezes all I/O until a command of yours proves that the peer \
         is silent or outdated, \"continue\" goes on at once and risks two histories, one of which will be lost";
    root.require("on-peer-lost", CHOICE.strip_prefix("write ").expect("it begins so"));
    let choice = root.text("on-peer-lost")?;
    match choice.value {
        "quorum" => Some(OnPeerLost::Quorum),
        "fence" => Some(OnPeerLost::Fence),
        "continue" => Some(OnPeerLost::Continue),
        other => {
            root.problems().add(choice.line, format_args!("on-peer-lost: `{other}` is no choice"), CHOICE);
            None
        }
    }
}

/// What clients get while no copy can be reached.
fn read_on_no_data(root: &Section<'_>) -> Option<OnNoData> {
    if !root.has("on-no-data") {
        return Some(OnNoData::default());
    }
    let choice = root.text("on-no-data")?;
    match choice.value {
        "freeze" => Some(OnNoData::Freeze),
        "fail" => Some(OnNoData::Fail),
        other => {
            let instead =
                "write \"freeze\" (requests wait for a copy to return) or \"fail\" (clients get EIO)";
            root.problems().add(choice.line, format_args!("on-no-data: `{other}` is no choice"), instead);
            None
        }
    }
}

/// The fence command: there exactly if it is what opens the way.
fn read_fence(root: &Section<'_>, on_peer_lost: Option<OnPeerLost>) -> Option<FenceConfig> {
    const EXAMPLE: &str = "fence = { command = [\"/usr/local/sbin/fence-peer\"], timeout = \"60s\" }";
    match on_peer_lost? {
        OnPeerLost::Fence => {
            if !root.has("fence") {
                let wrong = "on-peer-lost = \"fence\" needs to know what to run against a lost peer";
                root.problems().add(root.line_of("on-peer-lost"), wrong, format_args!("write {EXAMPLE}"));
            }
        }
        OnPeerLost::Quorum | OnPeerLost::Continue => {
            if root.has("fence") {
                let wrong = "fence is only for on-peer-lost = \"fence\"";
                root.problems().add(
                    root.line_of("fence"),
                    wrong,
                    "leave it out, or choose on-peer-lost = \"fence\"",
                );
            }
            return None;
        }
    }
    let section = root.section("fence", "fence", EXAMPLE, &FENCE_KEYS)?;
    section.require("command", "command = [\"/usr/local/sbin/fence-peer\"], the program and its arguments");
    let command = section.texts("command")?;
    let is_program = command.value.first().is_some_and(|program| program.starts_with('/'));
    if !is_program {
        let wrong = "command: a program with its whole path comes first";
        section.problems().add(command.line, wrong, "write [\"/usr/local/sbin/fence-peer\", \"ARGUMENT\"]");
        return None;
    }
    let timeout = read_timeout(&section, "timeout", FENCE_TIMEOUT_DEFAULT)?;
    Some(FenceConfig { command: command.value.into_iter().map(str::to_owned).collect(), timeout })
}

fn read_timeout(root: &Section<'_>, key: &str, default: Span) -> Option<Span> {
    if !root.has(key) {
        return Some(default);
    }
    let span = root.parsed(key, values::parse_span)?;
    if (TIMEOUT_MIN..=TIMEOUT_MAX).contains(&span.value) {
        return Some(span.value);
    }
    let wrong = format!("{key}: {} is out of range", span.value);
    root.problems().add(
        span.line,
        wrong,
        format_args!("write 10ms to 10min, for example \"{}s\"", default.0 / 1_000_000),
    );
    None
}

fn read_busy_poll(root: &Section<'_>) -> Option<Span> {
    if !root.has("busy-poll") {
        return Some(BUSY_POLL);
    }
    let span = root.parsed("busy-poll", values::parse_span)?;
    if span.value <= BUSY_POLL_MAX {
        return Some(span.value);
    }
    let wrong = format!("busy-poll: {} is out of range", span.value);
    root.problems().add(span.line, wrong, "write \"0us\" (never) to \"1ms\", or leave it out for \"100us\"");
    None
}

fn read_resync(root: &Section<'_>) -> Option<ThrottleLimits> {
    if !root.has("resync") {
        return Some(RESYNC_DEFAULT);
    }
    let example = "resync = { write-latency = \"20ms\", rate-min = \"10MiB\" }";
    let resync = root.section("resync", "resync", example, &RESYNC_KEYS)?;
    let ThrottleLimits { mut write_latency, mut rate_min } = RESYNC_DEFAULT;
    if resync.has("write-latency") {
        let span = resync.parsed("write-latency", values::parse_span)?;
        if !(RESYNC_LATENCY_MIN..=TIMEOUT_MAX).contains(&span.value) {
            let wrong = format!("write-latency: {} is out of range", span.value);
            resync.problems().add(
                span.line,
                wrong,
                "write \"1ms\" to \"10min\", or leave it out for \"20ms\"",
            );
            return None;
        }
        write_latency = span.value;
    }
    if resync.has("rate-min") {
        let size = resync.parsed("rate-min", values::parse_size)?;
        if size.value < RESYNC_RATE_MIN {
            let wrong = format!("rate-min: {} bytes a second is too little for a resync to end", size.value);
            resync.problems().add(size.line, wrong, "write \"1MiB\" or more, or leave it out for \"10MiB\"");
            return None;
        }
        rate_min = size.value;
    }
    Some(ThrottleLimits { write_latency, rate_min })
}

fn read_nbd(section: &Section<'_>, resource: Option<&str>) -> Option<NbdConfig> {
    if !section.has("nbd") {
        let resource = resource?;
        return Some(NbdConfig { unix: Some(format!("/run/twinblk/{resource}.nbd").into()), tcp: None });
    }
    let nbd = section.section("nbd", "nbd", "nbd = { unix = \"/run/twinblk/RES.nbd\" }", &NBD_KEYS)?;
    let socket = |text: &str| {
        let wrong = || format!("the path of a socket has at most {SOCKET_PATH_BYTES_MAX} bytes");
        let too_long = || BadValue::new(wrong(), "write a shorter one");
        values::parse_path(text)
            .and_then(|path| if text.len() <= SOCKET_PATH_BYTES_MAX { Ok(path) } else { Err(too_long()) })
    };
    let unix = nbd.parsed("unix", socket).map(|field| field.value);
    let tcp = nbd.parsed("tcp", HostPort::parse).map(|field| field.value);
    if !nbd.has("unix") && !nbd.has("tcp") {
        nbd.problems().add(
            nbd.line,
            "nbd names no place",
            "write unix = \"/run/twinblk/RES.nbd\", or tcp = \"HOST:PORT\"",
        );
    }
    Some(NbdConfig { unix, tcp })
}

fn read_nodes(
    root: &Section<'_>,
    default_nbd: Option<&NbdConfig>,
    volume_bytes: Option<u64>,
) -> Vec<ReadNode> {
    let sections = root.sections("node", "[[node]]", &NODE_KEYS);
    if sections.is_empty() && !root.has("node") {
        root.problems().add(
            root.line,
            "the file has no [[node]]",
            "write one [[node]] for each replica, 1 to 8",
        );
    }
    if let Some(first_too_many) = sections.get(REPLICAS_MAX) {
        let wrong = format!("{} nodes", sections.len());
        root.problems().add(first_too_many.line, wrong, format_args!("write at most {REPLICAS_MAX}"));
    }
    let peers = u8::try_from(sections.len().saturating_sub(1)).unwrap_or(u8::MAX);
    sections.iter().map(|section| read_node(section, default_nbd, peers, volume_bytes)).collect()
}

fn read_node(
    section: &Section<'_>,
    default_nbd: Option<&NbdConfig>,
    peers: u8,
    volume_bytes: Option<u64>,
) -> ReadNode {
    section.require("name", "name = \"HOST\", the name of the host");
    section.require("address", "address = \"HOST:PORT\", where it listens for its peers");
    section.require("data", "data = \"/dev/…\", or the path of a file");
    section.require(
        "metadata",
        "metadata = \"/dev/…\" or the path of a file, or \"internal\": at the end of data",
    );
    let name = section.parsed("name", |text| values::check_node_name(text).map(|()| text.to_owned()));
    let address = section.parsed("address", HostPort::parse);
    let data = section.parsed("data", values::parse_path);
    let metadata = section.parsed("metadata", |text| match text {
        "internal" => Ok(MetadataPlace::Internal),
        path => values::parse_path(path).map(MetadataPlace::Separate),
    });
    let journal = section.size("journal-size");
    if let (Some(journal), Some(volume_bytes)) = (&journal, volume_bytes) {
        checks::journal_size(section, journal, volume_bytes);
    }
    let nbd = if section.has("nbd") { read_nbd(section, None) } else { default_nbd.cloned() };
    let is_whole = name.is_some() && address.is_some() && data.is_some() && metadata.is_some();
    let config = NodeConfig {
        name: name.map(|field| field.value).unwrap_or_default(),
        address: address.map_or(HostPort { host: String::new(), port: 0 }, |field| field.value),
        data: data.map(|field| field.value).unwrap_or_default(),
        metadata: metadata.map_or(MetadataPlace::Internal, |field| field.value),
        journal_bytes: journal.map(|field| field.value),
        max_peers: read_max_peers(section, peers),
        nbd: nbd.unwrap_or_default(),
    };
    ReadNode { config, line: section.line, is_whole }
}

fn read_max_peers(section: &Section<'_>, peers: u8) -> u8 {
    let default = MAX_PEERS_DEFAULT.max(peers);
    let Some(asked) = section.number("max-peers") else { return default };
    let number =
        u8::try_from(asked.value).ok().filter(|number| (1..=MAX_PEERS).contains(&u64::from(*number)));
    match number {
        Some(number) if number >= peers => number,
        Some(number) => {
            let wrong = format!("max-peers: {number} is less than the {peers} peers of this node");
            section.problems().add(asked.line, wrong, format_args!("write {peers} or more, or leave it out"));
            default
        }
        None => {
            let wrong = format!("max-peers: {} is out of range", asked.value);
            section.problems().add(asked.line, wrong, format_args!("write 1 to {MAX_PEERS}"));
            default
        }
    }
}

fn read_links(root: &Section<'_>, nodes: &[ReadNode]) -> Vec<Field<LinkConfig>> {
    let mut links: Vec<Field<LinkConfig>> = Vec::new();
    for section in root.sections("link", "[[link]]", &LINK_KEYS) {
        section.require("nodes", "nodes = [\"alpha\", \"beta\"]");
        let protocol = read_protocol(&section);
        let (Some(ends), Some(protocol)) = (read_ends(&section, nodes), protocol) else { continue };
        if let Some(first) = links.iter().find(|link| link.value.nodes == ends) {
            let wrong = format!("these two nodes have a [[link]] already, in line {}", first.line);
            section.problems().add(section.line, wrong, "write one [[link]] for each pair");
        }
        links.push(Field { value: LinkConfig { nodes: ends, protocol }, line: section.line });
    }
    links
}

fn read_ends(section: &Section<'_>, nodes: &[ReadNode]) -> Option<[NodeId; 2]> {
    let named = section.texts("nodes")?;
    let mut ends = Vec::new();
    for name in &named.value {
        let position = nodes.iter().position(|node| node.config.name == *name);
        match position.and_then(|position| u8::try_from(position).ok()) {
            Some(number) => ends.push(NodeId(number)),
            None => {
                let known: Vec<&str> = nodes.iter().map(|node| node.config.name.as_str()).collect();
                let wrong = format!("nodes: no [[node]] is called `{name}`");
                section.problems().add(named.line, wrong, super::section::suggestion(name, &known));
            }
        }
    }
    match ends[..] {
        [one, other] if one != other && named.value.len() == 2 => Some([one.min(other), one.max(other)]),
        _ if ends.len() < named.value.len() => None,
        _ => {
            section.problems().add(
                named.line,
                "a link has two different nodes",
                "write nodes = [\"alpha\", \"beta\"]",
            );
            None
        }
    }
}

fn read_protocol(section: &Section<'_>) -> Option<ReplicationProtocol> {
    if !section.has("protocol") {
        return Some(ReplicationProtocol::default());
    }
    let text = section.text("protocol")?;
    match text.value {
        "A" => Some(ReplicationProtocol::A),
        "B" => Some(ReplicationProtocol::B),
        "C" => Some(ReplicationProtocol::C),
        other => {
            let instead =
                "write \"C\" (complete in the peer's journal), \"B\" (received by the peer) or \"A\" (sent)";
            section.problems().add(text.line, format_args!("protocol: `{other}` is none"), instead);
            None
        }
    }
}

fn read_tiebreaker(root: &Section<'_>) -> Option<TiebreakerConfig> {
    let section =
        root.section("tiebreaker", "[tiebreaker]", "[tiebreaker] with its keys below", &TIEBREAKER_KEYS)?;
    section.require("address", "address = \"HOST:PORT\", where it listens");
    section.require("state", "state = \"/var/lib/twinblk/RES.vote\", the file with its record");
    let address = section.parsed("address", HostPort::parse);
    let state = section.parsed("state", values::parse_path);
    Some(TiebreakerConfig { address: address?.value, state: state.map(|field: Field<PathBuf>| field.value)? })
}
