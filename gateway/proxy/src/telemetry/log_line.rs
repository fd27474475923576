//! One request as one line of a log.
//!
//! Nothing that a client or a backend sends reaches a log as it is: in text its control characters, quotes and
//! backslashes become `\xHH`, in JSON they are escaped as JSON wants it.

use tidegate_snapshot::{AccessLogFormat, Facts, Operator, Part, Template};

/// A format with everything done that does not depend on the request.
#[derive(Debug)]
pub(super) enum LineFormat {
    Text(Template),
    /// `"key":` with the template of its value, in order.
    Json(Vec<(String, Template)>),
}

impl LineFormat {
    pub(super) fn new(format: &AccessLogFormat) -> Self {
        match format {
            AccessLogFormat::Text(template) => Self::Text(template.clone()),
            AccessLogFormat::Json(fields) => Self::Json(
                fields
                    .iter()
                    .map(|(key, template)| {
                        let mut prefix = format!("\"{key}");
                        escape_json(&mut prefix, 1);
                        prefix.push_str("\":");
                        (prefix, template.clone())
                    })
                    .collect(),
            ),
        }
    }

    /// Appends the line of one request with its newline.
    pub(super) fn render(&self, facts: &impl Facts, out: &mut String) {
        match self {
            Self::Text(template) => template.render(&Escaped { facts, escape: escape_text }, "-", out),
            Self::Json(fields) => {
                let facts = Escaped { facts, escape: escape_json };
                out.push('{');
                for (number, (prefix, template)) in fields.iter().enumerate() {
                    if number > 0 {
                        out.push(',');
                    }
                    out.push_str(prefix);
                    json_value(template, &facts, out);
                }
                out.push('}');
            }
        }
        if !out.ends_with('\n') {
            out.push('\n');
        }
    }
}

/// A value of a JSON line: typed if it is one operator, a string else.
fn json_value(template: &Template, facts: &impl Facts, out: &mut String) {
    let start = out.len();
    if let [Part::Operator(operator)] = template.parts() {
        if operator.is_number() && append_number(operator, facts, out) {
            return;
        }
        out.truncate(start);
        out.push('"');
        if facts.append(operator, out) {
            out.push('"');
        } else {
            out.truncate(start);
            out.push_str("null");
        }
        return;
    }
    out.push('"');
    for part in template.parts() {
        match part {
            Part::Literal(text) => {
                let literal = out.len();
                out.push_str(text);
                escape_json(out, literal);
            }
            Part::Operator(operator) => {
                if !facts.append(operator, out) {
                    out.push('-');
                }
            }
        }
    }
    out.push('"');
}

fn append_number(operator: &Operator, facts: &impl Facts, out: &mut String) -> bool {
    let start = out.len();
    facts.append(operator, out) && out.len() > start && out.as_bytes()[start..].iter().all(u8::is_ascii_digit)
}

/// Facts whose values are made harmless as they are appended.
struct Escaped<'a, F> {
    facts: &'a F,
    escape: fn(&mut String, usize),
}

impl<F: Facts> Facts for Escaped<'_, F> {
    fn append(&self, operator: &Operator, out: &mut String) -> bool {
        let start = out.len();
        let found = self.facts.append(operator, out);
        if !is_ours(operator) {
            (self.escape)(out, start);
        }
        found
    }
}

/// Whether a value is of our own making, digits and names that nobody else chose: there is nothing to escape in it.
fn is_ours(operator: &Operator) -> bool {
    use Operator::{
        BytesReceived, BytesSent, DownstreamDirectRemoteAddress, DownstreamDirectRemoteAddressWithoutPort,
        DownstreamLocalAddress, DownstreamLocalPort, DownstreamRemoteAddress, DownstreamRemoteAddressWithoutPort,
        Duration, RequestDuration, ResponseCode, ResponseDuration, ResponseFlags, StartTime, UpstreamLocalAddress,
        UpstreamRequestAttemptCount,
    };
    matches!(
        operator,
        BytesReceived
            | BytesSent
            | DownstreamDirectRemoteAddress
            | DownstreamDirectRemoteAddressWithoutPort
            | DownstreamLocalAddress
            | DownstreamLocalPort
            | DownstreamRemoteAddress
            | DownstreamRemoteAddressWithoutPort
            | Duration
            | RequestDuration
            | ResponseCode
            | ResponseDuration
            | ResponseFlags
            | StartTime
            | UpstreamLocalAddress
            | UpstreamRequestAttemptCount
    )
}

/// Characters that could move a terminal's cursor, end a line or end a quoted text. U+0080 to U+009F are control
/// characters, too; U+2028 and U+2029 end lines for some readers.
fn is_harmful(character: char) -> bool {
    character.is_control() || matches!(character, '"' | '\\' | '\u{2028}' | '\u{2029}')
}

