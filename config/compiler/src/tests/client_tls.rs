//! TLS to backends: 3.2, 3.7.

use super::*;
use tidegate_snapshot::{ClientTls, SecretRef, ServerTrust, TlsVersion, UpstreamProtocol, UpstreamServerName};

const EXTERNAL: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext}
spec:
  hosts: [ext.com]
  ports: [{number: 443, name: https, protocol: HTTPS}, {number: 8443, name: h2, protocol: HTTP2}]
  resolution: DNS
  subjectAltNames: [san.ext.com]
";

fn compiled_rule(spec: &str, destination: &str, more: &[&str]) -> Compilation {
    let rule = format!(
        "\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d}}\nspec: {{{spec}}}\n"
    );
    let rules = format!("hosts: [a.com], http: [{{route: [{{destination: {{{destination}}}}}]}}]");
    let service = virtual_service("v", &rules);
    let mut documents = vec![GATEWAY, SERVICES, EXTERNAL, &rule, &service];
    documents.extend(more);
    compiled(&documents)
}

/// TLS to service `a` with these settings.
fn tls(settings: &str) -> (Compilation, Option<ClientTls>) {
    let compilation = compiled_rule(&format!("host: a, trafficPolicy: {{tls: {{{settings}}}}}"), "host: a", &[]);
    let tls = compilation.snapshot.clusters()[0].tls.as_deref().cloned();
    (compilation, tls)
}

fn names(reference: &SecretRef) -> Vec<String> {
    assert!(reference.source.as_ref().is_some_and(|source| source.origin.position.line > 0));
    reference.names.iter().map(ToString::to_string).collect()
}

fn authorities(tls: &ClientTls) -> Vec<String> {
    match &tls.trust {
        ServerTrust::Authorities(reference) => names(reference),
        other => vec![format!("{other:?}")],
    }
}

#[test]
fn modes_that_secure_nothing_leave_plaintext() {
    assert!(tls("mode: DISABLE").1.is_none());
    assert!(tls("sni: x").1.is_none());
    assert!(tls("mode: ISTIO_MUTUAL").1.is_none());
}

#[test]
fn simple_trusts_the_machines_authorities_unless_told_otherwise() {
    let simple = tls("mode: SIMPLE").1.unwrap();
    assert_eq!(simple.trust, ServerTrust::System);
    assert!(simple.certificate.is_none() && simple.crl.is_none() && simple.subject_alt_names.is_empty());
    assert_eq!(simple.server_name, UpstreamServerName::FromHost);
    assert_eq!(tls("mode: SIMPLE, caCertificates: system").1.unwrap().trust, ServerTrust::System);
    let file = tls("mode: SIMPLE, caCertificates: /ca.pem, caCrl: /crl.pem, sni: x.org, subjectAltNames: [y.org]");
    let file = file.1.unwrap();
    assert_eq!(authorities(&file), ["file-root:/ca.pem"]);
    assert_eq!(file.crl.unwrap().as_str(), "file-crl:/crl.pem");
    assert_eq!(file.server_name, UpstreamServerName::Fixed("x.org".into()));
    assert_eq!(file.subject_alt_names, ["y.org"]);
    assert_eq!(tls("mode: SIMPLE, insecureSkipVerify: true").1.unwrap().trust, ServerTrust::Unverified);
}

#[test]
fn credentials_are_of_the_gateways_namespace() {
    let mutual = tls("mode: MUTUAL, credentialName: client").1.unwrap();
    assert_eq!(authorities(&mutual), ["kubernetes://istio-system/client-cacert"]);
    assert_eq!(names(&mutual.certificate.unwrap()), ["kubernetes://istio-system/client"]);
    let simple = tls("mode: SIMPLE, credentialName: ca").1.unwrap();
    assert_eq!(authorities(&simple), ["kubernetes://istio-system/ca-cacert"]);
    assert!(simple.certificate.is_none());
    let simple = tls("mode: SIMPLE, credentialName: ca-cacert").1.unwrap();
    assert_eq!(
        authorities(&simple),
        ["kubernetes://istio-system/ca-cacert-cacert", "kubernetes://istio-system/ca-cacert"]
    );
    let map = tls("mode: SIMPLE, credentialName: configmap://default/ca").1.unwrap();
    assert_eq!(authorities(&map), ["configmap://default/ca"]);
    let files = tls("mode: MUTUAL, clientCertificate: /c, privateKey: /k").1.unwrap();
    assert_eq!(names(&files.certificate.unwrap()), ["file-cert:/c~/k"]);
    assert_eq!(files.trust, ServerTrust::System);
}

#[test]
fn what_cannot_be_used_fails_and_is_never_plaintext() {
    let check_refusal = |settings: &str, field: &str, part: &str| {
        let (compilation, tls) = tls(settings);
        check_finding(&compilation, "IST0106", &format!("spec.trafficPolicy.tls.{field}"), part);
        tls.unwrap()
    };
    let other =
        check_refusal("mode: SIMPLE, credentialName: other/ca", "credentialName", "own namespace `istio-system`");
    assert_eq!(authorities(&other), ["invalid://refused"]);
    let map = "mode: SIMPLE, credentialName: configmap://other/ca";
    let map = check_refusal(map, "credentialName", "in the namespace of the object");
    assert_eq!(authorities(&map), ["invalid://refused"]);
    let mutual = "mode: MUTUAL, credentialName: configmap://default/ca";
    let mutual = check_refusal(mutual, "credentialName", "no certificate and no key");
    assert_eq!(names(&mutual.certificate.unwrap()), ["invalid://refused"]);
    let files = check_refusal("mode: MUTUAL, clientCertificate: /c", "clientCertificate", "a file for its key");
    assert_eq!(names(&files.certificate.unwrap()), ["invalid://refused"]);
}

