//! What is wrong with a pod, in a word for the tree and in a sentence with what to do. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// A pod's state in a word or two.
pub(crate) fn state_of(pod: &Pod) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "draining".to_owned();
    }
    if let Some((_, reason, _)) = waiting(pod) {
        return reason;
    }
    let phase = phase_of(pod);
    if phase != "Running" {
        return phase.to_lowercase();
    }
    if is_ready(pod) {
        "ready".to_owned()
    } else {
        "starting".to_owned()
    }
}

/// What is wrong with it, if anything is, and what to do.
pub(crate) fn trouble_of(pod: &Pod) -> Option<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some((container, reason, message)) = waiting(pod) {
        let what = message.trim().trim_end_matches('.');
        return Some(match reason.as_str() {
            "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => format!(
                "pod {name}: the image of {container} can't be had ({what}); correct spec.image or spec.imagePullSecrets"
            ),
            "CrashLoopBackOff" => format!(
                "pod {name}: {container} ends again and again; why: kubectl logs -n {namespace} {name} -c {container} --previous"
            ),
            "CreateContainerConfigError" | "CreateContainerError" => format!(
                "pod {name}: {container} can't be made ({what}); kubectl describe pod -n {namespace} {name}"
            ),
            _ => return None,
        });
    }
    if phase_of(pod) == "Pending"
        && let Some(fault) = unschedulable(pod)
    {
        return Some(format!(
            "pod {name} has no node ({}); add nodes, or change resources or scheduling of its part",
            fault.trim().trim_end_matches('.')
        ));
    }
    if phase_of(pod) == "Failed" {
        return Some(format!(
            "pod {name} failed; kubectl describe pod -n {namespace} {name}"
        ));
    }
    None
}

/// Restarts of all its containers.
pub(crate) fn restarts_of(pod: &Pod) -> i32 {
    containers(pod).map(|container| container.restart_count).sum()
}

/// Whether it serves.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|(status, _)| status == "True")
}

fn phase_of(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

fn unschedulable(pod: &Pod) -> Option<String> {
    condition(pod, "PodScheduled")
        .filter(|(status, _)| status == "False")
        .map(|(_, message)| message)
}

fn condition(pod: &Pod, kind: &str) -> Option<(String, String)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((found.status.clone(), found.message.clone().unwrap_or_default()))
}

/// The first container that waits for something other than its turn: its name, the reason, the message.
fn waiting(pod: &Pod) -> Option<(String, String, String)> {
    containers(pod).find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.clone()?;
        let patient = matches!(reason.as_str(), "ContainerCreating" | "PodInitializing");
        (!patient).then(|| {
            (
                container.name.clone(),
                reason,
                waiting.message.clone().unwrap_or_default(),
            )
        })
    })
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let main = status.and_then(|status| status.container_statuses.as_ref());
    init.into_iter().flatten().chain(main.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: serde_json::Value) -> Pod {
        let mut pod = serde_json::json!({"metadata": {"name": "demo-gateway-a", "namespace": "chat"}});
        pod["status"] = status;
        serde_json::from_value(pod).unwrap()
    }

    fn waits(reason: &str, message: &str) -> Pod {
        pod(serde_json::json!({
            "phase": "Pending",
            "containerStatuses": [{
                "name": "gateway", "image": "", "imageID": "", "ready": false, "restartCount": 3,
                "state": {"waiting": {"reason": reason, "message": message}},
            }],
        }))
    }

    #[test]
    fn each_trouble_says_what_to_do() {
        let table = [
            (
                waits("ImagePullBackOff", "no such image."),
                "ImagePullBackOff",
                Some("spec.image"),
            ),
            (
                waits("CrashLoopBackOff", ""),
                "CrashLoopBackOff",
                Some("kubectl logs -n chat demo-gateway-a -c gateway --previous"),
            ),
            (
                waits("CreateContainerConfigError", "secret not found"),
                "CreateContainerConfigError",
                Some("describe pod"),
            ),
            (waits("ContainerCreating", ""), "pending", None),
            (
                pod(serde_json::json!({"phase": "Pending", "conditions": [
                    {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available."}
                ]})),
                "pending",
                Some("0/2 nodes are available); add nodes"),
            ),
            (
                pod(serde_json::json!({"phase": "Failed"})),
                "failed",
                Some("failed"),
            ),
            (
                pod(
                    serde_json::json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
                ),
                "ready",
                None,
            ),
            (pod(serde_json::json!({"phase": "Running"})), "starting", None),
        ];
        for (pod, state, trouble) in table {
            assert_eq!(state_of(&pod), state);
            let told = trouble_of(&pod);
            match trouble {
                Some(expected) => assert!(
                    told.as_deref().is_some_and(|told| told.contains(expected)),
                    "{told:?}"
                ),
                None => assert_eq!(told, None),
            }
        }
        assert_eq!(restarts_of(&waits("CrashLoopBackOff", "")), 3);
    }

    #[test]
    fn a_pod_that_ends_is_draining() {
        let mut ends = pod(serde_json::json!({"phase": "Running"}));
        ends.metadata.deletion_timestamp =
            serde_json::from_value(serde_json::json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(state_of(&ends), "draining");
    }
}
