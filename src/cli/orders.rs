//! Orders to a daemon: promote, demote, connect, disconnect, and others; and the two waits.

use std::time::Duration;

use replicator::units::Span;

use super::args::{
    AcceptNewVoterArgs, ConnectArgs, DemoteArgs, PeerArgs, Places, PromoteArgs, ResolveArgs, ResourceArgs,
    ServeArgs, WaitConnectArgs, WaitSyncArgs,
};
use super::client::{ANSWER_TIMEOUT, Client};
use super::exit::Answer;
use crate::control_protocol::{Command, ReplyBody};

/// How much longer than the daemon the client waits, so that the daemon's own answer comes first.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a superblock may take to be written.
const OUTDATE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a dry run may take: a link has to be made for it.
const DRY_RUN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a demotion may take: what is in flight is finished and flushed first.
const DEMOTE_TIMEOUT: Duration = Duration::from_secs(90);

/// `twinblk promote`
pub fn promote(places: &Places, args: &PromoteArgs) -> anyhow::Result<Answer> {
    if args.force {
        // What it costs is said before, not after.
        let cost = order(places, &args.resource, Command::WeighForce, Some(ANSWER_TIMEOUT))?;
        let Answer::Text(cost) = cost else { anyhow::bail!("{}: no answer about the cost", args.resource) };
        if args.dry_run {
            return Ok(Answer::Text(format!("promoting by force would lose what others hold: {cost}")));
        }
        eprintln!("{}: promoting by force: {cost}", args.resource);
    }
    let command = Command::Promote {
        wait_ms: args.wait.as_millis(),
        peer_is_fenced: args.peer_is_fenced,
        force: args.force,
    };
    order(places, &args.resource, command, Some(longer_than(args.wait)))
}

/// `twinblk accept-new-voter`
pub fn accept_new_voter(places: &Places, args: &AcceptNewVoterArgs) -> anyhow::Result<Answer> {
    let command = |dry_run| Command::AcceptNewVoter { voter: args.voter.clone(), dry_run };
    // What it may cost is said before, not after.
    let cost = order(places, &args.resource, command(true), Some(ANSWER_TIMEOUT))?;
    let Answer::Text(cost) = cost else { anyhow::bail!("{}: no answer about the cost", args.resource) };
    if args.dry_run {
        return Ok(Answer::Text(cost));
    }
    eprintln!("{}: accepting voter {}: {cost}", args.resource, args.voter);
    order(places, &args.resource, command(false), Some(ANSWER_TIMEOUT))
}

/// `twinblk outdate`
pub fn outdate(places: &Places, args: &ResourceArgs) -> anyhow::Result<Answer> {
    order(places, &args.resource, Command::Outdate, Some(OUTDATE_TIMEOUT))
}

/// `twinblk demote`
pub fn demote(places: &Places, args: &DemoteArgs) -> anyhow::Result<Answer> {
    order(places, &args.resource, Command::Demote { force: args.force }, Some(DEMOTE_TIMEOUT))
}

/// `twinblk connect`
pub fn connect(places: &Places, args: &ConnectArgs) -> anyhow::Result<Answer> {
    let command = Command::Connect { peer: args.peer.clone(), dry_run: args.dry_run };
    let within = if args.dry_run { DRY_RUN_TIMEOUT } else { ANSWER_TIMEOUT };
    order(places, &args.resource, command, Some(within))
}

/// `twinblk disconnect`
pub fn disconnect(places: &Places, args: &PeerArgs) -> anyhow::Result<Answer> {
    order(places, &args.resource, Command::Disconnect { peer: args.peer.clone() }, Some(ANSWER_TIMEOUT))
}

/// `twinblk pause-resync`
pub fn pause_resync(places: &Places, args: &ResourceArgs) -> anyhow::Result<Answer> {
    order(places, &args.resource, Command::PauseResync, Some(ANSWER_TIMEOUT))
}

/// `twinblk resume-resync`
pub fn resume_resync(places: &Places, args: &ResourceArgs) -> anyhow::Result<Answer> {
    order(places, &args.resource, Command::ResumeResync, Some(ANSWER_TIMEOUT))
}

/// `twinblk resolve-split-brain`
pub fn resolve_split_brain(places: &Places, args: &ResolveArgs) -> anyhow::Result<Answer> {
    // The daemon has another working directory.
    let save = args.save.as_ref().map(std::path::absolute).transpose()?;
    let command = Command::ResolveSplitBrain {
        peer: args.peer.clone(),
        full_resync: args.full_resync,
        dry_run: args.dry_run,
        save,
        no_save: args.no_save,
    };
    // Saving takes as long as it takes; the daemon goes on with it if this command is interrupted.
    order(places, &args.resource, command, None)
}

/// `twinblk serve`
pub fn serve(places: &Places, args: &ServeArgs) -> anyhow::Result<Answer> {
    order(places, &args.resource, Command::ServeAsWas { stop: args.stop }, Some(ANSWER_TIMEOUT))
}

/// `twinblk wait-connect`
pub fn wait_connect(places: &Places, args: &WaitConnectArgs) -> anyhow::Result<Answer> {
    let command = Command::WaitConnect { wait_ms: Some(args.timeout.as_millis()) };
    order(places, &args.resource, command, Some(longer_than(args.timeout)))
}

/// `twinblk wait-sync`
pub fn wait_sync(places: &Places, args: &WaitSyncArgs) -> anyhow::Result<Answer> {
    let command = Command::WaitSync { wait_ms: args.timeout.map(Span::as_millis) };
    order(places, &args.resource, command, args.timeout.map(longer_than))
}

fn longer_than(span: Span) -> Duration {
    Duration::from_micros(span.0).saturating_add(PATIENCE)
}

fn order(
    places: &Places,
    resource: &str,
    command: Command,
    within: Option<Duration>,
) -> anyhow::Result<Answer> {
    match Client::connect(places, resource)?.ask(command, within)? {
        ReplyBody::Done { text } => Ok(Answer::Text(text)),
        other => anyhow::bail!("{resource}: the daemon answered an order with {other:?}"),
    }
}
