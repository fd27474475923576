//! Servers that speak TLS: 4.1 to 4.4; which server a connection and a request belong to.

use super::*;
use tidegate_snapshot::{
    CipherSuite, FilterChain, KeyExchangeGroup, Listener, ListenerProtocol, ServerTls, ServerTlsMode, TlsVersion,
    server_name_of,
};

pub(super) fn gateway(namespace: &str, name: &str, servers: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{selector: {{istio: ingressgateway}}, servers: [{servers}]}}
"
    )
}

/// An HTTPS server on 443; `name` is that of its port.
pub(super) fn https(name: &str, hosts: &str, tls: &str) -> String {
    format!("{{port: {{number: 443, name: {name}, protocol: HTTPS}}, hosts: [{hosts}], tls: {{{tls}}}}}")
}

pub(super) fn listener(compilation: &Compilation, port: u16) -> &Listener {
    let listeners = compilation.snapshot.listeners();
    listeners.iter().find(|listener| listener.port == port).unwrap_or_else(|| panic!("no listener on {port}"))
}

/// `<name> [<server names>]` of each chain.
pub(super) fn chains(compilation: &Compilation, port: u16) -> Vec<String> {
    let chains = listener(compilation, port).filter_chains().iter();
    chains
        .map(|chain| {
            let names: Vec<_> = chain.server_names.iter().map(ToString::to_string).collect();
            format!("{} [{}]", chain.name, names.join(" "))
        })
        .collect()
}

pub(super) fn is_closing(chain: &FilterChain) -> bool {
    match &chain.filter {
        tidegate_snapshot::NetworkFilter::Tcp(proxy) => chain.tls.is_none() && proxy.clusters().is_empty(),
        tidegate_snapshot::NetworkFilter::Http(_) => false,
    }
}

/// The TLS of a server with these settings in Gateway `infra/gw`, with what else is there.
fn compiled_tls(tls: &str, more: &[&str]) -> (Compilation, Option<ServerTls>) {
    // A second server shows that the first one costs no other anything.
    let other = https("other", "other.org", "mode: SIMPLE, credentialName: other");
    let gateway = gateway("infra", "gw", &format!("{}, {other}", https("https", "a.com", tls)));
    let mut documents = vec![gateway.as_str()];
    documents.extend(more);
    let compilation = compiled(&documents);
    let listener = listener(&compilation, 443);
    assert!(listener.select_filter_chain(Some("other.org")).unwrap().tls.is_some());
    let chain = listener.select_filter_chain(Some("a.com")).expect("its hosts are held");
    assert!(chain.tls.is_some() || is_closing(chain));
    let tls = chain.tls.as_deref().cloned();
    (compilation, tls)
}

/// Names of the certificates, then of the authorities.
fn secrets(tls: &ServerTls) -> (Vec<Vec<&str>>, Vec<&str>) {
    let names = |reference: &tidegate_snapshot::SecretRef| {
        assert!(reference.source.as_ref().is_some_and(|source| source.origin.position.line > 0));
        reference.names.clone()
    };
    fn texts(names: Vec<tidegate_core::SecretName>) -> Vec<&'static str> {
        names.iter().map(|name| &*Box::leak(name.to_string().into_boxed_str())).collect()
    }
    let certificates = tls.certificates.iter().map(|reference| texts(names(reference))).collect();
    let ca = tls.client_validation.as_ref().and_then(|validation| validation.ca.as_ref());
    (certificates, ca.map(|ca| texts(names(ca))).unwrap_or_default())
}

