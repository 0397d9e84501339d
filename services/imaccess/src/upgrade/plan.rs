//! Which parts are replaced, from what, and whether a binary may take another one's place. Pure.

use std::path::{Path, PathBuf};

use crate::control::ListedPart;
use crate::part::Kind;

/// A part to replace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Its own admin pages.
    pub(super) admin: String,
    /// Those of the gateway that it is, or is beside.
    pub(super) gateway_admin: Option<String>,
    /// The other one of the pair, by name.
    pub(super) neighbour: Option<String>,
}

/// The parts of a kind that `up` runs, or the one that is named.
pub(super) fn targets(parts: &[ListedPart], kind: Kind, only: Option<&str>) -> Result<Vec<Target>, String> {
    let of_kind = || parts.iter().filter(|part| part.kind == kind.name());
    let chosen: Vec<&ListedPart> = of_kind()
        .filter(|part| only.is_none_or(|name| part.name == name))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = of_kind().map(|part| part.name.as_str()).collect();
        return Err(match only {
            Some(name) => format!(
                "there is no {} {name:?}; there are {}",
                kind.name(),
                names.join(", ")
            ),
            None => format!("the cluster has no {}", kind.name()),
        });
    }
    chosen.into_iter().map(|part| target(parts, part, kind)).collect()
}

fn target(parts: &[ListedPart], part: &ListedPart, kind: Kind) -> Result<Target, String> {
    let admin = part
        .admin
        .clone()
        .ok_or_else(|| format!("{} has no admin pages", part.name))?;
    let (own, other) = match kind {
        Kind::Gateway => ("gateway-", "state-"),
        _ => ("state-", "gateway-"),
    };
    // A gateway and its sidecar have the same number.
    let neighbour = part
        .name
        .strip_prefix(own)
        .map(|number| format!("{other}{number}"));
    let beside = parts.iter().find(|part| Some(&part.name) == neighbour.as_ref());
    let gateway_admin = match kind {
        Kind::Gateway => Some(admin.clone()),
        _ => beside.and_then(|part| part.admin.clone()),
    };
    Ok(Target {
        name: part.name.clone(),
        kind,
        admin,
        gateway_admin,
        neighbour,
    })
}

/// Where the program of a running process is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Program {
    /// Where it was started from.
    Listed,
    /// There is another file there by now; its own is here.
    Elsewhere(PathBuf),
    /// Its file is gone: only the process itself still has it.
    InMemory,
}

/// Decides from the path it was started from (with links resolved, if it is there), whether that is a script, and the
/// kernel's `/proc/PID/exe`.
pub(super) fn program(listed: Option<&Path>, listed_is_script: bool, exe: &Path) -> Program {
    let text = exe.to_string_lossy();
    let (path, gone) = match text.strip_suffix(" (deleted)") {
        Some(path) => (Path::new(path), true),
        None => (exe, false),
    };
    if !gone && listed == Some(path) {
        return Program::Listed;
    }
    // A script's process runs its interpreter, or what it has started in its place.
    if listed_is_script {
        return Program::Listed;
    }
    if gone {
        Program::InMemory
    } else {
        Program::Elsewhere(path.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(kind: &str, name: &str, port: u16) -> ListedPart {
        ListedPart {
            name: name.to_owned(),
            kind: kind.to_owned(),
            pid: 1,
            binary: "/b".into(),
            admin: Some(format!("127.0.0.1:{port}")),
            deadline_ms: 1,
            stderr: String::new(),
            last: None,
        }
    }

    #[test]
    fn parts_are_chosen_by_kind_and_name_and_paired_by_number() {
        let parts = [
            listed("gateway", "gateway-0", 1),
            listed("state", "state-0", 2),
            listed("gateway", "gateway-1", 3),
            listed("state", "state-1", 4),
            listed("routing", "routing-0", 5),
        ];
        let chosen = |kind, only| {
            let targets = targets(&parts, kind, only).unwrap();
            let said = targets.into_iter().map(|target| {
                let gateway = target.gateway_admin.unwrap();
                format!(
                    "{} {} {gateway} {}",
                    target.name,
                    target.admin,
                    target.neighbour.unwrap()
                )
            });
            said.collect::<Vec<_>>()
        };
        assert_eq!(
            chosen(Kind::Gateway, None),
            [
                "gateway-0 127.0.0.1:1 127.0.0.1:1 state-0",
                "gateway-1 127.0.0.1:3 127.0.0.1:3 state-1"
            ]
        );
        assert_eq!(
            chosen(Kind::Sidecar, Some("state-1")),
            ["state-1 127.0.0.1:4 127.0.0.1:3 gateway-1"]
        );
        let fault = targets(&parts, Kind::Gateway, Some("state-0")).unwrap_err();
        assert!(fault.contains("gateway-0, gateway-1"), "{fault}");
        assert!(targets(&[], Kind::Gateway, None).is_err());
    }

    #[test]
    fn the_program_of_a_process_is_found_also_when_its_file_was_overwritten() {
        let path = |text: &'static str| Some(Path::new(text));
        for (what, listed, script, exe, expected) in [
            ("as it was", path("/a"), false, "/a", Program::Listed),
            (
                "overwritten",
                path("/a"),
                false,
                "/a (deleted)",
                Program::InMemory,
            ),
            ("removed", None, false, "/a (deleted)", Program::InMemory),
            (
                "a link points elsewhere by now",
                path("/v2"),
                false,
                "/v1",
                Program::Elsewhere("/v1".into()),
            ),
            (
                "... and its file is gone",
                path("/v2"),
                false,
                "/v1 (deleted)",
                Program::InMemory,
            ),
            (
                "a script starts another program",
                path("/s"),
                true,
                "/a",
                Program::Listed,
            ),
            ("... gone", path("/s"), true, "/a (deleted)", Program::Listed),
        ] {
            assert_eq!(program(listed, script, Path::new(exe)), expected, "{what}");
        }
    }
}
