use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::health::Health;
use crate::leader::evaluate::Timing;
use crate::testing::{Server, failure, metrics};

/// The API server's side of one Lease: refuses what wasn't planned from what there is.
#[derive(Clone, Default)]
struct Leases {
    object: Arc<Mutex<Option<Value>>>,
}

impl Leases {
    /// A way to it, which can be cut.
    fn server(&self, cut: &Arc<AtomicBool>) -> Server {
        let (object, cut) = (Arc::clone(&self.object), Arc::clone(cut));
        Server::new(move |asked| {
            if cut.load(Ordering::SeqCst) {
                return Some(failure(500, "InternalError", "no way"));
            }
            let mut object = object.lock().unwrap();
            let version = |value: &Value| value["metadata"]["resourceVersion"].clone();
            let next = object.as_ref().map_or(1, |known| {
                version(known).as_str().unwrap().parse::<u64>().unwrap() + 1
            });
            match (asked.method.clone(), object.clone()) {
                (Method::GET, Some(known)) => return Some((200, known)),
                (Method::GET, None) => return None,
                (Method::POST, Some(_)) => return Some(failure(409, "AlreadyExists", "it exists")),
                (Method::PUT, Some(known)) if version(&known) != version(&asked.body) => {
                    return Some(failure(409, "Conflict", "it has been modified"));
                }
                _ => {}
            }
            let mut written = asked.body.clone();
            written["metadata"]["resourceVersion"] = json!(next.to_string());
            *object = Some(written.clone());
            Some((200, written))
        })
    }

    fn field(&self, name: &str) -> Value {
        self.object
            .lock()
            .unwrap()
            .as_ref()
            .map_or(Value::Null, |lease| lease["spec"][name].clone())
    }
}

struct Candidate {
    gate: Gate,
    cut: Arc<AtomicBool>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    metrics: Metrics,
    readiness: Readiness,
}

fn candidate(leases: &Leases, name: &str) -> Candidate {
    let began = Instant::now();
    let clock = Clock::of(move || began.elapsed());
    let (metrics, readiness) = (metrics(), Readiness::new());
    let gate = Gate::new(clock.clone(), Timing::DEFAULT.request, metrics.refusals.clone());
    let cut = Arc::new(AtomicBool::new(false));
    let campaign = Campaign::new(
        (
            Api::namespaced(leases.server(&cut).client(), "imaccess-system"),
            "imaccess-operator".to_owned(),
        ),
        Elector::new(name.to_owned(), Timing::DEFAULT),
        gate.clone(),
        clock,
        metrics.clone(),
        Health::new().pulse("test"),
        &readiness,
    );
    let stop = CancellationToken::new();
    Candidate {
        gate,
        cut,
        task: tokio::spawn(campaign.run(stop.clone())),
        stop,
        metrics,
        readiness,
    }
}

/// How long, by the test's clock, until `state`.
async fn until(state: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !state() {
        assert!(began.elapsed() < Duration::from_secs(120), "it never came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

async fn pass_by(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_replaced_within_twenty_seconds() {
    let leases = Leases::default();
    let first = candidate(&leases, "first");
    until(|| first.gate.is_open()).await;
    let second = candidate(&leases, "second");
    pass_by(61).await;
    assert!(first.gate.is_open() && !second.gate.is_open());
    assert_eq!(leases.field("holderIdentity"), "first");
    first.task.abort();
    let taken = until(|| second.gate.is_open()).await;
    assert!(taken <= Duration::from_secs(20), "{taken:?}");
    assert!(!first.gate.is_open(), "the former may not write any more");
    assert_eq!(leases.field("leaseTransitions"), 1);
    assert_eq!(leases.field("leaseDurationSeconds"), 15);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_ends_gives_the_lease_back() {
    let leases = Leases::default();
    let first = candidate(&leases, "first");
    until(|| first.gate.is_open()).await;
    let second = candidate(&leases, "second");
    pass_by(5).await;
    first.stop.cancel();
    first.task.await.unwrap();
    assert!(!first.gate.is_open());
    let taken = until(|| second.gate.is_open()).await;
    assert!(taken <= Duration::from_secs(3), "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_ceases_by_itself_and_comes_back() {
    let leases = Leases::default();
    let only = candidate(&leases, "only");
    until(|| only.gate.is_open()).await;
    pass_by(30).await;
    only.cut.store(true, Ordering::SeqCst);
    let lapsed = until(|| !only.gate.is_open()).await;
    assert!(lapsed <= Duration::from_secs(10), "{lapsed:?}");
    assert!(only.metrics.lease_failures.get() >= 2);
    pass_by(60).await;
    only.cut.store(false, Ordering::SeqCst);
    assert!(until(|| only.gate.is_open()).await <= Duration::from_secs(3));
    assert_eq!(leases.field("leaseTransitions"), 0);
}

#[tokio::test(start_paused = true)]
async fn it_is_ready_once_it_is_known_who_leads() {
    let leases = Leases::default();
    let (first, second) = (candidate(&leases, "first"), candidate(&leases, "second"));
    for candidate in [&first, &second] {
        candidate.cut.store(true, Ordering::SeqCst);
    }
    pass_by(30).await;
    assert!(!first.readiness.is_ready() && !second.readiness.is_ready());
    for candidate in [&first, &second] {
        candidate.cut.store(false, Ordering::SeqCst);
    }
    // Also the one that doesn't lead.
    until(|| first.readiness.is_ready() && second.readiness.is_ready()).await;
    first.cut.store(true, Ordering::SeqCst);
    pass_by(60).await;
    assert!(
        first.readiness.is_ready(),
        "an API server that is away for a while makes no pod unready"
    );
}

#[tokio::test(start_paused = true)]
async fn one_failed_renewal_closes_nothing() {
    let leases = Leases::default();
    let only = candidate(&leases, "only");
    until(|| only.gate.is_open()).await;
    pass_by(30).await;
    only.cut.store(true, Ordering::SeqCst);
    until(|| only.metrics.lease_failures.get() == 1).await;
    only.cut.store(false, Ordering::SeqCst);
    for _ in 0..400 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(only.gate.is_open());
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_away_finds_another_and_lands_nothing() {
    let leases = Leases::default();
    let first = candidate(&leases, "first");
    until(|| first.gate.is_open()).await;
    let second = candidate(&leases, "second");
    pass_by(5).await;
    first.cut.store(true, Ordering::SeqCst);
    until(|| second.gate.is_open()).await;
    assert!(!first.gate.is_open());
    first.cut.store(false, Ordering::SeqCst);
    for _ in 0..2_000 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!first.gate.is_open() && second.gate.is_open());
    }
    assert_eq!(leases.field("holderIdentity"), "second");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_edits_is_kept_and_one_that_is_deleted_made_again() {
    let leases = Leases::default();
    let only = candidate(&leases, "only");
    until(|| only.gate.is_open()).await;
    let edit = |version: &str| {
        let mut object = leases.object.lock().unwrap();
        object.as_mut().unwrap()["metadata"]["resourceVersion"] = json!(version);
    };
    edit("500");
    pass_by(7).await;
    assert!(only.gate.is_open());
    assert_ne!(leases.field("renewTime"), Value::Null);
    *leases.object.lock().unwrap() = None;
    until(|| leases.field("holderIdentity") == "only").await;
    pass_by(20).await;
    assert!(only.gate.is_open());
}
