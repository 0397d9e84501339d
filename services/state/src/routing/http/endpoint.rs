//! What can be asked for, and where. `openapi.yaml` says the same to people; a test holds the two together.

/// One operation of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    PushDevices,
    PushGroup,
    CreateGroup,
    DestroyGroup,
    JoinGroup,
    LeaveGroup,
    ListMembers,
    Broadcast,
    QueryOnline,
    Kick,
    /// The OpenAPI document.
    Document,
    /// The document for people.
    Page,
}

impl Endpoint {
    pub(super) const ALL: [Endpoint; 12] = [
        Endpoint::PushDevices,
        Endpoint::PushGroup,
        Endpoint::CreateGroup,
        Endpoint::DestroyGroup,
        Endpoint::JoinGroup,
        Endpoint::LeaveGroup,
        Endpoint::ListMembers,
        Endpoint::Broadcast,
        Endpoint::QueryOnline,
        Endpoint::Kick,
        Endpoint::Document,
        Endpoint::Page,
    ];

    /// The path, with its parameters in braces.
    pub(super) fn path(self) -> &'static str {
        match self {
            Endpoint::PushDevices => "/v1/businesses/{business}/push",
            Endpoint::PushGroup => "/v1/businesses/{business}/groups/{group}/push",
            Endpoint::CreateGroup | Endpoint::DestroyGroup => "/v1/businesses/{business}/groups/{group}",
            Endpoint::JoinGroup | Endpoint::ListMembers => "/v1/businesses/{business}/groups/{group}/members",
            Endpoint::LeaveGroup => "/v1/businesses/{business}/groups/{group}/members/remove",
            Endpoint::Broadcast => "/v1/businesses/{business}/broadcast",
            Endpoint::QueryOnline => "/v1/businesses/{business}/online",
            Endpoint::Kick => "/v1/businesses/{business}/kick",
            Endpoint::Document => "/openapi.json",
            Endpoint::Page => "/docs",
        }
    }

    /// The label of its metrics; in the document, without the underscores, its `operationId`.
    pub(super) fn label(self) -> &'static str {
        match self {
            Endpoint::PushDevices => "push_devices",
            Endpoint::PushGroup => "push_group",
            Endpoint::CreateGroup => "create_group",
            Endpoint::DestroyGroup => "destroy_group",
            Endpoint::JoinGroup => "join_group",
            Endpoint::LeaveGroup => "leave_group",
            Endpoint::ListMembers => "list_members",
            Endpoint::Broadcast => "broadcast",
            Endpoint::QueryOnline => "query_online",
            Endpoint::Kick => "kick",
            Endpoint::Document => "document",
            Endpoint::Page => "page",
        }
    }
}
