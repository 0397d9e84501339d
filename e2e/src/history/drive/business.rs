//! A business that writes down what it is told of connections, and acknowledges it at once.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use imaccess_proto::v1::business_server::{Business, BusinessServer};
use imaccess_proto::v1::{ConnectionEvent, EventKind, FromAccess, FromBusiness};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::{PREFIX, moment};
use crate::history::record::{Device, Heard, Session, Told};

/// Acknowledgements that wait to be written; events are read when there is room again.
const ANSWERS: usize = 64;

/// The business's server.
#[derive(Debug)]
pub struct Listener {
    /// Where it listens.
    pub address: SocketAddr,
    book: Arc<Book>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Book {
    begin: Instant,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    streams: Vec<String>,
    heard: Vec<Heard>,
}

impl Listener {
    /// Starts it on a free port; the run's clock begins.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("a port for the business")?;
        let address = listener.local_addr()?;
        let book = Arc::new(Book {
            begin: Instant::now(),
            pages: Mutex::default(),
        });
        let server = BusinessServer::new(Server(Arc::clone(&book)));
        let task = tokio::spawn(async move {
            // It ends with the listener's task.
            let _ = tonic::transport::Server::builder()
                .add_service(server)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await;
        });
        Ok(Self { address, book, task })
    }

    pub(super) fn begin(&self) -> Instant {
        self.book.begin
    }

    /// Shows each event so far.
    pub(super) fn each(&self, look: impl FnMut(&Heard)) {
        self.book.pages().heard.iter().for_each(look);
    }

    /// Who dialled, stream by stream, and what was heard.
    pub(super) fn take(&self) -> (Vec<String>, Vec<Heard>) {
        let pages = std::mem::take(&mut *self.book.pages());
        (pages.streams, pages.heard)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stream(&self, dialler: String) -> u32 {
        let mut pages = self.pages();
        pages.streams.push(dialler);
        u32::try_from(pages.streams.len() - 1).unwrap_or(u32::MAX)
    }

    fn hear(&self, stream: u32, events: &[ConnectionEvent]) {
        let at = moment(self.begin);
        let heard = events.iter().map(|event| Heard {
            at,
            stream,
            sequence: event.sequence,
            told: told(event),
            device: device(&event.device),
            session: Session(event.session[..].try_into().unwrap_or_default()),
            epoch: event.epoch,
        });
        self.pages().heard.extend(heard);
    }
}

fn told(event: &ConnectionEvent) -> Told {
    match event.kind() {
        EventKind::Online => Told::Online,
        EventKind::Offline => Told::Offline {
            reason: u16::try_from(event.reason).unwrap_or(u16::MAX),
        },
        EventKind::SessionLost => Told::SessionLost,
        EventKind::ResyncNeeded => Told::ResyncNeeded,
        EventKind::Unspecified => Told::Nonsense,
    }
}

/// The number in a device's id; one that no device has if it is none of ours.
fn device(id: &str) -> Device {
    let number = id.strip_prefix(PREFIX).and_then(|number| number.parse().ok());
    number.unwrap_or(Device::MAX)
}

struct Server(Arc<Book>);

#[tonic::async_trait]
impl Business for Server {
    type ServeStream = ReceiverStream<Result<FromBusiness, Status>>;

    async fn serve(
        &self,
        request: Request<Streaming<FromAccess>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let (answers, receiver) = mpsc::channel(ANSWERS);
        tokio::spawn(listen(request.into_inner(), answers, Arc::clone(&self.0)));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// One stream, to its end.
async fn listen(
    mut input: Streaming<FromAccess>,
    answers: mpsc::Sender<Result<FromBusiness, Status>>,
    book: Arc<Book>,
) {
    let mut stream = None;
    while let Ok(Some(message)) = input.message().await {
        if let Some(hello) = message.hello {
            stream = Some(book.stream(hello.instance));
        }
        let Some(last) = message.events.last() else {
            continue;
        };
        // Written down first: what is acknowledged isn't told again.
        let stream = *stream.get_or_insert_with(|| book.stream("nobody".to_owned()));
        book.hear(stream, &message.events);
        let answer = FromBusiness {
            event_ack: last.sequence,
            ..FromBusiness::default()
        };
        if answers.send(Ok(answer)).await.is_err() {
            return;
        }
    }
}
