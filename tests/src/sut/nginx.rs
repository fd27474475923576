//! nginx's configuration.
#![expect(clippy::unwrap_used, reason = "a harness fails by panicking")]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use super::{HOST, Setup, Site, endpoint, host, replace};

pub(super) fn configure(folder: &Path, site: &Site, setup: &Setup, plain: SocketAddr, tls: SocketAddr, version: usize) {
    let at = folder.display();
    let mut servers = String::new();
    (0..setup.endpoints).for_each(|n| writeln!(servers, "    server {}:{};", endpoint(n), site.backend).unwrap());
    let pass = "proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
                proxy_set_header Host $host; proxy_set_header X-Request-ID $request_id; \
                proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;";
    let mut routes = String::new();
    (0..setup.routes).for_each(|n| writeln!(routes, "    location /r{n}/ {{ {pass} }}").unwrap());
    let listen = format!("    listen {plain} backlog=4096;\n    listen {tls} ssl http2 backlog=4096;\n");
    let mut hosts = format!(
        "  server {{\n{}    server_name {HOST};\n    location = /version {{ return 200 v{version}; }}\n    \
         location = /ws {{ proxy_pass http://127.0.0.1:{}; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
         proxy_set_header Connection upgrade; proxy_read_timeout 3600s; }}\n{routes}    location / {{ {pass} }}\n  }}\n",
        listen.replace(" backlog=4096", " default_server backlog=4096"),
        site.websocket,
    );
    let listen = listen.replace(" backlog=4096", "");
    for number in 1..setup.hosts {
        writeln!(hosts, "  server {{\n{listen}    server_name {};\n    location / {{ {pass} }}\n  }}", host(number))
            .unwrap();
    }
    let log = if setup.access_log {
        format!(
            "log_format edge '[$time_iso8601] \"$request\" $status $body_bytes_sent $request_length $request_time $upstream_response_time \
             \"$http_x_forwarded_for\" \"$http_user_agent\" \"$request_id\" \"$host\" \"$upstream_addr\" $server_addr $remote_addr $ssl_server_name';\n  \
             access_log {at}/access.log edge;"
        )
    } else {
        "access_log off;".into()
    };
    let text = format!(
        "worker_processes 1;\ndaemon off;\nworker_rlimit_nofile 20000;\npid {at}/nginx.pid;\nerror_log {at}/nginx.err error;\n\
         events {{ worker_connections 16384; }}\nhttp {{\n  {log}\n  keepalive_requests 100000000;\n  keepalive_timeout 3600s;\n  \
         tcp_nodelay on;\n  server_names_hash_max_size 65536;\n  server_names_hash_bucket_size 128;\n  \
         ssl_certificate {};\n  ssl_certificate_key {};\n  ssl_protocols TLSv1.2 TLSv1.3;\n  ssl_ecdh_curve X25519:P-256;\n  \
         upstream backend {{\n    least_conn;\n{servers}    keepalive 512;\n    keepalive_requests 100000000;\n    keepalive_timeout 3600s;\n  }}\n\
         {hosts}}}\n",
        site.file("server.crt").display(),
        site.file("server.key").display(),
    );
    replace(&folder.join("nginx.conf"), &text);
}
