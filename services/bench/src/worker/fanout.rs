//! Messages to one group: publish, and see every member receive them.
//!
//! The members' sockets are read by this thread. Pushes to ours go through gRPC from a thread of its own, to a
//! bare server as bytes to its control port. A message is done when all members have it; then the next goes, so
//! that a fixed number is always on its way to somebody.

mod publish;
mod window;

use std::time::Duration;

use anyhow::Context;
use imaccess_wire::FrameType;
use imaccess_wire::frame::{Close, GroupPush};

use self::publish::Publishing;
use self::window::Window;
use super::connect::code_name;
use super::{Clock, GRACE, Worker, fail, need_links};
use crate::job::{Failures, FannedOut, Fanout, Publisher};
use crate::latency::Latency;

/// Every payload begins with the message's number.
pub(crate) const NUMBER_BYTES: usize = 8;

impl Worker {
    pub(super) fn fanout(&mut self, job: &Fanout) -> anyhow::Result<FannedOut> {
        need_links(&self.links)?;
        let members = self.links.iter().filter(|link| link.is_open()).count() as u64;
        let mut publishing = Publishing::start(&job.publisher, job.bytes.max(NUMBER_BYTES), job.outstanding)?;
        // Numbers of one job are never met again in the next: what is late is not taken for what is new.
        let first = u64::from(fastrand::u32(..)) << 32;
        let mut window = Window::new(first, members);
        // What each member saw last of the push API's numbering: two wrongs (one lost, one doubled) make no right.
        let numbered = matches!(job.publisher, Publisher::Push { .. });
        let mut last = vec![0u64; self.links.len()];
        let mut latency = Latency::new();
        let mut failures = Failures::new();
        let mut frame_bytes = 0;
        let clock = Clock::start();
        let end_ns = (job.seconds * 1e9) as u64;
        let grace_ns = GRACE.as_nanos() as u64;
        let mut finished_ns = 0;
        for _ in 0..job.outstanding {
            publishing.publish(window.publish(clock.ns()))?;
        }
        publishing.flush()?;
        loop {
            let now = clock.ns();
            // A message that some member never gets must not hold up the others for longer than the grace.
            for _ in 0..window.give_up(now.saturating_sub(grace_ns)) {
                if now < end_ns {
                    publishing.publish(window.publish(now))?;
                }
            }
            if now >= end_ns && window.is_empty() {
                break;
            }
            publishing.flush()?;
            let events = self.epoll.wait(Some(Duration::from_millis(100)))?;
            let now = clock.ns();
            for index in 0..events {
                let ready = self.epoll.event(index);
                let link = &mut self.links[ready.token as usize];
                if !link.is_open() {
                    continue;
                }
                let last = &mut last[ready.token as usize];
                let received = link.receive(&mut self.scratch, |split, _| match split.header.kind {
                    Some(FrameType::GroupPush) => {
                        let number = GroupPush::decode(split.body()).ok().and_then(|push| {
                            if numbered && *last != 0 && push.sequence != *last + 1 {
                                fail(&mut failures, "out_of_sequence");
                            }
                            *last = push.sequence;
                            push.payload
                                .first_chunk::<NUMBER_BYTES>()
                                .map(|number| u64::from_be_bytes(*number))
                        });
                        frame_bytes = split.frame.len();
                        match number {
                            Some(number) => window.received(number),
                            None => fail(&mut failures, "not_a_push"),
                        }
                    }
                    Some(FrameType::Close) => {
                        let code = Close::decode(split.body()).map_or(0, |close| close.code);
                        fail(&mut failures, &format!("close_{}", code_name(code)));
                    }
                    _ => {}
                });
                if let Err(error) = received {
                    fail(&mut failures, error.name());
                    link.drop_socket();
                }
            }
            while let Some(published_ns) = window.take_done() {
                latency.record(now.saturating_sub(published_ns));
                finished_ns = now;
                if now < end_ns {
                    publishing.publish(window.publish(now))?;
                }
            }
        }
        publishing.end().context("push")?;
        if window.doubled() > 0 {
            failures.insert("received_twice".to_owned(), window.doubled());
        }
        Ok(FannedOut {
            messages: window.published(),
            expected: window.published() * members,
            received: window.receipts(),
            seconds: finished_ns as f64 / 1e9,
            latency: latency.counts(),
            frame_bytes,
            failures,
        })
    }
}