#[test]
fn the_servers_of_a_tls_port_are_chains_of_one_listener_by_server_name() {
    let servers = [
        https("a", "a.com, './b.com'", "mode: SIMPLE, credentialName: a"),
        https("any", "'*'", "mode: SIMPLE, credentialName: any"),
        "{port: {number: 443, name: db, protocol: TLS}, hosts: ['*.db.com'], tls: {mode: SIMPLE, credentialName: d}}"
            .to_owned(),
        "{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.com], tls: {httpsRedirect: true}}".to_owned(),
    ];
    let gateway = gateway("infra", "gw", &servers.join(", "));
    let service = virtual_service("v", &format!("hosts: [a.com, c.com], http: [{{{}}}]", to("a")))
        .replace("istio-system/gw", "infra/gw");
    let compilation = compiled(&[&gateway, &service, SERVICES]);
    assert_eq!(
        chains(&compilation, 443),
        ["https.443.a.gw.infra [a.com b.com]", "https.443.any.gw.infra [*]", "tls.443.db.gw.infra [*.db.com]"]
    );
    let listener = listener(&compilation, 443);
    assert_eq!((listener.protocol, listener.name.as_str()), (ListenerProtocol::Tls, "0.0.0.0_443"));
    assert_eq!(listener.sources.len(), 3);
    let chain = listener.select_filter_chain(Some("a.com")).unwrap();
    assert_eq!(chain.route_table().unwrap().name, chain.name);
    assert_eq!(chain.tls.as_ref().unwrap().alpn, ["h2", "http/1.1"]);
    assert!(listener.select_filter_chain(Some("x.db.com")).unwrap().tls.as_ref().unwrap().alpn.is_empty());
    // Each server has the virtual hosts that it admits, and none of its neighbours'.
    let hosts = |server_name: &str| -> Vec<String> {
        let table = listener.select_filter_chain(Some(server_name)).unwrap().route_table().unwrap();
        table.virtual_hosts().iter().map(|host| host.name.clone()).collect()
    };
    assert_eq!(hosts("a.com"), ["a.com:443"]);
    assert_eq!(hosts("other.org"), ["a.com:443", "c.com:443"]);
    // Redirection is a matter of plaintext.
    let plain = super::tls::listener(&compilation, 80).filter_chains()[0].route_table().unwrap();
    assert!(plain.virtual_hosts()[0].https_redirect);
    let table = chain.route_table().unwrap();
    assert!(!table.virtual_hosts()[0].https_redirect);
}

#[test]
fn an_address_is_no_server_name() {
    let gateway = gateway("infra", "gw", &https("a", "10.0.0.1, a.com", "mode: SIMPLE, credentialName: a"));
    check_finding(&compiled(&[&gateway]), "TG0005", "spec.servers[0].hosts[0]", "no server name for an IP address");
}

#[test]
fn a_server_without_virtual_services_answers_404() {
    let gateway = gateway("infra", "gw", &https("a", "a.com", "mode: SIMPLE, credentialName: a"));
    let compilation = compiled(&[&gateway]);
    assert_eq!(explain_url(&compilation, "https://a.com/", None), "404 NR");
}

#[test]
fn a_later_server_with_a_taken_host_is_left_out_as_a_whole() {
    let simple = "mode: SIMPLE, credentialName: x";
    let one = gateway("infra", "a-one", &https("one", "a.com, b.com", simple));
    let two = gateway("infra", "b-two", &https("two", "c.com, A.com", simple));
    let three = gateway("infra", "c-three", &https("three", "'*/b.com'", simple));
    // The host of the server that was left out is free.
    let four = gateway("infra", "d-four", &https("four", "c.com", simple));
    let compilation = compiled(&[&one, &two, &three, &four]);
    assert_eq!(
        chains(&compilation, 443),
        ["https.443.one.a-one.infra [a.com b.com]", "https.443.four.d-four.infra [c.com]"]
    );
    check_finding(&compilation, "IST0145", "spec.servers[0].hosts[1]", "on port 443 the host `a.com` is already");
    check_finding(&compilation, "IST0145", "spec.servers[0].hosts[0]", "Gateway infra/a-one");

    // With another namespace before it a host is another one for Istio; as a server name it is the same.
    let own = gateway("infra", "a-one", &https("one", "x/a.com", simple));
    let other = gateway("infra", "b-two", &https("two", "y/a.com, z.com", simple));
    let compilation = compiled(&[&own, &other]);
    assert_eq!(
        listener(&compilation, 443).select_filter_chain(Some("a.com")).unwrap().name,
        "https.443.one.a-one.infra"
    );
    assert_eq!(
        listener(&compilation, 443).select_filter_chain(Some("z.com")).unwrap().name,
        "https.443.two.b-two.infra"
    );
    check_finding(&compilation, "TG0006", "spec.servers[0].hosts[0]", "go to Gateway infra/a-one");
}

