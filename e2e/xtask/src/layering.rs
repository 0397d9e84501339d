//! Dependencies point one way (ARCHITECTURE.md, "Layout"), and what must exist once exists once.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::steps::Verdict;
use crate::workspace::Workspace;

/// For every crate of the workspace, the crates of the workspace that it may depend on, in any way (tests
/// and build scripts included). A new crate must be entered here: its place is a decision.
const MAY_USE: &[(&str, &[&str])] = &[
    ("imaccess-wire", &[]),
    ("imaccess-proto", &[]),
    ("imaccess-common", &[]),
    ("imaccess-net", &["imaccess-wire"]),
    (
        "imaccess-gateway",
        &[
            "imaccess-wire",
            "imaccess-net",
            "imaccess-proto",
            "imaccess-common",
        ],
    ),
    (
        "imaccess-state",
        &[
            "imaccess-wire",
            "imaccess-net",
            "imaccess-proto",
            "imaccess-common",
            "imaccess-pods",
        ],
    ),
    // The pod watch, for the two parts that must know which gateways there are.
    ("imaccess-pods", &[]),
    ("imaccess-ipconfig", &["imaccess-common", "imaccess-pods"]),
    ("imaccess-operator-api", &[]),
    (
        "imaccess-operator-plan",
        // Contracts with the gateways: the handover page, and what binaries say of themselves.
        &["imaccess-operator-api", "imaccess-common"],
    ),
    (
        "imaccess-operator-controller",
        &[
            "imaccess-operator-api",
            "imaccess-operator-plan",
            "imaccess-common",
        ],
    ),
    ("imaccess-sdk", &["imaccess-wire"]),
    // The load generator must measure parts from outside: it knows protocols, never a service's inside.
    (
        "imaccess-bench",
        &[
            "imaccess-wire",
            "imaccess-net",
            "imaccess-proto",
            "imaccess-common",
        ],
    ),
    (
        "imaccess",
        &[
            "imaccess-wire",
            "imaccess-net",
            "imaccess-proto",
            "imaccess-common",
            "imaccess-gateway",
            "imaccess-state",
            "imaccess-ipconfig",
            "imaccess-sdk",
            "imaccess-bench",
            "imaccess-example-chat",
            "imaccess-operator-api",
            "imaccess-operator-plan",
            "imaccess-operator-controller",
        ],
    ),
    // What a user of imaccess would write: the interface's types, and nothing else of ours.
    ("imaccess-example-chat", &["imaccess-proto"]),
    ("imaccess-example-first-business", &["imaccess-proto"]),
    (
        "imaccess-e2e",
        &[
            "imaccess-wire",
            "imaccess-net",
            "imaccess-proto",
            "imaccess-common",
            "imaccess-gateway",
            "imaccess-state",
            "imaccess-ipconfig",
            "imaccess-sdk",
            "imaccess-bench",
            "imaccess-operator-api",
            "imaccess-cluster",
        ],
    ),
    // The tests' own cluster and images: they know nothing of what runs on them.
    ("imaccess-image", &[]),
    ("imaccess-cluster", &["imaccess-image"]),
    ("xtask", &["imaccess-image", "imaccess-cluster"]),
];

/// The protocol is sans-IO: none of these may be reached from it, directly or not.
const NEVER_IN_WIRE: &[&str] = &[
    "tokio",
    "mio",
    "futures-util",
    "socket2",
    "rustix",
    "libc",
    "getrandom",
    "rand",
];

/// Two versions of one of these would be two incompatible sets of types, or a second copy of something big.
const ONE_VERSION: &[&str] = &[
    "tokio",
    "bytes",
    "http",
    "h2",
    "hyper",
    "tonic",
    "prost",
    "axum",
    "rustls",
    "reqwest",
    "aws-lc-sys",
    "serde",
    "clap",
    "tracing",
    "tracing-subscriber",
    "prometheus",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// Absent for a normal dependency, else `dev` or `build`.
    kind: Option<String>,
}

/// Checks the resolved graph of this platform.
pub(crate) fn check(workspace: &Workspace) -> Result<Verdict> {
    let host = host()?;
    let output = workspace
        .cargo(["metadata", "--format-version=1", "--filter-platform", &host])
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cargo metadata's answer")?;
    let findings = findings(&metadata);
    if !findings.is_empty() {
        bail!(
            "the dependency graph breaks {} rule(s)\n  {}",
            findings.len(),
            findings.join("\n  ")
        );
    }
    Ok(Verdict::Passed)
}

fn host() -> Result<String> {
    let output = std::process::Command::new("rustc")
        .arg("-vV")
        .output()
        .context("cannot start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc names no host")?;
    Ok(host.to_owned())
}

