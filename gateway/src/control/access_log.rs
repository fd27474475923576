use std::sync::Arc;

use tidegate_core::{Kind, Origin, ResourceKey};
use tidegate_resources::mesh::AccessLogEncoding;
use tidegate_resources::{MeshConfig, Object, ResourceSet, Spec};

use crate::run::AccessLogOverride;

/// Mesh settings with the access log that the command line asks for.
#[derive(Debug)]
pub(super) struct AccessLogObjects {
    access_log: AccessLogOverride,
    /// What they were made of, none if there was nothing, and what was made. What is compiled again is the same object
    /// again, so that it counts as no change.
    made: Vec<(Option<Arc<Object>>, Arc<Object>)>,
}

impl AccessLogObjects {
    pub(super) fn new(access_log: AccessLogOverride) -> Self {
        Self { access_log, made: Vec::new() }
    }

    /// The set with these settings in the place of its own.
    pub(super) fn put_into(&mut self, set: &ResourceSet) -> ResourceSet {
        let mut forms: Vec<_> = set.iter_kind(Kind::MeshConfig).cloned().map(Some).collect();
        if forms.is_empty() {
            forms.push(None);
        }
        let before = std::mem::take(&mut self.made);
        let mut set = set.clone();
        for form in forms {
            let known = before.iter().find(|(of, _)| of.as_ref().map(Arc::as_ptr) == form.as_ref().map(Arc::as_ptr));
            let made = known.map_or_else(|| Arc::new(self.make(form.as_deref())), |(_, made)| made.clone());
            set.insert(made.clone());
            self.made.push((form, made));
        }
        set
    }

    fn make(&self, form: Option<&Object>) -> Object {
        let mut object = form.cloned().unwrap_or_else(|| Object {
            key: ResourceKey::local(Kind::MeshConfig, "", "istio"),
            metadata: Default::default(),
            api_version: "".into(),
            spec: Spec::MeshConfig(Box::<MeshConfig>::default()),
            origin: Origin::new("--access-log", 0, 0),
            spans: Default::default(),
            source: "".into(),
        });
        if let Spec::MeshConfig(mesh) = &mut object.spec {
            mesh.access_log_file.clone_from(&self.access_log.path);
            let is_json = self.access_log.json;
            mesh.access_log_encoding = if is_json { AccessLogEncoding::Json } else { AccessLogEncoding::Text };
        }
        object
    }
}
