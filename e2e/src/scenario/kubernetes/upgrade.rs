//! Gateways and sidecars on Kubernetes that are replaced or killed in their pods, under a witness's load.
//!
//! - `live`: the cluster, the load and who leaves. `judge`: what must hold of it. `change`: one change, from the edit until all is done.
//! - `calm`, `in_place`, `order`, `refused`, `operator_killed`, `killed`, `ten`: a scenario each.

mod calm;
mod change;
mod in_place;
mod judge;
mod killed;
mod live;
mod operator_killed;
mod order;
mod refused;
mod ten;

pub(super) use calm::run as calm;
pub(super) use in_place::run as in_place;
pub(super) use killed::run as containers_killed;
pub(super) use operator_killed::run as operator_killed;
pub(super) use order::run as order;
pub(super) use refused::run as refused;
pub(super) use ten::run as ten;
