//! From objects to what is served and told, without a data plane.

use std::collections::BTreeMap;
use std::fmt::Write;

use rcgen::{CertificateParams, KeyPair};
use tidegate_admin::SecretState;
use tidegate_compiler::CompileOptions;
use tidegate_core::{Code, Level, SecretName};
use tidegate_resources::parse;

use super::*;

/// A certificate and its key.
struct Pair {
    chain: String,
    key: String,
}

impl Pair {
    fn of(host: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([host.to_owned()]).unwrap().self_signed(&key).unwrap();
        Self { chain: certificate.pem(), key: key.serialize_pem() }
    }
}

fn secret(name: &str, chain: &str, key: &str) -> String {
    let indented = |text: &str| {
        text.lines().fold(String::new(), |mut out, line| {
            let _ = writeln!(out, "    {line}");
            out
        })
    };
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: istio-system}}\nstringData:\n  \
         tls.crt: |\n{}  tls.key: |\n{}",
        indented(chain),
        indented(key)
    )
}

/// HTTPS on 8443 for hosts with the credentials of each.
fn gateway(servers: &[(&str, &str)]) -> String {
    servers.iter().fold(
        "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: istio-system}\nspec:\n  \
         selector: {istio: ingressgateway}\n  servers:\n"
            .to_owned(),
        |mut text, (host, credential)| {
            let _ = write!(
                text,
                "  - port: {{number: 8443, name: s{}, protocol: HTTPS}}\n    hosts: [{host}]\n    tls: {{mode: SIMPLE, \
                 credentialName: {credential}}}\n",
                host.replace('.', "-")
            );
            text
        },
    )
}

fn set(text: &str) -> ResourceSet {
    let parsed = parse("conf.yaml", text, &ParseOptions::default());
    assert_eq!(parsed.diagnostics, []);
    parsed.objects.into_iter().collect()
}

fn compiled(set: &ResourceSet) -> Snapshot {
    let options = CompileOptions {
        labels: BTreeMap::from([("istio".to_owned(), "ingressgateway".to_owned())]),
        namespace: "istio-system".into(),
        ..CompileOptions::default()
    };
    tidegate_compiler::compile(set, &options).snapshot
}

/// Secrets that follow texts as the writer of configuration has them follow views.
struct Bench {
    secrets: Secrets,
}

impl Bench {
    fn new() -> Self {
        Self { secrets: Secrets::new(Arc::default()) }
    }

    fn apply(&self, text: &str) {
        let set = set(text);
        self.secrets.take(&mut self.secrets.lock(), &set);
        self.secrets.follow(&compiled(&set));
    }

    /// Findings of a code, each with its place and message.
    fn findings(&self, code: Code) -> Vec<String> {
        let of_code = self.secrets.findings().into_iter().filter(|finding| finding.code == code);
        of_code.map(|finding| format!("{} {} {}", finding.level, finding.origin, finding.message)).collect()
    }

    /// Names with state and version.
    fn states(&self) -> Vec<(String, SecretState, u64)> {
        let statuses = self.secrets.status().into_iter();
        statuses.map(|status| (status.name, status.state, status.version)).collect()
    }
}

#[test]
fn what_is_missing_is_told_at_its_server_until_it_comes() {
    let bench = Bench::new();
    let gateway = gateway(&[("a.com", "a"), ("b.com", "b")]);
    let (a, b) = (Pair::of("a.com"), Pair::of("b.com"));
    let with_a = format!("{gateway}{}", secret("a", &a.chain, &a.key));
    bench.apply(&with_a);
    assert_eq!(
        bench.findings(Code::REFERENCE_NOT_FOUND),
        [
            "Warning conf.yaml:13:41 no source has kubernetes://istio-system/b; handshakes for b.com fail until it arrives"
        ]
    );
    assert_eq!(
        bench.states(),
        [
            ("kubernetes://istio-system/a".to_owned(), SecretState::Active, 1),
            ("kubernetes://istio-system/b".to_owned(), SecretState::Warming, 0),
        ]
    );
    let mut news = bench.secrets.news();
    let both = set(&format!("{with_a}{}", secret("b", &b.chain, &b.key)));
    bench.secrets.take(&mut bench.secrets.lock(), &both);
    assert!(news.has_changed().unwrap());
    news.mark_unchanged();
    assert_eq!(bench.findings(Code::REFERENCE_NOT_FOUND), [""; 0]);
    assert_eq!(bench.states()[1].1, SecretState::Active);
}

#[test]
fn a_broken_secret_keeps_what_serves_and_names_its_line() {
    let bench = Bench::new();
    let gateway = gateway(&[("a.com", "a")]);
    let (good, other) = (Pair::of("a.com"), Pair::of("a.com"));
    bench.apply(&format!("{gateway}{}", secret("a", &good.chain, &good.key)));
    bench.apply(&format!("{gateway}{}", secret("a", &good.chain, &other.key)));
    let [refused] = bench.findings(Code::SECRET_REFUSED).try_into().unwrap();
    assert!(refused.starts_with("Error conf.yaml:") && refused.contains("does not belong"), "{refused}");
    assert_eq!(bench.states(), [("kubernetes://istio-system/a".to_owned(), SecretState::Refused, 1)]);
    // A good one ends it.
    bench.apply(&format!("{gateway}{}", secret("a", &other.chain, &other.key)));
    assert_eq!(bench.findings(Code::SECRET_REFUSED), [""; 0]);
    assert_eq!(bench.states(), [("kubernetes://istio-system/a".to_owned(), SecretState::Active, 2)]);
}

