//! The planned replacement of a gateway's process: who may ask for it ([`lease`], [`page`]), and what is left for the
//! process that comes after ([`file`]). What a shard does at it is in `shard/handover.rs`.

pub(crate) mod file;
pub(crate) mod lease;
pub(crate) mod page;
