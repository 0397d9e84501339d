//! Messages and their answers: the loop behind `echo`, `idle` and `capacity`.
//!
//! Saturated, each connection sends when it has its answer, and a latency is counted from the sending. At a rate,
//! messages go when they were meant to, whether or not earlier ones are answered, and a latency is counted from
//! the intended time: a server that stalls pays for every message that it delayed.

use std::collections::VecDeque;
use std::time::Duration;

use imaccess_wire::FrameType;
use imaccess_wire::frame::{Close, Ping, Reply, Request};
use imaccess_wire::header::Split;

use super::connect::code_name;
use super::{Clock, GRACE, Link, Waiting, Worker, fail, need_links};
use crate::job::{Exchange, Exchanged, Failures, Message, Pace};
use crate::latency::Latency;
use crate::schedule::Schedule;

/// Waits at least this often, so that the end of the job is seen.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

impl Worker {
    pub(super) fn exchange(&mut self, job: &Exchange) -> anyhow::Result<Exchanged> {
        need_links(&self.links)?;
        let mut talk = Talk::new(job.message);
        let end_ns = (job.seconds * 1e9) as u64;
        let mut schedule = match job.pace {
            Pace::Saturated => Schedule::new(0.0, 0.0),
            Pace::PerSecond(rate) => Schedule::new(rate, job.seconds),
        };
        let saturated = matches!(job.pace, Pace::Saturated);
        let clock = Clock::start();
        if saturated {
            for link in self.links.iter_mut().filter(|link| link.is_open()) {
                talk.send(link, clock.ns());
            }
        }
        loop {
            let mut now = clock.ns();
            while let Some((number, intended)) = schedule.due(now) {
                let at = (number % self.links.len() as u64) as usize;
                talk.send(&mut self.links[at], intended);
            }
            // Saturated with nothing unanswered: every connection is gone.
            let over = if saturated {
                now >= end_ns || talk.unanswered == 0
            } else {
                schedule.next_ns().is_none()
            };
            if over && (talk.unanswered == 0 || now > end_ns + GRACE.as_nanos() as u64) {
                break;
            }
            now = clock.ns();
            let until = schedule
                .next_ns()
                .map(|next| Duration::from_nanos(next.saturating_sub(now)));
            let events = self
                .epoll
                .wait(Some(until.map_or(LONGEST_WAIT, |until| until.min(LONGEST_WAIT))))?;
            for index in 0..events {
                let ready = self.epoll.event(index);
                let link = &mut self.links[ready.token as usize];
                if !link.is_open() {
                    continue;
                }
                let now = clock.ns();
                let answered = talk.receive(link, &mut self.scratch, now);
                if saturated && answered > 0 && now < end_ns {
                    for _ in 0..answered {
                        talk.send(link, now);
                    }
                }
            }
        }
        let seconds = clock.seconds();
        self.forget_unanswered(&mut talk);
        Ok(talk.done(seconds))
    }

    /// What has no answer by now is a failure, and no answer to it may be taken for one to a later message.
    fn forget_unanswered(&mut self, talk: &mut Talk) {
        for link in &mut self.links {
            for _ in 0..link.waiting.len() {
                fail(&mut talk.failures, "unanswered");
            }
            link.waiting.clear();
        }
    }
}

/// What is said on all connections, and what came of it.
struct Talk {
    message: Message,
    payload: Vec<u8>,
    frame: Vec<u8>,
    sent: u64,
    answered: u64,
    unanswered: u64,
    failures: Failures,
    latency: Latency,
    request_bytes: usize,
    answer_bytes: usize,
}

impl Talk {
    fn new(message: Message) -> Self {
        let bytes = if let Message::Request { bytes, .. } = message {
            bytes
        } else {
            0
        };
        Self {
            message,
            // Any bytes do: nobody compresses or interprets them.
            payload: (0..bytes).map(|index| index as u8).collect(),
            frame: Vec::new(),
            sent: 0,
            answered: 0,
            unanswered: 0,
            failures: Failures::new(),
            latency: Latency::new(),
            request_bytes: 0,
            answer_bytes: 0,
        }
    }

