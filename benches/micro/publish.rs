//! A Snapshot becomes what serves.

use std::net::TcpListener;
use std::sync::Arc;

use divan::Bencher;
use tidegate_core::Lifecycle;
use tidegate_proxy::{Gateway, GatewayOptions, PortOffset};
use tidegate_snapshot::Snapshot;
use tokio::runtime::{Builder, Runtime};

use crate::fixtures::{Configuration, Layout, sizes};

/// A gateway that serves one of two Snapshots.
struct Publisher {
    runtime: Runtime,
    gateway: Gateway,
    snapshots: [Arc<Snapshot>; 2],
    next: usize,
}

impl Publisher {
    fn new(layout: Layout, count: usize) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap().port();
        let snapshots = Configuration::new(layout, count, port).snapshots();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let options = GatewayOptions { workers: 1, port_offset: PortOffset::Fixed(0), ..GatewayOptions::default() };
        let gateway = runtime.block_on(async { Gateway::start(options, Lifecycle::default()) }).unwrap();
        let mut publisher = Self { runtime, gateway, snapshots, next: 0 };
        publisher.publish();
        publisher.publish();
        publisher
    }

    /// Serves the other Snapshot, which has one route that differs, and lets go of what served.
    fn publish(&mut self) {
        self.next = 1 - self.next;
        let findings = self.runtime.block_on(self.gateway.publish(self.snapshots[self.next].clone()));
        assert!(findings.is_empty(), "{findings:?}");
    }
}

fn publish(bencher: Bencher<'_, '_>, layout: Layout, count: usize) {
    let mut publisher = Publisher::new(layout, count);
    bencher.bench_local(|| publisher.publish());
}

#[divan::bench(args = sizes([10, 1_000, 10_000, 40_000]))]
fn virtual_services(bencher: Bencher<'_, '_>, count: usize) {
    publish(bencher, Layout::Objects, count);
}

#[divan::bench(args = [10, 1_000])]
fn servers(bencher: Bencher<'_, '_>, count: usize) {
    publish(bencher, Layout::Servers, count);
}
