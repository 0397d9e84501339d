//! Where the instance as a whole speaks: the workers on one side, the routing replicas that follow on the other.
//!
//! The hub keeps nothing per session. It numbers what every follower hears, remembers which of those numbers stands
//! for which worker's delta, and tells the workers what all followers in sync have acknowledged. It relays every
//! announcement to the other workers, counts the workers that have a group, and hands pushes to their worker.
//!
//! A follower is *in sync* when it has acknowledged the end of its snapshot. A delta is *confirmed* when every
//! follower in sync has acknowledged it, and there is at least one; without routing at all (`routing: none`), as
//! soon as the other workers were told. A snapshot begins once every worker has heard its gateway shard's own, so that
//! a restarted sidecar never says "these are all" too early.
//!
//! The hub may wait for a worker, which never waits for the hub. It never waits for a follower: one that is too far
//! behind is dropped, dials again and gets a snapshot.

mod asked;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use imaccess_common::admin::Condition;
use imaccess_common::business::BusinessConfig;
use imaccess_common::identity::InstanceId;
use imaccess_common::ticket::TicketKeys;
use imaccess_common::token::TokenVerifier;
use imaccess_proto::v1::{FromRouting, GatewayHello, GroupPresence, Outcome, SidecarHello, UnicastPush};
use tokio::sync::mpsc;

use super::feed::FromFollower;
use super::follower::Follower;
use super::machine::Gone;
use super::metrics::Metrics;
use super::out::{PushReceipt, RouteOut};
use super::table::worker_of;
use super::worker::{FromWorker, ToWorker};

use self::asked::Gathering;

/// Starts the worker of one more shard; the hub's way to grow.
pub type StartWorker = Box<dyn FnMut(u8) -> mpsc::Sender<ToWorker> + Send>;

/// What the hub knows of one worker.
struct WorkerState {
    sender: mpsc::Sender<ToWorker>,
    restored: bool,
    live: bool,
    /// Deltas confirmed to it.
    confirmed: u64,
    /// Deltas that some follower has acknowledged.
    heard: u64,
}

/// The control loop's state.
pub struct Hub {
    cluster: String,
    /// No routing: deltas are confirmed at once.
    alone: bool,
    metrics: Metrics,
    link_ready: Condition,
    start: StartWorker,
    workers: Vec<WorkerState>,
    hello: Option<GatewayHello>,
    followers: HashMap<u32, Follower>,
    /// The sidecar leaves: who begins to follow now is told at once.
    leaving: bool,
    /// Groups by (business, name), with how many workers have members.
    groups: HashMap<(u32, Bytes), u32>,
    /// What was asked of all workers, by follower and its name for it.
    gathered: HashMap<(u32, u64), Gathering>,
}

impl Hub {
    /// A hub with the worker of shard 0, which will say how many there are.
    #[must_use]
    pub fn new(
        cluster: String,
        alone: bool,
        metrics: Metrics,
        link_ready: Condition,
        start: StartWorker,
    ) -> Self {
        let mut hub = Self {
            cluster,
            alone,
            metrics,
            link_ready,
            start,
            workers: Vec::new(),
            hello: None,
            followers: HashMap::new(),
            leaving: false,
            groups: HashMap::new(),
            gathered: HashMap::new(),
        };
        hub.grow(1);
        hub
    }

    /// Something from a worker.
    pub async fn worker(&mut self, event: FromWorker) {
        match event {
            FromWorker::Hello(hello) => self.gateway(hello).await,
            FromWorker::Restored(worker) => {
                self.workers[usize::from(worker)].restored = true;
                self.begin_snapshots();
            }
            FromWorker::Live {
                worker,
                live,
                planned,
            } => {
                self.workers[usize::from(worker)].live = live;
                let up = self.workers.iter().filter(|worker| worker.live).count();
                self.metrics.links.set(up as i64);
                if !live && !planned {
                    self.metrics.link_breaks.inc();
                }
                let shards = self.hello.as_ref().map_or(1, |hello| hello.shards as usize);
                self.link_ready
                    .set(up > 0 && up >= shards.min(self.workers.len()));
            }
            FromWorker::Exported(transfer) => {
                let to = self.heir(transfer.from);
                self.tell(to, ToWorker::Import(transfer)).await;
            }
            FromWorker::Settled(worker, serials) => {
                let to = self.heir(worker);
                self.tell(to, ToWorker::Settled(serials)).await;
            }
            FromWorker::Delta(worker, delta) => self.delta(worker, delta).await,
            FromWorker::Chunk(worker, follower, chunk) => {
                if let Some(follower) = self.followers.get_mut(&follower) {
                    follower.chunk(worker, chunk);
                }
                self.confirm().await;
            }
        }
        self.flush().await;
    }

