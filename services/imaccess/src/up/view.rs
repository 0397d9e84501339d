//! What `up` tells scripts: `up --json` prints it, `cluster.json` keeps it current.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::plan::Plan;
use crate::part::Config;

/// The cluster as it runs. The names are relied upon by scripts: they only grow.
#[derive(Debug, Clone, Serialize)]
pub(super) struct View {
    pub(super) ipconfig: String,
    pub(super) push_grpc: String,
    pub(super) gateways: Vec<Gateway>,
    pub(super) processes: Vec<Process>,
    pub(super) businesses: Vec<Business>,
    /// The list to which further businesses can be added; it is read again when it changes.
    pub(super) businesses_file: PathBuf,
    pub(super) directory: PathBuf,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Gateway {
    pub(super) name: String,
    pub(super) tcp: String,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Process {
    pub(super) part: &'static str,
    pub(super) name: String,
    /// 0 while it doesn't run.
    pub(super) pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) metrics: Option<String>,
    /// What it was started from, if it is a process of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) binary: Option<PathBuf>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Business {
    pub(super) id: u32,
    pub(super) name: String,
}

impl View {
    /// Before anything runs. Processes are in the order of the plan's parts.
    pub(super) fn new(plan: &Plan, directory: &Path, businesses_file: &Path) -> Self {
        let gateway = |config: &Config| match config {
            Config::Gateway(gateway) => Some(Gateway {
                name: gateway.name.clone(),
                tcp: gateway.tcp[0].to_string(),
            }),
            _ => None,
        };
        Self {
            ipconfig: format!("http://{}", plan.addresses.ipconfig),
            push_grpc: plan
                .addresses
                .push
                .first()
                .map(|push| format!("http://{push}"))
                .unwrap_or_default(),
            gateways: plan
                .parts
                .iter()
                .filter_map(|part| gateway(&part.config))
                .collect(),
            processes: plan
                .parts
                .iter()
                .map(|part| Process {
                    part: part.config.kind().name(),
                    name: part.name.clone(),
                    pid: 0,
                    metrics: part.config.admin().map(|address| address.to_string()),
                    binary: None,
                })
                .collect(),
            businesses: plan
                .businesses
                .iter()
                .map(|business| Business {
                    id: business.id,
                    name: business.name.clone(),
                })
                .collect(),
            businesses_file: businesses_file.to_owned(),
            directory: directory.to_owned(),
        }
    }

    /// A part runs.
    pub(super) fn started(&mut self, index: usize, pid: u32, binary: Option<PathBuf>) {
        let process = &mut self.processes[index];
        (process.pid, process.binary) = (pid, binary);
    }

    /// A part doesn't run any more.
    pub(super) fn ended(&mut self, index: usize) {
        self.processes[index].pid = 0;
    }

    /// On one line.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are always JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::example;
    use super::*;

    #[test]
    fn scripts_find_what_they_rely_on() {
        let view = View::new(
            &example(1, Vec::new()).unwrap(),
            Path::new("/d"),
            Path::new("/d/businesses.yaml"),
        );
        let line = view.json();
        assert!(!line.contains('\n'));
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["ipconfig"], "http://127.0.0.1:8000");
        assert_eq!(json["push_grpc"], "http://127.0.0.1:8100");
        assert_eq!(
            json["gateways"],
            serde_json::json!([{"name": "gateway-0", "tcp": "127.0.0.1:7000"}])
        );
        assert_eq!(
            json["businesses"],
            serde_json::json!([{"id": 1, "name": "echo"}, {"id": 2, "name": "chat"}])
        );
        assert_eq!(json["businesses_file"], "/d/businesses.yaml");
        assert_eq!(json["directory"], "/d");
        let gateway = serde_json::json!(
            {"part": "gateway", "name": "gateway-0", "pid": 0, "metrics": "127.0.0.1:7200"}
        );
        assert!(json["processes"].as_array().unwrap().contains(&gateway), "{line}");
        let parts: Vec<_> = json["processes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["part"].clone())
            .collect();
        assert_eq!(parts, ["echo", "chat", "gateway", "state", "routing", "ipconfig"]);
    }
}
