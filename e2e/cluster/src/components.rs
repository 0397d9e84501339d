//! Upstream's components, built from their Go modules once.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::layout::Layout;
use crate::packages::find;
use crate::process::{command, succeed};

/// Packages, in the order in which they are built, with the program that each gives.
const PROGRAMS: [(&str, &str); 9] = [
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    (
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    ("coredns", "imaccess.io/e2e/cluster/components/coredns"),
    ("pause", "imaccess.io/e2e/cluster/components/pause"),
    ("helm", "helm.sh/helm/v3/cmd/helm"),
];

/// What of the sources decides whether the programs are current.
const SOURCES: [&str; 4] = ["go.mod", "go.sum", "coredns/main.go", "pause/main.go"];

/// Builds what is missing or of other sources; about ten minutes on two cores the first time, a second afterwards.
///
/// # Errors
/// When Go is missing, or a component can't be built.
pub(crate) fn build(layout: &Layout, workspace: &Path) -> Result<()> {
    let sources = workspace.join("e2e/cluster/components");
    let mut built_from = String::new();
    for name in SOURCES {
        let path = sources.join(name);
        built_from +=
            &fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    let stamp = layout.path("bin/.built-from");
    let current = fs::read_to_string(&stamp).is_ok_and(|text| text == built_from);
    let missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(name, _)| !current || !layout.program(name).is_file())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let go = go()?;
    let version = version(&built_from)?;
    let flags = format!(
        "-s -w -X k8s.io/component-base/version.gitVersion={version} -X k8s.io/client-go/pkg/version.gitVersion={version}"
    );
    for (number, (name, package)) in missing.iter().enumerate() {
        println!("building {name} ({} of {})…", number + 1, missing.len());
        let start = Instant::now();
        let output = layout.program(name);
        succeed(
            command(&go, ["build", "-trimpath", "-ldflags", &flags, "-o"])
                .arg(&output)
                .arg(package)
                .current_dir(&sources)
                .env("CGO_ENABLED", "0"),
        )
        .with_context(|| format!("cannot build {name}"))?;
        println!("  {:.0} s", start.elapsed().as_secs_f64());
    }
    fs::write(&stamp, built_from).with_context(|| format!("cannot write {}", stamp.display()))
}

/// Where Go is.
pub(crate) fn go() -> Result<PathBuf> {
    find("go").context(
        "the local cluster's components are built with Go, which is missing: install Go 1.25 or newer \
         (https://go.dev/dl), or let KUBECONFIG point to a cluster",
    )
}

/// The version of Kubernetes that `go.mod` requires; the components say it of themselves only when they are told.
fn version(modules: &str) -> Result<&str> {
    modules
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
        .map(str::trim)
        .context("go.mod requires no k8s.io/kubernetes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_module() {
        let text = "require (\n\tk8s.io/api v0.34.4\n\tk8s.io/kubernetes v1.34.4\n)\n";
        assert_eq!(version(text).unwrap(), "v1.34.4");
        assert!(version("").is_err());
    }
}
