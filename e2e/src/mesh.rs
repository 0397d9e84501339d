//! Callers of the parts as they may come: without TLS, without a certificate, with somebody else's, with one of the cluster's.
//!
//! What a caller trusts is always the cluster's own authority and the name of the part that it dials, so that a refusal is
//! the server's and never the caller's.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::transport::{Channel, Endpoint, Uri};

/// For connection and handshake together; an answer has as long again.
const DIAL: Duration = Duration::from_secs(10);

/// How a caller comes.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Without TLS.
    Plain,
    /// With TLS, and nothing to show.
    Nobody,
    /// With a certificate.
    Certified(Certified),
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Certified {
    /// The chain.
    pub certificate: Vec<u8>,
    /// The key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Certified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certified")
    }
}

/// A part at an address.
#[derive(Clone, Debug)]
pub struct Door {
    /// Its address.
    pub address: SocketAddr,
    /// The name in its certificate.
    pub name: String,
    /// The cluster's authority, in PEM.
    pub authority: Vec<u8>,
}

impl Certified {
    /// One with these names, of an authority that nobody knows.
    ///
    /// # Errors
    /// When a name can't be in a certificate.
    pub fn foreign(names: &[String]) -> Result<Self> {
        let (authority, own) = (KeyPair::generate()?, KeyPair::generate()?);
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::Issuer::new(params, authority);
        let mut params = CertificateParams::new(names.to_vec())?;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let certificate = params.signed_by(&own, &issuer)?;
        Ok(Self {
            certificate: certificate.pem().into_bytes(),
            key: own.serialize_pem().into_bytes(),
        })
    }

    fn parts(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|fault| anyhow!("no certificate: {fault}"))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|fault| anyhow!("no key: {fault}"))?;
        Ok((chain, key))
    }

    /// A server that has this certificate and asks for none.
    ///
    /// # Errors
    /// When certificate and key don't fit.
    pub fn acceptor(&self) -> Result<TlsAcceptor> {
        let (chain, key) = self.parts()?;
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

impl Door {
    /// A gRPC channel to it, which connects at once.
    ///
    /// # Errors
    /// When no connection comes about.
    pub async fn grpc(&self, caller: &Caller) -> Result<Channel> {
        // The scheme is plain whatever is below: TLS is the connector's.
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?.timeout(DIAL);
        let connector = Connector {
            door: self.clone(),
            caller: caller.clone(),
        };
        let channel = timeout(DIAL, endpoint.connect_with_connector(connector)).await;
        let channel = channel.with_context(|| format!("{} takes too long", self.address))?;
        Ok(channel?)
    }

    /// The status of an HTTP/1.1 request without a body.
    ///
    /// # Errors
    /// When the connection ends, or the time, without one.
    pub async fn http(&self, caller: &Caller, method: &str, path: &str) -> Result<u16> {
        let exchange = async {
            let mut stream = self.dial(caller, b"http/1.1").await?;
            let request = format!(
                "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                self.name
            );
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            // Who refuses a certificate says so now: in TLS 1.3 a client's handshake ends before the server's.
            while !answer.contains(&b'\n') {
                if stream.read_buf(&mut answer).await? == 0 {
                    break;
                }
            }
            let text = String::from_utf8_lossy(&answer);
            let status = text
                .strip_prefix("HTTP/1.1 ")
                .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            status.with_context(|| format!("closed without a status; it said {text:?}"))
        };
        timeout(DIAL, exchange)
            .await
            .with_context(|| format!("{} takes too long", self.address))?
    }

    async fn dial(&self, caller: &Caller, protocol: &[u8]) -> Result<Stream> {
        let stream = TcpStream::connect(self.address)
            .await
            .with_context(|| format!("nobody listens at {}", self.address))?;
        stream.set_nodelay(true)?;
        let own = match caller {
            Caller::Plain => return Ok(Stream::Plain(stream)),
            Caller::Nobody => None,
            Caller::Certified(certified) => Some(certified.parts()?),
        };
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&self.authority) {
            roots.add(root.map_err(|fault| anyhow!("the authority: {fault}"))?)?;
        }
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match own {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from(self.name.clone())?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .with_context(|| format!("the handshake with {} failed", self.address))?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

#[derive(Clone)]
struct Connector {
    door: Door,
    caller: Caller,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Poller<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { door, caller } = self.clone();
        Box::pin(async move {
            let stream = door.dial(&caller, b"h2").await;
            stream
                .map(TokioIo::new)
                .map_err(|fault| io::Error::other(format!("{fault:#}")))
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        poller: &mut Poller<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(poller, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(poller, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, poller: &mut Poller<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(poller, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(poller, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, poller: &mut Poller<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(poller),
            Self::Tls(stream) => Pin::new(stream).poll_flush(poller),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, poller: &mut Poller<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(poller),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(poller),
        }
    }
}
