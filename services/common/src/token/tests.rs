use jsonwebtoken::EncodingKey;

use super::*;

const NOW: u64 = 1_800_000_000;
const TTL: Duration = Duration::from_secs(60);

fn verifier(issuer: &DevelopmentIssuer) -> DevelopmentVerifier {
    DevelopmentVerifier::new("c", [issuer.public_key().clone()])
}

#[test]
fn an_issued_token_proves_device_and_app() {
    let issuer = DevelopmentIssuer::generate();
    let token = issuer.issue_at("c", "chat", "device-1", TTL, NOW);
    let expected = Claims {
        device: "device-1".to_owned(),
        app: "chat".to_owned(),
    };
    assert_eq!(verifier(&issuer).verify(token.as_bytes(), NOW + 59), Ok(expected));
    assert_eq!(
        verifier(&issuer).verify(token.as_bytes(), NOW + 60),
        Err(TokenError::Expired)
    );
    let fresh = issuer.issue("c", "chat", "device-1", TTL);
    assert!(
        verifier(&issuer)
            .verify(fresh.as_bytes(), crate::clock::unix_s())
            .is_ok()
    );
}

#[test]
fn other_keys_clusters_and_issuers_are_refused() {
    let issuer = DevelopmentIssuer::generate();
    let token = issuer.issue_at("other", "chat", "d", TTL, NOW);
    assert_eq!(
        verifier(&issuer).verify(token.as_bytes(), NOW),
        Err(TokenError::OtherCluster)
    );

    let stranger = DevelopmentIssuer::generate();
    let token = stranger.issue_at("c", "chat", "d", TTL, NOW);
    assert_eq!(
        verifier(&issuer).verify(token.as_bytes(), NOW),
        Err(TokenError::UnknownKey)
    );
    let pretender = DevelopmentIssuer::from_pem(issuer.key_id(), &stranger.to_pem()).unwrap();
    let token = pretender.issue_at("c", "chat", "d", TTL, NOW);
    assert_eq!(
        verifier(&issuer).verify(token.as_bytes(), NOW),
        Err(TokenError::Forged)
    );

    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(issuer.key_id().to_owned());
    let body = serde_json::json!({"iss": "someone", "aud": "c", "sub": "d", "app": "a", "exp": NOW + 60});
    let token = jsonwebtoken::encode(&header, &body, issuer.encoding_key()).unwrap();
    assert_eq!(
        verifier(&issuer).verify(token.as_bytes(), NOW),
        Err(TokenError::Malformed)
    );
}

#[test]
fn the_algorithm_is_pinned() {
    let issuer = DevelopmentIssuer::generate();
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(issuer.key_id().to_owned());
    let body =
        serde_json::json!({"iss": DEVELOPMENT_ISSUER, "aud": "c", "sub": "d", "app": "a", "exp": NOW + 60});
    // The classic confusion: the public key used as a shared secret.
    let secret = EncodingKey::from_secret(issuer.public_key().bytes());
    let token = jsonwebtoken::encode(&header, &body, &secret).unwrap();
    assert_eq!(
        verifier(&issuer).verify(token.as_bytes(), NOW),
        Err(TokenError::Forged)
    );
}

#[test]
fn a_missing_claim_or_key_id_is_no_token() {
    let issuer = DevelopmentIssuer::generate();
    for missing in ["iss", "aud", "sub", "app", "exp"] {
        let mut body = serde_json::json!({"iss": DEVELOPMENT_ISSUER, "aud": "c", "sub": "d", "app": "a", "exp": NOW + 60});
        body.as_object_mut().unwrap().remove(missing);
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(issuer.key_id().to_owned());
        let token = jsonwebtoken::encode(&header, &body, issuer.encoding_key()).unwrap();
        assert_eq!(
            verifier(&issuer).verify(token.as_bytes(), NOW),
            Err(TokenError::Malformed),
            "{missing}"
        );
        let token =
            jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &body, issuer.encoding_key()).unwrap();
        assert_eq!(
            verifier(&issuer).verify(token.as_bytes(), NOW),
            Err(TokenError::Malformed),
            "{missing}"
        );
    }
}

#[test]
fn every_changed_byte_is_refused() {
    let issuer = DevelopmentIssuer::generate();
    let verifier = verifier(&issuer);
    let token = issuer.issue_at("c", "chat", "device-1", TTL, NOW).into_bytes();
    for at in 0..token.len() {
        let mut changed = token.clone();
        // The last character of a signature has spare bits, so change a high one.
        changed[at] = if changed[at] == b'A' { b'Q' } else { b'A' };
        assert!(verifier.verify(&changed, NOW).is_err(), "byte {at}");
    }
    for garbage in [
        &b""[..],
        b".",
        b"..",
        b"a.b.c",
        &[0xff; 64],
        &[b'a'; MAX_TOKEN + 1],
    ] {
        assert_eq!(verifier.verify(garbage, NOW), Err(TokenError::Malformed));
    }
}
