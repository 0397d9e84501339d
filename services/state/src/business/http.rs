//! `http`: a POST of JSON per call, over HTTP/1.1 connections that are kept.
//!
//! A connection carries one call at a time; who finds none idle dials. One that broke, or whose call was given up, isn't used again.
//! Connections that have been idle for a while are let go, and none grows old, so that calls come to servers that were added.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use bytes::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use imaccess_proto::v1::{BusinessReply, BusinessRequest, EventBatch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::calls::{CallError, Caller};
use super::places::{Place, Places};
use super::{Fault, json};

/// Longest body of a response: the longest payload of a reply as base64, several times over.
const MAX_ANSWER: usize = 512 * 1024;

/// How long an idle connection is kept. Many servers close theirs sooner, which is seen.
const IDLE: Duration = Duration::from_secs(30);

/// How long a connection is used: a server that was added gets its part of the calls within that time.
const AGE: Duration = Duration::from_secs(60);

/// Calls a business by HTTP.
pub(super) struct HttpCaller<'a> {
    places: &'a Places,
    /// The one used last is last.
    idle: Mutex<Vec<Kept>>,
    /// Connections that are open, in use or idle.
    open: Arc<AtomicUsize>,
}

/// A connection.
struct Kept {
    sender: http1::SendRequest<Body>,
    host: HeaderValue,
    since: Instant,
    used: Instant,
    _open: Open,
    /// Moves its bytes.
    _driver: AbortOnDropHandle<()>,
}

impl Kept {
    fn is_good(&self) -> bool {
        !self.sender.is_closed() && self.used.elapsed() < IDLE && self.since.elapsed() < AGE
    }
}

/// A connection's place in the count.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One call, as it can be repeated.
struct Post {
    path: &'static str,
    body: Bytes,
    traceparent: Option<HeaderValue>,
}

/// What a server answered.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl<'a> HttpCaller<'a> {
    pub(super) fn new(places: &'a Places) -> Self {
        Self {
            places,
            idle: Mutex::new(Vec::new()),
            open: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Sends it, and once more, over a new connection to the next place, if nothing of it was written.
    async fn post(&self, post: &Post) -> Result<Answer, CallError> {
        match self.try_once(post, self.take_idle()).await {
            Err(CallError::Unreached(_)) => self.try_once(post, None).await,
            ended => ended,
        }
    }

    async fn try_once(&self, post: &Post, kept: Option<Kept>) -> Result<Answer, CallError> {
        let mut kept = match kept {
            Some(kept) => kept,
            None => {
                let dialled = self.places.try_next(|place| self.open(place)).await;
                dialled.map_err(CallError::Unreached)?
            }
        };
        let answer = exchange(&mut kept, post).await?;
        kept.used = Instant::now();
        if kept.is_good() {
            self.idle().push(kept);
        }
        Ok(answer)
    }

    /// The connection that was used last, if one is left.
    fn take_idle(&self) -> Option<Kept> {
        let mut idle = self.idle();
        while let Some(kept) = idle.pop() {
            if kept.is_good() {
                return Some(kept);
            }
        }
        None
    }

    async fn open(&self, place: Place) -> Result<Kept, Box<dyn std::error::Error + Send + Sync>> {
        let stream = place.connect().await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            // How it ended is said to whoever waits for an answer.
            let _ = connection.await;
        });
        let host = place
            .origin
            .authority()
            .map_or("", |authority| authority.as_str());
        Ok(Kept {
            sender,
            host: HeaderValue::from_str(host)?,
            since: Instant::now(),
            used: Instant::now(),
            _open: Open::new(&self.open),
            _driver: AbortOnDropHandle::new(driver),
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Kept>> {
        // Nothing can panic while it is held.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caller for HttpCaller<'_> {
    async fn connect(&self) -> Result<(), Fault> {
        if self.is_connected() {
            return Ok(());
        }
        let open = |place| async move { self.open(place).await.map_err(Fault::Stream) };
        let kept = self.places.dial(open).await?;
        self.idle().push(kept);
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    async fn ask(&self, request: BusinessRequest) -> Result<BusinessReply, CallError> {
        let post = Post {
            path: "/request",
            body: Bytes::from(json::request(&request)),
            traceparent: HeaderValue::from_str(&request.traceparent)
                .ok()
                .filter(|text| !text.is_empty()),
        };
        let answer = self.post(&post).await?;
        let retry_after = answer.headers.get(header::RETRY_AFTER);
        let retry_after = retry_after.map(|value| value.to_str().unwrap_or_default());
        json::answer(answer.status, retry_after, &answer.body)
    }

    async fn tell(&self, batch: &EventBatch) -> Result<bool, CallError> {
        let post = Post {
            path: "/events",
            body: Bytes::from(json::events(batch)),
            traceparent: None,
        };
        let answer = self.post(&post).await?;
        json::events_answer(answer.status, &answer.body)
    }

    fn tidy(&self) {
        self.idle().retain(Kept::is_good);
    }
}

/// One request and its response, whole.
async fn exchange(kept: &mut Kept, post: &Post) -> Result<Answer, CallError> {
    let mut request = Request::post(post.path)
        .header(header::HOST, &kept.host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json");
    if let Some(trace) = &post.traceparent {
        request = request.header("traceparent", trace);
    }
    let request = request
        .body(Body::from(post.body.clone()))
        .map_err(|fault| CallError::Unreached(Box::new(fault)))?;
    // It may still be busy with the end of the response before.
    if let Err(fault) = kept.sender.ready().await {
        return Err(CallError::Unreached(Box::new(fault)));
    }
    let response = match kept.sender.try_send_request(request).await {
        Ok(response) => response,
        Err(mut fault) => {
            // It gives back what it hasn't begun to write.
            let unwritten = fault.take_message().is_some();
            let fault = Box::new(fault.into_error());
            return Err(if unwritten {
                CallError::Unreached(fault)
            } else {
                CallError::Broken(fault)
            });
        }
    };
    let (head, body) = response.into_parts();
    match axum::body::to_bytes(Body::new(body), MAX_ANSWER).await {
        Ok(body) => Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        }),
        Err(fault) => Err(body_fault(fault)),
    }
}

/// A body that is too long can't be used; one that broke may come whole another time.
fn body_fault(fault: axum::Error) -> CallError {
    let mut cause = std::error::Error::source(&fault);
    while let Some(fault) = cause {
        if fault.is::<hyper::Error>() {
            break;
        }
        cause = fault.source();
    }
    if cause.is_some() {
        CallError::Broken(Box::new(fault))
    } else {
        CallError::Unusable(format!("its body is longer than {MAX_ANSWER} bytes"))
    }
}

#[cfg(test)]
mod tests;
