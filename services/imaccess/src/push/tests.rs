//! `push` and its relatives against a push API that remembers what it was asked.

use imaccess_proto::v1::DeviceFilter;
use tonic::Status;

use super::*;
use crate::exit::{FAILED, RETRY, status_of};
use crate::push_api::fake::{Asked, FakePush, named, parsed};

/// Runs `push` with these words, and gives its exit status.
async fn pushed(url: &str, words: &[&str]) -> ExitCode {
    let words = [words, &["--push", url]].concat();
    let result = push(parsed(&words)).await;
    result.unwrap_or_else(|error| status_of(&error))
}

#[tokio::test]
async fn devices_of_a_file_are_pushed_to_in_calls_of_ten_thousand() {
    let (fake, url) = FakePush::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("crowd");
    let devices: Vec<String> = (0..20_001).map(|number| format!("d-{number}")).collect();
    std::fs::write(&file, devices.join("\n")).unwrap();
    // The second call fails once, and is repeated under the same key.
    fake.fail(1, Status::unavailable("restarting"));
    let words = ["--devices", file.to_str().unwrap(), "--data", "hi", "--json"];
    assert_eq!(pushed(&url, &words).await, ExitCode::SUCCESS);
    let calls: Vec<PushDevicesRequest> = fake
        .asked()
        .into_iter()
        .map(|asked| match asked {
            Asked::Devices(request) => request,
            other => panic!("{other:?}"),
        })
        .collect();
    let lengths: Vec<usize> = calls.iter().map(|call| call.devices.len()).collect();
    assert_eq!(lengths, [10_000, 10_000, 10_000, 1]);
    let keys: Vec<&str> = calls.iter().map(|call| call.idempotency_key.as_str()).collect();
    assert!(
        keys[1] == keys[2] && keys[0] != keys[1] && keys[2] != keys[3],
        "{keys:?}"
    );
    assert!(keys.iter().all(|key| (1..=64).contains(&key.len())));
    assert_eq!(calls[3].devices, ["d-20000"]);
}

#[tokio::test]
async fn the_exit_status_is_of_the_worst_device() {
    let (fake, url) = FakePush::start().await;
    let to = async |devices: &str| {
        let words = ["--device", devices, "--data", "hi", "--patience", "0"];
        pushed(&url, &words).await
    };
    assert_eq!(to("a,b").await, ExitCode::SUCCESS);
    assert_eq!(to("a,retry-1").await, RETRY.into());
    assert_eq!(to("retry-1,offline-1").await, FAILED.into());
    fake.fail(0, Status::invalid_argument("payload: too long"));
    assert_eq!(to("a").await, FAILED.into());
    fake.fail(0, Status::unavailable("restarting"));
    assert_eq!(to("a").await, RETRY.into(), "a first call isn't repeated");
    assert_eq!(fake.asked().len(), 5);
}

#[tokio::test]
async fn priority_and_life_are_passed_on() {
    let (fake, url) = FakePush::start().await;
    let words = [
        "--group",
        "lobby",
        "--data",
        "hi",
        "--priority",
        "low",
        "--ttl",
        "30s",
        "--business",
        "7",
    ];
    assert_eq!(pushed(&url, &words).await, ExitCode::SUCCESS);
    let expected = PushGroupRequest {
        business: 7,
        group: named("lobby"),
        payload: named("hi"),
        priority: Priority::Low.into(),
        ttl_ms: 30_000,
        ..PushGroupRequest::default()
    };
    assert_eq!(fake.asked(), [Asked::Group(expected)]);
    let words = ["--group", "lobby", "--data", "hi", "--ttl", "90d"];
    assert_eq!(pushed(&url, &words).await, USAGE.into());
    fake.set_unsynced(1);
    assert_eq!(
        pushed(&url, &["--group", "lobby", "--data", "hi"]).await,
        RETRY.into()
    );
}

#[tokio::test]
async fn a_broadcast_has_its_filter() {
    let (fake, url) = FakePush::start().await;
    let filter = "platform=ios|android,version=1.2..2.0";
    let words = ["--all", "--filter", filter, "--data", "hi"];
    assert_eq!(pushed(&url, &words).await, ExitCode::SUCCESS);
    assert_eq!(
        pushed(&url, &["--all", "--data", "hi", "--json"]).await,
        ExitCode::SUCCESS
    );
    let filters: Vec<Option<DeviceFilter>> = fake
        .asked()
        .into_iter()
        .map(|asked| match asked {
            Asked::All(request) => request.filter,
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = DeviceFilter {
        platforms: vec!["ios".to_owned(), "android".to_owned()],
        version_from: "1.2".to_owned(),
        version_to: "2.0".to_owned(),
        ..DeviceFilter::default()
    };
    assert_eq!(filters, [Some(expected), None]);
}

#[tokio::test]
async fn standard_input_is_one_thing_only() {
    let (fake, url) = FakePush::start().await;
    assert_eq!(pushed(&url, &["--devices", "-"]).await, USAGE.into());
    assert_eq!(fake.asked(), []);
}
