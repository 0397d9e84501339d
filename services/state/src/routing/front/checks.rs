//! What a push is checked against: whether it was made already, and how much its business may push.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use imaccess_common::business::BusinessConfig;
use imaccess_common::metrics::{counter, counter_vec, gauge};
use imaccess_common::telemetry::Seldom;
use imaccess_proto::v1::{BroadcastRequest, PushDevicesRequest, PushGroupRequest};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Code, Response, Status};

use super::{MAX_KEY, RETRY_AFTER};
use crate::routing::calls::DEVICES;
use crate::routing::idempotency::{Answer, Begun, Bounds, Fingerprints, Idempotency, Ticket};
use crate::routing::rates::{Exceeded, Rates};

/// When too many calls with keys run: they end within the receipt timeout.
const CROWDED: Duration = Duration::from_secs(1);

/// What is counted before the calls.
#[derive(Debug, Clone)]
pub(crate) struct FrontMetrics {
    limited: IntCounterVec,
    repeated: IntCounterVec,
    evicted: IntCounter,
    kept_calls: IntGauge,
    kept_bytes: IntGauge,
}

impl FrontMetrics {
    pub(crate) fn register(registry: &Registry) -> FrontMetrics {
        FrontMetrics {
            limited: counter_vec(
                registry,
                "imaccess_routing_push_limited_total",
                "Push calls refused because their business has used up its push_rate, by business.",
                &["business"],
            ),
            repeated: counter_vec(
                registry,
                "imaccess_routing_push_repeated_total",
                "Push calls whose idempotency key was known, or that had no room: answered as before, refused because the \
                 first still runs, because it was another call, or because too many run.",
                &["result"],
            ),
            evicted: counter(
                registry,
                "imaccess_routing_push_kept_evicted_total",
                "Answers of calls with idempotency keys that were dropped for newer ones before their time.",
            ),
            kept_calls: gauge(
                registry,
                "imaccess_routing_push_kept_calls",
                "Calls with idempotency keys that are remembered.",
            ),
            kept_bytes: gauge(
                registry,
                "imaccess_routing_push_kept_bytes",
                "Bytes of the answers that are kept for repeated calls.",
            ),
        }
    }
}

/// A call that pushes.
pub(super) trait PushCall: Message + 'static {
    /// Tells the kinds apart in a digest.
    const KIND: u32;

    fn business(&self) -> u32;

    fn idempotency_key(&self) -> &str;

    /// What it costs of the business's rate.
    fn devices(&self) -> u32 {
        1
    }
}

impl PushCall for PushDevicesRequest {
    const KIND: u32 = 1;

    fn business(&self) -> u32 {
        self.business
    }

    fn idempotency_key(&self) -> &str {
        &self.idempotency_key
    }

    /// One that names more than it may is refused for that, so it must get through here.
    fn devices(&self) -> u32 {
        u32::try_from(self.devices.len().min(DEVICES)).unwrap_or(u32::MAX)
    }
}

impl PushCall for PushGroupRequest {
    const KIND: u32 = 2;

    fn business(&self) -> u32 {
        self.business
    }

    fn idempotency_key(&self) -> &str {
        &self.idempotency_key
    }
}

impl PushCall for BroadcastRequest {
    const KIND: u32 = 3;

    fn business(&self) -> u32 {
        self.business
    }

    fn idempotency_key(&self) -> &str {
        &self.idempotency_key
    }
}

/// What calls that outlive their callers need as well. Neither lock is held over an await, and never both.
pub(super) struct Checks {
    rates: Mutex<Rates>,
    made: Mutex<Idempotency>,
    fingerprints: Fingerprints,
    metrics: FrontMetrics,
    seldom: Seldom,
}

/// Whether a call with a key is new.
pub(super) enum Made {
    Now(Ending),
    Before(Answer),
}

// === impl Checks ===

impl Checks {
    pub(super) fn new(metrics: FrontMetrics) -> Checks {
        Checks {
            rates: Mutex::default(),
            made: Mutex::new(Idempotency::new(Bounds::default())),
            fingerprints: Fingerprints::random(),
            metrics,
            seldom: Seldom::default(),
        }
    }

    /// Takes other businesses, with their rates.
    pub(super) fn set_businesses(&self, businesses: &[BusinessConfig]) {
        locked(&self.rates).set_businesses(businesses, Instant::now());
    }

