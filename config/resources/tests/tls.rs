//! Rules for TLS of servers and clients, for routes of connections, and for the kinds around certificates.

use tidegate_core::{Kind, Level};
use tidegate_resources::{LETS_ENCRYPT, Object, ParseOptions, Referrer, Spec, parse, parse_mesh_config, validate};

#[track_caller]
fn object(text: &str) -> Object {
    let mut parsed = parse("f.yaml", text, &ParseOptions::default());
    let errors: Vec<_> = parsed.diagnostics.iter().filter(|found| found.level == Level::Error).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{text}");
    parsed.objects.remove(0)
}

/// Whether exactly the given paths are refused (`? path` for a warning).
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let found = validate(&object(text));
    let mark = |level| if level == Level::Error { "" } else { "? " };
    let paths: Vec<_> = found.iter().map(|found| format!("{}{}", mark(found.level), found.path)).collect();
    assert_eq!(paths, expected, "{found:#?}\n{text}");
}

#[track_caller]
fn server(protocol: &str, tls: &str, expected: &[&str]) {
    let head = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: a}\nspec:\n  servers:\n";
    let port = format!("{{number: 443, name: x, protocol: {protocol}}}");
    let expected: Vec<_> = expected.iter().map(|path| path.replace("TLS", "spec.servers[0].tls")).collect();
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    check(&format!("{head}  - {{port: {port}, hosts: ['*'], tls: {tls}}}\n"), &expected);
}

#[test]
fn every_mode_of_a_server_has_its_certificates() {
    for protocol in ["HTTPS", "TLS"] {
        for mode in ["SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL"] {
            server(protocol, &format!("{{mode: {mode}, credentialName: x}}"), &[]);
            server(protocol, &format!("{{mode: {mode}, credentialNames: [x, z]}}"), &[]);
            server(protocol, &format!("{{mode: {mode}, credentialNames: [x], caCertCredentialName: ca}}"), &[]);
            let files = "serverCertificate: /c, privateKey: /k, caCertificates: /a";
            server(protocol, &format!("{{mode: {mode}, {files}}}"), &[]);
            let two =
                "tlsCertificates: [{serverCertificate: /c, privateKey: /k}, {serverCertificate: /d, privateKey: /l}]";
            server(protocol, &format!("{{mode: {mode}, {two}, caCertificates: /a}}"), &[]);
            server(protocol, &format!("{{mode: {mode}, {files}, credentialName: x}}"), &["TLS"]);
            server(protocol, &format!("{{mode: {mode}, credentialName: x, credentialNames: [z]}}"), &["TLS"]);
            server(protocol, &format!("{{mode: {mode}, serverCertificate: /c, caCertificates: /a}}"), &["TLS"]);
        }
        for mode in ["PASSTHROUGH", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL"] {
            server(protocol, &format!("{{mode: {mode}}}"), &[]);
        }
        for mode in ["MUTUAL", "OPTIONAL_MUTUAL"] {
            server(protocol, &format!("{{mode: {mode}, serverCertificate: /c, privateKey: /k}}"), &["TLS"]);
            let crl = "serverCertificate: /c, privateKey: /k, caCertificates: /a, caCrl: /l";
            server(protocol, &format!("{{mode: {mode}, {crl}}}"), &[]);
        }
        for field in ["serverCertificate: /c", "privateKey: /k", "caCertificates: /a", "credentialName: x"] {
            let path = format!("TLS.{}", field.split(':').next().unwrap_or_default());
            server(protocol, &format!("{{mode: ISTIO_MUTUAL, {field}}}"), &[&path]);
            server(protocol, &format!("{{mode: PASSTHROUGH, {field}}}"), &["? TLS"]);
        }
        server(protocol, "{}", &[]);
    }
    for protocol in ["TCP", "MONGO", "REDIS", "MYSQL"] {
        server(protocol, "{mode: SIMPLE, credentialName: x}", &["TLS"]);
    }
}

#[test]
fn suites_and_curves_that_nobody_knows_are_left_out() {
    let tls = |fields: &str, expected: &[&str]| {
        server("HTTPS", &format!("{{mode: SIMPLE, credentialName: x, {fields}}}"), expected);
    };
    tls("cipherSuites: [ECDHE-ECDSA-AES128-GCM-SHA256, DES-CBC3-SHA, ALL, '-ALL']", &[]);
    tls("cipherSuites: [TLS_AES_128_GCM_SHA256]", &["? TLS.cipherSuites[0]"]);
    tls("ecdhCurves: [P-224, P-256, P-384, P-521, X25519, X25519Kyber768Draft00, X25519MLKEM768]", &[]);
    tls("ecdhCurves: [P-256, prime256v1, P-256]", &["? TLS.ecdhCurves[1]", "? TLS.ecdhCurves[2]"]);
    tls("minProtocolVersion: TLSV1_1", &["? TLS.minProtocolVersion"]);
    tls("minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2", &[]);

    let text = "tlsDefaults: {cipherSuites: [RC4-MD5], ecdhCurves: [secp256k1, X25519, X25519]}\n";
    let (mesh, found) = parse_mesh_config("mesh.yaml", text);
    assert_eq!(found, []);
    let found = mesh.iter().flat_map(validate);
    let found: Vec<_> = found.map(|found| (found.level, found.path)).collect();
    let paths = ["tlsDefaults.cipherSuites[0]", "tlsDefaults.ecdhCurves[0]", "tlsDefaults.ecdhCurves[2]"];
    assert_eq!(found, paths.map(|path| (Level::Warning, path.to_owned())));
}

