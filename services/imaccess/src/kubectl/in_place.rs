//! Upgrades in place, as people see them. Pure.

use imaccess_operator_api::in_place::{Replaced, Replacing, Side};
use imaccess_operator_api::names::{REPLACED_ANNOTATION, REPLACING_ANNOTATION};
use imaccess_operator_api::status::{Upgrade, UpgradePhase};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// How far the upgrade is, in a line.
pub(super) fn upgrade(upgrade: &Upgrade) -> String {
    let Upgrade {
        gateway_image,
        state_image,
        upgraded,
        pods,
        ..
    } = upgrade;
    let images = if gateway_image == state_image {
        gateway_image.clone()
    } else {
        format!("gateway {gateway_image}, state {state_image}")
    };
    let phase = match upgrade.phase {
        UpgradePhase::Preflight => "trying the images on the nodes",
        UpgradePhase::Pods => "replacing containers",
        UpgradePhase::Settling => "telling the Deployment",
        UpgradePhase::Stopped => "stopped",
    };
    let mut line = format!("Upgrade in place to {images}: {upgraded} of {pods} pods, {phase}");
    if !upgrade.replacing.is_empty() {
        line = format!("{line}, now {}", upgrade.replacing.join(" and "));
    }
    match &upgrade.message {
        // A reason is told under what is wrong.
        Some(message) if upgrade.reason.is_none() => format!("{line}; {message}"),
        _ => line,
    }
}

/// What is being replaced in a pod, or was last.
pub(super) fn pod(pod: &Pod) -> Option<String> {
    let annotations = pod.annotations();
    let replacing = annotations.get(REPLACING_ANNOTATION);
    if let Some(replacing) = replacing.and_then(|text| serde_json::from_str::<Replacing>(text).ok()) {
        let (container, connections) = (replacing.container.container(), replacing.connections);
        let what = if replacing.back {
            "putting back"
        } else {
            "replacing"
        };
        return Some(format!("{what} {container} under {connections} connections"));
    }
    let replaced: Replaced = serde_json::from_str(annotations.get(REPLACED_ANNOTATION)?).ok()?;
    let container = replaced.container.container();
    let what = if replaced.back { "put back" } else { "replaced" };
    let kept = replaced.connections.saturating_sub(replaced.closed);
    let mut text = format!("{container} {what} in place, {kept} connections kept");
    if replaced.closed > 0 {
        text = format!("{text}, {} closed", replaced.closed);
    }
    if replaced.container == Side::Gateway && replaced.stall_milliseconds > 0 {
        text = format!("{text}, stall {} ms", replaced.stall_milliseconds);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn annotated(key: &str, value: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a", "annotations": {key: value.to_string()}}}))
            .unwrap()
    }

    #[test]
    fn a_pod_says_what_is_and_was_replaced_in_it() {
        let replacing = json!({
            "container": "gateway", "image": "b", "from": "a", "restarts": 0, "since": "2026-11-26T00:00:00Z",
            "incarnation": 1, "connections": 5_000,
        });
        let shown = pod(&annotated(REPLACING_ANNOTATION, &replacing)).unwrap();
        assert_eq!(shown, "replacing gateway under 5000 connections");
        let replaced = json!({
            "container": "gateway", "image": "b", "connections": 5_000, "closed": 1, "stallMilliseconds": 210,
        });
        let shown = pod(&annotated(REPLACED_ANNOTATION, &replaced)).unwrap();
        assert_eq!(
            shown,
            "gateway replaced in place, 4999 connections kept, 1 closed, stall 210 ms"
        );
        assert_eq!(pod(&Pod::default()), None);
    }

    #[test]
    fn an_upgrade_is_told_in_a_line() {
        let mut status: Upgrade = serde_json::from_value(json!({
            "phase": "Pods", "gatewayImage": "b", "stateImage": "b", "upgraded": 1, "pods": 2,
            "replacing": ["demo-gateway-x/state"],
        }))
        .unwrap();
        assert_eq!(
            upgrade(&status),
            "Upgrade in place to b: 1 of 2 pods, replacing containers, now demo-gateway-x/state"
        );
        status.message = Some("a reason".to_owned());
        assert!(upgrade(&status).ends_with("; a reason"));
    }
}
