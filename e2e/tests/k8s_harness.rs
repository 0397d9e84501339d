//! The cluster that the other Kubernetes tests run on does what they take for granted.

use std::time::Duration;

use anyhow::{Result, ensure};
use imaccess_cluster::Nodes;
use imaccess_e2e::kubectl::{
    Clock, Namespace, TOOLBOX, image, is_ready, kubectl, kubectl_with, restricted, workers,
};
use imaccess_e2e::wait::{Seen, wait_until};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(90);

/// A Deployment of one container, spread over the nodes.
fn deployment(name: &str, replicas: u32, container: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [container],
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
                        "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": { "matchLabels": { "app": name } },
                    }],
                },
            },
        },
    })
}

fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "selector": { "app": name }, "ports": [{ "port": port, "targetPort": port }] },
    })
}

/// A page with the pod's own name, on port 8080.
fn web() -> Value {
    json!({
        "name": "web", "image": TOOLBOX,
        "command": ["sh", "-c", "hostname > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"],
        "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
        "securityContext": restricted(),
    })
}

/// The page, asked for from where the test runs: outside of the nodes.
async fn page(address: &str) -> Result<String> {
    let text = reqwest::get(format!("http://{address}:8080/index.html"))
        .await?
        .error_for_status()?
        .text()
        .await?;
    Ok(text.trim().to_owned())
}

#[tokio::test]
#[ignore = "needs a cluster: cargo xtask e2e"]
async fn pods_services_names_logs_exec_and_drain_work() -> Result<()> {
    let mut clock = Clock::default();
    let nodes = workers().await?;
    ensure!(nodes.len() >= 2, "a drain needs two nodes: {nodes:?}");
    for node in &nodes {
        ensure!(is_ready(node).await?, "{node} isn't ready");
    }
    clock.step("nodes are ready");

    let space = Namespace::create("harness").await?;
    let echo = json!({
        "name": "echo", "image": image()?, "args": ["echo", "--listen", "0.0.0.0:9000"],
        "readinessProbe": { "tcpSocket": { "port": 9000 }, "periodSeconds": 1 },
        "securityContext": restricted(),
    });
    space
        .apply(&[
            deployment("echo", 2, &echo),
            service("echo", 9000),
            deployment("web", 2, &web()),
            service("web", 8080),
        ])
        .await?;
    space.available("echo", SOON).await?;
    space.available("web", SOON).await?;
    clock.step("Deployments of the image and of the toolbox are available");

    let pods = space.pods("app=web").await?;
    ensure!(
        pods.len() == 2 && pods[0].node != pods[1].node,
        "spread over nodes: {pods:?}"
    );
    let first = &pods[0].name;
    let found = space
        .kubectl(&[
            "exec",
            first,
            "--",
            "nslookup",
            &format!("echo.{}.svc.cluster.local", space.name),
        ])
        .await?;
    let echo_address = space.json(&["get", "service", "echo"]).await?;
    let echo_address = echo_address["spec"]["clusterIP"].as_str().unwrap_or_default();
    ensure!(found.contains(echo_address), "{echo_address} in: {found}");
    clock.step("a Service's name is found in a pod");

    // By name, through the Service: each pod must reach both pods, itself included.
    for pod in &pods {
        let seen = wait_until("both pods answer through the Service", SOON, async || {
            let ask =
                "for i in 1 2 3 4 5 6 7 8; do timeout 5 wget -q -O - http://web:8080/index.html; done | sort -u";
            let names = space.kubectl(&["exec", &pod.name, "--", "sh", "-c", ask]).await?;
            Ok(if names.lines().count() == 2 {
                Seen::Yes(names)
            } else {
                Seen::NotYet(names)
            })
        })
        .await?;
        ensure!(pods.iter().all(|pod| seen.contains(&pod.name)), "{seen}");
    }
    clock.step("a Service answers in pods, from the same node, the other, and itself");

    for pod in &pods {
        ensure!(page(&pod.address).await? == pod.name);
    }
    let address = space.json(&["get", "service", "web"]).await?;
    let address = address["spec"]["clusterIP"].as_str().unwrap_or_default();
    let answered = page(address).await?;
    ensure!(pods.iter().any(|pod| pod.name == answered), "{answered}");
    tokio::net::TcpStream::connect((echo_address, 9000)).await?;
    clock.step("pods and Services answer outside of the nodes");

    let image_pod = space.pods("app=echo").await?.remove(0);
    let version = space
        .kubectl(&["exec", &image_pod.name, "--", "/imaccess", "version"])
        .await?;
    ensure!(version.contains("imaccess"), "{version}");
    let input = kubectl_with(
        &["--namespace", &space.name, "exec", "-i", first, "--", "cat"],
        "through",
        SOON,
    )
    .await?;
    ensure!(input == "through", "{input}");
    space.kubectl(&["logs", &image_pod.name]).await?;
    let command = ["run", "say", "--image", TOOLBOX, "--restart=Never"];
    let overrides = json!({ "spec": { "containers": [{
        "name": "say", "image": TOOLBOX, "command": ["echo", "said"], "securityContext": restricted(),
    }]}});
    let overrides = format!("--overrides={overrides}");
    space
        .kubectl(&[&command[..], &[overrides.as_str()]].concat())
        .await?;
    wait_until("the pod's log is there", SOON, async || {
        let log = space.kubectl(&["logs", "say"]).await.unwrap_or_default();
        Ok(if log == "said\n" {
            Seen::Yes(())
        } else {
            Seen::NotYet(log)
        })
    })
    .await?;
    clock.step("exec, its input, and logs");

    let node = &pods[1].node;
    let drain = [
        "drain",
        node,
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--force",
        "--timeout=80s",
    ];
    let selector = "--pod-selector=app in (web,echo)";
    let drained = kubectl_with(&[&drain[..], &[selector]].concat(), "", SOON).await;
    let moved = async {
        drained?;
        space.available("web", SOON).await?;
        space.pods("app=web").await
    }
    .await;
    kubectl(&["uncordon", node]).await?;
    let moved = moved?;
    ensure!(moved.iter().all(|pod| pod.node != *node), "{moved:?}");
    clock.step("a drained node's pods run on the other");
    Ok(())
}