#[test]
fn ports_and_subsets_replace_the_block_as_they_do_others() {
    let sni = |spec: &str, destination: &str| {
        let compilation = compiled_rule(spec, destination, &[]);
        compilation.snapshot.clusters()[0].tls.as_ref().map(|tls| match &tls.server_name {
            UpstreamServerName::Fixed(name) => name.clone(),
            UpstreamServerName::FromHost => "*".into(),
        })
    };
    let block = |name: &str| format!("tls: {{mode: SIMPLE, sni: {name}}}");
    let top = block("top");
    let port = format!("portLevelSettings: [{{port: {{number: 80}}, {}}}]", block("port"));
    let bare_port = "portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]";
    let subset = |policy: &str| format!("subsets: [{{name: v1, trafficPolicy: {{{policy}}}}}]");
    let own = |top: &str, rest: &str| format!("host: a, trafficPolicy: {{{top}}}{rest}");
    let (a, v1) = ("host: a", "host: a, subset: v1");
    assert_eq!(sni(&own(&top, ""), a).unwrap(), "top");
    assert_eq!(sni(&own(&format!("{top}, {port}"), ""), a).unwrap(), "port");
    assert_eq!(sni(&own(&format!("{top}, {bare_port}"), ""), a), None);
    let with_subset = |policy: &str| own(&top, &format!(", {}", subset(policy)));
    assert_eq!(sni(&with_subset(&block("subset")), v1).unwrap(), "subset");
    assert_eq!(sni(&with_subset("loadBalancer: {simple: RANDOM}"), v1).unwrap(), "top");
    assert_eq!(sni(&with_subset("tls: {mode: DISABLE}"), v1), None);
    assert_eq!(sni(&with_subset(&format!("{}, {port}", block("subset"))), v1).unwrap(), "port");
    // A finding names the line of the block that is used.
    let bad = "portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE, credentialName: x/y}}]";
    let compilation = compiled_rule(&with_subset(&format!("loadBalancer: {{simple: RANDOM}}, {bad}")), v1, &[]);
    let path = "spec.subsets[0].trafficPolicy.portLevelSettings[0].tls.credentialName";
    check_finding(&compilation, "IST0106", path, "own namespace");
}

#[test]
fn the_names_of_a_service_entry_are_expected_unless_the_rule_has_its_own() {
    let of = |settings: &str, port: u16| {
        let rule = format!("host: ext.com, trafficPolicy: {{tls: {{mode: SIMPLE{settings}}}}}");
        let compilation = compiled_rule(&rule, &format!("host: ext.com, port: {{number: {port}}}"), &[]);
        let cluster = &compilation.snapshot.clusters()[0];
        (cluster.tls.as_ref().unwrap().subject_alt_names.clone(), cluster.protocol)
    };
    assert_eq!(of("", 443), (vec!["san.ext.com".into()], UpstreamProtocol::Http1));
    assert_eq!(of(", subjectAltNames: [own.com]", 8443), (vec!["own.com".into()], UpstreamProtocol::Http2));
}

#[test]
fn the_meshs_defaults_hold_for_backends_too() {
    let mesh = |settings: &str| {
        format!(
            "\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    {settings}\n"
        )
    };
    let with = |settings: &str| {
        let mesh = mesh(settings);
        let compilation = compiled_rule("host: a, trafficPolicy: {tls: {mode: SIMPLE}}", "host: a", &[&mesh]);
        compilation.snapshot.clusters()[0].tls.as_deref().cloned().unwrap()
    };
    assert_eq!(with("tlsDefaults: {minProtocolVersion: TLSV1_3}").parameters.min_version, TlsVersion::V1_3);
    assert_eq!(authorities(&with("tlsDefaults: {ecdhCurves: [P-224]}")), ["invalid://refused"]);
}

/// As with servers: what a file holds is no name of it.
#[test]
fn pem_in_the_place_of_a_name_fails_and_is_not_quoted() {
    let pem = r#""-----BEGIN PRIVATE KEY-----\nMARKER+MARKER/\n-----END PRIVATE KEY-----\n""#;
    for settings in [
        format!("mode: SIMPLE, credentialName: {pem}"),
        format!("mode: SIMPLE, caCertificates: {pem}"),
        format!("mode: SIMPLE, caCertificates: /ca.pem, caCrl: {pem}"),
        format!("mode: MUTUAL, clientCertificate: /c.pem, privateKey: {pem}"),
    ] {
        let (compilation, tls) = tls(&settings);
        let tls = tls.unwrap();
        let refused = |reference: &SecretRef| names(reference) == ["invalid://refused"];
        let trusts_nobody = matches!(&tls.trust, ServerTrust::Authorities(reference) if refused(reference));
        assert!(trusts_nobody || tls.certificate.as_ref().is_some_and(refused), "{settings} {tls:?}");
        let said = format!("{:?}", compilation.diagnostics);
        assert!(said.contains("Error") && !said.contains("MARKER"), "{said}");
        assert!(!format!("{:?}", compilation.snapshot).contains("MARKER"), "{settings}");
    }
}
