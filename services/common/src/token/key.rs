//! Ed25519 keys of development tokens, as PEM and JWK.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use jsonwebtoken::{DecodingKey, EncodingKey};

/// What precedes the 32 bytes of an Ed25519 public key in its DER form (RFC 8410).
const PUBLIC_DER_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const PUBLIC_LENGTH: usize = 32;

/// A key that can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 {0} key in PEM form")]
pub struct KeyError(&'static str);

/// Signs development tokens.
pub struct DevelopmentIssuer {
    public: PublicKey,
    encoding: EncodingKey,
}

/// A public key that verifies development tokens, with its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    key_id: String,
    bytes: [u8; PUBLIC_LENGTH],
}

impl DevelopmentIssuer {
    /// A new key pair with the id that [`PublicKey::thumbprint`] gives it.
    #[must_use]
    pub fn generate() -> DevelopmentIssuer {
        let document = Ed25519KeyPair::generate()
            .and_then(|pair| pair.to_pkcs8v1())
            .expect("the operating system's random source works");
        DevelopmentIssuer::from_der(None, document.as_ref()).expect("a key just made is well formed")
    }

    /// The private key in `pem` (PKCS #8) under the id `key_id`.
    pub fn from_pem(key_id: &str, pem: &str) -> Result<DevelopmentIssuer, KeyError> {
        DevelopmentIssuer::from_der(Some(key_id), read_private_pem(pem)?.as_bytes())
    }

    /// The private key in `pem` (PKCS #8) under its thumbprint.
    pub fn from_pem_by_thumbprint(pem: &str) -> Result<DevelopmentIssuer, KeyError> {
        DevelopmentIssuer::from_der(None, read_private_pem(pem)?.as_bytes())
    }

    fn from_der(key_id: Option<&str>, der: &[u8]) -> Result<DevelopmentIssuer, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| KeyError("private"))?;
        let bytes = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| KeyError("private"))?;
        let public = PublicKey {
            key_id: key_id.map_or_else(|| thumbprint(&bytes), str::to_owned),
            bytes,
        };
        Ok(DevelopmentIssuer {
            public,
            encoding: EncodingKey::from_ed_der(der),
        })
    }

    /// The private key as PEM: a secret.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem("PRIVATE KEY", self.encoding.as_bytes())
    }

    /// The id in every token's header.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.public.key_id
    }

    /// The public half, for verifiers.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// The public half as PEM.
    #[must_use]
    pub fn public_pem(&self) -> String {
        self.public.to_pem()
    }

    /// The public half as a JWK.
    #[must_use]
    pub fn public_jwk(&self) -> String {
        self.public.to_jwk()
    }

    pub(super) fn encoding_key(&self) -> &EncodingKey {
        &self.encoding
    }
}

/// Private keys are never shown.
impl fmt::Debug for DevelopmentIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DevelopmentIssuer({})", self.key_id())
    }
}

impl PublicKey {
    /// The public key in `pem` (SubjectPublicKeyInfo) under the id `key_id`.
    pub fn from_pem(key_id: &str, pem: &str) -> Result<PublicKey, KeyError> {
        Ok(PublicKey {
            key_id: key_id.to_owned(),
            bytes: read_public_pem(pem)?,
        })
    }

    /// The public key in `pem` (SubjectPublicKeyInfo) under its thumbprint, as a generated issuer signs.
    pub fn from_pem_by_thumbprint(pem: &str) -> Result<PublicKey, KeyError> {
        let bytes = read_public_pem(pem)?;
        Ok(PublicKey {
            key_id: thumbprint(&bytes),
            bytes,
        })
    }

    /// The key's id.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The id that follows from the key alone: the first 16 hexadecimal digits of its SHA-256.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        thumbprint(&self.bytes)
    }

    /// The key as PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem("PUBLIC KEY", &[&PUBLIC_DER_PREFIX[..], &self.bytes].concat())
    }

    /// The key as a JWK (RFC 8037).
    #[must_use]
    pub fn to_jwk(&self) -> String {
        serde_json::json!({
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig",
            "kid": self.key_id, "x": base64(&self.bytes, Alphabet::Url),
        })
        .to_string()
    }

    pub(super) fn bytes(&self) -> &[u8; PUBLIC_LENGTH] {
        &self.bytes
    }
}

