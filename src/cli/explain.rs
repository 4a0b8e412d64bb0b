//! `twinblk explain`: why a node and its peers stand to each other as they do, and what leads on.
//!
//! Rule: the daemon knows and says everything; this puts it on a screen. Without a daemon only the metadata is left, and
//! that it is no more than that is said.

mod text;

use std::io::Write;

use replicator::explain_report::ExplainReport;
use serde_json::json;

use super::args::{InspectArgs, Places, ResourceArgs};
use super::client::{Client, EXPLAIN_TIMEOUT};
use super::inspect;
use super::status::print_json;
use crate::control_protocol::{Command, ReplyBody};

/// `twinblk explain`
pub fn run(places: &Places, args: &ResourceArgs, json: bool) -> anyhow::Result<()> {
    let mut client = match Client::connect(places, &args.resource) {
        Ok(client) => client,
        Err(no_daemon) => {
            tell_metadata(places, &args.resource, json)?;
            return Err(no_daemon);
        }
    };
    let report = match client.ask(Command::Explain, Some(EXPLAIN_TIMEOUT))? {
        ReplyBody::Explained { report } => report,
        other => anyhow::bail!("{}: the daemon answered a question with {other:?}", args.resource),
    };
    if json {
        return print_json(&report);
    }
    let report: ExplainReport = serde_json::from_value(report)
        .map_err(|error| anyhow::anyhow!("the daemon is of another release ({error}); try --json"))?;
    Ok(std::io::stdout().write_all(text::explanation(&report).as_bytes())?)
}

/// What the metadata alone tells; nothing if it cannot be read, for that there is no daemon is said anyway.
fn tell_metadata(places: &Places, resource: &str, json: bool) -> anyhow::Result<()> {
    let args = InspectArgs { subject: resource.to_owned(), json };
    let found = inspect::find(places, &args);
    if json {
        let metadata = found.as_ref().map(inspect::show::json).unwrap_or_default();
        return print_json(&json!({"schema": 1, "name": resource, "running": false, "metadata": metadata}));
    }
    let mut out = std::io::stdout();
    match found {
        Ok(found) => {
            let head =
                "The daemon does not run. What its metadata alone tells, without a word from any other node:";
            writeln!(out, "{head}\n\n{}", inspect::show::text(&found))?;
            Ok(writeln!(out, "{}", text::paragraph(WITHOUT_A_DAEMON, ""))?)
        }
        Err(error) => {
            Ok(writeln!(out, "The daemon does not run, and its metadata tells nothing: {error:#}")?)
        }
    }
}

const WITHOUT_A_DAEMON: &str = "Whether another node holds newer writes is not known from this. \
    The newest generation and the end of the journal say what this node holds; `peers` says up to which write each other \
    node is known to have flushed; `in sync` names who held every completed write when this node heard of it last. Start \
    the daemon: it changes no data before it has met its peers, and `twinblk explain` then says what follows.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stopped_resource_is_told_about_fits_a_screen() {
        assert!(text::paragraph(WITHOUT_A_DAEMON, "").lines().all(|line| line.len() <= text::WIDTH));
    }
}
