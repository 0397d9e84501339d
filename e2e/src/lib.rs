//! End-to-end harness and scenarios: imaccess is started as its users start it, and looked at from outside.
//!
//! - [`cluster`]: a running `imaccess up`, its parts' processes, its logs.
//! - [`kubectl`]: a Kubernetes cluster, by `kubectl`; its tests are `tests/k8s_*.rs`, run by `cargo xtask e2e`.
//! - [`command`]: the other verbs, run to their end.
//! - [`raw_client`]: a client that speaks the protocol over a plain socket, well or badly.
//! - [`tokens`]: development tokens, and many clients at once.
//! - [`business`]: business servers that misbehave.
//! - [`page`]: metrics pages.
//! - [`replace`]: parts replaced while the cluster runs, and what holds then.
//! - [`witness`]: thousands of clients that notice everything. [`events`]: what a business was told of them.
//! - [`fleet`]: devices that use the SDK and write down what happens to them. [`mesh`]: callers with and without certificates.
//! - [`kubernetes`]: the same on Kubernetes: charts, custom resources, the audit log.
//! - [`wait`]: waiting for a state, never for a time.
//! - [`report`]: what a scenario measured, and the limits it is held to.
//! - [`scenario`]: one module per promised behaviour. The tests in `tests/` run them small; `cargo xtask accept`
//!   runs them at full size.
//!
//! Invariants: every cluster has ports, directory and processes of its own; only those processes are ever
//! ended; a small run has no limit on speed, so that a busy machine can't fail it.

pub mod bench;
pub mod business;
pub mod cluster;
pub mod command;
pub mod events;
pub mod fleet;
pub mod kubectl;
pub mod kubernetes;
pub mod latency;
pub mod logs;
pub mod mesh;
pub mod page;
pub mod python;
pub mod raw_client;
pub mod replace;
pub mod report;
pub mod scenario;
pub mod tokens;
pub mod wait;
pub mod witness;

pub use cluster::{Cluster, Options};
pub use page::Page;
pub use raw_client::RawClient;
pub use report::{Report, Size};
pub use tokens::Tokens;
pub use wait::wait_until;
