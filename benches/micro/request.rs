//! What a request or a connection costs beyond its bytes and its route.

use divan::{Bencher, black_box};
use tidegate_proxy::bench::{HelloReader, RequestCounters, RequestLog};
use tokio::runtime::{Builder, Runtime};

use crate::fixtures::{access_log_format, client_hello};

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Requests to as many services take turns.
#[divan::bench(args = [1, 100, 10_000])]
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
