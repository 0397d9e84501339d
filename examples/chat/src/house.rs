//! The rooms at work: what a line does, and what becomes of those who go and come back.
//!
//! One lock over who is online and who is where, held for a moment and never over a call. What an event leads to is done by one
//! task, in order: a device is brought back before its room is told. While [`WAITING`] of these wait, no more events are taken, so that
//! the access layer keeps them: nothing is lost while the push API is away.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use imaccess_proto::v1::{BusinessReply, BusinessRequest, ConnectionEvent};
use tokio::sync::mpsc;

use crate::line::Line;
use crate::presence::{Change, Device, Presence, Snapshot};
use crate::push::{Fault, Joined, Push};
use crate::rooms::Rooms;

/// Consequences of events that wait to be done.
const WAITING: usize = 1_024;
/// Attempts to bring a device back: its event may be here before routing knows it.
const ATTEMPTS: u32 = 6;
/// Between the first two; doubled from one to the next.
const PAUSE: Duration = Duration::from_millis(100);
/// Names that are told of a room.
const NAMES: usize = 20;

/// Codes of the client protocol's replies. The SDK repeats what is answered with the first.
const RETRY: u32 = 300;
const FAILED: u32 = 307;
/// When to repeat it.
const RETRY_AFTER_MS: u32 = 200;

/// All rooms, and the way to those in them. Clones are the same house.
#[derive(Debug, Clone)]
pub(crate) struct House {
    state: Arc<Mutex<State>>,
    push: Push,
    consequences: mpsc::Sender<Consequence>,
}

#[derive(Debug, Default)]
struct State {
    presence: Presence,
    rooms: Rooms,
}

/// What an event leads to.
#[derive(Debug)]
enum Consequence {
    /// The device has a new session: it is to be a member again.
    Bring(Device),
    /// Its session is over.
    Gone(Device),
}

impl State {
    /// What is to be done about a change: nothing, if the device is in no room.
    fn consequence(&mut self, change: Change) -> Option<Consequence> {
        let (Change::Online(device) | Change::Offline(device)) = &change;
        self.rooms.room_of(device)?;
        Some(match change {
            Change::Online(device) => Consequence::Bring(device),
            Change::Offline(device) => {
                let presence = &self.presence;
                self.rooms.went_away(&device, |other| presence.is_online(other));
                Consequence::Gone(device)
            }
        })
    }
}

impl House {
    /// An empty one, and the task that does what events lead to; it ends with the last clone.
    pub(crate) fn open(push: Push) -> Self {
        let (consequences, todo) = mpsc::channel(WAITING);
        let house = Self {
            state: Arc::default(),
            push,
            consequences,
        };
        let keeper = Keeper {
            state: Arc::clone(&house.state),
            push: house.push.clone(),
        };
        tokio::spawn(keeper.run(todo));
        house
    }

    /// Takes an event, or a row of a snapshot. When this returns it may be acknowledged.
    pub(crate) async fn hear(&self, dialler: &Arc<str>, event: &ConnectionEvent) {
        let change = lock(&self.state).presence.hear(dialler, event);
        self.follow(change).await;
    }

    /// A snapshot is whole.
    pub(crate) async fn finish(&self, dialler: &str, snapshot: &Snapshot) {
        let changes = lock(&self.state).presence.finish(dialler, snapshot);
        self.follow(changes).await;
    }