/// Escapes `out` from `start` on as `\xHH` for each byte of a harmful character, as nginx does.
fn escape_text(out: &mut String, start: usize) {
    escape(out, start, |character, out| {
        let mut bytes = [0; 4];
        for byte in character.encode_utf8(&mut bytes).bytes() {
            out.push_str("\\x");
            hex(out, byte);
        }
    });
}

/// Escapes `out` from `start` on for the inside of a JSON string.
fn escape_json(out: &mut String, start: usize) {
    escape(out, start, |character, out| match character {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        other => {
            // All harmful characters fit one UTF-16 unit.
            let unit = u32::from(other);
            out.push_str("\\u");
            hex(out, (unit >> 8) as u8);
            hex(out, unit as u8);
        }
    });
}

fn escape(out: &mut String, start: usize, mut replace: impl FnMut(char, &mut String)) {
    // Nearly all values are harmless and stay where they are.
    if !has_suspicious(&out.as_bytes()[start..]) {
        return;
    }
    let value = out.split_off(start);
    for character in value.chars() {
        if is_harmful(character) {
            replace(character, out);
        } else {
            out.push(character);
        }
    }
}

/// Whether there may be a harmful character in `text`: the bytes of one above ASCII begin with 0xC2 or 0xE2.
fn has_suspicious(text: &[u8]) -> bool {
    // Sixteen bytes at a time and without an early end, so that the compiler compares them all at once.
    let any_of = |block: &[u8; 16]| {
        block.iter().fold(false, |found, byte| {
            found
                | (*byte < 0x20)
                | (*byte == 0x7F)
                | (*byte == b'"')
                | (*byte == b'\\')
                | (*byte == 0xC2)
                | (*byte == 0xE2)
        })
    };
    let (blocks, rest) = text.as_chunks();
    let mut last = [b' '; 16];
    last[..rest.len()].copy_from_slice(rest);
    blocks.iter().any(any_of) || any_of(&last)
}

