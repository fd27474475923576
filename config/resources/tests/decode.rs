//! What decoding says about texts that are wrong: what, where, and how to mend it.

use tidegate_core::{Code, Kind, Level, SecretBytes};
use tidegate_resources::{Object, ParseOptions, Parsed, Spec, parse, parse_bytes, parse_mesh_config};

fn read(text: &str) -> Parsed {
    parse("f.yaml", text, &ParseOptions::default())
}

/// The only object of a text without findings.
fn object(text: &str) -> Object {
    let mut parsed = read(text);
    assert_eq!(parsed.diagnostics, []);
    assert_eq!(parsed.objects.len(), 1);
    parsed.objects.remove(0)
}

/// A VirtualService whose `spec` is the given lines, which begin on line 6 with an indentation of two.
fn service(spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: a\nspec:\n{spec}")
}

/// Findings as `line:column path: message (help)`.
fn findings(text: &str) -> Vec<String> {
    read(text)
        .diagnostics
        .iter()
        .map(|found| {
            let at = found.origin.position;
            let help = found.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
            format!("{}:{} {}: {}{help}", at.line, at.column, found.path, found.message)
        })
        .collect()
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    assert_eq!(findings(text), expected, "{text}");
}

#[track_caller]
fn check_spec(spec: &str, expected: &[&str]) {
    check(&service(spec), expected);
}

#[test]
fn unknown_fields_are_refused_with_the_nearest_name() {
    check_spec(
        "  hosts: [a.b]\n  htp: []\n",
        &["7:3 spec.htp: unknown field `htp` in VirtualService (did you mean `http`?)"],
    );
    check_spec(
        "  hosts: [a.b]\n  export_to: []\n",
        &["7:3 spec.export_to: unknown field `export_to` in VirtualService (did you mean `exportTo`?)"],
    );
    check_spec(
        "  hosts: [a.b]\n  http:\n  - Timeout: 1s\n",
        &["8:5 spec.http[0].Timeout: unknown field `Timeout` in HttpRoute (did you mean `timeout`?)"],
    );
    check_spec(
        "  zzzzzzzz: 1\n",
        &["6:3 spec.zzzzzzzz: unknown field `zzzzzzzz` in VirtualService \
           (VirtualService has `hosts`, `gateways`, `http`, `tls`, `tcp` or `exportTo`)"],
    );
}

#[test]
fn misplaced_fields_are_sent_where_they_belong() {
    check_spec(
        "  http:\n  - route:\n    - destination:\n        host: a\n        weight: 5\n",
        &["10:9 spec.http[0].route[0].destination.weight: unknown field `weight` in Destination \
           (`weight` belongs beside `destination`, in the same list entry)"],
    );
    check_spec(
        "  http:\n  - route:\n    - host: a\n",
        &["8:7 spec.http[0].route[0].host: unknown field `host` in HttpRouteDestination \
           (`host` belongs inside `destination`)"],
    );
    check_spec(
        "  prefix: /\n  destination: {host: a}\n",
        &[
            "6:3 spec.prefix: unknown field `prefix` in VirtualService \
             (VirtualService has `hosts`, `gateways`, `http`, `tls`, `tcp` or `exportTo`)",
            "7:3 spec.destination: unknown field `destination` in VirtualService \
             (VirtualService has `hosts`, `gateways`, `http`, `tls`, `tcp` or `exportTo`)",
        ],
    );
    check_spec(
        "  http:\n  - match:\n    - uri: {prefix: /}\n      timeout: 1s\n    route: []\n",
        &["9:7 spec.http[0].match[0].timeout: unknown field `timeout` in HttpMatchRequest \
           (`timeout` belongs beside `match`, in the same list entry)"],
    );
    check(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: a}\nservers: []\nspec: {}\n",
        &["4:1 servers: unknown field `servers` in this object (`servers` belongs inside `spec`)"],
    );
}