    /// Looks the call's key up, and remembers it if it is new.
    pub(super) fn begin<Q: PushCall>(self: &Arc<Self>, request: &Q) -> Result<Made, Status> {
        let key = request.idempotency_key();
        if key.len() > MAX_KEY {
            let length = key.len();
            return Err(Status::invalid_argument(format!(
                "idempotency_key: has {length} bytes; at most {MAX_KEY} are allowed"
            )));
        }
        let name = self.fingerprints.of(request.business(), key.as_bytes());
        let whole = request.encode_to_vec();
        let digest = self.fingerprints.of(Q::KIND, &whole);
        let begun = locked(&self.made).begin(Instant::now(), name, digest, whole.len());
        self.show();
        let (result, said) = match begun {
            Begun::Fresh(ticket) => {
                return Ok(Made::Now(Ending {
                    checks: Arc::clone(self),
                    ticket: Some(ticket),
                }));
            }
            Begun::Repeat(answer) => ("repeated", Ok(Made::Before(answer))),
            Begun::Running => (
                "running",
                Err(Status::aborted(
                    "a call with this idempotency key still runs; repeat this one to learn how that ended",
                )),
            ),
            Begun::Other => (
                "other",
                Err(Status::invalid_argument(
                    "idempotency_key: another call had it, with other contents; give each call a key of its own",
                )),
            ),
            Begun::Full => (
                "full",
                Err(exhausted(
                    "too many calls with idempotency keys run at this replica; make this one again later"
                        .to_owned(),
                    CROWDED,
                )),
            ),
        };
        self.metrics.repeated.with_label_values(&[result]).inc();
        said
    }

    /// Takes the call's devices from the business's rate.
    pub(super) fn take<Q: PushCall>(self: &Arc<Self>, request: &Q) -> Result<Taken, Status> {
        let (business, devices) = (request.business(), request.devices());
        let now = Instant::now();
        let taken = locked(&self.rates).take(business, devices, now);
        taken.map_err(|exceeded| {
            let Exceeded { rate, retry_after } = exceeded;
            self.metrics
                .limited
                .with_label_values(&[&business.to_string()])
                .inc();
            if self.seldom.may(now) {
                tracing::info!(business, rate, devices, "a push is over its business's rate");
            }
            exhausted(
                format!(
                    "the business {business} has used up its push_rate of {rate} devices a second; come again in {retry_after:.1?}"
                ),
                retry_after,
            )
        })?;
        Ok(Taken {
            checks: Arc::clone(self),
            business,
            devices,
        })
    }

    fn show(&self) {
        let (size, evicted) = {
            let mut made = locked(&self.made);
            (made.size(), made.take_evicted())
        };
        let number = |size: usize| i64::try_from(size).unwrap_or(i64::MAX);
        self.metrics.kept_calls.set(number(size.0));
        self.metrics.kept_bytes.set(number(size.1));
        self.metrics.evicted.inc_by(evicted);
    }
}

/// Devices that were taken from a rate.
pub(super) struct Taken {
    checks: Arc<Checks>,
    business: u32,
    devices: u32,
}

impl Taken {
    /// Gives them back if the call came to nothing.
    pub(super) fn settle<A>(self, answered: Result<A, Status>) -> Result<A, Status> {
        if answered.is_err() {
            locked(&self.checks.rates).give_back(self.business, self.devices);
        }
        answered
    }
}

/// Ends a remembered call, also one that ends in a panic: what that did isn't known, so it isn't made again.
pub(super) struct Ending {
    checks: Arc<Checks>,
    ticket: Option<Ticket>,
}

impl Ending {
    /// The call was answered.
    pub(super) fn end<A: Message>(
        mut self,
        answered: Result<Response<A>, Status>,
    ) -> Result<Response<A>, Status> {
        let answer = match &answered {
            Ok(answer) => Some(Answer::Done(answer.get_ref().encode_to_vec().into())),
            Err(status) => Answer::of_failure(status),
        };
        self.keep(answer);
        answered
    }

    fn keep(&mut self, answer: Option<Answer>) {
        let Some(ticket) = self.ticket.take() else { return };
        let mut made = locked(&self.checks.made);
        match answer {
            Some(answer) => made.end(Instant::now(), ticket, answer),
            None => made.forget(ticket),
        }
        drop(made);
        self.checks.show();
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.keep(Answer::of_failure(&lost()));
    }
}

fn exhausted(sentence: String, retry_after: Duration) -> Status {
    let mut metadata = MetadataMap::new();
    let milliseconds = retry_after.as_nanos().div_ceil(1_000_000);
    if let Ok(value) = milliseconds.to_string().parse() {
        metadata.insert(RETRY_AFTER, value);
    }
    Status::with_metadata(Code::ResourceExhausted, sentence, metadata)
}

/// What is said of a call that ended without an answer.
pub(super) fn lost() -> Status {
    Status::internal("the call broke off; what it did isn't known")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
