//! Tidegate's configuration: Istio's YAML.
#![expect(clippy::unwrap_used, reason = "a harness fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use super::{HOST, Setup, Site, endpoint, host, replace};
use crate::pki::tls_secret;
use crate::process::local;
use crate::yaml;

pub(super) fn configure(folder: &Path, site: &Site, setup: &Setup, plain: u16, tls: u16, version: usize) {
    let config = folder.join("config");
    fs::create_dir_all(&config).unwrap();
    let endpoints: Vec<SocketAddr> =
        (0..setup.endpoints).map(|number| (endpoint(number), site.backend).into()).collect();
    if version == 0 {
        let pair = crate::pki::Pair { chain: site.chain.clone(), key: site.key.clone(), der: Vec::new() };
        let text = yaml::gateway_of(&[
            yaml::server(plain, "http", "HTTP", &["*"], ""),
            yaml::https(tls, "https", &["*"], "bench"),
        ]) + &yaml::service_entry("one", "one.bench.test", "HTTP", &endpoints)
            + &yaml::service_entry("ws", "ws.bench.test", "HTTP", &[local(site.websocket)])
            + &tls_secret("istio-system", "bench", &pair)
            + &setup.documents;
        replace(&config.join("gateway.yaml"), &text);
        for first in (1..setup.hosts).step_by(100) {
            let hosts = first..(first + 100).min(setup.hosts);
            let text: String = hosts.map(|n| yaml::forward(&format!("v{n}"), &host(n), "one.bench.test")).collect();
            replace(&config.join(format!("hosts-{first:05}.yaml")), &text);
        }
    }
    let mut rules = format!(
        "- match: [{{uri: {{exact: /ws}}}}]\n  route: [{{destination: {{host: ws.bench.test}}}}]\n\
         - match: [{{uri: {{exact: /version}}}}]\n  directResponse: {{status: 200, body: {{string: v{version}}}}}\n"
    );
    for number in 0..setup.routes {
        writeln!(
            rules,
            "- match: [{{uri: {{prefix: /r{number}/}}}}]\n  route: [{{destination: {{host: one.bench.test}}}}]"
        )
        .unwrap();
    }
    rules += &setup.rules;
    rules += "- route: [{destination: {host: one.bench.test}}]\n";
    replace(&config.join("main.yaml"), &yaml::virtual_service("main", HOST, &rules));
}