fn hex(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push(DIGITS[usize::from(byte >> 4)].into());
    out.push(DIGITS[usize::from(byte & 15)].into());
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use http::{HeaderMap, HeaderValue};
    use tidegate_snapshot::EndpointAddress;

    use super::*;
    use crate::telemetry::{RequestFacts, ResponseFlags};

    /// Istio's default text format.
    const TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
        %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
        \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
        %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
        \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
        %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% \
        %ROUTE_NAME%\n";

    /// Istio's keys of JSON logs.
    const JSON: &[(&str, &str)] = &[
        ("start_time", "%START_TIME%"),
        ("route_name", "%ROUTE_NAME%"),
        ("method", "%REQ(:METHOD)%"),
        ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
        ("protocol", "%PROTOCOL%"),
        ("response_code", "%RESPONSE_CODE%"),
        ("response_flags", "%RESPONSE_FLAGS%"),
        ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
        ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
        ("bytes_received", "%BYTES_RECEIVED%"),
        ("bytes_sent", "%BYTES_SENT%"),
        ("duration", "%DURATION%"),
        ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
        ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
        ("user_agent", "%REQ(USER-AGENT)%"),
        ("request_id", "%REQ(X-REQUEST-ID)%"),
        ("authority", "%REQ(:AUTHORITY)%"),
        ("upstream_host", "%UPSTREAM_HOST%"),
        ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
        ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
        ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
        ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
        ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
        ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ];

    #[test]
    fn a_harmful_character_is_found_wherever_it_stands() {
        for length in 0..40 {
            let harmless = "a\u{e9}~".repeat(20)[..length / 4 * 4].to_owned() + &"x".repeat(length % 4);
            assert!(!has_suspicious(harmless.as_bytes()), "{harmless}");
            for at in 0..=length {
                for harmful in ["\n", "\"", "\\", "\x7f", "\x1f", "\u{85}", "\u{2028}"] {
                    let text = "x".repeat(at) + harmful + &"y".repeat(length - at);
                    assert!(has_suspicious(text.as_bytes()), "{text:?}");
                }
            }
        }
    }

    fn text(format: &str) -> LineFormat {
        LineFormat::new(&AccessLogFormat::Text(Template::parse(format).unwrap()))
    }

    fn json(fields: &[(&str, &str)]) -> LineFormat {
        let fields = fields.iter().map(|(key, value)| ((*key).to_owned(), Template::parse(value).unwrap()));
        LineFormat::new(&AccessLogFormat::Json(fields.collect()))
    }

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (http::HeaderName::from_static(name), HeaderValue::from_bytes(value).expect("a header value"))
            })
            .collect()
    }

    fn line(format: &LineFormat, facts: &RequestFacts<'_>) -> String {
        let mut out = String::from("before ");
        format.render(facts, &mut out);
        out.strip_prefix("before ").unwrap().to_owned()
    }

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_793_180_381_007)
    }

    /// Lines of a request that went well and of one that found no route.
    fn golden(format: &LineFormat) -> [String; 2] {
        let request = headers(&[
            ("x-forwarded-for", b"203.0.113.7"),
            ("user-agent", b"curl/8.5.0"),
            ("x-request-id", b"9f0c2b5e-6a3d-4b1f-8f5c-1f2e3d4c5b6a"),
        ]);
        let response = headers(&[("x-envoy-upstream-service-time", b"11")]);
        let upstream = EndpointAddress::Socket("10.1.2.3:9080".parse().unwrap());
        let forwarded = RequestFacts {
            authority: "bookinfo.example.com",
            original_path: Some("/shop/productpage?u=test"),
            protocol: "HTTP/1.1",
            response_headers: Some(&response),
            response_code: 200,
            response_code_details: Some("via_upstream"),
            bytes_sent: 5183,
            duration: Some(Duration::from_micros(12_900)),
            upstream_host: Some(&upstream),
            upstream_cluster: Some("outbound|9080||productpage.default.svc.cluster.local"),
            upstream_local_address: Some("10.1.0.1:41234".parse().unwrap()),
            downstream_local_address: Some("[::ffff:10.1.0.1]:8080".parse().unwrap()),
            downstream_remote_address: Some("203.0.113.7:0".parse().unwrap()),
            route_name: Some("productpage"),
            attempt_count: 1,
            ..RequestFacts::new(start(), "GET", "/productpage?u=test", &request)
        };
        let none = HeaderMap::new();
        let unrouted = RequestFacts {
            authority: "nobody.example.com",
            protocol: "HTTP/2",
            response_code: 404,
            flags: ResponseFlags::NO_ROUTE_FOUND,
            response_code_details: Some("route_not_found"),
            duration: Some(Duration::ZERO),
            downstream_local_address: Some("[2001:db8::1]:8080".parse().unwrap()),
            downstream_remote_address: Some("[2001:db8::9]:5000".parse().unwrap()),
            route_name: Some(""),
            ..RequestFacts::new(start(), "POST", "/x", &none)
        };
        [line(format, &forwarded), line(format, &unrouted)]
    }

    #[test]
    fn text_lines_are_istios_to_the_letter() {
        let [forwarded, unrouted] = golden(&text(TEXT));
        assert_eq!(
            forwarded,
            "[2026-10-28T09:39:41.007Z] \"GET /shop/productpage?u=test HTTP/1.1\" 200 - via_upstream - \"-\" 0 5183 12 \
             11 \"203.0.113.7\" \"curl/8.5.0\" \"9f0c2b5e-6a3d-4b1f-8f5c-1f2e3d4c5b6a\" \"bookinfo.example.com\" \
             \"10.1.2.3:9080\" outbound|9080||productpage.default.svc.cluster.local 10.1.0.1:41234 10.1.0.1:8080 \
             203.0.113.7:0 - productpage\n"
        );
        assert_eq!(
            unrouted,
            "[2026-10-28T09:39:41.007Z] \"POST /x HTTP/2\" 404 NR route_not_found - \"-\" 0 0 0 - \"-\" \"-\" \"-\" \
             \"nobody.example.com\" \"-\" - - [2001:db8::1]:8080 [2001:db8::9]:5000 - -\n"
        );
    }

    #[test]
    fn json_lines_have_typed_values_in_the_order_of_the_keys() {
        let [forwarded, unrouted] = golden(&json(JSON));
        assert_eq!(
            forwarded,
            r#"{"start_time":"2026-10-28T09:39:41.007Z","route_name":"productpage","method":"GET","path":"/shop/productpage?u=test","protocol":"HTTP/1.1","response_code":200,"response_flags":"-","response_code_details":"via_upstream","connection_termination_details":null,"bytes_received":0,"bytes_sent":5183,"duration":12,"upstream_service_time":"11","x_forwarded_for":"203.0.113.7","user_agent":"curl/8.5.0","request_id":"9f0c2b5e-6a3d-4b1f-8f5c-1f2e3d4c5b6a","authority":"bookinfo.example.com","upstream_host":"10.1.2.3:9080","upstream_cluster":"outbound|9080||productpage.default.svc.cluster.local","upstream_local_address":"10.1.0.1:41234","downstream_local_address":"10.1.0.1:8080","downstream_remote_address":"203.0.113.7:0","requested_server_name":null,"upstream_transport_failure_reason":null}"#
                .to_owned()
                + "\n"
        );
        let value: serde_json::Value = serde_json::from_str(&unrouted).unwrap();
        let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let expected: Vec<&str> = JSON.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, expected);
        assert_eq!((&value["response_code"], &value["route_name"]), (&404.into(), &serde_json::Value::Null));
    }

    #[test]
    fn templates_of_several_parts_are_strings() {
        let headers = HeaderMap::new();
        let facts = RequestFacts { response_code: 200, ..RequestFacts::new(start(), "GET", "/", &headers) };
        let format =
            json(&[("a \"b\"", "%RESPONSE_CODE% \"%ROUTE_NAME%\""), ("c", "100%%"), ("d", ""), ("e", "%DURATION%")]);
        assert_eq!(line(&format, &facts), concat!(r#"{"a \"b\"":"200 \"-\"","c":"100%","d":"","e":null}"#, "\n"));
    }

    #[test]
    fn operators_cut_and_fall_back() {
        let headers = headers(&[("x-long", "abcdé".as_bytes()), ("x-envoy-original-path", b"/from-header")]);
        let facts = RequestFacts {
            downstream_direct_remote_address: Some("[::ffff:10.0.0.1]:5".parse().unwrap()),
            downstream_local_address: Some("10.0.0.2:80".parse().unwrap()),
            request_duration: Some(Duration::from_millis(3)),
            attempt_count: 2,
            ..RequestFacts::new(start(), "GET", "/path", &headers)
        };
        let check = |template: &str, expected: &str| {
            assert_eq!(line(&text(template), &facts), format!("{expected}\n"), "{template}");
        };
        check("%REQ(X-LONG):2% %REQ(X-LONG):5% %REQ(X-LONG):99% %REQ(X-NO):2%", "ab abcd abcdé -");
        check("%REQ(X-NO?X-LONG)% %REQ(X-NO?:PATH):3%", "abcdé /pa");
        check("%REQ(X-ENVOY-ORIGINAL-PATH)%", "/from-header");
        check("%RESP(X-LONG)% %RESP(:PATH)%", "- -");
        check(
            "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
            "10.0.0.1:5 10.0.0.1",
        );
        check("%DOWNSTREAM_LOCAL_PORT% %REQUEST_DURATION% %RESPONSE_DURATION%", "80 3 -");
        check("%UPSTREAM_REQUEST_ATTEMPT_COUNT% %HOSTNAME% %RESPONSE_CODE%", "2 - 0");
    }

    /// Whatever a client sends, a text log gets one line whose quotes are ours, and a JSON log one valid object that
    /// gives the value back.
    #[test]
    fn nothing_that_a_client_sends_can_forge_a_line() {
        let none = HeaderMap::new();
        for hostile in [
            "a\r\n[2026-01-01T00:00:00.000Z] \"GET /forged HTTP/1.1\" 200",
            "\u{1b}[2J\u{1b}]0;owned\u{7}",
            "tab\tnull\0del\u{7f}",
            "c1 \u{9b}31m csi",
            "\u{2028}line\u{2029}",
            "back\\slash \"quote\" \\\" both",
            "\u{e9}t\u{e9} \u{1f600} \u{c2}",
        ] {
            let facts = RequestFacts {
                authority: hostile,
                original_path: Some(hostile),
                requested_server_name: Some(hostile),
                response_code_details: Some(hostile),
                ..RequestFacts::new(start(), hostile, hostile, &none)
            };
            let plain = line(
                &text("\"%REQ(:METHOD)%\" \"%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%\" %REQUESTED_SERVER_NAME%\n"),
                &facts,
            );
            let content = plain.strip_suffix('\n').unwrap();
            assert!(!content.contains(|c: char| c.is_control() || c == '\u{2028}' || c == '\u{2029}'), "{content:?}");
            assert_eq!(content.matches('"').count(), 4, "{content:?}");

            let object = line(&json(&[("a", "%REQ(:AUTHORITY)%"), ("b", "x %RESPONSE_CODE_DETAILS%")]), &facts);
            let content = object.strip_suffix('\n').unwrap();
            assert!(!content.contains(char::is_control), "{content:?}");
            let value: serde_json::Value = serde_json::from_str(content).unwrap();
            assert_eq!((value["a"].as_str(), value["b"].as_str()), (Some(hostile), Some(&*format!("x {hostile}"))));
        }
        let bytes = headers(&[("user-agent", b"a\xff\xfeb\tc")]);
        let facts = RequestFacts::new(start(), "GET", "/", &bytes);
        assert_eq!(line(&text("%REQ(USER-AGENT)%"), &facts), "a\u{fffd}\u{fffd}b\\x09c\n");
    }
}
