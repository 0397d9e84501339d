//! Connections that gRPC servers take: plain, or secure with what the client proved.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt, future::Either};
use imaccess_common::tls::{Peer, ServerTls, TlsConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::{Connected, TcpIncoming};

/// The connections of `listener`: those that get through the handshake of `tls`, or all.
pub(crate) fn accepted(
    listener: TcpListener,
    tls: Option<ServerTls>,
) -> impl Stream<Item = io::Result<Accepted>> {
    match tls {
        Some(tls) => Either::Left(tls.incoming(listener).map(|next| next.map(Accepted::Secure))),
        None => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Either::Right(incoming.map(|next| next.map(Accepted::Plain)))
        }
    }
}

/// One of them. A request's extensions have its [`Peer`], which has no names if nothing was proved.
#[derive(Debug)]
pub(crate) enum Accepted {
    Plain(TcpStream),
    Secure(TlsConnection),
}

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match self {
            Accepted::Plain(_) => Peer::default(),
            Accepted::Secure(connection) => connection.peer().clone(),
        }
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Accepted::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Accepted::Secure(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Accepted::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Accepted::Secure(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Accepted::Plain(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Accepted::Secure(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Accepted::Plain(stream) => stream.is_write_vectored(),
            Accepted::Secure(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Accepted::Plain(stream) => Pin::new(stream).poll_flush(context),
            Accepted::Secure(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Accepted::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Accepted::Secure(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
