//! From text to a Snapshot.

use std::cell::RefCell;

use divan::{Bencher, black_box};
use tidegate_compiler::Compiler;
use tidegate_resources::validate;

use crate::fixtures::{Configuration, Layout, objects, sizes, virtual_services};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const PORT: u16 = 8080;

/// A file of VirtualServices.
#[divan::bench(args = [1, 10, 100])]
fn parse_file(bencher: Bencher<'_, '_>, count: usize) {
    let text = virtual_services(Layout::Objects, count).remove(0);
    bencher.bench_local(|| objects(black_box(&text)));
}

/// One VirtualService with as many rules.
#[divan::bench(args = [10, 1_000])]
fn parse_rules(bencher: Bencher<'_, '_>, count: usize) {
    let text = virtual_services(Layout::Rules, count).remove(0);
    bencher.bench_local(|| objects(black_box(&text)));
}

#[divan::bench]
fn validate_virtual_service(bencher: Bencher<'_, '_>) {
    let object = objects(&virtual_services(Layout::Objects, 1).remove(0)).remove(0);
    bencher.bench_local(|| validate(black_box(&object)));
}

/// Rules of one VirtualService are compared with each other.
#[divan::bench(args = sizes(SIZES))]
fn validate_rules(bencher: Bencher<'_, '_>, count: usize) {
    let object = objects(&virtual_services(Layout::Rules, count).remove(0)).remove(0);
    bencher.bench_local(|| validate(black_box(&object)));
}

fn compile(bencher: Bencher<'_, '_>, layout: Layout, count: usize) {
    let configuration = Configuration::new(layout, count, PORT);
    bencher.bench_local(|| configuration.compile());
}

fn compile_changed(bencher: Bencher<'_, '_>, layout: Layout, count: usize) {
    let mut configuration = Configuration::new(layout, count, PORT);
    let mut compiler = Compiler::default();
    let set = configuration.change();
    configuration.compile_after(&mut compiler, &set);
    let configuration = RefCell::new(configuration);
    bencher
        .with_inputs(|| configuration.borrow_mut().change())
        .bench_local_refs(|set| configuration.borrow().compile_after(&mut compiler, set));
}

#[divan::bench(args = sizes(SIZES))]
fn compile_virtual_services(bencher: Bencher<'_, '_>, count: usize) {
    compile(bencher, Layout::Objects, count);
}

// A second is enough for what takes some tenths.
#[divan::bench(args = sizes([40_000]), sample_count = 5)]
fn compile_most_virtual_services(bencher: Bencher<'_, '_>, count: usize) {
    compile(bencher, Layout::Objects, count);
}

#[divan::bench(args = sizes(SIZES))]
fn compile_rules(bencher: Bencher<'_, '_>, count: usize) {
    compile(bencher, Layout::Rules, count);
}

#[divan::bench(args = sizes([40_000]), sample_count = 5)]
fn compile_most_rules(bencher: Bencher<'_, '_>, count: usize) {
    compile(bencher, Layout::Rules, count);
}

#[divan::bench(args = [10, 100, 1_000])]
fn compile_servers(bencher: Bencher<'_, '_>, count: usize) {
    compile(bencher, Layout::Servers, count);
}

/// One route of one VirtualService becomes another with each; the text is parsed before.
#[divan::bench(args = sizes(SIZES))]
fn compile_one_changed(bencher: Bencher<'_, '_>, count: usize) {
    compile_changed(bencher, Layout::Objects, count);
}

#[divan::bench(args = sizes([40_000]), sample_count = 5)]
fn compile_one_changed_of_most(bencher: Bencher<'_, '_>, count: usize) {
    compile_changed(bencher, Layout::Objects, count);
}
