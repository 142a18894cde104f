//! `haversack serve`

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
    /// Show the default partner's API key, as the first start did
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
    let data_dir = config.data_dir.clone();
    let app = App::build(
        config,
        Clock::system(),
        Arc::new(Loopback),
        Arc::new(SystemResolver),
    )
    .await?;
    let welcome = bootstrap::prepare(&data_dir, &app, show_key).await?;
    // Listened for before anything is said: whoever reads the lines may stop us at once.
    let mut signals = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    ];
    // Whoever read the first lines may have closed the pipe; that is no reason not to serve.
    let _ = writeln!(std::io::stdout(), "{welcome}");
    tracing::info!(address = %app.address(), "serving");
    let shutdown = async {
        either(&mut signals).await;
        tracing::info!("stopping; running requests may finish, a second signal cuts them off");
        tokio::spawn(async move {
            either(&mut signals).await;
            // As a crash: what was acknowledged is safe, and the next start sweeps the rest.
            std::process::exit(1);
        });
    };
    let finished = app.run(shutdown).await?;
    if !finished {
        tracing::warn!("the grace time is over; requests that were still running were cut off");
    }
    Ok(())
}

async fn either([terminate, interrupt]: &mut [Signal; 2]) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn start_log(config: &Config) -> anyhow::Result<()> {
    let filter = log_filter(&config.log).with_context(|| {
        format!(
            "HAVERSACK_LOG: {:?} is not a level or list of target=level",
            config.log
        )
    })?;
    let log = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => log.with(lines).init(),
        LogFormat::Json => log.with(lines.json()).init(),
    }
    Ok(())
}

/// Parses a level or a list of `target=level`. Empty items are ignored; `Targets` would read them as the level `error`.
fn log_filter(list: &str) -> Result<Targets, ParseError> {
    let items: Vec<_> = list.split(',').filter(|item| !item.is_empty()).collect();
    items.join(",").parse()
}

/// Each connection and each open file takes a descriptor; the usual soft limit of 1024 is for programs that use
/// `select`, which this one does not.
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
