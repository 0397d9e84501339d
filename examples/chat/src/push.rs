//! The calls of the access layer's push API that rooms need.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use imaccess_proto::v1::push_client::PushClient;
use imaccess_proto::v1::{ChangeMembersRequest, Outcome, PushGroupRequest};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::presence::Device;

/// The push API, on behalf of one business. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Push {
    client: PushClient<Channel>,
    business: u32,
    token_file: Option<Arc<Path>>,
}

/// Why something wasn't done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not now: try again.
    Retry,
    /// Trying again won't help by itself. It has been logged.
    Failed,
}

/// What became of a membership that a device was to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// It is a member.
    Done,
    /// It has no session that is known yet.
    Offline,
    /// It is in as many groups as it may be.
    TooMany,
}

impl Push {
    /// Calls over `channel` for `business`, with the token in the file if there is one.
    #[must_use]
    pub fn new(channel: Channel, business: u32, token_file: Option<PathBuf>) -> Self {
        Self {
            client: PushClient::new(channel),
            business,
            token_file: token_file.map(Into::into),
        }
    }

    /// Makes the device a member of the room's group, for as long as its session lasts.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn join(&self, device: &Device, room: &str) -> Result<Joined, Fault> {
        let request = self.request(self.members(device, room))?;
        let answer = self
            .client
            .clone()
            .join_group(request)
            .await
            .map_err(|status| fault(&status))?;
        match outcome(&answer.get_ref().outcomes) {
            Outcome::Done => Ok(Joined::Done),
            Outcome::Offline => Ok(Joined::Offline),
            Outcome::Refused => Ok(Joined::TooMany),
            _ => Err(Fault::Retry),
        }
    }

    /// Ends the membership. A device that is offline has none.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn leave(&self, device: &Device, room: &str) -> Result<(), Fault> {
        let request = self.request(self.members(device, room))?;
        let answer = self
            .client
            .clone()
            .leave_group(request)
            .await
            .map_err(|status| fault(&status))?;
        match outcome(&answer.get_ref().outcomes) {
            Outcome::Done | Outcome::Offline => Ok(()),
            _ => Err(Fault::Retry),
        }
    }

    /// Pushes to everybody in the room; gives how many gateways may have missed it. With a key, saying the same again within ten minutes
    /// pushes nothing.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn say(&self, room: &str, text: String, key: String) -> Result<u32, Fault> {
        let request = self.request(PushGroupRequest {
            business: self.business,
            group: room.to_owned().into(),
            payload: text.into(),
            idempotency_key: key,
            ..PushGroupRequest::default()
        })?;
        let answer = self
            .client
            .clone()
            .push_group(request)
            .await
            .map_err(|status| fault(&status))?;
        Ok(answer.get_ref().unsynced)
    }

    fn members(&self, device: &Device, room: &str) -> ChangeMembersRequest {
        ChangeMembersRequest {
            business: self.business,
            group: room.to_owned().into(),
            app: device.app.clone(),
            devices: vec![device.name.clone()],
        }
    }

    /// The file is read for each call: Kubernetes replaces a token long before it expires.
    fn request<T>(&self, message: T) -> Result<Request<T>, Fault> {
        let mut request = Request::new(message);
        if let Some(file) = &self.token_file {
            let token = token(file).map_err(|error| {
                tracing::error!(file = %file.display(), error, "the token can't be used");
                Fault::Failed
            })?;
            request.metadata_mut().insert("authorization", token);
        }
        Ok(request)
    }
}

/// What is wrong with it isn't shown with it: it is a secret.
fn token(file: &Path) -> Result<MetadataValue<Ascii>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let value = MetadataValue::try_from(format!("Bearer {}", text.trim()));
    let mut value = value.map_err(|_| "it has more than one line".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Of a call for one device.
fn outcome(outcomes: &[i32]) -> Outcome {
    let first = outcomes.first().copied().unwrap_or_default();
    Outcome::try_from(first).unwrap_or(Outcome::Unspecified)
}

fn fault(status: &Status) -> Fault {
    match status.code() {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Cancelled => Fault::Retry,
        code => {
            tracing::error!(%code, message = status.message(), "the push API refuses a call");
            Fault::Failed
        }
    }
}
