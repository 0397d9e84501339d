//! Everything a worker decides, free of sockets, tasks and clocks.
//!
//! Inputs are the methods of its parts: the link ([`link`]), logins ([`login`]), data frames ([`uplink`]), businesses
//! ([`business`]), routing and the other workers ([`route`]), pushes ([`push`]), and [`Machine::tick`]. Outputs are
//! [`Machine::link`], what [`Machine::take_routes`] gives, and each stream's [`Machine::take_stream`]. Call inputs with a
//! time that never goes backwards, then take the outputs; no order between outputs matters, but one: routes are
//! taken and handed on before the link, so that another worker hears of a login before its client can act on it.

mod broadcast;
mod business;
mod circuit;
mod command;
mod ended;
mod ending;
mod held;
mod life;
mod link;
mod login;
mod lost;
mod membership;
mod push;
mod quiesce;
mod rate;
mod reload;
mod route;
mod streams;
mod takeover;
#[cfg(test)]
mod tests;
mod transfer;
mod uplink;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use imaccess_common::business::BusinessConfig;
use imaccess_common::identity::EpochClock;
use imaccess_common::ticket::TicketKeys;
use imaccess_common::token::TokenVerifier;
use imaccess_proto::v1::{LinkPolicy, LoginAttempt};

use super::Now;
use super::groups::Groups;
use super::inflight::InFlight;
use super::metrics::Metrics;
use super::out::{LinkOut, RouteOut};
use super::replies::Replies;
use super::table::{Key, Table};

use self::business::Business;
use self::command::Destroying;
use self::ended::Settlements;
pub use self::ending::Owed;
use self::held::Held;
pub use self::link::Gone;
use self::lost::Told;
use self::push::Waiting;
pub use self::route::RouteChunk;
pub use self::streams::{count_streams, first_for_requests};
use self::takeover::Syncing;
pub use self::transfer::{Answered, Moved, Transfer};

/// What a machine is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Number of the worker, which is the number of its shard.
    pub worker: u8,
    /// Ping interval of new logins.
    pub ping_interval: Duration,
    /// How long a session without a connection may be resumed.
    pub resume_window: Duration,
    /// How long a ticket is good.
    pub ticket_lifetime: Duration,
    /// Requests in flight per session; more are answered `busy`.
    pub max_in_flight: u16,
    /// Logins that may wait; more are refused `overloaded`.
    pub login_queue: usize,
    /// Token signatures checked per turn, 60–100 µs each.
    pub token_checks_per_turn: usize,
    /// Bytes of kept replies.
    pub reply_cache_bytes: usize,
    /// Bytes of events not acknowledged, per business.
    pub event_backlog_bytes: usize,
    /// The businesses.
    pub businesses: Vec<BusinessConfig>,
}

/// What machines share.
#[derive(Clone)]
pub struct Shared {
    /// Seals and opens tickets.
    pub tickets: Arc<TicketKeys>,
    /// Checks tokens.
    pub tokens: Arc<dyn TokenVerifier>,
    /// Stamps epochs, all different within the process.
    pub epochs: Arc<EpochClock>,
    /// Counts.
    pub metrics: Metrics,
}

/// Whether the gateway's shard is heard, and known completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkState {
    Down,
    /// Up, and its snapshot isn't complete.
    Syncing,
    Live,
    /// Up, and everything is said: one side leaves.
    Quiesced,
}

/// The gateway process whose handles the table holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Gateway {
    instance: String,
    incarnation: u32,
    shards: u32,
}

/// A push that the gateway hasn't answered.
#[derive(Debug, Clone, Copy)]
struct PendingPush {
    follower: u32,
    id: u64,
    generation: u32,
    live: bool,
}

/// The sessions of one shard and what is decided about them.
pub struct Machine {
    settings: Settings,
    shared: Shared,
    /// The next batch to the gateway.
    pub link: LinkOut,
    routes: RouteOut,
    /// Number of the last delta that was handed to the hub.
    routes_taken: u64,
    table: Table,
    groups: Groups,
    in_flight: InFlight,
    replies: Replies,
    businesses: Vec<Business>,
    /// How many of them only finish what they have.
    retiring: usize,
    logins: VecDeque<LoginAttempt>,
    link_state: LinkState,
    /// Counts link streams.
    link_no: u32,
    /// Whose handles the table holds.
    gateway: Option<Gateway>,
    /// Link generation that both sides speak.
    generation: u32,
    /// Only while a snapshot runs.
    sync: Syncing,
    /// When the link was live last.
    last_live: u64,
    /// Begin was sent: this side leaves.
    quiescing: bool,
    /// The gateway has said all it had.
    gateway_is_done: bool,
    /// Which workers' sessions have come here, each for which start of the gateway.
    imported: Vec<(u32, u8)>,
    /// Ended connections that the gateway remembers.
    settlements: Settlements,
    /// Group pushes that wait for the link.
    held: Held,
    /// Groups that are being destroyed.
    destroying: VecDeque<Destroying>,
    /// Sessions of lost instances that businesses were told of.
    told: Told,
    /// Bytes held when the metric was set last.
    held_was: i64,
    /// The gateway has no shard of this number any more: the worker that has its sessions.
    retired_to: Option<u8>,
    /// Whether a snapshot was ever complete: only then is what the machine knows the whole.
    restored: bool,
    /// New requests are answered retry.
    draining: bool,
    /// Number of the last announcement or retraction.
    delta: u64,
    /// Every replica in sync has acknowledged the deltas up to here.
    confirmed: u64,
    /// When each suspended session ends, with its phase number then; in order.
    suspended: VecDeque<(u64, Key, u16)>,
    /// The same, for those whose window had begun before they came here; soonest first.
    restored_suspended: BinaryHeap<Reverse<(u64, Key, u16)>>,
    /// Sessions whose retraction isn't confirmed, with its delta; in order.
    leaving: VecDeque<(u64, Key)>,
    /// Answers given while there was no link: session, message, code. Said again when there is one.
    undelivered: Vec<(Key, u64, u16)>,
    /// Pushes that wait for the link.
    waiting: Waiting,
    pushes: Vec<PendingPush>,
    free_pushes: Vec<u32>,
    rng: fastrand::Rng,
    /// The time that was told last with frames or a tick, in microseconds: for what needn't know it better.
    clock: u64,
    /// Scratch for ids that are due.
    due: Vec<u64>,
}

