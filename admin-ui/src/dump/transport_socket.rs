//! `DownstreamTlsContext` and `UpstreamTlsContext`: TLS as it is configured, secrets by name.

use serde_json::{Value, json};
use tidegate_core::SecretName;
use tidegate_snapshot::{
    ClientTls, ClientValidation, SecretRef, ServerTls, ServerTlsMode, ServerTrust, TlsParameters, TlsVersion,
    UpstreamProtocol, UpstreamServerName,
};

use super::{DumpOptions, set, typed};
use crate::secret::SecretState;

/// `DownstreamTlsContext` in its transport socket.
pub(super) fn downstream(tls: &ServerTls, options: DumpOptions<'_>) -> Value {
    let mut common = common(&tls.parameters);
    let certificates: Vec<_> = tls.certificates.iter().map(|secret| sds(secret, options)).collect();
    set(&mut common, "tls_certificate_sds_secret_configs", Some(certificates));
    if let Some(validation) = &tls.client_validation {
        validation_context(&mut common, client_validation(validation), validation.ca.as_ref(), options);
    }
    set(&mut common, "alpn_protocols", (!tls.alpn.is_empty()).then(|| tls.alpn.clone()));
    let mut context = json!({ "common_tls_context": common });
    set(&mut context, "require_client_certificate", Some(tls.mode == ServerTlsMode::Mutual));
    socket("DownstreamTlsContext", context)
}

/// `UpstreamTlsContext` in its transport socket.
pub(super) fn upstream(tls: &ClientTls, protocol: UpstreamProtocol, options: DumpOptions<'_>) -> Value {
    let mut common = common(&tls.parameters);
    let certificates: Vec<_> = tls.certificate.iter().map(|secret| sds(secret, options)).collect();
    set(&mut common, "tls_certificate_sds_secret_configs", (!certificates.is_empty()).then_some(certificates));
    let mut validation = json!({});
    set(&mut validation, "match_typed_subject_alt_names", alternative_names(&tls.subject_alt_names));
    set(&mut validation, "crl", tls.crl.as_ref().map(file));
    match &tls.trust {
        ServerTrust::Authorities(authorities) => {
            validation_context(&mut common, validation, Some(authorities), options);
        }
        ServerTrust::System => {
            set(&mut validation, "system_root_certs", Some(json!({})));
            validation_context(&mut common, validation, None, options);
        }
        ServerTrust::Unverified => {
            set(&mut validation, "trust_chain_verification", Some("ACCEPT_UNTRUSTED"));
            validation_context(&mut common, validation, None, options);
        }
    }
    let alpn = match protocol {
        UpstreamProtocol::Http1 => vec!["http/1.1"],
        UpstreamProtocol::Http2 => vec!["h2"],
        UpstreamProtocol::AsDownstream => vec!["h2", "http/1.1"],
    };
    set(&mut common, "alpn_protocols", Some(alpn));
    let mut context = json!({ "common_tls_context": common });
    if let UpstreamServerName::Fixed(name) = &tls.server_name {
        set(&mut context, "sni", Some(name.as_str()));
    }
    socket("UpstreamTlsContext", context)
}

/// `UpstreamHttpProtocolOptions`: the Host names the server, and is what its certificate must be valid for.
pub(super) fn from_host(tls: &ClientTls) -> Option<Value> {
    (tls.server_name == UpstreamServerName::FromHost)
        .then(|| json!({ "auto_sni": true, "auto_san_validation": tls.subject_alt_names.is_empty() }))
}

fn socket(context: &str, message: Value) -> Value {
    let type_name = format!("envoy.extensions.transport_sockets.tls.v3.{context}");
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": typed(&type_name, message) })
}

/// `CommonTlsContext` with its `tls_params`.
fn common(parameters: &TlsParameters) -> Value {
    let version = |version| match version {
        TlsVersion::V1_2 => "TLSv1_2",
        TlsVersion::V1_3 => "TLSv1_3",
    };
    let mut params = json!({
        "tls_minimum_protocol_version": version(parameters.min_version),
        "tls_maximum_protocol_version": version(parameters.max_version),
    });
    // The model's own names are OpenSSL's and Envoy's; both serialize to text.
    let names = |names: Value| names.as_array().is_some_and(|names| !names.is_empty()).then_some(names);
    set(&mut params, "cipher_suites", names(json!(parameters.cipher_suites)));
    set(&mut params, "ecdh_curves", names(json!(parameters.groups)));
    json!({ "tls_params": params })
}

/// `SdsSecretConfig`: the name that is in use, else the first that is asked for.
fn sds(secret: &SecretRef, options: DumpOptions<'_>) -> Value {
    let holds = |name: &&SecretName| {
        let at = options.secrets.binary_search_by(|status| status.name.as_str().cmp(name.as_str()));
        at.is_ok_and(|at| options.secrets.get(at).is_some_and(|status| status.state != SecretState::Warming))
    };
    let name = secret.names.iter().find(holds).or(secret.names.first());
    json!({
        "name": name.map(SecretName::as_str).unwrap_or_default(),
        "sds_config": { "ads": {}, "resource_api_version": "V3" },
    })
}

/// Lays `validation` into a `CommonTlsContext`, combined with authorities that come as a secret.
fn validation_context(
    common: &mut Value,
    validation: Value,
    authorities: Option<&SecretRef>,
    options: DumpOptions<'_>,
) {
    match authorities {
        Some(authorities) => {
            let combined = json!({
                "default_validation_context": validation,
                "validation_context_sds_secret_config": sds(authorities, options),
            });
            set(common, "combined_validation_context", Some(combined));
        }
        None => set(common, "validation_context", Some(validation)),
    }
}

fn client_validation(validation: &ClientValidation) -> Value {
    let mut message = json!({});
    set(&mut message, "match_typed_subject_alt_names", alternative_names(&validation.subject_alt_names));
    let texts = |digests: &[tidegate_snapshot::Digest256]| {
        let texts: Vec<_> = digests.iter().map(ToString::to_string).collect();
        (!texts.is_empty()).then_some(texts)
    };
    let keys: Vec<_> = validation.spki_hashes.iter().map(|digest| super::base64(&digest.0)).collect();
    set(&mut message, "verify_certificate_spki", (!keys.is_empty()).then_some(keys));
    set(&mut message, "verify_certificate_hash", texts(&validation.certificate_hashes));
    set(&mut message, "crl", validation.crl.as_ref().map(file));
    set(&mut message, "trust_chain_verification", validation.accept_untrusted.then_some("ACCEPT_UNTRUSTED"));
    message
}

/// `SubjectAltNameMatcher`s; a name counts whatever its type is, so every type is listed.
fn alternative_names(names: &[String]) -> Option<Value> {
    let matchers: Vec<_> = names
        .iter()
        .flat_map(|name| {
            ["DNS", "URI", "EMAIL", "IP_ADDRESS"]
                .map(|san_type| json!({ "san_type": san_type, "matcher": { "exact": name } }))
        })
        .collect();
    (!matchers.is_empty()).then(|| Value::Array(matchers))
}

fn file(name: &SecretName) -> Value {
    let text = name.as_str();
    json!({ "filename": text.strip_prefix("file-crl:").unwrap_or(text) })
}
