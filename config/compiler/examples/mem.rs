use tidegate_resources::*;
use tidegate_snapshot as s;
macro_rules! sz { ($($t:ty),*) => { $(eprintln!("{:6} {}", std::mem::size_of::<$t>(), stringify!($t));)* } }
fn main() {
    sz!(Object, Spec, Metadata, VirtualService, HttpRoute, HttpMatchRequest, HttpRouteDestination, Destination, ServiceEntry, WorkloadEntry, ServicePort, Service, EndpointSlice, HttpRewrite, HttpRedirect, Headers, StringMatch, Gateway, Server);
    sz!(s::Cluster, s::Endpoint, s::VirtualHost, s::Route, s::RouteMatch, s::Forward, s::RouteAction, s::WeightedCluster, s::HeaderOperations, s::Source, s::Workload, s::Locality, s::DestinationService);
}
