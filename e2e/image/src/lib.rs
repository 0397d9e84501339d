//! Container images as OCI archives, written without a daemon and without a registry.
//!
//! An archive is a tar of an OCI image layout (`oci-layout`, `index.json`, `blobs/sha256/…`) whose index names the
//! image, with a `manifest.json` beside it, so that `ctr images import`, `docker load` and `kind load image-archive`
//! all take it.
//!
//! - [`Layer`]: files, directories and links, in path order, owned by root, from the epoch.
//! - [`Image`]: layers and how the program is started; [`Image::write`] makes the archive.
//! - [`program`]: what a dynamically linked program needs beside itself.
//!
//! Invariant: the same input gives the same bytes. No clock is read, every directory is sorted, the compressor and
//! its level are fixed.

mod archive;
mod layer;
pub mod program;

pub use archive::{Image, Written};
pub use layer::Layer;
