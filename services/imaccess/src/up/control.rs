//! Serves `control.sock`: what runs, and replacements. Beside `up`'s own work, in one task a connection.
//!
//! Bounds: so many connections at once, a request's size, and its time; a replacement ends by the part's deadline.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::processes::Handle;
use crate::control::{LONGEST_REQUEST, Listed, Refused, Request, SOCKET};

/// Connections at once: a person or two, and a script. More wait.
const AT_ONCE: usize = 8;
/// For a whole request to arrive, and for an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a failed accept: descriptors may be short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The served socket. Dropping it ends the service and removes the file.
pub(super) struct Control {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Control {
    /// Serves the socket in `directory`, which must be locked: an old file there is nobody's.
    pub(super) fn serve(directory: &Path, parts: Arc<[Handle]>) -> anyhow::Result<Self> {
        let path = directory.join(SOCKET);
        let listener = listen(&path).with_context(|| format!("can't listen on {}", path.display()))?;
        Ok(Self {
            path,
            task: tokio::spawn(accept(listener, parts)),
        })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        // Whoever finds it finds nobody there.
        let _ = fs::remove_file(&self.path);
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // Until this is done, the peer's identity is what counts.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn accept(listener: UnixListener, parts: Arc<[Handle]>) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let parts = Arc::clone(&parts);
                tokio::spawn(async move {
                    serve(stream, &parts).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept on the control socket; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, parts: &[Handle]) {
    let may = match stream.peer_cred() {
        Ok(peer) => may_ask(peer.uid(), rustix::process::geteuid().as_raw()),
        Err(_) => false,
    };
    let (reader, mut writer) = stream.into_split();
    let answered = if may {
        let mut line = String::new();
        let mut reader = BufReader::new(reader.take(LONGEST_REQUEST));
        match timeout(PATIENCE, reader.read_line(&mut line)).await {
            Ok(Ok(_)) => answer(&line, parts).await,
            Ok(Err(_)) => Err("the request is no text".to_owned()),
            Err(_) => Err("no request came in time".to_owned()),
        }
    } else {
        Err("only the user who runs the cluster, and root, may ask".to_owned())
    };
    let mut text = answered.unwrap_or_else(|error| json(&Refused { error }));
    text.push('\n');
    // Who asked may have gone.
    let _ = timeout(PATIENCE, writer.write_all(text.as_bytes())).await;
}

fn may_ask(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

async fn answer(line: &str, parts: &[Handle]) -> Result<String, String> {
    if !line.ends_with('\n') {
        return Err(format!(
            "a request is one line of at most {LONGEST_REQUEST} bytes"
        ));
    }
    let request = serde_json::from_str(line).map_err(|fault| {
        format!(
            "{fault}; a request is like {}",
            r#"{"list":{}} or {"replace":{"part":"gateway-0","binary":"/path"}}"#
        )
    })?;
    match request {
        Request::List {} => Ok(json(&Listed {
            parts: parts.iter().map(Handle::listed).collect(),
        })),
        Request::Replace { part, binary, kill } => {
            let Some(handle) = parts.iter().find(|handle| handle.name() == part) else {
                let names: Vec<&str> = parts.iter().map(Handle::name).collect();
                return Err(format!(
                    "there is no part {part:?}; there are {}",
                    names.join(", ")
                ));
            };
            handle
                .replace(&binary, kill)
                .await
                .map(|replaced| json(&replaced))
        }
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("texts and numbers are always JSON")
}

#[cfg(test)]
mod tests;
