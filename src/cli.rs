//! The commands: what an operator or a cluster script types. Each command is a file; this one only hands over.
//!
//! Rule: everything is checked before anything is touched. Policy is not here: a daemon decides what a
//! command may do, and the configuration file what is legal.

pub mod args;
mod client;
mod create_metadata;
mod demo;
mod events;
pub mod exit;
mod explain;
mod host;
mod inspect;
mod logging;
mod orders;
mod render;
mod report;
mod run;
mod start_refusal;
mod status;
mod tiebreaker;

use clap::CommandFactory;

use self::args::{Command, CommandLine, Places};
use self::exit::{Answer, Format, Outcome};
use crate::config_file::ResourceConfig;

/// Carries out a command; [`exit::report`] says what has become of it.
pub fn run(line: CommandLine) -> Outcome {
    let CommandLine { places, json, command } = line;
    let format = if json && !command.has_json_of_its_own() { Format::Json } else { Format::Text };
    let resource = command.resource().map(str::to_owned);
    Outcome { resource, format, result: carry_out(&places, json, command) }
}

fn carry_out(places: &Places, json: bool, command: Command) -> anyhow::Result<Answer> {
    let said = |()| Answer::Said;
    match command {
        Command::CreateMetadata(args) => create_metadata::run(places, &args),
        Command::Run(args) => run::run(places, &args).map(said),
        Command::Status(args) => status::run(places, &args).map(said),
        Command::Explain(args) => explain::run(places, &args, json).map(said),
        Command::Role(args) => status::role(places, &args),
        Command::Promote(args) => orders::promote(places, &args),
        Command::Demote(args) => orders::demote(places, &args),
        Command::AcceptNewVoter(args) => orders::accept_new_voter(places, &args),
        Command::Outdate(args) => orders::outdate(places, &args),
        Command::Connect(args) => orders::connect(places, &args),
        Command::Disconnect(args) => orders::disconnect(places, &args),
        Command::PauseResync(args) => orders::pause_resync(places, &args),
        Command::ResumeResync(args) => orders::resume_resync(places, &args),
        Command::ResolveSplitBrain(args) => orders::resolve_split_brain(places, &args),
        Command::Serve(args) => orders::serve(places, &args),
        Command::WaitConnect(args) => orders::wait_connect(places, &args),
        Command::WaitSync(args) => orders::wait_sync(places, &args),
        Command::Events(args) => events::run(places, &args).map(said),
        Command::Inspect(args) => inspect::run(places, &args).map(said),
        Command::Tiebreaker(args) => tiebreaker::run(places, &args),
        Command::Demo(args) => demo::run(&args).map(said),
        Command::EndWith { parent, args } => demo::end_with(parent, &args).map(said),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut CommandLine::command(), "twinblk", &mut std::io::stdout());
            Ok(Answer::Said)
        }
        Command::Man { dir } => {
            std::fs::create_dir_all(&dir)?;
            Ok(clap_mangen::generate_to(CommandLine::command(), dir).map(said)?)
        }
    }
}

/// Logs what the configuration warns of.
fn warn(config: &ResourceConfig) {
    for warning in &config.warnings {
        tracing::warn!("{}:{}: {}", config.file.display(), warning.line, warning.text);
    }
}
