//! A bad secret costs only the host that needs it, and not even that one if it had a good one.

use tidegate_tests::pki::{Authority, KeyType, Leaf, Pair, secret, tls_secret};
use tidegate_tests::process::{Options, free_port, local};
use tidegate_tests::tls::TlsOptions;
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{ConfigFolder, EchoBackend, Tidegate, yaml};

use super::NAMESPACE;

const HOSTS: usize = 32;

struct Rig {
    tidegate: Tidegate,
    folder: ConfigFolder,
    port: u16,
    authority: Authority,
    pairs: Vec<Pair>,
    _backend: EchoBackend,
}

fn host(number: usize) -> String {
    format!("h{number}.tls.test")
}

impl Rig {
    async fn start() -> Self {
        let port = free_port();
        let authority = Authority::new("ca");
        let backend = EchoBackend::start("a").await;
        let servers: Vec<String> = (0..HOSTS)
            .map(|number| yaml::https(port, &format!("s{number}"), &[&host(number)], &format!("c{number}")))
            .collect();
        let folder = ConfigFolder::with(
            yaml::gateway_of(&servers)
                + &yaml::forward("all", "*.tls.test", "a.test")
                + &yaml::service_entry("a", "a.test", "HTTP", &[backend.address]),
        );
        let pairs: Vec<Pair> = (0..HOSTS).map(|number| authority.issue(&[&host(number)])).collect();
        for (number, pair) in pairs.iter().enumerate() {
            folder.write(&format!("secret-{number}.yaml"), tls_secret(NAMESPACE, &format!("c{number}"), pair));
        }
        let tidegate = Options::default().start(&folder).await;
        Self { tidegate, folder, port, authority, pairs, _backend: backend }
    }

    async fn leaf(&self, number: usize) -> Result<Vec<u8>, String> {
        TlsOptions::to(&host(number)).leaf(local(self.port)).await
    }

    async fn all_serve_their_own(&self) {
        for (number, pair) in self.pairs.iter().enumerate() {
            assert!(self.leaf(number).await.as_ref() == Ok(&pair.der), "{} lost its certificate", host(number));
        }
    }
}

/// The last Secret of [`Rig`], broken. `entries` are the lines below `stringData`.
fn broken(rig: &Rig) -> Vec<(&'static str, Vec<u8>)> {
    let last = HOSTS - 1;
    let name = format!("c{last}");
    let good = rig.authority.issue(&[&host(last)]);
    let other = rig.authority.issue(&[&host(last)]);
    let of = |entries: &[(&str, &str)]| secret(NAMESPACE, &name, entries).into_bytes();
    let pair = |chain: &str, key: &str| of(&[("tls.crt", chain), ("tls.key", key)]);
    let half = |text: &str| text[..text.len() / 2].to_owned();
    let sign = |leaf: Leaf| rig.authority.sign(leaf);
    let expired = sign(Leaf::new(&[&host(last)]).in_year(2020));
    let early = sign(Leaf::new(&[&host(last)]).in_year(2090));
    let elsewhere = rig.authority.issue(&["elsewhere.test"]);
    let rsa = sign(Leaf::new(&[&host(last)]).key(KeyType::Rsa));
    let binary: Vec<u8> = [&of(&[])[..], b"  tls.crt: \"\\x00\\xff\\x07\"\n  tls.key: \"\\x01\"\n"].concat();
    vec![
        ("a key of another certificate", pair(&good.chain, &other.key)),
        ("a truncated certificate", pair(&half(&good.chain), &good.key)),
        ("a truncated key", pair(&good.chain, &half(&good.key))),
        ("an expired certificate", pair(&expired.chain, &expired.key)),
        ("a certificate of the future", pair(&early.chain, &early.key)),
        ("a certificate for another host", pair(&elsewhere.chain, &elsewhere.key)),
        ("empty entries", of(&[("tls.crt", ""), ("tls.key", "")])),
        ("no entries", of(&[])),
        ("binary entries", String::from_utf8_lossy(&binary).replace("---\n", "").into_bytes()),
        ("no key", of(&[("tls.crt", &good.chain)])),
        ("certificate and key swapped", pair(&good.key, &good.chain)),
        ("a key of another type", pair(&good.chain, &rsa.key)),
    ]
}

