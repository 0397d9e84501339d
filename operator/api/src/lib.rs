//! `ImAccessCluster`, the custom resource: its types, their schema and validation, and the names that follow from it.
//!
//! Everything that a user may write is in [`cluster`], [`gateway`], [`state`], [`ipconfig`], [`business`] and [`options`];
//! what the operator answers is in [`status`]. [`crd`] makes the CustomResourceDefinition of them, [`reference`] the page
//! for people. What isn't built yet isn't here: a field that nothing obeys would be a lie.

#![expect(
    unreachable_pub,
    reason = "KubeSchema's derive repeats each type, as it stands, inside a function"
)]

pub mod business;
pub mod cluster;
pub mod condition;
pub mod crd;
pub mod gateway;
pub mod in_place;
pub mod ipconfig;
pub mod names;
pub mod options;
pub mod quantity;
pub mod reference;
pub mod state;
pub mod status;

pub use cluster::{ImAccessCluster, ImAccessClusterSpec};
pub use status::ImAccessClusterStatus;
