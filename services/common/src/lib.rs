//! What every part of imaccess shares, named by noun: identity and tickets, configuration, telemetry,
//! the admin pages, time and the drain.
//!
//! Nothing here knows what a gateway or a session is. Everything that decides takes time as an argument; only
//! [`clock`] reads a clock.

pub mod admin;
pub mod business;
pub mod clock;
pub mod compat;
pub mod config;
pub mod drain;
pub mod gateway_page;
pub mod generation;
pub mod handover;
pub mod http;
pub mod identity;
pub mod metrics;
pub mod process;
pub mod stamp;
pub mod telemetry;
pub mod ticket;
pub mod tls;
pub mod token;