#[test]
fn wrong_types_say_what_stands_there_and_how_to_write_it() {
    check_spec(
        "  hosts: a.b\n",
        &["6:10 spec.hosts: expected a list, found the text \"a.b\" (begin each element with `- `)"],
    );
    check_spec(
        "  hosts: [80, true, yes, null, y]\n",
        &[
            "6:11 spec.hosts[0]: expected a text, found the number `80` (quote it: \"80\")",
            "6:15 spec.hosts[1]: expected a text, found the boolean `true` \
             (quote it; true, false, yes, no, on, off, y and n are booleans unless they are quoted)",
            "6:21 spec.hosts[2]: expected a text, found the boolean `true` \
             (quote it; true, false, yes, no, on, off, y and n are booleans unless they are quoted)",
            "6:26 spec.hosts[3]: expected a text, found nothing (null) (give it a value, or take it out)",
            "6:32 spec.hosts[4]: expected a text, found the boolean `true` \
             (quote it; true, false, yes, no, on, off, y and n are booleans unless they are quoted)",
        ],
    );
    check_spec(
        "  http:\n  - timeout: 5\n    route:\n    - weight: \"5\"\n      destination: a\n",
        &[
            "7:14 spec.http[0].timeout: expected a duration such as `5s` or `300ms`, found the number `5` \
             (a duration needs a unit: write `5s`)",
            "9:15 spec.http[0].route[0].weight: expected a whole number, found the text \"5\" (remove the quotes: 5)",
            "10:20 spec.http[0].route[0].destination: expected a mapping, found the text \"a\" \
             (Destination has `host`, `subset` or `port`)",
        ],
    );
    check_spec(
        "  http:\n  - match:\n    - port: -1\n    - port: 1.5\n    - ignoreUriCase: \"true\"\n",
        &[
            "8:13 spec.http[0].match[0].port: expected a whole number from 0 to 4294967295, found the number `-1`",
            "9:13 spec.http[0].match[1].port: expected a whole number from 0 to 4294967295, found the number `1.5`",
            "10:22 spec.http[0].match[2].ignoreUriCase: expected true or false, found the text \"true\" \
             (remove the quotes: true)",
        ],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    version: 1\nspec: {}\n",
        &["6:14 metadata.labels.version: expected a text, found the number `1` (quote it: \"1\")"],
    );
}

#[test]
fn scalars_in_place_of_messages_come_with_the_message() {
    let check = |rule: &str, path: &str, help: &str| {
        let found = findings(&service(&format!("  hosts: [a.b]\n  http:\n  - {rule}\n")));
        assert!(
            found.iter().any(|found| found.contains(&format!(" spec.http[0].{path}: ")) && found.contains(help)),
            "{found:#?}"
        );
    };
    check("match: [{method: GET}]", "match[0].method", "write `{exact: \"GET\"}`");
    check("match: [{headers: {a: '\"'}}]", "match[0].headers.a", "write `{exact: \"\\\"\"}`");
    check("route: [{destination: {host: a, port: 80}}]", "route[0].destination.port", "write `{number: 80}`");
    check("mirrorPercentage: 50", "mirrorPercentage", "write `{value: 50}`");
    check("match: [{headers: {a: }}]", "match[0].headers.a", "give it a value");
}

#[test]
fn enums_are_names() {
    let gateway = |mode: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: a}}\nspec:\n  servers:\n  - tls: {{mode: \
             {mode}}}\n"
        )
    };
    let found = |mode: &str| findings(&gateway(mode)).remove(0);
    assert_eq!(found("simple"), "6:17 spec.servers[0].tls.mode: unknown value `simple` (did you mean `SIMPLE`?)");
    assert_eq!(found("MUTAL"), "6:17 spec.servers[0].tls.mode: unknown value `MUTAL` (did you mean `MUTUAL`?)");
    assert!(found("1").starts_with("6:17 spec.servers[0].tls.mode: expected one of `PASSTHROUGH`,"));
}

#[test]
fn one_ofs_and_duplicate_keys_are_reported_at_the_second() {
    check_spec(
        "  http:\n  - match:\n    - uri: {exact: /a, prefix: /b}\n",
        &["8:24 spec.http[0].match[0].uri: `exact` and `prefix` exclude each other \
           (keep one of `exact`, `prefix` or `regex`)"],
    );
    check_spec(
        "  hosts: [a]\n  http: []\n  hosts: [b]\n",
        &["8:3 : `hosts` stands twice in this mapping; the first is on line 6 (keep one of them)"],
    );
    let parsed = read(&service("  hosts: [a]\n  hosts: [b]\n"));
    assert!(parsed.objects.is_empty());
    assert_eq!(
        parsed.diagnostics[0].key.as_ref().map(ToString::to_string).as_deref(),
        Some("VirtualService default/a")
    );
}

