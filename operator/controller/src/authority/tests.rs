use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn after(days: u32) -> Timestamp {
    now() + DAY * days
}

fn leaf(authority: &Content, at: Timestamp) -> Content {
    let name = "gateway.demo.default.imaccess.internal".to_owned();
    issue("demo", authority, &[name], "abc", DAY * 90, at).unwrap()
}

/// Whether one who trusts `trusted` takes `leaf` at `at`, as a server and as a client.
fn verifies(trusted: &Content, leaf: &Content, at: Timestamp) -> bool {
    let bundle = &trusted.data[key::AUTHORITY];
    let authorities: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(bundle.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap();
    let anchors: Vec<_> = authorities
        .iter()
        .map(|der| anchor_from_trusted_cert(der).unwrap())
        .collect();
    let der = CertificateDer::from_pem_slice(leaf.data[key::CERTIFICATE].as_bytes()).unwrap();
    let certificate = EndEntityCert::try_from(&der).unwrap();
    let time = UnixTime::since_unix_epoch(Duration::from_secs(at.as_second().unsigned_abs()));
    let name = ServerName::try_from("gateway.demo.default.imaccess.internal").unwrap();
    let usages = [KeyUsage::server_auth(), KeyUsage::client_auth()];
    usages.into_iter().all(|usage| {
        certificate
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                &[],
                time,
                usage,
                None,
                None,
            )
            .is_ok()
    }) && certificate.verify_is_valid_for_subject_name(&name).is_ok()
}

#[test]
fn at_every_step_everybody_who_is_a_step_behind_is_understood() {
    let take = |step_: AuthorityStep, before: Option<&Content>, at| {
        step("demo", step_, before, DAY * 365, at).unwrap()
    };
    let made = take(AuthorityStep::Make, None, now());
    let added = take(AuthorityStep::AddNext, Some(&made), after(240));
    let switched = take(AuthorityStep::Switch, Some(&added), after(241));
    let forgotten = take(AuthorityStep::Forget, Some(&switched), after(340));
    let old = leaf(&added, after(240));
    let new = leaf(&switched, after(241));
    // Old certificates are taken until the former is forgotten; new ones by all who have heard of the next.
    assert!(verifies(&made, &old, after(241)));
    assert!(verifies(&added, &old, after(241)));
    assert!(verifies(&switched, &old, after(241)));
    assert!(!verifies(&forgotten, &old, after(241)));
    assert!(!verifies(&made, &new, after(241)));
    assert!(verifies(&added, &new, after(242)));
    assert!(verifies(&switched, &new, after(242)));
    assert!(verifies(&forgotten, &new, after(242)));

    let keys = |content: &Content| content.data.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&made), ["ca.crt", "ca.key"]);
    assert_eq!(keys(&added), ["ca.crt", "ca.key", "next.crt", "next.key"]);
    assert_eq!(keys(&switched), ["ca.crt", "ca.key"]);
    let says = |content: &Content, name: &str| content.annotations.get(name).cloned();
    let (current, next, previous) = (
        names::AUTHORITY_CURRENT_ANNOTATION,
        names::AUTHORITY_NEXT_ANNOTATION,
        names::AUTHORITY_PREVIOUS_ANNOTATION,
    );
    assert_eq!(says(&added, current), says(&made, current));
    assert_eq!(says(&switched, current), says(&added, next));
    assert_eq!(says(&switched, previous), says(&made, current));
    assert_eq!((says(&switched, next), says(&forgotten, previous)), (None, None));
    assert_eq!(
        says(&switched, names::AUTHORITY_BUNDLE_ANNOTATION),
        switched.data.get("ca.crt").cloned()
    );
    assert_eq!(
        says(&switched, names::NOT_AFTER_ANNOTATION),
        Some(after(240 + 365).to_string())
    );
    assert_eq!(says(&made, names::NOT_BEFORE_ANNOTATION), Some(now().to_string()));
}

#[test]
fn a_certificate_ends_with_its_authority_at_the_latest() {
    let made = step("demo", AuthorityStep::Make, None, DAY * 30, now()).unwrap();
    let leaf = leaf(&made, after(10));
    assert_eq!(
        leaf.annotations[names::NOT_AFTER_ANNOTATION],
        after(30).to_string()
    );
    assert!(verifies(&made, &leaf, after(10)) && verifies(&made, &leaf, after(29)));
    assert!(!verifies(&made, &leaf, after(31)));
    assert!(
        verifies(&made, &leaf, after(10) - Duration::from_secs(240)),
        "a slow clock"
    );
}

#[test]
fn steps_out_of_turn_and_broken_secrets_are_refused() {
    let take = |step_, before: Option<&Content>| step("demo", step_, before, DAY, now());
    let made = take(AuthorityStep::Make, None).unwrap();
    let added = take(AuthorityStep::AddNext, Some(&made)).unwrap();
    for (step, before) in [
        (AuthorityStep::Make, Some(&made)),
        (AuthorityStep::AddNext, None),
        (AuthorityStep::AddNext, Some(&added)),
        (AuthorityStep::Switch, Some(&made)),
        (AuthorityStep::Forget, Some(&added)),
    ] {
        assert!(
            matches!(take(step, before), Err(AuthorityError::OutOfStep(_))),
            "{step:?}"
        );
    }
    let over = step("demo", AuthorityStep::Make, Some(&added), DAY, after(2)).unwrap();
    assert_eq!(
        over.data.keys().collect::<Vec<_>>(),
        ["ca.crt", "ca.key"],
        "an expired one is made anew"
    );
    let other = take(AuthorityStep::Make, Some(&Content::default())).unwrap();
    let mut mixed = made.clone();
    mixed
        .data
        .insert("ca.key".to_owned(), other.data["ca.key"].clone());
    for (what, broken) in [("key of another", mixed), ("empty", Content::default())] {
        let fault = issue("demo", &broken, &["x".to_owned()], "", DAY, now()).unwrap_err();
        assert!(fault.to_string().contains("Secret demo-ca"), "{what}: {fault}");
    }
    assert!(!format!("{made:?}").contains("PRIVATE"));
}
