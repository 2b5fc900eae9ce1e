//! Logs go to standard error, as text or JSON, one line each.

use std::io::Write;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::MakeWriterExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, LogLevel, LogSettings};

/// Starts logging. Other crates than ours only say what is wrong, except at the levels below `info`.
pub(crate) fn start(settings: LogSettings) {
    start_with(settings.format, filter(settings), std::io::stderr, colours());
}

/// As [`start`], for commands that print what they did: only what is wrong is logged.
pub(crate) fn start_quietly(settings: LogSettings) {
    let filter = if settings.level == LogLevel::Info { EnvFilter::new("warn") } else { filter(settings) };
    start_with(settings.format, filter, std::io::stderr, colours());
}

/// Starts logging into a file, and, if so wished, to standard error too.
pub(crate) fn start_in<W: Write + Clone + Send + Sync + 'static>(settings: LogSettings, file: W, show: bool) {
    let file = move || file.clone();
    if show {
        start_with(settings.format, filter(settings), std::io::stderr.and(file), false);
    } else {
        start_with(settings.format, filter(settings), file, false);
    }
}

fn filter(settings: LogSettings) -> EnvFilter {
    let level = settings.level.as_str();
    match level {
        // The agent's HTTP client would write every byte that it sends at `trace`, key and login among them.
        "debug" | "trace" => EnvFilter::new(format!("{level},ureq=warn,ureq_proto=warn")),
        _ => {
            let ours = ["evergrant", "evergrant_agent", "evergrant_server", "evergrant_store"];
            let ours = ours.map(|name| format!(",{name}={level}")).concat();
            EnvFilter::new(format!("warn{ours}"))
        }
    }
}

fn start_with<W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static>(
    format: LogFormat,
    filter: EnvFilter,
    writer: W,
    colours: bool,
) {
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // A second start, as in a test, changes nothing.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(colours).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
}

fn colours() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}
