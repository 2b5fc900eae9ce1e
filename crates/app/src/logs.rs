//! Logs go to standard error, as text or JSON, one line each.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, LogSettings};

/// Starts logging. Other crates than ours only say what is wrong, except at the levels below `info`.
pub(crate) fn start(settings: LogSettings) {
    let level = settings.level.as_str();
    let filter = match level {
        "debug" | "trace" => EnvFilter::new(level),
        _ => {
            EnvFilter::new(format!("warn,evergrant={level},evergrant_server={level},evergrant_store={level}"))
        }
    };
    start_with(settings.format, filter, std::io::stderr);
}

fn start_with<W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static>(
    format: LogFormat,
    filter: EnvFilter,
    writer: W,
) {
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // A second start, as in a test, changes nothing.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(colours()).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
}

fn colours() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}
