//! What each of our own features costs a request: the same load, one thing switched on at a time.

use std::fmt::Write as _;
use std::time::Duration;

use crate::Options;
use crate::load::{Figures, Tool};
use crate::report::{Report, middle};
use tidegate_tests::machine::Noise;
use tidegate_tests::sut::{Kind, Proxy, Setup, Site};

pub(crate) async fn run(options: &Options, site: &Site, report: &mut Report) {
    let bare = || Setup { access_log: false, ..Setup::default() };
    let rules = |rule: &dyn Fn(usize) -> String, count: usize| -> String { (0..count).map(rule).collect() };
    let to = "route: [{destination: {host: one.bench.test}}]";
    let mut headers = String::from("- match:\n  - headers:\n");
    (0..20).for_each(|n| writeln!(headers, "      x-h{n}: {{exact: 'no'}}").unwrap());
    writeln!(headers, "  {to}").unwrap();
    let variants: Vec<(&str, Setup)> = vec![
        ("nothing", bare()),
        ("access log, text", Setup::default()),
        ("20 header matches that fail", Setup { rules: headers, ..bare() }),
        (
            "20 regex path matches that fail",
            Setup {
                rules: rules(&|n| format!("- match: [{{uri: {{regex: '/x{n}/[a-z]+/.*'}}}}]\n  {to}\n"), 20),
                ..bare()
            },
        ),
        ("1,000 prefix routes before the one", Setup { routes: 1_000, ..bare() }),
        (
            "5 request and 5 response headers set",
            Setup {
                rules: {
                    let list =
                        |prefix: &str| (0..5).map(|n| format!("{prefix}{n}: value")).collect::<Vec<_>>().join(", ");
                    format!(
                        "- headers: {{request: {{set: {{{}}}}}, response: {{set: {{{}}}}}}}\n  {to}\n",
                        list("x-q"),
                        list("x-s")
                    )
                },
                ..bare()
            },
        ),
        ("a timeout", Setup { rules: format!("- timeout: 10s\n  {to}\n"), ..bare() }),
    ];
    let mut proxies = Vec::new();
    for (name, setup) in &variants {
        proxies.push((*name, Proxy::start(Kind::Tidegate, site, setup).await));
    }
    let tool = Tool::Wrk { tls: false, path: "/", connections: 64 };
    let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); proxies.len()];
    // The differences are small beside the machine's moods, so there are more rounds, and each is compared with itself.
    for round in 0..=3 * options.rounds {
        for ((_, proxy), figures) in proxies.iter().zip(&mut figures) {
            let noise = Noise::begin(&proxy.pids(site));
            let seconds = if round == 0 { 1 } else { options.seconds };
            let mut measured = tool.run(proxy, Duration::from_secs(seconds)).await;
            measured.noisy = noise.end();
            if round > 0 {
                figures.push(measured);
            }
        }
    }
    let bare = figures[0].clone();
    let rows: Vec<Vec<String>> = proxies
        .iter()
        .zip(&figures)
        .map(|((name, _), figures)| {
            let (median, least, most) = middle(figures);
            let mut more: Vec<f64> = figures.iter().zip(&bare).map(|(own, bare)| own.cpu - bare.cpu).collect();
            more.sort_by(f64::total_cmp);
            vec![
                (*name).to_owned(),
                format!("{:.2}", median.cpu),
                format!("{least:.2}–{most:.2}"),
                format!("{:+.2}", more[more.len() / 2]),
                format!("{:.0}", median.rate),
                figures.iter().filter(|figures| figures.noisy).count().to_string(),
            ]
        })
        .collect();
    let columns =
        ["switched on", "CPU-s/100k", "min–max", "more than nothing, round by round", "per second", "noisy rounds"];
    report.table("features", "What our features cost (HTTP/1.1, 100 B)", &columns, &rows);
}
