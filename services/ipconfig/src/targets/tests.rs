use std::fs;

use super::*;

const ONE: &str = r#"{"gateways": [{"name": "g1", "metrics": "10.0.0.1:9100",
    "endpoints": [{"protocol": "tcp", "host": "10.0.0.1", "port": 7000}]}]}"#;
const TWO: &str = "
gateways:
- {name: g1, metrics: '10.0.0.1:9100', endpoints: [{protocol: tcp, host: 10.0.0.1, port: 7000}]}
- name: g2
  metrics: '[::1]:9100'
  endpoints: [{protocol: tls, host: g2.example, port: 443, server_name: g2.example}]
";

fn names(targets: &Targets) -> Vec<&str> {
    targets
        .current()
        .iter()
        .map(|target| target.name.as_str())
        .collect()
}

#[test]
fn a_file_is_read_when_it_changes_and_kept_when_it_is_bad() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("targets");
    // A new file renamed over the old one, as a writer should.
    let replace = |text: &str| {
        fs::write(directory.path().join("new"), text).unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
    };
    let mut targets = Targets::file(path.clone());
    assert!(
        matches!(targets.refresh(), Change::None),
        "a file that isn't there yet is awaited"
    );
    replace(ONE);
    assert!(matches!(targets.refresh(), Change::List));
    assert!(matches!(targets.refresh(), Change::None));
    assert_eq!(names(&targets), ["g1"]);
    replace(TWO);
    assert!(matches!(targets.refresh(), Change::List));
    assert_eq!(names(&targets), ["g1", "g2"]);
    assert_eq!(
        targets.current()[1].endpoints[0].server_name.as_deref(),
        Some("g2.example")
    );

    replace("{gateways: [");
    assert!(matches!(targets.refresh(), Change::Fault(fault) if fault.contains("targets")));
    assert!(matches!(targets.refresh(), Change::None), "a fault is told once");
    fs::remove_file(&path).unwrap();
    assert!(matches!(targets.refresh(), Change::Fault(_)));
    assert!(matches!(targets.refresh(), Change::None));
    assert_eq!(names(&targets), ["g1", "g2"]);
    replace("{gateways: []}");
    assert!(matches!(targets.refresh(), Change::List));
    assert!(targets.current().is_empty());
}

#[test]
fn lists_that_can_not_be_used_are_refused() {
    let good: TargetFile = serde_yaml::from_str(TWO).unwrap();
    assert_eq!(validate(&good.gateways), Ok(()));
    type Case = (&'static str, fn(&mut GatewayTarget));
    let table: [Case; 9] = [
        ("name", |target| target.name.clear()),
        ("two gateways", |target| target.name = "g1".to_owned()),
        ("host:port", |target| target.metrics = "10.0.0.1".to_owned()),
        ("host:port", |target| target.metrics = "10.0.0.1:0".to_owned()),
        ("host:port", |target| target.metrics = ":9100".to_owned()),
        ("endpoints", |target| target.endpoints.clear()),
        ("endpoints", |target| {
            target.endpoints = vec![target.endpoints[0].clone(); MAX_ENDPOINTS + 1];
        }),
        ("port", |target| target.endpoints[0].port = 0),
        ("host", |target| target.endpoints[0].host.clear()),
    ];
    for (expected, change) in table {
        let mut bad = good.gateways.clone();
        change(&mut bad[1]);
        let fault = validate(&bad).unwrap_err();
        assert!(fault.contains(expected), "{fault:?} should say {expected}");
    }
    assert!(validate(&vec![good.gateways[0].clone(); MAX_GATEWAYS + 1]).is_err());
    assert!(serde_yaml::from_str::<TargetFile>("{gateways: [], more: 1}").is_err());
}