#[test]
fn a_secret_that_goes_serves_on_and_says_so() {
    let bench = Bench::new();
    let gateway = gateway(&[("a.com", "a")]);
    let pair = Pair::of("a.com");
    bench.apply(&format!("{gateway}{}", secret("a", &pair.chain, &pair.key)));
    bench.apply(&gateway);
    assert_eq!(bench.states(), [("kubernetes://istio-system/a".to_owned(), SecretState::Orphaned, 1)]);
    assert_eq!(bench.findings(Code::SECRET_ORPHANED).len(), 1);
    assert_eq!(bench.findings(Code::REFERENCE_NOT_FOUND), [""; 0]);
}

#[test]
fn a_certificate_is_held_against_the_hosts_of_its_servers() {
    let bench = Bench::new();
    let pair = Pair::of("a.com");
    let text = format!("{}{}", gateway(&[("a.com", "a"), ("b.com", "a")]), secret("a", &pair.chain, &pair.key));
    bench.apply(&text);
    let flaws = bench.findings(Code::CERTIFICATE_FLAWED);
    assert!(flaws.iter().any(|flaw| flaw.contains("b.com")), "{flaws:?}");
    assert_eq!(bench.secrets.status()[0].hosts, ["a.com", "b.com"]);
    // `validate` says the same without serving anything.
    let set = set(&text);
    let judged = judge(&set, Some(&compiled(&set)), &[], "istio-system");
    assert!(judged.iter().any(|finding| finding.code == Code::CERTIFICATE_FLAWED && finding.message.contains("b.com")));
}

#[test]
fn one_change_among_many_is_one_offer() {
    let bench = Bench::new();
    let pair = Pair::of("a.com");
    let mut all = set(&(0..1000).map(|n| secret(&format!("s{n}"), &pair.chain, &pair.key)).collect::<String>());
    bench.secrets.take(&mut bench.secrets.lock(), &all);
    let generation = bench.secrets.store().generation();
    let other = Pair::of("a.com");
    all.insert(set(&secret("s7", &other.chain, &other.key)).iter().next().unwrap().clone());
    bench.secrets.take(&mut bench.secrets.lock(), &all);
    assert_eq!(bench.secrets.store().generation(), generation + 1);
    let versions: Vec<u64> = bench.secrets.status().iter().map(|status| status.version).collect();
    assert_eq!((versions.len(), versions.iter().sum::<u64>()), (1000, 1001));
    // Nothing new, nothing done.
    bench.secrets.take(&mut bench.secrets.lock(), &all);
    assert_eq!(bench.secrets.store().generation(), generation + 1);
}

#[test]
fn status_and_metrics_hold_no_key() {
    let bench = Bench::new();
    let pair = Pair::of("a.com");
    // A key beside the certificate in one file is what some tools write.
    let chain = format!("{}{}", pair.chain, pair.key);
    bench.apply(&format!("{}{}", gateway(&[("a.com", "a")]), secret("a", &chain, &pair.key)));
    assert_eq!(bench.states()[0].1, SecretState::Active);
    let [status] = bench.secrets.status().try_into().unwrap();
    let pem = String::from_utf8(status.certificates_pem.clone().unwrap().to_vec()).unwrap();
    assert_eq!(pem.trim(), pair.chain.replace("\r\n", "\n").trim());
    let mut metrics = String::new();
    bench.secrets.write_metrics(&mut metrics);
    let shown = format!(
        "{status:?}{}{pem}{metrics}{:?}{}",
        serde_json::to_string(&status).unwrap(),
        bench.secrets,
        bench.secrets.findings().iter().map(ToString::to_string).collect::<String>()
    );
    for line in pair.key.lines().filter(|line| !line.starts_with("-----")) {
        assert!(!shown.contains(line.trim()), "a line of the key is shown");
    }
}

#[test]
fn metrics_have_a_series_for_each_secret() {
    let bench = Bench::new();
    let pair = Pair::of("a.com");
    bench.apply(&format!("{}{}", gateway(&[("a.com", "a"), ("b.com", "b")]), secret("a", &pair.chain, &pair.key)));
    let mut text = String::new();
    bench.secrets.write_metrics(&mut text);
    for expected in [
        "tidegate_secret_version{name=\"kubernetes://istio-system/a\"} 1\n",
        "tidegate_secret_failures_total{name=\"kubernetes://istio-system/a\"} 0\n",
        "# TYPE tidegate_secret_days_until_expiration gauge\n",
        "tidegate_secret_last_rotation_timestamp_seconds{name=\"kubernetes://istio-system/a\"}",
    ] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
}

#[test]
fn what_cannot_be_used_is_told_where_it_is_and_where_it_is_missing() {
    let bench = Bench::new();
    bench.apply(&format!("{}{}", gateway(&[("a.com", "a")]), secret("a", "no PEM", "no PEM")));
    let errors = bench.secrets.findings().into_iter().filter(|finding| finding.level == Level::Error);
    assert_eq!(errors.count(), 1);
    let missing = bench.findings(Code::REFERENCE_NOT_FOUND);
    assert!(missing[0].contains("what was offered as kubernetes://istio-system/a cannot be used"), "{missing:?}");
    assert!(bench.secrets.store().get(&SecretName::kubernetes("istio-system", "a")).unwrap().current().is_none());
}