    /// Something from a routing replica.
    pub async fn follower(&mut self, event: FromFollower) {
        match event {
            FromFollower::New(id, outgoing) => {
                self.followers
                    .insert(id, Follower::new(outgoing, self.workers.len()));
                self.metrics.followers.set(self.followers.len() as i64);
                self.begin_snapshots();
            }
            FromFollower::Batch(id, batch) => self.heard(id, *batch).await,
            FromFollower::Gone(id) => self.drop_follower(id, "gone").await,
        }
        self.flush().await;
    }

    /// Sends what waits, where there is room; asks for the next parts of snapshots; drops who is too far behind.
    pub async fn flush(&mut self) {
        let mut behind = Vec::new();
        let mut asks = Vec::new();
        for (&id, follower) in &mut self.followers {
            follower.flush();
            if follower.is_too_far_behind() {
                behind.push(id);
            } else if let Some((worker, from)) = follower.next_chunk() {
                asks.push((worker, ToWorker::Chunk { follower: id, from }));
            }
        }
        for id in behind {
            tracing::warn!(
                "a routing replica is too far behind and was dropped; it will come back for a snapshot"
            );
            self.drop_follower(id, "behind").await;
        }
        for (worker, ask) in asks {
            self.tell(worker, ask).await;
        }
    }

    /// Tells the followers that the sidecar is being replaced: pushes that they send later would reach nobody.
    pub async fn leave(&mut self) {
        self.leaving = true;
        for follower in self.followers.values_mut() {
            follower.leave();
        }
        self.flush().await;
    }

    /// Whether no follower sends a push any more.
    #[must_use]
    pub fn followers_have_left(&self) -> bool {
        self.followers.values().all(Follower::has_left)
    }

    /// The custodian closed connections, or found them closed, while no gateway was there.
    pub async fn connections_gone(&mut self, gone: &Gone) {
        for worker in 0..self.workers.len() as u8 {
            self.tell(worker, ToWorker::ConnectionsGone(gone.clone())).await;
        }
    }

    /// The businesses are these now.
    pub async fn businesses(&mut self, businesses: Arc<Vec<BusinessConfig>>) {
        for worker in 0..self.workers.len() as u8 {
            self.tell(worker, ToWorker::Businesses(Arc::clone(&businesses)))
                .await;
        }
    }

    /// The keys are these now.
    pub async fn keys(&mut self, tickets: Arc<TicketKeys>, tokens: Arc<dyn TokenVerifier>) {
        for worker in 0..self.workers.len() as u8 {
            self.tell(worker, ToWorker::Keys(Arc::clone(&tickets), Arc::clone(&tokens)))
                .await;
        }
    }

    async fn gateway(&mut self, hello: GatewayHello) {
        let shards = hello.shards.clamp(1, 256) as usize;
        let changed = self.hello.as_ref().is_none_or(|old| {
            (&old.instance, old.incarnation, old.shards) != (&hello.instance, hello.incarnation, hello.shards)
        });
        let is_late = self
            .hello
            .as_ref()
            .is_some_and(|old| old.instance == hello.instance && hello.incarnation < old.incarnation);
        if !changed || is_late {
            return;
        }
        tracing::info!(
            instance = hello.instance,
            incarnation = hello.incarnation,
            shards,
            "the gateway is linked"
        );
        let incarnation = hello.incarnation;
        let is_another = self
            .hello
            .as_ref()
            .is_some_and(|old| old.instance != hello.instance);
        self.hello = Some(hello);
        self.grow(shards);
        for worker in shards..self.workers.len() {
            // Its sessions' connections are on other shards now, or lost.
            let to = self.heir(worker as u8);
            let heard = self.workers[worker].heard;
            let export = ToWorker::Export {
                to,
                incarnation,
                heard,
            };
            self.tell(worker as u8, export).await;
        }
        if is_another {
            // Followers were told another name: they begin anew. A gateway of the same instance changes nothing for them: its
            // sessions keep their serials, epochs and locators, and those that lost their connection are retracted in time.
            let ids: Vec<u32> = self.followers.keys().copied().collect();
            for id in ids {
                self.drop_follower(id, "another_instance").await;
            }
        }
        self.begin_snapshots();
    }

