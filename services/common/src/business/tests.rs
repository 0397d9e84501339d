//! Reading, writing and checking of businesses.

use super::*;

#[test]
fn three_fields_are_enough() {
    let read: BusinessConfig =
        serde_yaml::from_str("{id: 1, name: echo, endpoint: 'http://127.0.0.1:7001'}").unwrap();
    assert_eq!(read, BusinessConfig::new(1, "echo", "http://127.0.0.1:7001"));
    let written = serde_yaml::to_string(&read).unwrap();
    assert!(
        written.contains("timeout: 10s") && written.contains("queue_bytes: 64KiB"),
        "{written}"
    );
    assert!(written.contains("slow_consumer: drop-oldest"), "{written}");
    assert_eq!(serde_yaml::from_str::<BusinessConfig>(&written).unwrap(), read);
}

#[test]
fn what_is_newer_is_written_only_where_it_is_used() {
    let plain = serde_yaml::to_string(&BusinessConfig::new(1, "echo", "http://127.0.0.1:7001")).unwrap();
    for field in ["protocol", "endpoints", "request_rate", "push_rate"] {
        assert!(!plain.contains(field), "{plain}");
    }
    let text = "{id: 1, name: web, endpoints: ['http://a:1', 'http://b:1'], protocol: grpc-unary, request_rate: 10, \
                push_rate: 20}";
    let read: BusinessConfig = serde_yaml::from_str(text).unwrap();
    assert_eq!(validate_all(std::slice::from_ref(&read)), Ok(()));
    assert_eq!(
        (read.protocol, read.request_rate, read.push_rate),
        (Protocol::GrpcUnary, 10, 20)
    );
    let written = serde_yaml::to_string(&read).unwrap();
    assert!(!written.contains("endpoint:"), "{written}");
    assert_eq!(serde_yaml::from_str::<BusinessConfig>(&written).unwrap(), read);
}

#[test]
fn there_are_as_many_streams_as_places_up_to_eight() {
    let with = |endpoints: &[&str], connections: u32| {
        let mut business = BusinessConfig::new(1, "b", "");
        business.endpoints = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
        business.connections = connections;
        (business.least_streams(), business.most_streams())
    };
    let addresses: Vec<String> = (1..=20)
        .map(|number| format!("http://10.0.0.{number}:1"))
        .collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    assert_eq!(with(&addresses[..1], 1), (1, 1));
    assert_eq!(with(&addresses[..1], 3), (3, 3));
    assert_eq!(with(&addresses[..5], 3), (5, 5));
    assert_eq!(with(&addresses, 1), (8, 8));
    assert_eq!(with(&addresses, 12), (12, 12));
    assert_eq!(with(&["http://[::1]:1"], 1), (1, 1));
    assert_eq!(with(&["http://chat.chat.svc:1"], 1), (1, 8));
    assert_eq!(with(&["http://chat.chat.svc:1"], 12), (12, 12));
}

#[test]
fn what_needs_other_streams() {
    let before = BusinessConfig::new(1, "b", "http://a:1");
    let like = |change: fn(&mut BusinessConfig)| {
        let mut after = before.clone();
        change(&mut after);
        (after.is_reached_like(&before), before.is_reached_like(&after))
    };
    assert_eq!(like(|b| b.request_rate = 5), (true, true));
    assert_eq!(like(|b| b.concurrency = 5), (true, true));
    assert_eq!(
        like(|b| {
            b.endpoints = vec![std::mem::take(&mut b.endpoint)];
        }),
        (true, true),
        "the same place, written otherwise"
    );
    assert_eq!(like(|b| b.endpoint = "http://b:1".to_owned()), (false, false));
    assert_eq!(like(|b| b.connections = 2), (false, false));
    assert_eq!(like(|b| b.protocol = Protocol::Http), (false, false));
    let mut calls = before.clone();
    calls.protocol = Protocol::Http;
    let mut fewer = calls.clone();
    fewer.concurrency = 5;
    assert!(!fewer.is_reached_like(&calls));
}

#[test]
fn a_file_adds_to_what_is_fixed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("businesses.yaml");
    let fixed = [BusinessConfig::new(1, "echo", "http://127.0.0.1:7001")];
    let load = |text: &str| {
        std::fs::write(&file, text).unwrap();
        load_all(&fixed, Some(&file))
    };
    let pushers = "[{namespace: chat, service_account: server}]";
    let chat = format!("- {{id: 2, name: chat, endpoint: 'http://chat.chat.svc:9000', pushers: {pushers}}}");
    let loaded = load(&chat).unwrap();
    assert_eq!(loaded.value.len(), 2);
    assert_eq!(loaded.value[1].pushers[0].service_account, "server");
    assert_eq!(loaded.generation, watched::fingerprint(chat.as_bytes()));
    assert_eq!(load("# none yet\n").unwrap().value, fixed);
    for (text, expected) in [
        ("- {id: 1, name: x, endpoint: 'http://x:1'}", "have the id 1"),
        (
            "- {id: 2, name: x, endpoint: 'http://x:1', tiemout: 1s}",
            "tiemout",
        ),
        ("businesses: []", "businesses.yaml"),
    ] {
        let fault = load(text).unwrap_err();
        assert!(fault.contains(expected), "{fault}");
    }
}

#[test]
fn faults_are_named() {
    let echo = BusinessConfig::new(1, "echo", "http://127.0.0.1:7001");
    assert_eq!(validate_all(std::slice::from_ref(&echo)), Ok(()));
    let with = |change: fn(&mut BusinessConfig)| {
        let mut other = BusinessConfig::new(2, "other", "http://[::1]:7002");
        change(&mut other);
        validate_all(&[echo.clone(), other])
    };
    assert_eq!(with(|_| ()), Ok(()));
    type Case = (fn(&mut BusinessConfig), &'static str);
    let faults: [Case; 14] = [
        (|b| b.id = 0, "must not be 0"),
        (|b| b.id = 1, "have the id 1"),
        (|b| b.name = "echo".to_owned(), "have the name \"echo\""),
        (|b| b.name.clear(), "name must not be empty"),
        (|b| b.endpoint = "127.0.0.1:7001".to_owned(), "http://host:port"),
        (|b| b.endpoint = "http://host".to_owned(), "http://host:port"),
        (
            |b| b.endpoint = "http://host:1/path".to_owned(),
            "http://host:port",
        ),
        (
            |b| b.endpoint = "http://me:secret@host:1".to_owned(),
            "without a user",
        ),
        (|b| b.endpoint.clear(), "and not both"),
        (|b| b.endpoints = vec!["http://a:1".to_owned()], "and not both"),
        (
            |b| {
                b.endpoint.clear();
                b.endpoints = vec!["http://a:1".to_owned(); 2];
            },
            "listed twice",
        ),
        (|b| b.timeout = Duration::ZERO, "timeout"),
        (|b| b.concurrency = 0, "concurrency"),
        (
            |b| {
                let pusher = "{namespace: shop, service_account: ''}";
                b.pushers = vec![serde_yaml::from_str(pusher).unwrap()];
            },
            "service_account",
        ),
    ];
    for (change, expected) in faults {
        let fault = with(change).unwrap_err();
        assert!(fault.contains(expected), "{fault:?} should say {expected:?}");
    }
}
