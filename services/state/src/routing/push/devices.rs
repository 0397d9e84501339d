//! What is for single devices: pushes, and commands for their sessions. One look-up batch, one record for the receipts and one batch per
//! instance, however many devices there are.

use std::collections::VecDeque;

use imaccess_proto::v1::{Outcome, PushDevicesRequest, SessionCommand, UnicastPush};

use super::{expires_ms, peer};
use crate::routing::calls::{Answer, Waiting};
use crate::routing::hub::Hub;
use crate::routing::outbox::{NotTaken, Outbox};
use crate::routing::store::RouteStore;
use crate::routing::table::Route;

/// Something that each device's instance is sent.
pub(super) trait ForDevices {
    /// As it is sent.
    type Item;

    /// What is sent for the device with this route; `id` names it in its receipt.
    fn item(&self, id: u64, route: &Route) -> Self::Item;
    /// The receipt's name of what was made.
    fn id(item: &Self::Item) -> u64;
    /// Puts items into an instance's queue, as far as it has room.
    fn put(outbox: &Outbox, items: &mut VecDeque<Self::Item>) -> Result<(), NotTaken>;
}

/// A push.
pub(super) struct Pushed<'a> {
    request: &'a PushDevicesRequest,
    expires_ms: u64,
}

impl<'a> Pushed<'a> {
    pub(super) fn new(request: &'a PushDevicesRequest) -> Pushed<'a> {
        Pushed {
            request,
            expires_ms: expires_ms(request.ttl_ms),
        }
    }
}

impl ForDevices for Pushed<'_> {
    type Item = UnicastPush;

    fn item(&self, id: u64, route: &Route) -> UnicastPush {
        UnicastPush {
            id,
            locator: route.locator,
            serial: route.serial,
            epoch: route.epoch.0,
            business: self.request.business,
            payload: self.request.payload.clone(),
            class: self.request.class,
            priority: self.request.priority,
            expires_ms: self.expires_ms,
            message_id: self.request.message_id.clone(),
        }
    }

    fn id(item: &UnicastPush) -> u64 {
        item.id
    }

    fn put(outbox: &Outbox, items: &mut VecDeque<UnicastPush>) -> Result<(), NotTaken> {
        outbox.push_devices(items)
    }
}

/// A command; route and name are filled in for each device.
impl ForDevices for SessionCommand {
    type Item = SessionCommand;

    fn item(&self, id: u64, route: &Route) -> SessionCommand {
        SessionCommand {
            id,
            locator: route.locator,
            serial: route.serial,
            epoch: route.epoch.0,
            ..self.clone()
        }
    }

    fn id(item: &SessionCommand) -> u64 {
        item.id
    }

    fn put(outbox: &Outbox, items: &mut VecDeque<SessionCommand>) -> Result<(), NotTaken> {
        outbox.command(items)
    }
}

/// Sends something to each device's instance and waits for the receipts.
pub(super) async fn reach<S: RouteStore, W: ForDevices>(
    hub: &Hub<S>,
    app: &str,
    devices: &[String],
    what: &W,
) -> Vec<Outcome> {
    // Before the look and after it: who wasn't there while an instance was still being heard isn't offline because it has been heard since.
    let known_before = hub.offline_known();
    let mut routes = Vec::with_capacity(devices.len());
    if let Err(fault) = hub.store.routes(app, devices, &mut routes).await {
        tracing::warn!(%fault, "pushes answer retry");
        return vec![Outcome::Retry; devices.len()];
    }
    let answers = sort(hub, &routes, known_before && hub.offline_known());
    let targets: Vec<usize> = (0..answers.len())
        .filter(|&device| matches!(answers[device], Answer::Awaited(_)))
        .collect();
    let refused = || answers.iter().map(|answer| given(*answer)).collect();
    if targets.is_empty() {
        return refused();
    }
    let Some(mut waiting) = hub.calls.begin(answers.clone()) else {
        return refused();
    };
    send(hub, what, &routes, &targets, &waiting);
    // What hasn't come by then is unknown, and `finish` says so.
    let _ = tokio::time::timeout(hub.receipt_timeout, waiting.complete()).await;
    let mut outcomes = waiting.finish();
    doubt_offline(hub, app, devices, &targets, &mut outcomes).await;
    outcomes
}

/// What is known of each device before anything is sent.
fn sort<S: RouteStore>(hub: &Hub<S>, routes: &[Option<Route>], offline_known: bool) -> Vec<Answer> {
    let without_route = if offline_known {
        Outcome::Offline
    } else {
        Outcome::Retry
    };
    let peers = hub.peers();
    let decide = |route: &Option<Route>| match route {
        None => Answer::Given(without_route),
        Some(route) => match peer(&peers, route.instance) {
            Some(peer) if peer.is_in_sync() => Answer::Awaited(route.instance),
            _ => Answer::Given(Outcome::Retry),
        },
    };
    routes.iter().map(decide).collect()
}

/// Hands each instance what is for its devices in one batch.
fn send<S: RouteStore, W: ForDevices>(
    hub: &Hub<S>,
    what: &W,
    routes: &[Option<Route>],
    targets: &[usize],
    waiting: &Waiting<'_>,
) {
    let peers = hub.peers();
    let mut batches: Vec<VecDeque<W::Item>> = peers.iter().map(|_| VecDeque::new()).collect();
    for &device in targets {
        let Some(route) = routes[device] else { continue };
        // An index beyond the list is of an instance that joined and got the route since: its answer is awaited in
        // vain, as if it had just broken.
        let Some(batch) = batches.get_mut(route.instance.0 as usize) else {
            continue;
        };
        batch.push_back(what.item(waiting.id(device), &route));
    }
    for (peer, batch) in peers
        .iter()
        .zip(&mut batches)
        .filter(|(_, batch)| !batch.is_empty())
    {
        let taken = peer
            .as_ref()
            .map_or(Err(NotTaken::Closed), |peer| W::put(&peer.outbox, batch));
        if taken.is_err() {
            waiting.give(batch.iter().map(W::id), Outcome::Retry);
        }
    }
}

/// An instance that knows the session no more says "offline" of itself only; the device may be logging in elsewhere.
/// It is offline if its route has gone as well and no other instance could have it.
async fn doubt_offline<S: RouteStore>(
    hub: &Hub<S>,
    app: &str,
    devices: &[String],
    targets: &[usize],
    outcomes: &mut [Outcome],
) {
    let doubtful: Vec<usize> = targets
        .iter()
        .copied()
        .filter(|&device| outcomes[device] == Outcome::Offline)
        .collect();
    if doubtful.is_empty() {
        return;
    }
    let names: Vec<String> = doubtful.iter().map(|&device| devices[device].clone()).collect();
    let known_before = hub.offline_known();
    let mut routes = Vec::with_capacity(names.len());
    let found = hub.store.routes(app, &names, &mut routes).await.is_ok();
    let known = known_before && found && hub.offline_known();
    for (position, &device) in doubtful.iter().enumerate() {
        if !known || routes[position].is_some() {
            outcomes[device] = Outcome::Retry;
        }
    }
}

/// What is said of a device that isn't waited for.
fn given(answer: Answer) -> Outcome {
    match answer {
        Answer::Given(outcome) => outcome,
        Answer::Awaited(_) => Outcome::Retry,
    }
}