#[test]
fn authorities_of_one_certificate_have_no_effect() {
    let text = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: a}\nspec:\n  servers:\n  - port: \
                {number: 443, name: x, protocol: TLS}\n    hosts: ['*']\n    tls:\n      mode: MUTUAL\n      \
                caCertificates: /a\n      tlsCertificates:\n      - serverCertificate: /c\n        privateKey: /k\n        \
                caCertificates: /b\n";
    let found = parse("f.yaml", text, &ParseOptions::default()).diagnostics;
    let found: Vec<_> = found.iter().map(|found| (found.code.0, found.path.as_str())).collect();
    assert_eq!(found, [("TG0005", "spec.servers[0].tls.tlsCertificates[0].caCertificates")]);
}

#[test]
fn client_tls_names_one_source_of_certificates() {
    let head = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: a\n";
    let rule = |tls: &str, expected: &[&str]| {
        let at = |place: &str| expected.iter().map(|path| path.replace("TLS", place)).collect::<Vec<_>>();
        let check = |spec: String, place: &str| {
            let expected = at(place);
            let expected: Vec<_> = expected.iter().map(String::as_str).collect();
            check(&format!("{head}{spec}"), &expected);
        };
        check(format!("  trafficPolicy: {{tls: {tls}}}\n"), "spec.trafficPolicy.tls");
        check(
            format!("  trafficPolicy: {{portLevelSettings: [{{port: {{number: 443}}, tls: {tls}}}]}}\n"),
            "spec.trafficPolicy.portLevelSettings[0].tls",
        );
        check(
            format!("  subsets: [{{name: s, trafficPolicy: {{tls: {tls}}}}}]\n"),
            "spec.subsets[0].trafficPolicy.tls",
        );
    };
    rule("{}", &[]);
    rule("{mode: DISABLE}", &[]);
    rule("{mode: SIMPLE}", &[]);
    rule("{mode: SIMPLE, sni: a.b, subjectAltNames: [a.b], caCertificates: /a, caCrl: /l}", &[]);
    rule("{mode: SIMPLE, credentialName: x}", &[]);
    rule("{mode: SIMPLE, credentialName: x, caCrl: /l}", &["TLS.credentialName"]);
    rule("{mode: SIMPLE, insecureSkipVerify: true}", &[]);
    rule("{mode: SIMPLE, insecureSkipVerify: true, credentialName: x}", &["TLS.insecureSkipVerify"]);
    rule("{mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [a]}", &["TLS.insecureSkipVerify"]);
    rule("{mode: MUTUAL, clientCertificate: /c, privateKey: /k}", &[]);
    rule("{mode: MUTUAL, clientCertificate: /c, privateKey: /k, insecureSkipVerify: true}", &[]);
    rule("{mode: MUTUAL, credentialName: x, insecureSkipVerify: true}", &[]);
    rule("{mode: MUTUAL, clientCertificate: /c}", &["TLS"]);
    rule("{mode: MUTUAL, credentialName: x, privateKey: /k}", &["TLS.credentialName"]);
    rule("{mode: SIMPLE, credentialName: 'configmap://default/x'}", &[]);
    rule("{mode: SIMPLE, credentialName: 'configmap://x'}", &["TLS.credentialName"]);
}

