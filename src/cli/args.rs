//! The command line: every command, every option, and the checks that need neither files nor sockets.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use replicator::units::Span;

use crate::config_file::values::{self, BadValue};

/// Replicated block devices: NBD in front, a journal below, a mirror on another host.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, disable_help_subcommand = true, after_help = EXIT_STATUS)]
pub struct CommandLine {
    #[command(flatten)]
    pub places: Places,
    /// As JSON: the answer, or why there is none, in one line
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_STATUS: &str = "\
Exit status:
  0   done, or already so
  1   failed for a reason that has no number of its own
  2   wrong usage
  5   it did not come true in the time given; outdate: the disk is Inconsistent
  10  mistake in the configuration, or no daemon
  11  refused: the state does not allow it
  17  refused: no UpToDate data";

/// Where control sockets are, if nobody says otherwise.
pub const RUN_DIR: &str = "/run/twinblk";

/// Where things are, and who this node is.
#[derive(Clone, Debug, Args)]
pub struct Places {
    /// Folder with the configuration files, RES.toml each
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "TWINBLK_CONFIG_DIR",
        default_value = "/etc/twinblk"
    )]
    #[arg(hide_env = true, hide_default_value = true)]
    pub config_dir: PathBuf,
    /// Folder with the control sockets, RES.sock each
    #[arg(long, global = true, value_name = "DIR", env = "TWINBLK_RUN_DIR", default_value = RUN_DIR)]
    #[arg(hide_env = true, hide_default_value = true)]
    pub run_dir: PathBuf,
    /// Name of this node.
    #[arg(long, global = true, value_name = "NAME", env = "TWINBLK_NODE", hide_env = true)]
    #[arg(help = "Which [[node]] of the configuration this is, if not the one with the name of this host")]
    pub node: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prepare this node's disk for a resource
    CreateMetadata(CreateMetadataArgs),
    /// Run the daemon of a resource in the foreground
    Run(RunArgs),
    /// Show role, disks and links, and what to do about what is wrong
    Status(StatusArgs),
    /// Say why this node and its peers stand as they do, what leads out, and what each way would lose
    Explain(ResourceArgs),
    /// Print the role of this node: Primary or Secondary
    Role(ResourceArgs),
    /// Become Primary: serve clients from this node
    Promote(PromoteArgs),
    /// Become Secondary: stop serving clients
    Demote(DemoteArgs),
    /// Let a new disk or tiebreaker vote although no majority remembers what the old one had recorded
    AcceptNewVoter(AcceptNewVoterArgs),
    /// Call this copy older than the peer's, so that it cannot be promoted until it has caught up
    Outdate(ResourceArgs),
    /// Link to the peers again after `disconnect`
    Connect(ConnectArgs),
    /// Unlink from the peers until `connect`
    Disconnect(PeerArgs),
    /// Stop copying blocks from this node to peers that are being resynced
    PauseResync(ResourceArgs),
    /// Go on copying after `pause-resync`
    ResumeResync(ResourceArgs),
    /// After a split brain: throw away what this node wrote on its own, and follow the other one
    ResolveSplitBrain(ResolveArgs),
    /// During a split brain: let clients read this node's side as it was left
    Serve(ServeArgs),
    /// Wait until every peer is connected
    WaitConnect(WaitConnectArgs),
    /// Wait until every disk is UpToDate
    WaitSync(WaitSyncArgs),
    /// Show what happens, line by line
    Events(EventsArgs),
    /// Show the metadata of a resource that is stopped, or what a rescue image holds; changes nothing
    Inspect(InspectArgs),
    /// Run the tiebreaker of a resource in the foreground
    Tiebreaker(TiebreakerArgs),
    /// Try twinblk: two replicas on this machine, a crash, and a check that no message is lost
    Demo(DemoArgs),
    /// Be `twinblk ARGS`, and end when the process that started this one ends
    #[command(hide = true)]
    EndWith {
        /// Number of that process
        parent: u32,
        /// What to be
        #[arg(last = true, required = true)]
        args: Vec<std::ffi::OsString>,
    },
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write man pages
    #[command(hide = true)]
    Man {
        /// Into which folder
        dir: PathBuf,
    },
}

