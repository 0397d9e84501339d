//! Generated types of everything that goes between the parts: the link (gateway ⇄ state sidecar), routes
//! (sidecar ⇄ routing), the push API and the business interface.
//!
//! The `.proto` files in this directory are the specification; their comments are the documentation. The
//! client protocol is not here: it is `PROTOCOL.md` and `imaccess-wire`.

/// Version 1 of all of it.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("imaccess.v1");
}

/// Generation of the gateway ⇄ state link that this build speaks.
pub const LINK_GENERATION: u32 = 1;
