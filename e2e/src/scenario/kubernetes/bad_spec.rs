//! Bad specifications are refused by the API server, each with a sentence that says what to do; good ones aren't.

use anyhow::{Context, Result};
use imaccess_operator_api::ImAccessCluster;
use kube::api::{Api, PostParams};
use kube::core::DynamicObject;
use serde_json::{Value, json};

use crate::kubernetes::release::merge;
use crate::kubernetes::{Namespace, with_kubernetes};
use crate::report::{Report, Size};
use crate::scenario::verdict::count;

/// A change of a good specification, and what must be in the sentence that refuses it.
type Bad = (&'static str, Value, &'static [&'static str]);

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-bad-spec", async |kubernetes| {
        let mut report = Report::new("k8s-bad-spec", size, seed);
        let namespace = kubernetes.namespace("").await?;
        let mut wrong = Vec::new();
        let cases = bad();
        report.figure("bad", cases.len());
        for (name, change, words) in &cases {
            match create(&namespace, "demo", change).await? {
                None => wrong.push(format!("{name} is accepted")),
                Some(said) => {
                    let missing: Vec<_> = words.iter().filter(|word| !said.contains(**word)).collect();
                    if !missing.is_empty() {
                        wrong.push(format!("{name} is refused without {missing:?}: {said}"));
                    }
                    println!("{name}: {said}");
                }
            }
        }
        for name in [
            "a.b",
            "0-demo",
            "a-name-of-more-than-forty-characters-is-too-long",
        ] {
            match create(&namespace, name, &json!({})).await? {
                Some(said) if said.contains("at most 40 characters") => println!("{name}: {said}"),
                other => wrong.push(format!("the name {name} gets {other:?}")),
            }
        }
        let cases = good();
        report.figure("good", cases.len());
        for (name, change) in &cases {
            if let Some(said) = create(&namespace, "demo", change).await? {
                wrong.push(format!("{name} is refused: {said}"));
            }
        }
        for (number, text) in wrong.iter().enumerate() {
            report.figure(&format!("wrong_{number:02}"), text.as_str());
        }
        report.exactly("wrong_answers", count(wrong.len() as u64), 0.0);
        Ok(report)
    })
    .await
}

/// Asks the API server to create the changed specification, as a dry run, with unknown fields refused as kubectl does; what it
/// says against it, if anything.
async fn create(namespace: &Namespace, name: &str, change: &Value) -> Result<Option<String>> {
    let mut spec = json!({"image": "imaccess.io/imaccess:dev"});
    merge(&mut spec, change);
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "imaccess.io/v1alpha1",
        "kind": "ImAccessCluster",
        "metadata": {"name": name, "namespace": namespace.name},
        "spec": spec,
    }))?;
    let api: Api<ImAccessCluster> = namespace.api();
    let mut request = kube::core::Request::new(api.resource_url())
        .create(&PostParams::default(), serde_json::to_vec(&object)?)
        .context("a request")?;
    // Which kube's parameters for creating can't say.
    *request.uri_mut() = format!("{}?dryRun=All&fieldValidation=Strict", api.resource_url()).parse()?;
    let answer: kube::Result<DynamicObject> = namespace.client().request(request).await;
    match answer {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => Ok(Some(status.message.clone())),
        Err(error) => Err(error).context("the API server neither accepts nor refuses"),
    }
}

fn gateway(value: Value) -> Value {
    Value::Object([("gateway".to_owned(), value)].into_iter().collect())
}

fn listeners(ports: &[(&str, &str, i32)]) -> Value {
    let listeners: Vec<_> = ports
        .iter()
        .map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}))
        .collect();
    gateway(json!({ "listeners": listeners }))
}

fn business(id: i64, name: &str, endpoint: &str) -> Value {
    json!({"id": id, "name": name, "endpoint": endpoint})
}

