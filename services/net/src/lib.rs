//! What the sharded gateway and the load generator stand on: descriptors, readiness, slots and time.
//!
//! - [`epoll`]: one edge-triggered set per shard.
//! - [`socket`]: sockets with one owner, whose close is a verdict; listeners that share a port.
//! - [`descriptors`]: descriptors that go to another process, and come back.
//! - [`kernel_counts`], [`cursors`]: what the kernel and what a gateway has counted on a connection. When a killed gateway's
//!   successor finds both alike, the stream is at a known place.
//! - [`slab`]: slots with generations, addressed by a [`handle::Handle`].
//! - [`wheel`]: one coarse timer wheel per shard, twelve bytes a slot.
//!
//! Invariant: a connection lives and dies in its shard; nothing here is shared between threads.

pub mod cursors;
pub mod descriptors;
pub mod epoll;
pub mod handle;
pub mod kernel_counts;
pub mod slab;
pub mod socket;
pub mod wheel;
