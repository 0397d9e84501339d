//! From nothing to serving, by what README says: the chart, an example, and a device outside the pods that calls and is pushed to.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use imaccess_operator_api::names::{Identity, Part};
use serde_json::json;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use crate::command::{self, Session};
use crate::kubernetes::release::{kubectl, kubectl_with, merge};
use crate::kubernetes::{Installation, Kubernetes, with_kubernetes};
use crate::report::{Report, Size};
use crate::wait::{Seen, wait_until};

/// What README tells people, and what is done here.
const INSTALL: &str = "helm install imaccess charts/imaccess";
const APPLY: &str = "kubectl apply -f examples/minimal.yaml";
const STATUS: &str = "kubectl imaccess status demo";
const WAIT: &str = "kubectl wait --for=condition=Ready imac/demo --timeout=120s";
/// The example that README names.
const EXAMPLE: &str = "examples/minimal.yaml";
/// A command of the binary.
const COMMAND: Duration = Duration::from_secs(60);
/// The group that the device joins.
const GROUP: &str = "lobby";
const PUSHED: &str = "good morning, lobby";

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-quickstart", async |kubernetes| {
        let mut report = Report::new("k8s-quickstart", size, seed);
        quickstart(kubernetes, &mut report).await?;
        Ok(report)
    })
    .await
}

/// Seconds since a moment.
fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

