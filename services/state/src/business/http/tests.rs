//! Connections of calls by HTTP, with servers that are bytes on a socket.

use imaccess_common::business::BusinessConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it happens within ten seconds")
}

/// Two listeners, in the order in which a stream of place 0 goes to them.
async fn two() -> (TcpListener, TcpListener, Places) {
    let mut listeners = Vec::new();
    for _ in 0..2 {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    listeners.sort_by_key(|listener| listener.local_addr().unwrap());
    let mut config = BusinessConfig::new(1, "b", "");
    let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    config.endpoints = listeners.iter().map(url).collect();
    let second = listeners.pop().unwrap();
    (listeners.pop().unwrap(), second, Places::new(&config, 0))
}

/// Reads one request, whole, and what it was.
async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    loop {
        let mut part = [0; 4_096];
        let count = stream.read(&mut part).await.unwrap_or(0);
        if count == 0 {
            return None;
        }
        text.extend_from_slice(&part[..count]);
        let said = String::from_utf8_lossy(&text).to_string();
        if let Some((head, body)) = said.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))?;
            if body.len() >= length.parse().ok()? {
                return Some(said);
            }
        }
    }
}

/// Serves for ever; says which connection brought which request.
fn serve(listener: TcpListener) -> mpsc::Receiver<(usize, String)> {
    let (asked, incoming) = mpsc::channel(16);
    tokio::spawn(async move {
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let asked = asked.clone();
            tokio::spawn(async move {
                while let Some(said) = read(&mut stream).await {
                    let hangs = said.contains("hang");
                    let _ = asked.send((number, said)).await;
                    if hangs {
                        std::future::pending::<()>().await;
                    }
                    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"text\": \"yes\"}";
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    incoming
}

fn asking(payload: &'static str) -> BusinessRequest {
    BusinessRequest {
        id: 1,
        payload: Bytes::from_static(payload.as_bytes()),
        ..BusinessRequest::default()
    }
}

async fn ask(caller: &HttpCaller<'_>, payload: &'static str) -> Result<Bytes, CallError> {
    soon(caller.ask(asking(payload))).await.map(|reply| reply.payload)
}

#[tokio::test]
async fn calls_one_after_the_other_share_a_connection() {
    let (first, _second, places) = two().await;
    let address = first.local_addr().unwrap();
    let mut asked = serve(first);
    let caller = HttpCaller::new(&places);
    caller.connect().await.ok().unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&caller, "a").await.unwrap(), "yes");
        let (connection, said) = soon(asked.recv()).await.unwrap();
        assert_eq!(connection, 0);
        assert!(said.starts_with("POST /request HTTP/1.1\r\n"), "{said}");
        assert!(said.contains(&format!("host: {address}\r\n")), "{said}");
    }
    let (one, other) = tokio::join!(ask(&caller, "b"), ask(&caller, "c"));
    assert!(one.is_ok() && other.is_ok());
    assert_eq!(caller.open.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn what_was_not_written_is_tried_once_more_at_the_next_place() {
    let (first, second, places) = two().await;
    let caller = HttpCaller::new(&places);
    caller.connect().await.ok().unwrap();
    // The kept connection ends, and nobody listens there any more.
    drop(first.accept().await.unwrap());
    drop(first);
    soon(async {
        while !caller.idle().iter().all(|kept| kept.sender.is_closed()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let mut asked = serve(second);
    assert_eq!(ask(&caller, "a").await.unwrap(), "yes");
    assert!(soon(asked.recv()).await.unwrap().1.contains("POST"));
    assert!(asked.try_recv().is_err(), "once");
    // It stays where it is answered.
    assert_eq!(ask(&caller, "b").await.unwrap(), "yes");
    assert_eq!(soon(asked.recv()).await.unwrap().0, 0, "and keeps the connection");
}

#[tokio::test]
async fn what_was_written_is_never_repeated() {
    let (first, second, places) = two().await;
    let reading = tokio::spawn(async move {
        let (mut stream, _) = first.accept().await.unwrap();
        read(&mut stream).await
    });
    let mut asked = serve(second);
    let caller = HttpCaller::new(&places);
    let fault = ask(&caller, "a").await.unwrap_err();
    assert!(matches!(fault, CallError::Broken(_)), "{fault:?}");
    assert!(soon(reading).await.unwrap().unwrap().contains("POST"));
    assert!(asked.try_recv().is_err());
    assert!(!caller.is_connected());
}

#[tokio::test]
async fn nobody_there_is_said_so() {
    let (first, second, places) = two().await;
    drop((first, second));
    let caller = HttpCaller::new(&places);
    assert!(caller.connect().await.is_err());
    let fault = ask(&caller, "a").await.unwrap_err();
    assert!(matches!(fault, CallError::Unreached(_)), "{fault:?}");
    assert!(!caller.is_connected());
}

#[tokio::test]
async fn a_call_that_is_given_up_takes_its_connection_along() {
    let (first, _second, places) = two().await;
    let mut asked = serve(first);
    let caller = HttpCaller::new(&places);
    {
        let mut hanging = std::pin::pin!(caller.ask(BusinessRequest {
            app: "hang".to_owned(),
            ..asking("a")
        }));
        tokio::select! {
            _ = &mut hanging => panic!("it hangs"),
            asked = asked.recv() => assert_eq!(asked.unwrap().0, 0),
        }
    }
    assert!(!caller.is_connected());
    assert_eq!(ask(&caller, "b").await.unwrap(), "yes");
    assert_eq!(soon(asked.recv()).await.unwrap().0, 1);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_of_no_use_and_one_that_breaks_may_come_again() {
    let (first, second, places) = two().await;
    let (long, short) = (MAX_ANSWER + 1, 10);
    for (listener, length, written) in [(first, long, long), (second, 100, short)] {
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read(&mut stream).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&vec![b' '; written]).await;
        });
    }
    let caller = HttpCaller::new(&places);
    let fault = ask(&caller, "a").await.unwrap_err();
    assert!(matches!(fault, CallError::Unusable(_)), "{fault:?}");
    // Nobody listens at the first place any more.
    let fault = ask(&caller, "a").await.unwrap_err();
    assert!(matches!(fault, CallError::Broken(_)), "{fault:?}");
}
