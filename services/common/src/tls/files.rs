//! The PEM files: what is in them, and whether they changed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_pki_types::pem::PemObject;

use super::TlsError;

/// Certificates and keys have a few kilobytes; a file above this is not one.
const LONGEST: u64 = 1 << 20;

/// How a file looks from outside. Links are followed, so that Kubernetes' swap of a whole directory shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// How it looks now; `None` if it isn't there or can't be looked at.
pub(super) fn look(path: &Path) -> Option<Look> {
    let found = fs::metadata(path).ok()?;
    Some(Look {
        device: found.dev(),
        inode: found.ino(),
        size: found.len(),
        modified: (found.mtime(), found.mtime_nsec()),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let fault = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).map_err(fault)?.len() > LONGEST {
        return Err(fault(io::Error::other("it is too long for a certificate or key")));
    }
    fs::read(path).map_err(fault)
}

fn content(path: &Path, fault: &dyn ToString) -> TlsError {
    TlsError::Content {
        path: path.to_owned(),
        fault: fault.to_string(),
    }
}

/// All certificates of a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates_in(path, &read(path)?)
}

/// The same of text that was read already; `path` is for messages.
pub(super) fn certificates_in(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|fault| content(path, &fault))?;
    if found.is_empty() {
        return Err(content(path, &"there is no certificate in it"));
    }
    Ok(found)
}

/// The first private key of a file. What is wrong with it isn't shown in full: the text is a secret.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    key_in(path, &read(path)?)
}

/// The same of text that was read already.
pub(super) fn key_in(path: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|_| content(path, &"there is no private key in it"))
}

/// The authorities of a file, and the time at which the last of them ends, in seconds since 1970.
pub(super) fn authorities(path: &Path) -> Result<(RootCertStore, i64), TlsError> {
    authorities_in(path, &read(path)?)
}

/// The same of text that was read already.
pub(super) fn authorities_in(path: &Path, text: &[u8]) -> Result<(RootCertStore, i64), TlsError> {
    let mut roots = RootCertStore::empty();
    let mut last = i64::MIN;
    for certificate in certificates_in(path, text)? {
        last = last.max(not_after(path, &certificate)?);
        roots.add(certificate).map_err(|fault| content(path, &fault))?;
    }
    Ok((roots, last))
}

/// When a certificate ends, in seconds since 1970.
pub(super) fn not_after(path: &Path, certificate: &CertificateDer<'_>) -> Result<i64, TlsError> {
    let (_, read) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|fault| content(path, &format!("a certificate can't be read: {fault}")))?;
    Ok(read.validity().not_after.timestamp())
}
