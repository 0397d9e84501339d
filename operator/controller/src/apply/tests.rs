use std::collections::BTreeMap;
use std::sync::Mutex;

use http::Method;
use imaccess_operator_api::names::{Identity, key};
use imaccess_operator_plan::Observed;
use imaccess_operator_plan::observed::{Capabilities, ChildId};
use imaccess_operator_plan::plan::{AuthorityStep, SecretStep};

use super::*;
use crate::observe::Trust;
use crate::testing::{Server, child, cluster, failure, metrics, nothing};

struct Bench {
    server: Server,
    client: Client,
    key: Key,
    memory: Mutex<Memory>,
    metrics: Metrics,
}

impl Bench {
    fn new(server: Server) -> Bench {
        Bench {
            client: server.client(),
            server,
            key: Key::new("default", "demo"),
            memory: Mutex::default(),
            metrics: metrics(),
        }
    }

    async fn carry_out(&self, plan: &Plan) -> Outcome {
        self.carry_out_with(plan, Trust::default()).await
    }

    async fn carry_out_with(&self, plan: &Plan, trust: Trust) -> Outcome {
        let gathered = Gathered {
            observed: observed(),
            trust,
            gateways: None,
        };
        let applier = Applier {
            client: &self.client,
            key: &self.key,
            lifetimes: Lifetimes::DEFAULT,
            memory: &self.memory,
            metrics: &self.metrics,
        };
        applier.carry_out(&gathered, plan, Timestamp::now()).await
    }
}

fn observed() -> Observed {
    Observed {
        cluster: cluster("demo"),
        children: BTreeMap::new(),
        pods: vec![],
        replica_sets: vec![],
        gateways: BTreeMap::new(),
        secrets: BTreeMap::new(),
        capabilities: Capabilities::default(),
        operator_version: "0.1.0".to_owned(),
    }
}

fn plan() -> Plan {
    nothing(&observed(), Timestamp::now())
}

fn pod(name: &str) -> PodPatch {
    PodPatch {
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        resource_version: "11".to_owned(),
        labels: BTreeMap::from([("imaccess.io/slot".to_owned(), "0".to_owned())]),
        annotations: BTreeMap::new(),
    }
}

#[tokio::test]
async fn every_write_but_a_creation_carries_what_it_was_planned_from() {
    let bench = Bench::new(Server::new(|_| None));
    let plan = Plan {
        apply: vec![
            child(Kind::ConfigMap, "new", None),
            child(Kind::Deployment, "old", Some("42")),
        ],
        pods: vec![pod("demo-gateway-x")],
        delete: vec![Deletion {
            id: ChildId {
                kind: Kind::Service,
                name: "gone".to_owned(),
            },
            uid: "u".to_owned(),
            resource_version: "43".to_owned(),
        }],
        ..plan()
    };
    let outcome = bench.carry_out(&plan).await;
    assert!(
        outcome.failure.is_none() && outcome.degraded.is_empty(),
        "{outcome:?}"
    );
    let writes = bench.server.writes();
    assert_eq!(
        bench.server.written(),
        [
            "PATCH configmaps/new",
            "PATCH deployments/old",
            "PATCH pods/demo-gateway-x",
            "DELETE services/gone",
        ]
    );
    for apply in &writes[..3] {
        assert!(
            apply.query.contains("fieldManager=imaccess-operator") && apply.query.contains("force=true"),
            "{}",
            apply.query
        );
    }
    assert_eq!(writes[0].body["metadata"]["resourceVersion"], Value::Null);
    assert_eq!(writes[1].body["metadata"]["resourceVersion"], "42");
    let patched = &writes[2].body["metadata"];
    assert_eq!(
        (&patched["uid"], &patched["resourceVersion"]),
        (&json!("uid-of-demo-gateway-x"), &json!("11"))
    );
    assert_eq!(
        writes[3].body["preconditions"],
        json!({"uid": "u", "resourceVersion": "43"})
    );
    let written = |kind, verb| bench.metrics.writes.with_label_values(&[kind, verb]).get();
    assert_eq!(
        (written("Deployment", "apply"), written("Service", "delete")),
        (1, 1)
    );
}

#[tokio::test]
async fn a_conflict_ends_the_pass_and_is_counted() {
    let bench = Bench::new(Server::new(|asked| {
        asked
            .is(&Method::PATCH, "/services/demo")
            .then(|| failure(409, "Conflict", "the object has been modified"))
    }));
    let plan = Plan {
        apply: vec![
            child(Kind::Service, "demo", Some("1")),
            child(Kind::Deployment, "demo", Some("2")),
        ],
        ..plan()
    };
    let outcome = bench.carry_out(&plan).await;
    assert_eq!(outcome.failure.map(|error| error.class()), Some(Class::Conflict));
    assert_eq!(bench.server.written(), ["PATCH services/demo"]);
    assert_eq!(bench.metrics.conflicts.get(), 1);
}

