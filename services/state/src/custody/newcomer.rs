//! Who wants to be let in by the custodian, and why somebody isn't.

use imaccess_common::generation::Span;

/// Most shards that a gateway has.
pub(super) const MAX_SHARDS: u32 = 256;

/// What a connection of a gateway is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A shard deposits and releases by it.
    Shard {
        /// Which.
        shard: u32,
        /// Of how many.
        shards: u32,
    },
    /// A starting gateway takes everything back by it.
    Taker,
}

/// Who wants to be let in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Newcomer<'a> {
    /// Generations that it speaks.
    pub(super) speaks: Span,
    /// Its instance id.
    pub(super) instance: &'a str,
    /// Its incarnation.
    pub(super) incarnation: u32,
    /// What it wants.
    pub(super) role: Role,
}

/// Why somebody isn't let in; the text is for people, and is sent to the gateway, which logs it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// No generation in common.
    #[error(
        "the gateway speaks custody generation {theirs} and this state sidecar {ours}: none in common, so nothing is kept for \
         the gateway and everything goes on as before. Replace one of them by a version in between first; `imaccess compat` \
         prints what a binary speaks"
    )]
    Generation {
        /// The gateway's.
        theirs: Span,
        /// Ours.
        ours: Span,
    },
    /// A later incarnation has been here.
    #[error(
        "incarnation {incarnation} of the gateway is over: incarnation {highest} has taken its place. This process must end; \
         nothing of it is kept"
    )]
    Fenced {
        /// Its own.
        incarnation: u32,
        /// The highest seen.
        highest: u32,
    },
    /// A shard that can't be.
    #[error("shard {shard} of {shards} can't be: there are 1 to {MAX_SHARDS}, counted from 0")]
    Shard {
        /// The shard.
        shard: u32,
        /// Of how many.
        shards: u32,
    },
}

impl Refusal {
    /// Its label in metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Refusal::Generation { .. } => "generation",
            Refusal::Fenced { .. } => "fenced",
            Refusal::Shard { .. } => "shard",
        }
    }
}
