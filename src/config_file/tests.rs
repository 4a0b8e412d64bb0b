//! Tests of the configuration file as a whole.

use std::os::unix::fs::PermissionsExt;

use super::*;

const MAIL: &str = r#"resource = "mail"
size = "100GiB"
on-peer-lost = "quorum"
secret-file = "/etc/twinblk/mail.secret"
peer-timeout = "5s"

[[node]]
name = "alpha"
address = "10.0.0.1:7789"
data = "/dev/vg/mail"
metadata = "/dev/vg/mail-meta"
journal-size = "2GiB"

[[node]]
name = "beta"
address = "10.0.0.2:7789"
data = "/dev/vg/mail"
metadata = "internal"
nbd = { tcp = "10.0.0.2:10809" }

[[link]]
nodes = ["beta", "alpha"]
protocol = "B"

[tiebreaker]
address = "10.0.0.3:7790"
state = "/var/lib/twinblk/mail.vote"
"#;

fn parse(text: &str) -> Result<ResourceConfig, ConfigProblems> {
    ResourceConfig::parse(Path::new("mail.toml"), text)
}

/// The mistakes of the good file after this replacement, as `LINE: text`.
fn mistakes(from: &str, to: &str) -> Vec<String> {
    assert!(MAIL.contains(from), "{from}");
    let error = parse(&MAIL.replacen(from, to, 1)).expect_err("a mistake");
    error.problems.iter().map(|problem| format!("{}: {}", problem.line, problem.text)).collect()
}

fn one_mistake(from: &str, to: &str) -> String {
    let mut mistakes = mistakes(from, to);
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    mistakes.remove(0)
}

#[test]
fn the_files_that_the_documents_show_are_good() {
    for document in [include_str!("../../README.md"), include_str!("../../docs/operating/install.md")] {
        let blocks: Vec<&str> = document.split("```toml\n").skip(1).collect();
        assert!(!blocks.is_empty());
        for block in blocks {
            let text = block.split("```").next().unwrap_or_default();
            let config = parse(text).unwrap_or_else(|problems| panic!("{problems:?}"));
            assert_eq!((config.nodes.len(), config.tiebreaker.is_some()), (2, true));
        }
    }
}

#[test]
fn a_good_file_gives_everything_it_says_and_the_defaults() {
    let config = parse(MAIL).expect("good");
    assert_eq!(config.size_bytes, 100 << 30);
    assert_eq!(config.heartbeat, Span::from_millis(1000));
    assert_eq!(config.peer_timeout, Span::from_millis(5000));
    assert_eq!(config.busy_poll, Span(100));
    let (alpha, beta) = (&config.nodes[0], &config.nodes[1]);
    assert_eq!(alpha.journal_bytes, Some(2 << 30));
    assert_eq!(alpha.nbd.unix.as_deref(), Some(Path::new("/run/twinblk/mail.nbd")));
    assert_eq!(alpha.max_peers, 2);
    assert_eq!(beta.metadata, MetadataPlace::Internal);
    assert_eq!(beta.nbd.unix, None);
    let core = config.to_core(NodeId(1));
    assert_eq!(core.replicas[0].protocol, ReplicationProtocol::B);
    assert_eq!(core.tiebreaker(), Some(NodeId(2)));
    assert_eq!(config.address_of(NodeId(2)).map(|address| address.port), Some(7790));
    assert_eq!(config.address_of(NodeId(3)), None);
}

#[test]
fn a_link_on_a_or_b_warns_that_there_is_no_automatic_failover() {
    let config = parse(MAIL).expect("good");
    assert_eq!(config.warnings.len(), 1);
    assert_eq!(config.warnings[0].line, 21);
    assert!(config.warnings[0].text.contains("no automatic failover"));
    assert!(parse(&MAIL.replace("\"B\"", "\"C\"")).expect("good").warnings.is_empty());
}

/// A folder with `mail.toml` of this text, its secret in the folder, of this mode.
fn installed(text: &str, mode: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    let text = text.replace("/etc/twinblk/mail.secret", secret.to_str().expect("text"));
    std::fs::write(folder.path().join("mail.toml"), text).expect("written");
    std::fs::write(&secret, "0123456789abcdef\n").expect("written");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).expect("changed");
    folder
}

