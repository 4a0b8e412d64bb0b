//! Log lines of a process in the foreground, on standard error: text or JSON.
//!
//! Rule: `RUST_LOG` chooses what is shown, `info` and above if it says nothing. Whether lines carry a time
//! is decided by who reads: a journal adds its own. Lines are written by a thread of their own, and dropped when
//! that falls behind: whoever does not read the log must not stop heartbeats.

use std::io::IsTerminal;

use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_subscriber::EnvFilter;

use super::args::LogFormat;

/// Begins to log. What is logged is written at the latest when the guard is dropped.
pub fn start(format: LogFormat) -> WorkerGuard {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let (writer, guard) = NonBlocking::new(std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    let is_in_journal = std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal();
    match format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text if is_in_journal => builder.with_ansi(false).without_time().init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    guard
}
