//! Implements `haversack serve`, which runs the server.

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::bootstrap;
use crate::app::App;
use crate::clock::Clock;
use crate::config::{Config, LogFormat};
use crate::delivery::Loopback;
use crate::fetch::SystemResolver;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print the API key of the default partner, as the first start does
    #[arg(long)]
    show_key: bool,
}

pub(super) fn run(config: Config, arguments: &Arguments) -> anyhow::Result<()> {
    start_log(&config)?;
    raise_file_limit();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(serve(config, arguments.show_key))
}

async fn serve(config: Config, show_key: bool) -> anyhow::Result<()> {
    let data_dir = config.storage.data_dir.clone();
    let app = App::build(
        config,
        Clock::system(),
        Arc::new(Loopback),
        Arc::new(SystemResolver),
    )
    .await?;
    let welcome = bootstrap::prepare(&data_dir, &app, show_key).await?;
    // Signal handlers are installed before the first output, because its reader may send a signal
    // immediately.
    let mut signals = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    ];
    // A write error is ignored: the reader may have closed the pipe after the first lines.
    let _ = writeln!(std::io::stdout(), "{welcome}");
    tracing::info!(address = %app.address(), "serving");
    let shutdown = async {
        any_signal(&mut signals).await;
        tracing::info!("stopping after running requests; a second signal stops at once");
        tokio::spawn(async move {
            any_signal(&mut signals).await;
            // Exiting immediately is as safe as a crash: acknowledged data is durable, and the next
            // start cleans up the rest.
            std::process::exit(1);
        });
    };
    let finished = app.run(shutdown).await?;
    if !finished {
        tracing::warn!("the grace period has ended; running requests were aborted");
    }
    Ok(())
}

async fn any_signal([terminate, interrupt]: &mut [Signal; 2]) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn start_log(config: &Config) -> anyhow::Result<()> {
    let filter = log_filter(&config.log.filter).with_context(|| {
        format!(
            "HAVERSACK_LOG: {:?} is not a level or list of target=level",
            config.log.filter
        )
    })?;
    let log = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.log.format {
        LogFormat::Text => log.with(lines).init(),
        LogFormat::Json => log.with(lines.json()).init(),
    }
    Ok(())
}

/// Parses a log level or a list of `target=level` pairs. Skips empty items, which `Targets` would
/// read as the level `error`.
fn log_filter(list: &str) -> Result<Targets, ParseError> {
    let items: Vec<_> = list.split(',').filter(|item| !item.is_empty()).collect();
    items.join(",").parse()
}

/// Raises the soft limit on open files to the hard limit, because each connection and each open
/// file needs a descriptor. The usual soft limit of 1024 exists for programs that use select(2).
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_filter_takes_levels_and_targets() {
        use tracing::Level;
        let filter = |list| log_filter(list).expect(list);
        for list in [
            "info",
            "INFO",
            "3",
            "info,",
            "error,info",
            ",info,hyper=off",
        ] {
            let filter = filter(list);
            assert!(filter.would_enable("haversack", &Level::INFO), "{list}");
            assert!(!filter.would_enable("haversack", &Level::DEBUG), "{list}");
        }
        let one = filter("warn,haversack::fetch=debug");
        assert!(one.would_enable("haversack::fetch::connect", &Level::DEBUG));
        assert!(!one.would_enable("haversack::delivery", &Level::INFO));
        assert!(!filter("off").would_enable("haversack", &Level::ERROR));
        for list in ["haversack=loud", "a=info=b"] {
            assert!(log_filter(list).is_err(), "{list}");
        }
    }
}
