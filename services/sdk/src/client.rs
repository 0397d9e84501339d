//! The application's handle.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use imaccess_wire::Code;
use imaccess_wire::frame::NetworkType;
use imaccess_wire::limits::{MAX_BODY, MAX_CARRIER};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::builder::{ClientBuilder, Settings};
use crate::dial::Dialer;
use crate::endpoints::Finder;
use crate::error::{ConnectError, RequestError};
use crate::link::Clock;
use crate::message::{DEFAULT_DEADLINE, GroupName, Push, Reply, RequestOptions, bounded};
use crate::pending::{Ask, Entry};
use crate::pushes::{self, PushCounters, Pushes};
use crate::state::{ConnectionState, States};
use crate::task::{Command, Parts, Task};

/// Commands on their way to the task. Few are enough: the permits bound what is unanswered, this only decouples.
const COMMANDS: usize = 64;

/// A device's connection to imaccess. Clones share it; when the last one is dropped, the client leaves.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    commands: mpsc::Sender<Command>,
    states: watch::Receiver<ConnectionState>,
    network: watch::Sender<(NetworkType, String)>,
    /// One per message in flight.
    permits: Arc<Semaphore>,
    /// Protects the one receiver until it is taken.
    pushes: Mutex<Option<Pushes>>,
    counters: Arc<PushCounters>,
}

impl Client {
    /// Begins a client of `app` on `device` in the cluster whose ipconfig is at `ipconfig_url`
    /// (`http://host:port`).
    pub fn builder(ipconfig_url: &str, app: &str, device: &str) -> ClientBuilder {
        ClientBuilder::new(ipconfig_url, app, device)
    }

    pub(crate) async fn start(settings: Settings, finder: Finder) -> Result<Self, ConnectError> {
        let settings = Arc::new(settings);
        let (states_sender, states) = watch::channel(ConnectionState::Connecting);
        let states_sender = Arc::new(states_sender);
        let (commands, commands_receiver) = mpsc::channel(COMMANDS);
        let (queue, pushes, handled) = pushes::channel(settings.push_queue);
        let (network, network_receiver) = watch::channel((settings.network, settings.carrier.clone()));
        let (first, outcome) = oneshot::channel();
        let inner = Inner {
            commands,
            states,
            network,
            permits: Arc::new(Semaphore::new(settings.max_in_flight.min(Semaphore::MAX_PERMITS))),
            pushes: Mutex::new(Some(pushes)),
            counters: queue.counters(),
        };
        let dialer = Dialer {
            finder,
            settings: Arc::clone(&settings),
            clock: Clock::start(),
            network: network_receiver.clone(),
            states: Arc::clone(&states_sender),
        };
        let parts = Parts {
            settings: Arc::clone(&settings),
            dialer,
            commands: commands_receiver,
            states: states_sender,
            pushes: queue,
            handled,
            network: network_receiver,
            first,
        };
        tokio::spawn(Task::new(parts).run());
        let client = Self {
            inner: Arc::new(inner),
        };
        match outcome.await {
            Ok(result) => result?,
            // Only if the runtime is being shut down.
            Err(_) => {
                return Err(ConnectError::Invalid(
                    "the runtime ended while connecting".to_owned(),
                ));
            }
        }
        for (business, group) in &settings.groups {
            client
                .join(*business, group.clone())
                .await
                .map_err(|source| ConnectError::Group {
                    business: *business,
                    group: String::from_utf8_lossy(group).into_owned(),
                    source,
                })?;
        }
        Ok(client)
    }