#[test]
fn all_errors_of_a_document_are_found_and_their_number_is_bounded() {
    let many: String = (0..500).map(|index| format!("  unknown{index}: 1\n")).collect();
    let parsed = read(&service(&many));
    assert_eq!(parsed.diagnostics.len(), 101);
    assert!(parsed.diagnostics[100].message.starts_with("400 more findings"));
}

#[test]
fn fields_that_are_not_enforced_yet_are_named_once() {
    check_spec(
        "  hosts: [a.b]\n  http:\n  - retries: {attempts: 2, perTryTimeout: 1s}\n    match:\n    - headers:\n        \
         \"@request.auth.claims.sub\": {exact: x}\n    route:\n    - destination: {host: a}\n",
        &[
            "8:5 spec.http[0].retries: `retries` is not enforced yet",
            "11:9 spec.http[0].match[0].headers[\"@request.auth.claims.sub\"]: matching of JWT claims is not enforced yet",
        ],
    );
    let parsed = read(&service("  http:\n  - corsPolicy: {}\n"));
    assert_eq!((parsed.diagnostics[0].code, parsed.diagnostics[0].level), (Code::NOT_ENFORCED, Level::Warning));
    assert_eq!(parsed.objects.len(), 1);
}

#[test]
fn tls_and_tcp_are_taken_without_a_remark() {
    let gateway = |server: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: a}}\nspec:\n  servers:\n  - {server}\n"
        )
    };
    check(
        &gateway(
            "{port: {number: 443, name: x, protocol: HTTPS}, hosts: ['*'], tls: {mode: OPTIONAL_MUTUAL, \
             credentialNames: [x, z], caCertCredentialName: ca, subjectAltNames: [a], verifyCertificateSpki: [a], \
             verifyCertificateHash: [b], minProtocolVersion: TLSV1_2, maxProtocolVersion: TLSV1_3, \
             cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256], ecdhCurves: [X25519], insecureSkipVerify: false}}",
        ),
        &[],
    );
    check(
        &gateway(
            "{port: {number: 443, name: x, protocol: TLS}, hosts: ['*'], tls: {mode: MUTUAL, serverCertificate: /c, \
             privateKey: /k, caCertificates: /a, caCrl: /l}}",
        ),
        &[],
    );
    check(&gateway("{port: {number: 443, name: x, protocol: TCP}, hosts: ['*']}"), &[]);
    check_spec(
        "  hosts: [a.b]\n  tls:\n  - match: [{sniHosts: [a.b], port: 443, gateways: [g]}]\n    route: [{destination: \
         {host: a}}]\n  tcp:\n  - match: [{port: 1}]\n    route: [{destination: {host: a}, weight: 1}]\n",
        &[],
    );
    let tls = "{mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /a, caCrl: /l, sni: a, \
               subjectAltNames: [a]}";
    check(
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a}}\nspec:\n  host: a\n  \
             trafficPolicy:\n    tls: {tls}\n    portLevelSettings: [{{port: {{number: 1}}, tls: {tls}}}]\n  \
             subsets: [{{name: s, trafficPolicy: {{tls: {{mode: SIMPLE, insecureSkipVerify: true}}}}}}]\n"
        ),
        &[],
    );
    let (mesh, found) = parse_mesh_config(
        "mesh.yaml",
        "tlsDefaults: {minProtocolVersion: TLSV1_3, ecdhCurves: [P-256], cipherSuites: [AES128-SHA]}\n\
         defaultConfig:\n  gatewayTopology: {proxyProtocol: {}, forwardClientCertDetails: APPEND_FORWARD}\n  \
         proxyHeaders: {forwardedClientCert: SANITIZE, setCurrentClientCertDetails: {subject: true, uri: false}}\n",
    );
    assert!(mesh.is_some());
    assert_eq!(found, []);
}

