//! What a service account's token proves, given the keys and the time.

use std::collections::HashMap;

use imaccess_common::business::ServiceAccount;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

/// Tokens longer than this are refused unread; Kubernetes' have about 1,200 bytes.
const LONGEST: usize = 8_192;
/// Clocks of nodes may differ by this much.
const LEEWAY_S: u64 = 10;
/// What the subject of every service account begins with.
const SUBJECT: &str = "system:serviceaccount:";

/// Why a token proves nothing; the sentence is for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenRefusal {
    #[error("the bearer token is no JSON web token with a key id, or lacks one of exp, aud, iss and sub")]
    Malformed,
    #[error("the token is signed by a key that the cluster's key set doesn't have")]
    UnknownKey,
    #[error("the token's signature is wrong")]
    Forged,
    #[error("the token has expired; ask for a new one, or read the projected file again")]
    Expired,
    #[error("the token isn't valid yet; are the clocks right?")]
    Early,
    #[error("the token is for another audience; project one with this cluster's push audience")]
    Audience,
    #[error("the token is of another issuer")]
    Issuer,
    #[error("the token's subject is no service account")]
    Subject,
}

impl TokenRefusal {
    pub(crate) fn label(self) -> &'static str {
        match self {
            TokenRefusal::Malformed => "token_malformed",
            TokenRefusal::UnknownKey => "token_unknown_key",
            TokenRefusal::Forged => "token_forged",
            TokenRefusal::Expired => "token_expired",
            TokenRefusal::Early => "token_early",
            TokenRefusal::Audience => "token_audience",
            TokenRefusal::Issuer => "token_issuer",
            TokenRefusal::Subject => "token_subject",
        }
    }
}

/// One key, and the only algorithm that it verifies.
pub(super) struct Key {
    algorithm: Algorithm,
    key: DecodingKey,
}

/// The keys by id.
#[derive(Default)]
pub(super) struct KeySet {
    keys: HashMap<String, Key>,
}

impl KeySet {
    /// Reads a JSON web key set. Keys of other kinds than service accounts' tokens are signed with are skipped.
    ///
    /// # Errors
    /// Says what is wrong if it is no key set, or none of its keys can be used.
    pub(super) fn parse(text: &[u8]) -> Result<KeySet, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(text).map_err(|fault| format!("it is no key set: {fault}"))?;
        let keys: HashMap<String, Key> = set.keys.into_iter().filter_map(usable).collect();
        if keys.is_empty() {
            return Err("none of its keys has an id and is RS256, ES256 or ES384".to_owned());
        }
        Ok(KeySet { keys })
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.keys.contains_key(id)
    }
}

fn usable(key: serde_json::Value) -> Option<(String, Key)> {
    let jwk: Jwk = serde_json::from_value(key).ok()?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
            EllipticCurve::P256 => Algorithm::ES256,
            EllipticCurve::P384 => Algorithm::ES384,
            _ => return None,
        },
        _ => return None,
    };
    let said = jwk.common.key_algorithm.map(|said| said.to_string());
    let for_signatures = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
    if !for_signatures || said.is_some_and(|said| said != format!("{algorithm:?}")) {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some((jwk.common.key_id?, Key { algorithm, key }))
}

/// What a token must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) audience: String,
    pub(super) issuer: String,
}

#[derive(Deserialize)]
struct Body {
    sub: String,
    exp: u64,
    nbf: Option<u64>,
}

/// The id of the key that signed `token`, if it says so.
pub(super) fn key_id(token: &str) -> Result<String, TokenRefusal> {
    if token.len() > LONGEST {
        return Err(TokenRefusal::Malformed);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| TokenRefusal::Malformed)?;
    header.kid.ok_or(TokenRefusal::Malformed)
}

/// Whose token it is, at `now_unix_s`.
pub(super) fn verify(
    token: &str,
    keys: &KeySet,
    expected: &Expected,
    now_unix_s: u64,
) -> Result<ServiceAccount, TokenRefusal> {
    let key = keys.keys.get(&key_id(token)?).ok_or(TokenRefusal::UnknownKey)?;
    let mut validation = Validation::new(key.algorithm);
    validation.set_audience(&[&expected.audience]);
    validation.set_issuer(&[&expected.issuer]);
    validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    // Times are checked below, by the caller's clock.
    validation.validate_exp = false;
    let body: Body = jsonwebtoken::decode(token, &key.key, &validation)
        .map_err(|fault| refusal(fault.kind()))?
        .claims;
    if now_unix_s >= body.exp.saturating_add(LEEWAY_S) {
        return Err(TokenRefusal::Expired);
    }
    if body
        .nbf
        .is_some_and(|begins| now_unix_s.saturating_add(LEEWAY_S) < begins)
    {
        return Err(TokenRefusal::Early);
    }
    account(&body.sub).ok_or(TokenRefusal::Subject)
}

fn refusal(fault: &ErrorKind) -> TokenRefusal {
    match fault {
        ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
            TokenRefusal::Forged
        }
        ErrorKind::InvalidAudience => TokenRefusal::Audience,
        ErrorKind::InvalidIssuer => TokenRefusal::Issuer,
        _ => TokenRefusal::Malformed,
    }
}

/// Reads `system:serviceaccount:NAMESPACE:NAME`.
fn account(subject: &str) -> Option<ServiceAccount> {
    let (namespace, name) = subject.strip_prefix(SUBJECT)?.split_once(':')?;
    let whole = !namespace.is_empty() && !name.is_empty() && !name.contains(':');
    whole.then(|| ServiceAccount {
        namespace: namespace.to_owned(),
        service_account: name.to_owned(),
    })
}

/// The issuer in a token that is believed because of where it was read: the pod's own.
pub(super) fn issuer_of(own: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let claims: Issuer = jsonwebtoken::dangerous::insecure_decode_claims(own).ok()?;
    Some(claims.iss)
}

#[cfg(test)]
mod tests;
