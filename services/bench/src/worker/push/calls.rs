//! Calls of the push API, from a thread of their own.

use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use imaccess_proto::v1::push_client::PushClient;
use imaccess_proto::v1::{BroadcastRequest, Outcome, Priority, PushDevicesRequest, PushGroupRequest};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::clock::monotonic_ns;
use crate::job::{Failures, Publish, Published, To};
use crate::latency::Latency;
use crate::worker::fail;
use crate::worker::fanout::NUMBER_BYTES;

/// Longest wait for an answer: the push API's own wait for receipts is half of it.
const ANSWER: Duration = Duration::from_secs(10);

/// The answer of a call that was taken.
pub(crate) const SENT: &str = "sent";

/// The answer of a push API that doesn't know the call.
pub(crate) const UNIMPLEMENTED: &str = "unimplemented";

/// One call to make.
struct Call {
    /// Which message of the stream.
    message: u64,
    /// When it was due, on the machine's clock.
    due_ns: u64,
}

/// The pushing thread.
pub(super) struct Calls {
    calls: mpsc::Sender<Call>,
    thread: JoinHandle<anyhow::Result<Answers>>,
}

/// What it was answered.
#[derive(Debug, Default)]
pub(super) struct Answers {
    published: Published,
    answered: Latency,
    /// By message: whether it is said to have gone out.
    gone_out: Vec<bool>,
}

impl Answers {
    /// By message: whether it is said to have gone out.
    pub(super) fn gone_out(&self) -> &[bool] {
        &self.gone_out
    }

    /// For the bench.
    pub(super) fn published(self, lost: u64, late: &Latency) -> Published {
        Published {
            lost,
            late: late.counts(),
            answered: self.answered.counts(),
            ..self.published
        }
    }
}

impl Calls {
    /// Connects. `devices` are the names of a stream to devices, `total` its messages in all, numbered from `first`.
    pub(super) fn start(
        publish: &Publish,
        devices: Vec<String>,
        first: u64,
        total: u64,
    ) -> anyhow::Result<Self> {
        // Never full: it has room for all calls of the job.
        let (calls, taken) = mpsc::channel(total.max(1) as usize);
        let caller = Caller {
            publish: publish.clone(),
            devices,
            first,
            total: total as usize,
        };
        let thread = std::thread::Builder::new()
            .name("pusher".to_owned())
            .spawn(move || caller.run(taken))?;
        Ok(Self { calls, thread })
    }

    /// Makes a call that was due at `due_ns`; false if the thread has failed, which [`Self::end`] explains.
    pub(super) fn call(&self, message: u64, due_ns: u64) -> bool {
        self.calls.try_send(Call { message, due_ns }).is_ok()
    }

    /// Waits for the answers that are still to come.
    pub(super) fn end(self) -> anyhow::Result<Answers> {
        drop(self.calls);
        self.thread
            .join()
            .map_err(|_| anyhow!("the pushing thread panicked"))?
    }
}

/// What the pushing thread knows.
struct Caller {
    publish: Publish,
    devices: Vec<String>,
    first: u64,
    total: usize,
}

/// What one call was answered.
struct Answer {
    message: u64,
    due_ns: u64,
    /// Its name.
    name: String,
    /// See [`Published::promised`].
    promised: u64,
    fault: Option<String>,
}

