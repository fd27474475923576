use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A kind of resource that Tidegate reads, independent of the API version that it was written in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Kind {
    Gateway,
    VirtualService,
    DestinationRule,
    ServiceEntry,
    WorkloadEntry,
    Service,
    EndpointSlice,
    Endpoints,
    Pod,
    Namespace,
    Secret,
    ConfigMap,
    /// Gateway API: which namespaces may refer to objects of this one.
    ReferenceGrant,
    /// Ours: a certificate that an ACME authority issues.
    AcmeCertificate,
    /// Mesh-wide settings: the file of `--mesh-config`; from a ConfigMap they keep the ConfigMap's key.
    MeshConfig,
}

impl Kind {
    pub const ALL: [Kind; 15] = [
        Kind::Gateway,
        Kind::VirtualService,
        Kind::DestinationRule,
        Kind::ServiceEntry,
        Kind::WorkloadEntry,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::Endpoints,
        Kind::Pod,
        Kind::Namespace,
        Kind::Secret,
        Kind::ConfigMap,
        Kind::ReferenceGrant,
        Kind::AcmeCertificate,
        Kind::MeshConfig,
    ];

    /// The `kind:` that users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Gateway => "Gateway",
            Kind::VirtualService => "VirtualService",
            Kind::DestinationRule => "DestinationRule",
            Kind::ServiceEntry => "ServiceEntry",
            Kind::WorkloadEntry => "WorkloadEntry",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::Endpoints => "Endpoints",
            Kind::Pod => "Pod",
            Kind::Namespace => "Namespace",
            Kind::Secret => "Secret",
            Kind::ConfigMap => "ConfigMap",
            Kind::ReferenceGrant => "ReferenceGrant",
            Kind::AcmeCertificate => "AcmeCertificate",
            Kind::MeshConfig => "MeshConfig",
        }
    }

    /// API group, empty for Kubernetes' core group.
    pub fn group(self) -> &'static str {
        match self {
            Kind::Gateway | Kind::VirtualService | Kind::DestinationRule | Kind::ServiceEntry | Kind::WorkloadEntry => {
                "networking.istio.io"
            }
            Kind::EndpointSlice => "discovery.k8s.io",
            Kind::ReferenceGrant => "gateway.networking.k8s.io",
            Kind::AcmeCertificate => "tidegate.io",
            _ => "",
        }
    }

    /// Whether objects of this kind live outside namespaces.
    pub fn is_cluster_scoped(self) -> bool {
        matches!(self, Kind::Namespace | Kind::MeshConfig)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Identity of one object. Orders by kind, cluster, namespace, name: the order in which findings are printed.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ResourceKey {
    pub kind: Kind,
    /// Name of the cluster that the object came from; empty for files.
    pub cluster: Arc<str>,
    /// Empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ResourceKey {
    /// A key of an object that came from files.
    pub fn local(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, cluster: "".into(), namespace: namespace.into(), name: name.into() }
    }
}

/// `VirtualService ns/name`, the form that istioctl prints; no slash for cluster-scoped kinds.
impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// A place in a text. Lines and columns count from 1; columns count characters. Zero means unknown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

/// Where something was written: a file (or `cluster/resourceVersion`) and a place in it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Origin {
    pub file: Arc<str>,
    #[serde(flatten)]
    pub position: Position,
}

impl Origin {
    pub fn new(file: impl Into<Arc<str>>, line: u32, column: u32) -> Self {
        Self { file: file.into(), position: Position { line, column } }
    }

    pub fn at(&self, position: Position) -> Self {
        Self { file: self.file.clone(), position }
    }
}

/// `file:line:column`, leaving out what is unknown.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.position.line > 0 {
            write!(f, ":{}", self.position.line)?;
            if self.position.column > 0 {
                write!(f, ":{}", self.position.column)?;
            }
        }
        Ok(())
    }
}
