//! What a plain client sends once it is online: whole or in pieces, and what of it is repeated or lost.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastrand::Rng;
use imaccess_wire::frame::{Close, Ping, Request};
use imaccess_wire::{Code, Limits};

use super::{Client, State, device};
use crate::witness::Ground;
use crate::witness::agenda::Task;
use crate::witness::book::{Book, Expiry, LOST, MOST_OPEN};

/// When a socket took no more.
const FLUSH_AGAIN: Duration = Duration::from_millis(20);
/// A request in pieces takes up to this long.
const SPREAD_MS: u64 = 300;

thread_local! {
    /// A frame and its payload, being made.
    static FRAMES: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl Client {
    /// Asks, if it may now: not offline, not in the middle of another request, and not with too much unanswered.
    pub(in crate::witness) fn ask(&self, ground: &Ground, due: Duration, random: &mut Rng) -> bool {
        if !self.is_online() || self.has_left() {
            return false;
        }
        let mut state = self.state.lock();
        if state.out.is_holding() || state.book.unanswered() >= MOST_OPEN || state.writer.is_none() {
            return false;
        }
        let client = self.number;
        if random.u8(0..4) == 0 {
            self.ask_in_pieces(ground, &mut state, due, random);
        } else {
            let id = state.book.ask(due);
            ground.agenda.add(due + LOST, Task::Expire { client, id });
            state.append_request(ground.place.business, id);
        }
        drop(state);
        self.flush(ground);
        true
    }

    fn ask_in_pieces(&self, ground: &Ground, state: &mut State, due: Duration, random: &mut Rng) {
        let client = self.number;
        let connection = self.connection.load(Ordering::Relaxed);
        let mut moments = [0, 0].map(|_| Duration::from_millis(random.u64(1..=SPREAD_MS)));
        moments.sort_unstable();
        let [between, last] = moments;
        // An answer can come only after the last piece.
        let id = state.book.ask(due + last);
        ground.agenda.add(due + last + LOST, Task::Expire { client, id });
        FRAMES.with_borrow_mut(|(frame, payload)| {
            encode_request(&state.book, ground.place.business, id, frame, payload);
            let mut cuts = [0, 0].map(|_| random.usize(1..frame.len()));
            cuts.sort_unstable();
            state.out.append_cut(frame, cuts[0]);
            let piece = |bytes, last| Task::Piece {
                client,
                connection,
                bytes,
                last,
            };
            if random.bool() {
                ground.agenda.add(due + between, piece(cuts[1] - cuts[0], false));
            }
            ground.agenda.add(due + last, piece(0, true));
        });
    }

    /// A piece's time has come.
    pub(in crate::witness) fn release(&self, ground: &Ground, connection: u32, bytes: usize, last: bool) {
        if self.connection.load(Ordering::Relaxed) != connection {
            return;
        }
        {
            let mut state = self.state.lock();
            if last {
                state.out.release_all();
            } else {
                state.out.release(bytes);
            }
        }
        self.flush(ground);
    }

    /// A request's time to be repeated has come.
    pub(in crate::witness) fn repeat(&self, ground: &Ground, id: u64) {
        let now = ground.now();
        {
            let mut state = self.state.lock();
            // Offline it is repeated after the next login, with everything else.
            if state.writer.is_none() || !self.is_online() || !state.book.repeat(id, now) {
                return;
            }
            state.append_request(ground.place.business, id);
        }
        ground.plain_tally.lock().retries += 1;
        self.flush(ground);
    }

    /// A request's time for an answer is over.
    pub(in crate::witness) fn expire(&self, ground: &Ground, id: u64) {
        if self.has_left() {
            return;
        }
        let client = self.number;
        let expiry = self.state.lock().book.expire(id, ground.now());
        match expiry {
            Expiry::Settled => {}
            Expiry::LookAgain(at) => ground.agenda.add(at, Task::Expire { client, id }),
            Expiry::Lost(due) => {
                let what = format!("{}'s request {id}, due at {due:?}, is lost", device(client));
                ground.plain_tally.lock().lost(due, what);
            }
        }
    }

    pub(in crate::witness) fn ping(&self, ground: &Ground) {
        let client = self.number;
        if self.has_left() {
            return;
        }
        ground
            .agenda
            .add(ground.now() + ground.load.ping, Task::Ping { client });
        if !self.is_online() || ground.quiet.load(Ordering::Relaxed) {
            return;
        }
        self.state.lock().out.append(|out| Ping::default().encode(out));
        ground.plain_tally.lock().pings += 1;
        self.flush(ground);
    }

    /// Says goodbye; what is in pieces goes out whole first.
    pub(in crate::witness) fn leave(&self, ground: &Ground) {
        self.left.store(true, Ordering::Relaxed);
        {
            let mut state = self.state.lock();
            state.out.release_all();
            state
                .out
                .append(|out| Close::with_code(Code::ClientLeft).encode(out));
        }
        self.flush(ground);
    }

    /// Writes what may be written now.
    pub(in crate::witness) fn flush(&self, ground: &Ground) {
        let client = self.number;
        let mut state = self.state.lock();
        let State { out, writer, .. } = &mut *state;
        let Some(socket) = writer else { return };
        match out.flush(|bytes| socket.try_write(bytes)) {
            Ok(true) => {
                if self.has_left() && out.is_empty() {
                    // Ends our side of the connection.
                    *writer = None;
                }
            }
            Ok(false) => ground
                .agenda
                .add(ground.now() + FLUSH_AGAIN, Task::Flush { client }),
            // The reader hears of it, perhaps after a last frame.
            Err(_) => out.clear(),
        }
    }
}

impl State {
    pub(super) fn append_request(&mut self, business: u32, id: u64) {
        FRAMES.with_borrow_mut(|(frame, payload)| {
            encode_request(&self.book, business, id, frame, payload);
            self.out.append(|out| out.extend_from_slice(frame));
        });
    }
}

fn encode_request(book: &Book, business: u32, id: u64, frame: &mut Vec<u8>, payload: &mut Vec<u8>) {
    payload.clear();
    book.payload(id, payload);
    debug_assert!(payload.len() <= Limits::default().max_body, "a payload is a body");
    frame.clear();
    Request {
        business,
        message_id: id,
        payload,
        ..Request::default()
    }
    .encode(frame);
}