#[test]
fn what_tls_and_tcp_routes_cannot_do_here_is_named() {
    let sidecar = "it concerns sidecars, and this is a gateway";
    check_spec(
        "  hosts: [a.b]\n  tls:\n  - match:\n    - sniHosts: [a.b]\n      destinationSubnets: [1.2.3.4]\n    route: []\n  \
         tcp:\n  - match:\n    - destinationSubnets: [1.2.3.4]\n      sourceSubnet: 1.2.3.4\n    route: []\n",
        &[
            &format!("10:7 spec.tls[0].match[0].destinationSubnets: `destinationSubnets` has no effect: {sidecar}"),
            &format!("14:7 spec.tcp[0].match[0].destinationSubnets: `destinationSubnets` has no effect: {sidecar}"),
            &format!("15:7 spec.tcp[0].match[0].sourceSubnet: `sourceSubnet` has no effect: {sidecar}"),
        ],
    );
    check(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: a\n  \
         trafficPolicy:\n    tls: {mode: ISTIO_MUTUAL}\n    connectionPool: {tcp: {idleTimeout: 5s}}\n    \
         portLevelSettings:\n    - port: {number: 1}\n      tls: {mode: ISTIO_MUTUAL}\n",
        &[
            "8:41 spec.trafficPolicy.connectionPool.tcp.idleTimeout: `idleTimeout` is enforced for TCP and TLS routes; \
             for idle HTTP connections it is not yet",
            "7:17 spec.trafficPolicy.tls.mode: ISTIO_MUTUAL is not enforced yet",
            "11:19 spec.trafficPolicy.portLevelSettings[0].tls.mode: ISTIO_MUTUAL is not enforced yet",
        ],
    );
}

#[test]
fn identity_is_checked() {
    let at = |text: &str| findings(text);
    let name = "a name has lower-case letters, digits, `-` and `.`, and begins and ends with a letter or digit";
    assert_eq!(
        at("apiVersion: v1\nkind: Service\nmetadata: {name: A_b}\nspec: {}\n"),
        [format!("3:18 metadata.name: `A_b` is no name for an object ({name})")]
    );
    assert_eq!(
        at("apiVersion: v1\nkind: Service\nspec: {}\n"),
        ["1:1 : `metadata` is missing (give it a `metadata` with a `name`)"]
    );
    assert_eq!(
        at("apiVersion: v1\nkind: Service\nmetadata: {}\nspec: {}\n"),
        ["3:1 metadata: `metadata.name` is missing (give the object a name)"]
    );
    assert_eq!(
        at("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\n"),
        ["1:1 : `spec` is missing"]
    );
    assert_eq!(
        at("apiVersion: networking.istio.io/v2\nkind: Gateway\nmetadata: {name: a}\nspec: {}\n"),
        ["1:13 apiVersion: Gateway is not in `networking.istio.io/v2` (write apiVersion: networking.istio.io/v1 or \
          networking.istio.io/v1beta1 or networking.istio.io/v1alpha3)"]
    );
    assert_eq!(
        at("metadata: {name: a}\nspec: {}\n"),
        ["1:1 : this document has no `kind`: it is no resource (a resource has apiVersion, kind and metadata)"]
    );
    assert_eq!(
        at("just text"),
        ["1:1 : expected a resource, found the text \"just text\" (a resource has apiVersion, kind and metadata)"]
    );
    assert!(at("# nothing\n---\n---\n~\n").is_empty());
}

#[test]
fn namespaces_default_and_cluster_scoped_kinds_have_none() {
    let key = |text: &str| object(text).key.to_string();
    assert_eq!(key("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {}\n"), "Service default/a");
    assert_eq!(key("apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: b}\nspec: {}\n"), "Service b/a");
    assert_eq!(key("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n"), "Namespace a");
}

#[test]
fn what_kubectl_prints_is_read() {
    let text = r#"{
  "apiVersion": "v1",
  "kind": "List",
  "metadata": {"resourceVersion": ""},
  "items": [
    {
      "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
      "metadata": {"name": "a", "namespace": "n", "creationTimestamp": "2024-01-01T00:00:00Z", "generation": 3,
        "resourceVersion": "12", "uid": "x", "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]},
      "spec": {"hosts": ["a.b"]},
      "status": {"conditions": [{"anything": true}]}
    },
    {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}
  ]
}"#;
    let parsed = read(text);
    assert_eq!(parsed.diagnostics, []);
    let metadata = &parsed.objects[0].metadata;
    assert_eq!(metadata.created(), Some(1_704_067_200));
    assert_eq!((metadata.generation, metadata.resource_version.as_deref()), (Some(3), Some("12")));
    assert_eq!(parsed.objects[0].origin.position.line, 6);
    assert!(parsed.objects[0].source.starts_with("    {\n") && parsed.objects[0].source.contains("conditions"));
    assert_eq!((parsed.skipped[0].kind.as_str(), parsed.skipped[0].origin.position.line), ("Deployment", 13));

    let typed = read(
        "apiVersion: v1\nkind: ServiceList\nitems:\n- metadata: {name: a}\n  spec: {}\n- metadata: {name: b}\n  spec: {}\n",
    );
    assert_eq!(
        typed.objects.iter().map(|o| o.key.to_string()).collect::<Vec<_>>(),
        ["Service default/a", "Service default/b"]
    );
}

