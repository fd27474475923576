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
        let mut servers = vec![yaml::server(plain, "http", "HTTP", &["*"], "")];
        match setup.certificates {
            0 => servers.push(yaml::https(tls, "https", &["*"], "bench")),
            count => servers
                .extend((0..count).map(|n| yaml::https(tls, &format!("https-{n}"), &[&host(n)], &format!("c{n}")))),
        }
        for first in (0..setup.certificates).step_by(100) {
            let numbers = first..(first + 100).min(setup.certificates);
            let secret = |n: usize| tls_secret("istio-system", &format!("c{n}"), &site.authority.issue(&[&host(n)]));
            replace(&config.join(format!("secrets-{first:05}.yaml")), &numbers.map(secret).collect::<String>());
        }
        let text = yaml::gateway_of(&servers)
            + &yaml::service_entry("one", "one.bench.test", "HTTP", &endpoints)
            + &yaml::service_entry("ws", "ws.bench.test", "HTTP", &[local(site.websocket)])
            + &tls_secret("istio-system", "bench", &pair)
            + &setup.documents;
        let text = match setup.certificates {
            0 => text,
            _ => text + &yaml::forward("rest", "*.bench.test", "one.bench.test"),
        };
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
