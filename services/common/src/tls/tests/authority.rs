//! Throw-away authorities for tests: of this crate, and by `#[path]` of the crates above it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;

/// One that issues certificates.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Authority {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate with these names.
    pub(crate) fn issue(&self, names: &[&str]) -> Pair {
        self.issue_until(names, OffsetDateTime::now_utc() + Duration::from_secs(3_600))
    }

    /// The same, with its end.
    pub(crate) fn issue_until(&self, names: &[&str], not_after: OffsetDateTime) -> Pair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = not_after - Duration::from_secs(7_200);
        params.not_after = not_after;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        Pair {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// The three files of one part, laid out as the kubelet lays out a Secret: a link to a directory that is replaced whole.
pub(crate) struct Files {
    directory: tempfile::TempDir,
    generation: u32,
}

impl Files {
    pub(crate) fn new(pair: &Pair, authorities: &[&Authority]) -> Files {
        let mut files = Files {
            directory: tempfile::tempdir().unwrap(),
            generation: 0,
        };
        files.replace(&pair.certificate, &pair.key, authorities);
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            std::os::unix::fs::symlink(Path::new("..data").join(name), files.path(name)).unwrap();
        }
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces all at once.
    pub(crate) fn replace(&mut self, certificate: &str, key: &str, authorities: &[&Authority]) {
        self.generation += 1;
        let directory = format!("..generation-{}", self.generation);
        let data = self.path(&directory);
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("tls.crt"), certificate).unwrap();
        std::fs::write(data.join("tls.key"), key).unwrap();
        let authorities: String = authorities
            .iter()
            .map(|authority| authority.pem.as_str())
            .collect();
        std::fs::write(data.join("ca.crt"), authorities).unwrap();
        let link = self.path("..data_tmp");
        std::os::unix::fs::symlink(directory, &link).unwrap();
        std::fs::rename(link, self.path("..data")).unwrap();
    }
}