impl Command {
    /// Whether its `--json` is for what it shows, in a shape of its own; why it has ended is then said to people.
    pub fn has_json_of_its_own(&self) -> bool {
        match self {
            Self::Status(_) | Self::Explain(_) | Self::Events(_) | Self::Inspect(_) | Self::Demo(_) => true,
            Self::CreateMetadata(_)
            | Self::Run(_)
            | Self::Role(_)
            | Self::Promote(_)
            | Self::Demote(_)
            | Self::AcceptNewVoter(_)
            | Self::Outdate(_)
            | Self::Connect(_)
            | Self::Disconnect(_)
            | Self::PauseResync(_)
            | Self::ResumeResync(_)
            | Self::ResolveSplitBrain(_)
            | Self::Serve(_)
            | Self::WaitConnect(_)
            | Self::WaitSync(_)
            | Self::Tiebreaker(_)
            | Self::EndWith { .. }
            | Self::Completions { .. }
            | Self::Man { .. } => false,
        }
    }

    /// The resource that it is about.
    pub fn resource(&self) -> Option<&str> {
        match self {
            Self::CreateMetadata(args) => Some(&args.resource),
            Self::Run(args) => Some(&args.resource),
            Self::Explain(args) | Self::Role(args) => Some(&args.resource),
            Self::Promote(args) => Some(&args.resource),
            Self::Demote(args) => Some(&args.resource),
            Self::AcceptNewVoter(args) => Some(&args.resource),
            Self::Connect(args) => Some(&args.resource),
            Self::Disconnect(args) => Some(&args.resource),
            Self::Outdate(args) | Self::PauseResync(args) | Self::ResumeResync(args) => Some(&args.resource),
            Self::ResolveSplitBrain(args) => Some(&args.resource),
            Self::Serve(args) => Some(&args.resource),
            Self::WaitConnect(args) => Some(&args.resource),
            Self::WaitSync(args) => Some(&args.resource),
            Self::Tiebreaker(args) => Some(&args.resource),
            Self::Status(args) => args.resource.as_deref(),
            Self::Events(args) => args.resource.as_deref(),
            Self::Inspect(_)
            | Self::Demo(_)
            | Self::EndWith { .. }
            | Self::Completions { .. }
            | Self::Man { .. } => None,
        }
    }
}

#[derive(Debug, Args)]
pub struct ResourceArgs {
    /// Name of the resource
    #[arg(value_name = "RES", value_parser = resource)]
    pub resource: String,
}

#[derive(Debug, Args)]
pub struct CreateMetadataArgs {
    /// Name of the resource
    #[arg(value_name = "RES", value_parser = resource)]
    pub resource: String,
    /// Adopt what is on the data device as the newest data: on one node only
    #[arg(long, conflicts_with = "uptodate_zeroed")]
    pub uptodate: bool,
    /// Zero the data device; given on every node, the first promotion copies nothing
    #[arg(long)]
    pub uptodate_zeroed: bool,
    /// Discard metadata that exists, what a file given as metadata holds and, with --uptodate-zeroed, a file system
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Name of the resource
    #[arg(value_name = "RES", value_parser = resource)]
    pub resource: String,
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object for each line.
    Json,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Name of the resource; every running one if left out
    #[arg(value_name = "RES", value_parser = resource)]
    pub resource: Option<String>,
    /// As JSON: one object for RES, else a list (docs/status.schema.json)
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct PromoteArgs {
    /// Name of the resource
    #[arg(value_name = "RES", value_parser = resource)]
    pub resource: String,
    /// How long to wait for what a promotion may wait for: the end of a lease, a vote
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "30s")]
    pub wait: Span,
    /// There is proof that every node that cannot be reached is silent: a cluster manager has fenced it
    #[arg(long)]
    pub peer_is_fenced: bool,
    /// Without a majority, without the peer's agreement, from an outdated copy; first says what may be lost
    #[arg(long, conflicts_with = "peer_is_fenced")]
    pub force: bool,
    /// With --force: only say what may be lost
    #[arg(long, requires = "force")]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct AcceptNewVoterArgs {
    /// Name of the resource
    #[arg(value_name = "RES", value_parser = resource)]
    pub resource: String,
    /// Identity of the new voter, as `status` shows it: 16 hexadecimal digits
    #[arg(value_name = "ID")]
    pub voter: String,
    /// Only say what may be lost
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct DemoteArgs {
    /// Name of the resource
    #[arg(value_name = "RES", value_parser = resource)]
    pub resource: String,
    /// Disconnect clients; what they have in flight fails
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct PeerArgs {
    /// Name of the resource
    #[arg(value_name = "RES", value_parser = resource)]
    pub resource: String,
    /// Only this peer
    #[arg(long, value_name = "NAME")]
    pub peer: Option<String>,
}

#[derive(Debug, Args)]
pub struct ResolveArgs {
    /// Name of the resource
    #[arg(value_name = "RES", value_parser = resource)]
    pub resource: String,
    /// Discard what this node wrote on its own; there is no other way to resolve a split brain
    #[arg(long, required = true)]
    pub discard_mine: bool,
    /// In favour of this peer, if there is a split brain with several
    #[arg(long, value_name = "NAME")]
    pub peer: Option<String>,
    /// Say what would be discarded and where it would be saved; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Copy every block anew, where it is not known for certain which ones differ
    #[arg(long)]
    pub full_resync: bool,
    /// Save what is discarded in this new file, instead of one in the folder that the configuration names
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Save nothing: what is discarded is lost
    #[arg(long, conflicts_with = "save")]
    pub no_save: bool,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Name of the resource
    #[arg(value_name = "RES", value_parser = resource)]
    pub resource: String,
    /// Clients may read only; there is no other way to serve from a Secondary
    #[arg(long, required = true)]
    pub read_only: bool,
    /// What this node holds, whatever the other one holds by now; as export RES-as-was
    #[arg(long, required = true)]
    pub as_was: bool,
    /// End it, and disconnect the clients
    #[arg(long)]
    pub stop: bool,
}

#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// Name of the resource
    #[arg(value_name = "RES", value_parser = resource)]
    pub resource: String,
    /// Only this peer
    #[arg(long, value_name = "NAME")]
    pub peer: Option<String>,
    /// Only say which verdict that would reach; ends with 11 if the nodes would stand alone, with 5 if there is no link
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct WaitConnectArgs {
    /// Name of the resource
    #[arg(value_name = "RES", value_parser = resource)]
    pub resource: String,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "2min")]
    pub timeout: Span,
}

