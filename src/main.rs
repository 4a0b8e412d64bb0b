//! twinblk: a replicated block device in user space. Parses the command line, dispatches, and turns the
//! outcome into an exit status; everything else is elsewhere.

mod border;
mod cli;
mod clock;
mod config_file;
mod control_plane;
mod control_protocol;
mod data_plane;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::exit::report(&cli::run(cli::args::CommandLine::parse()))
}
