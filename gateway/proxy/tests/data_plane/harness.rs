use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::{Host, Kind, Lifecycle, Origin, ResourceKey};
use tidegate_proxy::{Gateway, GatewayOptions, Limits};
use tidegate_sds::SecretStore;
use tidegate_snapshot::{
    ClientTls, Cluster, ClusterIndex, ClusterRef, DestinationService, Discovery, Endpoint, EndpointAddress,
    FilterChain, Forward, HeaderOperations, Health, Listener, ListenerProtocol, LoadBalancing, Locality, MeshSettings,
    NetworkFilter, PathMatch, Route, RouteAction, RouteMatch, RouteTable, Snapshot, Source, UpstreamProtocol,
    VirtualHost, WeightedCluster, Workload,
};

/// A gateway that listens on loopback.
pub(crate) struct Edge {
    pub(crate) gateway: Gateway,
    pub(crate) lifecycle: Lifecycle,
}

impl Edge {
    /// Serves `snapshot` with small limits of time.
    pub(crate) async fn start(snapshot: Snapshot) -> Self {
        Self::with_limits(snapshot, Limits::default()).await
    }

    pub(crate) async fn with_limits(snapshot: Snapshot, limits: Limits) -> Self {
        Self::with_secrets(snapshot, limits, Arc::default()).await
    }

    pub(crate) async fn with_secrets(snapshot: Snapshot, limits: Limits, secrets: Arc<SecretStore>) -> Self {
        let lifecycle = Lifecycle::default();
        let options = GatewayOptions { workers: 2, limits, secrets, ..GatewayOptions::default() };
        let gateway = Gateway::start(options, lifecycle.clone()).unwrap();
        let findings = gateway.publish(Arc::new(snapshot)).await;
        assert!(findings.is_empty(), "{findings:?}");
        Self { gateway, lifecycle }
    }

    /// Serves `snapshot` with what `secrets` holds and will hold.
    pub(crate) async fn trusting(snapshot: Snapshot, secrets: &Arc<SecretStore>) -> Self {
        Self::with_secrets(snapshot, Limits::default(), secrets.clone()).await
    }

    pub(crate) async fn publish(&self, snapshot: Snapshot) {
        let findings = self.gateway.publish(Arc::new(snapshot)).await;
        assert!(findings.is_empty(), "{findings:?}");
    }

