//! What the instruction gates measure: a few small, fixed amounts of work.

use std::hint::black_box;

use tidegate_compiler::Compiler;
use tidegate_micro::{Bound, Workload};
use tidegate_proxy::bench::{Balancer, HeadEditor, HelloReader, RequestCounters, RequestLog};
use tidegate_resources::validate;

use crate::fixtures::Traffic::{Hit, Miss};
use crate::fixtures::{
    Configuration, Http2, Layout, REQUEST, Selection, ServerNames, access_log_format, client_hello, endpoints,
    header_operations, objects, virtual_services,
};
use crate::request::runtime;

/// Changed configurations that are compiled.
const CHANGES: u64 = 20;

pub(crate) const WORKLOADS: &[Workload] = &[
    Workload { name: "virtual host hit, 10", operations: 10_000, prepare: || select(Selection::hosts(10, Hit)) },
    Workload {
        name: "virtual host hit, 40,000",
        operations: 10_000,
        prepare: || select(Selection::hosts(40_000, Hit)),
    },
    Workload {
        name: "virtual host miss, 40,000",
        operations: 10_000,
        prepare: || select(Selection::hosts(40_000, Miss)),
    },
    Workload { name: "route hit, 10", operations: 10_000, prepare: || select(Selection::routes(10, Hit)) },
    Workload { name: "route hit, 40,000", operations: 10_000, prepare: || select(Selection::routes(40_000, Hit)) },
    Workload { name: "route miss, 40,000", operations: 10_000, prepare: || select(Selection::routes(40_000, Miss)) },
    Workload { name: "20 regexes, miss", operations: 2_000, prepare: || select(Selection::regexes(20, Miss)) },
    Workload {
        name: "20 headers of a route, hit",
        operations: 5_000,
        prepare: || select(Selection::header_list(20, Hit)),
    },
    Workload { name: "20 routes by header, miss", operations: 5_000, prepare: || select(Selection::headers(20, Miss)) },
    Workload { name: "server name hit, 40,000", operations: 10_000, prepare: server_name },
    Workload { name: "request head: read", operations: 2_000, prepare: head_read },
    Workload { name: "request head: read, admit", operations: 2_000, prepare: head_read_admit },
    Workload { name: "request head: read, admit, 5 edits", operations: 2_000, prepare: head_read_admit_edit },
    Workload { name: "request head: read, admit, write", operations: 2_000, prepare: head_read_admit_write },
    Workload { name: "HTTP/2: read, answer", operations: 2_000, prepare: http2 },
    Workload { name: "endpoint of 1,000", operations: 10_000, prepare: balancer_pick },
    Workload { name: "ClientHello peek", operations: 1_000, prepare: client_hello_peek },
    Workload { name: "metrics record", operations: 20_000, prepare: metrics_record },
    Workload { name: "access log line, text", operations: 2_000, prepare: || access_log_line("TEXT") },
    Workload { name: "access log line, JSON", operations: 2_000, prepare: || access_log_line("JSON") },
    Workload { name: "parse 100 VirtualServices", operations: 2, prepare: parse },
    Workload { name: "validate a VirtualService", operations: 1_000, prepare: validate_one },
    Workload { name: "compile 1,000 routes", operations: 2, prepare: compile },
    Workload { name: "compile 1 changed of 1,000 routes", operations: CHANGES, prepare: compile_changed },
];

/// Selection does not grow with the size of a table.
pub(crate) const BOUNDS: &[Bound] = &[
    Bound { name: "virtual host hit, 40,000", factor: 1.10, base: "virtual host hit, 10" },
    Bound { name: "route hit, 40,000", factor: 1.10, base: "route hit, 10" },
];

fn select(mut selection: Selection) -> Box<dyn FnMut()> {
    Box::new(move || {
        black_box(selection.run());
    })
}

fn server_name() -> Box<dyn FnMut()> {
    let mut names = ServerNames::new(40_000, Hit);
    Box::new(move || {
        black_box(names.run());
    })
}

fn head_read() -> Box<dyn FnMut()> {
    let mut editor = HeadEditor::new();
    Box::new(move || assert!(editor.read(black_box(REQUEST))))
}

fn head_read_admit() -> Box<dyn FnMut()> {
    let mut editor = HeadEditor::new();
    Box::new(move || assert!(editor.read(black_box(REQUEST)) && editor.admit()))
}

fn head_read_admit_edit() -> Box<dyn FnMut()> {
    let (mut editor, operations) = (HeadEditor::new(), header_operations());
    Box::new(move || {
        assert!(editor.read(black_box(REQUEST)) && editor.admit());
        editor.edit(black_box(&operations));
    })
}

fn head_read_admit_write() -> Box<dyn FnMut()> {
    let mut editor = HeadEditor::new();
    Box::new(move || {
        assert!(editor.read(black_box(REQUEST)) && editor.admit());
        black_box(editor.write());
    })
}

fn http2() -> Box<dyn FnMut()> {
    let mut http2 = Http2::new();
    Box::new(move || assert!(http2.run()))
}

fn balancer_pick() -> Box<dyn FnMut()> {
    let runtime = runtime();
    let balancer = Balancer::new(&endpoints(1_000), runtime.handle().clone()).unwrap();
    Box::new(move || {
        let _alive = &runtime;
        assert!(balancer.pick());
    })
}

fn client_hello_peek() -> Box<dyn FnMut()> {
    let runtime = runtime();
    let mut reader = runtime.block_on(HelloReader::connect()).unwrap();
    let hello = client_hello();
    Box::new(move || {
        let _alive = &runtime;
        assert!(reader.read(black_box(&hello)).is_some());
    })
}

fn metrics_record() -> Box<dyn FnMut()> {
    let counters = RequestCounters::new(100);
    let mut number = 0;
    Box::new(move || {
        number += 1;
        counters.record(black_box(number));
    })
}

fn access_log_line(encoding: &str) -> Box<dyn FnMut()> {
    let log = RequestLog::new(&access_log_format(encoding)).unwrap();
    let mut line = String::with_capacity(1024);
    Box::new(move || {
        line.clear();
        log.render(&mut line);
        black_box(&line);
    })
}

fn parse() -> Box<dyn FnMut()> {
    let text = virtual_services(Layout::Objects, 100).remove(0);
    Box::new(move || {
        black_box(objects(black_box(&text)));
    })
}

fn validate_one() -> Box<dyn FnMut()> {
    let object = objects(&virtual_services(Layout::Objects, 1).remove(0)).remove(0);
    Box::new(move || {
        black_box(validate(black_box(&object)));
    })
}

fn compile() -> Box<dyn FnMut()> {
    let configuration = Configuration::new(Layout::Objects, 1_000, 8080);
    Box::new(move || {
        black_box(configuration.compile());
    })
}

fn compile_changed() -> Box<dyn FnMut()> {
    let mut configuration = Configuration::new(Layout::Objects, 1_000, 8080);
    let mut compiler = Compiler::default();
    let set = configuration.change();
    configuration.compile_after(&mut compiler, &set);
    // What the gate does is one more than it counts.
    let mut sets = (0..=CHANGES).map(|_| configuration.change()).collect::<Vec<_>>().into_iter();
    Box::new(move || {
        let set = sets.next().expect("as many as are asked for");
        black_box(configuration.compile_after(&mut compiler, &set));
    })
}
