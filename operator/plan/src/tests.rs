//! Decisions of the whole, by situation. A small model of the API server and its controllers stands in for a cluster.

mod conditions;
mod golden;
mod ownership;
mod property;
mod restricted;
mod rollout;
mod rotation;
mod scale;
mod upgrade;
mod world;