#[test]
fn plaintext_and_tls_do_not_share_a_port() {
    let servers = [
        https("a", "a.com", "mode: SIMPLE, credentialName: a"),
        "{port: {number: 443, name: http, protocol: HTTP}, hosts: [b.com]}".to_owned(),
        "{port: {number: 443, name: tcp, protocol: TCP}, hosts: [c.com]}".to_owned(),
        "{port: {number: 443, name: bound, protocol: HTTP}, hosts: [b.com], bind: 127.0.0.9}".to_owned(),
    ];
    let compilation = compiled(&[&gateway("infra", "gw", &servers.join(", "))]);
    assert_eq!(chains(&compilation, 443), ["https.443.a.gw.infra [a.com]"]);
    let names: Vec<_> = compilation.snapshot.listeners().iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["0.0.0.0_443", "127.0.0.9_443"]);
    check_finding(&compilation, "IST0145", "spec.servers[1].port", "already TLS");
    check_finding(&compilation, "IST0145", "spec.servers[2].port", "already TLS");
}

#[test]
fn modes_that_are_not_enforced_hold_their_hosts_and_serve_nothing() {
    for mode in ["ISTIO_MUTUAL", "AUTO_PASSTHROUGH"] {
        let held = https("held", "a.com", &format!("mode: {mode}"));
        let any = https("any", "'*'", "mode: SIMPLE, credentialName: any");
        let again = https("again", "a.com", "mode: SIMPLE, credentialName: again");
        let compilation = compiled(&[&gateway("infra", "gw", &[held.clone(), any, again].join(", "))]);
        check_finding(&compilation, "TG0004", "spec.servers[0].tls.mode", "is not enforced yet");
        check_finding(&compilation, "IST0145", "spec.servers[2].hosts[0]", "already served");
        let listener = listener(&compilation, 443);
        // Otherwise the server for every host would take what this one is to guard.
        assert!(is_closing(listener.select_filter_chain(Some("a.com")).unwrap()));
        assert!(listener.is_misdirected("https.443.any.gw.infra", "a.com"));
        // Alone it makes no listener.
        assert!(compiled(&[&gateway("infra", "gw", &held)]).snapshot.listeners().is_empty());
    }
}

#[test]
fn a_bare_credential_is_looked_for_beside_the_gateway_workload_and_then_beside_the_gateway() {
    let (compilation, tls) = compiled_tls("mode: MUTUAL, credentialName: a", &[]);
    let tls = tls.unwrap();
    assert_eq!(tls.mode, ServerTlsMode::Mutual);
    let (certificates, ca) = secrets(&tls);
    assert_eq!(certificates, [["kubernetes://istio-system/a", "kubernetes://infra/a"]]);
    assert_eq!(ca, ["kubernetes://istio-system/a-cacert", "kubernetes://infra/a-cacert"]);
    let told = compilation.diagnostics.iter().filter(|finding| finding.code.0 == "TG0015");
    assert_eq!(told.count(), 1, "{:?}", compilation.diagnostics);
    // In the workload's own namespace there is one place.
    let own = gateway("istio-system", "gw", &https("https", "a.com", "mode: SIMPLE, credentialName: a"));
    let compilation = compiled(&[&own]);
    let chain = &listener(&compilation, 443).filter_chains()[0];
    assert_eq!(secrets(chain.tls.as_ref().unwrap()).0, [["kubernetes://istio-system/a"]]);
    assert!(compilation.diagnostics.is_empty(), "{:?}", compilation.diagnostics);
}

