//! A cluster as people see it. Pure: what was gathered in, text out.

use std::fmt::Write;

use serde::Serialize;

/// One cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ClusterView {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Whether the operator says that it is ready, of its present generation.
    pub(crate) ready: bool,
    /// The reason and the message of the condition Ready.
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) parts: Vec<PartView>,
    /// The upgrade in place that is under way, or has stopped.
    pub(crate) upgrade: Option<String>,
    /// What is wrong, and what to do about it.
    pub(crate) troubles: Vec<String>,
    /// What is worth knowing, such as development tokens.
    pub(crate) remarks: Vec<String>,
    /// What couldn't be read, and why.
    pub(crate) unknown: Vec<String>,
}

/// One Deployment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PartView {
    pub(crate) name: String,
    pub(crate) wanted: i32,
    pub(crate) ready: i32,
    pub(crate) updated: i32,
    pub(crate) image: Option<String>,
    pub(crate) pods: Vec<PodView>,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct PodView {
    pub(crate) name: String,
    pub(crate) node: Option<String>,
    pub(crate) ip: Option<String>,
    /// `ready`, `draining`, `starting`, or what keeps it from that.
    pub(crate) state: String,
    pub(crate) restarts: i32,
    pub(crate) slot: Option<String>,
    /// Where clients reach it, if that isn't its own address.
    pub(crate) endpoints: Vec<String>,
    /// Of a gateway.
    pub(crate) figures: Option<Figures>,
    /// Of a gateway: what ipconfig makes of it.
    pub(crate) score: Option<Score>,
    /// Of a gateway: what is being replaced in it, or was last.
    pub(crate) in_place: Option<String>,
}

/// What a gateway's page says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Figures {
    pub(crate) connections: f64,
    pub(crate) connection_limit: f64,
}

/// What ipconfig makes of a gateway.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Score {
    /// Remaining bandwidth, in GB/s.
    pub(crate) dynamic: f64,
    /// Remaining connections.
    #[serde(rename = "static")]
    pub(crate) fixed: f64,
    /// `listed`, or why not.
    pub(crate) state: String,
}

impl ClusterView {
    /// As a tree.
    pub(crate) fn tree(&self) -> String {
        let mut out = String::new();
        let ready = if self.ready { "ready" } else { "not ready" };
        let _ = write!(out, "{}/{}  {ready}", self.namespace, self.name);
        if !self.ready {
            let _ = write!(out, ": {}: {}", self.reason, self.message);
        }
        out.push('\n');
        for (index, part) in self.parts.iter().enumerate() {
            let last = index + 1 == self.parts.len();
            let (branch, indent) = if last {
                ("└─", "   ")
            } else {
                ("├─", "│  ")
            };
            let _ = write!(
                out,
                "{branch} {}  {}/{} ready",
                part.name, part.ready, part.wanted
            );
            if part.updated < part.wanted {
                let _ = write!(out, ", {} of the newest revision", part.updated);
            }
            if let Some(image) = &part.image {
                let _ = write!(out, "  {image}");
            }
            out.push('\n');
            pods(&mut out, indent, &part.pods);
        }
        if let Some(upgrade) = &self.upgrade {
            let _ = write!(out, "\n{upgrade}\n");
        }
        section(&mut out, "What is wrong", &self.troubles);
        section(&mut out, "Worth knowing", &self.remarks);
        section(&mut out, "Not known", &self.unknown);
        out.truncate(out.trim_end().len());
        out
    }
}