/// Every rule that the graph breaks, as sentences.
fn findings(metadata: &Metadata) -> Vec<String> {
    let packages: BTreeMap<&str, &Package> = metadata.packages.iter().map(|p| (p.id.as_str(), p)).collect();
    let nodes: BTreeMap<&str, &Node> = metadata
        .resolve
        .nodes
        .iter()
        .map(|n| (n.id.as_str(), n))
        .collect();
    let name = |id: &str| {
        packages
            .get(id)
            .map_or("?", |package| package.name.as_str())
            .to_owned()
    };
    let mut findings = Vec::new();

    for member in &metadata.workspace_members {
        let from = name(member);
        let Some((_, allowed)) = MAY_USE.iter().find(|(krate, _)| *krate == from) else {
            findings.push(format!("{from} has no entry in xtask's layering table"));
            continue;
        };
        let Some(node) = nodes.get(member.as_str()) else {
            continue;
        };
        for edge in &node.deps {
            let to = name(&edge.pkg);
            if metadata.workspace_members.contains(&edge.pkg) && to != from && !allowed.contains(&to.as_str())
            {
                findings.push(format!("{from} must not depend on {to}"));
            }
        }
        if from == "imaccess-wire" {
            for to in reachable(member, &nodes).iter().map(|id| name(id)) {
                if NEVER_IN_WIRE.contains(&to.as_str()) {
                    findings.push(format!("{from} is sans-IO and must not reach {to}"));
                }
            }
        }
    }

    for single in ONE_VERSION {
        let versions: BTreeSet<&str> = metadata
            .packages
            .iter()
            .filter(|package| package.name == *single && nodes.contains_key(package.id.as_str()))
            .map(|package| package.version.as_str())
            .collect();
        if versions.len() > 1 {
            let versions: Vec<_> = versions.into_iter().collect();
            findings.push(format!(
                "{single} is there in versions {}",
                versions.join(" and ")
            ));
        }
    }
    findings
}

/// What a crate pulls into the program: normal dependencies, all the way down.
fn reachable<'a>(from: &'a str, nodes: &BTreeMap<&'a str, &'a Node>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(id) = open.pop() {
        for edge in nodes.get(id).map_or(&[][..], |node| &node.deps) {
            let normal = edge.dep_kinds.iter().any(|kind| kind.kind.is_none());
            if normal && seen.insert(edge.pkg.as_str()) {
                open.push(&edge.pkg);
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph from `(from, to, kind)`; names with a leading `imaccess` or `xtask` are members.
    fn graph(edges: &[(&str, &str, Option<&str>)]) -> Metadata {
        let names: BTreeSet<&str> = edges.iter().flat_map(|(from, to, _)| [*from, *to]).collect();
        let node = |name: &&str| Node {
            id: (*name).to_owned(),
            deps: edges
                .iter()
                .filter(|(from, _, _)| from == name)
                .map(|(_, to, kind)| Edge {
                    pkg: (*to).to_owned(),
                    dep_kinds: vec![Kind {
                        kind: kind.map(str::to_owned),
                    }],
                })
                .collect(),
        };
        let package = |id: &&str| {
            let (name, version) = id.split_once('@').unwrap_or((id, "1.0.0"));
            Package {
                id: (*id).to_owned(),
                name: name.to_owned(),
                version: version.to_owned(),
            }
        };
        Metadata {
            packages: names.iter().map(package).collect(),
            workspace_members: names
                .iter()
                .filter(|n| n.starts_with("imaccess"))
                .map(|n| (*n).to_owned())
                .collect(),
            resolve: Resolve {
                nodes: names.iter().map(node).collect(),
            },
        }
    }

    #[test]
    fn the_intended_direction_passes() {
        let good = graph(&[
            ("imaccess-gateway", "imaccess-net", None),
            ("imaccess-net", "imaccess-wire", None),
            ("imaccess-wire", "bytes", None),
            ("imaccess-wire", "proptest", Some("dev")),
            ("proptest", "rand", None),
            ("imaccess", "imaccess-gateway", None),
        ]);
        assert_eq!(findings(&good), Vec::<String>::new());
    }

    #[test]
    fn the_wrong_direction_is_named() {
        let bad = graph(&[
            ("imaccess-wire", "imaccess-net", None),
            ("imaccess-bench", "imaccess-gateway", None),
        ]);
        let findings = findings(&bad);
        assert!(findings.contains(&"imaccess-wire must not depend on imaccess-net".to_owned()));
        assert!(findings.contains(&"imaccess-bench must not depend on imaccess-gateway".to_owned()));
    }

    #[test]
    fn a_service_used_only_in_a_test_is_still_a_dependency() {
        let bad = graph(&[("imaccess-state", "imaccess-gateway", Some("dev"))]);
        assert_eq!(
            findings(&bad),
            ["imaccess-state must not depend on imaccess-gateway"]
        );
    }

    #[test]
    fn a_runtime_behind_a_dependency_of_wire_is_found() {
        let bad = graph(&[("imaccess-wire", "codec", None), ("codec", "tokio", None)]);
        assert_eq!(
            findings(&bad),
            ["imaccess-wire is sans-IO and must not reach tokio"]
        );
    }

    #[test]
    fn two_versions_of_a_single_crate_are_found() {
        let bad = graph(&[
            ("imaccess-sdk", "tokio@1.0.0", None),
            ("imaccess-bench", "tokio@2.0.0", None),
        ]);
        assert_eq!(findings(&bad), ["tokio is there in versions 1.0.0 and 2.0.0"]);
    }

    #[test]
    fn a_crate_without_a_place_is_found() {
        let bad = graph(&[("imaccess-new", "bytes", None)]);
        assert_eq!(
            findings(&bad),
            ["imaccess-new has no entry in xtask's layering table"]
        );
    }
}