    /// Where the only listener, or the one called `name`, accepts.
    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.listeners()[0].bound[0]
    }

    pub(crate) fn address_of(&self, name: &str) -> Option<SocketAddr> {
        self.gateway.listeners().iter().find(|it| &*it.name == name)?.bound.first().copied()
    }

    pub(crate) fn metrics(&self) -> String {
        let mut out = String::new();
        self.gateway.write_metrics(&mut out);
        out
    }

    /// Waits until a request with `labels`, all of which its series has, was counted.
    pub(crate) async fn await_request(&self, labels: &[&str]) {
        for _ in 0..200 {
            let found = self.metrics().lines().any(|line| {
                line.starts_with("istio_requests_total") && labels.iter().all(|label| line.contains(label))
            });
            if found {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no request with {labels:?} in\n{}", self.metrics());
    }
}

/// A Snapshot in the making.
pub(crate) struct Config {
    clusters: Vec<Arc<Cluster>>,
    pub(crate) routes: Vec<Route>,
    pub(crate) mesh: MeshSettings,
    pub(crate) hosts: Vec<&'static str>,
    pub(crate) https_redirect: bool,
    pub(crate) listeners: Vec<(String, u16)>,
}

impl Config {
    pub(crate) fn new() -> Self {
        Self {
            clusters: Vec::new(),
            routes: Vec::new(),
            mesh: MeshSettings::default(),
            hosts: vec!["*"],
            https_redirect: false,
            listeners: vec![("127.0.0.1_0".into(), 0)],
        }
    }

    /// One route for everything to one HTTP/1 backend.
    pub(crate) fn to(backend: SocketAddr) -> Self {
        let mut config = Self::new();
        let cluster = config.cluster("backend", &[backend]);
        config.routes.push(forward(Forward::new(vec![destination(&cluster)])));
        config
    }

    pub(crate) fn to_http2(backend: SocketAddr) -> Self {
        let mut config = Self::new();
        let cluster = config.cluster_of("backend", &[backend], UpstreamProtocol::Http2);
        config.routes.push(forward(Forward::new(vec![destination(&cluster)])));
        config
    }

    pub(crate) fn cluster(&mut self, host: &str, backends: &[SocketAddr]) -> ClusterRef {
        self.cluster_of(host, backends, UpstreamProtocol::Http1)
    }

    pub(crate) fn cluster_of(&mut self, host: &str, backends: &[SocketAddr], protocol: UpstreamProtocol) -> ClusterRef {
        self.cluster_with(host, backends.iter().map(|address| endpoint(*address)).collect(), protocol)
    }

    pub(crate) fn cluster_with(
        &mut self,
        host: &str,
        endpoints: Vec<Endpoint>,
        protocol: UpstreamProtocol,
    ) -> ClusterRef {
        let name: Arc<str> = format!("outbound|80||{host}").into();
        self.clusters.push(Arc::new(Cluster {
            name: name.clone(),
            protocol,
            load_balancing: LoadBalancing::RoundRobin,
            connect_timeout: Duration::from_secs(1),
            tls: None,
            discovery: Discovery::Static(endpoints),
            service: DestinationService { host: host.into(), name: host.into(), namespace: "default".into() },
            sources: Vec::new(),
        }));
        ClusterRef::Found { index: ClusterIndex(self.clusters.len() as u32 - 1), name }
    }

    /// Connections to `cluster` are secured from now on.
    pub(crate) fn secure(&mut self, cluster: &ClusterRef, tls: ClientTls) {
        let ClusterRef::Found { index, .. } = cluster else { panic!("no cluster") };
        let own = &mut self.clusters[index.0 as usize];
        *own = Arc::new(Cluster { tls: Some(Arc::new(tls)), ..Cluster::clone(own) });
    }

    pub(crate) fn route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    pub(crate) fn edit(mut self, edit: impl FnOnce(&mut Forward)) -> Self {
        let RouteAction::Forward(forward) = &mut self.routes[0].action else { panic!("no forwarding route") };
        edit(forward);
        self
    }

    /// One listener with these chains, in place of those of HTTP.
    pub(crate) fn snapshot_with(self, protocol: ListenerProtocol, chains: Vec<FilterChain>) -> Snapshot {
        let (name, port) = self.listeners.into_iter().next().expect("a listener");
        let listener = Listener::new(name, Some([127, 0, 0, 1].into()), port, protocol, chains);
        Snapshot::new(vec![listener], self.clusters, self.mesh)
    }

    pub(crate) fn snapshot(self) -> Snapshot {
        let domains = self.hosts.iter().map(|host| Host::new_unchecked(host)).collect();
        let mut virtual_host = VirtualHost::new("vhost:80".into(), domains, self.routes);
        virtual_host.https_redirect = self.https_redirect;
        let table = Arc::new(RouteTable::new("http.80".into(), vec![Arc::new(virtual_host)]));
        let listeners: Vec<_> = self
            .listeners
            .into_iter()
            .map(|(name, port)| {
                let chains = vec![FilterChain::new("any".into(), NetworkFilter::Http(table.clone()))];
                let bind = Some([127, 0, 0, 1].into());
                let mut listener = Listener::new(name, bind, port, ListenerProtocol::Http, chains);
                let key = ResourceKey::local(Kind::Gateway, "default", "edge");
                listener.sources = vec![(key, Origin::new("edge.yaml", 3, 7))];
                listener
            })
            .collect();
        Snapshot::new(listeners, self.clusters, self.mesh)
    }

    /// These listeners instead of the config's own.
    pub(crate) fn snapshot_of(self, listeners: Vec<Listener>) -> Snapshot {
        Snapshot::new(listeners, self.clusters, self.mesh)
    }
}

pub(crate) fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint {
        address: EndpointAddress::Socket(address),
        weight: 1,
        health: Health::Healthy,
        locality: Locality::default(),
        workload: Workload::default(),
        origin: Origin::default(),
    }
}

pub(crate) fn destination(cluster: &ClusterRef) -> WeightedCluster {
    WeightedCluster {
        cluster: cluster.clone(),
        weight: 1,
        request_headers: HeaderOperations::default(),
        response_headers: HeaderOperations::default(),
    }
}

pub(crate) fn forward(forward: Forward) -> Route {
    action(PathMatch::any(), RouteAction::Forward(forward))
}

pub(crate) fn prefix(value: &str) -> PathMatch {
    PathMatch::Prefix { value: value.into(), ignore_case: false }
}

pub(crate) fn action(path: PathMatch, action: RouteAction) -> Route {
    Route {
        name: "rule".into(),
        matcher: RouteMatch { path, ..RouteMatch::default() },
        action,
        request_headers: HeaderOperations::default(),
        response_headers: HeaderOperations::default(),
        source: Source { key: ResourceKey::local(Kind::VirtualService, "default", "vs"), origin: Origin::default() },
    }
}

pub(crate) fn missing(name: &str) -> ClusterRef {
    ClusterRef::Missing { name: name.into() }
}

/// An address where nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
