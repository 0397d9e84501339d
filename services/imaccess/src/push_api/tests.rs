//! Callers of a push API that is away, and of one that is secured.

use imaccess_common::drain::Drain;
use imaccess_common::tls::TlsConfig;
use imaccess_proto::v1::PushGroupRequest;
use imaccess_state::routing::{Routing, RoutingConfig};

use self::authority::{Authority, Files};
use super::*;

/// The throw-away authorities of `imaccess-common`'s tests: its own test code is no part of its library.
#[path = "../../../common/src/tls/tests/authority.rs"]
mod authority;

const ROUTING: &str = "routing.demo.default.imaccess.internal";

#[tokio::test]
async fn an_unreachable_push_api_says_try_again() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let access = AccessArgs::default().read(&url).unwrap();
    let error = client(&url, &access).await.err().unwrap();
    assert_eq!(exit::status_of(&error), RETRY.into());
    assert!(format!("{error:#}").contains(&url), "{error:#}");
}

#[tokio::test]
async fn what_is_missing_for_a_secured_push_api_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.crt");
    std::fs::write(&file, "no certificate").unwrap();
    let with = |url: &str, arguments: &AccessArgs| match arguments.read(url) {
        Ok(_) => panic!("{url}: accepted"),
        Err(error) => {
            assert_eq!(exit::status_of(&error), USAGE.into(), "{error:#}");
            format!("{error:#}")
        }
    };
    let said = with("https://localhost:1", &AccessArgs::default());
    assert!(said.contains("--tls-ca"), "{said}");
    let mut arguments = AccessArgs {
        tls_ca: Some(file),
        ..AccessArgs::default()
    };
    let said = with("http://localhost:1", &arguments);
    assert!(said.contains("https://"), "{said}");
    let said = with("https://localhost:1", &arguments);
    assert!(
        said.contains("ca.crt") && said.contains("no certificate"),
        "{said}"
    );
    arguments.tls_ca = Some(directory.path().join("nothing"));
    let said = with("https://localhost:1", &arguments);
    assert!(said.contains("nothing"), "{said}");
}

#[tokio::test]
async fn a_secured_push_api_is_pushed_to_with_its_certificates() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let files = |authority: &Authority, name| Files::new(&authority.issue(&[name]), &[authority]);
    let (own, push) = (files(&ours, ROUTING), files(&ours, "push"));
    let config = RoutingConfig {
        push_listen: ([127, 0, 0, 1], 0).into(),
        admin_listen: ([127, 0, 0, 1], 0).into(),
        tls: Some(TlsConfig {
            certificate: own.path("tls.crt"),
            key: own.path("tls.key"),
            authority: own.path("ca.crt"),
        }),
        sidecar_name: Some("sidecar".to_owned()),
        push_clients: vec!["push".to_owned()],
        ..RoutingConfig::default()
    };
    let routing = Routing::bind(config).await.unwrap();
    let url = format!("https://{}", routing.push_addr());
    let drain = Drain::new(Duration::from_secs(5));
    let running = tokio::spawn(routing.run(drain.clone()));
    let arguments = |trusted: &Files, shown: Option<&Files>| AccessArgs {
        tls_ca: Some(trusted.path("ca.crt")),
        tls_name: Some(ROUTING.to_owned()),
        tls_cert: shown.map(|files| files.path("tls.crt")),
        tls_key: shown.map(|files| files.path("tls.key")),
        token_file: None,
    };
    let tried = async |arguments: AccessArgs| -> Result<(), String> {
        let access = arguments.read(&url).unwrap();
        let group = PushGroupRequest {
            business: 1,
            group: "nobody".into(),
            ..Default::default()
        };
        let pushed = async {
            let mut client = client(&url, &access).await?;
            client
                .push_group(access.request(group))
                .await
                .map_err(|status| refused(&status, &access))
        };
        pushed.await.map(drop).map_err(|error| format!("{error:#}"))
    };
    assert_eq!(tried(arguments(&own, Some(&push))).await, Ok(()));

    let foreign = files(&theirs, "push");
    let unnamed = AccessArgs {
        tls_name: None,
        ..arguments(&own, Some(&push))
    };
    let token = own.path("token");
    std::fs::write(&token, "a.b.c\n").unwrap();
    let with_token = AccessArgs {
        token_file: Some(token),
        ..arguments(&own, None)
    };
    for (arguments, expected) in [
        (arguments(&foreign, Some(&push)), "--tls-ca"),
        (unnamed, "--tls-name"),
        (arguments(&own, Some(&foreign)), "--tls-cert"),
        (arguments(&own, Some(&own)), "may not push"),
        (arguments(&own, None), "say who pushes"),
        // This push API takes no tokens.
        (with_token, "say who pushes"),
    ] {
        let said = tried(arguments).await.unwrap_err();
        assert!(said.contains(expected), "{said:?} should say {expected:?}");
    }
    drain.begin();
    running.await.unwrap().unwrap();
}
