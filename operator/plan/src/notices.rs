//! What people are told by Events: what the operator does, and what has changed in the conditions.

use imaccess_operator_api::ImAccessClusterStatus;
use imaccess_operator_api::condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::plan::{AuthorityStep, Kind, Notice, Plan, SecretStep};

/// Notices of a plan that is complete but for them; `before` is the status there was.
pub(crate) fn of(plan: &Plan, before: Option<&ImAccessClusterStatus>) -> Vec<Notice> {
    let mut notices: Vec<Notice> = plan.secrets.iter().filter_map(secret).collect();
    for child in plan
        .apply
        .iter()
        .filter(|child| child.id.kind == Kind::Deployment)
    {
        let (reason, verb) = if child.resource_version.is_none() {
            ("Created", "Made")
        } else {
            ("Updated", "Changed")
        };
        notices.push(normal(
            reason,
            &format!("{verb} the Deployment {} ({}).", child.id.name, child.why),
        ));
    }
    for deletion in &plan.delete {
        let (kind, name) = (deletion.id.kind.as_str(), &deletion.id.name);
        notices.push(normal(
            "Deleted",
            &format!("Deleted the {kind} {name}, which isn't needed any more."),
        ));
    }
    notices.extend(conditions(&plan.status, before));
    notices
}

fn secret(step: &SecretStep) -> Option<Notice> {
    let note = match step {
        SecretStep::Authority(AuthorityStep::Make) => "Made a certificate authority.",
        SecretStep::Authority(AuthorityStep::AddNext) => {
            "Made the next certificate authority, which parts now learn to trust."
        }
        SecretStep::Authority(AuthorityStep::Switch) => "The next certificate authority signs from now on.",
        SecretStep::Authority(AuthorityStep::Forget) => {
            "The former certificate authority isn't trusted any more."
        }
        SecretStep::Certificate { identity, .. } => {
            let note = format!("Issued the certificate of {}.", identity.as_str());
            return Some(normal("CertificateIssued", &note));
        }
        SecretStep::TicketKeys | SecretStep::DevelopmentTokens => return None,
    };
    Some(normal("AuthorityChanged", note))
}

fn conditions(now: &ImAccessClusterStatus, before: Option<&ImAccessClusterStatus>) -> Vec<Notice> {
    let mut notices = Vec::new();
    for condition in &now.conditions {
        let former = before.and_then(|before| find(before, &condition.type_));
        let is_news = former
            .is_none_or(|former| (&former.status, &former.reason) != (&condition.status, &condition.reason));
        if !is_news || condition.status != "True" {
            continue;
        }
        let notice = match condition.type_.as_str() {
            condition::READY => normal("Ready", &condition.message),
            condition::PAUSED => normal("Paused", &condition.message),
            condition::STALLED => warning(&condition.reason, &condition.message),
            condition::DEVELOPMENT_TOKENS | condition::PRIVILEGED_PORTS | condition::DEGRADED => {
                warning(&condition.type_, &condition.message)
            }
            _ => continue,
        };
        notices.push(notice);
    }
    notices
}

fn find<'s>(status: &'s ImAccessClusterStatus, kind: &str) -> Option<&'s Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

/// Characters of a note: Kubernetes takes 1,024 bytes, and others' messages, which some have, may be of any length.
const NOTE: usize = 250;

fn cut(note: &str) -> String {
    note.chars().take(NOTE).collect()
}

fn normal(reason: &str, note: &str) -> Notice {
    Notice {
        warning: false,
        reason: reason.to_owned(),
        note: cut(note),
        container: None,
    }
}

fn warning(reason: &str, note: &str) -> Notice {
    Notice {
        warning: true,
        reason: reason.to_owned(),
        note: cut(note),
        container: None,
    }
}
