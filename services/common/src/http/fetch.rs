//! One request on a connection of its own: the key set of an API server, the control pages of a gateway; what is asked a
//! few times an hour.

use std::io;
use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, Uri, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::tls::{ClientTls, TlsError};

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address has another form than `http://host[:port]/path`, or `https://…`.
    #[error("{0:?} is no address to fetch from: it must begin with http:// or https:// and name a host")]
    Address(String),
    /// An `https` address, and nothing to judge the server by.
    #[error("the server's authority must be given for https://")]
    NoAuthority,
    /// The authority's file can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server can't be reached, or isn't the one that is expected.
    #[error("can't connect: {0}")]
    Connect(#[source] io::Error),
    /// The exchange broke.
    #[error("the exchange failed: {0}")]
    Exchange(#[source] hyper::Error),
    /// Another status than 200.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// The body broke, or is longer than allowed.
    #[error("the body can't be taken: {0}")]
    Body(#[source] axum::Error),
    /// It took too long in all.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
}

/// Fetches `url` within `deadline`, `most` bytes at most. For `https` the server must have a certificate of `authority`, a
/// PEM file, with the URL's host as a name. `bearer` is sent as the bearer token. Redirections are not followed.
///
/// # Errors
/// [`FetchError`]; none shows the token.
pub async fn fetch(
    url: &str,
    authority: Option<&Path>,
    bearer: Option<&str>,
    deadline: Duration,
    most: usize,
) -> Result<Vec<u8>, FetchError> {
    tokio::time::timeout(deadline, fetch_unbounded(url, authority, bearer, most))
        .await
        .unwrap_or(Err(FetchError::Deadline(deadline)))
}

/// Asks a server that knows this side by its certificate: `address` is `host:port`, and the server must have the name that
/// `tls` expects. Returns whatever it answers, `most` bytes of body at most, within `deadline`.
///
/// # Errors
/// [`FetchError`]. With TLS 1.3 a certificate that isn't accepted shows as [`FetchError::Exchange`].
pub async fn ask(
    tls: &ClientTls,
    address: &str,
    method: Method,
    path: &str,
    body: Vec<u8>,
    deadline: Duration,
    most: usize,
) -> Result<(StatusCode, Vec<u8>), FetchError> {
    let asked = async {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, address)
            .body(Body::from(body))
            .map_err(|_| FetchError::Address(format!("{address}{path}")))?;
        let stream = tls.connect(address).await.map_err(FetchError::Connect)?;
        exchange(stream, request, most).await
    };
    tokio::time::timeout(deadline, asked)
        .await
        .unwrap_or(Err(FetchError::Deadline(deadline)))
}

async fn fetch_unbounded(
    url: &str,
    authority: Option<&Path>,
    bearer: Option<&str>,
    most: usize,
) -> Result<Vec<u8>, FetchError> {
    let fault = || FetchError::Address(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| fault())?;
    let host = uri.host().ok_or_else(fault)?;
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(fault()),
    };
    let address = format!(
        "{host}:{}",
        uri.port_u16().unwrap_or(if secure { 443 } else { 80 })
    );
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::get(path)
        .header(header::HOST, uri.authority().map_or(host, |given| given.as_str()))
        // An API server's key set is `application/jwk-set+json`, and it refuses (406) who asks for JSON alone.
        .header(header::ACCEPT, "application/json, application/jwk-set+json");
    if let Some(bearer) = bearer {
        request = request.header(header::AUTHORIZATION, format!("Bearer {bearer}"));
    }
    let request = request.body(Body::empty()).map_err(|_| fault())?;
    if secure {
        let authority = authority.ok_or(FetchError::NoAuthority)?;
        // An IPv6 address stands in brackets in a URL, and without them in a certificate.
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let tls = ClientTls::http_once(authority, name)?;
        let stream = tls.connect(&address).await.map_err(FetchError::Connect)?;
        whole(exchange(stream, request, most).await?)
    } else {
        let stream = TcpStream::connect(&address).await.map_err(FetchError::Connect)?;
        whole(exchange(stream, request, most).await?)
    }
}

/// Only a document is one.
fn whole((status, body): (StatusCode, Vec<u8>)) -> Result<Vec<u8>, FetchError> {
    if status == StatusCode::OK {
        Ok(body)
    } else {
        Err(FetchError::Status(status))
    }
}

async fn exchange<S>(
    stream: S,
    request: Request<Body>,
    most: usize,
) -> Result<(StatusCode, Vec<u8>), FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(FetchError::Exchange)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(FetchError::Exchange)?;
        let status = response.status();
        axum::body::to_bytes(Body::new(response.into_body()), most)
            .await
            .map(|body| (status, Vec::from(body)))
            .map_err(FetchError::Body)
    };
    tokio::pin!(connection, answer);
    // The connection moves the bytes; when it has ended, what it brought is still to be taken.
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(fault) => Err(FetchError::Exchange(fault)),
        },
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::HeaderMap;
    use axum::routing::get;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::http::{Limits, serve_router};

    const LIMITS: Limits = Limits {
        connections: 8,
        header_timeout: Duration::from_secs(5),
        max_age: Duration::from_secs(30),
        close_timeout: Duration::from_millis(100),
        buffer_bytes: 8_192,
    };

    /// Kubernetes answers 406 at `/openid/v1/jwks` to who doesn't accept its type, which isn't `application/json`.
    async fn keys_like_an_api_server(headers: HeaderMap) -> Result<&'static str, StatusCode> {
        let accepted = headers["accept"].to_str().unwrap();
        let accepts = accepted
            .split(',')
            .any(|kind| kind.trim() == "application/jwk-set+json");
        if accepts {
            Ok("{}")
        } else {
            Err(StatusCode::NOT_ACCEPTABLE)
        }
    }

    #[tokio::test]
    async fn a_document_comes_whole_or_not_at_all() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/long", get(async || "x".repeat(10_000)))
            .route(
                "/token",
                get(async |headers: HeaderMap| headers["authorization"].to_str().unwrap().to_owned()),
            )
            .route("/keys", get(keys_like_an_api_server))
            .route("/hang", get(std::future::pending::<&'static str>));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve_router(listener, router, LIMITS, stop.clone()));
        let get = async |path: &str, most: usize, deadline: Duration| {
            fetch(
                &format!("http://{address}{path}"),
                None,
                Some("secret"),
                deadline,
                most,
            )
            .await
        };
        let patient = Duration::from_secs(20);
        assert_eq!(get("/token", 100, patient).await.unwrap(), b"Bearer secret");
        assert_eq!(get("/keys", 100, patient).await.unwrap(), b"{}");
        assert_eq!(get("/long", 10_000, patient).await.unwrap().len(), 10_000);
        assert!(matches!(
            get("/long", 9_999, patient).await,
            Err(FetchError::Body(_))
        ));
        assert!(matches!(
            get("/nothing", 10, patient).await,
            Err(FetchError::Status(StatusCode::NOT_FOUND))
        ));
        assert!(matches!(
            get("/hang", 10, Duration::from_millis(50)).await,
            Err(FetchError::Deadline(_))
        ));
        for bad in ["ftp://x/", "/path", "nonsense"] {
            let fault = fetch(bad, None, None, patient, 1).await.unwrap_err();
            assert!(matches!(fault, FetchError::Address(_)), "{bad}: {fault}");
        }
        assert!(matches!(
            fetch("https://localhost/", None, None, patient, 1).await,
            Err(FetchError::NoAuthority)
        ));
        stop.cancel();
        serving.await.unwrap();
    }
}