#[tokio::test]
async fn one_secret_of_many_broken_in_twelve_ways_costs_nothing() {
    let rig = Rig::start().await;
    rig.all_serve_their_own().await;
    let last = HOSTS - 1;
    let file = format!("secret-{last}.yaml");
    for (what, text) in broken(&rig) {
        let seen = rig.tidegate.log().len();
        rig.folder.write(&file, text);
        let line = wait::until(&format!("a message about {what}\n{}", rig.tidegate.log()), PATIENCE, || async {
            let log = rig.tidegate.log();
            log[seen..].lines().find(|line| line.contains(&file)).map(str::to_owned)
        })
        .await;
        assert!(line.contains(&format!("c{last}")), "{what}: the object is named: {line}");
        assert!(line.contains(&format!("{file}:")), "{what}: file and line are named: {line}");
        rig.all_serve_their_own().await;
        // And mended again, so that every breakage is a fresh one.
        rig.folder.write(&file, tls_secret(NAMESPACE, &format!("c{last}"), &rig.pairs[last]));
        wait::until(&format!("mended after {what}"), PATIENCE, || async {
            let status = rig.tidegate.admin("/config/status").await.text();
            (!status.contains(&file)).then_some(())
        })
        .await;
    }
    rig.all_serve_their_own().await;
}

#[tokio::test]
async fn a_new_pair_is_served_to_new_connections_and_old_ones_stay() {
    let rig = Rig::start().await;
    let mut held = TlsOptions::to(&host(0)).connect(local(rig.port)).await.unwrap();
    assert_eq!(held.get(&host(0), "/").await.unwrap().status, 200);
    let hash = rig.tidegate.hash().await;
    for _ in 0..5 {
        let pair = rig.authority.issue(&[&host(0)]);
        rig.folder.write("secret-0.yaml", tls_secret(NAMESPACE, "c0", &pair));
        wait::until("the new certificate", PATIENCE, || async {
            (rig.leaf(0).await.unwrap() == pair.der).then_some(())
        })
        .await;
    }
    assert_eq!(held.get(&host(0), "/").await.unwrap().status, 200, "the old connection serves on");
    assert_eq!(rig.tidegate.hash().await, hash, "a secret is no configuration");
    let certs = rig.tidegate.admin("/certs").await.text();
    assert!(certs.contains("days_until_expiration"), "{certs}");
    // Deleting does not take away what serves, as in Istio.
    rig.folder.remove("secret-1.yaml");
    rig.tidegate.log_line("c1").await;
    assert_eq!(rig.leaf(1).await.unwrap(), rig.pairs[1].der);
}

#[tokio::test]
async fn a_secret_that_comes_late_is_served_when_it_comes() {
    let (port, authority) = (free_port(), Authority::new("ca"));
    let backend = EchoBackend::start("a").await;
    let folder = ConfigFolder::with(
        yaml::gateway_of(&[
            yaml::https(port, "late", &["late.test"], "late"),
            yaml::https(port, "other", &["other.test"], "other"),
        ]) + &yaml::forward("all", "*.test", "a.test")
            + &yaml::service_entry("a", "a.test", "HTTP", &[backend.address]),
    );
    folder.write("other.yaml", tls_secret(NAMESPACE, "other", &authority.issue(&["other.test"])));
    let tidegate = Options::default().start(&folder).await;
    assert!(TlsOptions::to("other.test").trusting(&authority).get(local(port), "other.test", "/").await.is_ok());
    assert!(TlsOptions::to("late.test").handshake(local(port)).await.is_err());
    let line = tidegate.log_line("istio-system/late").await;
    assert!(line.contains("gateway.yaml:"), "{line}");
    folder.write("late.yaml", tls_secret(NAMESPACE, "late", &authority.issue(&["late.test"])));
    wait::until("the late certificate", PATIENCE, || async {
        TlsOptions::to("late.test").trusting(&authority).get(local(port), "late.test", "/").await.ok()
    })
    .await;
}

#[tokio::test]
async fn keys_are_nowhere_to_be_seen() {
    let rig = Rig::start().await;
    rig.leaf(0).await.unwrap();
    let mut everything = rig.tidegate.log() + &rig.tidegate.stdout() + &rig.tidegate.metrics().await;
    for page in [
        "/",
        "/help",
        "/certs",
        "/clusters",
        "/listeners",
        "/config_dump",
        "/config_dump?include_eds",
        "/config/status",
        "/server_info",
        "/stats",
        "/stats?format=json",
        "/memory",
        "/logging",
    ] {
        everything += &rig.tidegate.admin(page).await.text();
    }
    for entry in walk(&rig.tidegate.home().join("state")) {
        everything += &String::from_utf8_lossy(&std::fs::read(entry).unwrap());
    }
    for pair in &rig.pairs {
        for line in pair.key.lines().filter(|line| !line.starts_with("-----") && line.len() > 20) {
            assert!(!everything.contains(line), "a line of a private key was shown");
        }
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
