//! `tidegate explain --config`: what it says about our own fixtures, word for word.

mod common;

use common::{Run, run};

fn explain(arguments: &[&str]) -> Run {
    run(["explain", "--config", "shop"].iter().chain(arguments))
}

#[track_caller]
fn check(arguments: &[&str], expected: &str) {
    let run = explain(arguments);
    assert_eq!(run.code, Some(0), "{run:?}");
    // The hash is of the whole configuration, and said elsewhere.
    let text: Vec<_> = run.stdout.lines().filter(|line| !line.starts_with("snapshot ")).map(str::trim_end).collect();
    assert_eq!(text.join("\n").trim(), expected.trim(), "\n{}", run.stdout);
}

#[test]
fn a_request_is_followed_to_its_endpoints() {
    let run = explain(&["http://shop.example.com/cart/7?x=1", "-H", "end-user: jason"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    eprintln!("{}", run.stdout);
    for expected in [
        "GET http://shop.example.com/cart/7?x=1",
        "end-user: jason",
        "0.0.0.0_80",
        "shop/gateway.yaml:",
        "shop.example.com:80",
        "✓ beta-cart",
        "/v2/cart",
        "timeout",
        "2s",
        "set x-beta: yes",
        "100 %  outbound|80|v2|cart.shop.svc.cluster.local",
        "10.0.0.2:8080",
        "shop/endpoints/workloads.yaml:",
    ] {
        assert!(run.stdout.contains(expected), "{expected} is missing in\n{}", run.stdout);
    }
    assert!(!run.stdout.contains('\u{1b}'));
}