#[test]
fn every_form_of_credential_is_resolved() {
    let check_names = |tls: &str, certificates: &[&str], ca: &[&str]| {
        let (compilation, compiled) = compiled_tls(tls, &[]);
        let compiled = compiled.unwrap_or_else(|| panic!("{tls}: {:#?}", compilation.diagnostics));
        let found = secrets(&compiled);
        assert_eq!((found.0.concat().as_slice(), found.1.as_slice()), (certificates, ca), "{tls}");
    };
    let both = ["kubernetes://istio-system/a", "kubernetes://infra/a"];
    check_names("mode: SIMPLE, credentialName: kubernetes://a", &both, &[]);
    check_names("mode: SIMPLE, credentialName: istio-system/a", &both[..1], &[]);
    check_names("mode: SIMPLE, credentialName: infra/a", &both[1..], &[]);
    check_names("mode: SIMPLE, credentialName: kubernetes-gateway://infra/a", &both[1..], &[]);
    check_names("mode: SIMPLE, credentialName: sds://vault/a", &["sds://vault/a"], &[]);
    check_names("mode: MUTUAL, credentialName: sds://vault/a", &["sds://vault/a"], &["sds://vault/a-cacert"]);
    check_names("mode: SIMPLE, credentialName: 'file-cert:/c~/k'", &["file-cert:/c~/k"], &[]);
    check_names(
        "mode: SIMPLE, credentialNames: [infra/rsa, infra/ecdsa]",
        &["kubernetes://infra/rsa", "kubernetes://infra/ecdsa"],
        &[],
    );
    check_names(
        "mode: OPTIONAL_MUTUAL, credentialNames: [infra/rsa, infra/ecdsa]",
        &["kubernetes://infra/rsa", "kubernetes://infra/ecdsa"],
        &["kubernetes://infra/rsa-cacert"],
    );
    check_names(
        "mode: MUTUAL, credentialName: infra/a, caCertCredentialName: infra/ca",
        &["kubernetes://infra/a"],
        &["kubernetes://infra/ca-cacert"],
    );
    check_names(
        "mode: MUTUAL, credentialName: infra/a, caCertCredentialName: infra/ca-cacert",
        &["kubernetes://infra/a"],
        &["kubernetes://infra/ca-cacert"],
    );
    check_names(
        "mode: MUTUAL, credentialName: infra/a, caCertCredentialName: configmap://infra/ca",
        &["kubernetes://infra/a"],
        &["configmap://infra/ca"],
    );
    check_names(
        "mode: MUTUAL, serverCertificate: /c.pem, privateKey: /k.pem, caCertificates: /ca.pem, caCrl: /crl.pem",
        &["file-cert:/c.pem~/k.pem"],
        &["file-root:/ca.pem"],
    );
    check_names(
        "mode: SIMPLE, tlsCertificates: [{serverCertificate: /1, privateKey: /2}, {serverCertificate: /3, privateKey: /4}]",
        &["file-cert:/1~/2", "file-cert:/3~/4"],
        &[],
    );
}

#[test]
fn a_credential_that_cannot_be_used_closes_the_connections_of_its_server_alone() {
    let check_refusal = |tls: &str, code: &str, field: &str, part: &str| {
        let (compilation, tls) = compiled_tls(tls, &[]);
        assert!(tls.is_none());
        check_finding(&compilation, code, &format!("spec.servers[0].tls{field}"), part);
    };
    check_refusal(
        "mode: SIMPLE, credentialName: other/a",
        "TG0014",
        ".credentialName",
        "does not let Gateways of `infra`",
    );
    check_refusal("mode: SIMPLE, credentialName: a/b/c", "IST0106", ".credentialName", "neither `name` nor");
    check_refusal("mode: SIMPLE, credentialName: configmap://infra/a", "IST0106", ".credentialName", "no key");
    check_refusal("mode: SIMPLE, credentialName: invalid://x", "IST0106", ".credentialName", "marked invalid");
    check_refusal("mode: SIMPLE, credentialName: builtin://", "TG0004", ".credentialName", "not enforced yet");
    check_refusal("mode: SIMPLE", "IST0106", "", "needs a file");
    let ca = "mode: MUTUAL, credentialName: a, caCertCredentialName: other/ca";
    check_refusal(ca, "TG0014", ".caCertCredentialName", "its Secret `ca`");
    let ca = "mode: MUTUAL, credentialName: a, caCertCredentialName: configmap://other/ca";
    check_refusal(ca, "TG0014", ".caCertCredentialName", "its ConfigMap `ca`");
    check_refusal("mode: MUTUAL, credentialName: sds://vault", "IST0106", ".credentialName", "caCertCredentialName");
    check_refusal("mode: MUTUAL, serverCertificate: /c, privateKey: /k", "IST0106", "", "needs authorities");
    // Of two certificates one is enough.
    let (compilation, tls) = compiled_tls("mode: SIMPLE, credentialNames: [other/a, infra/a]", &[]);
    assert_eq!(secrets(&tls.unwrap()).0, [["kubernetes://infra/a"]]);
    check_finding(&compilation, "TG0014", "spec.servers[0].tls.credentialNames[0]", "namespace `other`");
}

