//! A real replica, asked by HTTP: the same answers as by gRPC, and the same rules for who may ask, on the same port.

use imaccess_common::business::{BusinessConfig, ServiceAccount};
use imaccess_proto::v1::push_client::PushClient;
use imaccess_proto::v1::{PushDevicesRequest, PushGroupRequest};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::transport::Channel;

use super::access::{PUSH, Part, ROUTING, SIDECAR, secured};
use super::fake::{Replica, Sidecar, announcement, fixed, quick};
use super::*;
use crate::authority::Authority;
use crate::routing::access::testing::{Claims, Signer};
use crate::routing::front::testing::limited;
use crate::routing::http::testing::{Answer, Ask, over_http1, over_http2, over_stream};

fn push_to(devices: &str) -> Ask {
    let body = format!(r#"{{"app": "app", "devices": [{devices}], "text": "hello"}}"#);
    Ask::new("POST", "/v1/businesses/7/push").json(&body)
}

#[tokio::test]
async fn a_push_by_http_reaches_the_device_and_its_receipt_comes_back() {
    let mut a = Sidecar::start("a").await;
    let replica = Replica::start(fixed(&[&a])).await;
    a.accept("test").await;
    a.announce(vec![announcement("d1", SESSION_A, 5)]).await;
    a.snapshot_done().await;
    replica.in_sync().await;
    let address = replica.push_addr;
    let ask = push_to(r#""d1", "nobody""#).with("idempotency-key", "once");
    let again = ask.clone();
    let call = tokio::spawn(async move { over_http1(address, &ask).await });
    let push = a.unicasts(1).await.remove(0);
    assert_eq!((push.business, &push.payload[..]), (7, &b"hello"[..]));
    a.receipt(push.id, Outcome::Written).await;
    let expected = serde_json::json!({"results": [
        {"device": "d1", "outcome": "written"}, {"device": "nobody", "outcome": "offline"},
    ]});
    let answer = call.await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.json()), (200, expected.clone()));
    let answer = over_http1(address, &again).await;
    assert_eq!(
        (answer.header("idempotent-replayed"), answer.json()),
        (Some("true"), expected)
    );
    assert!(a.nothing_arrived());

    // What the API itself refuses names the field.
    let answer = over_http1(address, &push_to(r#""d1", """#)).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["field"]),
        (400, &"devices[1]".into())
    );
    let page = replica.page("/metrics").await;
    let line = "imaccess_routing_http_requests_total{route=\"push_devices\",status=\"200\"} 2";
    assert!(page.lines().any(|found| found == line), "{page}");
    replica.stop().await;
}

#[tokio::test]
async fn a_limit_holds_from_the_first_call_on() {
    let config = RoutingConfig {
        businesses: vec![limited(7, 1)],
        ..quick()
    };
    let replica = Replica::start(config).await;
    let many = vec!["\"d\""; 10_000].join(",");
    let answer = over_http1(replica.push_addr, &push_to(&many)).await;
    assert_eq!(answer.status, 200);
    let answer = over_http1(replica.push_addr, &push_to("\"d\"")).await;
    assert_eq!(answer.status, 429, "{answer:?}");
    replica.stop().await;
}

/// gRPC, HTTP/1.1 and HTTP/2 by the same certificate or token: all are let in, or none.
#[tokio::test]
async fn every_protocol_is_secured_alike() {
    let ours = Authority::new("ours");
    let routing = Part::new(&ours, ROUTING);
    let directory = tempfile::tempdir().unwrap();
    let jwks = directory.path().join("jwks");
    let signer = Signer::es256("one");
    std::fs::write(&jwks, Signer::key_set(&[&signer])).unwrap();
    let shop = BusinessConfig {
        pushers: vec![ServiceAccount {
            namespace: "shop".to_owned(),
            service_account: "orders".to_owned(),
        }],
        ..BusinessConfig::new(7, "shop", "http://shop:1")
    };
    let config = RoutingConfig {
        push_tokens: Some(PushTokensConfig {
            issuer: Some("https://kubernetes.default.svc".to_owned()),
            jwks: jwks.display().to_string(),
            audience: "imaccess-push".to_owned(),
            ca: None,
            token: None,
        }),
        businesses: vec![shop],
        ..secured(&routing, quick())
    };
    let caller = Part::new(&ours, PUSH);
    let sidecar = Part::new(&ours, SIDECAR);
    let replica = Replica::start_with(config, Some(caller.caller())).await;
    let address = replica.push_addr.to_string();
    let token = |account: &str| signer.sign(&Claims::of("shop", account, "imaccess-push"));
    let authority = caller.files.path("ca.crt");

    let cases = [
        // By its certificate, or without one, and with this token: the status of all.
        (Some(&caller), None, 200),
        (Some(&sidecar), None, 403),
        (None, None, 401),
        (None, Some(token("orders")), 200),
        (Some(&sidecar), Some(token("orders")), 200),
        (None, Some(token("carts")), 403),
        (None, Some("nonsense".to_owned()), 401),
    ];
    for (part, token, expected) in cases {
        let mut ask = push_to(r#""d""#);
        if let Some(token) = &token {
            ask = ask.with("authorization", &format!("Bearer {token}"));
        }
        let http = match part {
            Some(part) => ClientTls::http(part.identity(), ROUTING).unwrap(),
            None => ClientTls::http_once(&authority, ROUTING).unwrap(),
        };
        let stream = http.connect(&address).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let first = over_stream(stream, &ask).await;
        assert_eq!(
            (first.status.as_u16(), first.version),
            (expected, axum::http::Version::HTTP_11)
        );

        let grpc = match part {
            Some(part) => part.caller(),
            None => caller.nobody(),
        };
        let channel = Channel::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_with_connector(imaccess_common::tls::Connector(grpc))
            .await
            .unwrap();
        let second = over_http2(&channel, &ask).await;
        assert_eq!(
            (second.status.as_u16(), second.version),
            (expected, axum::http::Version::HTTP_2)
        );
        assert_eq!(first.body, second.body);

        let mut request = tonic::Request::new(PushDevicesRequest {
            business: 7,
            app: "app".to_owned(),
            devices: vec!["d".to_owned()],
            ..PushDevicesRequest::default()
        });
        if let Some(token) = &token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let third = PushClient::new(channel).push_devices(request).await;
        let code = third.map_or_else(|status| status.code(), |_| Code::Ok);
        let same = match expected {
            200 => Code::Ok,
            401 => Code::Unauthenticated,
            _ => Code::PermissionDenied,
        };
        assert_eq!(code, same);
    }
    // One refusal is counted once, though two stand at the door: 401 and 403 for each of the three protocols.
    let page = replica.page("/metrics").await;
    for (reason, count) in [
        ("unknown", 3),
        ("certificate", 3),
        ("account", 3),
        ("token_malformed", 3),
    ] {
        let line = format!("imaccess_routing_push_refused_total{{reason=\"{reason}\"}} {count}");
        assert!(
            page.lines().any(|found| found == line),
            "{line} is missing in\n{page}"
        );
    }
    replica.stop().await;
}

/// Who speaks neither protocol costs nothing but its connection, and others are served meanwhile.
#[tokio::test]
async fn grpc_is_served_beside_http_on_plain_connections() {
    let replica = Replica::start(quick()).await;
    let mut garbage = TcpStream::connect(replica.push_addr).await.unwrap();
    garbage
        .write_all(b"\x16\x03\x01\x02\x00 this is no HTTP at all")
        .await
        .unwrap();
    let mut client = PushClient::connect(format!("http://{}", replica.push_addr))
        .await
        .unwrap();
    let request = PushGroupRequest {
        business: 7,
        group: "g".into(),
        ..PushGroupRequest::default()
    };
    let by_grpc = client.push_group(request).await.unwrap().into_inner();
    let ask = Ask::new("POST", "/v1/businesses/7/groups/g/push").json("{}");
    let by_http: Answer = over_http1(replica.push_addr, &ask).await;
    assert_eq!(by_http.json()["sequence"], (by_grpc.sequence + 1).to_string());
    assert_eq!(by_http.json()["group_epoch"], by_grpc.group_epoch.to_string());

    // A service that isn't there is answered in gRPC's own way.
    let ask = Ask::new("POST", "/imaccess.v1.Nothing/Call").with("content-type", "application/grpc");
    let answer = over_http1(replica.push_addr, &ask).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("grpc-status")),
        (200, Some("12"))
    );
    replica.stop().await;
}
