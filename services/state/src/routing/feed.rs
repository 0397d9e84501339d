//! One task per instance: dials its sidecar, hears its routes, and keeps the book of its life.
//!
//! The task is the only one that writes what its instance says, so a stream, its snapshot's end and the dropping of
//! a dead instance's routes never overlap. It ends when the instance has left the membership and nothing of it is
//! left.

use std::sync::Arc;
use std::time::Duration;

use imaccess_common::identity::{Epoch, SessionId};
use imaccess_common::tls::Connector;
use imaccess_proto::v1::route_feed_client::RouteFeedClient;
use imaccess_proto::v1::{
    FromSidecar, MovedGroups, Outranked, RouteAnnouncement, SessionAction, SessionCommand, SidecarHello,
};
use tokio::sync::watch;
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::hub::{Hub, Peer};
use super::lost;
use super::store::{Announcement, Presence, Retraction, RouteStore, StoreUnavailable};
use super::table::{LostRoute, Route, Verdict};

/// Flow-control windows: at 4 MiB and 0.5 ms within a cluster they allow 8 GB/s, and never stall a snapshot.
pub(crate) const WINDOW: u32 = 4 << 20;
/// Window of a feed's whole connection. Its one stream is bounded by [`WINDOW`]; this is larger for another reason:
/// the HTTP/2 library grants small DATA frames that nobody has read yet an overhead of half this window (256 bytes less
/// their length, each) and *closes the connection* beyond. With 64 stream windows the stream's own window always
/// ends first, so that a reader who lags stops the sender instead of losing the stream.
pub(crate) const FEED_CONNECTION_WINDOW: u32 = 64 * WINDOW;
/// Longest message taken: snapshots come in chunks far below it.
const MESSAGE_LIMIT: usize = 16 << 20;
/// First pause after a failed attempt.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
/// For an attempt to connect, and for the sidecar's hello after it.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a dead instance's window is looked at.
const DEAD_TICK: Duration = Duration::from_millis(500);

/// Times of a feed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FeedTimes {
    /// Silence after which a stream is broken.
    pub(crate) suspect_after: Duration,
    /// Longest pause between attempts.
    pub(crate) reconnect_max: Duration,
    /// A dead instance is looked at this often.
    pub(crate) dead_tick: Duration,
}

