//! The side that is dialled: who may come in, and the stream of those who did.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::Stream;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::failure::Failure;
use super::identity::{Identity, Loaded};
use super::metrics::Side;
use super::{TlsError, provider};
use crate::telemetry::Seldom;

/// From accept to the end of the handshake: two round trips and a millisecond of CPU, where nobody plays for time.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at a time; more connections wait in the listen queue. A stranger who says nothing holds one of them for
/// [`HANDSHAKE`], with about 20 kB.
const HANDSHAKES: usize = 256;
/// How long accepting pauses when the process is out of descriptors or memory: long enough not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Which clients may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clients {
    /// Those whose certificate has one of these names; others don't get through the handshake.
    Named(Vec<String>),
    /// Those with a certificate of the authority, whatever its names, and those with none: what they may do is decided
    /// request by request. A certificate of another authority doesn't get through the handshake.
    Guests,
}

/// What a client proved about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// The DNS names of its certificate; empty if it came without.
    pub names: Arc<[String]>,
}

/// How a server makes connections secure.
#[derive(Debug, Clone)]
pub struct ServerTls {
    identity: Arc<Identity>,
    clients: Clients,
    /// What is spoken here; of those that a client knows too the first is taken.
    protocols: &'static [&'static [u8]],
}

// === impl ServerTls ===

impl ServerTls {
    /// For gRPC.
    ///
    /// # Errors
    /// [`TlsError::Name`] for a name that no certificate can have.
    pub fn grpc(identity: Arc<Identity>, clients: Clients) -> Result<ServerTls, TlsError> {
        ServerTls::new(identity, clients, &[b"h2"])
    }

    /// For HTTP/1.
    ///
    /// # Errors
    /// [`TlsError::Name`] for a name that no certificate can have.
    pub fn http(identity: Arc<Identity>, clients: Clients) -> Result<ServerTls, TlsError> {
        ServerTls::new(identity, clients, &[b"http/1.1"])
    }

    /// For gRPC, and for HTTP/1 on the same port. Who names no protocol is served by what its first bytes are.
    ///
    /// # Errors
    /// [`TlsError::Name`] for a name that no certificate can have.
    pub fn grpc_and_http(identity: Arc<Identity>, clients: Clients) -> Result<ServerTls, TlsError> {
        ServerTls::new(identity, clients, &[b"h2", b"http/1.1"])
    }

    fn new(
        identity: Arc<Identity>,
        clients: Clients,
        protocols: &'static [&'static [u8]],
    ) -> Result<ServerTls, TlsError> {
        if let Clients::Named(names) = &clients {
            for name in names {
                rustls::pki_types::DnsName::try_from(name.as_str())
                    .map_err(|_| TlsError::Name(name.clone()))?;
            }
        }
        Ok(ServerTls {
            identity,
            clients,
            protocols,
        })
    }

    /// The connections of `listener` that get through the handshake.
    #[must_use]
    pub fn incoming(self, listener: TcpListener) -> Incoming {
        self.incoming_within(listener, HANDSHAKE)
    }

    pub(super) fn incoming_within(self, listener: TcpListener, deadline: Duration) -> Incoming {
        Incoming {
            listener,
            tls: self,
            deadline,
            handshakes: JoinSet::new(),
            pause: None,
            seldom: Seldom::default(),
        }
    }

    /// Made anew for every connection: next to a handshake it costs nothing, and it is always of the files' last state.
    fn config(&self, loaded: &Loaded) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(provider());
        // Parts speak the newest version to each other; guests bring their own libraries.
        let (versions, verifier): (&[_], Arc<dyn ClientCertVerifier>) = match &self.clients {
            Clients::Named(names) => {
                let named = Named {
                    inner: Arc::clone(&loaded.clients),
                    names: names.clone(),
                };
                (&[&rustls::version::TLS13], Arc::new(named))
            }
            Clients::Guests => (rustls::DEFAULT_VERSIONS, Arc::clone(&loaded.guests)),
        };
        let mut config = builder
            .with_protocol_versions(versions)
            .expect("the provider has ciphers for both versions")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&loaded.own) as _);
        config.alpn_protocols = self.protocols.iter().map(|name| name.to_vec()).collect();
        // A resumed session would not be judged again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config
    }
}

