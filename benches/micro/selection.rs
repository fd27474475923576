//! Virtual host and route of a request.

use divan::{Bencher, black_box};

use crate::fixtures::Traffic::{Hit, Miss};
use crate::fixtures::{Selection, ServerNames, sizes};

const SIZES: [usize; 5] = [10, 100, 1_000, 10_000, 40_000];
const FEW: [usize; 3] = [1, 20, 200];

fn measure(bencher: Bencher<'_, '_>, mut selection: Selection) {
    bencher.bench_local(|| black_box(selection.run()));
}

#[divan::bench(args = sizes(SIZES))]
fn virtual_hosts_hit(bencher: Bencher<'_, '_>, count: usize) {
    measure(bencher, Selection::hosts(count, Hit));
}

#[divan::bench(args = sizes(SIZES))]
fn virtual_hosts_miss(bencher: Bencher<'_, '_>, count: usize) {
    measure(bencher, Selection::hosts(count, Miss));
}

#[divan::bench(args = sizes(SIZES))]
fn wildcards_hit(bencher: Bencher<'_, '_>, count: usize) {
    measure(bencher, Selection::wildcards(count, Hit));
}

#[divan::bench(args = sizes(SIZES))]
fn wildcards_miss(bencher: Bencher<'_, '_>, count: usize) {
    measure(bencher, Selection::wildcards(count, Miss));
}

#[divan::bench(args = sizes(SIZES))]
fn routes_hit(bencher: Bencher<'_, '_>, count: usize) {
    measure(bencher, Selection::routes(count, Hit));
}

#[divan::bench(args = sizes(SIZES))]
fn routes_miss(bencher: Bencher<'_, '_>, count: usize) {
    measure(bencher, Selection::routes(count, Miss));
}

/// Prefixes of as many different lengths, half of which fit on average.
#[divan::bench(args = sizes(FEW))]
fn prefix_lengths_hit(bencher: Bencher<'_, '_>, count: usize) {
    measure(bencher, Selection::prefix_lengths(count, Hit));
}

#[divan::bench(args = sizes(FEW))]
fn prefix_lengths_miss(bencher: Bencher<'_, '_>, count: usize) {
    measure(bencher, Selection::prefix_lengths(count, Miss));
}

#[divan::bench(args = sizes([1, 20, 200, 2_000]))]
fn regexes_hit(bencher: Bencher<'_, '_>, count: usize) {
    measure(bencher, Selection::regexes(count, Hit));
}

#[divan::bench(args = sizes([1, 20, 200, 2_000]))]
fn regexes_miss(bencher: Bencher<'_, '_>, count: usize) {
    measure(bencher, Selection::regexes(count, Miss));
}

/// As many routes for one path that differ by a header; the last one fits.
#[divan::bench(args = sizes([1, 20, 200, 2_000]))]
fn header_routes_hit(bencher: Bencher<'_, '_>, count: usize) {
    measure(bencher, Selection::headers(count, Hit));
}

#[divan::bench(args = sizes([1, 20, 200, 2_000]))]
fn header_routes_miss(bencher: Bencher<'_, '_>, count: usize) {
    measure(bencher, Selection::headers(count, Miss));
}

/// One route that asks for as many headers.
#[divan::bench(args = sizes([1, 5, 20]))]
fn header_list_hit(bencher: Bencher<'_, '_>, count: usize) {
    measure(bencher, Selection::header_list(count, Hit));
}

#[divan::bench(args = sizes([1, 5, 20]))]
fn header_list_miss(bencher: Bencher<'_, '_>, count: usize) {
    measure(bencher, Selection::header_list(count, Miss));
}

/// Filter chain of a connection, of as many.
#[divan::bench(args = sizes(SIZES))]
fn server_names_hit(bencher: Bencher<'_, '_>, count: usize) {
    let mut names = ServerNames::new(count, Hit);
    bencher.bench_local(|| black_box(names.run()));
}

#[divan::bench(args = sizes(SIZES))]
fn server_names_miss(bencher: Bencher<'_, '_>, count: usize) {
    let mut names = ServerNames::new(count, Miss);
    bencher.bench_local(|| black_box(names.run()));
}
