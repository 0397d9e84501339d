//! Connections that join a group by themselves, a bounded number at a time.
//!
//! Few are under way, so that what the servers need in passing is next to nothing beside what they keep.

use std::time::Duration;

use imaccess_wire::FrameType;
use imaccess_wire::frame::{Accepted, Close, Join as JoinFrame};

use super::connect::code_name;
use super::{Clock, GRACE, Waiting, Worker, fail, need_links};
use crate::job::{Exchanged, Failures, Join};
use crate::latency::Latency;

/// Joins under way at a time.
const IN_FLIGHT: u64 = 32;

impl Worker {
    pub(super) fn join(&mut self, job: &Join) -> anyhow::Result<Exchanged> {
        need_links(&self.links)?;
        let mut next = job.first.min(self.links.len());
        let end = next.saturating_add(job.count).min(self.links.len());
        let (mut failures, mut latency) = (Failures::new(), Latency::new());
        let (mut sent, mut answered, mut under_way) = (0, 0, 0_u64);
        let clock = Clock::start();
        let mut heard_ns = 0;
        loop {
            while next < end && under_way < IN_FLIGHT {
                let link = &mut self.links[next];
                next += 1;
                sent += 1;
                let message_id = link.next_message;
                link.next_message += 1;
                let mut frame = Vec::new();
                JoinFrame {
                    business: job.group.business,
                    group: job.group.id.as_bytes(),
                    message_id,
                    ..JoinFrame::default()
                }
                .encode(&mut frame);
                match link.send(&frame) {
                    Ok(()) => {
                        link.waiting.push_back(Waiting {
                            id: message_id,
                            intended_ns: clock.ns(),
                        });
                        under_way += 1;
                    }
                    Err(error) => fail(&mut failures, error.name()),
                }
            }
            if under_way == 0 {
                break;
            }
            if clock.ns() > heard_ns + GRACE.as_nanos() as u64 {
                // Nobody answers any more, and no late answer may be taken for one to a later message.
                for link in &mut self.links {
                    for _ in link.waiting.drain(..) {
                        fail(&mut failures, "unanswered");
                    }
                }
                break;
            }
            let events = self.epoll.wait(Some(Duration::from_millis(100)))?;
            for index in 0..events {
                let ready = self.epoll.event(index);
                let link = &mut self.links[ready.token as usize];
                if !link.is_open() {
                    continue;
                }
                let now = clock.ns();
                let received = link.flush().and_then(|()| {
                    link.receive(&mut self.scratch, |split, waiting| match split.header.kind {
                        Some(FrameType::Accepted) => {
                            let Ok(accepted) = Accepted::decode(split.body()) else {
                                return fail(&mut failures, "not_a_frame");
                            };
                            let asked = waiting.iter().position(|asked| asked.id == accepted.message_id);
                            let Some(asked) = asked.and_then(|at| waiting.remove(at)) else {
                                return fail(&mut failures, "late_or_unasked");
                            };
                            under_way -= 1;
                            heard_ns = now;
                            if accepted.code == 0 {
                                answered += 1;
                                latency.record(now - asked.intended_ns);
                            } else {
                                fail(&mut failures, &code_name(accepted.code));
                            }
                        }
                        Some(FrameType::Close) => {
                            let code = Close::decode(split.body()).map_or(0, |close| close.code);
                            fail(&mut failures, &format!("close_{}", code_name(code)));
                        }
                        _ => {}
                    })
                });
                if let Err(error) = received {
                    fail(&mut failures, error.name());
                    under_way -= link.waiting.drain(..).len() as u64;
                    link.drop_socket();
                }
            }
        }
        Ok(Exchanged {
            sent,
            answered,
            failures,
            seconds: clock.seconds(),
            latency: latency.counts(),
            ..Exchanged::default()
        })
    }
}