#[test]
fn places_survive_into_the_object() {
    let text = format!(
        "# a comment\n---\n# another\n{}---\n",
        service(
            "  hosts:\n  - a.b\n  http:\n  - match:\n    - headers:\n        x.y:\n          exact: z\n    route:\n    - destination:\n        host: a\n"
        )
    );
    let object = object(&text);
    let at = |path: &str| object.origin_of(path).to_string();
    assert_eq!(object.origin.to_string(), "f.yaml:4:1");
    assert_eq!(at("spec.hosts[0]"), "f.yaml:10:5");
    assert_eq!(at("spec.http[0].match[0].headers[\"x.y\"].exact"), "f.yaml:15:18");
    assert_eq!(at("spec.http[0].match[0].headers[\"x.y\"]"), "f.yaml:14:9");
    assert_eq!(at("spec.http[0].route[0].destination.subset"), "f.yaml:17:7");
    assert_eq!(at("metadata.name"), "f.yaml:7:9");
    assert_eq!(at("nowhere"), "f.yaml:4:1");
    assert_eq!(object.source.lines().next(), Some("apiVersion: networking.istio.io/v1"));
    assert_eq!(object.source.lines().nth(12), Some("    route:"));
    assert_eq!(object.source.lines().last(), Some("        host: a"));
}

#[test]
fn a_broken_document_takes_nothing_from_its_neighbours() {
    let good = service("  hosts: [a.b]\n");
    let parsed = read(&format!("{good}---\na: [\n---\na: \"\n---\n{}", good.replace("name: a", "name: b")));
    assert_eq!(parsed.objects.len(), 2);
    let lines: Vec<_> = parsed.diagnostics.iter().map(|found| (found.code, found.origin.position.line)).collect();
    assert_eq!(lines.iter().map(|(code, _)| *code).collect::<Vec<_>>(), [Code::SYNTAX, Code::SYNTAX]);
    assert!((8..=9).contains(&lines[0].1) && (10..=11).contains(&lines[1].1), "{lines:?}");
}

#[test]
fn common_slips_of_syntax_come_with_their_mend() {
    let check = |spec: &str, position: &str, mend: &str| {
        let parsed = read(&service(spec));
        let found = &parsed.diagnostics[0];
        assert_eq!(found.code, Code::SYNTAX, "{found}");
        assert_eq!(found.origin.to_string(), format!("f.yaml:{position}"), "{found}");
        assert!(found.help.as_deref().unwrap_or_default().contains(mend), "{found:?}");
    };
    check("  hosts: [a.b]\n  gateways:\n  - *.a.b\n", "8:5", "quote a text that begins with `*`");
    check("  hosts: [a.b]\n  gateways: @a\n", "7:13", "quote");
    check("  hosts:\n\t- a.b\n", "7:2", "indent with spaces");
    check("  hosts: [{{ .Values.host }}]\n", "6:12", "helm template");
    check("  hosts: [{{ include \"a\" . }}]\n", "6:12", "helm template");
    check("  hosts: [\"a\\d\"]\n", "6:11", "single quotes");
    check("  hosts:\n  - \"a.b\n", "7:5", "a quote is not closed");
    check("  hosts: [a.b\n  http:\n", "7:7", "is not closed");
    check("  hosts: a: b\n", "6:11", "must be quoted");
}

#[test]
fn broken_syntax_is_reported_under_the_objects_name_if_that_was_read() {
    let parsed = read(&service("  hosts: [a.b]\n  http: [\n"));
    assert_eq!(parsed.diagnostics[0].code, Code::SYNTAX);
    assert_eq!(
        parsed.diagnostics[0].key.as_ref().map(ToString::to_string).as_deref(),
        Some("VirtualService default/a")
    );
    assert_eq!(read("kind: VirtualService\nmetadata: [\n").diagnostics[0].key, None);
}

