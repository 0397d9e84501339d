//! A business server that answers as it is told, records the events that it is sent, and can be stopped and started again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use imaccess_proto::v1::business_server::{Business, BusinessServer};
use imaccess_proto::v1::{BusinessReply, BusinessRequest, ConnectionEvent, FromAccess, FromBusiness};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Replies that wait to be written.
const REPLIES: usize = 1024;

/// How requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// With what they carry.
    Echo,
    /// Never, and events aren't acknowledged either.
    Hang,
    /// With this code.
    Fail(u32),
    /// With what they carry, so much later.
    Late(Duration),
}

/// The server.
#[derive(Debug)]
pub struct ScriptedBusiness {
    /// Where it listens, also after a restart.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    manner: watch::Sender<Manner>,
    /// Counts its ends: streams end with it.
    ended: watch::Sender<u64>,
    events: Mutex<Vec<ConnectionEvent>>,
}

impl Shared {
    fn note(&self, events: Vec<ConnectionEvent>) {
        let mut all = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(events);
    }
}

impl ScriptedBusiness {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn start(manner: Manner) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("a port for the business")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            manner: watch::Sender::new(manner),
            ended: watch::Sender::new(0),
            events: Mutex::default(),
        });
        let mut business = Self {
            address,
            shared,
            task: None,
        };
        business.serve(listener);
        Ok(business)
    }

    /// Answers in another manner from now on.
    pub fn behave(&self, manner: Manner) {
        self.shared.manner.send_replace(manner);
    }

    /// Breaks its streams and listens no more.
    pub async fn stop(&mut self) {
        self.shared.ended.send_modify(|ends| *ends += 1);
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }

    /// Listens again where it did.
    ///
    /// # Errors
    /// When it can't.
    pub fn start_again(&mut self) -> Result<()> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.address).context("the business's port again")?;
        let listener = socket.listen(128)?;
        self.serve(listener);
        Ok(())
    }

    /// The events that it has acknowledged, in the order in which they came.
    #[must_use]
    pub fn events(&self) -> Vec<ConnectionEvent> {
        let events = self.shared.events.lock();
        events.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn serve(&mut self, listener: TcpListener) {
        let server = BusinessServer::new(Server(Arc::clone(&self.shared)));
        let mut ended = self.shared.ended.subscribe();
        self.task = Some(tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let end = async move {
                let _ = ended.changed().await;
            };
            let _ = tonic::transport::Server::builder()
                .add_service(server)
                .serve_with_incoming_shutdown(incoming, end)
                .await;
        }));
    }
}

impl Drop for ScriptedBusiness {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

struct Server(Arc<Shared>);

#[tonic::async_trait]
impl Business for Server {
    type ServeStream = ReceiverStream<Result<FromBusiness, Status>>;

    async fn serve(
        &self,
        request: Request<Streaming<FromAccess>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let (sender, receiver) = mpsc::channel(REPLIES);
        let (shared, mut ended) = (Arc::clone(&self.0), self.0.ended.subscribe());
        tokio::spawn(async move {
            tokio::select! {
                () = attend(request.into_inner(), sender, shared) => {}
                _ = ended.changed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

type Replies = mpsc::Sender<Result<FromBusiness, Status>>;

/// One stream, until either side ends it.
async fn attend(mut input: Streaming<FromAccess>, output: Replies, shared: Arc<Shared>) {
    let mut manner = shared.manner.subscribe();
    loop {
        let message = tokio::select! {
            message = input.message() => message,
            () = output.closed() => return,
        };
        let Ok(Some(message)) = message else { return };
        if let Some(last) = message.events.last().map(|event| event.sequence) {
            // One that hangs takes nothing: it is told again on its next stream.
            if *manner.borrow_and_update() == Manner::Hang {
                return hold(&output).await;
            }
            shared.note(message.events);
            let ack = FromBusiness {
                event_ack: last,
                ..FromBusiness::default()
            };
            if output.send(Ok(ack)).await.is_err() {
                return;
            }
        }
        let now = *manner.borrow_and_update();
        if !answer(message.requests, now, &output).await {
            return;
        }
    }
}

/// Keeps the stream open and does nothing.
async fn hold(output: &Replies) {
    output.closed().await;
}

/// Whether the stream goes on.
async fn answer(requests: Vec<BusinessRequest>, manner: Manner, output: &Replies) -> bool {
    let replied = |code: u32| {
        let reply = move |request: BusinessRequest| BusinessReply {
            id: request.id,
            code,
            payload: request.payload,
            ..BusinessReply::default()
        };
        let wanted = requests.iter().filter(|request| request.id != 0).cloned();
        FromBusiness {
            replies: wanted.map(reply).collect(),
            ..FromBusiness::default()
        }
    };
    match manner {
        Manner::Hang => true,
        Manner::Echo => output.send(Ok(replied(0))).await.is_ok(),
        Manner::Fail(code) => output.send(Ok(replied(code))).await.is_ok(),
        Manner::Late(delay) => {
            let (later, output) = (replied(0), output.clone());
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let _ = output.send(Ok(later)).await;
            });
            true
        }
    }
}
