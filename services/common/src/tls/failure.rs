//! Why handshakes fail, in the few words that an operator acts on.

use std::io;

use rustls::{CertificateError, Error};

/// Why a handshake failed; also the label of its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The other side has no certificate, and needs one.
    NoCertificate,
    /// Its certificate is of an authority that isn't ours.
    UnknownAuthority,
    /// Its certificate has expired, or isn't valid yet: a rotation that stands still, or a clock that is wrong.
    Expired,
    /// Its certificate is genuine and has none of the names that are accepted here.
    WrongName,
    /// Its certificate can't be used for another reason.
    BadCertificate,
    /// It refused this side: most often this side's certificate.
    RefusedByPeer,
    /// It doesn't speak TLS.
    NotTls,
    /// It speaks no version or cipher of ours.
    Incompatible,
    /// It took too long.
    Deadline,
    /// It closed the connection, or the connection broke.
    Closed,
    /// Anything else.
    Other,
}

impl Failure {
    /// Reads it from what a handshake returned.
    #[must_use]
    pub fn of(fault: &io::Error) -> Failure {
        if fault.kind() == io::ErrorKind::TimedOut {
            return Failure::Deadline;
        }
        match fault.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(fault) => of_rustls(fault),
            None => Failure::Closed,
        }
    }

    /// The label of its counter.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Failure::NoCertificate => "no_certificate",
            Failure::UnknownAuthority => "unknown_authority",
            Failure::Expired => "expired",
            Failure::WrongName => "wrong_name",
            Failure::BadCertificate => "bad_certificate",
            Failure::RefusedByPeer => "refused_by_peer",
            Failure::NotTls => "not_tls",
            Failure::Incompatible => "incompatible",
            Failure::Deadline => "deadline",
            Failure::Closed => "closed",
            Failure::Other => "other",
        }
    }
}

fn of_rustls(fault: &Error) -> Failure {
    use CertificateError as Fault;
    match fault {
        Error::NoCertificatesPresented => Failure::NoCertificate,
        Error::InvalidCertificate(fault) => match fault {
            // A wrong signature is what a second authority of the same name looks like.
            Fault::UnknownIssuer | Fault::BadSignature => Failure::UnknownAuthority,
            Fault::Expired
            | Fault::ExpiredContext { .. }
            | Fault::NotValidYet
            | Fault::NotValidYetContext { .. } => Failure::Expired,
            // What the check of a client's names says.
            Fault::ApplicationVerificationFailure
            | Fault::NotValidForName
            | Fault::NotValidForNameContext { .. } => Failure::WrongName,
            _ => Failure::BadCertificate,
        },
        Error::AlertReceived(_) => Failure::RefusedByPeer,
        Error::InvalidMessage(_) => Failure::NotTls,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Failure::Incompatible,
        _ => Failure::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_word() {
        let of = |fault: Error| Failure::of(&io::Error::other(fault)).label();
        let certificate = Error::InvalidCertificate;
        for (fault, word) in [
            (Error::NoCertificatesPresented, "no_certificate"),
            (certificate(CertificateError::UnknownIssuer), "unknown_authority"),
            (certificate(CertificateError::BadSignature), "unknown_authority"),
            (certificate(CertificateError::Expired), "expired"),
            (certificate(CertificateError::NotValidForName), "wrong_name"),
            (
                certificate(CertificateError::ApplicationVerificationFailure),
                "wrong_name",
            ),
            (certificate(CertificateError::Revoked), "bad_certificate"),
            (
                Error::AlertReceived(rustls::AlertDescription::UnknownCA),
                "refused_by_peer",
            ),
            (
                Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
                "not_tls",
            ),
            (Error::NoApplicationProtocol, "incompatible"),
            (Error::DecryptError, "other"),
        ] {
            assert_eq!(of(fault), word);
        }
        let broken = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(Failure::of(&broken), Failure::Closed);
        assert_eq!(Failure::of(&io::ErrorKind::TimedOut.into()), Failure::Deadline);
    }
}
