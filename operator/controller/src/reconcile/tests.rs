use std::sync::atomic::AtomicUsize;

use http::Method;
use imaccess_operator_api::condition;
use imaccess_operator_plan::plan::Kind;
use kube::client::ClientBuilder;
use kube::runtime::events::Reporter;
use serde_json::Value;

use super::*;
use crate::clock::Clock;
use crate::leader::gate::{Gate, GateLayer};
use crate::testing::{Answer, Asked, Server, child, cluster, failure, metrics, nothing};

/// A server that has the cluster `default/demo`.
fn with_demo(answer: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static) -> Server {
    Server::new(move |asked| {
        answer(asked).or_else(|| {
            asked
                .is(&Method::GET, "/imaccessclusters/demo")
                .then(|| (200, serde_json::to_value(cluster("demo")).unwrap()))
        })
    })
}

pub(super) fn passes(server: &Server, planner: Planner) -> Arc<Passes> {
    passes_by(server.client(), metrics(), planner)
}

fn passes_by(client: Client, metrics: Metrics, planner: Planner) -> Arc<Passes> {
    let reporter = Reporter {
        controller: "imaccess-operator".to_owned(),
        instance: Some("test".to_owned()),
    };
    let (_, capabilities) = watch::channel(Capabilities::default());
    Arc::new(Passes::new(Parts {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        planner,
        version: "0.1.0".to_owned(),
        lifetimes: Lifetimes::DEFAULT,
        metrics,
        capabilities,
        health: Health::new(),
        resync: Duration::from_secs(600),
        settle: Duration::ZERO,
    }))
}

fn demo() -> Arc<Guarded> {
    Arc::new(DeserializeGuard(Ok(cluster("demo"))))
}

pub(super) async fn pass(passes: &Arc<Passes>) -> Result<Action, Error> {
    Arc::clone(passes).pass(demo()).await
}