#[test]
fn routes_of_connections_have_destinations_and_conditions() {
    let head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: ['*.a.b', c.d]\n  \
                gateways: [gw]\n";
    let tls = |rule: &str, expected: &[&str]| check(&format!("{head}  tls:\n  - {rule}\n"), expected);
    let to = "route: [{destination: {host: x}}]";
    tls(&format!("{{match: [{{sniHosts: [x.a.b, '*.y.a.b', c.d]}}], {to}}}"), &[]);
    tls(&format!("{{match: [{{sniHosts: ['*.b']}}], {to}}}"), &["spec.tls[0].match[0].sniHosts[0]"]);
    tls(&format!("{{match: [{{sniHosts: ['*']}}], {to}}}"), &["spec.tls[0].match[0].sniHosts[0]"]);
    tls(&format!("{{match: [{{sniHosts: [x.a.b], port: 70000}}], {to}}}"), &["spec.tls[0].match[0].port"]);
    tls(
        &format!("{{match: [{{sniHosts: [x.a.b], gateways: ['a/b/c']}}], {to}}}"),
        &["spec.tls[0].match[0].gateways[0]"],
    );
    tls(&format!("{{match: [], {to}}}"), &["spec.tls[0]"]);
    tls(
        "{match: [{sniHosts: [c.d]}], route: [{destination: {host: x}, weight: 1}, {destination: {host: z}, weight: 3}]}",
        &[],
    );
    tls(
        "{match: [{sniHosts: [c.d]}], route: [{destination: {host: x}}, {destination: {host: z}}]}",
        &["spec.tls[0].route"],
    );
    tls(
        "{match: [{sniHosts: [c.d]}], route: [{weight: -1}]}",
        &["spec.tls[0].route[0]", "spec.tls[0].route[0].weight"],
    );
    let tcp = |rule: &str, expected: &[&str]| check(&format!("{head}  tcp:\n  - {rule}\n"), expected);
    tcp(&format!("{{{to}}}"), &[]);
    tcp(&format!("{{match: [{{port: 31400, gateways: [ns/gw]}}], {to}}}"), &[]);
    tcp(&format!("{{match: [{{sourceLabels: {{'-': x}}}}], {to}}}"), &["spec.tcp[0].match[0].sourceLabels.-"]);
    tcp("{route: []}", &["spec.tcp[0]"]);
    tcp("{route: [{destination: {host: '*'}}]}", &["spec.tcp[0].route[0].destination.host"]);
}

fn grant(spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{name: a, namespace: certs}}\n\
         spec: {spec}\n"
    )
}

#[test]
fn a_grant_names_who_may_refer_to_what() {
    let from = "from: [{group: networking.istio.io, kind: Gateway, namespace: web}]";
    let to = "to: [{group: '', kind: Secret}]";
    check(&grant(&format!("{{{from}, {to}}}")), &[]);
    check(&grant(&format!("{{{from}, to: [{{group: '', kind: Secret, name: x.y}}]}}")), &[]);
    check(&grant("{}"), &["spec.from", "spec.to"]);
    check(&grant(&format!("{{{from}, to: [{{kind: Secret}}]}}")), &["spec.to[0]"]);
    check(&grant(&format!("{{{from}, to: [{{group: ''}}]}}")), &["spec.to[0]"]);
    check(&grant(&format!("{{{from}, to: [{{group: v1, kind: 'Sec ret'}}]}}")), &["spec.to[0].kind"]);
    check(&grant(&format!("{{{from}, to: [{{group: '', kind: Secret, name: '*'}}]}}")), &["spec.to[0].name"]);
    check(&grant(&format!("{{{from}, to: [{{group: '', kind: Secret, name: ''}}]}}")), &["spec.to[0].name"]);
    check(
        &grant(&format!("{{from: [{{group: a/v1, kind: Gateway, namespace: '*'}}], {to}}}")),
        &["spec.from[0].group", "spec.from[0].namespace"],
    );
    check(&grant(&format!("{{from: [{{group: a, kind: Gateway}}], {to}}}")), &["spec.from[0]"]);
    let many = vec!["{group: '', kind: Secret}"; 17].join(", ");
    check(&grant(&format!("{{{from}, to: [{many}]}}")), &["spec.to"]);
}

#[test]
fn a_grant_permits_what_it_names_and_nothing_else() {
    let spec = "{from: [{group: networking.istio.io, kind: Gateway, namespace: web}, {group: g, kind: K, namespace: n2}], \
                to: [{group: '', kind: Secret, name: one}, {group: '', kind: ConfigMap}]}";
    let object = object(&grant(spec));
    let Spec::ReferenceGrant(grant) = &object.spec else { panic!() };
    assert_eq!((object.key.kind, &*object.key.namespace), (Kind::ReferenceGrant, "certs"));
    let gateway = Referrer { group: "networking.istio.io", kind: "Gateway", namespace: "web" };
    assert!(grant.permits(gateway, "", "Secret", "one"));
    assert!(grant.permits(gateway, "", "ConfigMap", "any"));
    assert!(grant.permits(Referrer { group: "g", kind: "K", namespace: "n2" }, "", "Secret", "one"));
    assert!(!grant.permits(gateway, "", "Secret", "two"));
    assert!(!grant.permits(gateway, "", "Secret", ""));
    assert!(!grant.permits(gateway, "core", "Secret", "one"));
    assert!(!grant.permits(Referrer { namespace: "other", ..gateway }, "", "Secret", "one"));
    assert!(!grant.permits(Referrer { group: "gateway.networking.k8s.io", ..gateway }, "", "Secret", "one"));
    assert!(!grant.permits(Referrer { kind: "K", ..gateway }, "", "Secret", "one"));
}

