//! Signals to the processes of a pod, or of one of its containers: found by the pod's UID or the container's id in the processes'
//! cgroups, on the machine that runs the node.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use tokio::process::Command;

use super::Kubernetes;
use super::environment::ClusterKind;

/// The binary's name, as the kernel has it.
const NAME: &str = "imaccess";

/// A signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// It ends at once.
    Kill,
    /// It stands still.
    Stop,
    /// It goes on.
    Continue,
}

impl Kubernetes {
    /// Whether processes of pods can be reached from here.
    #[must_use]
    pub fn reaches_processes(&self) -> bool {
        self.environment.cluster != ClusterKind::Given
    }

    /// Sends a signal to the pod's imaccess processes; there must be one at least.
    ///
    /// # Errors
    /// When there is none, or it can't be reached.
    pub async fn signal(&self, pod: &Pod, signal: Signal) -> Result<()> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let uid = pod.metadata.uid.as_deref().context("a pod has a UID")?;
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let node = node.with_context(|| format!("{name} is on no node"))?;
        self.signal_within(uid, node, signal)
            .await
            .with_context(|| format!("the pod {name}"))
    }

    /// Sends a signal to the imaccess process of one container, of which there must be one. `id` is the runtime's, as the pod's status
    /// has it.
    ///
    /// # Errors
    /// When there is none, or it can't be reached.
    pub async fn signal_container(&self, node: &str, id: &str, signal: Signal) -> Result<()> {
        let (_, id) = id.split_once("://").unwrap_or(("", id));
        self.signal_within(id, node, signal)
            .await
            .with_context(|| format!("the container {id}"))
    }

    /// To the processes whose cgroup's path has this in it.
    async fn signal_within(&self, part: &str, node: &str, signal: Signal) -> Result<()> {
        let script = script(part, signal);
        let mut command = match self.environment.cluster {
            ClusterKind::Local => {
                let mut command = Command::new("sh");
                command.args(["-c", &script]);
                command
            }
            ClusterKind::Kind => {
                let mut command = Command::new(engine());
                command.args(["exec", node, "sh", "-c", &script]);
                command
            }
            ClusterKind::Given => bail!("processes of a given cluster's pods can't be reached"),
        };
        let output = command
            .stdin(Stdio::null())
            .output()
            .await
            .context("cannot start a shell")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("no process gets {signal:?}: {said}");
        }
        Ok(())
    }
}

/// The container engine of kind.
fn engine() -> PathBuf {
    std::env::var_os("IMACCESS_E2E_ENGINE").map_or_else(|| "docker".into(), PathBuf::from)
}

/// Container runtimes write a pod's UID into its cgroup's path, with `-` or, under systemd, with `_`.
fn script(uid: &str, signal: Signal) -> String {
    let systemd = uid.replace('-', "_");
    let number = match signal {
        Signal::Kill => "KILL",
        Signal::Stop => "STOP",
        Signal::Continue => "CONT",
    };
    format!(
        "found=; for at in /proc/[0-9]*; do \
         read -r name 2>/dev/null <\"$at/comm\" || continue; \
         [ \"$name\" = {NAME} ] || continue; \
         grep -q -e {uid} -e {systemd} \"$at/cgroup\" 2>/dev/null || continue; \
         kill -{number} \"${{at#/proc/}}\" && found=1; \
         done; [ -n \"$found\" ]"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_write_a_uid_are_looked_for() {
        let script = script("0a1b-2c", Signal::Stop);
        assert!(
            script.contains("-e 0a1b-2c -e 0a1b_2c") && script.contains("kill -STOP"),
            "{script}"
        );
    }
}
