//! The configuration that serves, in Envoy's shape and in ours.

use http::StatusCode;
use tidegate_snapshot::Pattern;

use crate::dump::{DumpError, DumpOptions, masked, one_resource, whole};
use crate::endpoint::{Admin, Parameters, Reply};

pub(crate) fn config_dump(admin: &Admin, parameters: &Parameters) -> Reply {
    let name_regex = parameters.get("name_regex").filter(|regex| !regex.is_empty());
    let names = match name_regex.map(Pattern::full).transpose() {
        Ok(names) => names,
        Err(error) => {
            let regex = name_regex.unwrap_or_default();
            return Reply::bad_request(format!("Error while parsing name_regex from {regex}: {error}"));
        }
    };
    let snapshot = admin.backend.snapshot();
    let node = admin.backend.node();
    let include_eds = parameters.has("include_eds");
    let clusters = if include_eds { sorted_clusters(admin) } else { Vec::new() };
    let secrets = admin.backend.secrets();
    let options = DumpOptions {
        node: &node,
        updated: admin.backend.config_status().published,
        include_eds,
        clusters: &clusters,
        secrets: &secrets,
        names: names.as_ref(),
    };
    let mask = parameters.get("mask");
    let dump = match (parameters.get("resource"), mask) {
        (Some(resource), mask) => one_resource(&snapshot, &options, resource, mask),
        (None, Some(mask)) => masked(&snapshot, &options, mask),
        (None, None) => Ok(whole(&snapshot, &options)),
    };
    match dump {
        Ok(dump) => Reply::json(&dump),
        Err(error @ DumpError::NotFound(_)) => Reply::text(StatusCode::NOT_FOUND, error.to_string()),
        Err(error) => Reply::bad_request(error.to_string()),
    }
}

/// Clusters at run time by name, whatever order the backend has.
pub(crate) fn sorted_clusters(admin: &Admin) -> Vec<crate::ClusterStatus> {
    let mut clusters = admin.backend.clusters();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    clusters
}

pub(crate) fn status(admin: &Admin, _: &Parameters) -> Reply {
    Reply::json(&admin.backend.config_status())
}

/// Sixteen hexadecimal digits and a newline.
pub(crate) fn hash(admin: &Admin, _: &Parameters) -> Reply {
    Reply::text(StatusCode::OK, format!("{}\n", admin.backend.snapshot().hash()))
}
