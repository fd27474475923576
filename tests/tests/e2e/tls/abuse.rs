//! What is no ClientHello: bounded memory, a counter, and the end of the connection within the limit.

use std::time::{Duration, Instant};

use tidegate_tests::pki::Authority;
use tidegate_tests::process::{Options, free_port, local};
use tidegate_tests::tls::TlsOptions;
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{ConfigFolder, EchoBackend, Tidegate, yaml};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::secrets;

async fn rig(port: u16) -> (Tidegate, ConfigFolder, Authority, EchoBackend) {
    let authority = Authority::new("ca");
    let backend = EchoBackend::start("a").await;
    let folder = ConfigFolder::with(
        yaml::gateway_of(&[yaml::https(port, "a", &["a.test"], "a")])
            + &yaml::forward("a", "a.test", "a.test")
            + &yaml::service_entry("a", "a.test", "HTTP", &[backend.address])
            + &secrets(&authority, &[("a", &["a.test"])]),
    );
    let tidegate = Options::default().start(&folder).await;
    (tidegate, folder, authority, backend)
}

/// Failed handshakes of all reasons.
async fn failures(tidegate: &Tidegate) -> f64 {
    let metrics = tidegate.metrics().await;
    let lines = metrics.lines().filter(|line| line.starts_with("tidegate_tls_handshake_failures_total{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// A ClientHello as a client's library makes it.
fn client_hello(server_name: &str) -> Vec<u8> {
    let name = server_name.to_owned().try_into().unwrap();
    let mut connection = rustls::ClientConnection::new(TlsOptions::to(server_name).config(), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// A handshake message of `length` bytes, in records.
fn long_hello(length: usize) -> Vec<u8> {
    let mut message = vec![1, 0, 0, 0];
    message[1..4].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes()[1..]);
    message.extend(std::iter::repeat_n(0x5a, length));
    let mut bytes = Vec::new();
    for record in message.chunks(16_000) {
        bytes.extend([22, 3, 1]);
        bytes.extend(u16::try_from(record.len()).unwrap().to_be_bytes());
        bytes.extend(record);
    }
    bytes
}

#[tokio::test]
async fn what_is_no_client_hello_ends_counted() {
    let port = free_port();
    let (tidegate, _folder, authority, _backend) = rig(port).await;
    let (memory, _) = tidegate.memory();
    let mut expected = failures(&tidegate).await;
    for (what, bytes) in [
        ("plain HTTP", b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n".to_vec()),
        ("garbage", vec![0xa5; 4096]),
        ("a record of no handshake", vec![23, 3, 3, 0, 4, 1, 2, 3, 4]),
        ("64 KiB", long_hello(65_536)),
        ("1 MiB", long_hello(1 << 20)),
        ("an unknown server name", client_hello("unknown.test")),
        ("an empty record", vec![22, 3, 1, 0, 0]),
        ("SSLv2", vec![0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10]),
    ] {
        let mut tcp = TcpStream::connect(local(port)).await.unwrap();
        // The gateway may have closed before it has read everything.
        let _ = tcp.write_all(&bytes).await;
        let mut answer = Vec::new();
        let _ = wait::within(what, tcp.read_to_end(&mut answer)).await;
        assert!(answer.len() < 100, "{what}: {} bytes of answer", answer.len());
        expected += 1.0;
        wait::until(&format!("{what} to be counted\n{}", tidegate.metrics().await), PATIENCE, || async {
            (failures(&tidegate).await >= expected).then_some(())
        })
        .await;
    }
    // Clients that leave without a word are no failures of a handshake, nor is the gateway the worse for them.
    for _ in 0..200 {
        drop(TcpStream::connect(local(port)).await.unwrap());
    }
    let served = TlsOptions::to("a.test").trusting(&authority).get(local(port), "a.test", "/").await;
    assert_eq!(served.unwrap().status, 200);
    let (after, _) = tidegate.memory();
    assert!(after < memory + 20 * 1024, "{memory} -> {after} KiB");
}

#[tokio::test]
async fn a_client_hello_may_come_byte_by_byte() {
    let port = free_port();
    let (_tidegate, _folder, _authority, _backend) = rig(port).await;
    let mut tcp = TcpStream::connect(local(port)).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    for byte in client_hello("a.test") {
        tcp.write_all(&[byte]).await.unwrap();
    }
    let mut record = [0; 5];
    wait::within("the ServerHello", tcp.read_exact(&mut record)).await.unwrap();
    assert_eq!(record[0], 22, "a handshake record and no alert");
}

#[tokio::test]
async fn silence_and_half_a_client_hello_end_at_the_limit() {
    let port = free_port();
    let (_tidegate, _folder, _authority, _backend) = rig(port).await;
    let hello = client_hello("a.test");
    let end = async |bytes: &[u8]| {
        let begin = Instant::now();
        let mut tcp = TcpStream::connect(local(port)).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = wait::within("the end of a slow handshake", tcp.read_to_end(&mut answer)).await;
        begin.elapsed()
    };
    let (silent, half) = tokio::join!(end(b""), end(&hello[..hello.len() / 2]));
    for took in [silent, half] {
        assert!((Duration::from_secs(5)..Duration::from_secs(17)).contains(&took), "{took:?}");
    }
}
