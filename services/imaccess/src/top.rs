//! `imaccess top`: how a cluster is doing now, drawn anew each second.
//!
//! `pages` fetches what the parts say of themselves, `figures` reads it, `rates` compares two rounds, `text` shows the result,
//! `screen` is the terminal. What decides is in the three in the middle, and pure.

mod figures;
mod pages;
mod rates;
mod screen;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use imaccess_common::config::duration;
use imaccess_common::drain::shutdown_signal;
use tokio::time::MissedTickBehavior;

use self::pages::{NamedUrl, Pages};
use self::rates::View;
use self::screen::Screen;
use crate::exit::{RETRY, WithStatus};
use crate::{run, terminal};

/// What `--help` ends with.
pub(crate) const EXAMPLES: &str = "\
Examples:
  imaccess top                  the cluster that `imaccess up` runs here
  imaccess top --once --json | jq .gateways
  imaccess top --metrics gw-a=10.0.0.5:9300,10.0.0.5:9301 --ipconfig 10.0.0.8:9303

A score is the remaining bandwidth in GB/s and the remaining connections, as ipconfig ranks by them. Scores, and which gateways are \
listed, come from ipconfig's own pages; rates from the difference of two readings of each part's /metrics. q or Ctrl-C ends it.";

/// Shortest interval: the parts count once in a while themselves.
const SHORTEST: Duration = Duration::from_millis(100);

/// Arguments of `top`.
#[derive(Debug, clap::Args)]
pub(crate) struct TopArgs {
    /// Directory of the `imaccess up` to look at [default: .imaccess]
    #[arg(long, value_name = "DIR", conflicts_with = "metrics")]
    dir: Option<PathBuf>,
    /// Pages of the parts of a cluster elsewhere; a gateway's name before its page ties it to its score
    #[arg(long, value_name = "[NAME=]URL", value_delimiter = ',')]
    metrics: Vec<NamedUrl>,
    /// Address of ipconfig's own pages (not the one that clients ask), if it isn't among --metrics
    #[arg(long, value_name = "URL")]
    ipconfig: Option<NamedUrl>,
    /// Between two readings
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Show one interval and end
    #[arg(long)]
    once: bool,
    /// One JSON object on one line for each interval
    #[arg(long)]
    json: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text).map_err(|fault| fault.to_string())?;
    if interval < SHORTEST {
        return Err(format!("must be {} at least", duration::format(SHORTEST)));
    }
    Ok(interval)
}

/// Runs it.
pub(crate) fn run(arguments: TopArgs) -> anyhow::Result<ExitCode> {
    run::quiet_runtime()?.block_on(top(arguments))
}

async fn top(arguments: TopArgs) -> anyhow::Result<ExitCode> {
    let pages = Pages::find(
        arguments.dir.as_deref(),
        arguments.metrics,
        arguments.ipconfig,
        arguments.interval,
    )?;
    let mut before = pages.read().await;
    if let Some(why) = before.nothing_read() {
        return Err(anyhow!("no page of the cluster can be read; is it up? {why}")).or_exit(RETRY);
    }
    let mut ticks = tokio::time::interval(arguments.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is now.
    ticks.tick().await;
    let mut show = Show::new(arguments.json, arguments.once);
    let signal = shutdown_signal();
    tokio::pin!(signal);
    loop {
        tokio::select! {
            biased;
            () = &mut signal => break,
            () = show.quit() => break,
            _ = ticks.tick() => {}
        }
        let now = pages.read().await;
        let view = rates::between(&before, &now);
        show.draw(&view);
        before = now;
        if arguments.once {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// For whom it is shown.
enum Show {
    Json,
    /// One block after the other.
    Blocks {
        first: bool,
    },
    Screen(Screen),
}

impl Show {
    fn new(json: bool, once: bool) -> Self {
        if json {
            return Self::Json;
        }
        let screen = if once { None } else { Screen::open() };
        screen.map_or(Self::Blocks { first: true }, Self::Screen)
    }

    fn draw(&mut self, view: &View) {
        match self {
            Self::Json => {
                let line = serde_json::to_string(view).expect("texts and numbers are always JSON");
                terminal::line(&line);
            }
            Self::Blocks { first } => {
                if !std::mem::take(first) {
                    terminal::line("");
                }
                terminal::line(&text::lines(view).join("\n"));
            }
            Self::Screen(screen) => screen.draw(&text::lines(view)),
        }
    }

    /// Somebody at the terminal wants it to end. Never, where there is none.
    async fn quit(&mut self) {
        match self {
            Self::Screen(screen) => screen.quit().await,
            _ => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests;