/// The pods of a part, in columns.
fn pods(out: &mut String, indent: &str, pods: &[PodView]) {
    let rows: Vec<Vec<String>> = pods.iter().map(PodView::columns).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    for (index, row) in rows.iter().enumerate() {
        let branch = if index + 1 == rows.len() {
            "└─"
        } else {
            "├─"
        };
        let mut line = format!("{indent}{branch}");
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, " {cell:<width$} ", width = *width);
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

impl PodView {
    fn columns(&self) -> Vec<String> {
        let mut columns = vec![self.name.clone(), self.state.clone()];
        columns.push(match &self.node {
            Some(node) => format!("on {node}"),
            None => "on no node yet".to_owned(),
        });
        let restarts = match self.restarts {
            0 => String::new(),
            1 => "1 restart".to_owned(),
            many => format!("{many} restarts"),
        };
        columns.push(restarts);
        if let Some(figures) = self.figures {
            columns.push(format!(
                "{} of {} connections",
                figures.connections, figures.connection_limit
            ));
        }
        if let Some(score) = &self.score {
            let mut text = format!("score {:.2} / {:.0}", score.dynamic, score.fixed);
            if score.state != "listed" {
                let _ = write!(text, " ({})", score.state);
            }
            columns.push(text);
        }
        if !self.endpoints.is_empty() {
            columns.push(self.endpoints.join(" "));
        }
        columns.extend(self.in_place.clone());
        columns
    }
}

fn section(out: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = write!(out, "\n{title}:\n");
    for line in lines {
        let _ = writeln!(out, "  - {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> PodView {
        PodView {
            name: name.to_owned(),
            node: Some("node-1".to_owned()),
            state: "ready".to_owned(),
            ..PodView::default()
        }
    }

    fn cluster() -> ClusterView {
        let gateway = PodView {
            figures: Some(Figures {
                connections: 1_200.0,
                connection_limit: 57_344.0,
            }),
            score: Some(Score {
                dynamic: 0.98,
                fixed: 56_144.0,
                state: "listed".to_owned(),
            }),
            ..pod("demo-gateway-a")
        };
        let draining = PodView {
            state: "draining".to_owned(),
            restarts: 1,
            score: Some(Score {
                state: "draining".to_owned(),
                ..gateway.score.clone().unwrap()
            }),
            ..gateway.clone()
        };
        ClusterView {
            namespace: "chat".to_owned(),
            name: "demo".to_owned(),
            ready: true,
            reason: "Serving".to_owned(),
            message: String::new(),
            parts: vec![
                PartView {
                    name: "gateway".to_owned(),
                    wanted: 2,
                    ready: 2,
                    updated: 1,
                    image: Some("imaccess:1".to_owned()),
                    pods: vec![gateway, draining],
                },
                PartView {
                    name: "ipconfig".to_owned(),
                    wanted: 1,
                    ready: 1,
                    updated: 1,
                    image: None,
                    pods: vec![pod("demo-ipconfig-a")],
                },
            ],
            upgrade: None,
            troubles: Vec::new(),
            remarks: Vec::new(),
            unknown: Vec::new(),
        }
    }

    #[test]
    fn a_tree_shows_parts_pods_connections_and_scores() {
        let expected = "\
chat/demo  ready
├─ gateway  2/2 ready, 1 of the newest revision  imaccess:1
│  ├─ demo-gateway-a  ready     on node-1             1200 of 57344 connections  score 0.98 / 56144
│  └─ demo-gateway-a  draining  on node-1  1 restart  1200 of 57344 connections  score 0.98 / 56144 (draining)
└─ ipconfig  1/1 ready
   └─ demo-ipconfig-a  ready  on node-1";
        let shown: Vec<String> = cluster().tree().lines().map(squeezed).collect();
        let expected: Vec<String> = expected.lines().map(squeezed).collect();
        assert_eq!(shown, expected);
    }

    /// Columns are aligned by spaces; how many isn't the point.
    fn squeezed(line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.join(" ")
    }

    #[test]
    fn what_is_wrong_comes_with_what_to_do_and_what_is_unknown_is_said() {
        let view = ClusterView {
            ready: false,
            reason: "ImagePullFailed".to_owned(),
            message: "The image imaccess:2 can't be pulled.".to_owned(),
            troubles: vec!["pod demo-gateway-a: no such image; correct spec.image".to_owned()],
            unknown: vec!["connections: you may not get pods/proxy".to_owned()],
            ..cluster()
        };
        let tree = view.tree();
        assert!(
            tree.starts_with(
                "chat/demo  not ready: ImagePullFailed: The image imaccess:2 can't be pulled.\n"
            ),
            "{tree}"
        );
        assert!(
            tree.contains("\nWhat is wrong:\n  - pod demo-gateway-a"),
            "{tree}"
        );
        assert!(
            tree.ends_with("\nNot known:\n  - connections: you may not get pods/proxy"),
            "{tree}"
        );
    }
}
