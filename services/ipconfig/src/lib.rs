//! The control layer: tells clients which gateways to connect to.
//!
//! Updates and queries never wait for each other. In the background, once a second: [`targets`] says which gateways
//! exist, [`scrape`] reads their metrics pages or [`promapi`] asks a Prometheus server that does, [`picture`] keeps five seconds of each in a [`window`] and decides
//! who is listed, [`rank`] orders them, [`answer`] writes every response body there will be until the next round.
//! A query ([`http`]) is one look-up and one copy.
//!
//! Any number of replicas run side by side, each complete by itself.

mod answer;
mod app;
mod businesses;
mod config;
mod http;
mod metrics;
mod observer;
mod picture;
mod promapi;
mod rank;
mod reading;
mod scores;
mod scrape;
mod source;
mod targets;
mod window;

pub use app::{BindError, Ipconfig};
pub use config::{BusinessName, IpconfigConfig, PodListener, PodsConfig, PrometheusConfig};
pub use targets::{EndpointTarget, GatewayTarget, TargetFile};
