//! What one device went through, read from the states that its connection showed.

use std::time::Duration;

use imaccess_sdk::{Code, ConnectionState, SessionId};

/// One state, and when it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Since the fleet's beginning.
    pub at: Duration,
    /// The state.
    pub state: ConnectionState,
}

/// From one gateway to another, as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// When the device was told to go.
    pub told: Duration,
    /// When it was online elsewhere.
    pub online: Duration,
    /// Whether the same session went on there.
    pub resumed: bool,
}

/// A connection that was lost without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// When the device had been told to go, if it had.
    pub told: Option<Duration>,
    /// When it was noticed.
    pub at: Duration,
    /// When the device was online again, if it was.
    pub online: Option<Duration>,
    /// Whether the same session went on then.
    pub resumed: bool,
}

/// All that happened to a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Course {
    /// Moves that were completed.
    pub moves: Vec<Move>,
    /// Lost connections.
    pub losses: Vec<Loss>,
    /// Told to go, and neither gone nor lost yet.
    pub moving: Option<Duration>,
    /// Why it is over, if it is.
    pub closed: Option<Code>,
}

impl Course {
    /// Of the states since a time; the session before it counts as the one to go on with.
    #[must_use]
    pub fn of(entries: &[Entry], since: Duration) -> Self {
        let mut course = Self::default();
        let mut session: Option<(SessionId, u64)> = None;
        for entry in entries {
            let counts = entry.at >= since;
            match entry.state {
                ConnectionState::Online {
                    session: id,
                    epoch,
                    resumed,
                } => {
                    let same = resumed && session.is_some_and(|(before, _)| before == id);
                    let another = session.is_some_and(|(_, before)| before != epoch);
                    if counts {
                        course.on_online(entry.at, same, another);
                    }
                    session = Some((id, epoch));
                }
                ConnectionState::Moving if counts => course.moving = Some(entry.at),
                ConnectionState::Suspended if counts => course.on_lost(entry.at),
                ConnectionState::Closed { code } if counts => course.closed = Some(code),
                _ => {}
            }
        }
        course
    }

    fn on_online(&mut self, at: Duration, resumed: bool, another_login: bool) {
        if let Some(told) = self.moving.take() {
            let online = at;
            self.moves.push(Move {
                told,
                online,
                resumed,
            });
        } else if let Some(loss) = self.losses.last_mut().filter(|loss| loss.online.is_none()) {
            loss.online = Some(at);
            loss.resumed = resumed;
        } else if another_login {
            // The order to go was shown for so short a time that nobody saw it; a loss is shown for longer.
            self.moves.push(Move {
                told: at,
                online: at,
                resumed,
            });
        }
    }

    fn on_lost(&mut self, at: Duration) {
        let told = self.moving.take();
        // Attempts that fail meanwhile are the same loss.
        if self.losses.last().is_none_or(|loss| loss.online.is_some()) {
            self.losses.push(Loss {
                told,
                at,
                online: None,
                resumed: false,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn online(session: u8, epoch: u64, resumed: bool) -> ConnectionState {
        ConnectionState::Online {
            session: SessionId([session; 16]),
            epoch,
            resumed,
        }
    }

    fn course(states: &[(u64, ConnectionState)], since: u64) -> Course {
        let entries: Vec<_> = states
            .iter()
            .map(|(at, state)| Entry {
                at: Duration::from_secs(*at),
                state: *state,
            })
            .collect();
        Course::of(&entries, Duration::from_secs(since))
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_move_is_no_loss() {
        let states = [
            (1, online(1, 10, false)),
            (5, ConnectionState::Moving),
            (6, online(1, 11, true)),
        ];
        let seen = course(&states, 2);
        let expected = Move {
            told: seconds(5),
            online: seconds(6),
            resumed: true,
        };
        assert_eq!((seen.moves, seen.losses), (vec![expected], vec![]));
        assert_eq!(
            course(&states, 7),
            Course::default(),
            "what was before doesn't count"
        );
    }

    #[test]
    fn a_move_too_quick_to_be_seen_is_still_a_move() {
        let seen = course(&[(1, online(1, 10, false)), (6, online(1, 11, true))], 2);
        assert_eq!((seen.moves.len(), seen.moves[0].resumed), (1, true));
    }

    #[test]
    fn a_loss_while_moving_is_a_loss_and_its_attempts_are_one() {
        let states = [
            (1, online(1, 10, false)),
            (5, ConnectionState::Moving),
            (6, ConnectionState::Suspended),
            (7, ConnectionState::Connecting),
            (8, ConnectionState::Suspended),
            (9, online(2, 11, true)),
        ];
        let seen = course(&states, 2);
        let expected = Loss {
            told: Some(seconds(5)),
            at: seconds(6),
            online: Some(seconds(9)),
            resumed: false,
        };
        assert_eq!(
            (seen.losses, seen.moves.len()),
            (vec![expected], 0),
            "and another session"
        );
    }

    #[test]
    fn an_order_that_is_not_followed_and_an_end_are_seen() {
        let seen = course(&[(1, online(1, 10, false)), (3, ConnectionState::Moving)], 2);
        assert_eq!(seen.moving, Some(seconds(3)));
        let code = Code::Superseded;
        let seen = course(
            &[(1, online(1, 10, false)), (3, ConnectionState::Closed { code })],
            2,
        );
        assert_eq!(seen.closed, Some(code));
    }
}
