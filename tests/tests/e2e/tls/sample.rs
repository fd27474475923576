//! The Gateway of a book: two HTTPS hosts on 443, TCP on 31400, HTTP on 80.

use tidegate_tests::pki::Authority;
use tidegate_tests::process::{Options, free_port, local};
use tidegate_tests::tls::TlsOptions;
use tidegate_tests::{ConfigFolder, EchoBackend, client, raw, shared};

use super::secrets;

/// A Gateway of the same shape, for those who have no samples.
const OWN: &str = "
apiVersion: networking.istio.io/v1alpha3
kind: Gateway
metadata: {name: coolstore-gateway, namespace: formation}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [webapp.formation.io]}
  - port: {number: 443, name: https-webapp, protocol: HTTPS}
    tls: {mode: SIMPLE, credentialName: webapp-credential}
    hosts: [webapp.formation.io]
  - port: {number: 443, name: https-catalog, protocol: HTTPS}
    tls: {mode: SIMPLE, credentialName: catalog-credential}
    hosts: [catalog.istioinaction.io]
---
apiVersion: networking.istio.io/v1alpha3
kind: Gateway
metadata: {name: echo-tcp-gateway, namespace: formation}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 31400, name: tcp-echo, protocol: TCP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: webapp-vs-from-gw, namespace: formation}
spec:
  hosts: [webapp.formation.io]
  gateways: [coolstore-gateway]
  http:
  - route: [{destination: {host: webapp, port: {number: 8080}}}]
";

/// What the sample leaves to its reader: the other host's routes, the TCP route, the services.
fn rest(webapp: u16, catalog: u16, tcp: u16) -> String {
    let service = |name: &str, port: u16, protocol: &str, target: u16| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: formation}}\nspec:\n  \
             selector: {{app: {name}}}\n  ports: [{{port: {port}, name: {protocol}, targetPort: {target}}}]\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  namespace: formation\n  \
             labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\n\
             endpoints: [{{addresses: [127.0.0.1]}}]\nports: [{{name: {protocol}, port: {target}}}]\n"
        )
    };
    service("webapp", 8080, "http", webapp)
        + &service("catalog", 80, "http", catalog)
        + &service("echo", 9000, "tcp", tcp)
        + "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: catalog, namespace: formation}\n\
           spec:\n  hosts: [catalog.istioinaction.io]\n  gateways: [coolstore-gateway]\n  http:\n  \
           - route: [{destination: {host: catalog, port: {number: 80}}}]\n\
           ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: echo, namespace: formation}\n\
           spec:\n  hosts: ['*']\n  gateways: [echo-tcp-gateway]\n  tcp:\n  \
           - match: [{port: 31400}]\n    route: [{destination: {host: echo, port: {number: 9000}}}]\n---\n"
}

async fn serves_all_four(gateway: &str) {
    let authority = Authority::new("formation");
    let (webapp, catalog) = (EchoBackend::start("webapp").await, EchoBackend::start("catalog").await);
    let tcp = raw::TargetBackend::start().await;
    let folder = ConfigFolder::with(gateway);
    folder.write("rest.yaml", rest(webapp.address.port(), catalog.address.port(), tcp.address.port()));
    folder.write(
        "secrets.yaml",
        secrets(
            &authority,
            &[("webapp-credential", &["webapp.formation.io"]), ("catalog-credential", &["catalog.istioinaction.io"])],
        ),
    );
    // Ports 80 and 443 of whoever runs the tests are not ours.
    let offset = free_port();
    let tidegate = Options::default().arg("--port-offset").arg(offset.to_string()).start(&folder).await;
    let at = |port: u16| local(if port < 1024 { port + offset } else { port });

    for (host, backend) in [("webapp.formation.io", "webapp"), ("catalog.istioinaction.io", "catalog")] {
        for options in [TlsOptions::to(host).trusting(&authority), TlsOptions::to(host).trusting(&authority).http2()] {
            let answer = options.get(at(443), host, "/").await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.header("x-backend")), (200, backend), "{host}");
            assert_eq!(answer.received("x-forwarded-proto").as_deref(), Some("https"));
        }
    }
    let answer = client::get(at(80), "webapp.formation.io", "/").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-backend")), (200, "webapp"));
    let answer = client::get(local(31400), "any.test", "/through-tcp").await;
    assert_eq!(answer.text(), "/through-tcp");
    let refused = TlsOptions::to("other.formation.io").handshake(at(443)).await;
    assert!(refused.is_err(), "a name that no server has");
    let log = tidegate.log();
    assert!(!log.contains("not enforced"), "{log}");
}

#[tokio::test]
async fn the_gateway_of_a_book_serves_https_http_and_tcp() {
    serves_all_four(OWN).await;
}

#[tokio::test]
async fn the_gateway_of_the_samples_serves_https_http_and_tcp() {
    let Some(folder) = shared::folder() else { return };
    let text = std::fs::read_to_string(folder.join("samples/seeds/istio-in-action-gateway.yaml")).unwrap();
    serves_all_four(&text).await;
}