#[test]
fn who_i_am_is_said_by_name_or_refused_with_the_names_there_are() {
    let folder = installed(MAIL, 0o644);
    let load = |name| ResourceConfig::load_for_node(folder.path(), "mail", Some(name), SecretUse::NotNeeded);
    assert_eq!(load("beta").expect("known").1, NodeId(1));
    let unknown = load("gamma").expect_err("unknown").to_string();
    assert!(unknown.contains("`gamma`") && unknown.contains("alpha, beta"), "{unknown}");
}

#[test]
fn an_unknown_key_hides_neither_an_open_secret_nor_a_node_that_nobody_is() {
    let folder = installed(&MAIL.replace("peer-timeout = \"5s\"", "peer-timout = \"5s\""), 0o644);
    let file = folder.path().join("mail.toml");
    let load = |name| ResourceConfig::load_for_node(folder.path(), "mail", Some(name), SecretUse::Needed);
    let said = load("zz").expect_err("three mistakes").to_string();
    let expected = [
        format!("{}:4: secret-file: ", file.display()),
        format!("{}:5: `peer-timout` is not known in the file; did you mean", file.display()),
        format!("{}: no [[node]] is called `zz`; write --node with one of alpha, beta", file.display()),
    ];
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{said}");
    for (line, start) in lines.iter().zip(&expected) {
        assert!(line.starts_with(start), "{said}");
    }
    assert!(said.contains("mode 644"), "{said}");
    // Where not even the names can be read, nobody knows who is unknown.
    let nameless = MAIL.replace("name = \"beta\"", "name = 7");
    std::fs::write(&file, nameless).expect("written");
    let said = load("zz").expect_err("no names").to_string();
    assert!(said.contains("name is of type integer") && !said.contains("`zz`"), "{said}");
}

#[test]
fn the_tiebreaker_is_missed_together_with_its_secret() {
    let without = MAIL.split("[tiebreaker]").next().expect("it has one");
    let folder = installed(without, 0o644);
    let refused =
        ResourceConfig::load_for_tiebreaker(folder.path(), "mail").expect_err("mistakes").to_string();
    for text in
        ["mail.toml:3: 2 nodes and no [tiebreaker]", "mode 644", "mail.toml: no [tiebreaker] is configured"]
    {
        assert!(refused.contains(text), "{refused}");
    }
}

#[test]
fn the_digest_depends_on_what_voters_must_agree_on_and_on_nothing_else() {
    let digest = |from: &str, to: &str| parse(&MAIL.replace(from, to)).expect("good").digest();
    let same = digest("", "");
    assert_eq!(same, digest("/dev/vg/mail-meta", "/srv/meta"));
    assert_eq!(same, digest("10.0.0.1:7789", "alpha:7789"));
    assert_eq!(same, digest("size = \"100GiB\"", "size = \"102400MiB\""));
    for (from, to) in [
        ("size = \"100GiB\"", "size = \"101GiB\""),
        ("protocol = \"B\"", "protocol = \"A\""),
        ("\"5s\"", "\"6s\""),
        ("alpha", "gamma"),
    ] {
        assert_ne!(same, digest(from, to), "{from} -> {to}");
    }
}

#[test]
fn the_digest_of_a_known_file_never_changes() {
    // Voters of two releases compare it: a new formula would split them.
    assert_eq!(format!("{:016x}", parse(MAIL).expect("good").digest()), "60dcede1892ebcc2");
}

#[test]
fn all_mistakes_are_reported_at_once_each_with_its_line() {
    let text = "resource = \"Mail\"\nsise = \"1GiB\"\nsize = \"1GB\"\non-peer-lost = \"fence\"\nheartbeat = 1\n[[node]]\nname = \"a\"\naddress = \"here\"\ndata = \"disk\"\n";
    let error = parse(text).expect_err("mistakes");
    let lines: Vec<usize> = error.problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [1, 1, 2, 3, 4, 5, 6, 8, 9], "{error}");
    assert!(error.to_string().lines().all(|line| line.starts_with("mail.toml:")), "{error}");
    assert!(error.problems[2].text.contains("did you mean `size`?"), "{error}");
}

