//! The cluster's keys: made once, kept in the directory, readable by their owner only.

use std::path::PathBuf;

use anyhow::Context;
use imaccess_common::token::DevelopmentIssuer;

use super::directory::Directory;

/// Files with the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    /// Ed25519 private key that signs development tokens: ipconfig's alone.
    pub(super) token_signing: PathBuf,
    /// Its public half.
    pub(super) token_public: PathBuf,
    /// Keys that seal tickets.
    pub(super) tickets: PathBuf,
}

const TOKEN_SIGNING: &str = "token-signing-key.pem";
const TOKEN_PUBLIC: &str = "token-public-key.pem";
const TICKETS: &str = "ticket-keys";

/// Reads the keys, or makes them.
pub(super) fn ensure(directory: &Directory) -> anyhow::Result<Keys> {
    let issuer = match directory.read(TOKEN_SIGNING)? {
        Some(pem) => DevelopmentIssuer::from_pem_by_thumbprint(&pem)
            .with_context(|| format!("{}", directory.path().join(TOKEN_SIGNING).display()))?,
        None => {
            let issuer = DevelopmentIssuer::generate();
            directory.write(TOKEN_SIGNING, issuer.to_pem().as_bytes())?;
            issuer
        }
    };
    directory.write(TOKEN_PUBLIC, issuer.public_pem().as_bytes())?;
    if directory.read(TICKETS)?.is_none() {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| anyhow::anyhow!("no random key can be made: {error}"))?;
        directory.write(TICKETS, format!("1 {}\n", hex::encode(key)).as_bytes())?;
    }
    let file = |name: &str| directory.path().join(name);
    Ok(Keys {
        token_signing: file(TOKEN_SIGNING),
        token_public: file(TOKEN_PUBLIC),
        tickets: file(TICKETS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Directory::take(Some(&parent.path().join("up")), false).unwrap();
        let keys = ensure(&directory).unwrap();
        let read = || {
            [&keys.token_signing, &keys.token_public, &keys.tickets].map(|path| std::fs::read(path).unwrap())
        };
        let before = read();
        assert_eq!(ensure(&directory).unwrap(), keys);
        assert_eq!(read(), before);
    }
}
