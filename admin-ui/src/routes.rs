//! Which paths each server has.

use crate::endpoint::{Access, Endpoint, Endpoints, Run};
use crate::{certs, config, explain, help, log, process, stats, upstream};

const READY: Endpoint = Endpoint {
    path: "/ready",
    help: "print server state, return 200 if LIVE, otherwise return 503",
    access: Access::Read,
    parameters: &[],
    run: Run::Inline(process::ready),
};

const PROBE: Endpoint = Endpoint {
    path: "/healthz/ready",
    help: "return 200 if new traffic may be sent here, otherwise 503 with the state",
    ..READY
};

const PROMETHEUS: Endpoint = Endpoint {
    path: "/stats/prometheus",
    help: "print server stats in prometheus format",
    access: Access::Read,
    parameters: &[
        ("usedonly", "only include stats that are not zero"),
        ("filter", "regular expression for filtering stats by name"),
    ],
    run: Run::Blocking(stats::prometheus),
};

/// The port that Prometheus scrapes.
pub(crate) const STATS: Endpoints = &[PROMETHEUS, Endpoint { path: "/metrics", ..PROMETHEUS }, PROBE];

/// The port that load balancers and kubelets probe.
pub(crate) const HEALTH: Endpoints = &[PROBE];

const fn read(path: &'static str, help: &'static str, run: Run) -> Endpoint {
    Endpoint { path, help, access: Access::Read, parameters: &[], run }
}

const fn mutate(path: &'static str, help: &'static str, run: Run) -> Endpoint {
    Endpoint { path, help, access: Access::Mutate, parameters: &[], run }
}

const FORMAT: (&str, &str) = ("format", "file format to use; one of (text, json)");

/// The operator's port.
pub(crate) const ADMIN: Endpoints = &[
    read("/", "Admin home page", Run::Blocking(help::home)),
    read("/help", "print out list of admin commands", Run::Inline(help::help)),
    READY,
    read("/server_info", "print server version/status information", Run::Blocking(process::server_info)),
    read("/memory", "print memory of the process", Run::Blocking(process::memory)),
    read("/certs", "print certs on machine", Run::Blocking(certs::certs)),
    Endpoint {
        parameters: &[("name", "only the secret of this name; may be repeated")],
        ..read(
            "/secrets",
            "print secrets: where they come from, whom they serve, what is wrong, as JSON",
            Run::Blocking(certs::secrets),
        )
    },
    read(
        "/secrets/sources",
        "print how ACME authorities and SDS servers and clients stand, as JSON",
        Run::Blocking(certs::sources),
    ),
    read(
        "/hot_restart_version",
        "print the hot restart compatibility version",
        Run::Inline(process::hot_restart_version),
    ),
    Endpoint {
        parameters: &[
            ("resource", "the field to dump alone, as in dynamic_active_clusters"),
            (
                "mask",
                "field paths to keep, joined by commas; with resource they apply to each of its elements, as in \
                 cluster.name",
            ),
            ("name_regex", "dump only what has a name that the whole of this regular expression matches"),
            ("include_eds", "dump endpoints too"),
        ],
        ..read("/config_dump", "dump the configuration that serves", Run::Blocking(config::config_dump))
    },
    read(
        "/config/status",
        "print where the configuration comes from and what was found in it, as JSON",
        Run::Blocking(config::status),
    ),
    read("/snapshot/hash", "print the hash of the configuration that serves", Run::Blocking(config::hash)),
    Endpoint {
        parameters: &[
            ("url", "what the client asks for: http://host[:port]/path?query"),
            ("method", "GET by default"),
            ("header", "`name: value`, may be repeated"),
            ("port", "the port that the Gateway names; by default the URL's"),
        ],
        ..read("/explain", "print which route a request takes and why, as JSON", Run::Blocking(explain::explain))
    },
    Endpoint {
        parameters: &[FORMAT],
        ..read("/clusters", "upstream cluster status", Run::Blocking(upstream::clusters))
    },
    Endpoint { parameters: &[FORMAT], ..read("/listeners", "print listener info", Run::Blocking(upstream::listeners)) },
    Endpoint {
        parameters: &[
            ("usedonly", "only include stats that are not zero"),
            ("filter", "regular expression for filtering stats by name"),
            ("format", "one of (text, json, prometheus)"),
        ],
        ..read("/stats", "print server stats", Run::Blocking(stats::stats))
    },
    PROMETHEUS,
    Endpoint {
        access: Access::MutateShown,
        parameters: &[
            ("level", "level for all loggers; one of (trace, debug, info, warning, error, critical, off)"),
            ("paths", "several levels, as in http:debug,router:info"),
            ("<logger>", "level for one logger"),
        ],
        ..mutate("/logging", "query/change logging levels", Run::Blocking(log::logging))
    },
    mutate("/reopen_logs", "reopen access logs", Run::Blocking(log::reopen)),
    mutate("/healthcheck/fail", "cause the server to fail health checks", Run::Inline(process::healthcheck_fail)),
    mutate("/healthcheck/ok", "cause the server to pass health checks", Run::Inline(process::healthcheck_ok)),
    Endpoint {
        parameters: &[
            ("graceful", "keep accepting for the drain period before closing listeners"),
            ("skip_exit", "do not close the listeners after the drain period; needs graceful"),
            ("inboundonly", "drain inbound listeners only: a gateway has none"),
        ],
        ..mutate("/drain_listeners", "drain listeners", Run::Blocking(process::drain_listeners))
    },
    mutate("/quitquitquit", "exit the server", Run::Blocking(process::quit)),
];
