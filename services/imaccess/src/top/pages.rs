//! Which pages a cluster has, and what they say now.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::future::join_all;
use imaccess_common::clock::unix_ms;
use serde::Deserialize;
use tokio::time::Instant;

use super::figures::Figures;
use super::rates::{Reading, Round};
use crate::cluster::http;
use crate::exit::{USAGE, WithStatus};
use crate::up::DEFAULT_DIRECTORY;

/// Longest wait for a page: a part that hangs is shown as one, and holds up nothing else.
const LONGEST: Duration = Duration::from_secs(2);

/// `[NAME=]URL` of a part's pages; the name is the address if none is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedUrl {
    name: String,
    /// Without a path.
    url: String,
}

impl FromStr for NamedUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = match text.split_once('=') {
            Some((name, address)) => (Some(name.trim()), address.trim()),
            None => (None, text.trim()),
        };
        if address.starts_with("https://") {
            return Err(format!("{address:?}: pages are asked by http://"));
        }
        let address = address.strip_prefix("http://").unwrap_or(address);
        let address = address.trim_end_matches('/').trim_end_matches("/metrics");
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(format!("{text:?} should read HOST:PORT, or NAME=HOST:PORT"));
        }
        Ok(Self {
            name: name.unwrap_or(address).to_owned(),
            url: format!("http://{address}"),
        })
    }
}

/// All pages of a cluster, and how they are asked.
#[derive(Debug)]
pub(super) struct Pages {
    pages: Vec<NamedUrl>,
    http: reqwest::Client,
    begun: Instant,
}

/// What `up` keeps in its directory; more is skipped.
#[derive(Deserialize)]
struct Cluster {
    processes: Vec<Process>,
}

#[derive(Deserialize)]
struct Process {
    name: String,
    metrics: Option<String>,
}

/// ipconfig's page of scores; more is skipped.
#[derive(Deserialize)]
struct Scores {
    gateways: Vec<Standing>,
}

#[derive(Deserialize)]
struct Standing {
    name: String,
    state: String,
}

impl Pages {
    /// Those that are given, or else those of the `up` whose directory this is.
    pub(super) fn find(
        dir: Option<&Path>,
        given: Vec<NamedUrl>,
        ipconfig: Option<NamedUrl>,
        interval: Duration,
    ) -> anyhow::Result<Self> {
        let mut pages = given;
        if pages.is_empty() && (dir.is_some() || ipconfig.is_none()) {
            pages = of_directory(dir.unwrap_or_else(|| Path::new(DEFAULT_DIRECTORY))).or_exit(USAGE)?;
        }
        pages.extend(ipconfig);
        Ok(Self {
            pages,
            http: http(interval.min(LONGEST))?,
            begun: Instant::now(),
        })
    }

    /// Asks all of them at once.
    pub(super) async fn read(&self) -> Round {
        let asked = join_all(self.pages.iter().map(|page| self.ask(page))).await;
        let mut round = Round {
            unix_ms: unix_ms(),
            ..Round::default()
        };
        for (page, (reading, standings)) in self.pages.iter().zip(asked) {
            round.pages.insert(page.name.clone(), reading);
            round.standings.extend(standings);
        }
        round
    }

    /// A page, and if it is ipconfig's, how the gateways stand.
    async fn ask(&self, page: &NamedUrl) -> (Reading, BTreeMap<String, String>) {
        let mut standings = BTreeMap::new();
        let read = async {
            let text = self.get(&format!("{}/metrics", page.url)).await?;
            let at = self.begun.elapsed();
            let figures = Figures::parse(&text).map_err(|fault| anyhow!("no metrics page: {fault}"))?;
            if text.contains("part=\"ipconfig\"") {
                let text = self.get(&format!("{}/v1/scores", page.url)).await?;
                let scores: Scores = serde_json::from_str(&text).context("its scores can't be read")?;
                let named = scores.gateways.into_iter();
                standings.extend(named.map(|standing| (standing.name, standing.state)));
            }
            anyhow::Ok(Reading::Read {
                at,
                figures: Box::new(figures),
            })
        };
        let read = read.await;
        (
            read.unwrap_or_else(|fault| Reading::Failed(format!("{fault:#}"))),
            standings,
        )
    }

    async fn get(&self, url: &str) -> anyhow::Result<String> {
        let asked = self.http.get(url).send().await;
        let response = asked.map_err(|fault| {
            let what = if fault.is_timeout() {
                "no answer in time"
            } else {
                "not reachable"
            };
            anyhow!("{what}")
        })?;
        let status = response.status();
        if !status.is_success() {
            return Err(anyhow!("it answered {status}"));
        }
        response
            .text()
            .await
            .map_err(|_| anyhow!("its answer was cut off"))
    }
}

fn of_directory(directory: &Path) -> anyhow::Result<Vec<NamedUrl>> {
    let file: PathBuf = directory.join("cluster.json");
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!(
            "there is no {}: run `imaccess up` here, name its directory by --dir, or give a cluster's pages by --metrics",
            file.display()
        )
    })?;
    let cluster: Cluster =
        serde_json::from_str(&text).with_context(|| format!("{} can't be read", file.display()))?;
    let named = |process: Process| {
        let address = process.metrics?;
        Some(NamedUrl {
            name: process.name,
            url: format!("http://{address}"),
        })
    };
    Ok(cluster.processes.into_iter().filter_map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_people_write_them() {
        let read = |text: &str| text.parse::<NamedUrl>().map(|page| (page.name, page.url));
        let pair = |name: &str, url: &str| Ok((name.to_owned(), url.to_owned()));
        assert_eq!(
            read("10.0.0.5:9300"),
            pair("10.0.0.5:9300", "http://10.0.0.5:9300")
        );
        assert_eq!(read("gw=http://gw:9300/metrics"), pair("gw", "http://gw:9300"));
        assert_eq!(
            read("http://[::1]:9300/"),
            pair("[::1]:9300", "http://[::1]:9300")
        );
        for text in ["", "gw=", "gateway", "http://gateway/", "https://gateway:1"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_pages_of_an_up_are_in_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let fault = format!("{:#}", of_directory(directory.path()).unwrap_err());
        assert!(fault.contains("--dir") && fault.contains("--metrics"), "{fault}");
        let view = r#"{"ipconfig": "http://127.0.0.1:8000", "processes": [
            {"part": "echo", "name": "echo", "pid": 1},
            {"part": "gateway", "name": "gateway-0", "pid": 1, "metrics": "127.0.0.1:7200"}]}"#;
        std::fs::write(directory.path().join("cluster.json"), view).unwrap();
        let pages = of_directory(directory.path()).unwrap();
        assert_eq!(pages, ["gateway-0=127.0.0.1:7200".parse().unwrap()]);
    }
}
