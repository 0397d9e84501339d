//! The side that dials: who is expected at the other end.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;

use super::failure::Failure;
use super::identity::Identity;
use super::metrics::{Side, TlsMetrics};
use super::{TlsConfig, TlsError, files, identity, provider};

/// For the TCP connection and the handshake together.
const DIAL: Duration = Duration::from_secs(5);

/// A dialled connection, as hyper and tonic take it.
pub type DialStream = TokioIo<TlsStream<TcpStream>>;

/// How a client makes connections secure, and whom it expects.
#[derive(Clone)]
pub struct ClientTls {
    source: Source,
    name: ServerName<'static>,
    protocol: &'static [u8],
}

#[derive(Clone)]
enum Source {
    /// A part: its certificate and authorities change while it runs.
    Part(Arc<Identity>),
    /// A command, or one request: what was read once is good for it.
    Once(Arc<Once>),
}

struct Once {
    servers: Arc<WebPkiServerVerifier>,
    own: Option<Arc<SingleCertAndKey>>,
}

// === impl ClientTls ===

impl ClientTls {
    /// For gRPC, as the part that `identity` is, to servers whose certificate has `name`.
    ///
    /// # Errors
    /// [`TlsError::Name`] for a name that no certificate can have.
    pub fn grpc(identity: Arc<Identity>, name: &str) -> Result<ClientTls, TlsError> {
        Ok(ClientTls {
            source: Source::Part(identity),
            name: server_name(name)?,
            protocol: b"h2",
        })
    }

    /// For gRPC, with files that are read now and never again: `authority` judges the server, which must have `name` (a
    /// DNS name or an IP address); `own` is certificate and key to present, if the server is to know this client by them.
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub fn grpc_once(
        authority: &Path,
        own: Option<(&Path, &Path)>,
        name: &str,
    ) -> Result<ClientTls, TlsError> {
        ClientTls::once(authority, own, name, b"h2")
    }

    /// The same for HTTP/1, without a certificate of one's own.
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub fn http_once(authority: &Path, name: &str) -> Result<ClientTls, TlsError> {
        ClientTls::once(authority, None, name, b"http/1.1")
    }

    /// For HTTP/1, as the part that `identity` is: how the operator asks a gateway.
    ///
    /// # Errors
    /// [`TlsError::Name`] for a name that no certificate can have.
    pub fn http(identity: Arc<Identity>, name: &str) -> Result<ClientTls, TlsError> {
        Ok(ClientTls {
            source: Source::Part(identity),
            name: server_name(name)?,
            protocol: b"http/1.1",
        })
    }

    /// For HTTP/1, from PEM that is in memory: how the operator, which has each cluster's certificate in a Secret, asks a gateway.
    ///
    /// # Errors
    /// [`TlsError`], naming the key of the Secret; nothing of a private key is shown.
    pub fn http_from_pem(
        authority: &[u8],
        certificate: &[u8],
        key: &[u8],
        name: &str,
    ) -> Result<ClientTls, TlsError> {
        let (authority_name, own_name) = (Path::new("ca.crt"), Path::new("tls.crt"));
        let (roots, _) = files::authorities_in(authority_name, authority)?;
        let content = |path: &Path, fault: &dyn ToString| TlsError::Content {
            path: path.to_owned(),
            fault: fault.to_string(),
        };
        let servers = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|fault| content(authority_name, &fault))?;
        let chain = files::certificates_in(own_name, certificate)?;
        let key = files::key_in(Path::new("tls.key"), key)?;
        let own =
            CertifiedKey::from_der(chain, key, &provider()).map_err(|fault| content(own_name, &fault))?;
        let own = Some(Arc::new(SingleCertAndKey::from(own)));
        Ok(ClientTls {
            source: Source::Once(Arc::new(Once { servers, own })),
            name: server_name(name)?,
            protocol: b"http/1.1",
        })
    }

    fn once(
        authority: &Path,
        own: Option<(&Path, &Path)>,
        name: &str,
        protocol: &'static [u8],
    ) -> Result<ClientTls, TlsError> {
        let (roots, _) = files::authorities(authority)?;
        let servers = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|fault| TlsError::Content {
                path: authority.to_owned(),
                fault: fault.to_string(),
            })?;
        let own = own.map(|(certificate, key)| {
            identity::own(&TlsConfig {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
                authority: authority.to_owned(),
            })
        });
        let own = own.transpose()?.map(|own| Arc::new(SingleCertAndKey::from(own)));
        Ok(ClientTls {
            source: Source::Once(Arc::new(Once { servers, own })),
            name: server_name(name)?,
            protocol,
        })
    }

    /// Dials `address` (`host:port`) and makes the connection secure, within five seconds.
    ///
    /// With TLS 1.3 a server judges this side's certificate after this returned: a refusal comes with the first read.
    ///
    /// # Errors
    /// What the system said, or a `rustls::Error` within it.
    pub async fn connect(&self, address: &str) -> io::Result<TlsStream<TcpStream>> {
        let handshake = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let connector = TlsConnector::from(Arc::new(self.config()));
            let secured = connector.connect(self.name.clone(), stream).await;
            if let Some(metrics) = self.metrics() {
                match &secured {
                    Ok(_) => metrics.succeeded(Side::Client),
                    Err(fault) => metrics.failed(Side::Client, Failure::of(fault)),
                }
            }
            secured
        };
        match tokio::time::timeout(DIAL, handshake).await {
            Ok(secured) => secured,
            Err(_) => {
                if let Some(metrics) = self.metrics() {
                    metrics.failed(Side::Client, Failure::Deadline);
                }
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the TLS handshake took too long",
                ))
            }
        }
    }

    fn metrics(&self) -> Option<&TlsMetrics> {
        match &self.source {
            Source::Part(identity) => Some(identity.metrics()),
            Source::Once(_) => None,
        }
    }

    /// Made anew for every connection, as at the server.
    fn config(&self) -> ClientConfig {
        let (servers, own) = match &self.source {
            Source::Part(identity) => {
                let loaded = identity.loaded();
                (Arc::clone(&loaded.servers), Some(Arc::clone(&loaded.own)))
            }
            Source::Once(once) => (Arc::clone(&once.servers), once.own.clone()),
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has ciphers for both versions")
            .with_webpki_verifier(servers);
        let mut config = match own {
            Some(own) => builder.with_client_cert_resolver(own),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![self.protocol.to_vec()];
        config.resumption = Resumption::disabled();
        config
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))
}

/// Dials for tonic: `Endpoint::connect_with_connector`. The URI's scheme is not looked at, its port must be there.
#[derive(Debug, Clone)]
pub struct Connector(pub ClientTls);

impl Service<Uri> for Connector {
    type Response = DialStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<DialStream>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.0.clone();
        Box::pin(async move {
            let address = uri.authority().filter(|authority| authority.port().is_some());
            let address = address.ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidInput, "the address must read host:port")
            })?;
            tls.connect(address.as_str()).await.map(TokioIo::new)
        })
    }
}
