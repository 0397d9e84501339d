//! Nothing is compiled twice because two commands ask for different features of the same crate.
//!
//! Cargo unites features over the crates that one command selects. `cargo run` selects the binary, `cargo
//! xtask` selects this crate, `cargo xtask test` selects everything with its tests: a crate that they want with
//! different features is compiled once for each. This step compares cargo's plans for the three and names
//! such crates; the cure is to ask for the wider set in the crate that has the narrower one.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::steps::Verdict;
use crate::workspace::{Workspace, shown};

/// The commands whose artefacts are to be shared, and how they select.
const SELECTIONS: [(&str, &[&str]); 3] = [
    ("cargo run", &["build", "--release"]),
    ("cargo xtask", &["build", "--release", "--package", "xtask"]),
    (
        "cargo xtask test",
        &["build", "--release", "--workspace", "--all-targets"],
    ),
];

#[derive(Deserialize)]
struct Plan {
    units: Vec<Unit>,
}

/// One call of the compiler that cargo plans.
#[derive(Deserialize)]
struct Unit {
    pkg_id: String,
    target: Target,
    profile: Profile,
    mode: String,
    features: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Target {
    kind: BTreeSet<String>,
}

/// Tells a crate that is part of the program from the same one compiled for a build script or a macro.
#[derive(Deserialize)]
struct Profile {
    opt_level: String,
}

/// A unit's identity but for its features.
type Key = (String, BTreeSet<String>, String, String);

/// The feature sets in which each unit of a selection is compiled; host and target may differ, so there may be two.
type Units = BTreeMap<Key, BTreeSet<BTreeSet<String>>>;

/// Compares the plans.
pub(crate) fn check(workspace: &Workspace) -> Result<Verdict> {
    let mut plans = Vec::new();
    for (name, arguments) in SELECTIONS {
        plans.push((name, plan(workspace, arguments)?));
    }
    let findings = findings(&plans);
    if !findings.is_empty() {
        bail!(
            "{} crate(s) would be compiled twice\n  {}",
            findings.len(),
            findings.into_iter().collect::<Vec<_>>().join("\n  ")
        );
    }
    Ok(Verdict::Passed)
}

fn plan(workspace: &Workspace, arguments: &[&str]) -> Result<Units> {
    let mut command = workspace.cargo(arguments);
    // The plan is an unstable output; the toolchain is pinned, so that it can't change unseen. Nothing is built.
    command
        .args(["--unit-graph", "-Zunstable-options"])
        .env("RUSTC_BOOTSTRAP", "1");
    let output = command.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!(
            "{}: {}",
            shown(&command),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let plan: Plan = serde_json::from_slice(&output.stdout).context("cargo's plan")?;
    let mut units: Units = BTreeMap::new();
    for unit in plan
        .units
        .into_iter()
        .filter(|unit| unit.pkg_id.starts_with("registry+"))
    {
        let key = (unit.pkg_id, unit.target.kind, unit.mode, unit.profile.opt_level);
        units.entry(key).or_default().insert(unit.features);
    }
    Ok(units)
}

/// One sentence for each crate that a selection wants with features that the widest one doesn't have.
fn findings(plans: &[(&str, Units)]) -> BTreeSet<String> {
    let mut findings = BTreeSet::new();
    let Some(((_, widest), narrower)) = plans.split_last() else {
        return findings;
    };
    for (name, plan) in narrower {
        for (key, wanted) in plan {
            let Some(there) = widest.get(key) else { continue };
            for features in wanted.difference(there) {
                let package = key
                    .0
                    .rsplit_once('#')
                    .map_or(key.0.as_str(), |(_, package)| package);
                let best = there
                    .iter()
                    .min_by_key(|other| other.symmetric_difference(features).count());
                let differing: Vec<_> = best
                    .into_iter()
                    .flat_map(|best| best.symmetric_difference(features))
                    .collect();
                findings.insert(format!(
                    "{package}: `{name}` and the tests differ in {differing:?}"
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(features: &[&[&str]]) -> Units {
        let key = (
            "registry+x#one@1.0.0".to_owned(),
            BTreeSet::new(),
            "build".to_owned(),
            "3".to_owned(),
        );
        let set = |names: &&[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        BTreeMap::from([(key, features.iter().map(set).collect())])
    }

    #[test]
    fn equal_features_are_shared() {
        let plans = [
            ("cargo run", plan(&[&["std"]])),
            ("all", plan(&[&["std"], &["std", "full"]])),
        ];
        assert_eq!(findings(&plans), BTreeSet::new());
    }

    #[test]
    fn a_narrower_set_is_named_with_the_difference() {
        let plans = [
            ("cargo run", plan(&[&["std"]])),
            ("all", plan(&[&["std", "unicode"]])),
        ];
        let expected = "one@1.0.0: `cargo run` and the tests differ in [\"unicode\"]".to_owned();
        assert_eq!(findings(&plans), BTreeSet::from([expected]));
    }
}