#[derive(Debug, Args)]
pub struct WaitSyncArgs {
    /// Name of the resource
    #[arg(value_name = "RES", value_parser = resource)]
    pub resource: String,
    /// How long to wait at most; without limit if left out
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub timeout: Option<Span>,
}

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Name of the resource; every running one if left out
    #[arg(value_name = "RES", value_parser = resource)]
    pub resource: Option<String>,
    /// One JSON object for each line
    #[arg(long)]
    pub json: bool,
    /// Show the present state and end
    #[arg(long)]
    pub now: bool,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Name of the resource, or a path (with a slash) to a metadata file or device, or to a rescue image
    #[arg(value_name = "RES|PATH")]
    pub subject: String,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct TiebreakerArgs {
    /// Name of the resource
    #[arg(value_name = "RES", value_parser = resource)]
    pub resource: String,
    /// Make its state file, and end; refused if the file exists
    #[arg(long)]
    pub init: bool,
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// How long to write messages
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub seconds: u64,
    /// Repeats the moments and messages of an earlier run
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// How often a Primary is killed
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub kills: u32,
    /// Size of the disk
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub size: Option<u64>,
    /// Where the disks are made; a temporary folder if left out
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave disks and logs behind
    #[arg(long)]
    pub keep: bool,
    /// The figures as JSON; with --serve, where everything is
    #[arg(long)]
    pub json: bool,
    /// A playground instead: serve the disk until interrupted
    #[arg(long, conflicts_with_all = ["seconds", "kills", "seed"])]
    pub serve: bool,
    /// Where the playground listens for NBD clients
    #[arg(long, value_name = "PATH", requires = "serve")]
    pub socket: Option<PathBuf>,
}

fn resource(text: &str) -> Result<String, BadValue> {
    values::check_resource_name(text).map(|()| text.to_owned())
}

fn span(text: &str) -> Result<Span, BadValue> {
    values::parse_span(text)
}

fn size(text: &str) -> Result<u64, BadValue> {
    values::parse_size(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn places_may_stand_behind_the_command() {
        let line = CommandLine::parse_from(["twinblk", "status", "mail", "--run-dir", "/x", "--node", "a"]);
        assert_eq!(line.places.run_dir, PathBuf::from("/x"));
        assert_eq!(line.places.node.as_deref(), Some("a"));
    }

    #[test]
    fn json_may_stand_anywhere_and_reaches_the_commands_that_have_a_shape_of_their_own() {
        for words in [["twinblk", "--json", "status"], ["twinblk", "status", "--json"]] {
            let line = CommandLine::parse_from(words);
            assert!(line.json && matches!(line.command, Command::Status(StatusArgs { json: true, .. })));
        }
        assert!(CommandLine::parse_from(["twinblk", "promote", "mail", "--json"]).json);
        assert!(!CommandLine::parse_from(["twinblk", "promote", "mail"]).json);
    }

    #[test]
    fn two_contradicting_origins_of_the_data_are_wrong_usage() {
        let both = ["twinblk", "create-metadata", "mail", "--uptodate", "--uptodate-zeroed"];
        assert_eq!(CommandLine::try_parse_from(both).expect_err("contradiction").exit_code(), 2);
    }
}