/// Lets in clients of the authority with one of some names.
#[derive(Debug)]
struct Named {
    inner: Arc<dyn ClientCertVerifier>,
    names: Vec<String>,
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let has = |accepted: &String| {
            names(end_entity)
                .iter()
                .any(|name| name.eq_ignore_ascii_case(accepted))
        };
        if self.names.iter().any(has) {
            Ok(verified)
        } else {
            // The client reads "access denied".
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The DNS names of a certificate; none if it can't be read.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    webpki::EndEntityCert::try_from(certificate)
        .map(|read| read.valid_dns_names().map(str::to_owned).collect())
        .unwrap_or_default()
}

/// Accepted connections, as a stream that tonic serves.
///
/// Each handshake is a task with a deadline, [`HANDSHAKES`] at most. One that fails is counted by reason and logged; it
/// never ends the stream. Dropping it ends the handshakes under way.
pub struct Incoming {
    listener: TcpListener,
    tls: ServerTls,
    deadline: Duration,
    handshakes: JoinSet<Result<TlsConnection, (SocketAddr, io::Error)>>,
    pause: Option<Pin<Box<Sleep>>>,
    seldom: Seldom,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("tls", &self.tls)
            .field("handshakes", &self.handshakes.len())
            .finish_non_exhaustive()
    }
}

// === impl Incoming ===

impl Incoming {
    /// The next connection. Nothing is lost when this is dropped before it is ready.
    pub async fn accept(&mut self) -> TlsConnection {
        std::future::poll_fn(|context| self.poll_accept(context)).await
    }

    /// As [`accept`](Self::accept), for a stream's poll.
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<TlsConnection> {
        loop {
            // First what is done: an empty set is ready with nothing.
            while let Poll::Ready(Some(ended)) = self.handshakes.poll_join_next(context) {
                if let Some(connection) = self.ended(ended) {
                    return Poll::Ready(connection);
                }
            }
            if self.handshakes.len() >= HANDSHAKES {
                return Poll::Pending;
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((stream, address)) => self.begin(stream, address),
                Err(fault) if crate::http::is_of_the_peer(&fault) => (),
                Err(fault) => {
                    tracing::warn!(%fault, "can't accept TLS connections; trying again");
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, address: SocketAddr) {
        let config = self.tls.config(&self.tls.identity.loaded());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let deadline = self.deadline;
        self.handshakes.spawn(async move {
            // What is written is whole frames: waiting to fill a segment would only delay them.
            let _ = stream.set_nodelay(true);
            let handshake = tokio::time::timeout(deadline, acceptor.accept(stream));
            let done = handshake
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            done.map(|stream| TlsConnection::new(stream, address))
                .map_err(|fault| (address, fault))
        });
    }

    fn ended(
        &self,
        ended: Result<Result<TlsConnection, (SocketAddr, io::Error)>, tokio::task::JoinError>,
    ) -> Option<TlsConnection> {
        let metrics = self.tls.identity.metrics();
        match ended {
            Ok(Ok(connection)) => {
                metrics.succeeded(Side::Server);
                Some(connection)
            }
            Ok(Err((address, fault))) => {
                let reason = Failure::of(&fault);
                metrics.failed(Side::Server, reason);
                if self.seldom.may(Instant::now()) {
                    tracing::info!(%address, reason = reason.label(), %fault, "a client is refused at the TLS handshake");
                }
                None
            }
            Err(fault) => {
                metrics.failed(Side::Server, Failure::Other);
                tracing::error!(%fault, "a TLS handshake's task failed");
                None
            }
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<TlsConnection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_accept(context).map(|connection| Some(Ok(connection)))
    }
}

/// A connection that got through the handshake.
#[derive(Debug)]
pub struct TlsConnection {
    /// More than a kilobyte, which is moved about otherwise.
    stream: Box<TlsStream<TcpStream>>,
    peer: Peer,
    address: SocketAddr,
}

impl TlsConnection {
    fn new(stream: TlsStream<TcpStream>, address: SocketAddr) -> TlsConnection {
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let names = certificate.map(names).unwrap_or_default();
        TlsConnection {
            stream: Box::new(stream),
            peer: Peer { names: names.into() },
            address,
        }
    }

    /// What the client proved.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Where it comes from.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
