use std::collections::BTreeMap;

use tidegate_snapshot::Workload;

/// Who this gateway is: the source of everything that it reports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeInfo {
    /// The workload's name: `istio-ingressgateway`.
    pub name: String,
    pub namespace: String,
    /// The cluster that the gateway runs in.
    pub cluster: String,
    /// The gateway's labels, those that Gateways select by.
    pub labels: BTreeMap<String, String>,
}

/// A gateway outside Kubernetes, with Istio's default name of the cluster.
impl Default for NodeInfo {
    fn default() -> Self {
        Self {
            name: "tidegate".into(),
            namespace: "default".into(),
            cluster: "Kubernetes".into(),
            labels: BTreeMap::new(),
        }
    }
}

impl NodeInfo {
    /// The node in the shape in which destinations are described.
    ///
    /// Canonical service and revision follow Istio's rule: their own label, Kubernetes' recommended label, `app` or
    /// `version`, and at last the workload's name or `latest`.
    pub(super) fn workload(&self) -> Workload {
        let label = |names: &[&str]| {
            names.iter().filter_map(|name| self.labels.get(*name)).find(|value| !value.is_empty()).cloned()
        };
        Workload {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            app: label(&["app"]).unwrap_or_default(),
            version: label(&["version"]).unwrap_or_default(),
            canonical_service: label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
                .unwrap_or_else(|| self.name.clone()),
            canonical_revision: label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"])
                .unwrap_or_else(|| "latest".to_owned()),
            cluster: self.cluster.clone(),
        }
    }
}
