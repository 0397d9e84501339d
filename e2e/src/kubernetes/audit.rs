//! The API server's audit log: who wrote what, and what came of it.
//!
//! The log is written as requests are answered. A marker shows that a look has seen all that was answered before: an object
//! that the harness makes itself and then finds in the log.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, PostParams};
use serde::Deserialize;

use super::{Kubernetes, Namespace};
use crate::wait::Seen;

/// Until the marker is in the log.
const FLUSHED: Duration = Duration::from_secs(20);

/// One request that was answered.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// `create`, `update`, `patch`, `delete`, …
    pub verb: String,
    /// The path, with its query.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// Who asked.
    pub user: User,
    /// What it was about.
    #[serde(default)]
    pub object_ref: ObjectRef,
    /// What was answered.
    #[serde(default)]
    pub response_status: ResponseStatus,
    /// In RFC 3339.
    #[serde(default)]
    pub request_received_timestamp: String,
    stage: String,
}

/// Who asked.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// `system:serviceaccount:NAMESPACE:NAME` for pods.
    #[serde(default)]
    pub username: String,
    /// For pods, `authentication.kubernetes.io/pod-name` and more.
    #[serde(default)]
    pub extra: std::collections::BTreeMap<String, Vec<String>>,
}

/// What a request was about.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ObjectRef {
    /// Such as `leases`.
    #[serde(default)]
    pub resource: String,
    /// Such as `status`.
    #[serde(default)]
    pub subresource: String,
    /// Its namespace.
    #[serde(default)]
    pub namespace: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// What was answered.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct ResponseStatus {
    /// As HTTP has it.
    #[serde(default)]
    pub code: u16,
}

impl Entry {
    /// Whether it changed something, or tried to: dry runs and questions about rights are no writes.
    #[must_use]
    pub fn is_write(&self) -> bool {
        let asks = [
            "selfsubjectaccessreviews",
            "subjectaccessreviews",
            "tokenreviews",
            "selfsubjectrulesreviews",
        ];
        matches!(
            self.verb.as_str(),
            "create" | "update" | "patch" | "delete" | "deletecollection"
        ) && !self.request_uri.contains("dryRun=All")
            && !asks.contains(&self.object_ref.resource.as_str())
    }

    /// Whether the API server did what was asked.
    #[must_use]
    pub fn landed(&self) -> bool {
        (200..300).contains(&self.response_status.code)
    }

    /// Of pods: the asking pod's name.
    #[must_use]
    pub fn pod(&self) -> Option<&str> {
        let names = self.user.extra.get("authentication.kubernetes.io/pod-name")?;
        names.first().map(String::as_str)
    }

    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let object = &self.object_ref;
        let slash = if object.subresource.is_empty() { "" } else { "/" };
        format!(
            "{} {} {}{slash}{} {}/{} -> {}",
            self.request_received_timestamp,
            self.verb,
            object.resource,
            object.subresource,
            object.namespace,
            object.name,
            self.response_status.code
        )
    }
}

/// The log from one moment on.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    from: u64,
    markers: u32,
}

impl Kubernetes {
    /// The audit log from now on; nothing where it can't be read.
    ///
    /// # Errors
    /// When it should be readable and isn't.
    pub fn audit(&self) -> Result<Option<Audit>> {
        let Some(path) = self.environment.audit_log.clone() else {
            return Ok(None);
        };
        let length = std::fs::metadata(&path)
            .with_context(|| format!("no audit log at {}", path.display()))?
            .len();
        Ok(Some(Audit {
            path,
            from: length,
            markers: 0,
        }))
    }
}

impl Audit {
    /// What was answered since the beginning or the last call, everything that was answered before this call included. A marker
    /// object is made in the namespace for it.
    ///
    /// # Errors
    /// When the log can't be read, or the marker doesn't come.
    pub async fn take(&mut self, kubernetes: &Kubernetes, namespace: &Namespace) -> Result<Vec<Entry>> {
        self.markers += 1;
        let marker = format!("audit-marker-{}-{}", self.from, self.markers);
        let api: Api<ConfigMap> = namespace.api();
        let object = ConfigMap {
            metadata: ObjectMeta {
                name: Some(marker.clone()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        };
        api.create(&PostParams::default(), &object)
            .await
            .context("cannot make a marker")?;
        let mut entries = Vec::new();
        kubernetes
            .until("the marker is in the audit log", FLUSHED, async || {
                self.read(&mut entries)?;
                let there = entries
                    .iter()
                    .any(|entry: &Entry| entry.object_ref.name == marker);
                Ok(if there {
                    Seen::Yes(())
                } else {
                    Seen::NotYet(entries.len())
                })
            })
            .await?;
        Ok(entries)
    }

    fn read(&mut self, entries: &mut Vec<Entry>) -> Result<()> {
        let mut file =
            File::open(&self.path).with_context(|| format!("cannot read {}", self.path.display()))?;
        if file.metadata()?.len() < self.from {
            // Rotated: what was written between the last look and the rotation is in another file.
            anyhow::bail!("the audit log was rotated meanwhile; run the scenario again");
        }
        file.seek(SeekFrom::Start(self.from))?;
        let mut reader = BufReader::new(file);
        let mut line = String::new();
        // A line that isn't ended yet is read again next time.
        while reader.read_line(&mut line)? > 0 && line.ends_with('\n') {
            self.from += line.len() as u64;
            let entry: Entry =
                serde_json::from_str(&line).with_context(|| format!("no audit entry: {line}"))?;
            if entry.stage == "ResponseComplete" {
                entries.push(entry);
            }
            line.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Entry {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_patch_is_a_write_and_a_dry_run_is_none() {
        let patch = |uri: &str| {
            entry(&format!(
                r#"{{"verb":"patch","stage":"ResponseComplete","requestURI":"{uri}","user":{{"username":"u"}},
                "objectRef":{{"resource":"deployments","namespace":"n","name":"d"}},"responseStatus":{{"code":409}}}}"#
            ))
        };
        assert!(patch("/apis/apps/v1/x?fieldManager=m").is_write());
        assert!(!patch("/apis/apps/v1/x?dryRun=All").is_write());
        assert!(!patch("/x").landed());
    }

    #[test]
    fn a_question_about_rights_is_no_write() {
        let review = entry(
            r#"{"verb":"create","stage":"ResponseComplete","requestURI":"/x","user":{"username":"u",
            "extra":{"authentication.kubernetes.io/pod-name":["p-1"]}},
            "objectRef":{"resource":"selfsubjectaccessreviews"},"responseStatus":{"code":201}}"#,
        );
        assert!(!review.is_write() && review.landed());
        assert_eq!(review.pod(), Some("p-1"));
    }
}
