//! Every pod template is one that the Pod Security Standard `restricted` lets in; with HostPort, all but for the ports.

use serde_json::{Value, json};

use super::golden;
use crate::plan::Kind;

#[test]
fn every_pod_is_restricted() {
    for name in golden::NAMES {
        let world = golden::world(name);
        let deployments = world
            .applied
            .iter()
            .filter(|child| child.id.kind == Kind::Deployment);
        let mut number = 0;
        for deployment in deployments {
            let faults = faults(&deployment.object["spec"]["template"]["spec"]);
            let ports = name == "host-port" && deployment.id.name == "demo-gateway";
            let expected: &[&str] = if ports { &["gateway: hostPort"] } else { &[] };
            assert_eq!(faults, expected, "{name}: {}", deployment.id.name);
            number += 1;
        }
        assert!(number >= 3, "{name}");
    }
}

#[test]
fn the_checker_finds_what_restricted_forbids() {
    let world = golden::world("minimal");
    let good = &world
        .applied
        .iter()
        .find(|child| child.id.name == "demo-gateway" && child.id.kind == Kind::Deployment)
        .unwrap()
        .object["spec"]["template"]["spec"];
    type Case = (&'static str, fn(&mut Value));
    let table: [Case; 9] = [
        ("pod: hostNetwork", |pod| pod["hostNetwork"] = json!(true)),
        ("pod: hostPID", |pod| pod["hostPID"] = json!(true)),
        ("pod: volume", |pod| {
            pod["volumes"][0] = json!({"name": "x", "hostPath": {"path": "/"}});
        }),
        ("pod: seccomp", |pod| {
            pod["securityContext"]["seccompProfile"] = Value::Null;
        }),
        ("pod: root", |pod| pod["securityContext"]["runAsUser"] = json!(0)),
        ("pod: sysctl", |pod| {
            pod["securityContext"]["sysctls"] = json!([{"name": "net.core.somaxconn", "value": "1"}]);
        }),
        ("gateway: escalation", |pod| {
            pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
        }),
        ("state: capabilities", |pod| {
            pod["initContainers"][0]["securityContext"]["capabilities"] = json!({"drop": []});
        }),
        ("gateway: writable root", |pod| {
            pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = json!(false);
        }),
    ];
    for (expected, change) in table {
        let mut pod = good.clone();
        change(&mut pod);
        assert_eq!(faults(&pod), [expected]);
    }
}

/// What keeps a pod from being restricted, and our own rule that nothing but volumes is written.
fn faults(pod: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |who: &str, what: &str, good: bool| {
        if !good {
            faults.push(format!("{who}: {what}"));
        }
    };
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        check("pod", host, pod[host] != json!(true));
    }
    let security = &pod["securityContext"];
    check(
        "pod",
        "seccomp",
        security["seccompProfile"]["type"] == json!("RuntimeDefault"),
    );
    let user = security["runAsUser"].as_i64();
    check(
        "pod",
        "root",
        security["runAsNonRoot"] == json!(true) && user != Some(0),
    );
    let safe = |sysctl: &Value| sysctl["name"] == json!("net.ipv4.ip_unprivileged_port_start");
    check("pod", "sysctl", list(&security["sysctls"]).iter().all(safe));
    let allowed = ["configMap", "secret", "emptyDir", "projected", "downwardAPI"];
    let plain = |volume: &Value| {
        let mut keys = volume.as_object().unwrap().keys().filter(|key| *key != "name");
        keys.all(|key| allowed.contains(&key.as_str()))
    };
    check("pod", "volume", list(&pod["volumes"]).iter().all(plain));
    for container in list(&pod["initContainers"])
        .iter()
        .chain(list(&pod["containers"]))
    {
        let name = container["name"].as_str().unwrap();
        let security = &container["securityContext"];
        check(
            name,
            "escalation",
            security["allowPrivilegeEscalation"] == json!(false),
        );
        check(name, "privileged", security["privileged"] != json!(true));
        check(
            name,
            "capabilities",
            security["capabilities"] == json!({"drop": ["ALL"]}),
        );
        check(
            name,
            "writable root",
            security["readOnlyRootFilesystem"] == json!(true),
        );
        let host_port = |port: &Value| port["hostPort"].is_null();
        check(name, "hostPort", list(&container["ports"]).iter().all(host_port));
    }
    faults
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