#[test]
fn a_reference_grant_opens_a_namespace_to_the_gateways_that_it_names() {
    let grant = |namespace: &str, from: &str, to: &str| {
        format!(
            "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{name: grant, namespace: {namespace}}}
spec: {{from: [{{{from}}}], to: [{{{to}}}]}}
"
        )
    };
    let from = "group: networking.istio.io, kind: Gateway, namespace: infra";
    let check_grant = |grant: &str, is_granted: bool| {
        let (_, tls) = compiled_tls("mode: MUTUAL, credentialName: other/a", &[grant]);
        assert_eq!(tls.is_some(), is_granted, "{grant}");
    };
    check_grant(&grant("other", from, "group: '', kind: Secret"), true);
    check_grant(&grant("other", from, "group: '', kind: Secret, name: a"), true);
    check_grant(&grant("other", from, "group: '', kind: Secret, name: b"), false);
    check_grant(&grant("other", from, "group: '', kind: ConfigMap"), false);
    check_grant(&grant("third", from, "group: '', kind: Secret"), false);
    let gateway_api = "group: gateway.networking.k8s.io, kind: Gateway, namespace: infra";
    check_grant(&grant("other", gateway_api, "group: '', kind: Secret"), false);
    check_grant(&grant("other", &from.replace("infra", "else"), "group: '', kind: Secret"), false);
}

#[test]
fn client_certificates_are_validated_as_the_server_says() {
    let hex = "df6ff72fe9116521268f6f2dd4966f51df479883fe7037b39f75916ac3049d1a";
    let spki = "NvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A=";
    let validation = |tls: &str| compiled_tls(tls, &[]).1.and_then(|tls| tls.client_validation);
    let full = validation(&format!(
        "mode: MUTUAL, credentialName: a, subjectAltNames: [spiffe://x], verifyCertificateHash: ['{hex}'], verifyCertificateSpki: ['{spki}']"
    ))
    .unwrap();
    assert_eq!(full.subject_alt_names, ["spiffe://x"]);
    assert_eq!((full.spki_hashes.len(), full.certificate_hashes.len()), (1, 1));
    assert_eq!(full.certificate_hashes[0].to_string(), hex);
    assert!(!full.accept_untrusted && full.crl.is_none());
    let unverified = validation("mode: MUTUAL, credentialName: a, insecureSkipVerify: true").unwrap();
    assert!(unverified.accept_untrusted && unverified.ca.is_none());
    let crl = "mode: MUTUAL, serverCertificate: /c, privateKey: /k, caCertificates: /ca, caCrl: /crl";
    assert_eq!(validation(crl).unwrap().crl.unwrap().as_str(), "file-crl:/crl");

    // A pin that cannot be read must not admit everybody.
    let bad = "mode: MUTUAL, credentialName: a, verifyCertificateHash: [zz], verifyCertificateSpki: ['?']";
    let (compilation, tls) = compiled_tls(bad, &[]);
    assert!(tls.is_none());
    check_finding(&compilation, "IST0106", "spec.servers[0].tls.verifyCertificateHash[0]", "hexadecimal digits");
    check_finding(&compilation, "IST0106", "spec.servers[0].tls.verifyCertificateSpki[0]", "base64");
    // With one that can be read, that one is asked for.
    let half = format!("mode: MUTUAL, credentialName: a, verifyCertificateHash: [zz, '{hex}']");
    assert_eq!(validation(&half).unwrap().certificate_hashes.len(), 1);
    // As in Istio pins count with credentials only.
    let files = format!(
        "mode: MUTUAL, serverCertificate: /c, privateKey: /k, caCertificates: /ca, verifyCertificateHash: ['{hex}']"
    );
    let (compilation, tls) = compiled_tls(&files, &[]);
    assert!(tls.unwrap().client_validation.unwrap().certificate_hashes.is_empty());
    check_finding(&compilation, "TG0005", "spec.servers[0].tls.verifyCertificateHash", "with `credentialName`");
    // SIMPLE asks for no certificate.
    let (compilation, tls) = compiled_tls("mode: SIMPLE, credentialName: a, subjectAltNames: [x]", &[]);
    assert!(tls.unwrap().client_validation.is_none());
    check_finding(&compilation, "TG0005", "spec.servers[0].tls.subjectAltNames", "SIMPLE asks clients");
}

fn mesh(settings: &str) -> String {
    format!(
        "\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    {settings}\n"
    )
}