    /// The worker that has this one's connections, if its shard is gone; else itself.
    fn heir(&self, worker: u8) -> u8 {
        let shards = self
            .hello
            .as_ref()
            .map_or(256, |hello| hello.shards.clamp(1, 256));
        u8::try_from(u32::from(worker) % shards).unwrap_or(worker)
    }

    fn grow(&mut self, shards: usize) {
        while self.workers.len() < shards {
            let sender = (self.start)(self.workers.len() as u8);
            self.workers.push(WorkerState {
                sender,
                restored: false,
                live: false,
                confirmed: 0,
                heard: 0,
            });
        }
    }

    fn begin_snapshots(&mut self) {
        let Some(hello) = &self.hello else { return };
        if self.workers.len() < hello.shards as usize || self.workers.iter().any(|worker| !worker.restored) {
            return;
        }
        for follower in self
            .followers
            .values_mut()
            .filter(|follower| !follower.has_begun())
        {
            let hello = SidecarHello {
                cluster: self.cluster.clone(),
                instance: hello.instance.clone(),
                instance_key: InstanceId(hello.instance.clone()).key(),
                gateway_incarnation: hello.incarnation,
            };
            let groups = self.groups.keys().map(|(business, group)| GroupPresence {
                business: *business,
                group: group.clone(),
                present: true,
            });
            follower.begin(hello, groups.collect(), self.workers.len());
            if self.leaving {
                follower.leave();
            }
        }
    }

    async fn delta(&mut self, worker: u8, mut delta: RouteOut) {
        let receipts = std::mem::take(&mut delta.receipts);
        self.receipts(receipts);
        for answer in std::mem::take(&mut delta.answers) {
            self.gather(answer);
        }
        delta.groups.retain(|change| self.count_group(change));
        for follower in self.followers.values_mut() {
            follower.delta(worker, &delta);
        }
        let upto = delta.upto;
        if !delta.announcements.is_empty() && self.workers.len() > 1 {
            let announcements = Arc::new(delta.announcements);
            for other in 0..self.workers.len() as u8 {
                if other != worker {
                    self.tell(other, ToWorker::Peers(Arc::clone(&announcements)))
                        .await;
                }
            }
        }
        if self.alone && upto > self.workers[usize::from(worker)].confirmed {
            self.workers[usize::from(worker)].confirmed = upto;
            self.tell(worker, ToWorker::Confirm(upto)).await;
        }
    }

    /// Counts a worker's first or last member; whether that is the instance's.
    fn count_group(&mut self, change: &GroupPresence) -> bool {
        let key = (change.business, change.group.clone());
        let count = self.groups.entry(key).or_insert(0);
        if change.present {
            *count += 1;
            return *count == 1;
        }
        *count = count.saturating_sub(1);
        let last = *count == 0;
        if last {
            self.groups.remove(&(change.business, change.group.clone()));
        }
        last
    }

    async fn heard(&mut self, id: u32, batch: FromRouting) {
        let Some(follower) = self.followers.get_mut(&id) else {
            return;
        };
        // Before the confirmation, and judged by what was acknowledged before: with it, a session that lost would look like one that won.
        // By this follower, which has compared the two; one that is only being told what there is may hear the older one last.
        let judges = !batch.outranked.is_empty() && follower.is_in_sync();
        let of_its_own = judges.then(|| follower.deltas().to_vec());
        follower.acknowledge(batch.acknowledged);
        let outranked = by_worker(batch.outranked, self.workers.len(), |outranked| outranked.locator);
        for (worker, outranked) in outranked {
            let heard = match &of_its_own {
                Some(acknowledged) => acknowledged.get(usize::from(worker)).copied(),
                None => self.workers.get(usize::from(worker)).map(|state| state.heard),
            };
            self.tell(worker, ToWorker::Outranked(outranked, heard.unwrap_or(0)))
                .await;
        }
        self.note_heard(id);
        if batch.acknowledged > 0 {
            self.confirm().await;
        }
        let pushes = by_worker(batch.unicasts, self.workers.len(), |push| push.locator);
        for (worker, pushes) in pushes {
            self.push(id, worker, pushes);
        }
        let received = &self.metrics.fanout_received;
        received
            .with_label_values(&["group"])
            .inc_by(batch.groups.len() as u64);
        received
            .with_label_values(&["broadcast"])
            .inc_by(batch.broadcasts.len() as u64);
        if !batch.groups.is_empty() {
            let groups = Arc::new(batch.groups);
            for worker in &self.workers {
                // A full worker drops group pushes: they are at most once, and their numbers show the gap.
                if worker
                    .sender
                    .try_send(ToWorker::Groups(Arc::clone(&groups)))
                    .is_err()
                {
                    self.metrics
                        .pushes
                        .with_label_values(&["group_dropped"])
                        .inc_by(groups.len() as u64);
                }
            }
        }
        let commands = by_worker(batch.commands, self.workers.len(), |command| command.locator);
        for (worker, commands) in commands {
            self.command(id, worker, commands);
        }
        if !batch.group_commands.is_empty() {
            self.command_groups(id, batch.group_commands);
        }
        if !batch.broadcasts.is_empty() {
            self.broadcast(id, batch.broadcasts);
        }
        if !batch.lost.is_empty() {
            self.tell_lost(id, batch.lost).await;
        }
        // After its last pushes were handed on.
        if batch.last
            && let Some(follower) = self.followers.get_mut(&id)
        {
            follower.said_last();
        }
    }

