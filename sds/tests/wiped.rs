//! What is left in memory of a key whose secret was replaced or forgotten.
//!
//! Alone in its binary: it reads the memory of the process, which other tests would fill. Keys are made by another
//! process, as making them leaves copies, too.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use memchr::memchr_iter;
use tidegate_core::SecretName;
use tidegate_sds::SecretStore;
use tidegate_sds::sources::FileWatcher;
use tidegate_tests::memory::Needle;
use zeroize::Zeroizing;

/// The binary's: it moves what grows, where glibc often finds room behind it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A pair made by another process: a part of the key's base64, and of its DER.
fn make(folder: &Path, name: &str, kind: &[&str]) -> [Needle; 2] {
    let path = |ending: &str| folder.join(format!("{name}.{ending}"));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-nodes", "-subj", "/CN=a.com", "-days", "90"]).args(kind);
    let output = command.arg("-keyout").arg(path("key")).arg("-out").arg(path("crt")).output();
    let output = output.expect("openssl is needed: apt-get install openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut command = Command::new("openssl");
    command.args(["pkey", "-outform", "der", "-in"]).arg(path("key")).arg("-out").arg(path("der"));
    assert!(command.status().unwrap().success());
    let read = |path: &Path| {
        let file = File::open(path).unwrap();
        let mut bytes = Zeroizing::new(vec![0; file.metadata().unwrap().len() as usize]);
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    let (pem, der) = (read(&path("key")), read(&path("der")));
    // The second line, behind what an allocator writes into what was freed; in DER the private number itself (RSA's
    // stands behind the modulus, which is public).
    let second = memchr_iter(b'\n', &pem).nth(1).unwrap() + 4;
    fs::remove_file(path("der")).unwrap();
    let private = if der.len() > 1000 { 400 } else { 40 };
    [Needle::new(&pem[second..second + 24]), Needle::new(&der[private..private + 24])]
}

#[test]
fn a_key_that_is_replaced_or_forgotten_leaves_no_copy() {
    let folder = tempfile::tempdir().unwrap();
    let kinds: [&[&str]; 3] = [
        &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
        &["-newkey", "rsa:2048"],
        &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
    ];
    let needles: Vec<_> = (0..).zip(kinds).map(|(at, kind)| make(folder.path(), &at.to_string(), kind)).collect();
    let counts = || needles.iter().map(|[pem, der]| (pem.count(), der.count())).collect::<Vec<_>>();
    assert_eq!(counts(), [(0, 0); 3], "before");
    let text = |name: &str| folder.path().join(name).display().to_string();
    let name = SecretName::file_certificate(&text("a.crt"), &text("a.key"));
    let publish = |at: usize| {
        for ending in ["crt", "key"] {
            fs::rename(text(&format!("{at}.{ending}")), text(&format!("a.{ending}"))).unwrap();
        }
    };
    let store = Arc::new(SecretStore::default());
    publish(0);
    let watcher = FileWatcher::start(store.clone()).unwrap();
    watcher.set_names(BTreeSet::from([name.clone()]));
    assert_eq!(counts()[0].0, 1, "the bytes that were offered");
    for at in 1..3 {
        publish(at);
        watcher.rescan();
        assert_eq!(store.status(&name).unwrap().version, at as u64 + 1);
        let counts = counts();
        assert_eq!(counts[at].0, 1, "{at}: the bytes that were offered");
        assert_eq!(counts[at - 1], (0, 0), "{at}: what was replaced");
    }
    watcher.set_names(BTreeSet::new());
    assert_eq!(store.release(|_| false), 1);
    assert_eq!(counts(), [(0, 0); 3], "in the end");
}