async fn quickstart(kubernetes: &Kubernetes, report: &mut Report) -> Result<()> {
    let environment = &kubernetes.environment;
    let readme = std::fs::read_to_string(environment.file("README.md")).context("README.md")?;
    for line in [INSTALL, APPLY, WAIT, STATUS] {
        ensure!(readme.contains(line), "README doesn't say `{line}`");
    }
    let (operators, namespace) = (
        kubernetes.namespace("system").await?,
        kubernetes.namespace("").await?,
    );
    let begun = Instant::now();

    // As README has it, but for names that no other run has.
    let mut values = kubernetes.values(&[&namespace])?;
    merge(&mut values, &json!({"crds": {"enabled": true}}));
    kubernetes
        .install(&kubernetes.chart(), &operators, &values)
        .await?;
    report.figure("seconds_helm_install", seconds(begun));

    let step = Instant::now();
    let example = example(kubernetes)?;
    let words = ["apply", "--namespace", &namespace.name, "-f", "-"];
    kubectl_with(environment, &words, &example).await?;
    report.figure("seconds_kubectl_apply", seconds(step));

    let step = Instant::now();
    let mut words: Vec<&str> = WAIT.split_whitespace().skip(1).collect();
    words.extend(["--namespace", &namespace.name]);
    kubectl(environment, &words).await?;
    let ready = seconds(step);
    // kubectl gives up after as much.
    report.at_most("seconds_kubectl_wait", ready, 120.0);

    let step = Instant::now();
    let tree = status(&namespace.name).await?;
    report.figure("seconds_kubectl_imaccess_status", seconds(step));
    ensure!(tree.contains("demo"), "`{STATUS}` printed {tree:?}");
    report.figure("status", tree.lines().map(str::to_owned).collect::<Vec<_>>());

    // The device stands where this process stands: outside of the pods.
    let cluster = namespace.existing_cluster("demo");
    let ipconfig = cluster.ipconfig_url().await?;
    let step = Instant::now();
    let call = ["call", "--business", "echo", "--data", "hello"];
    // Ready says that the cluster serves; the example's own business may still be starting.
    let answered = wait_until("a call to echo is answered", COMMAND, async || {
        let output = command::run(Some(&ipconfig), call, COMMAND).await?;
        Ok(if output.status.success() {
            Seen::Yes(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Seen::NotYet(String::from_utf8_lossy(&output.stderr).into_owned())
        })
    })
    .await?;
    ensure!(answered.trim_end() == "hello", "the call printed {answered:?}");
    report.figure("seconds_first_call", seconds(step));

    let step = Instant::now();
    let connect = ["connect", "--device", "alice", "--join", GROUP];
    let mut session = Session::start(Some(&ipconfig), connect)?;
    session.online(COMMAND).await?;
    report.figure("seconds_connect_and_join", seconds(step));
    let step = Instant::now();
    push(&cluster, &ipconfig).await?;
    session.expect(PUSHED, COMMAND).await?;
    report.figure("seconds_group_push", seconds(step));
    session.end().await?;

    let total = seconds(begun);
    report.at_most("seconds_in_all", total, 180.0);
    // Through the address that the example exposes, not by chance through a pod's own.
    let exposed = exposed(&ipconfig).await?;
    report.figure("endpoints", exposed.clone());
    let pods = cluster.gateways().await?;
    let own = exposed
        .iter()
        .filter(|host| pods.iter().any(|pod| pod.ip.to_string() == **host));
    report.exactly(
        "endpoints_that_are_pods",
        f64::from(u8::from(own.count() > 0)),
        0.0,
    );
    report.exactly(
        "gateways_exposed",
        if exposed.len() == pods.len() { 1.0 } else { 0.0 },
        1.0,
    );
    Ok(())
}

/// The binary as kubectl's plugin: by its name.
async fn status(namespace: &str) -> Result<String> {
    let directory = tempfile::tempdir()?;
    let plugin = directory.path().join("kubectl-imaccess");
    std::os::unix::fs::symlink(command::binary()?, &plugin).context("a link to the binary")?;
    let words = ["status", "demo", "--namespace", namespace];
    let output = Command::new(&plugin).args(words).stdin(Stdio::null()).output();
    let output = timeout(COMMAND, output).await.context("the plugin hangs")??;
    let (printed, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "`{STATUS}` ended with {}: {printed}{said}",
        output.status
    );
    Ok(printed.into_owned())
}

/// As a business by hand: with the certificate that the operator made for businesses.
async fn push(cluster: &Installation, ipconfig: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let secret = cluster.names.certificate(Identity::Push);
    let mut paths = Vec::new();
    for key in ["ca.crt", "tls.crt", "tls.key"] {
        let path = directory.path().join(key);
        std::fs::write(&path, cluster.secret(&secret, key).await?)?;
        paths.push(path.to_string_lossy().into_owned());
    }
    let name = format!(
        "{}.{}.svc",
        cluster.names.part(Part::State),
        cluster.names.namespace
    );
    let url = cluster.push_url().await?;
    let words = [
        "push",
        "--group",
        GROUP,
        "--business",
        "echo",
        "--data",
        PUSHED,
        "--push",
        &url,
        "--tls-name",
        &name,
        "--tls-ca",
        &paths[0],
        "--tls-cert",
        &paths[1],
        "--tls-key",
        &paths[2],
    ];
    // The device has joined; routing hears of that a moment later.
    wait_until("the group has a gateway", COMMAND, async || {
        let printed = command::output_of(Some(ipconfig), words, COMMAND).await?;
        Ok(if printed.contains("sent to 1 gateway") {
            Seen::Yes(())
        } else {
            Seen::NotYet(printed)
        })
    })
    .await
}

/// The example as it is, but for the image, which is the one on the nodes.
fn example(kubernetes: &Kubernetes) -> Result<String> {
    let path = kubernetes.environment.file(EXAMPLE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (text, replaced) = with_image(&text, kubernetes.environment.image()?);
    ensure!(replaced > 0, "{EXAMPLE} names no image");
    Ok(text)
}

/// Every line `image: …` with another image, and how many there were.
fn with_image(text: &str, image: &str) -> (String, usize) {
    let (mut lines, mut replaced) = (Vec::new(), 0);
    for line in text.lines() {
        match line.split_once("image: ") {
            Some((before, _)) if matches!(before.trim(), "" | "-") => {
                lines.push(format!("{before}image: {image}"));
                replaced += 1;
            }
            _ => lines.push(line.to_owned()),
        }
    }
    (lines.join("\n") + "\n", replaced)
}

/// The hosts that clients are sent to.
async fn exposed(ipconfig: &str) -> Result<Vec<String>> {
    let text = reqwest::get(format!("{ipconfig}/v1/endpoints?k=20"))
        .await?
        .text()
        .await?;
    let answer: serde_json::Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let endpoints = answer["endpoints"].as_array().into_iter().flatten();
    Ok(endpoints
        .filter_map(|endpoint| endpoint["host"].as_str().map(str::to_owned))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_image_is_another() {
        let text = "spec:\n  image: imaccess:0.1.0\n  # the image: it is pulled\n  a:\n    - image: b\n";
        let (changed, replaced) = with_image(text, "x/y:z");
        assert_eq!(replaced, 2);
        let expected = "spec:\n  image: x/y:z\n  # the image: it is pulled\n  a:\n    - image: x/y:z\n";
        assert_eq!(changed, expected);
    }
}
