//! Reading, taking and renewing the Lease: the I/O of an election.

use std::time::Duration;

use imaccess_common::admin::{Condition, Readiness};
use imaccess_operator_api::names::FIELD_MANAGER;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::PostParams;
use tokio_util::sync::CancellationToken;

use super::evaluate::{Elector, Record, Verdict};
use super::gate::{Gate, Unanswered};
use crate::clock::Clock;
use crate::health::Pulse;
use crate::metrics::Metrics;

/// One process's part in an election: keeps the lease if it can, and opens the gate for as long as that entitles it to write.
///
/// Its client must not pass the gate: the lease is what opens it.
pub struct Campaign {
    leases: Api<Lease>,
    name: String,
    elector: Elector,
    gate: Gate,
    clock: Clock,
    metrics: Metrics,
    pulse: Pulse,
    /// Holds once it is known who leads.
    known: Condition,
    /// The object as it was last read or written; read again when nothing is known of it, or it is another's.
    object: Option<Lease>,
}

/// Why a step came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

impl Campaign {
    /// A campaign for the Lease `name`; `readiness` gets the condition `lease`, which holds once it is known who leads: an operator
    /// that may not read its lease never gets ready, and the installation says so.
    #[must_use]
    pub fn new(
        (leases, name): (Api<Lease>, String),
        elector: Elector,
        gate: Gate,
        clock: Clock,
        metrics: Metrics,
        pulse: Pulse,
        readiness: &Readiness,
    ) -> Campaign {
        Campaign {
            leases,
            name,
            elector,
            gate,
            clock,
            metrics,
            pulse,
            known: readiness.condition("lease"),
            object: None,
        }
    }

    /// Takes part until `stop`, then shuts the gate and gives the lease back, if it has it: cancel `stop` when nothing is left
    /// to write.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let pause = self.step().await;
            self.pulse.beat();
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.gate.close();
        self.release().await;
    }

    /// One look or renewal; answers when the next is due.
    async fn step(&mut self) -> Duration {
        let timing = self.elector.timing();
        match self.attempt().await {
            Ok(pause) => {
                self.known.set(true);
                pause
            }
            Err(fault) => {
                self.metrics.lease_failures.inc();
                tracing::warn!(lease = self.name, error = %fault, "the lease can't be read or renewed; trying again");
                // Whether a write landed isn't known, nor whose the lease is by now.
                self.object = None;
                timing.retry
            }
        }
    }

    async fn attempt(&mut self) -> Result<Duration, Failure> {
        let timing = self.elector.timing();
        if self.object.is_none() || self.elector.holder() != Some(self.elector.me()) {
            let found = answered(timing.request, self.leases.get_opt(&self.name)).await?;
            self.elector.see(found.as_ref().map(record_of), self.clock.now());
            self.object = found;
        }
        if self.elector.holder() != Some(self.elector.me()) && self.gate.is_open() {
            tracing::warn!(
                lease = self.name,
                holder = self.elector.holder(),
                "the lease was taken from this operator"
            );
            self.gate.close();
        }
        let verdict = self.elector.verdict(self.clock.now());
        if let Verdict::Wait { until } = verdict {
            return Ok(timing.retry.min(until.saturating_sub(self.clock.now())));
        }
        let record = self.elector.record(Timestamp::now());
        // From before it is sent: whoever sees the record sees it later than this.
        let sent = self.clock.now();
        match self.write(&record).await {
            Ok(object) => {
                self.elector.see(Some(record_of(&object)), self.clock.now());
                self.object = Some(object);
                self.gate.open_until(sent + timing.entitles());
                if verdict != Verdict::Renew {
                    tracing::info!(lease = self.name, me = self.elector.me(), "took the lease");
                }
                Ok(timing.renew)
            }
            Err(Failure::Api(kube::Error::Api(status)))
                if status.is_conflict() || status.is_already_exists() =>
            {
                // Somebody was faster, or has edited it: the next look shows.
                tracing::info!(lease = self.name, "the lease has changed meanwhile");
                self.object = None;
                Ok(Duration::from_millis(fastrand::u64(10..100)))
            }
            Err(fault) => Err(fault),
        }
    }

    /// Creates the Lease, or replaces the one that was read, and no other.
    async fn write(&self, record: &Record) -> Result<Lease, Failure> {
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let timeout = self.elector.timing().request;
        match &self.object {
            None => {
                let mut lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: None,
                };
                write_record(&mut lease, record, true);
                answered(timeout, self.leases.create(&parameters, &lease)).await
            }
            Some(known) => {
                let mut lease = known.clone();
                let new_holder = record_of(known).holder != record.holder;
                write_record(&mut lease, record, new_holder);
                answered(timeout, self.leases.replace(&self.name, &parameters, &lease)).await
            }
        }
    }

    /// Gives the lease back, so that another needn't wait for it to lapse.
    async fn release(&mut self) {
        let held = self
            .object
            .as_ref()
            .map(record_of)
            .filter(|record| record.holder.as_deref() == Some(self.elector.me()));
        let Some(held) = held else { return };
        let released = Record {
            holder: None,
            duration: Duration::from_secs(1),
            ..held
        };
        match self.write(&released).await {
            Ok(_) => tracing::info!(lease = self.name, "gave the lease back"),
            Err(fault) => {
                tracing::warn!(lease = self.name, error = %fault, "the lease can't be given back; it lapses");
            }
        }
    }
}

async fn answered<T>(
    timeout: Duration,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(timeout, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Unanswered.into()),
    }
}

fn record_of(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.unwrap_or(0);
    Record {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        duration: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        renewed: spec.renew_time.map(|time| time.0),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}

fn write_record(lease: &mut Lease, record: &Record, new_holder: bool) {
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(record.holder.clone().unwrap_or_default());
    spec.lease_duration_seconds = Some(i32::try_from(record.duration.as_secs()).unwrap_or(i32::MAX));
    spec.renew_time = record.renewed.map(MicroTime);
    spec.lease_transitions = Some(record.transitions);
    if new_holder {
        spec.acquire_time = record.renewed.map(MicroTime);
    }
}

#[cfg(test)]
mod tests;
