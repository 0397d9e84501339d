//! Whether a Secret that the operator made still has what it was made with. Nobody but its maker could tell: what is in it is random.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use imaccess_operator_api::names::{CONTENTS_ANNOTATION, key};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

/// A hash of all of a Secret's data, 128 bits in hexadecimal.
pub(crate) fn hash(data: &BTreeMap<String, ByteString>) -> String {
    hash_of(data.iter())
}

/// What [`CONTENTS_ANNOTATION`] says of this data: its [`hash`], but for the authority's certificates beside a certificate, which come
/// and go with the authority and are compared with it.
pub(crate) fn told(data: &BTreeMap<String, ByteString>) -> String {
    let beside = data.contains_key(key::CERTIFICATE);
    hash_of(
        data.iter()
            .filter(|(name, _)| !(beside && *name == key::AUTHORITY)),
    )
}

/// Whether the Secret's data is what its annotation tells; a Secret without one isn't as the operator made it.
pub(crate) fn is_as_made(secret: &Secret) -> bool {
    let annotations = secret.metadata.annotations.as_ref();
    let told_of_it = annotations.and_then(|annotations| annotations.get(CONTENTS_ANNOTATION));
    let data = secret.data.as_ref();
    told_of_it
        .zip(data)
        .is_some_and(|(told_of_it, data)| *told_of_it == told(data))
}

fn hash_of<'a>(data: impl Iterator<Item = (&'a String, &'a ByteString)>) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    for (name, value) in data {
        for bytes in [name.as_bytes(), &value.0] {
            hash.update(&(bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        }
    }
    hex::encode(&hash.finish().as_ref()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(pairs: &[(&str, &str)]) -> Secret {
        let data: BTreeMap<_, _> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), ByteString(value.as_bytes().to_vec())))
            .collect();
        let mut secret = Secret::default();
        secret.metadata.annotations = Some([(CONTENTS_ANNOTATION.to_owned(), told(&data))].into());
        secret.data = Some(data);
        secret
    }

    fn put(secret: &mut Secret, name: &str, value: &str) {
        let data = secret.data.as_mut().unwrap();
        data.insert(name.to_owned(), ByteString(value.as_bytes().to_vec()));
    }

    #[test]
    fn an_edit_shows() {
        let made = secret(&[("tickets", "1 aa\n")]);
        assert!(is_as_made(&made));
        for (name, value) in [("tickets", "1 ab\n"), ("more", "")] {
            let mut edited = made.clone();
            put(&mut edited, name, value);
            assert!(!is_as_made(&edited), "{name}: {value}");
        }
        let mut emptied = made.clone();
        emptied.data = None;
        assert!(!is_as_made(&emptied));
        let mut silent = made;
        silent.metadata.annotations = None;
        assert!(!is_as_made(&silent));
    }

    #[test]
    fn the_authority_beside_a_certificate_may_change_and_the_authoritys_own_may_not() {
        let mut certificate = secret(&[("ca.crt", "one"), ("tls.crt", "certificate"), ("tls.key", "key")]);
        put(&mut certificate, "ca.crt", "another");
        assert!(is_as_made(&certificate));
        put(&mut certificate, "tls.key", "another");
        assert!(!is_as_made(&certificate));
        let mut authority = secret(&[("ca.crt", "one"), ("ca.key", "key")]);
        put(&mut authority, "ca.crt", "another");
        assert!(!is_as_made(&authority));
    }

    #[test]
    fn where_one_value_ends_matters() {
        assert_ne!(
            told(secret(&[("a", "bc")]).data.as_ref().unwrap()),
            told(secret(&[("ab", "c")]).data.as_ref().unwrap())
        );
    }
}