impl Machine {
    /// A machine without a link and without sessions.
    #[must_use]
    pub fn new(settings: Settings, shared: Shared) -> Self {
        let worker = settings.worker.to_string();
        let businesses = settings.businesses.iter().map(|config| {
            let metrics = shared.metrics.of_business(&config.name, &worker);
            Business::new(config.clone(), metrics, settings.event_backlog_bytes)
        });
        Self {
            businesses: businesses.collect(),
            retiring: 0,
            link: LinkOut::default(),
            routes: RouteOut::default(),
            routes_taken: 0,
            table: Table::default(),
            groups: Groups::default(),
            in_flight: InFlight::default(),
            replies: Replies::new(settings.reply_cache_bytes),
            logins: VecDeque::new(),
            link_state: LinkState::Down,
            link_no: 0,
            gateway: None,
            generation: 1,
            sync: Syncing::default(),
            last_live: 0,
            quiescing: false,
            gateway_is_done: false,
            imported: Vec::new(),
            settlements: Settlements::default(),
            held: Held::default(),
            destroying: VecDeque::new(),
            told: Told::default(),
            held_was: 0,
            retired_to: None,
            restored: false,
            draining: false,
            delta: 0,
            confirmed: 0,
            suspended: VecDeque::new(),
            restored_suspended: BinaryHeap::new(),
            leaving: VecDeque::new(),
            undelivered: Vec::new(),
            waiting: Waiting::default(),
            pushes: Vec::new(),
            free_pushes: Vec::new(),
            rng: fastrand::Rng::with_seed(u64::from(settings.worker)),
            clock: 0,
            due: Vec::new(),
            settings,
            shared,
        }
    }

    /// Time has passed: ends what is due.
    pub fn tick(&mut self, now: Now) {
        self.clock = now.micros;
        let mut due = std::mem::take(&mut self.due);
        self.in_flight.sweep(now.micros, &mut due);
        for id in due.drain(..) {
            self.time_out(id, now);
        }
        self.due = due;
        self.end_suspended(now);
        self.tick_sync(now);
        self.tick_held(now);
        let window = u64::try_from(self.settings.resume_window.as_micros()).unwrap_or(u64::MAX);
        self.replies.expire(now.micros.saturating_sub(window));
    }

    /// From now on tickets and tokens are checked, and tickets sealed, with these keys.
    pub fn set_keys(&mut self, tickets: Arc<TicketKeys>, tokens: Arc<dyn TokenVerifier>) {
        self.shared.tickets = tickets;
        self.shared.tokens = tokens;
    }

    /// How many sessions there are, in any phase.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.table.len()
    }

    /// How many are online, suspended, leaving; looks at every record.
    #[must_use]
    pub fn phases(&self) -> [(&'static str, usize); 3] {
        let mut phases = [("online", 0), ("suspended", 0), ("leaving", 0)];
        for record in (0..self.table.end()).filter_map(|index| self.table.at(index)) {
            phases[record.phase as usize].1 += 1;
        }
        phases
    }

    /// What the gateway is told of intervals and queues.
    #[must_use]
    pub fn policy(&self) -> LinkPolicy {
        LinkPolicy {
            ping_interval_s: self.ping_interval_s(),
            businesses: self
                .places()
                .map(|place| self.businesses[place].queue_policy())
                .collect(),
        }
    }

    /// The next delta to the hub, if there is one.
    pub fn take_routes(&mut self) -> Option<RouteOut> {
        if self.routes.is_empty() {
            return None;
        }
        self.routes_taken = self.routes.upto;
        Some(self.routes.take())
    }

    /// How many things wait for the hub.
    #[must_use]
    pub fn routes_waiting(&self) -> usize {
        self.routes.len()
    }

    /// From now on requests are answered retry, so that those in flight can come to an end.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Requests that a business hasn't answered.
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn ping_interval_s(&self) -> u32 {
        u32::try_from(self.settings.ping_interval.as_secs())
            .unwrap_or(u32::MAX)
            .max(1)
    }
}
