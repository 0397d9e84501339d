//! The control address: pages by which a gateway is told what to do, for clients with the right certificate alone.
//!
//! Without it they are on the admin address, which whoever reaches it may ask: right on a loopback, wrong in a pod.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use imaccess_common::http::{Limits, serve_router};
use imaccess_common::tls::{Clients, Identity, ServerTls, TlsConfig, TlsMetrics};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::app::BindError;
use crate::config::GatewayConfig;

/// An operator and its successor, each with a few requests; more wait.
const LIMITS: Limits = Limits {
    connections: 16,
    header_timeout: Duration::from_secs(30),
    max_age: Duration::from_secs(60),
    close_timeout: Duration::from_secs(2),
    buffer_bytes: 16 * 1_024,
};

/// A bound control address.
#[derive(Debug)]
pub(crate) struct Control {
    listener: TcpListener,
    address: SocketAddr,
    identity: Arc<Identity>,
    tls: ServerTls,
}

impl Control {
    /// Reads the certificate and takes the address, if there is one.
    pub(crate) async fn bind(
        config: &GatewayConfig,
        registry: &Registry,
    ) -> Result<Option<Control>, BindError> {
        // The configuration is valid: with the address comes the certificate.
        let (Some(wanted), Some(tls)) = (config.control_listen, &config.tls) else {
            return Ok(None);
        };
        let control = Control::secure(wanted, tls, &config.control_clients, registry).await?;
        Ok(Some(control))
    }

    async fn secure(
        wanted: SocketAddr,
        tls: &TlsConfig,
        clients: &[String],
        registry: &Registry,
    ) -> Result<Control, BindError> {
        let identity = Identity::load(tls.clone(), TlsMetrics::register(registry))?;
        let tls = ServerTls::http(Arc::clone(&identity), Clients::Named(clients.to_vec()))?;
        let fault = |source| BindError::Listen {
            address: wanted,
            source,
        };
        let listener = TcpListener::bind(wanted).await.map_err(fault)?;
        let address = listener.local_addr().map_err(fault)?;
        Ok(Control {
            listener,
            address,
            identity,
            tls,
        })
    }

    /// The address in use.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves `pages` until `stop`, and keeps the certificate fresh.
    pub(crate) async fn serve(self, pages: Router, stop: CancellationToken) {
        let watching = self.identity.watch(stop.clone());
        let serving = serve_router(self.tls.incoming(self.listener), pages, LIMITS, stop);
        tokio::join!(watching, serving);
    }
}