impl FeedTimes {
    pub(crate) fn new(
        suspect_after: Duration,
        reconnect_max: Duration,
        resume_window: Duration,
    ) -> FeedTimes {
        let dead_tick = (resume_window / 10).clamp(Duration::from_millis(1), DEAD_TICK);
        FeedTimes {
            suspect_after,
            reconnect_max,
            dead_tick,
        }
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the sidecar can't be reached: {}", innermost(.0))]
    Dial(#[source] tonic::transport::Error),
    #[error("the sidecar did not answer in time")]
    Silent,
    #[error("the sidecar ended the stream: {}", said(.0))]
    Stream(#[from] tonic::Status),
    #[error("the sidecar closed the stream")]
    Closed,
    #[error("the sidecar is not whom the membership names: {reason}")]
    Refused { reason: &'static str },
    #[error("what it said couldn't be taken in time; the next snapshot brings it up again")]
    Cut,
    #[error(transparent)]
    Store(#[from] StoreUnavailable),
}

/// The error that says what happened: the library's own around it don't. Here it may be a TLS alert, by which a sidecar
/// says that it doesn't accept this replica's certificate.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

/// What a status says, and what caused it if that was here and not at the sidecar.
fn said(status: &tonic::Status) -> String {
    let cause = std::error::Error::source(status).map(innermost);
    format!(
        "{}: {}",
        status.code(),
        cause.unwrap_or_else(|| status.message().to_owned())
    )
}

/// Follows one instance until it is gone and forgotten. `routes` is its address, `None` once it left the membership.
pub(crate) async fn follow<S: RouteStore>(
    hub: Arc<Hub<S>>,
    peer: Arc<Peer>,
    mut routes: watch::Receiver<Option<String>>,
    times: FeedTimes,
) {
    let mut backoff = BACKOFF_FIRST;
    let mut last_fault = String::new();
    // Its routes are to be dropped; a store that is away is asked again.
    let mut owed = false;
    let mut lost = Vec::new();
    loop {
        let address = routes.borrow_and_update().clone();
        let Some(address) = address else {
            hub.gone(&peer);
            forget_if_due(&hub, &peer, &mut owed, &mut lost).await;
            if peer.is_forgotten() && !owed {
                break;
            }
            tokio::select! {
                // The sender is gone with the whole replica; then this task is being dropped too.
                changed = routes.changed() => if changed.is_err() { break } else if routes.borrow().is_some() { hub.returned(&peer) },
                () = tokio::time::sleep(times.dead_tick) => (),
            }
            continue;
        };
        let mut heard = false;
        let ended = tokio::select! {
            biased;
            changed = routes.changed() => if changed.is_err() { break } else { None },
            ended = listen(&hub, &peer, &address, times, &mut heard) => Some(ended),
        };
        let left = routes.borrow().is_none();
        if left {
            // Before the break: what was in sync until now hides nothing.
            hub.gone(&peer);
        }
        hub.broken(&peer);
        if heard {
            hub.metrics.broken.inc();
            backoff = BACKOFF_FIRST;
        }
        let Some(ended) = ended else { continue };
        report(&peer, &address, &ended, &mut last_fault);
        forget_if_due(&hub, &peer, &mut owed, &mut lost).await;
        let pause = backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
        backoff = (backoff * 2).min(times.reconnect_max);
        tokio::select! {
            changed = routes.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(pause) => (),
        }
    }
    hub.part(&peer);
}

/// Drops the routes of an instance whose time is over, and has businesses told.
async fn forget_if_due<S: RouteStore>(
    hub: &Arc<Hub<S>>,
    peer: &Arc<Peer>,
    owed: &mut bool,
    lost: &mut Vec<LostRoute>,
) {
    *owed |= hub.tick(peer);
    if *owed {
        match hub.store.forget(peer.index, lost).await {
            Ok(()) => {
                *owed = false;
                // Beside: the instance may come back, and is heard then.
                let (hub, of, lost) = (Arc::clone(hub), Arc::clone(peer), std::mem::take(lost));
                tokio::spawn(async move { lost::tell(&hub, &of, &lost).await });
            }
            Err(fault) => {
                tracing::warn!(instance = %peer.instance, %fault, "a dead instance's routes can't be dropped now");
            }
        }
    }
}

/// A fault is logged when it is another than the last one; a sidecar that is away fails twice a second.
fn report(peer: &Peer, address: &str, ended: &Ended, last: &mut String) {
    let text = ended.to_string();
    if text != *last {
        tracing::warn!(instance = %peer.instance, name = peer.name, address, fault = text, "no routes from this instance now");
        *last = text;
    }
}

/// One stream, from dialling to its end.
async fn listen<S: RouteStore>(
    hub: &Hub<S>,
    peer: &Peer,
    address: &str,
    times: FeedTimes,
    heard: &mut bool,
) -> Ended {
    let standstills = hub.standstills();
    let opened = tokio::time::timeout(DIAL_TIMEOUT, open(hub, peer, address, times)).await;
    let (mut stream, hello) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(ended)) => return ended,
        Err(_) => return Ended::Silent,
    };
    if let Err(ended) = check(hub, peer, &hello) {
        return ended;
    }
    if let Err(fault) = hub.store.begin(peer.index, hello.instance_key).await {
        return fault.into();
    }
    hub.connected(peer);
    // After the phase is set: a standstill that ends later cuts the stream.
    if hub.standstills() != standstills {
        return Ended::Cut;
    }
    *heard = true;
    let mut scratch = Scratch::default();
    loop {
        let message = tokio::select! {
            biased;
            () = peer.cut.notified() => return Ended::Cut,
            message = stream.message() => message,
        };
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Ended::Closed,
            Err(status) => return status.into(),
        };
        if let Err(ended) = hear(hub, peer, message, &mut scratch).await {
            return ended;
        }
        if tokio::time::timeout(times.suspect_after, uncrowded(peer))
            .await
            .is_err()
        {
            return Ended::Cut;
        }
    }
}

/// Waits until the sidecar has read enough of what its announcements were answered: one that doesn't read isn't heard.
async fn uncrowded(peer: &Peer) {
    while peer.outbox.is_crowded() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn open<S: RouteStore>(
    hub: &Hub<S>,
    peer: &Peer,
    address: &str,
    times: FeedTimes,
) -> Result<(Streaming<FromSidecar>, SidecarHello), Ended> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(Ended::Dial)?
        .connect_timeout(DIAL_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(FEED_CONNECTION_WINDOW)
        .http2_keep_alive_interval(times.suspect_after / 2)
        .keep_alive_timeout(times.suspect_after / 2)
        .keep_alive_while_idle(true);
    let channel = match &hub.sidecars {
        Some(tls) => endpoint.connect_with_connector(Connector(tls.clone())).await,
        None => endpoint.connect().await,
    };
    let channel = channel.map_err(Ended::Dial)?;
    let mut client = RouteFeedClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
    let mut stream = client.follow(peer.outbox.open(hub.hello())).await?.into_inner();
    let first = stream.message().await?.ok_or(Ended::Closed)?;
    let hello = first.hello.ok_or(Ended::Refused { reason: "hello" })?;
    Ok((stream, hello))
}

/// The sidecar must be of this cluster, and the instance that the membership names.
fn check<S: RouteStore>(hub: &Hub<S>, peer: &Peer, hello: &SidecarHello) -> Result<(), Ended> {
    let reason = if hello.cluster != hub.cluster {
        "cluster"
    } else if hello.instance != peer.instance.as_str() || hello.instance_key != peer.instance.key() {
        "instance"
    } else {
        return Ok(());
    };
    hub.metrics.refused.with_label_values(&[reason]).inc();
    Err(Ended::Refused { reason })
}

/// Kept over the messages of a stream, also so that a delta costs no allocation here.
#[derive(Default)]
struct Scratch {
    verdicts: Vec<Verdict>,
    /// The sidecar leaves: a snapshot that ends now says nothing of what comes after it.
    leaving: bool,
}

/// Applies one message, its fields in the order of their numbers.
async fn hear<S: RouteStore>(
    hub: &Hub<S>,
    peer: &Peer,
    message: FromSidecar,
    scratch: &mut Scratch,
) -> Result<(), Ended> {
    if !message.announcements.is_empty() {
        announce(hub, peer, &message.announcements, &mut scratch.verdicts).await?;
    }
    if !message.retractions.is_empty() {
        let batch: Vec<Retraction<'_>> = message
            .retractions
            .iter()
            .map(|old| Retraction {
                app: &old.app,
                device: &old.device,
                epoch: Epoch(old.epoch),
            })
            .collect();
        hub.store.retract(peer.index, &batch).await?;
        hub.metrics.retractions.inc_by(batch.len() as u64);
    }
    if !message.groups.is_empty() {
        let batch: Vec<Presence<'_>> = message
            .groups
            .iter()
            .map(|group| Presence {
                business: group.business,
                group: &group.group,
                present: group.present,
            })
            .collect();
        hub.store.enter_groups(peer.index, &batch).await?;
    }
    if message.leaving {
        scratch.leaving = true;
        hub.leaving(peer);
    }
    if message.snapshot_done && !scratch.leaving {
        hub.store.settle(peer.index).await?;
        hub.metrics.snapshots.inc();
        hub.synced(peer);
    }
    if message.sequence > 0 {
        peer.outbox.acknowledge(message.sequence);
    }
    if let Some(receipts) = message.receipts {
        let counted = hub.calls.receipts(&receipts.id, &receipts.outcome);
        hub.metrics
            .late_receipts
            .inc_by((receipts.id.len() - counted) as u64);
    }
    for moved in message.moved_groups {
        send_after(hub, moved).await?;
    }
    for answer in message.answers {
        hub.gathers.answer(peer.index, answer);
    }
    Ok(())
}

/// Groups that follow a session to the instance where it goes on. Every replica that hears of it does so: to join twice is to join.
async fn send_after<S: RouteStore>(hub: &Hub<S>, moved: MovedGroups) -> Result<(), Ended> {
    let mut routes = Vec::with_capacity(1);
    hub.store
        .routes(&moved.app, std::slice::from_ref(&moved.device), &mut routes)
        .await?;
    let Some(route) = routes.pop().flatten() else {
        return Ok(());
    };
    if moved.session[..] != route.session.as_bytes()[..] {
        return Ok(());
    }
    let mut commands = moved
        .groups
        .into_iter()
        .map(|group| SessionCommand {
            id: 0,
            locator: route.locator,
            serial: route.serial,
            epoch: route.epoch.0,
            action: SessionAction::Join.into(),
            business: group.business,
            group: group.group,
            reason: String::new(),
        })
        .collect();
    let peers = hub.peers();
    let to = peers.get(route.instance.0 as usize).and_then(Option::as_ref);
    if to.is_none_or(|to| to.outbox.command(&mut commands).is_err()) {
        // Its business joins the device again when it hears that it is online there.
        hub.metrics.groups_lost.inc_by(commands.len() as u64);
    }
    Ok(())
}

/// Writes announcements and tells both sides of every conflict: the announcer that lost, or the instance whose route
/// was replaced.
async fn announce<S: RouteStore>(
    hub: &Hub<S>,
    peer: &Peer,
    announcements: &[RouteAnnouncement],
    verdicts: &mut Vec<Verdict>,
) -> Result<(), Ended> {
    let batch: Vec<Announcement<'_>> = announcements
        .iter()
        .filter_map(|new| {
            let session = SessionId::from_slice(&new.session)?;
            let (serial, epoch, locator) = (new.serial, Epoch(new.epoch), new.locator);
            let route = Route {
                session,
                serial,
                epoch,
                locator,
                instance: peer.index,
            };
            Some(Announcement {
                app: &new.app,
                device: &new.device,
                route,
            })
        })
        .collect();
    hub.metrics.announcements.inc_by(batch.len() as u64);
    hub.metrics
        .malformed
        .inc_by((announcements.len() - batch.len()) as u64);
    verdicts.clear();
    hub.store.announce(&batch, verdicts).await?;
    let peers = hub.peers();
    for (new, verdict) in batch.iter().zip(verdicts.iter()) {
        match *verdict {
            Verdict::Applied => (),
            Verdict::Outranked { winner } => {
                hub.metrics.outranked.inc();
                peer.outbox.answer(notice(new, &new.route, &winner));
            }
            Verdict::Replaced { loser } => {
                hub.metrics.replaced.inc();
                let of = peers.get(loser.instance.0 as usize).and_then(Option::as_ref);
                if let Some(of) = of
                    && !of.outbox.notify(notice(new, &loser, &new.route))
                {
                    of.cut.notify_one();
                }
            }
        }
    }
    Ok(())
}

fn notice(of: &Announcement<'_>, loser: &Route, winner: &Route) -> Outranked {
    Outranked {
        app: of.app.to_owned(),
        device: of.device.to_owned(),
        session: loser.session.as_bytes().to_vec().into(),
        epoch: loser.epoch.0,
        locator: loser.locator,
        winner_epoch: winner.epoch.0,
        winner_session: winner.session.as_bytes().to_vec().into(),
    }
}
