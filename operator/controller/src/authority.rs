//! The cluster's certificate authority: keys and certificates made of random bytes and time, without I/O.
//!
//! An authority's life has four steps, taken one at a time when the plan says so: it is made; its successor is made and trusted
//! beside it; the successor signs and the former is still trusted; the former is forgotten. Between the steps there is time for
//! every part to read the new files, so that at no moment a part meets a certificate that it can't verify.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::digest;
use imaccess_operator_api::names::{self, key};
use imaccess_operator_plan::plan::AuthorityStep;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, Pem, X509Certificate};

/// Clocks of nodes may differ by this much.
const SKEW: Duration = Duration::from_secs(300);

/// The successor's certificate and key in the authority's Secret, from when it is trusted until it signs.
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";

/// How long certificates are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// The authority's.
    pub authority: Duration,
    /// The parts', at most until the authority's ends.
    pub certificate: Duration,
}

impl Lifetimes {
    /// A year, and 90 days.
    pub const DEFAULT: Lifetimes = Lifetimes {
        authority: Duration::from_secs(365 * 86_400),
        certificate: Duration::from_secs(90 * 86_400),
    };
}

/// Keys or certificates that can't be made or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The authority's Secret lacks what it should have.
    #[error(
        "Secret {secret} can't be used: {what}. Delete it to have a new authority made; every part then gets new certificates"
    )]
    Unusable {
        /// Its name.
        secret: String,
        /// What is wrong.
        what: String,
    },
    /// The library refused.
    #[error("a certificate can't be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The step isn't the one that comes next.
    #[error("the authority isn't where the step {0:?} begins")]
    OutOfStep(AuthorityStep),
    /// No random bytes.
    #[error("no random bytes can be had")]
    Random,
}

/// The content of a Secret: keys of its data, and annotations.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Its data.
    pub data: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Values are never shown.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("keys", &self.data.keys())
            .field("annotations", &self.annotations)
            .finish()
    }
}

/// The authority's Secret after `step`, from what it was.
///
/// # Errors
/// If it isn't where the step begins, or what is in it can't be used.
pub fn step(
    cluster: &str,
    step: AuthorityStep,
    before: Option<&Content>,
    lifetime: Duration,
    now: Timestamp,
) -> Result<Content, AuthorityError> {
    let out_of_step = || AuthorityError::OutOfStep(step);
    match (step, before) {
        // One that is over, or lacks a part, is nothing to be careful with.
        (AuthorityStep::Make, before) if before.is_none_or(|before| !is_usable(cluster, before, now)) => {
            let made = make(cluster, lifetime, now)?;
            let mut content = Content::default();
            content.data.insert(key::AUTHORITY.to_owned(), made.certificate);
            content.data.insert(key::AUTHORITY_KEY.to_owned(), made.key);
            annotate(cluster, content, None, now)
        }
        (AuthorityStep::AddNext, Some(before)) if !before.data.contains_key(NEXT_KEY) => {
            let made = make(cluster, lifetime, now)?;
            let mut content = before.clone();
            let current = first(cluster, before)?;
            let bundle = format!("{current}{}", made.certificate);
            content.data.insert(key::AUTHORITY.to_owned(), bundle);
            content.data.insert(NEXT_CERTIFICATE.to_owned(), made.certificate);
            content.data.insert(NEXT_KEY.to_owned(), made.key);
            annotate(cluster, content, None, now)
        }
        (AuthorityStep::Switch, Some(before)) => {
            let mut content = before.clone();
            let former = first(cluster, before)?;
            let next = content.data.remove(NEXT_CERTIFICATE).ok_or_else(out_of_step)?;
            let next_key = content.data.remove(NEXT_KEY).ok_or_else(out_of_step)?;
            content
                .data
                .insert(key::AUTHORITY.to_owned(), format!("{next}{former}"));
            content.data.insert(key::AUTHORITY_KEY.to_owned(), next_key);
            annotate(cluster, content, Some(&former), now)
        }
        (AuthorityStep::Forget, Some(before)) if !before.data.contains_key(NEXT_KEY) => {
            let mut content = before.clone();
            let current = first(cluster, before)?;
            content.data.insert(key::AUTHORITY.to_owned(), current);
            annotate(cluster, content, None, now)
        }
        _ => Err(out_of_step()),
    }
}