#[tokio::test]
async fn a_pod_that_changes_keeps_no_other_pod_waiting() {
    let bench = Bench::new(Server::new(|asked| {
        asked
            .is(&Method::PATCH, "/pods/one")
            .then(|| failure(409, "Conflict", "the object has been modified"))
    }));
    let plan = Plan {
        pods: vec![pod("one"), pod("two")],
        ..plan()
    };
    let outcome = bench.carry_out(&plan).await;
    assert_eq!(outcome.failure.map(|error| error.class()), Some(Class::Conflict));
    assert_eq!(bench.server.written(), ["PATCH pods/one", "PATCH pods/two"]);
}

#[tokio::test]
async fn what_a_cluster_does_without_holds_nothing_up() {
    let bench = Bench::new(Server::new(|asked| {
        (asked.method == Method::PATCH).then(|| {
            let kind = asked.path.rsplit('/').nth(1).unwrap();
            match kind {
                "poddisruptionbudgets" | "networkpolicies" => failure(403, "Forbidden", "not allowed"),
                _ => (200, json!({"metadata": {"name": "demo"}})),
            }
        })
    }));
    let with = |kinds: &[Kind]| Plan {
        apply: kinds.iter().map(|kind| child(*kind, "demo", None)).collect(),
        ..plan()
    };
    let outcome = bench
        .carry_out(&with(&[Kind::PodDisruptionBudget, Kind::Deployment]))
        .await;
    assert!(outcome.failure.is_none(), "{outcome:?}");
    assert_eq!(outcome.degraded.len(), 1);
    let outcome = bench
        .carry_out(&with(&[Kind::NetworkPolicy, Kind::Deployment]))
        .await;
    assert_eq!(outcome.failure.map(|error| error.class()), Some(Class::Refused));
    assert_eq!(
        bench.server.written(),
        [
            "PATCH poddisruptionbudgets/demo",
            "PATCH deployments/demo",
            "PATCH networkpolicies/demo"
        ],
        "a Deployment isn't made without the policy that protects it"
    );
}

#[tokio::test]
async fn what_changes_nothing_is_not_applied_again() {
    // The server answers with the version that there was.
    let bench = Bench::new(Server::new(|asked| {
        (asked.method == Method::PATCH).then(|| {
            (
                200,
                json!({"metadata": {"name": "demo", "resourceVersion": "42"}}),
            )
        })
    }));
    let plan = |version| Plan {
        apply: vec![child(Kind::Service, "demo", Some(version))],
        ..plan()
    };
    for (version, writes) in [("41", 1), ("42", 2), ("42", 2), ("42", 2), ("43", 3)] {
        bench.carry_out(&plan(version)).await;
        assert_eq!(bench.server.writes().len(), writes, "at {version}");
    }
    assert_eq!(bench.metrics.repeats.get(), 2);
}

#[tokio::test]
async fn what_is_there_without_labels_is_repaired_if_ours_and_left_alone_if_not() {
    let plan = Plan {
        apply: vec![child(Kind::ConfigMap, "demo-gateway", None)],
        ..plan()
    };
    let with_owner = |uid: &'static str| {
        Bench::new(Server::new(move |asked| {
            let owner = json!([{"apiVersion": "imaccess.io/v1alpha1", "kind": "ImAccessCluster", "name": "demo", "uid": uid, "controller": true}]);
            let metadata = json!({"name": "demo-gateway", "resourceVersion": "44", "ownerReferences": owner});
            asked
                .is(&Method::GET, "/configmaps")
                .then(|| crate::testing::list(&[json!({"metadata": metadata})]))
        }))
    };
    let ours = with_owner("uid-of-demo");
    assert!(ours.carry_out(&plan).await.failure.is_none());
    assert_eq!(ours.server.writes()[0].body["metadata"]["resourceVersion"], "44");

    let others = with_owner("uid-of-another");
    let failure = others.carry_out(&plan).await.failure.unwrap();
    assert!(
        failure.to_string().contains("ConfigMap demo-gateway is there"),
        "{failure}"
    );
    assert!(others.server.writes().is_empty());
}

#[tokio::test]
async fn secrets_are_made_and_never_overwritten() {
    let bench = Bench::new(Server::new(|_| None));
    let plan = Plan {
        secrets: vec![
            SecretStep::Authority(AuthorityStep::Make),
            SecretStep::TicketKeys,
            SecretStep::DevelopmentTokens,
        ],
        ..plan()
    };
    assert!(bench.carry_out(&plan).await.failure.is_none());
    let writes = bench.server.writes();
    assert_eq!(writes.len(), 3);
    for write in &writes {
        assert!(write.is(&Method::POST, "/namespaces/default/secrets"));
        let metadata = &write.body["metadata"];
        assert_eq!(metadata["labels"]["app.kubernetes.io/instance"], "demo");
        let owner = &metadata["ownerReferences"][0];
        assert_eq!(
            (&owner["uid"], &owner["controller"], &owner["blockOwnerDeletion"]),
            (&json!("uid-of-demo"), &json!(true), &json!(true))
        );
    }
    let keys = |body: &Value| -> Vec<String> { body["data"].as_object().unwrap().keys().cloned().collect() };
    assert_eq!(keys(&writes[0].body), ["ca.crt", "ca.key"]);
    assert_eq!(keys(&writes[1].body), ["tickets"]);
    let tokens = keys(&writes[2].body);
    assert!(
        tokens.len() == 2 && tokens.contains(&"signing.pem".to_owned()),
        "{tokens:?}"
    );

    let taken = Bench::new(Server::new(|asked| {
        (asked.method == Method::POST).then(|| failure(409, "AlreadyExists", "it exists"))
    }));
    let outcome = taken.carry_out(&plan).await;
    assert_eq!(outcome.failure.map(|error| error.class()), Some(Class::Conflict));
    assert_eq!(taken.server.writes().len(), 1);
}