#[test]
fn every_single_mistake_is_named_where_it_stands() {
    for (from, to, line, text) in [
        ("\"mail\"", "\"post\"", 1, "not the name of this file"),
        ("100GiB", "100GB", 2, "write \"100GiB\""),
        ("100GiB", "1000KiB", 2, "below 1MiB"),
        ("100GiB", "17TiB", 2, "beyond 16TiB"),
        ("\"100GiB\"", "1048577", 2, "no multiple of 4096; write 1048576"),
        ("\"100GiB\"", "true", 2, "size is of type boolean"),
        ("\"quorum\"", "\"continue\"", 25, "nobody votes unless"),
        ("\"quorum\"", "\"fence\"", 3, "write fence = { command ="),
        ("\"quorum\"", "\"quorum\"\nfence = { command = [\"/bin/true\"] }", 4, "leave it out, or choose"),
        ("\"quorum\"", "\"fence\"\nfence = { command = [\"true\"] }", 4, "a program with its whole path"),
        ("\"quorum\"", "\"fence\"\nfence = { command = [] }", 4, "a program with its whole path"),
        ("\"quorum\"", "\"fence\"\nfence = { timeout = \"5s\" }", 4, "fence has no `command`"),
        ("\"quorum\"", "\"fence\"\nfence = { command = [\"/x\"], timeout = \"1h\" }", 4, "out of range"),
        ("\"quorum\"", "\"freeze\"", 3, "There is no default"),
        ("\"5s\"", "\"1900ms\"", 5, "less than twice the heartbeat"),
        ("\"5s\"", "\"1h\"", 5, "out of range"),
        ("\"5s\"", "\"5s\"\nbusy-poll = \"2ms\"", 6, "write \"0us\" (never) to \"1ms\""),
        ("\"5s\"", "\"5s\"\nresync = { rate-min = \"512KiB\" }", 6, "write \"1MiB\" or more"),
        ("\"5s\"", "\"5s\"\nresync = { write-latency = \"10us\" }", 6, "write \"1ms\" to \"10min\""),
        ("\"/etc/twinblk/mail.secret\"", "\"mail.secret\"", 4, "is relative"),
        ("name = \"beta\"", "name = \"alpha\"", 14, "is the node of line 7 already"),
        ("\"internal\"", "\"/dev/vg/mail\"", 14, "data and metadata of `beta` are the same"),
        ("10.0.0.2:7789", "10.0.0.1:7789", 14, "is `alpha`'s address already"),
        ("10.0.0.3:7790", "10.0.0.1:7789", 25, "is `alpha`'s address already"),
        ("\"2GiB\"", "134217729", 12, "no multiple of 4096"),
        ("\"2GiB\"", "\"1MiB\"", 12, "write 64MiB to 64GiB, or leave it out for 1GiB"),
        ("\"beta\", \"alpha\"", "\"beta\", \"alhpa\"", 22, "did you mean `alpha`?"),
        ("\"beta\", \"alpha\"", "\"beta\", \"beta\"", 22, "two different nodes"),
        ("\"beta\", \"alpha\"", "\"beta\"", 22, "two different nodes"),
        ("protocol = \"B\"", "protocol = \"D\"", 23, "`D` is none"),
        ("nbd = { tcp", "nbd = { tpc", 19, "did you mean `tcp`?"),
        ("nbd = { tcp = \"10.0.0.2:10809\" }", "nbd = {}", 19, "names no place"),
        ("state = \"/var/lib/twinblk/mail.vote\"", "", 25, "[tiebreaker] has no `state`"),
        ("journal-size = \"2GiB\"", "max-peers = 8", 12, "out of range; write 1 to 7"),
    ] {
        let found = mistakes(from, to);
        let wanted =
            found.iter().find(|mistake| mistake.starts_with(&format!("{line}: ")) && mistake.contains(text));
        assert!(wanted.is_some(), "{from} -> {to}: {found:#?}");
    }
}