#[tokio::test]
#[ignore = "needs a cluster: cargo xtask e2e"]
async fn a_lost_node_is_noticed_its_pods_are_replaced_and_it_comes_back() -> Result<()> {
    let nodes = Nodes::from_environment()?;
    let mut clock = Clock::default();
    let space = Namespace::create("harness-lost").await?;
    space.apply(&[deployment("web", 2, &web())]).await?;
    space.available("web", SOON).await?;
    let lost = workers().await?.pop().unwrap_or_default();
    let before = space.pods("app=web").await?;
    let on_lost = before.iter().find(|pod| pod.node == lost).cloned();
    let Some(on_lost) = on_lost else {
        anyhow::bail!("no pod on {lost}: {before:?}")
    };
    clock.step("a pod runs on each node");

    // Held open from outside: a lost node says no goodbye, so that it stays open.
    let held = tokio::net::TcpStream::connect((on_lost.address.as_str(), 8080)).await?;
    let stopped = nodes.stop(&lost);
    clock.step("the node is lost");
    let noticed = async {
        stopped?;
        wait_until("the node isn't ready", SOON, async || {
            Ok(if is_ready(&lost).await? {
                Seen::NotYet("ready")
            } else {
                Seen::Yes(())
            })
        })
        .await?;
        clock.step("it is noticed");
        let mut byte = [0];
        ensure!(
            matches!(held.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
            "the connection was closed"
        );
        wait_until("its pod runs elsewhere", SOON, async || {
            let pods = space.pods("app=web").await?;
            let elsewhere = pods.iter().filter(|pod| pod.node != lost).count();
            Ok(if elsewhere == 2 {
                Seen::Yes(())
            } else {
                Seen::NotYet(pods)
            })
        })
        .await?;
        clock.step("its pod is replaced");
        anyhow::Ok(())
    }
    .await;
    nodes.start(&lost)?;
    noticed?;
    wait_until("the node is back", SOON, async || {
        Ok(if is_ready(&lost).await? {
            Seen::Yes(())
        } else {
            Seen::NotYet("not ready")
        })
    })
    .await?;
    clock.step("the node is back");
    space.available("web", SOON).await?;
    let scale = ["scale", "deployment", "web", "--replicas=4"];
    space.kubectl(&scale).await?;
    space.available("web", SOON).await?;
    let pods = space.pods("app=web").await?;
    let back = pods.iter().find(|pod| pod.node == lost);
    ensure!(back.is_some(), "{pods:?}");
    for pod in &pods {
        ensure!(page(&pod.address).await? == pod.name);
    }
    clock.step("new pods run on it and answer");
    Ok(())
}