#[tokio::test]
async fn somebody_elses_secret_is_left_alone() {
    let bench = Bench::new(Server::new(|asked| {
        asked.is(&Method::GET, "/secrets/demo-tickets").then(|| {
            (
                200,
                json!({"metadata": {"name": "demo-tickets", "resourceVersion": "5"}}),
            )
        })
    }));
    let plan = Plan {
        secrets: vec![SecretStep::TicketKeys],
        ..plan()
    };
    let failure = bench.carry_out(&plan).await.failure.unwrap();
    assert!(
        failure.to_string().contains("Secret demo-tickets is there"),
        "{failure}"
    );
    assert!(bench.server.writes().is_empty());
}

#[tokio::test]
async fn certificates_are_issued_renewed_and_brought_the_authorities() {
    let authority = crate::authority::step(
        "demo",
        AuthorityStep::Make,
        None,
        Lifetimes::DEFAULT.authority,
        Timestamp::now(),
    )
    .unwrap();
    let bundle = authority.data[key::AUTHORITY].clone();
    let secret = move |name: &str| {
        let data: BTreeMap<_, _> = authority
            .data
            .iter()
            .map(|(key, value)| (key.clone(), k8s_openapi::ByteString(value.clone().into_bytes())))
            .collect();
        let owner = json!([{"apiVersion": "imaccess.io/v1alpha1", "kind": "ImAccessCluster", "name": "demo", "uid": "uid-of-demo", "controller": true}]);
        json!({
            "metadata": {"name": name, "resourceVersion": "5", "ownerReferences": owner},
            "data": data,
        })
    };
    let bench = Bench::new(Server::new(move |asked| {
        let is_there = ["/secrets/demo-ca", "/secrets/demo-gateway-tls"]
            .iter()
            .any(|path| asked.is(&Method::GET, path));
        is_there.then(|| (200, secret("some")))
    }));
    let certificate = |identity: Identity| SecretStep::Certificate {
        identity,
        dns_names: vec![identity.dns_name("demo", "default")],
        issued_for: "abc".to_owned(),
    };
    let plan = Plan {
        secrets: vec![certificate(Identity::Gateway), certificate(Identity::Push)],
        ..plan()
    };
    let outdated = ["demo-gateway-tls", "demo-sidecar-tls"]
        .map(|name| (name.to_owned(), "9".to_owned()))
        .into();
    let trust = Trust {
        bundle: Some(bundle),
        outdated,
    };
    let outcome = bench.carry_out_with(&plan, trust).await;
    assert!(outcome.failure.is_none(), "{outcome:?}");
    assert_eq!(
        bench.server.written(),
        [
            "PATCH secrets/demo-gateway-tls",
            "POST default/secrets",
            "PATCH secrets/demo-sidecar-tls"
        ]
    );
    let writes = bench.server.writes();
    let renewed = &writes[0].body;
    assert_eq!(renewed["metadata"]["resourceVersion"], "5");
    assert_eq!(
        renewed["metadata"]["annotations"]["imaccess.io/issued-for"],
        "abc"
    );
    assert_eq!(
        renewed["data"]["ca.key"],
        Value::Null,
        "what isn't meant to be there goes"
    );
    assert!(renewed["data"]["tls.key"].is_string());
    assert_eq!(writes[1].body["type"], "kubernetes.io/tls");
    assert_eq!(writes[2].body["metadata"]["resourceVersion"], "9");
    let brought: Vec<_> = writes[2].body["data"].as_object().unwrap().keys().collect();
    assert_eq!(brought, ["ca.crt"]);
}

#[tokio::test]
async fn a_status_is_written_when_it_differs_and_with_its_version() {
    let bench = Bench::new(Server::new(|_| None));
    let mut cluster = cluster("demo");
    let new = ImAccessClusterStatus {
        replicas: 2,
        ..ImAccessClusterStatus::default()
    };
    assert!(
        status(&bench.client, &bench.metrics, &cluster, &new)
            .await
            .unwrap()
    );
    let write = &bench.server.writes()[0];
    assert!(
        write.is(&Method::PATCH, "/imaccessclusters/demo/status"),
        "{}",
        write.path
    );
    assert_eq!(write.body["metadata"]["resourceVersion"], "7");
    assert_eq!(write.body["metadata"]["uid"], "uid-of-demo");
    cluster.status = Some(new.clone());
    assert!(
        !status(&bench.client, &bench.metrics, &cluster, &new)
            .await
            .unwrap()
    );
    assert_eq!(bench.server.writes().len(), 1);
}