    /// Sends one message that was meant for `intended_ns`.
    #[inline]
    fn send(&mut self, link: &mut Link, intended_ns: u64) {
        self.sent += 1;
        if !link.is_open() {
            fail(&mut self.failures, "not_connected");
            return;
        }
        self.frame.clear();
        let id = match self.message {
            Message::Ping => {
                Ping::default().encode(&mut self.frame);
                0
            }
            Message::Request { business, .. } => {
                let message_id = link.next_message;
                link.next_message += 1;
                Request {
                    business,
                    message_id,
                    payload: &self.payload,
                    ..Request::default()
                }
                .encode(&mut self.frame);
                message_id
            }
        };
        self.request_bytes = self.frame.len();
        match link.send(&self.frame) {
            Ok(()) => {
                link.waiting.push_back(Waiting { id, intended_ns });
                self.unanswered += 1;
            }
            Err(error) => {
                fail(&mut self.failures, error.name());
                self.lose(link);
            }
        }
    }

    /// Reads what there is; how many messages were answered, rightly or not.
    #[inline]
    fn receive(&mut self, link: &mut Link, scratch: &mut [u8], now_ns: u64) -> u64 {
        let before = self.unanswered;
        let received = link
            .flush()
            .and_then(|()| link.receive(scratch, |split, waiting| self.answer(split, waiting, now_ns)));
        let answered = before - self.unanswered;
        if let Err(error) = received {
            fail(&mut self.failures, error.name());
            self.lose(link);
            return 0;
        }
        answered
    }

    /// The connection is gone, and with it the answers that it owed.
    fn lose(&mut self, link: &mut Link) {
        for _ in link.waiting.drain(..) {
            self.unanswered -= 1;
            fail(&mut self.failures, "answer_lost");
        }
        link.drop_socket();
    }

    #[inline]
    fn answer(&mut self, split: &Split<'_>, waiting: &mut VecDeque<Waiting>, now_ns: u64) {
        let verdict = match split.header.kind {
            Some(FrameType::Reply) => Reply::decode(split.body()).map(|reply| {
                let right = reply.code == 0 && reply.payload == self.payload;
                (reply.message_id, right, reply.code)
            }),
            // The bare server sends back what it got.
            Some(FrameType::Request) => Request::decode(split.body())
                .map(|request| (request.message_id, request.payload == self.payload, 0)),
            Some(FrameType::Pong | FrameType::Ping) => Ok((0, true, 0)),
            Some(FrameType::Close) => {
                let code = Close::decode(split.body()).map_or(0, |close| close.code);
                fail(&mut self.failures, &format!("close_{}", code_name(code)));
                return;
            }
            // Pushes and the like are nothing that was asked for.
            _ => return,
        };
        let Ok((id, right, code)) = verdict else {
            fail(&mut self.failures, "not_a_frame");
            return;
        };
        // Answers come in order but for those of a business that reorders: the first is the likely one.
        let Some(at) = waiting.iter().position(|waiting| waiting.id == id) else {
            fail(&mut self.failures, "late_or_unasked");
            return;
        };
        let asked = waiting.remove(at).expect("the position was just found");
        self.unanswered -= 1;
        self.answer_bytes = split.frame.len();
        if right {
            self.answered += 1;
            self.latency.record(now_ns.saturating_sub(asked.intended_ns));
        } else if code != 0 {
            fail(&mut self.failures, &code_name(code));
        } else {
            fail(&mut self.failures, "wrong_payload");
        }
    }

    fn done(self, seconds: f64) -> Exchanged {
        Exchanged {
            sent: self.sent,
            answered: self.answered,
            failures: self.failures,
            seconds,
            latency: self.latency.counts(),
            request_bytes: self.request_bytes,
            answer_bytes: self.answer_bytes,
        }
    }
}
