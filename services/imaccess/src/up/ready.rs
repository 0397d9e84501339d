//! When the cluster is ready: every part says so, and ipconfig lists every gateway.

use std::time::Duration;

use serde::Deserialize;
use tokio::net::TcpStream;

use super::plan::{Plan, Planned};
use crate::cluster::http;

/// Between two looks.
const STEP: Duration = Duration::from_millis(50);
/// One look.
const LOOK: Duration = Duration::from_secs(2);
/// Most gateways that one answer of ipconfig names.
const LISTED: usize = 20;

/// Waits until all is ready.
pub(super) async fn all(plan: &Plan) {
    for part in &plan.parts {
        while let Err(_not_yet) = part_is_ready(part).await {
            tokio::time::sleep(STEP).await;
        }
    }
    while !all_listed(plan).await {
        tokio::time::sleep(STEP).await;
    }
}

/// What isn't ready now, for people.
pub(super) async fn missing(plan: &Plan) -> String {
    let mut missing = Vec::new();
    for part in &plan.parts {
        if let Err(why) = part_is_ready(part).await {
            missing.push(format!("{} ({why})", part.name));
        }
    }
    if missing.is_empty() && !all_listed(plan).await {
        missing.push("ipconfig doesn't list every gateway".to_owned());
    }
    if missing.is_empty() {
        "it was close".to_owned()
    } else {
        missing.join(", ")
    }
}

async fn part_is_ready(part: &Planned) -> Result<(), String> {
    let Some(admin) = part.config.admin() else {
        let Some(listen) = part.config.listens_without_pages() else {
            return Ok(());
        };
        return TcpStream::connect(listen)
            .await
            .map(drop)
            .map_err(|error| error.to_string());
    };
    let (success, body) = get(&format!("http://{admin}/readyz")).await?;
    if success {
        Ok(())
    } else {
        Err(body.trim().replace('\n', "; "))
    }
}

#[derive(Deserialize)]
struct Endpoints {
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    name: String,
}

async fn all_listed(plan: &Plan) -> bool {
    let url = format!("http://{}/v1/endpoints?k={LISTED}", plan.addresses.ipconfig);
    let Ok((true, body)) = get(&url).await else {
        return false;
    };
    let Ok(answer) = serde_json::from_str::<Endpoints>(&body) else {
        return false;
    };
    let mut names: Vec<&str> = answer
        .endpoints
        .iter()
        .map(|endpoint| endpoint.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    names.len() >= plan.addresses.gateways.len().min(LISTED)
}

/// Whether it was a success, and the body.
async fn get(url: &str) -> Result<(bool, String), String> {
    let http = http(LOOK).map_err(|error| error.to_string())?;
    let response = http
        .get(url)
        .send()
        .await
        .map_err(|_| "not reachable".to_owned())?;
    let success = response.status().is_success();
    let body = response
        .text()
        .await
        .map_err(|_| "its answer was cut off".to_owned())?;
    Ok((success, body))
}
