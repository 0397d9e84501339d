//! What the sharded gateway and the load generator stand on: descriptors, readiness, slots and time.
//!
//! - [`epoll`]: one edge-triggered set per shard.
//! - [`socket`]: sockets with one owner, whose close is a verdict; listeners that share a port.
//! - [`slab`]: slots with generations, addressed by a [`handle::Handle`].
//! - [`wheel`]: one coarse timer wheel per shard, twelve bytes a slot.
//!
//! Invariant: a connection lives and dies in its shard; nothing here is shared between threads.

pub mod epoll;
pub mod handle;
pub mod slab;
pub mod socket;
pub mod wheel;
