//! The index: `/` for browsers, `/help` for terminals.

use std::fmt::Write;

use http::StatusCode;

use crate::endpoint::{Access, Admin, Endpoint, HTML, Parameters, Reply};
use crate::routes::ADMIN;

/// `/help`, and the end of Envoy's answer to an unknown path.
pub(crate) fn text(endpoints: &[Endpoint]) -> String {
    let mut sorted: Vec<_> = endpoints.iter().collect();
    sorted.sort_by_key(|endpoint| endpoint.path);
    let mut out = String::from("admin commands are:\n");
    for endpoint in sorted {
        let method = if endpoint.access == Access::Read { "" } else { " (POST)" };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {}{method}: {}", endpoint.path, endpoint.help);
        for (name, help) in endpoint.parameters {
            let _ = writeln!(out, "      {name}: {help}");
        }
    }
    out
}

pub(crate) fn help(_: &Admin, _: &Parameters) -> Reply {
    Reply::text(StatusCode::OK, text(ADMIN))
}

/// `/`: links to what can be read, buttons for what changes something.
pub(crate) fn home(admin: &Admin, _: &Parameters) -> Reply {
    let node = admin.backend.node();
    let mut sorted: Vec<_> = ADMIN.iter().filter(|endpoint| endpoint.path != "/").collect();
    sorted.sort_by_key(|endpoint| endpoint.path);
    let mut rows = String::new();
    for Endpoint { path, help, access, .. } in sorted {
        let help = escape(help);
        let command = match access {
            Access::Read => format!("<a href=\"{path}\">{path}</a>"),
            _ => format!("<form method=\"post\" action=\"{path}\"><button>{path}</button></form>"),
        };
        let _ = writeln!(rows, "<tr><td>{command}</td><td>{help}</td></tr>");
    }
    let page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Tidegate admin</title>\n<style>\n\
         :root{{color-scheme:light dark}}body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}}\n\
         table{{border-collapse:collapse;width:100%}}td{{padding:.3rem .6rem;border-bottom:1px solid #8884;vertical-align:top}}\n\
         td:first-child{{white-space:nowrap;font-family:ui-monospace,monospace}}form{{margin:0}}button{{font:inherit}}\n\
         </style></head><body>\n<h1>Tidegate</h1>\n\
         <p>{name} {version} · {state} · configuration <code>{hash}</code></p>\n\
         <table>\n{rows}</table>\n</body></html>\n",
        name = escape(&node.id),
        version = escape(&node.version),
        state = crate::process::state(&admin.lifecycle),
        hash = admin.backend.snapshot().hash(),
    );
    Reply::new(StatusCode::OK, HTML, page)
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escape("<a href='x'>&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;");
    }

    #[test]
    fn help_lists_paths_in_order_with_their_methods() {
        let text = text(ADMIN);
        let path = |line: &str| line.strip_prefix("  /").map(|rest| rest.split([' ', ':']).next().unwrap().to_owned());
        let paths: Vec<_> = text.lines().filter_map(path).collect();
        assert!(paths.is_sorted(), "{text}");
        assert!(text.starts_with("admin commands are:\n  /: Admin home page\n"), "{text}");
        assert!(text.contains("  /quitquitquit (POST): exit the server\n"), "{text}");
    }
}