/// A certificate for `dns_names`, good on both ends of a connection, signed by the authority of `authority`.
///
/// # Errors
/// If the authority can't be used.
pub fn issue(
    cluster: &str,
    authority: &Content,
    dns_names: &[String],
    issued_for: &str,
    lifetime: Duration,
    now: Timestamp,
) -> Result<Content, AuthorityError> {
    let unusable = |what: &str| AuthorityError::Unusable {
        secret: secret_name(cluster),
        what: what.to_owned(),
    };
    let current = first(cluster, authority)?;
    let signing_key = authority
        .data
        .get(key::AUTHORITY_KEY)
        .ok_or_else(|| unusable("it has no ca.key"))?;
    let signing_key = KeyPair::from_pem(signing_key).map_err(|_| unusable("ca.key is no private key"))?;
    let facts = facts(&current).ok_or_else(|| unusable("ca.crt is no certificate"))?;
    if facts.public_key != signing_key.public_key_raw() {
        return Err(unusable(
            "ca.key isn't the key of the first certificate in ca.crt",
        ));
    }
    let issuer = Issuer::from_ca_cert_pem(&current, signing_key)?;
    let not_after = (now + lifetime).min(facts.not_after);
    let mut parameters = parameters(now, not_after, dns_names.first().map_or(cluster, String::as_str))?;
    for name in dns_names {
        parameters
            .subject_alt_names
            .push(rcgen::SanType::DnsName(name.as_str().try_into()?));
    }
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let leaf_key = KeyPair::generate()?;
    let certificate = parameters.signed_by(&leaf_key, &issuer)?;
    let bundle = authority.data.get(key::AUTHORITY).cloned().unwrap_or_default();
    Ok(Content {
        data: BTreeMap::from([
            (key::CERTIFICATE.to_owned(), certificate.pem()),
            (key::PRIVATE_KEY.to_owned(), leaf_key.serialize_pem()),
            (key::AUTHORITY.to_owned(), bundle),
        ]),
        annotations: BTreeMap::from([
            (names::NOT_BEFORE_ANNOTATION.to_owned(), second(now).to_string()),
            (
                names::NOT_AFTER_ANNOTATION.to_owned(),
                second(not_after).to_string(),
            ),
            (names::ISSUED_FOR_ANNOTATION.to_owned(), issued_for.to_owned()),
        ]),
    })
}

/// Whether certificates can be signed, and those that were are good.
fn is_usable(cluster: &str, content: &Content, now: Timestamp) -> bool {
    let current = first(cluster, content).ok().and_then(|pem| facts(&pem));
    content.data.contains_key(key::AUTHORITY_KEY)
        && content
            .annotations
            .contains_key(names::AUTHORITY_CURRENT_ANNOTATION)
        && current.is_some_and(|current| now < current.not_after)
}

struct Made {
    certificate: String,
    key: String,
}

fn make(cluster: &str, lifetime: Duration, now: Timestamp) -> Result<Made, AuthorityError> {
    let ca_key = KeyPair::generate()?;
    // The key's id in the name: of two authorities that are trusted at once a verifier tries the right one.
    let id = hex::encode(&digest::digest(&digest::SHA256, ca_key.public_key_raw()).as_ref()[..8]);
    let mut parameters = parameters(now, now + lifetime, &format!("imaccess {cluster} {id}"))?;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = parameters.self_signed(&ca_key)?;
    Ok(Made {
        certificate: certificate.pem(),
        key: ca_key.serialize_pem(),
    })
}

