//! `twinblk tiebreaker`: the vote without data, in the foreground; `--init` makes its state file.
//!
//! Rule: a state file that exists is never replaced: a tiebreaker that forgets what it promised may let two
//! nodes be Primary.

use super::args::{Places, TiebreakerArgs};
use super::exit::{Answer, Ended, Status};
use super::{host, logging, start_refusal};
use crate::config_file::{ResourceConfig, TiebreakerConfig};
use crate::control_plane;

/// `twinblk tiebreaker`
pub fn run(places: &Places, args: &TiebreakerArgs) -> anyhow::Result<Answer> {
    let (config, tiebreaker) = ResourceConfig::load_for_tiebreaker(&places.config_dir, &args.resource)?;
    if args.init {
        return init(&config, &tiebreaker);
    }
    if !tiebreaker.state.exists() {
        let text = format!("{} does not exist", tiebreaker.state.display());
        let action = format!(
            "`twinblk tiebreaker {} --init`, if this resource never had one, or its file is lost for good",
            config.resource
        );
        return Err(Ended::advised(Status::Configuration, text, action));
    }
    host::require_io_uring()?;
    let _log = logging::start(args.log_format);
    super::warn(&config);
    let outcome = control_plane::tiebreaker::run_tiebreaker(&config, &tiebreaker.state);
    outcome.map_err(|error| start_refusal::of_tiebreaker(&config.resource, &error))?;
    Ok(Answer::Said)
}

fn init(config: &ResourceConfig, tiebreaker: &TiebreakerConfig) -> anyhow::Result<Answer> {
    if tiebreaker.state.exists() {
        let text = format!(
            "{} exists already: it holds the promises of this tiebreaker and is never replaced",
            tiebreaker.state.display()
        );
        return Err(Ended::advised(Status::Refused, text, "start it with `twinblk tiebreaker`"));
    }
    let voter = control_plane::tiebreaker::init(config, &tiebreaker.state);
    let voter = voter.map_err(|error| start_refusal::of_tiebreaker(&config.resource, &error))?;
    let state = tiebreaker.state.display();
    Ok(Answer::Text(format!("{state}: tiebreaker of {}, voter {voter}", config.resource)))
}