    /// Hands pushes to their worker; if it is behind, they are answered retry here.
    fn push(&mut self, follower: u32, worker: u8, pushes: Vec<UnicastPush>) {
        let sent = match self.workers.get(usize::from(worker)) {
            Some(worker) => worker
                .sender
                .try_send(ToWorker::Pushes(follower, pushes))
                .map_err(|full| full.into_inner()),
            None => Err(ToWorker::Pushes(follower, pushes)),
        };
        if let Err(ToWorker::Pushes(_, pushes)) = sent {
            self.metrics
                .pushes
                .with_label_values(&["retry"])
                .inc_by(pushes.len() as u64);
            let retry = |push: UnicastPush| PushReceipt {
                follower,
                id: push.id,
                outcome: Outcome::Retry,
            };
            self.receipts(pushes.into_iter().map(retry).collect());
        }
    }

    fn receipts(&mut self, receipts: Vec<PushReceipt>) {
        for receipt in receipts {
            if let Some(follower) = self.followers.get_mut(&receipt.follower) {
                follower.receipt(receipt.id, receipt.outcome);
            }
        }
    }

    /// What a follower has acknowledged is known to somebody.
    fn note_heard(&mut self, id: u32) {
        let Some(follower) = self.followers.get(&id) else {
            return;
        };
        for (number, worker) in self.workers.iter_mut().enumerate() {
            worker.heard = worker.heard.max(follower.acknowledged_of(number));
        }
    }

    /// Tells the workers how far every follower in sync has come.
    async fn confirm(&mut self) {
        for worker in 0..self.workers.len() {
            let in_sync = self.followers.values().filter(|follower| follower.is_in_sync());
            let Some(upto) = in_sync.map(|follower| follower.acknowledged_of(worker)).min() else {
                return;
            };
            if upto > self.workers[worker].confirmed {
                self.workers[worker].confirmed = upto;
                self.tell(worker as u8, ToWorker::Confirm(upto)).await;
            }
        }
    }

    async fn drop_follower(&mut self, id: u32, reason: &str) {
        if self.followers.remove(&id).is_some() {
            self.gathered.retain(|(follower, _), _| *follower != id);
            self.metrics.followers.set(self.followers.len() as i64);
            self.metrics.followers_dropped.with_label_values(&[reason]).inc();
            // The slowest may have been the one that was waited for.
            self.confirm().await;
        }
    }

    async fn tell(&mut self, worker: u8, what: ToWorker) {
        if let Some(worker) = self.workers.get(usize::from(worker)) {
            // A worker that is gone ends the whole sidecar; nothing to do here.
            let _ = worker.sender.send(what).await;
        }
    }

    /// The gateway's incarnation while any of its shards is linked; 0 while none is.
    #[must_use]
    pub fn linked_incarnation(&self) -> u32 {
        match &self.hello {
            Some(hello) if self.workers.iter().any(|worker| worker.live) => hello.incarnation,
            _ => 0,
        }
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }
}

/// Sorts by the worker in a locator. Locators of workers that don't exist go to worker 0, which doesn't know them.
fn by_worker<T>(items: Vec<T>, workers: usize, locator: impl Fn(&T) -> u64) -> Vec<(u8, Vec<T>)> {
    let mut sorted: Vec<(u8, Vec<T>)> = Vec::new();
    for item in items {
        let worker = worker_of(locator(&item));
        let worker = if usize::from(worker) < workers { worker } else { 0 };
        match sorted.iter_mut().find(|(other, _)| *other == worker) {
            Some((_, of_worker)) => of_worker.push(item),
            None => sorted.push((worker, vec![item])),
        }
    }
    sorted
}
