//! Calls with keys, calls beyond the rate, and calls that nobody may make, before a push API that counts them.

use imaccess_common::metrics::render;
use prometheus::Registry;
use tokio::task::JoinHandle;
use tonic::Code;

use super::testing::{Fake, fronted, limited, patiently};
use super::*;
use crate::routing::RoutingConfig;

fn devices(key: &str, devices: &[&str]) -> PushDevicesRequest {
    PushDevicesRequest {
        business: 7,
        app: "app".to_owned(),
        devices: devices.iter().map(|&device| device.to_owned()).collect(),
        idempotency_key: key.to_owned(),
        ..PushDevicesRequest::default()
    }
}

fn group(key: &str) -> PushGroupRequest {
    PushGroupRequest {
        business: 7,
        group: "g".into(),
        idempotency_key: key.to_owned(),
        ..PushGroupRequest::default()
    }
}

async fn push(front: &Front<Fake>, request: PushDevicesRequest) -> Result<(Vec<i32>, bool), Status> {
    let response = front.push_devices(Request::new(request)).await?;
    let replayed = response.metadata().contains_key(REPLAYED);
    Ok((response.into_inner().outcomes, replayed))
}

/// A call that is under way when this returns.
async fn push_later(
    front: &Arc<Front<Fake>>,
    fake: &Fake,
    request: PushDevicesRequest,
) -> JoinHandle<Result<(Vec<i32>, bool), Status>> {
    let front = Arc::clone(front);
    let call = tokio::spawn(async move { push(&front, request).await });
    fake.is_asked().await;
    call
}

fn counted(registry: &Registry, line: &str) {
    let page = render(registry);
    assert!(
        page.lines().any(|found| found == line),
        "{line} is missing in\n{page}"
    );
}

#[tokio::test]
async fn a_repeated_call_is_answered_and_not_made() {
    let (front, fake, _, registry) = fronted(&RoutingConfig::default());
    let first = push(&front, devices("k", &["written", "offline"])).await.unwrap();
    assert_eq!(first, (vec![1, 4], false));
    let second = push(&front, devices("k", &["written", "offline"])).await.unwrap();
    assert_eq!(second, (vec![1, 4], true));
    assert_eq!(fake.heard().len(), 1);
    // Of the other kinds as well.
    for replayed in [false, true] {
        let pushed = front.push_group(Request::new(group("g"))).await.unwrap();
        assert_eq!(pushed.metadata().contains_key(REPLAYED), replayed);
        assert_eq!(pushed.get_ref().sequence, 1 << 53);
        let request = BroadcastRequest {
            business: 7,
            idempotency_key: "b".to_owned(),
            ..BroadcastRequest::default()
        };
        let pushed = front.broadcast(Request::new(request)).await.unwrap();
        assert_eq!(pushed.metadata().contains_key(REPLAYED), replayed);
        assert_eq!(pushed.get_ref().devices, 120_034);
    }
    assert_eq!(fake.heard().len(), 2);
    // Without a key every call is made, and each business has keys of its own.
    for _ in 0..2 {
        assert!(!push(&front, devices("", &["written"])).await.unwrap().1);
    }
    let mut other = devices("k", &["written", "offline"]);
    other.business = 8;
    assert!(!push(&front, other).await.unwrap().1);
    assert_eq!(fake.heard().len(), 3);
    counted(
        &registry,
        "imaccess_routing_push_repeated_total{result=\"repeated\"} 3",
    );
    counted(&registry, "imaccess_routing_push_kept_calls 4");
}

