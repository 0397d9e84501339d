use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::Method;
use imaccess_operator_plan::{Observed, Plan};
use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::testing::{Asked, Server, cluster, failure, list, metrics, nothing};

fn options(namespaces: &[&str]) -> Options {
    Options {
        namespaces: namespaces.iter().map(|&namespace| namespace.to_owned()).collect(),
        lease_namespace: None,
        lease_name: "imaccess-operator".to_owned(),
        election: false,
        pages: "127.0.0.1:0".parse().unwrap(),
        resync: Duration::from_secs(600),
        lifetimes: Lifetimes::DEFAULT,
        version: "0.1.0".to_owned(),
        identity: "test".to_owned(),
    }
}

/// `good` is as it should be, `bad` makes the plan panic.
fn fussy(observed: &Observed, now: Timestamp) -> Plan {
    assert_ne!(observed.cluster.metadata.name.as_deref(), Some("bad"));
    nothing(observed, now)
}

fn is_list(asked: &Asked) -> bool {
    asked.is(&Method::GET, "/imaccessclusters")
}

/// A server with three clusters: one as it should be, one that makes the plan panic, one that can't be read.
fn three() -> Server {
    let object = |name: &str| {
        let mut object = serde_json::to_value(cluster(name)).unwrap();
        if name == "broken" {
            object["spec"]["gateway"]["replicas"] = json!("many");
        }
        object
    };
    Server::new(move |asked| {
        if is_list(asked) {
            return Some(list(&["bad", "broken", "good"].map(object)));
        }
        let name = asked.path.rsplit('/').next()?;
        (asked.method == Method::GET && asked.path.contains("/imaccessclusters/"))
            .then(|| (200, object(name)))
    })
}

async fn until(state: impl Fn() -> bool) {
    let waited = async {
        while !state() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waited)
        .await
        .expect("the state came");
}

fn status_of(server: &Server, name: &str) -> bool {
    server.written().contains(&format!("PATCH {name}/status"))
}

struct Running {
    operator: Arc<Operator>,
    readiness: Readiness,
    lead: watch::Sender<bool>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start(server: &Server, planner: Planner, namespaces: &[&str]) -> Running {
    let readiness = Readiness::new();
    let operator = Arc::new(Operator::new(
        &options(namespaces),
        planner,
        server.client(),
        metrics(),
        Health::new(),
        &readiness,
    ));
    let (lead, leads) = watch::channel(false);
    let stop = CancellationToken::new();
    let (living, ended) = (Arc::clone(&operator), stop.clone());
    let task = tokio::spawn(async move { living.live(leads, ended).await });
    Running {
        operator,
        readiness,
        lead,
        stop,
        task,
    }
}

#[tokio::test]
async fn one_bad_cluster_stops_no_other() {
    let server = three();
    let running = start(&server, fussy, &[]);
    running.lead.send_replace(true);
    until(|| {
        ["bad", "broken", "good"]
            .iter()
            .all(|name| status_of(&server, name))
    })
    .await;
    let metrics = &running.operator.metrics;
    assert_eq!(metrics.undecodable.get(), 1);
    assert!(metrics.panics.get() >= 1);
    assert!(running.readiness.is_ready());
    running.stop.cancel();
    running.task.await.unwrap();
}

#[tokio::test]
async fn a_follower_writes_nothing_and_a_leader_that_lost_ceases() {
    let server = three();
    let running = start(&server, fussy, &[]);
    until(|| running.readiness.is_ready()).await;
    assert!(server.writes().is_empty());
    running.lead.send_replace(true);
    until(|| status_of(&server, "good")).await;
    running.lead.send_replace(false);
    // The watches hold the passes: when they have ended nobody but the operator does.
    until(|| Arc::strong_count(&running.operator.passes) == 1).await;
    // Leading again begins with a look at everything.
    let written = server.writes().len();
    running.lead.send_replace(true);
    until(|| server.writes().len() > written).await;
    running.stop.cancel();
    running.task.await.unwrap();
}

#[tokio::test]
async fn with_namespaces_nothing_is_asked_of_the_whole_cluster() {
    let asked_at_large = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked_at_large);
    let server = Server::new(move |asked| {
        let discovery = asked.path.ends_with("/monitoring.coreos.com/v1");
        if !discovery && !asked.path.contains("/namespaces/") {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        (is_list(asked) && asked.path.contains("/default/"))
            .then(|| list(&[serde_json::to_value(cluster("good")).unwrap()]))
            .or_else(|| {
                asked
                    .is(&Method::GET, "/imaccessclusters/good")
                    .then(|| (200, serde_json::to_value(cluster("good")).unwrap()))
            })
    });
    let running = start(&server, nothing, &["default", "other"]);
    running.lead.send_replace(true);
    until(|| status_of(&server, "good")).await;
    assert_eq!(asked_at_large.load(Ordering::SeqCst), 0);
    running.stop.cancel();
    running.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_missing_definition_is_waited_for() {
    let installed = Arc::new(AtomicBool::new(false));
    let there = Arc::clone(&installed);
    let server = Server::new(move |asked| {
        (is_list(asked) && !there.load(Ordering::SeqCst)).then(|| {
            failure(
                404,
                "NotFound",
                "the server could not find the requested resource",
            )
        })
    });
    let running = start(&server, nothing, &[]);
    running.lead.send_replace(true);
    until(|| running.operator.metrics.definition_missing.get() == 1).await;
    assert!(!running.readiness.is_ready());
    assert!(running.readiness.to_string().contains("no  crd"));
    installed.store(true, Ordering::SeqCst);
    until(|| running.readiness.is_ready()).await;
    assert_eq!(running.operator.metrics.definition_missing.get(), 0);
    running.stop.cancel();
    running.task.await.unwrap();
}
