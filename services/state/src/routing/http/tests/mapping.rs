//! What each request asks of the API, and how its answer reads.

use bytes::Bytes;
use imaccess_common::metrics::render;
use imaccess_proto::v1::{
    BroadcastRequest, ChangeMembersRequest, DestroyGroupRequest, DeviceFilter, KickRequest,
    ListMembersRequest, Priority, PushDevicesRequest, PushGroupRequest, QueryOnlineRequest,
};
use serde_json::{Value, json};

use super::Served;
use crate::routing::front::testing::Call;
use crate::routing::http::testing::Ask;

/// What this request was for the API, and its answer.
async fn asked(served: &Served, ask: Ask) -> (Call, Value) {
    let answer = served.ask(ask).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("idempotent-replayed"), None);
    let heard = served.fake.heard();
    assert_eq!(heard.len(), 1);
    (heard.into_iter().next().unwrap(), answer.json())
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

#[tokio::test]
async fn pushes_to_devices() {
    let served = Served::start().await;
    let body = r#"{"app": "shop", "devices": ["written", "offline-1", "queued", "refused", "retry", "unknown", "acknowledged"],
        "payload": "AAH/", "priority": "high", "ttl_ms": 4294967295, "message_id": "bTE"}"#;
    let ask = Ask::new("POST", "/v1/businesses/7/push")
        .json(body)
        .with("idempotency-key", "order-1");
    let (call, answer) = asked(&served, ask).await;
    let words = [
        "written",
        "offline",
        "queued",
        "refused",
        "retry",
        "unknown",
        "acknowledged",
    ];
    let devices = [
        "written",
        "offline-1",
        "queued",
        "refused",
        "retry",
        "unknown",
        "acknowledged",
    ];
    let expected = PushDevicesRequest {
        business: 7,
        app: "shop".to_owned(),
        devices: strings(&devices),
        payload: Bytes::from_static(b"\x00\x01\xff"),
        priority: Priority::High.into(),
        ttl_ms: u32::MAX,
        message_id: Bytes::from_static(b"m1"),
        idempotency_key: "order-1".to_owned(),
        ..PushDevicesRequest::default()
    };
    assert_eq!(call, Call::PushDevices(expected));
    let results: Vec<Value> = devices
        .iter()
        .zip(words)
        .map(|(device, word)| json!({"device": device, "outcome": word}))
        .collect();
    assert_eq!(answer, json!({"results": results}));

    // Everything but app and devices may be left out.
    let ask =
        Ask::new("POST", "/v1/businesses/7/push").json(r#"{"app": "a", "devices": ["d"], "text": "grüß"}"#);
    let (call, _) = asked(&served, ask).await;
    let expected = PushDevicesRequest {
        business: 7,
        app: "a".to_owned(),
        devices: strings(&["d"]),
        payload: Bytes::from("grüß"),
        ..PushDevicesRequest::default()
    };
    assert_eq!(call, Call::PushDevices(expected));
    served.stop().await;
}