#[tokio::test]
async fn a_key_is_for_one_call() {
    let (front, fake, _, _) = fronted(&RoutingConfig::default());
    push(&front, devices("k", &["written"])).await.unwrap();
    let refused = push(&front, devices("k", &["offline"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("idempotency_key: "), "{refused}");
    let refused = front.push_group(Request::new(group("k"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let long = "k".repeat(MAX_KEY + 1);
    let refused = push(&front, devices(&long, &["written"])).await.unwrap_err();
    assert!(
        refused.message().starts_with("idempotency_key: has 65 bytes"),
        "{refused}"
    );
    assert_eq!(fake.heard().len(), 1);
}

#[tokio::test]
async fn a_call_goes_on_without_its_caller() {
    let (front, fake, _, _) = fronted(&RoutingConfig::default());
    fake.hold();
    let call = push_later(&front, &fake, devices("k", &["queued"])).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    let refused = push(&front, devices("k", &["queued"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    fake.release(1);
    let answered = patiently(async {
        loop {
            match push(&front, devices("k", &["queued"])).await {
                Err(status) if status.code() == Code::Aborted => tokio::task::yield_now().await,
                answered => break answered.unwrap(),
            }
        }
    })
    .await;
    assert_eq!(answered, (vec![3], true));
    assert_eq!(fake.heard().len(), 0);
}

#[tokio::test]
async fn what_failed_before_it_began_may_be_made_again() {
    let (front, fake, _, _) = fronted(&RoutingConfig::default());
    fake.refuse(Some(Status::unavailable("not now")));
    let refused = push(&front, devices("k", &["written"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    fake.refuse(Some(Status::invalid_argument("app: is wrong")));
    for replayed in [false, true] {
        let refused = push(&front, devices("k", &["written"])).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::InvalidArgument, "app: is wrong")
        );
        assert_eq!(refused.metadata().contains_key(REPLAYED), replayed);
    }
    assert_eq!(fake.heard().len(), 2);
}

#[tokio::test]
async fn what_broke_off_is_not_made_again() {
    let (front, fake, _, _) = fronted(&RoutingConfig::default());
    fake.refuse(Some(Status::internal("panic")));
    let broken = push(&front, devices("k", &["written"])).await.unwrap_err();
    assert_eq!(broken.code(), Code::Internal);
    fake.refuse(None);
    let repeated = push(&front, devices("k", &["written"])).await.unwrap_err();
    assert_eq!(
        (repeated.code(), repeated.message()),
        (Code::Internal, broken.message())
    );
    assert_eq!(fake.heard().len(), 1);
}

#[tokio::test]
async fn over_its_rate_a_business_waits() {
    let (front, fake, _, registry) = fronted(&RoutingConfig::default());
    front.set_businesses(&[limited(7, 1)]);
    let many: Vec<&str> = vec!["written"; 9_999];
    push(&front, devices("k", &many)).await.unwrap();
    front.push_group(Request::new(group(""))).await.unwrap();
    let refused = front.push_group(Request::new(group("g"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(
        refused.message().contains("push_rate of 1 devices a second"),
        "{refused}"
    );
    let milliseconds = refused.metadata().get(RETRY_AFTER).unwrap().to_str().unwrap();
    let milliseconds: u64 = milliseconds.parse().unwrap();
    assert!((1..=1_000).contains(&milliseconds), "{milliseconds}");
    counted(&registry, "imaccess_routing_push_limited_total{business=\"7\"} 1");
    // A repeated call costs nothing, and the key of the refused one is free.
    assert!(push(&front, devices("k", &many)).await.unwrap().1);
    front.set_businesses(&[]);
    let pushed = front.push_group(Request::new(group("g"))).await.unwrap();
    assert!(!pushed.metadata().contains_key(REPLAYED));
    assert_eq!(fake.heard().len(), 3);
}

#[tokio::test]
async fn what_is_refused_costs_nothing_of_the_rate() {
    let (front, fake, _, _) = fronted(&RoutingConfig::default());
    front.set_businesses(&[limited(7, 1)]);
    fake.refuse(Some(Status::invalid_argument("app: is wrong")));
    // More than any call may name: it is for the API to say so.
    let many: Vec<&str> = vec!["written"; 10_001];
    for key in ["", "", "a", "b"] {
        let refused = push(&front, devices(key, &many)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn who_may_not_push_learns_nothing() {
    let config = RoutingConfig {
        push_clients: vec!["push.demo".to_owned()],
        ..RoutingConfig::default()
    };
    let (front, fake, _, registry) = fronted(&config);
    let allowed = || {
        let mut request = Request::new(devices("k", &["written"]));
        let names = vec!["push.demo".to_owned()];
        request
            .extensions_mut()
            .insert(imaccess_common::tls::Peer { names: names.into() });
        request
    };
    front.push_devices(allowed()).await.unwrap();
    let refused = push(&front, devices("k", &["written"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let again = front.push_devices(allowed()).await.unwrap();
    assert!(again.metadata().contains_key(REPLAYED));
    assert_eq!(fake.heard().len(), 1);
    counted(
        &registry,
        "imaccess_routing_push_refused_total{reason=\"unknown\"} 1",
    );
}
