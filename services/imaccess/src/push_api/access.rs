//! How a caller of the push API proves who it is, and knows whom it talks to.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use imaccess_common::tls::{ClientTls, Failure};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Uri;
use tonic::{Code, Request, Status};

use crate::exit::{USAGE, WithStatus};

/// Certificates and tokens, for a push API that asks for them.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct AccessArgs {
    /// Certificates of those who may have issued the push API's; needed for https://
    #[arg(long, value_name = "FILE", env = "IMACCESS_PUSH_TLS_CA")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// A name that the push API's certificate must have, where it isn't the host of the address
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    pub(crate) tls_name: Option<String>,
    /// The certificate to push with
    #[arg(long, value_name = "FILE", requires = "tls_key", requires = "tls_ca")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// A file with the service account's token to push with
    #[arg(long, value_name = "FILE", env = "IMACCESS_PUSH_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// What of them is in use.
pub(crate) struct Access {
    /// How to dial; `None`: in plain.
    pub(crate) tls: Option<ClientTls>,
    token: Option<MetadataValue<Ascii>>,
    shows_certificate: bool,
}

impl AccessArgs {
    /// Reads the files, for a push API at `url`.
    pub(crate) fn read(&self, url: &str) -> anyhow::Result<Access> {
        let uri: Uri = url.parse().unwrap_or_default();
        let secure = uri.scheme_str() == Some("https");
        if !secure && (self.tls_ca.is_some() || self.token_file.is_some()) {
            let fault = anyhow!(
                "certificates and tokens are for addresses that begin with https://, and {url:?} doesn't"
            );
            return Err(fault).or_exit(USAGE);
        }
        if !secure {
            return Ok(Access {
                tls: None,
                token: None,
                shows_certificate: false,
            });
        }
        let authority = self
            .tls_ca
            .as_deref()
            .ok_or_else(|| anyhow!("give the push API's authority by --tls-ca: {url:?} begins with https://"))
            .or_exit(USAGE)?;
        // An IPv6 address stands in brackets in a URL, and without them in a certificate.
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let name = self.tls_name.as_deref().unwrap_or(host);
        let own = self.tls_cert.as_deref().zip(self.tls_key.as_deref());
        let tls = ClientTls::grpc_once(authority, own, name).or_exit(USAGE)?;
        let token = self.token_file.as_ref().map(|path| {
            let named = || format!("can't use the token in {}", path.display());
            let text = std::fs::read_to_string(path).with_context(named)?;
            // What is wrong with it isn't shown: it is a secret.
            let value = MetadataValue::try_from(format!("Bearer {}", text.trim()));
            let mut value = value
                .map_err(|_| anyhow!("it has more than one line"))
                .with_context(named)?;
            value.set_sensitive(true);
            Ok::<_, anyhow::Error>(value)
        });
        Ok(Access {
            tls: Some(tls),
            token: token.transpose().or_exit(USAGE)?,
            shows_certificate: own.is_some(),
        })
    }
}

impl Access {
    /// The request, with the token if there is one.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }
}

/// What to do when the other side takes none of this side's certificates. It judges them after this side believes to be
/// connected (TLS 1.3), and what it says may be lost with the connection.
const NOT_ACCEPTED: &str = "it doesn't accept the certificate of --tls-cert, most likely; take one that the cluster's authority issued";

impl Access {
    /// What to do about a connection that failed, if more can be said than that.
    pub(super) fn hint(&self, error: &(dyn Error + 'static)) -> Option<&'static str> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(fault) = error.downcast_ref::<io::Error>() {
                return self.hint_of(fault);
            }
            cause = error.source();
        }
        None
    }

    fn hint_of(&self, fault: &io::Error) -> Option<&'static str> {
        match Failure::of(fault) {
            Failure::UnknownAuthority => {
                Some("its certificate is of no authority in --tls-ca; take the cluster's ca.crt")
            }
            Failure::WrongName => Some(
                "its certificate has another name; push to the name that it has, or say which one to expect by --tls-name",
            ),
            Failure::Expired => Some("its certificate has expired, or this machine's clock is wrong"),
            Failure::NotTls => Some("it doesn't speak TLS; its address begins with http://"),
            Failure::RefusedByPeer => Some(NOT_ACCEPTED),
            _ => {
                let cut = matches!(
                    fault.kind(),
                    io::ErrorKind::BrokenPipe
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::UnexpectedEof
                        // The HTTP/2 library keeps of an alert its text alone.
                        | io::ErrorKind::InvalidData
                );
                (self.shows_certificate && cut).then_some(NOT_ACCEPTED)
            }
        }
    }

    /// The same for a call: one that failed here, without an answer.
    pub(super) fn hint_of_call(&self, status: &Status) -> Option<&'static str> {
        let cause = status.source()?;
        // What tonic calls unknown is a connection that broke before an answer; an outage, or no answer in time, it names.
        let cut = self.shows_certificate && status.code() == Code::Unknown;
        self.hint(cause).or_else(|| cut.then_some(NOT_ACCEPTED))
    }
}