#[tokio::test]
async fn pushes_to_groups_and_to_everyone() {
    let served = Served::start().await;
    let ask = Ask::new("POST", "/v1/businesses/7/groups/a%2Fb%00%FF/push")
        .json(r#"{"text": "hi", "priority": "low", "ttl_ms": 5}"#)
        .with("idempotency-key", "g");
    let (call, answer) = asked(&served, ask).await;
    let expected = PushGroupRequest {
        business: 7,
        group: Bytes::from_static(b"a/b\0\xff"),
        payload: Bytes::from_static(b"hi"),
        priority: Priority::Low.into(),
        ttl_ms: 5,
        idempotency_key: "g".to_owned(),
    };
    assert_eq!(call, Call::PushGroup(expected));
    let expected = json!({
        "group_epoch": "18446744073709551615", "sequence": "9007199254740992", "instances": 2, "unsynced": 1
    });
    assert_eq!(answer, expected);

    let filter =
        r#"{"app": "shop", "platforms": ["ios", "android"], "version_from": "1.2", "version_to": "3"}"#;
    let body = format!(r#"{{"filter": {filter}, "payload": "", "message_id": "bQ=="}}"#);
    let ask = Ask::new("POST", "/v1/businesses/7/broadcast")
        .json(&body)
        .with("idempotency-key", "b");
    let (call, answer) = asked(&served, ask).await;
    let filter = DeviceFilter {
        app: "shop".to_owned(),
        platforms: strings(&["ios", "android"]),
        version_from: "1.2".to_owned(),
        version_to: "3".to_owned(),
    };
    let expected = BroadcastRequest {
        business: 7,
        filter: Some(filter),
        message_id: Bytes::from_static(b"m"),
        idempotency_key: "b".to_owned(),
        ..BroadcastRequest::default()
    };
    assert_eq!(call, Call::Broadcast(expected));
    let expected = json!({"devices": "120034", "unknown": "5", "instances": 4, "unsynced": 0});
    assert_eq!(answer, expected);

    // An empty filter lets everyone through, as none does.
    for (body, filter) in [("{}", None), (r#"{"filter": {}}"#, Some(DeviceFilter::default()))] {
        let (call, _) = asked(&served, Ask::new("POST", "/v1/businesses/1/broadcast").json(body)).await;
        let expected = BroadcastRequest {
            business: 1,
            filter,
            ..BroadcastRequest::default()
        };
        assert_eq!(call, Call::Broadcast(expected));
    }
    served.stop().await;
}

#[tokio::test]
async fn changes_groups() {
    let served = Served::start().await;
    let body = r#"{"app": "chat", "devices": ["done", "offline", "refused", "retry"]}"#;
    let expected = ChangeMembersRequest {
        business: 9,
        group: Bytes::from_static(b"room"),
        app: "chat".to_owned(),
        devices: strings(&["done", "offline", "refused", "retry"]),
    };
    type Kind = fn(ChangeMembersRequest) -> Call;
    let kinds: [(&str, &str, Kind); 3] = [
        ("PUT", "/v1/businesses/9/groups/room", Call::CreateGroup),
        ("POST", "/v1/businesses/9/groups/room/members", Call::JoinGroup),
        (
            "POST",
            "/v1/businesses/9/groups/room/members/remove",
            Call::LeaveGroup,
        ),
    ];
    for (method, path, kind) in kinds {
        let (call, answer) = asked(&served, Ask::new(method, path).json(body)).await;
        assert_eq!(call, kind(expected.clone()));
        assert_eq!(
            answer["results"][1],
            json!({"device": "offline", "outcome": "offline"})
        );
        assert_eq!(answer["results"].as_array().unwrap().len(), 4);
    }

    for (query, limit) in [("", 1_000), ("?limit=0", 0), ("?limit=10000", 10_000)] {
        let path = format!("/v1/businesses/9/groups/room/members{query}");
        let (call, answer) = asked(&served, Ask::new("GET", &path)).await;
        let expected = ListMembersRequest {
            business: 9,
            group: Bytes::from_static(b"room"),
            limit,
        };
        assert_eq!(call, Call::ListMembers(expected));
        let expected = json!({"count": "3", "members": [{"app": "app", "device": "d-1"}], "unsynced": 1});
        assert_eq!(answer, expected);
    }

    let (call, answer) = asked(&served, Ask::new("DELETE", "/v1/businesses/9/groups/room")).await;
    let expected = DestroyGroupRequest {
        business: 9,
        group: Bytes::from_static(b"room"),
    };
    assert_eq!(call, Call::DestroyGroup(expected));
    assert_eq!(answer, json!({"count": "15000", "unsynced": 0}));
    served.stop().await;
}

#[tokio::test]
async fn asks_for_devices_and_kicks_them() {
    let served = Served::start().await;
    let body = r#"{"app": "shop", "devices": ["d-1", "offline", "retry"]}"#;
    let (call, answer) = asked(&served, Ask::new("POST", "/v1/businesses/7/online").json(body)).await;
    let expected = QueryOnlineRequest {
        business: 7,
        app: "shop".to_owned(),
        devices: strings(&["d-1", "offline", "retry"]),
    };
    assert_eq!(call, Call::QueryOnline(expected));
    let expected = json!({"results": [
        {"device": "d-1", "outcome": "online", "gateway": "gateway-0"},
        {"device": "offline", "outcome": "offline"},
        {"device": "retry", "outcome": "retry"},
    ]});
    assert_eq!(answer, expected);

    let body = r#"{"app": "shop", "devices": ["done-1", "offline"], "reason": "signed out"}"#;
    let (call, answer) = asked(&served, Ask::new("POST", "/v1/businesses/7/kick").json(body)).await;
    let expected = KickRequest {
        business: 7,
        app: "shop".to_owned(),
        devices: strings(&["done-1", "offline"]),
        reason: "signed out".to_owned(),
    };
    assert_eq!(call, Call::Kick(expected));
    let expected = json!({"results": [
        {"device": "done-1", "outcome": "done"}, {"device": "offline", "outcome": "offline"},
    ]});
    assert_eq!(answer, expected);
    served.stop().await;
}

#[tokio::test]
async fn requests_are_counted_by_route_and_status() {
    let served = Served::start().await;
    served
        .post("/v1/businesses/7/kick", r#"{"app": "a", "devices": ["d"]}"#)
        .await;
    served.post("/v1/businesses/7/kick", "{").await;
    served.post("/v1/businesses/x/kick", "{").await;
    served.ask(Ask::new("GET", "/v1/businesses/7/kick")).await;
    served.ask(Ask::new("GET", "/nothing")).await;
    let page = render(&served.registry);
    for line in [
        "imaccess_routing_http_requests_total{route=\"kick\",status=\"200\"} 1",
        "imaccess_routing_http_requests_total{route=\"kick\",status=\"400\"} 2",
        "imaccess_routing_http_requests_total{route=\"none\",status=\"404\"} 1",
        "imaccess_routing_http_requests_total{route=\"none\",status=\"405\"} 1",
        "imaccess_routing_http_seconds_count{route=\"kick\"} 3",
    ] {
        assert!(
            page.lines().any(|found| found == line),
            "{line} is missing in\n{page}"
        );
    }
    served.stop().await;
}