#[test]
fn versions_suites_and_groups_are_the_servers_or_the_meshs() {
    use TlsVersion::{V1_2, V1_3};
    let parameters = |tls: &str, defaults: &str| {
        let mesh = mesh(defaults);
        let more: &[&str] = if defaults.is_empty() { &[] } else { &[&mesh] };
        compiled_tls(&format!("mode: SIMPLE, credentialName: a, {tls}"), more).1.map(|tls| tls.parameters)
    };
    let versions = |tls: &str, defaults: &str| parameters(tls, defaults).map(|it| (it.min_version, it.max_version));
    assert_eq!(versions("", ""), Some((V1_2, V1_3)));
    assert_eq!(versions("minProtocolVersion: TLSV1_3", ""), Some((V1_3, V1_3)));
    assert_eq!(versions("maxProtocolVersion: TLSV1_2", ""), Some((V1_2, V1_2)));
    assert_eq!(versions("minProtocolVersion: TLSV1_0, maxProtocolVersion: TLSV1_1", ""), Some((V1_2, V1_2)));
    assert_eq!(versions("", "tlsDefaults: {minProtocolVersion: TLSV1_3}"), Some((V1_3, V1_3)));
    assert_eq!(
        versions("minProtocolVersion: TLSV1_2", "tlsDefaults: {minProtocolVersion: TLSV1_3}"),
        Some((V1_2, V1_3))
    );

    let suites = |tls: &str, defaults: &str| parameters(tls, defaults).unwrap().cipher_suites;
    let (ecdsa, rsa) = (CipherSuite::EcdheEcdsaAes128Gcm, CipherSuite::EcdheRsaAes256Gcm);
    let both = "cipherSuites: [ECDHE-RSA-AES256-GCM-SHA384, AES128-SHA, ECDHE-ECDSA-AES128-GCM-SHA256]";
    assert_eq!(suites("", ""), []);
    assert_eq!(suites(both, ""), [rsa, ecdsa]);
    assert_eq!(suites("", &format!("tlsDefaults: {{{both}}}")), [rsa, ecdsa]);
    let own = "cipherSuites: [ECDHE-ECDSA-AES128-GCM-SHA256]";
    assert_eq!(suites(own, &format!("tlsDefaults: {{{both}}}")), [ecdsa]);
    assert_eq!(suites("cipherSuites: [ALL]", "").len(), 6);
    assert_eq!(suites("cipherSuites: [ALL, '-ECDHE-ECDSA-AES128-GCM-SHA256', '!3DES']", "").len(), 5);

    let groups = |tls: &str, defaults: &str| parameters(tls, defaults).unwrap().groups;
    let (x25519, p256) = (KeyExchangeGroup::X25519, KeyExchangeGroup::P256);
    assert_eq!(groups("ecdhCurves: [P-256, P-521, X25519]", ""), [p256, x25519]);
    assert_eq!(groups("", "tlsDefaults: {ecdhCurves: [X25519]}"), [x25519]);
}

#[test]
fn what_the_tls_library_lacks_is_reported_and_never_widened() {
    let check_found = |tls: &str, code: &str, field: &str, part: &str| {
        let (compilation, tls) = compiled_tls(&format!("mode: SIMPLE, credentialName: a, {tls}"), &[]);
        check_finding(&compilation, code, &format!("spec.servers[0].tls.{field}"), part);
        tls.map(|tls| tls.parameters)
    };
    let found = check_found("minProtocolVersion: TLSV1_1", "TG0004", "minProtocolVersion", "TLS 1.2 takes its place");
    assert!(found.is_some());
    let contradiction = "minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2";
    assert!(check_found(contradiction, "IST0106", "maxProtocolVersion", "less than the least").is_none());
    // None of the suites is there: only TLS 1.3, which has its own, is left.
    let suites = "cipherSuites: [AES128-SHA, DES-CBC3-SHA]";
    let found = check_found(suites, "TG0004", "cipherSuites[1]", "`DES-CBC3-SHA` is not implemented").unwrap();
    assert_eq!((found.min_version, found.cipher_suites), (TlsVersion::V1_3, vec![]));
    check_found(suites, "TG0004", "cipherSuites", "clients need TLS 1.3");
    let old = format!("{suites}, maxProtocolVersion: TLSV1_2");
    assert!(check_found(&old, "IST0106", "cipherSuites", "which does without, is not allowed").is_none());
    let operator = "cipherSuites: [ALL, '!kRSA+AES']";
    let found = check_found(operator, "TG0004", "cipherSuites[1]", "not understood").unwrap();
    assert_eq!(found.min_version, TlsVersion::V1_3);
    let groups = "ecdhCurves: [P-224, X25519Kyber768Draft00]";
    assert!(check_found(groups, "TG0004", "ecdhCurves[0]", "`P-224` is not implemented").is_none());
    check_found(groups, "IST0106", "ecdhCurves", "none of the key exchanges");
}