/// The conditions in the last status that was written.
fn conditions(server: &Server) -> Vec<(String, String, String)> {
    let writes = server.writes();
    let status = writes.iter().rfind(|asked| asked.path.ends_with("/status"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    status
        .and_then(|asked| asked.body["status"]["conditions"].as_array().cloned())
        .unwrap_or_default()
        .iter()
        .map(|known| {
            (
                text(&known["type"]),
                text(&known["status"]),
                text(&known["reason"]),
            )
        })
        .collect()
}

fn has(server: &Server, type_: &str, status: &str, reason: &str) -> bool {
    conditions(server).contains(&(type_.to_owned(), status.to_owned(), reason.to_owned()))
}

fn one_service(observed: &Observed, now: Timestamp) -> Plan {
    Plan {
        apply: vec![child(Kind::Service, "demo-state", None)],
        look_again: Some(Duration::from_secs(30)),
        ..nothing(observed, now)
    }
}

fn panics(_: &Observed, _: Timestamp) -> Plan {
    panic!("no such slot: {}", 7);
}

#[tokio::test]
async fn a_pass_applies_and_writes_the_status_last() {
    let server = with_demo(|_| None);
    let passes = passes(&server, one_service);
    let action = pass(&passes).await.unwrap();
    assert_eq!(
        server.written(),
        ["PATCH services/demo-state", "PATCH demo/status"]
    );
    assert_eq!(action, Action::requeue(Duration::from_secs(30)));
    assert_eq!(
        passes.parts.metrics.reconciles.with_label_values(&["done"]).get(),
        1
    );
}

#[tokio::test]
async fn a_refusal_shows_in_the_status_and_waits_for_a_change() {
    let server = with_demo(|asked| {
        asked
            .is(&Method::PATCH, "/services/demo-state")
            .then(|| failure(403, "Forbidden", "services \"demo-state\" is forbidden"))
    });
    let passes = passes(&server, one_service);
    let error = pass(&passes).await.unwrap_err();
    assert!(has(&server, condition::READY, "False", "Forbidden"));
    assert!(has(&server, condition::STALLED, "True", "Forbidden"));
    let writes = server.writes();
    let event = writes
        .iter()
        .find(|asked| asked.path.ends_with("/events"))
        .unwrap();
    assert_eq!(
        (&event.body["type"], &event.body["reason"]),
        (&json!("Warning"), &json!("Forbidden"))
    );
    let slow = passes.after(&demo(), &error);
    assert!(slow != Action::await_change(), "not every change is seen");
    assert_eq!(passes.parts.metrics.backoff.get(), 1);
    pass(&passes).await.unwrap_err();
    let events = |server: &Server| {
        let writes = server.writes();
        writes
            .iter()
            .filter(|asked| asked.path.contains("/events"))
            .count()
    };
    assert_eq!(events(&server), 1, "people are told once");
}

#[tokio::test]
async fn a_conflict_is_no_news_and_is_tried_again_at_once() {
    let refusals = AtomicUsize::new(1);
    let server = with_demo(move |asked| {
        let refuse = asked.is(&Method::PATCH, "/services/demo-state")
            && refusals
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .is_ok();
        refuse.then(|| failure(409, "Conflict", "the object has been modified"))
    });
    let passes = passes(&server, one_service);
    let error = pass(&passes).await.unwrap_err();
    assert!(conditions(&server).is_empty());
    assert_eq!(error.class(), Class::Conflict);
    let soon = (50..=60).map(|pause| Action::requeue(Duration::from_millis(pause)));
    let action = passes.after(&demo(), &error);
    let within = |action: &Action| format!("{action:?}").contains("ms");
    assert!(
        soon.clone().any(|soon| soon == action) || within(&action),
        "{action:?}"
    );
    pass(&passes).await.unwrap();
    assert_eq!(passes.parts.metrics.conflicts.get(), 1);
    assert_eq!(passes.parts.metrics.backoff.get(), 0);
}

#[tokio::test]
async fn a_panic_in_the_plan_is_a_condition_and_not_the_end() {
    let server = with_demo(|_| None);
    let passes = passes(&server, panics);
    for round in 1..=2 {
        let error = pass(&passes).await.unwrap_err();
        assert!(error.to_string().contains("no such slot: 7"), "{error}");
        assert_eq!(passes.parts.metrics.panics.get(), round);
    }
    assert!(has(&server, condition::READY, "False", "OperatorDefect"));
    assert!(has(&server, condition::STALLED, "True", "OperatorDefect"));
}

#[tokio::test]
async fn what_cannot_be_read_is_told_so() {
    let server = Server::new(|asked| {
        asked.is(&Method::GET, "/imaccessclusters/demo").then(|| {
            let mut object = serde_json::to_value(cluster("demo")).unwrap();
            object["spec"]["gateway"]["replicas"] = json!("many");
            (200, object)
        })
    });
    let passes = passes(&server, nothing);
    let error = pass(&passes).await.unwrap_err();
    assert!(matches!(error, Error::Undecodable(_)), "{error}");
    assert!(has(&server, condition::STALLED, "True", "InvalidSpecification"));
    assert_eq!(passes.parts.metrics.undecodable.get(), 1);
    passes.forget(&Key::new("default", "demo"));
    assert_eq!(passes.parts.metrics.undecodable.get(), 0);
}

#[tokio::test]
async fn without_the_lease_nothing_is_written() {
    let server = with_demo(|_| None);
    let metrics = metrics();
    let gate = Gate::new(
        Clock::boottime(),
        Duration::from_secs(4),
        metrics.refusals.clone(),
    );
    let client = ClientBuilder::new(server.service(), "default")
        .with_layer(&GateLayer(gate.clone()))
        .build();
    let passes = passes_by(client, metrics.clone(), one_service);
    let error = pass(&passes).await.unwrap_err();
    assert_eq!(error.class(), Class::NotLeading, "{error}");
    assert!(server.writes().is_empty());
    assert!(metrics.refusals.get() >= 1);
    gate.open();
    pass(&passes).await.unwrap();
    assert_eq!(server.writes().len(), 2);
}

#[tokio::test]
async fn what_is_gone_or_going_is_left_alone() {
    let gone = Server::new(|_| None);
    pass(&passes(&gone, one_service)).await.unwrap();
    let going = Server::new(|asked| {
        asked.is(&Method::GET, "/imaccessclusters/demo").then(|| {
            let mut object = serde_json::to_value(cluster("demo")).unwrap();
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            (200, object)
        })
    });
    pass(&passes(&going, one_service)).await.unwrap();
    assert!(gone.writes().is_empty() && going.writes().is_empty());
}

#[tokio::test]
async fn the_plan_sees_what_there_is_and_no_secret() {
    fn look(observed: &Observed, now: Timestamp) -> Plan {
        let facts = &observed.secrets["demo-tickets"];
        assert_eq!(facts.keys, ["tickets"]);
        assert!(facts.ours && facts.hash.len() == 32);
        assert!(!format!("{observed:?}").contains("c2VjcmV0") && !format!("{observed:?}").contains("hush"));
        assert!(
            observed
                .children
                .values()
                .any(|live| live["kind"] == "Service" && live["metadata"]["managedFields"].is_null())
        );
        nothing(observed, now)
    }
    let server = with_demo(|asked| {
        let owner = json!([{"apiVersion": "imaccess.io/v1alpha1", "kind": "ImAccessCluster", "name": "demo", "uid": "uid-of-demo", "controller": true}]);
        match asked.path.rsplit('/').next() {
            Some("secrets") => Some(crate::testing::list(&[json!({
                "metadata": {"name": "demo-tickets", "namespace": "default", "ownerReferences": owner},
                "data": {"tickets": "aHVzaA=="},
            })])),
            Some("services") => Some(crate::testing::list(&[json!({
                "metadata": {"name": "demo-state", "namespace": "default", "managedFields": []},
            })])),
            _ => None,
        }
    });
    let passes = passes(&server, look);
    pass(&passes).await.unwrap();
    assert_eq!(passes.parts.metrics.panics.get(), 0);
}
