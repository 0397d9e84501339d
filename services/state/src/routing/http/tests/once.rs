//! Keys and limits, whichever way a call comes: a key's call may come by HTTP once and by gRPC next.

use imaccess_common::metrics::render;
use imaccess_proto::v1::push_client::PushClient;
use imaccess_proto::v1::{PushDevicesRequest, PushGroupRequest};
use tonic::Code;

use super::Served;
use crate::routing::front::testing::{limited, patiently};
use crate::routing::front::{REPLAYED, RETRY_AFTER};
use crate::routing::http::testing::{Ask, over_http1};

const PUSH: &str = "/v1/businesses/7/push";

fn keyed(key: &str, body: &str) -> Ask {
    Ask::new("POST", PUSH).json(body).with("idempotency-key", key)
}

#[tokio::test]
async fn a_repeated_call_is_answered_by_either_protocol() {
    let served = Served::start().await;
    let body = r#"{"app": "a", "devices": ["offline", "d"], "text": "x"}"#;
    let first = served.ask(keyed("k", body)).await;
    assert_eq!((first.status.as_u16(), first.header(REPLAYED)), (200, None));
    let second = served.ask(keyed("k", body)).await;
    assert_eq!(
        (second.status.as_u16(), second.header(REPLAYED)),
        (200, Some("true"))
    );
    assert_eq!(first.json(), second.json());

    let mut client = PushClient::connect(format!("http://{}", served.address))
        .await
        .unwrap();
    let request = PushDevicesRequest {
        business: 7,
        app: "a".to_owned(),
        devices: vec!["offline".to_owned(), "d".to_owned()],
        payload: "x".into(),
        idempotency_key: "k".to_owned(),
        ..PushDevicesRequest::default()
    };
    let third = client.push_devices(request.clone()).await.unwrap();
    assert_eq!(third.metadata().get(REPLAYED).unwrap(), "true");
    assert_eq!(third.get_ref().outcomes, [4, 1]);
    let other = PushDevicesRequest { ttl_ms: 1, ..request };
    let refused = client.push_devices(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = served
        .ask(keyed("k", r#"{"app": "a", "devices": ["d"], "text": "x"}"#))
        .await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json()["field"], "idempotency_key");
    assert_eq!(served.fake.heard().len(), 1);
    served.stop().await;
}

#[tokio::test]
async fn while_the_first_runs_the_second_conflicts_also_after_the_first_caller_has_gone() {
    let served = Served::start().await;
    let body = r#"{"app": "a", "devices": ["d"], "text": "x"}"#;
    served.fake.hold();
    let address = served.address;
    let first = tokio::spawn(async move { over_http1(address, &keyed("k", body)).await });
    served.fake.is_asked().await;
    let conflict = served.ask(keyed("k", body)).await;
    assert_eq!(
        (conflict.status.as_u16(), &conflict.json()["code"]),
        (409, &"aborted".into())
    );
    // With its task the caller's connection goes.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    served.fake.release(1);
    let answer = patiently(async {
        loop {
            let answer = served.ask(keyed("k", body)).await;
            if answer.status != 409 {
                break answer;
            }
        }
    })
    .await;
    assert_eq!(
        (answer.status.as_u16(), answer.header(REPLAYED)),
        (200, Some("true"))
    );
    assert!(served.fake.heard().is_empty());
    served.stop().await;
}

#[tokio::test]
async fn over_its_rate_a_business_is_told_when_to_come_again() {
    let served = Served::start().await;
    served.front.set_businesses(&[limited(7, 1), limited(8, 1)]);
    let devices = vec!["\"d\""; 9_990].join(",");
    let body = format!(r#"{{"app": "a", "devices": [{devices}]}}"#);
    assert_eq!(served.post(PUSH, &body).await.status, 200);
    let refused = served.post(PUSH, &body).await;
    assert_eq!(refused.status, 429);
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((9_900..=9_980).contains(&seconds), "{seconds}");
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("push_rate") && detail.contains("come again in"),
        "{detail}"
    );
    // A group counts one, another business isn't concerned, and what isn't a push is free.
    let group = "/v1/businesses/7/groups/g/push";
    assert_eq!(served.post(group, "{}").await.status, 200);
    assert_eq!(served.post("/v1/businesses/8/push", &body).await.status, 200);
    assert_eq!(served.post("/v1/businesses/7/online", &body).await.status, 200);

    let mut client = PushClient::connect(format!("http://{}", served.address))
        .await
        .unwrap();
    let request = PushGroupRequest {
        business: 7,
        group: "g".into(),
        ..PushGroupRequest::default()
    };
    // Nine more are left of the ten thousand, and a few for the time since.
    let refused = patiently(async {
        loop {
            if let Err(refused) = client.push_group(request.clone()).await {
                break refused;
            }
        }
    })
    .await;
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.metadata().contains_key(RETRY_AFTER));
    let page = render(&served.registry);
    let line = "imaccess_routing_push_limited_total{business=\"7\"} 2";
    assert!(page.lines().any(|found| found == line), "{page}");
    served.stop().await;
}
