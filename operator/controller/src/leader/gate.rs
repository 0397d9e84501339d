//! The gate before every write: open only as long as this process surely leads.

use std::future::{Future, poll_fn, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request};
use prometheus::IntCounter;
use tokio::sync::watch;
use tower::{BoxError, Layer, Service};

use crate::clock::Clock;

/// A read that hasn't been answered by then is given up. A watch is answered when it begins.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Shut: this process doesn't surely lead, or wouldn't any more when the request's time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not sent: this operator doesn't hold the lease, or not for long enough")]
pub struct GateClosed;

/// The API server didn't answer in time. A write may have been carried out all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the API server didn't answer in time")]
pub struct Unanswered;

/// Until when this process may write; clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate {
    clock: Clock,
    timeout: Duration,
    refusals: IntCounter,
    until: watch::Sender<Duration>,
}

impl Gate {
    /// A shut gate. A write is given up after `timeout`.
    #[must_use]
    pub fn new(clock: Clock, timeout: Duration, refusals: IntCounter) -> Gate {
        Gate {
            clock,
            timeout,
            refusals,
            until: watch::Sender::new(Duration::ZERO),
        }
    }

    /// Opens it until `until` by its clock.
    pub fn open_until(&self, until: Duration) {
        self.until.send_replace(until);
    }

    /// Opens it for good: where nobody else writes.
    pub fn open(&self) {
        self.open_until(Duration::MAX);
    }

    /// Shuts it.
    pub fn close(&self) {
        self.open_until(Duration::ZERO);
    }

    /// Whether this process leads.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.clock.now() < *self.until.borrow()
    }

    /// Tells `leads` whether the gate is open, each time that changes, for ever.
    pub async fn follow(&self, leads: &watch::Sender<bool>) {
        let mut changes = self.until.subscribe();
        loop {
            let until = *changes.borrow_and_update();
            let now = self.clock.now();
            let open = now < until;
            leads.send_if_modified(|known| std::mem::replace(known, open) != open);
            let lapse = tokio::time::sleep(until.saturating_sub(now).min(Duration::from_secs(3_600)));
            // The gate itself holds the sender: there is always another change to wait for.
            tokio::select! {
                _ = changes.changed() => {}
                () = lapse, if open => {}
            }
        }
    }

    /// Until when a write that begins now must have ended.
    fn admit(&self) -> Result<Duration, GateClosed> {
        let end = self.clock.now().saturating_add(self.timeout);
        if end <= *self.until.borrow() {
            Ok(end)
        } else {
            self.refusals.inc();
            Err(GateClosed)
        }
    }
}

/// Puts a gate before everything that a client sends.
#[derive(Clone, Debug)]
pub struct GateLayer(pub Gate);

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated {
            inner,
            gate: self.0.clone(),
        }
    }
}

/// A client behind a gate.
#[derive(Clone, Debug)]
pub struct Gated<S> {
    inner: S,
    gate: Gate,
}

type Answer<R> = Pin<Box<dyn Future<Output = Result<R, BoxError>> + Send>>;

impl<S, B> Service<Request<B>> for Gated<S>
where
    S: Service<Request<B>>,
    S::Response: Send + 'static,
    S::Error: Into<BoxError> + 'static,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Answer<S::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if !writes(request.method()) {
            return bounded(self.inner.call(request), READ_TIMEOUT, || true);
        }
        match self.gate.admit() {
            Ok(end) => {
                let clock = self.gate.clock.clone();
                // The process may have been stopped, or the machine suspended, since the gate let the request through: so it
                // is asked again each time that anything of the request is about to happen.
                bounded(self.inner.call(request), self.gate.timeout, move || {
                    clock.now() <= end
                })
            }
            Err(closed) => Box::pin(ready(Err(closed.into()))),
        }
    }
}

/// `answer`, given up after `timeout`, and not driven any further when `may_go_on` says no.
fn bounded<R, E>(
    answer: impl Future<Output = Result<R, E>> + Send + 'static,
    timeout: Duration,
    may_go_on: impl Fn() -> bool + Send + 'static,
) -> Answer<R>
where
    R: Send + 'static,
    E: Into<BoxError> + 'static,
{
    let mut answer = Box::pin(answer);
    let mut timer = Box::pin(tokio::time::sleep(timeout));
    Box::pin(poll_fn(move |context| {
        if !may_go_on() {
            return Poll::Ready(Err(Unanswered.into()));
        }
        if let Poll::Ready(result) = answer.as_mut().poll(context) {
            return Poll::Ready(result.map_err(Into::into));
        }
        timer.as_mut().poll(context).map(|()| Err(Unanswered.into()))
    }))
}

/// Whether a request may change anything.
fn writes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

#[cfg(test)]
mod tests;
