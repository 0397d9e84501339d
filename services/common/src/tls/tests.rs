//! Two ends on ports the kernel chooses, with authorities that live as long as the test.

mod authority;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use prometheus::Registry;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::authority::{Authority, Files, Pair};
use super::*;
use crate::metrics::render;

const ROUTING: &str = "routing.demo.default.imaccess.internal";
const SIDECAR: &str = "sidecar.demo.default.imaccess.internal";

/// One end: its files, its identity, and what it counted.
struct Part {
    files: Files,
    identity: Arc<Identity>,
    registry: Registry,
}

fn config(files: &Files) -> TlsConfig {
    TlsConfig {
        certificate: files.path("tls.crt"),
        key: files.path("tls.key"),
        authority: files.path("ca.crt"),
    }
}

impl Part {
    fn new(pair: &Pair, authorities: &[&Authority]) -> Part {
        let files = Files::new(pair, authorities);
        let registry = Registry::new();
        let metrics = TlsMetrics::register(&registry);
        let identity = Identity::load(config(&files), metrics).unwrap();
        Part {
            files,
            identity,
            registry,
        }
    }

    fn replace(&mut self, pair: &Pair, authorities: &[&Authority]) -> bool {
        self.files.replace(&pair.certificate, &pair.key, authorities);
        self.identity.refresh()
    }

    fn has(&self, line: &str) -> bool {
        render(&self.registry).lines().any(|found| found == line)
    }

    /// Waits for a line on the metrics page.
    async fn shows(&self, line: &str) {
        let start = Instant::now();
        while !self.has(line) {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{line} never came:\n{}",
                render(&self.registry)
            );
            tokio::task::yield_now().await;
        }
    }
}