#[test]
fn nodes_that_share_a_host_share_neither_disks_nor_sockets() {
    let found = mistakes("10.0.0.2:7789", "10.0.0.1:7790");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].starts_with("14: data: /dev/vg/mail on 10.0.0.1 is `alpha`'s data already"),
        "{found:#?}"
    );
}

#[test]
fn an_even_number_of_replicas_needs_a_tiebreaker_and_an_odd_number_must_not_have_one() {
    let without = MAIL.split("[tiebreaker]").next().expect("it has one");
    let error = parse(without).expect_err("even").to_string();
    assert!(error.starts_with("mail.toml:3: 2 nodes and no [tiebreaker]"), "{error}");
    let third =
        "[[node]]\nname = \"gamma\"\naddress = \"10.0.0.4:7789\"\ndata = \"/d\"\nmetadata = \"internal\"\n";
    assert!(parse(&format!("{without}{third}")).is_ok());
    let error = parse(&format!("{MAIL}{third}")).expect_err("odd").to_string();
    assert!(error.contains("need no [tiebreaker]"), "{error}");
}

#[test]
fn without_a_majority_two_nodes_need_no_tiebreaker_and_fencing_needs_a_command() {
    let two = MAIL.split("[tiebreaker]").next().expect("it has one");
    let config = parse(&two.replace("\"quorum\"", "\"continue\"")).expect("good");
    assert_eq!((config.on_peer_lost, config.fence), (OnPeerLost::Continue, None));
    let fence = "\"fence\"\nfence = { command = [\"/sbin/fence\", \"-v\"] }";
    let config = parse(&two.replace("\"quorum\"", fence)).expect("good");
    let command = config.fence.as_ref().expect("it is there");
    assert_eq!(command.command, ["/sbin/fence", "-v"]);
    assert_eq!(command.timeout, Span::from_millis(60_000));
    let digests =
        ["\"continue\"", fence].map(|mode| parse(&two.replace("\"quorum\"", mode)).expect("good").digest());
    assert_ne!(digests[0], digests[1], "nodes that choose differently must not meet");
}

#[test]
fn on_peer_lost_has_no_default_and_the_refusal_explains_the_choice() {
    let mistake = one_mistake("on-peer-lost = \"quorum\"\n", "");
    for word in ["quorum", "fence", "continue", "There is no default"] {
        assert!(mistake.contains(word), "{mistake}");
    }
}

#[test]
fn broken_toml_is_reported_as_such_and_nothing_else() {
    let found = mistakes("\"100GiB\"", "100GiB");
    assert!(found.iter().all(|mistake| mistake.contains("this is no TOML")), "{found:#?}");
    assert!(found[0].starts_with("2: "), "{found:#?}");
}

#[test]
fn a_ninth_replica_is_refused() {
    let without = MAIL.split("[[node]]").next().expect("it has one");
    let node = |n: usize| {
        format!("[[node]]\nname = \"n{n}\"\naddress = \"n{n}:1\"\ndata = \"/d\"\nmetadata = \"internal\"\n")
    };
    let nodes = |count: usize| (0..count).map(node).collect::<String>();
    assert!(parse(&format!("{without}{}", nodes(7))).is_ok());
    let error = parse(&format!("{without}{}", nodes(9))).expect_err("too many").to_string();
    assert!(error.contains("9 nodes; write at most 8"), "{error}");
}

#[test]
fn a_secret_that_others_may_read_or_that_is_short_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("secret");
    let config =
        parse(&MAIL.replace("/etc/twinblk/mail.secret", path.to_str().expect("text"))).expect("good");
    let write = |text: &str, mode: u32| {
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("changed");
    };
    assert!(config.load_secret().expect_err("absent").to_string().starts_with("mail.toml:4: secret-file: "));
    write("0123456789abcdef\n", 0o640);
    assert!(config.load_secret().expect_err("open").to_string().contains("chmod 600"));
    write("0123456789abcde\n", 0o600);
    assert!(config.load_secret().expect_err("short").to_string().contains("15 bytes"));
    write("0123456789abcdef\n", 0o600);
    let secret = config.load_secret().expect("good");
    assert_eq!(secret.bytes(), b"0123456789abcdef");
    assert_eq!(format!("{secret:?}"), "Secret(..)");
}

