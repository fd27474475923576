//! HAProxy's configuration.
#![expect(clippy::unwrap_used, reason = "a harness fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use super::{Setup, Site, endpoint, host, replace};
use crate::process::free_port;

pub(super) fn configure(folder: &Path, site: &Site, setup: &Setup, plain: SocketAddr, tls: SocketAddr, version: usize) {
    let stats = if version == 0 {
        let port = free_port();
        fs::write(folder.join("stats-port"), port.to_string()).unwrap();
        port
    } else {
        fs::read_to_string(folder.join("stats-port")).unwrap().parse().unwrap()
    };
    let mut maps = String::new();
    (0..setup.hosts).for_each(|n| writeln!(maps, "{} backend", host(n)).unwrap());
    fs::write(folder.join("hosts.map"), maps).unwrap();
    let mut rules = String::new();
    (0..setup.routes).for_each(|n| writeln!(rules, "    use_backend backend if {{ path_beg /r{n}/ }}").unwrap());
    let at = folder.display();
    let log = if setup.access_log { "    log global\n    option httplog\n" } else { "    no log\n" };
    let frontend = |name: &str, bind: String, proto: &str| {
        format!(
            "frontend {name}\n    bind {bind}\n    option forwardfor\n    unique-id-format %[uuid()]\n    unique-id-header x-request-id\n    \
             http-request set-header x-forwarded-proto {proto}\n    \
             http-request return status 200 content-type text/plain lf-string v{version} if {{ path /version }}\n    \
             use_backend websocket if {{ path /ws }}\n{rules}    \
             use_backend %[req.hdr(host),field(1,:),lower,map({at}/hosts.map,none)]\n    default_backend none\n"
        )
    };
    let mut servers = String::new();
    (0..setup.endpoints)
        .for_each(|n| writeln!(servers, "    server s{n} {}:{} pool-max-conn 512", endpoint(n), site.backend).unwrap());
    let text = format!(
        "global\n    maxconn 9500\n    nbthread 1\n    log stdout format raw local0\n    ssl-default-bind-options ssl-min-ver TLSv1.2\n\
         defaults\n    mode http\n{log}    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n    \
         timeout http-keep-alive 1h\n    timeout tunnel 1h\n    http-reuse always\n{}{}\
         frontend stats\n    bind 127.0.0.1:{stats}\n    no log\n    http-request use-service prometheus-exporter if {{ path /metrics }}\n\
         backend backend\n    balance leastconn\n{servers}\
         backend websocket\n    server ws 127.0.0.1:{}\n\
         backend none\n    http-request return status 404\n",
        frontend("plain", plain.to_string(), "http"),
        frontend("tls", format!("{tls} ssl crt {} alpn h2,http/1.1", site.file("server.pem").display()), "https"),
        site.websocket,
    );
    replace(&folder.join("haproxy.cfg"), &text);
}