fn parameters(
    now: Timestamp,
    not_after: Timestamp,
    common_name: &str,
) -> Result<CertificateParams, AuthorityError> {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|_| AuthorityError::Random)?;
    // A positive number, as RFC 5280 wants it.
    serial[0] &= 0x7f;
    let mut parameters = CertificateParams::default();
    parameters.not_before = moment(now - SKEW);
    parameters.not_after = moment(not_after);
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
    parameters.distinguished_name = DistinguishedName::new();
    // A common name has 64 characters at most (RFC 5280); what counts are the alternative names.
    let common_name: String = common_name.chars().take(64).collect();
    parameters
        .distinguished_name
        .push(DnType::CommonName, common_name);
    Ok(parameters)
}

/// The annotations by which the plan knows where the authority is.
fn annotate(
    cluster: &str,
    mut content: Content,
    former: Option<&str>,
    now: Timestamp,
) -> Result<Content, AuthorityError> {
    let unreadable = || AuthorityError::Unusable {
        secret: secret_name(cluster),
        what: "a certificate in it can't be read".to_owned(),
    };
    let current = facts(&first(cluster, &content)?).ok_or_else(unreadable)?;
    let fingerprint_of = |pem: &str| facts(pem).map(|facts| facts.fingerprint).ok_or_else(unreadable);
    let bundle = content.data.get(key::AUTHORITY).cloned().unwrap_or_default();
    let next = content
        .data
        .get(NEXT_CERTIFICATE)
        .map(|pem| fingerprint_of(pem))
        .transpose()?;
    let former = former.map(fingerprint_of).transpose()?;
    let annotations = &mut content.annotations;
    let mut set = |name: &str, value: Option<String>| match value {
        Some(value) => drop(annotations.insert(name.to_owned(), value)),
        None => drop(annotations.remove(name)),
    };
    set(
        names::NOT_BEFORE_ANNOTATION,
        Some((current.not_before + SKEW).to_string()),
    );
    set(names::NOT_AFTER_ANNOTATION, Some(current.not_after.to_string()));
    set(names::AUTHORITY_CURRENT_ANNOTATION, Some(current.fingerprint));
    set(names::AUTHORITY_NEXT_ANNOTATION, next);
    set(names::AUTHORITY_PREVIOUS_ANNOTATION, former);
    set(names::AUTHORITY_SINCE_ANNOTATION, Some(second(now).to_string()));
    set(names::AUTHORITY_BUNDLE_ANNOTATION, Some(bundle));
    Ok(content)
}

struct Facts {
    fingerprint: String,
    not_before: Timestamp,
    not_after: Timestamp,
    public_key: Vec<u8>,
}

fn facts(pem: &str) -> Option<Facts> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    let validity = certificate.validity();
    Some(Facts {
        fingerprint: hex::encode(digest::digest(&digest::SHA256, &pem.contents)),
        not_before: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
        not_after: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
    })
}

/// The certificate that signs: the first of the bundle.
fn first(cluster: &str, content: &Content) -> Result<String, AuthorityError> {
    let unusable = |what: &str| AuthorityError::Unusable {
        secret: secret_name(cluster),
        what: what.to_owned(),
    };
    let bundle = content
        .data
        .get(key::AUTHORITY)
        .ok_or_else(|| unusable("it has no ca.crt"))?;
    let end = "-----END CERTIFICATE-----";
    let length = bundle
        .find(end)
        .ok_or_else(|| unusable("ca.crt has no certificate"))?
        + end.len();
    let pem = format!("{}\n", bundle[..length].trim_start());
    match Pem::iter_from_buffer(pem.as_bytes()).next() {
        Some(Ok(_)) => Ok(pem.replace("\r\n", "\n")),
        _ => Err(unusable("the first certificate in ca.crt can't be read")),
    }
}

fn secret_name(cluster: &str) -> String {
    names::Names::new(cluster, "").authority()
}

/// Whole seconds: what certificates have.
fn second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn moment(time: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