fn bad() -> Vec<Bad> {
    const HTTP: &str = "http://echo.default.svc:9000";
    vec![
        (
            "no image",
            json!({"image": null}),
            &["spec.image", "Required value"],
        ),
        (
            "an empty image",
            json!({"image": ""}),
            &["spec.image", "at least 1 chars"],
        ),
        (
            "negative replicas",
            gateway(json!({"replicas": -1})),
            &["spec.gateway.replicas", "greater than or equal to 0"],
        ),
        (
            "too many replicas",
            gateway(json!({"replicas": 2001})),
            &["spec.gateway.replicas", "less than or equal to 2000"],
        ),
        (
            "two listeners on a port",
            listeners(&[("a", "tcp", 7000), ("b", "tcp", 7000)]),
            &["spec.gateway.listeners", "same port; give each its own"],
        ),
        (
            "two listeners of a name",
            listeners(&[("a", "tcp", 7000), ("a", "tcp", 7001)]),
            &["spec.gateway.listeners", "names must differ"],
        ),
        (
            "an unknown protocol",
            listeners(&[("a", "carrier-pigeon", 7000)]),
            &["protocol", "supported values", "tcp"],
        ),
        (
            "no listener",
            listeners(&[]),
            &["spec.gateway.listeners", "at least 1 items"],
        ),
        (
            "a port of the pod's own",
            listeners(&[("a", "tcp", 9300)]),
            &["used by the pod itself; choose another"],
        ),
        (
            "a port that is none",
            listeners(&[("a", "tcp", 70_000)]),
            &["port", "less than or equal to 65535"],
        ),
        (
            "a privileged host port",
            gateway(
                json!({"exposure": {"type": "HostPort"}, "listeners": [{"name": "a", "protocol": "tcp", "port": 443}]}),
            ),
            &["HostPort", "must be 1024 or above"],
        ),
        (
            "an unknown exposure",
            gateway(json!({"exposure": {"type": "Ingress"}})),
            &["spec.gateway.exposure.type", "supported values", "NodePort"],
        ),
        (
            "annotations without a Service",
            gateway(json!({"exposure": {"type": "PodIP", "annotations": {"a": "b"}}})),
            &["need exposure.type NodePort or LoadBalancer"],
        ),
        (
            "a bandwidth that is no quantity",
            gateway(json!({"bandwidth": "1 GB/s"})),
            &["spec.gateway.bandwidth"],
        ),
        (
            "a negative bandwidth",
            gateway(json!({"bandwidth": -5})),
            &["spec.gateway.bandwidth"],
        ),
        (
            "negative memory",
            gateway(json!({"resources": {"limits": {"memory": -1}}})),
            &["spec.gateway.resources.limits", "memory"],
        ),
        (
            "a resource that nobody knows",
            gateway(json!({"resources": {"limits": {"memroy": "1Gi"}}})),
            &["resources are cpu, memory"],
        ),
        (
            "a host with spaces",
            gateway(json!({"exposure": {"type": "NodePort", "host": "the gateway"}})),
            &["exposure.host must be a host name"],
        ),
        (
            "a host with a port",
            gateway(json!({"exposure": {"type": "NodePort", "host": "example.com:443"}})),
            &["without a port"],
        ),
        (
            "a queue of nothing",
            {
                let mut business = business(1, "a", HTTP);
                business["queueBytes"] = json!("0Ki");
                json!({"businesses": [business]})
            },
            &["queueBytes", "should match '^[0-9]*[1-9]"],
        ),
        (
            "a queue of the number 0",
            {
                let mut business = business(1, "a", HTTP);
                business["queueBytes"] = json!(0);
                json!({"businesses": [business]})
            },
            &["queueBytes", "greater than or equal to 1"],
        ),
        (
            "a drain without time to drain",
            gateway(json!({"drain": {"propagationSeconds": 60, "deadlineSeconds": 60}})),
            &["drain.deadlineSeconds must be longer than drain.propagationSeconds"],
        ),
        (
            "autoscaling without a target",
            gateway(json!({"autoscaling": {"minReplicas": 1, "maxReplicas": 2}})),
            &["autoscaling needs a target"],
        ),
        (
            "autoscaling upside down",
            gateway(json!({"autoscaling": {"minReplicas": 3, "maxReplicas": 2, "cpuPercent": 50}})),
            &["minReplicas must not be above autoscaling.maxReplicas"],
        ),
        (
            "two businesses of an id",
            json!({"businesses": [business(1, "a", HTTP), business(1, "b", HTTP)]}),
            &["spec.businesses", "ids must differ"],
        ),
        (
            "two businesses of a name",
            json!({"businesses": [business(1, "a", HTTP), business(2, "a", HTTP)]}),
            &["spec.businesses", "names must differ"],
        ),
        (
            "a business without a port",
            json!({"businesses": [business(1, "a", "http://echo")]}),
            &["must read http://host:port"],
        ),
        (
            "a business by https",
            json!({"businesses": [business(1, "a", "https://echo:9000")]}),
            &["must read http://host:port"],
        ),
        (
            "a business without an endpoint",
            json!({"businesses": [{"id": 1, "name": "a"}]}),
            &["an endpoint, or a list of endpoints, and not both"],
        ),
        (
            "a business with an endpoint and endpoints",
            {
                let mut business = business(1, "a", HTTP);
                business["endpoints"] = json!([HTTP]);
                json!({"businesses": [business]})
            },
            &["an endpoint, or a list of endpoints, and not both"],
        ),
        (
            "an endpoint in a list that is none",
            json!({"businesses": [{"id": 1, "name": "a", "endpoints": [HTTP, "https://echo:9000"]}]}),
            &["spec.businesses[0].endpoints[1]", "should match '^http://"],
        ),
        (
            "an unknown way to ask a business",
            {
                let mut business = business(1, "a", HTTP);
                business["protocol"] = json!("Carrier");
                json!({"businesses": [business]})
            },
            &["protocol", "supported values", "GrpcUnary"],
        ),
        (
            "a business with id 0",
            json!({"businesses": [business(0, "a", HTTP)]}),
            &["id", "greater than or equal to 1"],
        ),
        (
            "a node port without its type",
            json!({"ipconfig": {"service": {"nodePort": 30_000}}}),
            &["service.nodePort needs service.type NodePort"],
        ),
        (
            "a Prometheus that is no address",
            json!({"ipconfig": {"metrics": {"prometheus": {"url": "prometheus"}}}}),
            &["spec.ipconfig.metrics.prometheus.url"],
        ),
        (
            "a window of nothing",
            json!({"ipconfig": {"windowSeconds": 0}}),
            &["spec.ipconfig.windowSeconds", "greater than or equal to 1"],
        ),
        (
            "a field that isn't there",
            gateway(json!({"replica": 3})),
            &["unknown field", "spec.gateway.replica"],
        ),
        (
            "text for a number",
            gateway(json!({"replicas": "three"})),
            &["spec.gateway.replicas", "must be of type integer"],
        ),
    ]
}

