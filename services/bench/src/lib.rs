//! x
mod bare;
mod child;
mod job;
mod latency;
mod schedule;
mod statistics;
mod worker;