/// A server that sends back what it reads, and hands out what each client proved.
struct Echo {
    address: SocketAddr,
    peers: mpsc::Receiver<Peer>,
    task: JoinHandle<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Echo {
    async fn start(part: &Part, clients: Clients) -> Echo {
        Echo::start_within(part, clients, Duration::from_secs(20)).await
    }

    async fn start_within(part: &Part, clients: Clients, deadline: Duration) -> Echo {
        let tls = ServerTls::grpc(Arc::clone(&part.identity), clients).unwrap();
        Echo::serve(tls, deadline).await
    }

    async fn serve(tls: ServerTls, deadline: Duration) -> Echo {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = tls.incoming_within(listener, deadline);
        let (tell, peers) = mpsc::channel(16);
        let task = tokio::spawn(async move {
            loop {
                let connection = incoming.accept().await;
                tell.send(connection.peer().clone()).await.unwrap();
                tokio::spawn(async move {
                    let (mut read, mut write) = tokio::io::split(connection);
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        Echo { address, peers, task }
    }
}

/// Whether a byte comes back; else why not.
async fn exchange<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    stream: &mut S,
) -> Result<(), Failure> {
    let turn = async {
        stream.write_all(b"x").await?;
        stream.flush().await?;
        stream.read_exact(&mut [0]).await
    };
    turn.await.map(drop).map_err(|fault| Failure::of(&fault))
}

async fn dial(tls: &ClientTls, to: &Echo) -> Result<(), Failure> {
    let mut stream = tls
        .connect(&to.address.to_string())
        .await
        .map_err(|fault| Failure::of(&fault))?;
    exchange(&mut stream).await
}

fn client(part: &Part, name: &str) -> ClientTls {
    ClientTls::grpc(Arc::clone(&part.identity), name).unwrap()
}

fn only(name: &str) -> Clients {
    Clients::Named(vec![name.to_owned()])
}

#[tokio::test]
async fn a_client_gets_in_with_the_right_certificate_only() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let server = Part::new(&ours.issue(&[SIDECAR]), &[&ours]);
    let mut echo = Echo::start(&server, only(ROUTING)).await;
    let failures = |reason: &str, count: u32| {
        format!("imaccess_tls_handshake_failures_total{{reason=\"{reason}\",side=\"server\"}} {count}")
    };

    let right = Part::new(&ours.issue(&["another.name", ROUTING]), &[&ours]);
    assert_eq!(dial(&client(&right, SIDECAR), &echo).await, Ok(()));
    let names = echo.peers.recv().await.unwrap().names;
    assert_eq!(&*names, ["another.name", ROUTING]);
    server
        .shows("imaccess_tls_handshakes_total{side=\"server\"} 1")
        .await;
    assert!(right.has("imaccess_tls_handshakes_total{side=\"client\"} 1"));

    // The refusal comes as an alert, or, when the client's byte crossed it, as a reset.
    let refused = |result| matches!(result, Err(Failure::RefusedByPeer | Failure::Closed));
    let nobody = ClientTls::grpc_once(&server.files.path("ca.crt"), None, SIDECAR).unwrap();
    assert!(refused(dial(&nobody, &echo).await));
    server.shows(&failures("no_certificate", 1)).await;

    let stranger = Part::new(&theirs.issue(&[ROUTING]), &[&ours]);
    assert!(refused(dial(&client(&stranger, SIDECAR), &echo).await));
    server.shows(&failures("unknown_authority", 1)).await;

    let other = Part::new(&ours.issue(&[SIDECAR]), &[&ours]);
    assert!(refused(dial(&client(&other, SIDECAR), &echo).await));
    server.shows(&failures("wrong_name", 1)).await;

    let past = OffsetDateTime::now_utc() - Duration::from_secs(60);
    let late = Part::new(&ours.issue_until(&[ROUTING], past), &[&ours]);
    assert!(refused(dial(&client(&late, SIDECAR), &echo).await));
    server.shows(&failures("expired", 1)).await;

    let mut plain = TcpStream::connect(echo.address).await.unwrap();
    plain
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let _ = plain.read_to_end(&mut Vec::new()).await;
    server.shows(&failures("not_tls", 1)).await;
    assert!(echo.peers.try_recv().is_err(), "nobody else got in");
}

#[tokio::test]
async fn a_server_is_believed_with_the_expected_name_of_the_authority_only() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let routing = Part::new(&ours.issue(&[ROUTING]), &[&ours]);
    let sidecar = Part::new(&ours.issue(&[SIDECAR]), &[&ours]);
    let echo = Echo::start(&sidecar, only(ROUTING)).await;
    let elsewhere = client(&routing, "sidecar.other.default.imaccess.internal");
    assert_eq!(dial(&elsewhere, &echo).await, Err(Failure::WrongName));
    let impostor = Part::new(&theirs.issue(&[SIDECAR]), &[&ours]);
    let false_echo = Echo::start(&impostor, Clients::Guests).await;
    assert_eq!(
        dial(&client(&routing, SIDECAR), &false_echo).await,
        Err(Failure::UnknownAuthority)
    );
    assert!(routing.has("imaccess_tls_handshake_failures_total{reason=\"wrong_name\",side=\"client\"} 1"));
    assert!(
        routing.has("imaccess_tls_handshake_failures_total{reason=\"unknown_authority\",side=\"client\"} 1")
    );
}

#[tokio::test]
async fn what_is_in_memory_does_as_well_as_files() {
    let authority = Authority::new("authority");
    let gateway = Part::new(&authority.issue(&["gateway.demo"]), &[&authority]);
    let tls = ServerTls::http(Arc::clone(&gateway.identity), only("operator.demo")).unwrap();
    let echo = Echo::serve(tls, Duration::from_secs(20)).await;
    let files = Files::new(&authority.issue(&["operator.demo"]), &[&authority]);
    let config = config(&files);
    let read = |path: &std::path::Path| std::fs::read(path).unwrap();
    let (own, key) = (read(&config.certificate), read(&config.key));
    let bundle = read(&config.authority);
    let client = |name: &str| ClientTls::http_from_pem(&bundle, &own, &key, name).unwrap();
    dial(&client("gateway.demo"), &echo).await.unwrap();
    assert_eq!(
        dial(&client("sidecar.demo"), &echo).await,
        Err(Failure::WrongName)
    );
    let other = Files::new(&Authority::new("other").issue(&["operator.demo"]), &[&authority]);
    let stranger = self::config(&other);
    let fault = ClientTls::http_from_pem(&bundle, &own, &read(&stranger.key), "gateway.demo");
    assert!(fault.is_err(), "a key of another certificate");
}

#[tokio::test]
async fn guests_come_without_a_certificate_or_with_one_of_the_authority() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let server = Part::new(&ours.issue(&[ROUTING]), &[&ours]);
    let mut echo = Echo::start(&server, Clients::Guests).await;
    let nobody = ClientTls::grpc_once(&server.files.path("ca.crt"), None, ROUTING).unwrap();
    assert_eq!(dial(&nobody, &echo).await, Ok(()));
    assert_eq!(echo.peers.recv().await.unwrap(), Peer::default());
    let known = Part::new(&ours.issue(&["push"]), &[&ours]);
    assert_eq!(dial(&client(&known, ROUTING), &echo).await, Ok(()));
    assert_eq!(&*echo.peers.recv().await.unwrap().names, ["push"]);
    let stranger = Part::new(&theirs.issue(&["push"]), &[&ours]);
    assert!(dial(&client(&stranger, ROUTING), &echo).await.is_err());
}

#[tokio::test]
async fn authority_and_certificates_are_rotated_without_a_restart() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let mut server = Part::new(&old.issue(&[SIDECAR]), &[&old]);
    let mut dialler = Part::new(&old.issue(&[ROUTING]), &[&old]);
    let (tls, echo) = (
        client(&dialler, SIDECAR),
        Echo::start(&server, only(ROUTING)).await,
    );
    let address = echo.address.to_string();
    let mut first = tls.connect(&address).await.unwrap();
    assert_eq!(exchange(&mut first).await, Ok(()));

    // First everyone believes both, then each gets its new certificate, in any order; then the old authority goes.
    let newer = new.issue(&[SIDECAR]);
    assert!(server.replace(&newer, &[&new, &old]));
    assert_eq!(
        dial(&tls, &echo).await,
        Err(Failure::UnknownAuthority),
        "this is why the authority goes first"
    );
    let same = dialler.files.path("tls.crt");
    let pair = Pair {
        certificate: std::fs::read_to_string(same).unwrap(),
        key: std::fs::read_to_string(dialler.files.path("tls.key")).unwrap(),
    };
    assert!(dialler.replace(&pair, &[&old, &new]));
    assert_eq!(dial(&tls, &echo).await, Ok(()));
    assert!(dialler.replace(&new.issue(&[ROUTING]), &[&old, &new]));
    assert_eq!(dial(&tls, &echo).await, Ok(()));
    assert!(server.replace(&newer, &[&new]));
    assert!(dialler.replace(&new.issue(&[ROUTING]), &[&new]));
    assert_eq!(dial(&tls, &echo).await, Ok(()));

    // One with a certificate of the old authority is a stranger now; the connection from before goes on.
    let late = Part::new(&old.issue(&[ROUTING]), &[&new]);
    assert!(dial(&client(&late, SIDECAR), &echo).await.is_err());
    assert_eq!(exchange(&mut first).await, Ok(()));
    assert!(server.has("imaccess_tls_reloads_total{result=\"taken\"} 2"));
    assert!(!server.identity.refresh(), "nothing changed since");
}

#[tokio::test]
async fn files_that_do_not_fit_leave_the_former_certificate_in_use() {
    let ours = Authority::new("ours");
    let mut server = Part::new(&ours.issue(&[SIDECAR]), &[&ours]);
    let dialler = Part::new(&ours.issue(&[ROUTING]), &[&ours]);
    let (tls, echo) = (
        client(&dialler, SIDECAR),
        Echo::start(&server, only(ROUTING)).await,
    );
    let (one, other) = (ours.issue(&[SIDECAR]), ours.issue(&[SIDECAR]));
    let spoilt = [
        (one.certificate.as_str(), other.key.as_str(), true),
        ("", &one.key, true),
        (&one.certificate, "no key", true),
        (&one.certificate, &one.key, false),
    ];
    for (number, (certificate, key, with_authority)) in (1..).zip(spoilt) {
        let authorities: &[&Authority] = if with_authority { &[&ours] } else { &[] };
        server.files.replace(certificate, key, authorities);
        assert!(!server.identity.refresh());
        assert!(!server.identity.refresh(), "a change is judged once");
        assert!(server.has(&format!(
            "imaccess_tls_reloads_total{{result=\"failed\"}} {number}"
        )));
        assert_eq!(dial(&tls, &echo).await, Ok(()), "case {number}");
    }
    std::fs::remove_file(server.files.path("tls.key")).unwrap();
    assert!(!server.identity.refresh());
    assert!(server.has("imaccess_tls_reloads_total{result=\"failed\"} 5"));
    assert_eq!(dial(&tls, &echo).await, Ok(()));
}

#[tokio::test]
async fn the_watch_sees_a_change_by_itself_and_the_page_says_when_it_ends() {
    let ours = Authority::new("ours");
    let hour = |hours: u64| OffsetDateTime::now_utc() + Duration::from_secs(3_600 * hours);
    let (soon, later) = (hour(1), hour(2));
    let mut server = Part::new(&ours.issue_until(&[SIDECAR], soon), &[&ours]);
    let ends = |time: OffsetDateTime| {
        let gauge = "imaccess_tls_certificate_not_after_seconds{certificate=\"own\"}";
        format!("{gauge} {}", time.unix_timestamp())
    };
    assert!(server.has(&ends(soon)));
    let stop = CancellationToken::new();
    let watch = tokio::spawn(Arc::clone(&server.identity).watch(stop.clone()));
    let next = ours.issue_until(&[SIDECAR], later);
    server.files.replace(&next.certificate, &next.key, &[&ours]);
    server.shows(&ends(later)).await;
    stop.cancel();
    watch.await.unwrap();
}

#[tokio::test]
async fn a_client_that_says_nothing_is_dropped_and_holds_up_nobody() {
    let ours = Authority::new("ours");
    let server = Part::new(&ours.issue(&[SIDECAR]), &[&ours]);
    let dialler = Part::new(&ours.issue(&[ROUTING]), &[&ours]);
    let echo = Echo::start_within(&server, only(ROUTING), Duration::from_secs(2)).await;
    let mut silent = TcpStream::connect(echo.address).await.unwrap();
    assert_eq!(dial(&client(&dialler, SIDECAR), &echo).await, Ok(()));
    let read = tokio::time::timeout(Duration::from_secs(20), silent.read(&mut [0])).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    server
        .shows("imaccess_tls_handshake_failures_total{reason=\"deadline\",side=\"server\"} 1")
        .await;
}

#[test]
fn a_part_does_not_start_without_what_it_was_told_to_have() {
    let ours = Authority::new("ours");
    let (one, other) = (ours.issue(&["a"]), ours.issue(&["a"]));
    let fault = |files: &Files| {
        let metrics = TlsMetrics::register(&Registry::new());
        Identity::load(config(files), metrics).unwrap_err().to_string()
    };
    let mut files = Files::new(&one, &[&ours]);
    files.replace(&one.certificate, &other.key, &[&ours]);
    let said = fault(&files);
    assert!(said.contains("does not belong"), "{said}");
    files.replace(&one.certificate, &one.key, &[]);
    let said = fault(&files);
    assert!(
        said.contains("ca.crt") && said.contains("no certificate"),
        "{said}"
    );
    std::fs::remove_file(files.path("tls.key")).unwrap();
    let said = fault(&files);
    assert!(said.contains("can't read") && said.contains("tls.key"), "{said}");

    let part = Part::new(&one, &[&ours]);
    for bad in ["", "two words", "ends with a dot..", "héllo"] {
        assert!(
            ClientTls::grpc(Arc::clone(&part.identity), bad).is_err(),
            "{bad:?}"
        );
        assert!(
            ServerTls::grpc(Arc::clone(&part.identity), only(bad)).is_err(),
            "{bad:?}"
        );
    }
}