#[test]
fn anchors_aliases_and_merges_are_resolved() {
    let object = object(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  selector: &labels {app: a, tier: b}\n  ports:\n  - &port \
         {name: http, port: 80}\n  - <<: *port\n    name: http-2\n    port: 81\n  - {<<: [*port], name: http-3, port: 82}\n",
    );
    let Spec::Service(service) = &object.spec else { panic!() };
    let ports: Vec<_> = service.ports.iter().map(|port| (port.name.as_str(), port.port)).collect();
    assert_eq!(ports, [("http", 80), ("http-2", 81), ("http-3", 82)]);
}

#[test]
fn secrets_are_read_and_never_shown() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ntype: kubernetes.io/tls\ndata:\n  tls.key: c2VjcmV0LXBlbQ==\nstringData:\n  tls.crt: plain\n";
    let object = object(text);
    let Spec::Secret(secret) = &object.spec else { panic!() };
    assert_eq!(secret.get("tls.key").map(SecretBytes::as_slice), Some(&b"secret-pem"[..]));
    assert_eq!(secret.get("tls.crt").map(SecretBytes::as_slice), Some(&b"plain"[..]));
    let shown = format!("{object:?}");
    assert!(!shown.contains("c2Vj") && !shown.contains("secret-pem") && !shown.contains("plain"), "{shown}");
    assert!(shown.contains("tls.key"));

    let broken = findings(&text.replace("c2VjcmV0LXBlbQ==", "$ecret!")).join("");
    assert!(broken.starts_with("6:12 data[\"tls.key\"]: this is no base64") && !broken.contains("$ecret"), "{broken}");
}

#[test]
fn mesh_settings_come_from_a_file_or_from_the_config_map() {
    let (mesh, found) = parse_mesh_config(
        "mesh.yaml",
        "accessLogFile: /dev/stdout\npathNormalization:\n  normalization: MERGE_SLASHES\n",
    );
    assert_eq!(found, []);
    let mesh = mesh.unwrap();
    assert_eq!(mesh.origin_of("pathNormalization.normalization").to_string(), "mesh.yaml:3:18");
    assert_eq!(mesh.key.to_string(), "MeshConfig istio");
    assert!(parse_mesh_config("mesh.yaml", "").0.is_some());

    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: istio\n  namespace: istio-system\ndata:\n  mesh: |-\n    rootNamespace: istio-config\n    defaultConfig:\n      gatewayTopology:\n        numTrustedProxies: 2\n    conectTimeout: 5s\n";
    let parsed = read(text);
    assert_eq!(
        findings(text),
        ["12:5 conectTimeout: unknown field `conectTimeout` in MeshConfig (did you mean `connectTimeout`?)"]
    );
    assert_eq!(parsed.objects.len(), 1);
    let parsed = read(&text.replace("conect", "connect"));
    assert_eq!(
        parsed.objects.iter().map(|object| object.key.kind).collect::<Vec<_>>(),
        [Kind::ConfigMap, Kind::MeshConfig]
    );
    let mesh = &parsed.objects[1];
    assert_eq!(mesh.key.to_string(), "MeshConfig istio-system/istio");
    assert_eq!(mesh.origin_of("defaultConfig.gatewayTopology.numTrustedProxies").to_string(), "f.yaml:11:28");
    let Spec::MeshConfig(mesh) = &mesh.spec else { panic!() };
    assert_eq!(mesh.default_config.as_ref().unwrap().gateway_topology.as_ref().unwrap().num_trusted_proxies, 2);
}

#[test]
fn bytes_that_are_no_text_give_one_finding() {
    let one = |bytes: &[u8]| {
        let parsed = parse_bytes("f", bytes, &ParseOptions::default());
        assert!(parsed.objects.is_empty());
        assert_eq!(parsed.diagnostics.len(), 1, "{:?}", parsed.diagnostics);
        parsed.diagnostics[0].to_string()
    };
    assert_eq!(
        one(b"\x7fELF\x00\x01"),
        "Error [TG0001] (f:1:5) this is a binary file (it holds a NUL byte) (move it elsewhere)"
    );
    assert_eq!(one(b"a: 1\nb: \xff\n"), "Error [TG0001] (f:2:4) this file is not UTF-8 (save it as UTF-8)");
    assert_eq!(one(b"\xff\xfea\x00"), "Error [TG0001] (f:1:1) this file is UTF-16 (save it as UTF-8)");
    let huge = vec![b' '; tidegate_resources::MAX_FILE_BYTES + 1];
    assert!(one(&huge).contains("64 MiB is more than a file may have"));
}
