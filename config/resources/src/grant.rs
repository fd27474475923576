//! `ReferenceGrant` (Gateway API, `gateway.networking.k8s.io`): a namespace's leave for objects elsewhere to refer to its
//! own.

use crate::decode::message;

message! {
    /// Leave for objects of other namespaces to refer to objects of this one. Everything in `from` may refer to everything
    /// in `to`.
    pub struct ReferenceGrant {
        /// 1-16 entries.
        pub from: Vec<ReferenceGrantFrom> => "from",
        /// 1-16 entries.
        pub to: Vec<ReferenceGrantTo> => "to",
    }

    /// Who may refer.
    pub struct ReferenceGrantFrom {
        /// Empty for Kubernetes' core group; must be written.
        pub group: Option<String> => "group",
        pub kind: String => "kind",
        pub namespace: String => "namespace",
    }

    /// To what.
    pub struct ReferenceGrantTo {
        /// Empty for Kubernetes' core group; must be written.
        pub group: Option<String> => "group",
        pub kind: String => "kind",
        /// None: every object of the kind.
        pub name: Option<String> => "name",
    }
}

/// An object that refers to another one, as a [`ReferenceGrant`] names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Referrer<'r> {
    pub group: &'r str,
    pub kind: &'r str,
    pub namespace: &'r str,
}

impl ReferenceGrant {
    /// Whether `referrer` may refer to the object `name` of `group` and `kind` in the grant's own namespace. Names
    /// compare as they are; there are no wildcards (Gateway API, GEP-709).
    pub fn permits(&self, referrer: Referrer<'_>, group: &str, kind: &str, name: &str) -> bool {
        let is_from = |from: &ReferenceGrantFrom| {
            from.group.as_deref() == Some(referrer.group)
                && from.kind == referrer.kind
                && from.namespace == referrer.namespace
        };
        let is_to = |to: &ReferenceGrantTo| {
            to.group.as_deref() == Some(group) && to.kind == kind && to.name.as_deref().is_none_or(|only| only == name)
        };
        self.from.iter().any(is_from) && self.to.iter().any(is_to)
    }
}