fn good() -> Vec<(&'static str, Value)> {
    let many: Vec<_> = (1..=256)
        .map(|id| business(id, &format!("business-{id}"), "http://echo.default.svc:9000"))
        .collect();
    vec![
        ("nothing but an image", json!({})),
        ("no gateways", gateway(json!({"replicas": 0}))),
        ("eight listeners", {
            let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
            let ports: Vec<_> = names
                .iter()
                .zip(7000..)
                .map(|(name, port)| (*name, "tcp", port))
                .collect();
            listeners(&ports)
        }),
        ("a low port behind a Service", {
            let mut spec = listeners(&[("a", "tcp", 443)]);
            merge(
                &mut spec,
                &gateway(json!({"exposure": {"type": "LoadBalancer", "annotations": {"a": "b"}}})),
            );
            spec
        }),
        (
            "a bandwidth as a number",
            gateway(json!({"bandwidth": 1_000_000_000})),
        ),
        ("a bandwidth with a unit", gateway(json!({"bandwidth": "125M"}))),
        (
            "a host of a slot",
            gateway(json!({"exposure": {"type": "NodePort", "host": "gateway-{slot}.example"}})),
        ),
        (
            "autoscaling",
            gateway(
                json!({"autoscaling": {"minReplicas": 1, "maxReplicas": 9, "connectionsPerPod": 50_000}}),
            ),
        ),
        ("256 businesses", json!({ "businesses": many })),
        ("a business at several places", {
            let many: Vec<_> = (1..=64)
                .map(|number| format!("http://chat-{number}.chat:9000"))
                .collect();
            json!({"businesses": [{
                "id": 7, "name": "chat", "endpoints": many, "protocol": "Http", "requestRate": 500, "pushRate": 0,
            }]})
        }),
        ("pushers", {
            let mut business = business(7, "chat", "http://chat:9000");
            business["pushers"] = json!([{"namespace": "chat", "serviceAccount": "chat"}]);
            json!({"businesses": [business]})
        }),
        (
            "a Prometheus",
            json!({"ipconfig": {"metrics": {"prometheus": {"url": "http://prometheus.monitoring:9090"}}}}),
        ),
        (
            "resources",
            gateway(
                json!({"resources": {"requests": {"cpu": "0.5", "example.com/nic": 1}, "limits": {"memory": "1.5Gi", "cpu": 2}}}),
            ),
        ),
        (
            "network policies",
            json!({"networkPolicy": {"enabled": true}, "monitoring": {"podMonitor": {}}}),
        ),
    ]
}