fn thumbprint(public: &[u8; PUBLIC_LENGTH]) -> String {
    hex::encode(&digest::digest(&digest::SHA256, public).as_ref()[..8])
}

fn read_private_pem(pem: &str) -> Result<EncodingKey, KeyError> {
    EncodingKey::from_ed_pem(pem.as_bytes()).map_err(|_| KeyError("private"))
}

fn read_public_pem(pem: &str) -> Result<[u8; PUBLIC_LENGTH], KeyError> {
    let key = DecodingKey::from_ed_pem(pem.as_bytes()).map_err(|_| KeyError("public"))?;
    key.try_get_as_bytes()
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(KeyError("public"))
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = base64(der, Alphabet::Standard);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Alphabet {
    /// With padding, for PEM.
    Standard,
    /// Without padding, for JWK.
    Url,
}

/// Base64 of two short keys: not worth a dependency of its own.
fn base64(bytes: &[u8], alphabet: Alphabet) -> String {
    const DIGITS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let last_two = if alphabet == Alphabet::Standard {
        ['+', '/']
    } else {
        ['-', '_']
    };
    let digit = |sextet: u32| {
        DIGITS
            .get(sextet as usize)
            .map_or(last_two[(sextet & 1) as usize], |&byte| byte.into())
    };
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0, |group, &byte| group << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            if place <= chunk.len() {
                text.push(digit(group >> (18 - 6 * place) & 0x3f));
            } else if alphabet == Alphabet::Standard {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_the_standard_says() {
        for (text, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes(), Alphabet::Standard), encoded);
            assert_eq!(
                base64(text.as_bytes(), Alphabet::Url),
                encoded.trim_end_matches('=')
            );
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xbf], Alphabet::Standard), "+/+/");
        assert_eq!(base64(&[0xfb, 0xff, 0xbf], Alphabet::Url), "-_-_");
    }

    #[test]
    fn keys_survive_their_forms() {
        let issuer = DevelopmentIssuer::generate();
        let again = DevelopmentIssuer::from_pem_by_thumbprint(&issuer.to_pem()).unwrap();
        assert_eq!(again.public_key(), issuer.public_key());
        let named = DevelopmentIssuer::from_pem("k1", &issuer.to_pem()).unwrap();
        assert_eq!(
            (named.key_id(), named.public_key().bytes()),
            ("k1", issuer.public_key().bytes())
        );
        assert_eq!(
            &PublicKey::from_pem_by_thumbprint(&issuer.public_pem()).unwrap(),
            issuer.public_key()
        );
        assert_eq!(
            PublicKey::from_pem("k1", &issuer.public_pem())
                .unwrap()
                .thumbprint(),
            issuer.key_id()
        );
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_str(&issuer.public_jwk()).unwrap();
        let of_jwk = DecodingKey::from_jwk(&jwk).unwrap();
        assert_eq!(of_jwk.try_get_as_bytes().unwrap(), issuer.public_key().bytes());
        assert_eq!(jwk.common.key_id.as_deref(), Some(issuer.key_id()));
        assert!(!format!("{issuer:?}").contains("PRIVATE"));
    }

    #[test]
    fn other_pems_are_refused() {
        let issuer = DevelopmentIssuer::generate();
        assert!(DevelopmentIssuer::from_pem("k", "").is_err());
        assert!(DevelopmentIssuer::from_pem("k", &issuer.public_pem()).is_err());
        assert_eq!(
            PublicKey::from_pem("k", &issuer.to_pem()),
            Err(KeyError("public"))
        );
        assert_eq!(
            PublicKey::from_pem("k", "-----BEGIN PUBLIC KEY-----"),
            Err(KeyError("public"))
        );
    }
}