impl Caller {
    fn run(self, calls: mpsc::Receiver<Call>) -> anyhow::Result<Answers> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.call_all(calls))
    }

    async fn call_all(self, mut calls: mpsc::Receiver<Call>) -> anyhow::Result<Answers> {
        let endpoint = Endpoint::from_shared(self.publish.url.clone()).context("the push API's URL")?;
        let channel = endpoint
            .timeout(ANSWER)
            .connect()
            .await
            .context("connect to the push API")?;
        let client = PushClient::new(channel);
        let mut answers = Answers {
            gone_out: vec![false; self.total],
            ..Answers::default()
        };
        // No more than the job has calls.
        let mut pending = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(answer) = pending.join_next() => answers.count(answer?),
                call = calls.recv() => {
                    let Some(call) = call else { break };
                    let pushing = self.push(client.clone(), call.message);
                    pending.spawn(async move {
                        let (name, promised, fault) = match pushing.await {
                            Ok((name, promised)) => (name, promised, None),
                            Err(status) => (status_name(status.code()).to_owned(), 0, Some(status.to_string())),
                        };
                        Answer { message: call.message, due_ns: call.due_ns, name, promised, fault }
                    });
                }
            }
        }
        while let Some(answer) = pending.join_next().await {
            answers.count(answer?);
        }
        Ok(answers)
    }

    /// One push: how it was answered, and what is promised by that.
    fn push(
        &self,
        mut client: PushClient<Channel>,
        message: u64,
    ) -> impl Future<Output = Result<(String, u64), Status>> + Send + 'static {
        let business = self.publish.business;
        let to = self.publish.to.clone();
        let mut payload = vec![0; self.publish.bytes.max(NUMBER_BYTES)];
        payload[..NUMBER_BYTES].copy_from_slice(&(self.first + message).to_be_bytes());
        let payload = Bytes::from(payload);
        let device = match self.devices.len() as u64 {
            0 => String::new(),
            devices => self.devices[(message % devices) as usize].clone(),
        };
        async move {
            match to {
                To::Devices { app, .. } => {
                    let request = PushDevicesRequest {
                        business,
                        app,
                        devices: vec![device],
                        payload,
                        ..PushDevicesRequest::default()
                    };
                    let outcomes = client.push_devices(request).await?.into_inner().outcomes;
                    Ok(outcome(outcomes.first().copied().unwrap_or_default()))
                }
                To::Group { id } => {
                    let request = PushGroupRequest {
                        business,
                        group: Bytes::from(id),
                        payload,
                        ..PushGroupRequest::default()
                    };
                    let answer = client.push_group(request).await?.into_inner();
                    let taken = taken(answer.instances, answer.unsynced);
                    Ok((taken.to_owned(), u64::from(taken == SENT)))
                }
                To::Everybody => {
                    let request = BroadcastRequest {
                        business,
                        payload,
                        priority: Priority::Low.into(),
                        ..BroadcastRequest::default()
                    };
                    let answer = client.broadcast(request).await?.into_inner();
                    Ok((
                        taken(answer.instances, answer.unsynced).to_owned(),
                        answer.devices,
                    ))
                }
            }
        }
    }
}

impl Answers {
    fn count(&mut self, answer: Answer) {
        fail(&mut self.published.answers, &answer.name);
        self.published.promised += answer.promised;
        self.answered.record(monotonic_ns().saturating_sub(answer.due_ns));
        if let Some(gone_out) = self.gone_out.get_mut(answer.message as usize) {
            *gone_out = answer.promised > 0;
        }
        if self.published.fault.is_none() {
            self.published.fault = answer.fault;
        }
    }
}

/// What became of a push to one device, and whether it is promised to arrive.
fn outcome(number: i32) -> (String, u64) {
    let outcome = Outcome::try_from(number).unwrap_or_default();
    let promised = matches!(
        outcome,
        Outcome::Written | Outcome::Acknowledged | Outcome::Queued
    );
    let name = outcome.as_str_name().trim_start_matches("OUTCOME_");
    (name.to_ascii_lowercase(), u64::from(promised))
}

/// What became of a push to many. Who isn't in sync may have got it or not.
fn taken(instances: u32, unsynced: u32) -> &'static str {
    match (instances, unsynced) {
        (0, _) => "nobody_there",
        (_, 0) => SENT,
        _ => "not_in_sync",
    }
}

/// A short name of why a call failed.
fn status_name(code: Code) -> &'static str {
    match code {
        Code::Unimplemented => UNIMPLEMENTED,
        Code::ResourceExhausted => "resource_exhausted",
        Code::Unavailable => "unavailable",
        Code::DeadlineExceeded | Code::Cancelled => "not_answered",
        Code::InvalidArgument => "invalid_argument",
        _ => "failed",
    }
}

/// Whether this is an answer of a call that was taken.
pub(crate) fn is_sent(answers: &Failures) -> bool {
    answers.keys().all(|answer| answer == SENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_went_out_is_promised() {
        assert_eq!(outcome(Outcome::Written.into()), ("written".to_owned(), 1));
        assert_eq!(outcome(Outcome::Queued.into()), ("queued".to_owned(), 1));
        assert_eq!(outcome(Outcome::Retry.into()), ("retry".to_owned(), 0));
        assert_eq!(outcome(Outcome::Refused.into()), ("refused".to_owned(), 0));
        assert_eq!(outcome(77).1, 0);
        assert_eq!(
            [taken(1, 0), taken(4, 1), taken(0, 0)],
            [SENT, "not_in_sync", "nobody_there"]
        );
    }
}