    async fn follow(&self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            let consequence = lock(&self.state).consequence(change);
            if let Some(consequence) = consequence {
                // The task goes on for as long as there is a house.
                let _ = self.consequences.send(consequence).await;
            }
        }
    }

    /// Answers a request. It may come again under the same number: what is done twice does no harm, and what is said is said once.
    pub(crate) async fn answer(&self, request: BusinessRequest) -> BusinessReply {
        let device = Device {
            app: request.app,
            name: request.device,
        };
        let text = String::from_utf8_lossy(&request.payload);
        let answer = match Line::parse(&text) {
            Line::Join(room) => self.join(&device, room).await,
            Line::Leave => self.leave(&device).await,
            Line::Who => Ok(self.who(&device)),
            Line::Say(text) => {
                // Session and message id name the request for good.
                let session: String = request.session.iter().map(|byte| format!("{byte:02x}")).collect();
                let key = format!("{session}-{}", request.message_id);
                self.say(&device, text, key).await
            }
            Line::Unclear(why) => Ok(why.to_owned()),
        };
        let (code, text, retry_after_ms) = match answer {
            Ok(text) => (0, text, 0),
            Err(Fault::Retry) => (RETRY, String::new(), RETRY_AFTER_MS),
            Err(Fault::Failed) => (FAILED, String::new(), 0),
        };
        BusinessReply {
            id: request.id,
            code,
            payload: text.into(),
            retry_after_ms,
        }
    }

    async fn join(&self, device: &Device, room: &str) -> Result<String, Fault> {
        match self.push.join(device, room).await? {
            Joined::Done => {}
            // It asks, so it has a session: routing will know it in a moment.
            Joined::Offline => return Err(Fault::Retry),
            Joined::TooMany => return Ok("you are in too many groups already".to_owned()),
        }
        let before = lock(&self.state).rooms.enter(device, room);
        match before.as_deref() {
            Some(same) if same == room => {}
            Some(other) => {
                self.push.leave(device, other).await?;
                tell(&self.push, other, format!("* {} has left", device.name)).await;
                tell(&self.push, room, format!("* {} has joined", device.name)).await;
            }
            None => tell(&self.push, room, format!("* {} has joined", device.name)).await,
        }
        Ok(self.who(device))
    }

    async fn leave(&self, device: &Device) -> Result<String, Fault> {
        let Some(room) = lock(&self.state).rooms.room_of(device).map(str::to_owned) else {
            return Ok("you are in no room".to_owned());
        };
        // First the membership: if that fails, the line is repeated, and the room still known.
        self.push.leave(device, &room).await?;
        lock(&self.state).rooms.leave(device);
        tell(&self.push, &room, format!("* {} has left", device.name)).await;
        Ok(format!("you have left {room}"))
    }

    fn who(&self, device: &Device) -> String {
        let state = lock(&self.state);
        let Some(room) = state.rooms.room_of(device) else {
            return "you are in no room: /join ROOM".to_owned();
        };
        let others: Vec<&str> = state
            .rooms
            .devices(room)
            .filter(|other| *other != device && state.presence.is_online(other))
            .map(|other| other.name.as_str())
            .collect();
        let named = others.iter().take(NAMES).copied().collect::<Vec<_>>().join(", ");
        match others.len() {
            0 => format!("you are in {room}, alone"),
            few if few <= NAMES => format!("you are in {room}, with {named}"),
            many => format!("you are in {room}, with {named} and {} more", many - NAMES),
        }
    }

    /// The room hears it, whoever said it too: that is the answer.
    async fn say(&self, device: &Device, text: &str, key: String) -> Result<String, Fault> {
        let Some(room) = lock(&self.state).rooms.room_of(device).map(str::to_owned) else {
            return Ok("you are in no room: /join ROOM".to_owned());
        };
        let said = format!("{}: {text}", device.name);
        match self.push.say(&room, said, key).await? {
            0 => Ok(String::new()),
            _ => Ok("* not everybody may have got that".to_owned()),
        }
    }
}

/// Does what events lead to.
struct Keeper {
    state: Arc<Mutex<State>>,
    push: Push,
}

impl Keeper {
    async fn run(self, mut todo: mpsc::Receiver<Consequence>) {
        while let Some(consequence) = todo.recv().await {
            match consequence {
                Consequence::Gone(device) => {
                    if let Some(room) = self.room_of(&device, false) {
                        tell(&self.push, &room, format!("* {} is gone", device.name)).await;
                    }
                }
                Consequence::Bring(device) => self.bring(&device).await,
            }
        }
    }

    /// Makes a device a member again. It is asked each time whether that is still wanted.
    async fn bring(&self, device: &Device) {
        let mut pause = PAUSE;
        for _ in 0..ATTEMPTS {
            let Some(room) = self.room_of(device, true) else {
                return;
            };
            match self.push.join(device, &room).await {
                Ok(Joined::Done) => {
                    tell(&self.push, &room, format!("* {} is here", device.name)).await;
                    return;
                }
                Ok(Joined::Offline) | Err(Fault::Retry) => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Ok(Joined::TooMany) | Err(Fault::Failed) => break,
            }
        }
        // It is told so when it says something.
        lock(&self.state).rooms.leave(device);
        tracing::warn!(
            device = device.name,
            "a device can't be brought back into its room"
        );
    }

    /// The room of a device, if that is online or isn't, as it is asked.
    fn room_of(&self, device: &Device, online: bool) -> Option<String> {
        let state = lock(&self.state);
        if state.presence.is_online(device) != online {
            return None;
        }
        state.rooms.room_of(device).map(str::to_owned)
    }
}

/// Tells a room what happens in it. No harm is done if that gets lost.
async fn tell(push: &Push, room: &str, text: String) {
    if let Err(fault) = push.say(room, text, String::new()).await {
        tracing::debug!(room, ?fault, "a room wasn't told");
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
