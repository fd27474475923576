//! The product page. Plain HTML: no script, nothing from elsewhere.

use std::fmt::Write;

use serde_json::Value;

use super::caller::Call;

pub(crate) const CSS: &str = include_str!("assets/page.css");
pub(crate) const ICON: &str = include_str!("assets/icon.svg");
const TEMPLATE: &str = include_str!("assets/page.html");

/// What the page shows.
#[derive(Debug)]
pub(crate) struct PageFacts<'a> {
    pub(crate) user: Option<&'a str>,
    /// The page loads itself again every other second.
    pub(crate) refresh: bool,
    pub(crate) details: &'a Call,
    pub(crate) reviews: &'a Call,
    /// Versions that answered the last calls for reviews, latest last.
    pub(crate) answered: &'a [String],
    pub(crate) folder: &'a str,
    pub(crate) url: &'a str,
    /// What `tidegate explain` needs to find this gateway, after a space; empty if it finds it anyway.
    pub(crate) explain_options: &'a str,
}

/// `v1`, `v2`, `v3`, or `failed`.
pub(crate) fn version_of(reviews: &Call) -> &str {
    match reviews.body["version"].as_str() {
        Some(version @ ("v1" | "v2" | "v3")) if reviews.status == Some(200) => version,
        _ => "failed",
    }
}

pub(crate) fn render(facts: &PageFacts<'_>) -> String {
    fill(TEMPLATE, |name| match name {
        "refresh" if facts.refresh => "<meta http-equiv=\"refresh\" content=\"2\">\n".to_owned(),
        "nav" => nav(facts),
        "details_chip" => chip(facts.details, ""),
        "details" => details(facts.details),
        "reviews_chip" => chip(facts.reviews, version_of(facts.reviews)),
        "reviews" => reviews(facts.reviews),
        "mix" => mix(facts.answered),
        "calls" => calls(&[facts.details, facts.reviews]),
        "folder" => escape(facts.folder),
        "url" => escape(facts.url),
        "explain_options" => escape(facts.explain_options),
        _ => String::new(),
    })
}

/// Puts values where `{{name}}` stands. Values are not looked at again.
fn fill(template: &str, mut value: impl FnMut(&str) -> String) -> String {
    let mut out = String::with_capacity(template.len() + 4096);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((name, after)) = after.split_once("}}") else { break };
        out.push_str(&value(name));
        rest = after;
    }
    out.push_str(rest);
    out
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

fn nav(facts: &PageFacts<'_>) -> String {
    let refresh = if facts.refresh {
        "<a href=\"/productpage\">Stop refreshing</a>"
    } else {
        "<a href=\"/productpage?refresh=on\">Refresh every 2 s</a>"
    };
    match facts.user {
        Some(user) => format!(
            "{refresh}<span class=\"who\">signed in as <b>{}</b></span><a href=\"/productpage?user=\">Sign out</a>",
            escape(user)
        ),
        None => format!("{refresh}<a href=\"/productpage?user=jason\">Sign in as jason</a>"),
    }
}

fn chip(call: &Call, class: &str) -> String {
    match (call.status, call.served_by.as_str()) {
        (Some(200), served_by) if !served_by.is_empty() => {
            format!("<span class=\"chip {class}\">{}</span>", escape(served_by))
        }
        (Some(status), _) => format!("<span class=\"chip bad\">{status}</span>"),
        (None, _) => "<span class=\"chip bad\">no answer</span>".to_owned(),
    }
}

/// Why a part of the page is missing, in the words that help to find the cause.
fn failure(call: &Call) -> String {
    let what = match (call.status, &call.error) {
        (_, Some(error)) => error.clone(),
        (Some(200), None) => "The answer was not what this page expects: is the route right?".to_owned(),
        (Some(404), None) if call.served_by.is_empty() => {
            "404 from the gateway: no route of the VirtualService fits this path.".to_owned()
        }
        (Some(503), None) if call.served_by.is_empty() => {
            "503 from the gateway: the route leads to a service or subset without endpoints.".to_owned()
        }
        (Some(504), None) if call.served_by.is_empty() => {
            "504 from the gateway: the route's timeout passed.".to_owned()
        }
        (Some(status), None) if call.served_by.is_empty() => format!("{status} from the gateway."),
        (Some(status), None) => format!("{status} from {}.", call.served_by),
        (None, None) => "There was no answer.".to_owned(),
    };
    format!(
        "<div class=\"error\"><b>GET {} failed</b>{} <code>tidegate explain</code> tells more.</div>",
        escape(&call.path),
        escape(&what)
    )
}

fn details(call: &Call) -> String {
    const ROWS: [(&str, &str); 6] = [
        ("Author", "author"),
        ("First published", "year"),
        ("Publisher", "publisher"),
        ("Pages", "pages"),
        ("Engravings", "illustrations"),
        ("Language", "language"),
    ];
    if call.status != Some(200) || call.body["author"].is_null() {
        return failure(call);
    }
    let mut out = String::from("<dl>");
    for (label, name) in ROWS {
        let value = match &call.body[name] {
            Value::String(text) => escape(text),
            Value::Number(number) => number.to_string(),
            _ => continue,
        };
        // Writing into a String does not fail.
        let _ = write!(out, "<dt>{label}</dt><dd>{value}</dd>");
    }
    out.push_str("</dl>");
    out
}

