//! The client of imaccess: one connection that many businesses share.
//!
//! A [`Client`] asks ipconfig where to connect, logs in, keeps itself connected, and goes on with the same session
//! after a lost connection. Requests outlive connections: each is repeated with the same message id until it is
//! answered or its deadline passes.
//!
//! ```no_run
//! use imaccess_sdk::Client;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let client = Client::builder("http://127.0.0.1:8000", "demo", "alice").group(1, "lobby").connect().await?;
//!
//! let reply = client.request(1, "hello").await?;
//! println!("{}", String::from_utf8_lossy(&reply.payload));
//!
//! client.on_push(|push| async move { println!("{} bytes from business {}", push.payload.len(), push.business) });
//!
//! let mut states = client.states();
//! while let Some(state) = states.next().await {
//!     println!("{state:?}");
//! }
//! # client.close().await;
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! # States
//!
//! Connecting → Authenticating → Online → (Moving) → Suspended → Connecting … → Closed; see [`ConnectionState`].
//! Between attempts the client waits ([`BackoffPolicy`]), never less than the server asked for. It ends by
//! itself only when no later attempt can help: a token that isn't taken, another login of the same device, being kicked.
//!
//! When a gateway asks its clients to go elsewhere, the new connection is made before the old one is left; requests
//! without a reply are then repeated on the new one.
//!
//! # Bounds
//!
//! One task serves a client. Messages in flight and pushes that wait for the application are bounded
//! ([`ClientBuilder::max_in_flight`], [`ClientBuilder::push_queue`]); see [`Client::pushes`] for what a slow application
//! means.
//!
//! # Map
//!
//! `builder` settings → `client` the handle → `task` one per client: decides → `dial` endpoints, connect, log in →
//! `link` socket and session of one connection. `pending`, `backoff` and the order in `endpoints` are pure.

mod backoff;
mod builder;
mod client;
mod dial;
mod endpoints;
mod error;
mod incoming;
mod link;
mod message;
mod pending;
mod pushes;
mod state;
mod task;

pub use backoff::BackoffPolicy;
pub use builder::ClientBuilder;
pub use client::Client;
pub use endpoints::Endpoint;
pub use error::{ConnectError, RequestError};
pub use imaccess_wire::Code;
pub use imaccess_wire::frame::NetworkType;
pub use message::{DEFAULT_DEADLINE, Push, Reply, RequestOptions, Target};
pub use pushes::Pushes;
pub use state::{ConnectionState, SessionId, States};
