//! What a request or a connection costs beyond its bytes and its route.

use divan::{Bencher, black_box};
use tidegate_proxy::bench::{Balancer, HeadEditor, HelloReader, RequestCounters, RequestLog};
use tokio::runtime::{Builder, Runtime};

use crate::fixtures::{Http2, REQUEST, access_log_format, client_hello, endpoints, header_operations, sizes};

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A request head is taken apart and judged. The benches after it do that, too, since a head can be edited once.
#[divan::bench]
fn head_read(bencher: Bencher<'_, '_>) {
    let mut editor = HeadEditor::new();
    assert!(editor.read(REQUEST));
    bencher.bench_local(|| editor.read(black_box(REQUEST)));
}

/// ... and made canonical, as an edge does to every head.
#[divan::bench]
fn head_read_admit(bencher: Bencher<'_, '_>) {
    let mut editor = HeadEditor::new();
    assert!(editor.read(REQUEST) && editor.admit());
    bencher.bench_local(|| editor.read(black_box(REQUEST)) && editor.admit());
}

/// ... and written for a backend.
#[divan::bench]
fn head_read_admit_write(bencher: Bencher<'_, '_>) {
    let mut editor = HeadEditor::new();
    bencher.bench_local(|| editor.read(black_box(REQUEST)) && editor.admit() && editor.write().len() > REQUEST.len());
}

/// As `head_read_admit`, and then changed by the five operations of a route.
#[divan::bench]
fn head_read_admit_edit(bencher: Bencher<'_, '_>) {
    let (mut editor, operations) = (HeadEditor::new(), header_operations());
    bencher.bench_local(|| {
        let admitted = editor.read(black_box(REQUEST)) && editor.admit();
        editor.edit(&operations);
        admitted
    });
}

/// A request of HTTP/2 is read and answered, frames, HPACK and flow control; 100 bytes of body.
#[divan::bench]
fn http2_read_answer(bencher: Bencher<'_, '_>) {
    let mut http2 = Http2::new();
    assert!(http2.run());
    bencher.bench_local(|| http2.run());
}

/// An endpoint is chosen of as many, by the default policy.
#[divan::bench(args = [1, 10, 1_000])]
fn balancer_pick(bencher: Bencher<'_, '_>, count: usize) {
    let runtime = runtime();
    let balancer = Balancer::new(&endpoints(count), runtime.handle().clone()).unwrap();
    assert!(balancer.pick());
    bencher.bench_local(|| balancer.pick());
}

/// Requests to as many services take turns.
#[divan::bench(args = sizes([1, 100, 10_000]))]
fn metrics_record(bencher: Bencher<'_, '_>, destinations: usize) {
    let counters = RequestCounters::new(destinations);
    let mut number = 0usize;
    bencher.bench_local(|| {
        number = number.wrapping_add(7_919);
        counters.record(black_box(number));
    });
}

/// Istio's default formats.
#[divan::bench(args = ["TEXT", "JSON"])]
fn access_log_line(bencher: Bencher<'_, '_>, encoding: &str) {
    let log = RequestLog::new(&access_log_format(encoding)).unwrap();
    let mut line = String::with_capacity(1024);
    bencher.bench_local(|| {
        line.clear();
        log.render(&mut line);
        black_box(line.len())
    });
}

/// As `access_log_line`, with the memory for it and the way to the writer, who may not lag behind: that would be cheaper.
#[divan::bench(sample_size = 1_000)]
fn access_log(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let log = RequestLog::new(&access_log_format("TEXT")).unwrap();
    bencher.with_inputs(|| assert!(runtime.block_on(log.flush()))).bench_local_values(|()| log.log());
}

#[divan::bench]
fn client_hello_peek(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let mut reader = runtime.block_on(HelloReader::connect()).unwrap();
    let hello = client_hello();
    assert_eq!(reader.read(&hello).as_deref(), Some("h00001.bench.test"));
    bencher.bench_local(|| reader.read(black_box(&hello)));
}