fn acme(spec: &str) -> String {
    format!("apiVersion: tidegate.io/v1alpha1\nkind: AcmeCertificate\nmetadata: {{name: shop}}\nspec: {spec}\n")
}

#[test]
fn an_acme_certificate_names_what_an_authority_can_prove() {
    let with =
        |fields: &str, expected: &[&str]| check(&acme(&format!("{{dnsNames: [a.example.com], {fields}}}")), expected);
    check(&acme("{dnsNames: [a.example.com, b.example.com]}"), &[]);
    check(&acme("{}"), &["spec"]);
    check(&acme("{dnsNames: []}"), &["spec"]);
    for (name, expected) in [
        ("localhost", None),
        ("xn--bcher-kva.example", None),
        ("'*.example.com'", Some("wildcard")),
        ("1.2.3.4", Some("address")),
        ("'::1'", Some("address")),
        ("example.com.", Some("no name for a certificate")),
        ("a_b.com", Some("no label")),
        ("a.b:443", Some("port")),
        ("''", Some("empty")),
    ] {
        let found = validate(&object(&acme(&format!("{{dnsNames: [{name}]}}"))));
        match expected {
            None => assert_eq!(found, [], "{name}"),
            Some(word) => {
                assert!(found[0].message.contains(word), "{found:?}");
                assert_eq!((found.len(), found[0].path.as_str()), (1, "spec.dnsNames[0]"), "{name}");
            }
        }
    }
    check(&acme("{dnsNames: [a.b, A.b]}"), &["? spec.dnsNames[1]"]);
    let many: Vec<_> = (0..101).map(|index| format!("h{index}.example.com")).collect();
    check(&acme(&format!("{{dnsNames: [{}]}}", many.join(", "))), &["spec.dnsNames"]);

    with("challenge: TLS-ALPN-01, credentialName: shop-cert, caCertificates: /etc/ca.pem, renewBefore: 720h", &[]);
    with("renewBefore: 0s", &["spec.renewBefore"]);
    with("credentialName: other/shop", &["spec.credentialName"]);
    with("credentialName: Shop", &["spec.credentialName"]);
    with("credentialName: shop-cacert", &["spec.credentialName"]);
    for url in [
        "https://acme.example.com/directory",
        "HTTPS://localhost:14000/dir",
        "'https://[::1]:14000/dir'",
        "https://10.0.0.1",
    ] {
        with(&format!("server: {url}"), &[]);
    }
    for url in [
        "http://acme.example.com/directory",
        "acme.example.com",
        "'https://'",
        "https://:443/",
        "https://a:0/",
        "https://a:70000/",
        "https://a:/",
        "'https://[::1/'",
        "'https://[::1]x/'",
        "https://user:word@a/",
        "'https://a b/'",
        "'https://a/#x'",
        "ftp://a/",
    ] {
        with(&format!("server: {url}"), &["spec.server"]);
    }
    with("email: ops@example.com", &[]);
    for mail in
        ["ops", "'@example.com'", "a@b@c", "'mailto:a@b.c'", "'a@b.c,d@e.f'", "'a@b.c?subject=x'", "'a b@c.d'", "a@"]
    {
        with(&format!("email: {mail}"), &["spec.email"]);
    }
}

#[test]
fn an_acme_certificate_has_defaults_and_strict_fields() {
    let written = object(&acme("{dnsNames: [a.b]}"));
    let Spec::AcmeCertificate(certificate) = &written.spec else { panic!() };
    assert_eq!(certificate.credential_name(&written.key), "shop");
    assert_eq!((certificate.directory(), certificate.challenge.as_str()), (LETS_ENCRYPT, "HTTP-01"));
    assert_eq!(written.key.to_string(), "AcmeCertificate default/shop");
    let named = object(&acme("{dnsNames: [a.b], credentialName: x, server: 'https://a/d'}"));
    let Spec::AcmeCertificate(certificate) = &named.spec else { panic!() };
    assert_eq!((certificate.credential_name(&named.key), certificate.directory()), ("x", "https://a/d"));
    let check = |spec: &str, message: &str, help: &str| {
        let found = parse("f.yaml", &acme(spec), &ParseOptions::default()).diagnostics;
        assert_eq!((found[0].message.as_str(), found[0].help.as_deref()), (message, Some(help)), "{spec}");
    };
    check("{challenge: DNS-01}", "unknown value `DNS-01`", "write one of `HTTP-01` or `TLS-ALPN-01`");
    check("{dnsName: a}", "unknown field `dnsName` in AcmeCertificate", "did you mean `dnsNames`?");
}
