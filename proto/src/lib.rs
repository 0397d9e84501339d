//! Generated types of everything that goes between the parts: the link (gateway ⇄ state sidecar), routes
//! (sidecar ⇄ routing), the push API and the business interface.
//!
//! The `.proto` files in this directory are the specification; their comments are the documentation. The
//! client protocol is not here: it is `PROTOCOL.md` and `imaccess-wire`.

/// Version 1 of all of it.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    unused_qualifications
)]
pub mod v1 {
    tonic::include_proto!("imaccess.v1");
}

/// HTTP/2 flow control of the long streams between parts, for the receiving side.
pub mod http2 {
    /// Window of one stream: a receiver that pauses for 10 ms at 100,000 messages of 300 bytes a second has 300 KB to
    /// catch up with; a whole batch fits as well.
    pub const STREAM_WINDOW: u32 = 4 << 20;

    /// Window of a connection that carries one stream. It bounds nothing by itself; but h2 ends a connection with
    /// `too_many_data_frames` when unread frames below 256 bytes use up half of it, each counting 256 less its
    /// length. At 64 stream windows the stream's own window always stops the sender first.
    pub const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;
}
