//! From nothing to a logged-in connection: one round over the endpoints, each with its deadlines.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use imaccess_wire::Code;
use imaccess_wire::client::{ClientSession, LoginParameters};
use imaccess_wire::frame::{NetworkType, Transport};
use imaccess_wire::limits::LOGIN_ANSWER_MS;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::builder::Settings;
use crate::endpoints::{Endpoint, Finder, Network};
use crate::error::ConnectError;
use crate::incoming::{Incoming, LoggedIn};
use crate::link::{Clock, Link};
use crate::state::ConnectionState;

/// How long a login may stay without an answer (PROTOCOL.md 3.1).
const LOGIN_ANSWER: Duration = Duration::from_millis(LOGIN_ANSWER_MS);

/// Dials. Owned by whoever dials next, and given back with the result.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) finder: Finder,
    pub(crate) settings: Arc<Settings>,
    pub(crate) clock: Clock,
    pub(crate) network: watch::Receiver<(NetworkType, String)>,
    pub(crate) states: Arc<watch::Sender<ConnectionState>>,
}

/// What a round of dialling came to.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) dialer: Dialer,
    pub(crate) result: Result<(Link, LoggedIn), (ClientSession, ConnectError)>,
}

/// Where a round of dialling should lead.
#[derive(Debug, Default)]
pub(crate) struct Course {
    /// These first.
    pub(crate) wished: Vec<Endpoint>,
    /// Never there: the gateway has told this client to go.
    pub(crate) leaving: Option<Endpoint>,
    /// Another connection is in use meanwhile: the states it shows stay.
    pub(crate) moving: bool,
}

impl Course {
    fn avoids(&self, endpoint: &Endpoint) -> bool {
        self.leaving
            .as_ref()
            .is_some_and(|leaving| leaving.is_same(endpoint))
    }
}

/// How the attempt at one endpoint ended without a login.
enum Attempt {
    /// The next endpoint may do better.
    Next(ConnectError),
    /// No endpoint will do better now.
    Stop(ConnectError),
}

impl Dialer {
    /// One round: wished endpoints first, then those that the finder knows. Who leaves a gateway that told it to go asks ipconfig
    /// anew: the last answer has that gateway in it, and perhaps others that end as well.
    pub(crate) async fn dial(mut self, mut session: ClientSession, mut course: Course) -> Dialed {
        if course.leaving.is_some() {
            self.finder.expire();
        }
        let result = match self.round(&mut session, &course).await {
            Err(error) if is_about_the_token(&error) && self.may_renew() => {
                // The served token may just be old: ask for a new one, once.
                self.finder.expire();
                course.wished.clear();
                self.round(&mut session, &course).await
            }
            result => result,
        };
        let result = result.map_err(|error| (session, error));
        Dialed { dialer: self, result }
    }

    async fn round(
        &mut self,
        session: &mut ClientSession,
        course: &Course,
    ) -> Result<(Link, LoggedIn), ConnectError> {
        let mut last = course.leaving.as_ref().map(|leaving| ConnectError::Unreachable {
            endpoint: leaving.to_string(),
            why: "it has told this client to go, and no other is served".to_owned(),
        });
        let (wished, moving) = (&course.wished, course.moving);
        for endpoint in wished.iter().filter(|endpoint| !course.avoids(endpoint)) {
            match self.attempt(endpoint, session, moving).await {
                Ok(link) => return Ok(link),
                Err(Attempt::Stop(error)) => return Err(error),
                Err(Attempt::Next(error)) => last = Some(error),
            }
        }
        let network = {
            let (network, carrier) = &*self.network.borrow();
            Network::new(*network, carrier)
        };
        for endpoint in self.finder.find(&network).await? {
            if wished.contains(&endpoint) || course.avoids(&endpoint) {
                continue;
            }
            match self.attempt(&endpoint, session, moving).await {
                Ok(link) => {
                    self.finder.worked(&network, &endpoint);
                    return Ok(link);
                }
                Err(Attempt::Stop(error)) => return Err(error),
                Err(Attempt::Next(error)) => {
                    self.finder.failed(&endpoint);
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or(ConnectError::NoEndpoint(0)))
    }

    async fn attempt(
        &mut self,
        endpoint: &Endpoint,
        session: &mut ClientSession,
        moving: bool,
    ) -> Result<(Link, LoggedIn), Attempt> {
        self.show(ConnectionState::Connecting, moving);
        let within = self.settings.tcp_timeout;
        let unreachable = |why: String| {
            Attempt::Next(ConnectError::Unreachable {
                endpoint: endpoint.to_string(),
                why,
            })
        };
        let socket = match timeout(within, Link::connect(endpoint, self.clock)).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => {
                return Err(unreachable(format!(
                    "no connection within {:.1} s",
                    within.as_secs_f64()
                )));
            }
        };
        self.show(ConnectionState::Authenticating, moving);
        let mut link = socket.with(std::mem::take(session));
        let token = self.token();
        let settings = &self.settings;
        let (network, carrier) = self.network.borrow().clone();
        let parameters = LoginParameters {
            device: &settings.device,
            app: &settings.app,
            token: &token,
            install: &settings.install,
            platform: &settings.platform,
            version: &settings.version,
            features: 0,
            network,
            carrier: &carrier,
            transport: Transport::Tcp,
            ping_jitter: fastrand::f32(),
        };
        let answer = timeout(LOGIN_ANSWER, link.login(&parameters)).await;
        let lost = |code| {
            Attempt::Next(ConnectError::Lost {
                endpoint: endpoint.to_string(),
                code,
            })
        };
        let failed = match answer {
            Ok(Ok(Incoming::LoggedIn(login))) => return Ok((link, login)),
            Ok(Ok(Incoming::Refused {
                code,
                reason,
                retry_after,
            })) => {
                let retry_after = (!retry_after.is_zero()).then_some(retry_after);
                let elsewhere = matches!(
                    code,
                    Code::ConnectionLimit | Code::AddressLimit | Code::Draining | Code::LoginUnavailable
                );
                let refused = ConnectError::Refused {
                    code,
                    reason,
                    retry_after,
                };
                if elsewhere {
                    Attempt::Next(refused)
                } else {
                    Attempt::Stop(refused)
                }
            }
            Ok(Ok(Incoming::Over(over))) if !over.retry_after.is_zero() => {
                let retry_after = Some(over.retry_after);
                Attempt::Next(ConnectError::Refused {
                    code: over.code,
                    reason: String::new(),
                    retry_after,
                })
            }
            Ok(Ok(Incoming::Over(over)) | Err(over)) => lost(over.code),
            Ok(Ok(_)) => lost(Code::Unexpected),
            Err(_) => lost(Code::LoginTimeout),
        };
        *session = link.lost();
        Err(failed)
    }

    fn token(&self) -> Bytes {
        if !self.settings.token.is_empty() {
            return self.settings.token.clone();
        }
        self.finder
            .token()
            .map(|token| Bytes::copy_from_slice(token.as_bytes()))
            .unwrap_or_default()
    }

    fn may_renew(&self) -> bool {
        self.settings.token.is_empty() && self.finder.asks_ipconfig()
    }

    fn show(&self, state: ConnectionState, moving: bool) {
        if !moving {
            self.states
                .send_if_modified(|shown| std::mem::replace(shown, state) != state);
        }
    }
}

fn is_about_the_token(error: &ConnectError) -> bool {
    matches!(
        error,
        ConnectError::Refused {
            code: Code::TokenExpired | Code::TokenInvalid | Code::TokenMismatch,
            ..
        }
    )
}
