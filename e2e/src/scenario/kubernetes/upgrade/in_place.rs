//! Images changed in every way that a specification knows, under load: no connection is closed, and no pod is replaced.

use anyhow::{Context, Result};
use serde_json::json;

use super::change::{self, Changed};
use super::judge;
use super::live::{Scene, images, needs_images};
use crate::kubernetes::with_kubernetes;
use crate::report::{Report, Size};
use crate::witness::Load;

/// Clients that leave before each change.
const LEAVERS: u32 = 5;
/// Requests that are answered between two changes: each begins in a load that has nothing to make up for.
const BETWEEN: u64 = 100;

pub(in crate::scenario) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-upgrade", async |kubernetes| {
        needs_images(kubernetes)?;
        let load = Load::new(seed, size.pick(200, 10_000), size.pick(100.0, 500.0));
        let mut new = Vec::new();
        for stamp in 101..=size.pick(102, 104) {
            new.push(kubernetes.stamped_image(stamp).await?);
        }
        let new = |number: usize| new.get(number).map_or("", String::as_str);
        let scene = Scene::set(kubernetes, |_| {}).await?;
        let mut live = scene.under(kubernetes, load).await?;
        // First the image of all parts, while no part has its own: then each of these is a change of what it names.
        let all = json!({"spec": {"image": new(0)}});
        let changes = [
            ("image", all, ("101", "101")),
            ("state_image", images(None, Some(new(1))), ("101", "102")),
            ("gateway_image", images(Some(new(2)), None), ("103", "102")),
            ("both_images", images(Some(new(3)), Some(new(3))), ("104", "104")),
        ];
        let changes = &changes[..size.pick(2, changes.len())];
        let mut seen: Vec<(&str, Changed)> = Vec::new();
        for (name, edit, (gateway, state)) in changes {
            live.leave(LEAVERS);
            let changed = change::in_place(kubernetes, &live, edit).await;
            seen.push((name, changed.with_context(|| (*name).to_owned())?));
            change::stamps(live.cluster(), gateway, state).await?;
            live.answers(kubernetes, BETWEEN).await?;
        }
        let ended = live.end(kubernetes).await?;

        let mut report = Report::new("k8s-upgrade", size, seed);
        for (name, changed) in &seen {
            change::judge(name, changed, &ended.testimony, &mut report);
        }
        judge::unnoticed(&ended, &mut report);
        Ok(report)
    })
    .await
}
