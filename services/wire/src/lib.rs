//! The client protocol of imaccess, free of sockets, clocks and tasks.
//!
//! Bytes go in and frames come out; frames go in and bytes come out. The gateway, the SDK, the load generator
//! and the fuzzers share this crate, so a byte means the same to all of them. `proto/PROTOCOL.md` is the
//! specification, `proto/vectors/` its golden bytes.
//!
//! - [`header`]: the eight bytes in front of every frame, and where one frame ends and the next begins.
//! - [`frame`]: the bodies, borrowed from the buffer that they were read from.
//! - [`code`]: why something was refused, answered or closed.
//! - [`field`]: varints, lengths and skippable tagged fields.
//! - [`limits`]: how long anything may be, and how long anyone waits.
//! - [`buffer`]: whole frames from bytes that arrive in pieces.
//! - [`client`]: the client's side of a session, which the SDK and the load generator drive.
//!
//! Invariant: nothing here awaits, reads a clock, or allocates for an idle connection. Decoding allocates
//! nothing; encoding appends to the caller's buffer.

pub mod buffer;
pub mod client;
pub mod code;
pub mod field;
pub mod frame;
pub mod header;
pub mod limits;

pub use buffer::FrameBuffer;
pub use client::{ClientEvent, ClientSession, LoginParameters};
pub use code::Code;
pub use frame::Frame;
pub use header::{FrameType, HEADER_LEN, Header, ProtocolError};
pub use limits::Limits;
