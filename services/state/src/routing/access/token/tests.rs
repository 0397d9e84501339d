use super::*;
use crate::routing::access::testing::{Claims, Signer};

const NOW: u64 = 1_800_000_000;

fn expected() -> Expected {
    Expected {
        audience: "imaccess-push".to_owned(),
        issuer: "https://kubernetes.default.svc".to_owned(),
    }
}

/// A good token's claims.
fn claims() -> Claims {
    Claims {
        exp: NOW + 600,
        ..Claims::of("shop", "orders", "imaccess-push")
    }
}

fn set(signers: &[&Signer]) -> KeySet {
    KeySet::parse(&Signer::key_set(signers)).unwrap()
}

#[test]
fn a_token_proves_an_account_with_either_kind_of_key() {
    for signer in [Signer::es256("one"), Signer::rs256("one")] {
        let token = signer.sign(&claims());
        let account = verify(&token, &set(&[&signer]), &expected(), NOW).unwrap();
        assert_eq!(
            (account.namespace.as_str(), account.service_account.as_str()),
            ("shop", "orders")
        );
    }
}

#[test]
fn what_a_token_lacks_is_said() {
    let (signer, other) = (Signer::es256("one"), Signer::es256("one"));
    let (rsa, keys) = (Signer::rs256("rsa"), set(&[&signer, &Signer::rs256("rsa")]));
    let judged = |token: &str| verify(token, &keys, &expected(), NOW);
    let with = |change: fn(&mut Claims)| {
        let mut changed = claims();
        change(&mut changed);
        judged(&signer.sign(&changed))
    };
    assert!(with(|_| ()).is_ok());
    type Case = (fn(&mut Claims), TokenRefusal);
    let cases: [Case; 11] = [
        (
            |c| c.aud = vec!["https://kubernetes.default.svc".to_owned()],
            TokenRefusal::Audience,
        ),
        (|c| c.aud = Vec::new(), TokenRefusal::Audience),
        (
            |c| c.iss = "https://another.cluster".to_owned(),
            TokenRefusal::Issuer,
        ),
        (|c| c.exp = NOW - LEEWAY_S, TokenRefusal::Expired),
        (|c| c.exp = 0, TokenRefusal::Expired),
        (|c| c.nbf = Some(NOW + LEEWAY_S + 1), TokenRefusal::Early),
        (
            |c| c.sub = "system:node:worker-1".to_owned(),
            TokenRefusal::Subject,
        ),
        (
            |c| c.sub = "system:serviceaccount:shop".to_owned(),
            TokenRefusal::Subject,
        ),
        (
            |c| c.sub = "system:serviceaccount::orders".to_owned(),
            TokenRefusal::Subject,
        ),
        (
            |c| c.sub = "system:serviceaccount:shop:orders:more".to_owned(),
            TokenRefusal::Subject,
        ),
        (|c| c.sub = String::new(), TokenRefusal::Subject),
    ];
    for (number, (change, refusal)) in cases.into_iter().enumerate() {
        assert_eq!(with(change), Err(refusal), "case {number}");
    }
    // Within the leeway, and with one audience among several.
    assert!(with(|c| c.exp = NOW - LEEWAY_S + 1).is_ok());
    assert!(with(|c| c.nbf = Some(NOW + LEEWAY_S)).is_ok());
    assert!(with(|c| c.aud = vec!["other".to_owned(), "imaccess-push".to_owned()]).is_ok());

    let good = signer.sign(&claims());
    assert_eq!(
        judged(&other.sign(&claims())),
        Err(TokenRefusal::Forged),
        "another key, the same id"
    );
    assert_eq!(
        judged(&Signer::es256("two").sign(&claims())),
        Err(TokenRefusal::UnknownKey)
    );
    assert_eq!(
        judged(&rsa.with_id("one").sign(&claims())),
        Err(TokenRefusal::Forged),
        "another algorithm"
    );
    for token in [
        signer.unsigned(&claims(), "none"),
        signer.unsigned(&claims(), "NONE"),
        signer.without_id(&claims()),
        format!("{good}.x"),
        good.rsplit_once('.').unwrap().0.to_owned(),
        String::new(),
        "a.b.c".to_owned(),
        "x".repeat(LONGEST + 1),
    ] {
        assert_eq!(judged(&token), Err(TokenRefusal::Malformed), "{token}");
    }
    assert_eq!(
        judged(&signer.unsigned(&claims(), "ES256")),
        Err(TokenRefusal::Forged)
    );
    assert_eq!(
        judged(&signer.symmetric(&claims())),
        Err(TokenRefusal::Forged),
        "a public key is no secret of HS256"
    );
}

#[test]
fn only_keys_for_signatures_of_known_kinds_are_taken() {
    let signer = Signer::es256("one");
    let mut keys = signer.jwk();
    let parsed = |keys: &[&serde_json::Value]| {
        KeySet::parse(serde_json::json!({ "keys": keys }).to_string().as_bytes())
    };
    assert_eq!(parsed(&[&keys]).unwrap().len(), 1);
    let strange = serde_json::json!({"kty": "future", "kid": "x"});
    let secret = serde_json::json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0", "alg": "HS256"});
    assert_eq!(parsed(&[&strange, &keys, &secret]).unwrap().len(), 1);
    assert!(parsed(&[&strange, &secret]).is_err());
    keys["use"] = "enc".into();
    assert!(parsed(&[&keys]).is_err());
    keys["use"] = "sig".into();
    assert!(parsed(&[&keys]).is_ok());
    keys["alg"] = "ES384".into();
    assert!(parsed(&[&keys]).is_err(), "its curve is another's");
    assert!(parsed(&[]).is_err());
    assert!(KeySet::parse(b"<html>").is_err());
}

#[test]
fn the_pods_own_token_tells_the_issuer() {
    let token = Signer::es256("one").sign(&claims());
    assert_eq!(
        issuer_of(&token).as_deref(),
        Some("https://kubernetes.default.svc")
    );
    assert_eq!(issuer_of("no token"), None);
}
