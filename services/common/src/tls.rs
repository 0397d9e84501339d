//! TLS between the parts: who one is, whom one lets in, and whom one dials.
//!
//! ```text
//!   files ──▶ Identity ──▶ ServerTls ──▶ Incoming      accepted connections, with the peer's names
//!   (read again      └───▶ ClientTls ──▶ Connector     dialled connections, to the name that is expected
//!    when they change)
//! ```
//!
//! A certificate proves names (DNS subject alternative names). A part dials addresses, not names, so what it expects at
//! the other end is configuration: `routing` dials `10.1.2.3:7300` and expects `sidecar.demo.default.imaccess.internal`.
//!
//! Invariants: nothing is read while a connection is made; no session is resumed, so that every connection is judged by
//! the authorities and the clock of its own time; connections that exist stay when the files change.

mod client;
mod failure;
mod files;
mod identity;
mod metrics;
mod server;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use serde::{Deserialize, Serialize};

pub use self::client::{ClientTls, Connector, DialStream};
pub use self::failure::Failure;
pub use self::identity::Identity;
pub use self::metrics::TlsMetrics;
pub use self::server::{Clients, Incoming, Peer, ServerTls, TlsConnection};

/// Where a part's certificate is: three PEM files, read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate that is presented, followed by what lies between it and the authority, if anything.
    pub certificate: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
    /// The certificates of those who may have issued the other side's: several while one replaces another.
    pub authority: PathBuf,
}

/// Why a certificate, key or authority can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file has not what it should have.
    #[error("{}: {fault}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// Certificate and key are not of one pair.
    #[error("the key {} does not belong to the certificate {}", key.display(), certificate.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A name that can't be one of a certificate.
    #[error("{0:?} is no name that a certificate can have")]
    Name(String),
}

/// The only cryptography used, given explicitly: what some other library made the process's default doesn't matter.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests;
