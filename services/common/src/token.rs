//! Tokens of a first login: who the device is. The check is behind [`TokenVerifier`]; development tokens are one kind.
//!
//! A development token is a JWT (EdDSA, Ed25519) with `kid`, `iss` = [`DEVELOPMENT_ISSUER`], `aud` = the cluster, `sub` =
//! the device, `app` and `exp`. ipconfig alone has the signing key; verifiers have public keys by key id.

mod key;

use std::collections::HashMap;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

pub use self::key::{DevelopmentIssuer, KeyError, PublicKey};

/// The issuer in every development token.
pub const DEVELOPMENT_ISSUER: &str = "imaccess-development";

/// Tokens longer than this are refused unread; ours have about 350 bytes.
pub const MAX_TOKEN: usize = 4_096;

/// What a token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The device that logs in.
    pub device: String,
    /// The app it belongs to.
    pub app: String,
}

/// Why a token isn't accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It has not a token's form, or lacks a claim.
    #[error("not a token")]
    Malformed,
    /// It is signed by a key that isn't among ours.
    #[error("the token's key is unknown")]
    UnknownKey,
    /// Its signature is wrong, or its algorithm isn't EdDSA.
    #[error("the token's signature is wrong")]
    Forged,
    /// It is genuine and too old.
    #[error("the token has expired")]
    Expired,
    /// It is genuine and meant for another cluster.
    #[error("the token is for another cluster")]
    OtherCluster,
}

/// Checks the tokens of first logins. Called on the login path: must neither block nor ask another service.
pub trait TokenVerifier: Send + Sync {
    /// What `token` proves at `now_unix_s`.
    fn verify(&self, token: &[u8], now_unix_s: u64) -> Result<Claims, TokenError>;
}

/// The JWT's body.
#[derive(Serialize, Deserialize)]
struct Body {
    iss: String,
    aud: String,
    sub: String,
    app: String,
    exp: u64,
}

impl DevelopmentIssuer {
    /// A token for `device` of `app` in `cluster`, good for `ttl` from now.
    #[must_use]
    pub fn issue(&self, cluster: &str, app: &str, device: &str, ttl: Duration) -> String {
        self.issue_at(cluster, app, device, ttl, crate::clock::unix_s())
    }

    /// [`issue`](Self::issue) at a given time.
    #[must_use]
    pub fn issue_at(&self, cluster: &str, app: &str, device: &str, ttl: Duration, now_unix_s: u64) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.key_id().to_owned());
        let body = Body {
            iss: DEVELOPMENT_ISSUER.to_owned(),
            aud: cluster.to_owned(),
            sub: device.to_owned(),
            app: app.to_owned(),
            exp: now_unix_s.saturating_add(ttl.as_secs()),
        };
        jsonwebtoken::encode(&header, &body, self.encoding_key())
            .expect("plain strings encode, and the key was checked when it was made")
    }
}

/// Verifies development tokens of one cluster with public keys by key id.
pub struct DevelopmentVerifier {
    keys: HashMap<String, DecodingKey>,
    validation: Validation,
}

impl DevelopmentVerifier {
    /// A verifier of `cluster`'s tokens; the keys are prepared here, once.
    #[must_use]
    pub fn new(cluster: &str, keys: impl IntoIterator<Item = PublicKey>) -> DevelopmentVerifier {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&[cluster]);
        validation.set_issuer(&[DEVELOPMENT_ISSUER]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        // Expiry is checked below, by the caller's clock.
        validation.validate_exp = false;
        let keys = keys
            .into_iter()
            .map(|key| (key.key_id().to_owned(), DecodingKey::from_ed_der(key.bytes())))
            .collect();
        DevelopmentVerifier { keys, validation }
    }
}

impl TokenVerifier for DevelopmentVerifier {
    fn verify(&self, token: &[u8], now_unix_s: u64) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|fault| refusal(fault.kind()))?;
        let key_id = header.kid.ok_or(TokenError::Malformed)?;
        let key = self.keys.get(&key_id).ok_or(TokenError::UnknownKey)?;
        let body: Body = jsonwebtoken::decode(token, key, &self.validation)
            .map_err(|fault| refusal(fault.kind()))?
            .claims;
        if now_unix_s >= body.exp {
            return Err(TokenError::Expired);
        }
        Ok(Claims {
            device: body.sub,
            app: body.app,
        })
    }
}

fn refusal(fault: &ErrorKind) -> TokenError {
    match fault {
        ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
            TokenError::Forged
        }
        ErrorKind::InvalidAudience => TokenError::OtherCluster,
        _ => TokenError::Malformed,
    }
}

#[cfg(test)]
mod tests;