#[test]
fn a_secret_of_another_user_is_refused_however_closed_it_is() {
    if !rustix::process::geteuid().is_root() {
        // Nobody else can read such a file at all.
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("secret");
    let config =
        parse(&MAIL.replace("/etc/twinblk/mail.secret", path.to_str().expect("text"))).expect("good");
    std::fs::write(&path, "0123456789abcdef\n").expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("changed");
    config.load_secret().expect("root's own");
    std::os::unix::fs::chown(&path, Some(65_534), None).expect("root may");
    let refused = config.load_secret().expect_err("another's").to_string();
    assert!(refused.contains("belongs to user 65534") && refused.contains("chown 0"), "{refused}");
}

#[test]
fn policies_for_a_split_brain_are_read_where_they_make_sense_and_must_be_alike_on_all_nodes() {
    use replicator::generation::split_brain::Policy;
    let with =
        |policies: &str| MAIL.replacen("\"5s\"", &format!("\"5s\"\nsplit-brain = {{ {policies} }}"), 1);
    let plain = parse(MAIL).expect("legal");
    assert_eq!(plain.split_brain, Policies::default());
    assert_eq!(plain.rescue.folder, Path::new("/var/lib/twinblk"));
    let config = parse(&with("no-primary = \"discard-least-changes\", one-primary = \"discard-secondary\""));
    let config = config.expect("legal");
    assert_eq!(config.split_brain.no_primary, Policy::DiscardLeastChanges);
    assert_eq!(config.split_brain.one_primary, Policy::DiscardSecondary);
    assert_eq!(config.split_brain.two_primaries, Policy::Disconnect);
    assert_ne!(config.digest(), plain.digest(), "both ends have to choose alike");
    for (case, policy, part) in [
        ("no-primary", "discard-secondary", "without a Primary there is no Secondary"),
        ("two-primaries", "discard-secondary", "where both are Primary there is no Secondary"),
        ("one-primary", "discard-mine", "`discard-mine` is no policy"),
    ] {
        let error = parse(&with(&format!("{case} = \"{policy}\""))).expect_err("a mistake");
        let text = &error.problems[0].text;
        assert!(text.contains(part) && text.contains("write one of \"disconnect\", "), "{text}");
    }
}

#[test]
fn where_rescues_go_may_differ_between_nodes() {
    let rescue = "\"5s\"\nrescue = { folder = \"/srv/rescue\", size-max = \"1GiB\" }";
    let config = parse(&MAIL.replacen("\"5s\"", rescue, 1)).expect("legal");
    assert_eq!(config.rescue, RescueConfig { folder: "/srv/rescue".into(), bytes_max: Some(1 << 30) });
    assert_eq!(config.digest(), parse(MAIL).expect("legal").digest());
    let relative = one_mistake("\"5s\"", "\"5s\"\nrescue = { folder = \"rescue\" }");
    assert!(relative.contains("folder"), "{relative}");
}

#[test]
fn on_no_data_is_to_freeze_unless_it_is_to_fail() {
    let with = |line: &str| {
        MAIL.replace("on-peer-lost = \"quorum\"\n", &format!("on-peer-lost = \"quorum\"\n{line}"))
    };
    let read = |line: &str| parse(&with(line)).expect("good").on_no_data;
    assert_eq!(read(""), OnNoData::Freeze);
    assert_eq!(read("on-no-data = \"freeze\"\n"), OnNoData::Freeze);
    assert_eq!(read("on-no-data = \"fail\"\n"), OnNoData::Fail);
    let refused = parse(&with("on-no-data = \"io-error\"\n")).expect_err("no choice").to_string();
    assert!(refused.contains("clients get EIO"), "{refused}");
}