/// What a GET on port 443 gets; with a server name that is not that of its URL, or with the URL's.
#[track_caller]
pub(super) fn explain_url(compilation: &Compilation, url: &str, server_name: Option<&str>) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let explanation = compilation.snapshot.explain(&ExplainRequest {
        method: "GET".into(),
        scheme: scheme.into(),
        authority: authority.into(),
        server_name: match server_name {
            Some(name) => Some(name.to_owned()),
            None => server_name_of(authority),
        },
        target: format!("/{path}"),
        headers: HeaderMap::new(),
        port: authority.rsplit_once(':').map_or(443, |(_, port)| port.parse().unwrap()),
    });
    outcome(&explanation)
}

/// The fifteen pairs of Gateway API's conformance test for misdirected requests (`HTTPRouteHTTPSListenerDetectMisdirectedRequests`).
#[test]
fn a_request_for_the_host_of_another_server_is_misdirected() {
    let simple = "mode: SIMPLE, credentialName: x";
    let servers = [
        https("any", "'*'", simple),
        https("second", "second-example.org", simple),
        https("wild", "'*.wildcard.org'", simple),
        https("fourth", "fourth-example.wildcard.org", simple),
    ];
    let gateway = gateway("istio-system", "gw", &servers.join(", "));
    let services: Vec<_> = ["example.org", "second-example.org", "'*.wildcard.org'", "fourth-example.wildcard.org"]
        .iter()
        .enumerate()
        .map(|(at, host)| virtual_service(&format!("v{at}"), &format!("hosts: [{host}], http: [{{{}}}]", to("a"))))
        .collect();
    let mut documents = vec![gateway.as_str(), SERVICES];
    documents.extend(services.iter().map(String::as_str));
    let compilation = compiled(&documents);
    let (second, third, fourth) = ("second-example.org", "third-example.wildcard.org", "fourth-example.wildcard.org");
    for (server_name, host, expected) in [
        ("example.org", "example.org", 200),
        ("example.org", second, 421),
        ("example.org", "unknown-example.org", 404),
        (second, second, 200),
        (second, "example.org", 421),
        (second, "unknown-example.org", 421),
        (third, third, 200),
        (third, "fith-example.wildcard.org", 200),
        (third, fourth, 421),
        (third, second, 421),
        (third, "unknown-example.org", 421),
        (fourth, fourth, 200),
        (fourth, "fith-example.wildcard.org", 421),
        ("unknown-example.org", "example.org", 200),
        ("unknown-example.org", "unknown-example.org", 404),
    ] {
        let expected = match expected {
            200 => "80||a",
            421 => "421 -",
            _ => "404 NR",
        };
        let found = explain_url(&compilation, &format!("https://{host}/"), Some(server_name));
        assert_eq!(found, expected, "{server_name} with {host}");
    }
}

/// What a file or a Secret holds, written where its name belongs, is refused and repeated nowhere.
#[test]
fn pem_in_the_place_of_a_name_is_refused_and_not_quoted() {
    let pem = r#""-----BEGIN PRIVATE KEY-----\nMARKER+MARKER/\n-----END PRIVATE KEY-----\n""#;
    for settings in [
        format!("mode: SIMPLE, credentialName: {pem}"),
        format!("mode: SIMPLE, serverCertificate: /c.pem, privateKey: {pem}"),
        format!("mode: SIMPLE, serverCertificate: {pem}, privateKey: /k.pem"),
        format!("mode: MUTUAL, serverCertificate: /c.pem, privateKey: /k.pem, caCertificates: {pem}"),
        format!("mode: MUTUAL, serverCertificate: /c.pem, privateKey: /k.pem, caCertificates: /ca.pem, caCrl: {pem}"),
        format!("mode: MUTUAL, credentialName: x, caCertCredentialName: {pem}"),
        format!("mode: MUTUAL, credentialName: x, verifyCertificateSpki: [{pem}]"),
    ] {
        let (compilation, tls) = compiled_tls(&settings, &[]);
        assert_eq!(tls, None, "{settings}");
        let said = format!("{:?}", compilation.diagnostics);
        assert!(said.contains("Error") && !said.contains("MARKER"), "{said}");
        assert!(!format!("{:?}", compilation.snapshot).contains("MARKER"), "{settings}");
    }
}