fn reviews(call: &Call) -> String {
    let reviews = match call.body["reviews"].as_array() {
        Some(reviews) if call.status == Some(200) => reviews,
        _ => return failure(call),
    };
    let mut out = String::new();
    for review in reviews {
        let text = escape(review["text"].as_str().unwrap_or_default());
        let reviewer = escape(review["reviewer"].as_str().unwrap_or_default());
        let _ = write!(
            out,
            "<blockquote><p>{text}</p><footer>{}<span>{reviewer}</span></footer></blockquote>",
            stars(review)
        );
    }
    out
}

fn stars(review: &Value) -> String {
    let rating = &review["rating"];
    if let Some(error) = rating["error"].as_str() {
        return format!("<span class=\"none\">{}</span>", escape(error));
    }
    let Some(stars) = rating["stars"].as_u64() else {
        return "<span class=\"none\">no stars in this version</span>".to_owned();
    };
    let stars = usize::try_from(stars.min(5)).unwrap_or(5);
    let color = if rating["color"] == "red" { "red" } else { "black" };
    format!(
        "<span class=\"stars {color}\" role=\"img\" aria-label=\"{stars} of 5 {color} stars\">{}<i>{}</i></span>",
        "★".repeat(stars),
        "★".repeat(5 - stars)
    )
}

/// How the last calls for reviews were split, as a bar and as dots.
fn mix(answered: &[String]) -> String {
    let mut bar = String::new();
    for version in ["v1", "v2", "v3", "failed"] {
        let count = answered.iter().filter(|answer| *answer == version).count();
        if count > 0 {
            let percent = (count * 100 + answered.len() / 2) / answered.len();
            let label = if percent >= 20 { format!("{version} {percent}%") } else { String::new() };
            let _ = write!(
                bar,
                "<span class=\"{version}\" style=\"flex:{count}\" title=\"{version}: {count} of {}\">{label}</span>",
                answered.len()
            );
        }
    }
    let mut dots = String::new();
    for version in answered {
        let _ = write!(dots, "<i class=\"{version}\" title=\"{version}\"></i>");
    }
    let views = if answered.len() == 1 { "view".to_owned() } else { format!("{} views", answered.len()) };
    format!(
        "<div class=\"mix\">{bar}</div><div class=\"dots\" aria-hidden=\"true\">{dots}</div>\
         <p class=\"legend\">Who answered the last {views} of this page: v1 grey, v2 black, v3 red.</p>"
    )
}

fn calls(calls: &[&Call]) -> String {
    let mut out = String::new();
    for call in calls {
        let (class, status) = match call.status {
            Some(status @ 200..=399) => ("ok", status.to_string()),
            Some(status) => ("bad", status.to_string()),
            None => ("bad", "no answer".to_owned()),
        };
        let to = match call.served_by.as_str() {
            "" => "answered by the gateway".to_owned(),
            served_by => format!("gateway → {}", escape(served_by)),
        };
        let _ = write!(
            out,
            "<li><code>GET {}</code><span class=\"{class}\">{status}</span><span class=\"to\">{to}</span>\
             <span class=\"ms\">{:.1} ms</span></li>",
            escape(&call.path),
            call.took.as_secs_f64() * 1000.0
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn call(status: Option<u16>, body: Value) -> Call {
        Call {
            path: "/reviews/0".into(),
            status,
            body,
            error: None,
            served_by: "reviews-v2".into(),
            took: Duration::from_millis(3),
        }
    }

    fn page(reviews: &Call, user: Option<&str>) -> String {
        let details = call(Some(200), json!({"author": "Jules Verne", "pages": 616}));
        render(&PageFacts {
            user,
            refresh: false,
            details: &details,
            reviews,
            answered: &["v1".into(), "v2".into()],
            folder: "./demo",
            url: "http://localhost:8080",
            explain_options: " --admin 127.0.0.1:4711",
        })
    }

    #[test]
    fn stars_have_the_colour_of_the_version() {
        let review =
            |rating: Value| json!({"version": "v2", "reviews": [{"reviewer": "a", "text": "b", "rating": rating}]});
        let black = page(&call(Some(200), review(json!({"stars": 5, "color": "black"}))), Some("jason"));
        assert!(black.contains("5 of 5 black stars"));
        assert!(black.contains("signed in as <b>jason</b>"));
        let red = page(&call(Some(200), review(json!({"stars": 4, "color": "red"}))), None);
        assert!(red.contains("4 of 5 red stars"));
        let none = page(&call(Some(200), review(Value::Null)), None);
        assert!(none.contains("no stars in this version"));
    }

    #[test]
    fn nothing_is_left_of_the_template_and_values_are_escaped() {
        let body = json!({"version": "v1", "reviews": [{"reviewer": "<b>", "text": "{{folder}} & \"x\""}]});
        let page = page(&call(Some(200), body), None);
        assert!(page.contains("&lt;b&gt;"));
        assert!(page.contains("{{folder}} &amp; &quot;x&quot;"));
        assert_eq!(page.matches("{{").count(), 1);
    }

    #[test]
    fn failures_say_who_refused() {
        let mut refused = call(Some(503), Value::Null);
        refused.served_by.clear();
        assert!(page(&refused, None).contains("503 from the gateway"));
        assert!(page(&call(None, Value::Null), None).contains("no answer"));
        assert_eq!(version_of(&refused), "failed");
    }
}
