//! The `h2` crate as a client, over a pipe in memory.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate_http2::{Connection, Event, Field, Settings, StreamId, Then};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// What was asked of the server, and what is still to be sent.
struct Exchange {
    head: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
    is_complete: bool,
    sent: usize,
    is_answered: bool,
}

/// Answers each request with its path, its fields, its body and its trailers.
async fn serve(mut pipe: DuplexStream, settings: Settings, read_size: usize) {
    let mut connection = Connection::new(settings);
    let mut exchanges: BTreeMap<StreamId, Exchange> = BTreeMap::new();
    let mut buffer = vec![0; read_size];
    loop {
        answer(&mut connection, &mut exchanges);
        while !connection.output().is_empty() {
            let Ok(count) = pipe.write(connection.output()).await else { return };
            connection.advance_output(count);
            answer(&mut connection, &mut exchanges);
        }
        let length = pipe.read(&mut buffer).await.unwrap_or(0);
        if length == 0 {
            return;
        }
        let mut input = &buffer[..length];
        loop {
            let received = connection.receive(input).unwrap();
            input = &input[received.consumed..];
            let Some(event) = received.event else { break };
            match event {
                Event::Request { stream, head, end_stream } => {
                    let mut fields = vec![(b"x-path".to_vec(), head.path().unwrap().to_vec())];
                    fields.extend(head.fields().iter().map(|field| (field.name.to_vec(), field.value.to_vec())));
                    let exchange = Exchange {
                        head: fields,
                        body: vec![],
                        trailers: vec![],
                        is_complete: end_stream,
                        sent: 0,
                        is_answered: false,
                    };
                    exchanges.insert(stream, exchange);
                }
                Event::Data { stream, bytes, end_stream } => {
                    let length = bytes.len();
                    let exchange = exchanges.get_mut(&stream).unwrap();
                    exchange.body.extend(bytes);
                    exchange.is_complete = end_stream;
                    connection.release(stream, length);
                }
                Event::Trailers { stream, fields } => {
                    let exchange = exchanges.get_mut(&stream).unwrap();
                    exchange.trailers =
                        fields.iter().map(|field| (field.name.to_vec(), field.value.to_vec())).collect();
                    exchange.is_complete = true;
                }
                Event::Reset { stream, .. } => {
                    exchanges.remove(&stream);
                }
                Event::Writable { .. } | Event::GoAway { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn answer(connection: &mut Connection, exchanges: &mut BTreeMap<StreamId, Exchange>) {
    exchanges.retain(|stream, exchange| {
        if !exchange.is_complete {
            return true;
        }
        if !exchange.is_answered {
            let fields = exchange.head.iter().map(|(name, value)| Field::new(name, value));
            assert_eq!(connection.send_headers(*stream, 200, fields, Then::More), Ok(0));
            exchange.is_answered = true;
        }
        let then = if exchange.trailers.is_empty() { Then::End } else { Then::More };
        let rest = &exchange.body[exchange.sent..];
        let count = connection.send_data(*stream, rest, then).unwrap();
        exchange.sent += count;
        if count < rest.len() {
            return true;
        }
        if then == Then::More {
            let fields = exchange.trailers.iter().map(|(name, value)| Field::new(name, value));
            assert_eq!(connection.send_trailers(*stream, fields), Ok(0));
        }
        false
    });
}

struct Asked {
    request: http::Request<()>,
    body: Vec<u8>,
    trailers: Option<http::HeaderMap>,
}

fn random_request(random: &mut fastrand::Rng) -> Asked {
    let mut request = http::Request::builder().method(if random.bool() { "GET" } else { "POST" }).uri(format!(
        "http://example.com:{}/{}",
        random.u16(..),
        "p".repeat(random.usize(..80))
    ));
    for number in 0..random.usize(..12) {
        let value = match random.u8(..4) {
            0 => "same".to_owned(),
            1 => "v".repeat(random.usize(..2000)),
            _ => (0..random.usize(1..40)).map(|_| random.char('!'..='~')).collect(),
        };
        let name = match random.u8(..4) {
            0 => "user-agent".to_owned(),
            1 => "x-request-id".to_owned(),
            2 => format!("x-{number}"),
            _ => format!("{}x", "n".repeat(random.usize(..60))),
        };
        request = request.header(name, value);
    }
    let body = if random.bool() { vec![] } else { (0..random.usize(..200_000)).map(|at| at as u8).collect() };
    let trailers = random.bool().then(|| {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        trailers.insert("x-trailer", "t".repeat(random.usize(..100)).parse().unwrap());
        trailers
    });
    Asked { request: request.body(()).unwrap(), body, trailers }
}

async fn ask(mut client: h2::client::SendRequest<Bytes>, asked: Asked) {
    let Asked { request, body, trailers } = asked;
    let (path, fields) = (request.uri().path().to_owned(), request.headers().clone());
    let has_body = !body.is_empty() || trailers.is_some();
    let (response, mut send) = client.send_request(request, !has_body).unwrap();
    if has_body {
        let mut rest = Bytes::from(body.clone());
        while !rest.is_empty() {
            send.reserve_capacity(rest.len());
            let count = std::future::poll_fn(|context| send.poll_capacity(context)).await.unwrap().unwrap();
            let piece = rest.split_to(count);
            send.send_data(piece, rest.is_empty() && trailers.is_none()).unwrap();
        }
        if let Some(trailers) = trailers.clone() {
            send.send_trailers(trailers).unwrap();
        }
    }
    let response = response.await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["x-path"].as_bytes()), (200, path.as_bytes()));
    for name in fields.keys() {
        let values = |map: &http::HeaderMap| map.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(values(response.headers()), values(&fields), "{name}");
    }
    assert_eq!(response.headers().keys_len(), fields.keys_len() + 1);
    let mut stream = response.into_body();
    let mut echoed = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece.unwrap();
        stream.flow_control().release_capacity(piece.len()).unwrap();
        echoed.extend_from_slice(&piece);
    }
    assert!(echoed == body);
    assert_eq!(stream.trailers().await.unwrap(), trailers);
}

/// Many random exchanges, in groups that are under way together.
fn exchange(settings: Settings, builder: &h2::client::Builder, read_size: usize, seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (ours, theirs) = tokio::io::duplex(10_000);
        let server = tokio::spawn(serve(ours, settings, read_size));
        let (client, connection) = builder.handshake::<_, Bytes>(theirs).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..8 {
            let mut under_way = Vec::new();
            for _ in 0..random.usize(1..16) {
                let client = client.clone().ready().await.unwrap();
                under_way.push(tokio::spawn(ask(client, random_request(&mut random))));
            }
            for one in under_way {
                one.await.unwrap();
            }
        }
        drop(client);
        connection.await.unwrap().unwrap();
        server.await.unwrap();
    });
}

#[test]
fn what_a_client_says_comes_back_to_it() {
    for seed in 0..4 {
        exchange(Settings::default(), &h2::client::Builder::new(), 16 * 1024, seed);
    }
}

#[test]
fn small_windows_small_tables_and_small_reads_change_nothing() {
    let settings = Settings { initial_stream_window: 700, header_table_size: 300, ..Settings::default() };
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1000).initial_connection_window_size(70_000).header_table_size(200);
    exchange(settings, &builder, 13, 10);
    let settings = Settings { header_table_size: 0, max_frame_size: 100_000, ..Settings::default() };
    builder.header_table_size(0).initial_window_size(1 << 20).max_frame_size(50_000);
    exchange(settings, &builder, 100_000, 11);
}