    /// Asks a business and waits for its answer, at most [`DEFAULT_DEADLINE`].
    ///
    /// The request is repeated with the same message id when the answer says so (`retry`, `busy`,
    /// `business_unavailable`) and after a lost connection. It is answered once; a business that must not act twice
    /// remembers the message id.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(&self, business: u32, payload: impl Into<Bytes>) -> Result<Reply, RequestError> {
        self.request_with(business, payload, RequestOptions::default())
            .await
    }

    /// As [`request`](Self::request), with a deadline, metadata or a trace.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request_with(
        &self,
        business: u32,
        payload: impl Into<Bytes>,
        options: RequestOptions,
    ) -> Result<Reply, RequestError> {
        options.check()?;
        let payload = checked(payload.into())?;
        let RequestOptions {
            deadline,
            metadata,
            trace,
        } = options;
        self.ask(
            Ask::Request {
                business,
                payload,
                metadata,
                trace,
            },
            deadline,
        )
        .await
    }

    /// Sends a message one way and waits until the access layer has accepted it; what the business does with it is not
    /// told. Never repeated once it may have arrived: after a lost connection the result is
    /// [`RequestError::Unknown`].
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn send(&self, business: u32, payload: impl Into<Bytes>) -> Result<(), RequestError> {
        let payload = checked(payload.into())?;
        let ask = Ask::Send {
            business,
            payload,
            metadata: Bytes::new(),
            trace: String::new(),
        };
        self.ask(ask, DEFAULT_DEADLINE).await.map(drop)
    }

    /// Enters a group of a business: its pushes come to [`pushes`](Self::pushes) until [`leave`](Self::leave), also
    /// over reconnects.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn join(&self, business: u32, group: impl Into<Bytes>) -> Result<(), RequestError> {
        let name = GroupName::new(business, group.into())?;
        self.ask(Ask::Join(name), DEFAULT_DEADLINE).await.map(drop)
    }

    /// Leaves a group.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn leave(&self, business: u32, group: impl Into<Bytes>) -> Result<(), RequestError> {
        let name = GroupName::new(business, group.into())?;
        self.ask(Ask::Leave(name), DEFAULT_DEADLINE).await.map(drop)
    }

    /// Takes the receiving end of the pushes, those that came before included; `None` if it was taken before (also by
    /// [`on_push`](Self::on_push)).
    ///
    /// When [`ClientBuilder::push_queue`] pushes wait because the application is slow, the client stops reading its
    /// connection until there is room: nothing is dropped here, replies wait as well, and the gateway applies the
    /// business's slow-consumer policy. Meanwhile no pings are sent, so a connection whose application sleeps for two
    /// and a half ping intervals ends, and is resumed afterwards. Until somebody has taken this end, and after it was
    /// dropped, pushes beyond the queue are dropped and counted ([`dropped_pushes`](Self::dropped_pushes)).
    #[must_use]
    pub fn pushes(&self) -> Option<Pushes> {
        let taken = self
            .inner
            .pushes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.inner.counters.taken.store(true, Ordering::Release);
        taken
    }

    /// Calls `handler` for each push, one after the other; a push counts as handled when the handler's future has
    /// ended. Returns whether it could be set: there is one receiver of pushes.
    pub fn on_push<F, Fut>(&self, mut handler: F) -> bool
    where
        F: FnMut(Push) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let Some(mut pushes) = self.pushes() else {
            return false;
        };
        tokio::spawn(async move {
            while let Some(push) = pushes.recv().await {
                handler(push).await;
            }
        });
        true
    }

    /// How many pushes were dropped because nobody took them.
    #[must_use]
    pub fn dropped_pushes(&self) -> u64 {
        self.inner.counters.dropped.load(Ordering::Relaxed)
    }

    /// Follows the connection's state.
    #[must_use]
    pub fn states(&self) -> States {
        States::new(self.inner.states.clone())
    }

    /// The connection's state now.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        *self.inner.states.borrow()
    }

    /// The device is on another network now: the client connects there at once, and goes on with its session. A
    /// carrier's name beyond 32 bytes is left out.
    pub fn set_network(&self, network: NetworkType, carrier: &str) {
        let carrier = if carrier.len() > MAX_CARRIER { "" } else { carrier };
        self.inner.network.send_replace((network, carrier.to_owned()));
    }

    /// Says goodbye and ends the session: the device is offline at once, not after the resume window. Requests without
    /// an answer end with [`RequestError::Closed`]. Returns when it is done.
    pub async fn close(&self) {
        // A closed channel means that the task has ended.
        let _ = self.inner.commands.send(Command::Close).await;
        let _ = self
            .states()
            .wait_for(|state| matches!(state, ConnectionState::Closed { .. }))
            .await;
    }

    async fn ask(&self, ask: Ask, wait: Duration) -> Result<Reply, RequestError> {
        let now = Instant::now();
        // A century stands for "no deadline": adding more may overflow.
        let deadline = now + wait.min(Duration::from_secs(100 * 365 * 86_400));
        let busy = |_| RequestError::DeadlineExceeded { last: Code::Busy };
        let permit = timeout_at(deadline, Arc::clone(&self.inner.permits).acquire_owned())
            .await
            .map_err(busy)?;
        let permit = permit.map_err(|_| self.closed())?;
        let (answer, outcome) = oneshot::channel();
        let entry = Entry::new(ask, deadline, answer, permit);
        let sent = timeout_at(deadline, self.inner.commands.send(Command::Ask(entry)))
            .await
            .map_err(busy)?;
        sent.map_err(|_| self.closed())?;
        outcome.await.unwrap_or_else(|_| Err(self.closed()))
    }

    fn closed(&self) -> RequestError {
        let code = match self.state() {
            ConnectionState::Closed { code } => code,
            _ => Code::Ok,
        };
        RequestError::Closed { code }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// What can't go through any gateway is refused before it waits; a gateway may take less.
fn checked(payload: Bytes) -> Result<Bytes, RequestError> {
    bounded("the payload", payload.len(), MAX_BODY)?;
    Ok(payload)
}
