//! A stand-in for the API server's signing key.

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use serde_json::{Value, json};

/// What a token says.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) aud: Vec<String>,
    pub(crate) sub: String,
    pub(crate) exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nbf: Option<u64>,
}

impl Claims {
    /// Of a service account, good for an hour by the clock.
    pub(crate) fn of(namespace: &str, account: &str, audience: &str) -> Claims {
        Claims {
            iss: "https://kubernetes.default.svc".to_owned(),
            aud: vec![audience.to_owned()],
            sub: format!("system:serviceaccount:{namespace}:{account}"),
            exp: imaccess_common::clock::unix_s() + 3_600,
            nbf: None,
        }
    }
}

/// Signs tokens with a key made for the test.
#[derive(Clone)]
pub(crate) struct Signer {
    id: String,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    pub(crate) fn es256(id: &str) -> Signer {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        Signer {
            id: id.to_owned(),
            algorithm: Algorithm::ES256,
            key: EncodingKey::from_ec_pem(pem.as_bytes()).unwrap(),
        }
    }

    pub(crate) fn rs256(id: &str) -> Signer {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        Signer {
            id: id.to_owned(),
            algorithm: Algorithm::RS256,
            key: EncodingKey::from_rsa_pem(key.serialize_pem().as_bytes()).unwrap(),
        }
    }

    /// The same key under another id.
    pub(crate) fn with_id(&self, id: &str) -> Signer {
        Signer {
            id: id.to_owned(),
            ..self.clone()
        }
    }

    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.clone());
        serde_json::to_value(jwk).unwrap()
    }

    /// What the API server serves.
    pub(crate) fn key_set(signers: &[&Signer]) -> Vec<u8> {
        let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
        json!({ "keys": keys }).to_string().into_bytes()
    }

    pub(crate) fn sign(&self, claims: &Claims) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.clone());
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }

    pub(crate) fn without_id(&self, claims: &Claims) -> String {
        jsonwebtoken::encode(&Header::new(self.algorithm), claims, &self.key).unwrap()
    }

    /// Signed with a secret that everyone has.
    pub(crate) fn symmetric(&self, claims: &Claims) -> String {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(self.id.clone());
        let public = self.jwk()["x"].to_string();
        jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(public.as_bytes())).unwrap()
    }

    /// With no signature, and a header that says `algorithm`.
    pub(crate) fn unsigned(&self, claims: &Claims, algorithm: &str) -> String {
        let signed = self.sign(claims);
        let body = signed.split('.').nth(1).unwrap();
        let header = json!({"alg": algorithm, "kid": self.id, "typ": "JWT"}).to_string();
        format!("{}.{body}.", base64_url(header.as_bytes()))
    }
}

fn base64_url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for piece in bytes.chunks(3) {
        let whole = piece
            .iter()
            .fold(0_u32, |whole, &byte| whole << 8 | u32::from(byte))
            << (8 * (3 - piece.len()));
        for digit in 0..=piece.len() {
            text.push(char::from(DIGITS[(whole >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text
}
