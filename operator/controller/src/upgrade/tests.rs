use http::Method;
use imaccess_operator_plan::plan::ObjectRef;
use serde_json::json;

use super::*;
use crate::testing::{Server, cluster, failure, metrics};

fn pod() -> PodRef {
    PodRef {
        name: "demo-gateway-x".to_owned(),
        uid: "u".to_owned(),
        resource_version: "11".to_owned(),
    }
}

fn replace(lease: Option<Lease>) -> Step {
    Step::Replace {
        pod: pod(),
        name: StepName::ReplaceGateway,
        patch: json!({"spec": {"containers": [{"name": "gateway", "image": "new"}]}}),
        lease,
    }
}

async fn carry_out(server: &Server, steps: &[Step]) -> Result<(), Error> {
    let (client, cluster, metrics) = (server.client(), cluster("demo"), metrics());
    let upgrader = Upgrader {
        client: &client,
        cluster: &cluster,
        gateways: None,
        metrics: &metrics,
    };
    upgrader.carry_out(steps, &[]).await
}

#[tokio::test]
async fn a_gateway_that_gives_no_lease_is_not_touched() {
    let server = Server::new(|_| None);
    let lease = Lease {
        address: "192.0.2.1:9310".to_owned(),
        name: "operator-u".to_owned(),
        pod: "demo-gateway-x".to_owned(),
    };
    let failure = carry_out(&server, &[replace(Some(lease))]).await.unwrap_err();
    assert_eq!(failure.reason(), "GatewayRefused");
    assert!(server.writes().is_empty());
}

#[tokio::test]
async fn every_step_but_a_creation_carries_what_it_was_planned_from() {
    let server = Server::new(|_| None);
    let deployment = ObjectRef {
        name: "demo-gateway".to_owned(),
        resource_version: "12".to_owned(),
    };
    let patch = json!({"spec": {"paused": true}});
    let steps = [
        Step::Preflight {
            pod: json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "demo-preflight-x"}}),
        },
        replace(None),
        Step::Release {
            pod: pod(),
            // (The answer is what was written, and must be a pod.)
            patch: json!({"metadata": {"annotations": {"imaccess.io/replaced": "{}"}}}),
        },
        Step::Pause {
            deployment: deployment.clone(),
            patch: patch.clone(),
        },
        Step::ReplicaSet {
            replica_set: deployment,
            patch,
        },
        Step::Clear { pod: pod() },
    ];
    carry_out(&server, &steps).await.unwrap();
    assert_eq!(
        server.written(),
        [
            "POST default/pods",
            "PATCH pods/demo-gateway-x",
            "PATCH pods/demo-gateway-x",
            "PATCH deployments/demo-gateway",
            "PATCH replicasets/demo-gateway",
            "DELETE pods/demo-gateway-x",
        ]
    );
    for write in &server.writes()[1..5] {
        let version = write.body["metadata"]["resourceVersion"].as_str().unwrap();
        assert!(["11", "12"].contains(&version), "{write:?}");
    }
    assert_eq!(server.writes()[1].body["metadata"]["uid"], json!("u"));
    assert_eq!(
        server.writes()[5].body["preconditions"]["resourceVersion"],
        json!("11")
    );
}

#[tokio::test]
async fn a_step_that_fails_ends_it() {
    let server = Server::new(|asked| {
        (asked.method == Method::PATCH).then(|| failure(409, "Conflict", "the object has been modified"))
    });
    let failure = carry_out(&server, &[replace(None), Step::Clear { pod: pod() }])
        .await
        .unwrap_err();
    assert_eq!(failure.reason(), "Conflict");
    assert_eq!(server.written(), ["PATCH pods/demo-gateway-x"]);
}
