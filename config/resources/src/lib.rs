//! The resources that Tidegate is configured with: Istio's networking kinds, the Kubernetes kinds that backends come
//! from, MeshConfig, the Gateway API's ReferenceGrant, and AcmeCertificate, which is our own.
//!
//! It owns their types, the way from text to typed [`Object`]s (with the place of every field), the rules that one
//! object must keep by itself ([`validate`]), and the store of objects ([`ResourceSet`]). It does not own what objects
//! mean together (the compiler), nor where texts come from (the bridge): nothing here does I/O.
//!
//! Invariant: decoding is strict. A field that no type names is an error with its line and column; a field that is read
//! and not acted on yet is a warning. So whatever an [`Object`] holds was understood.
//!
//! Secrets: their bytes are shared, and wiped when the last owner drops them; so is whatever was made of their text on
//! the way. No finding quotes a value of theirs, and no `Debug` shows one. The YAML library, whose buffers are
//! out of reach, sees no run of 24 letters and digits of a Secret; shorter ones, as in passwords, it sees.

mod acme;
mod decode;
mod document;
mod duration;
mod grant;
pub mod kubernetes;
pub mod mesh;
pub mod networking;
mod node;
mod object;
mod pending;
pub mod re2;
mod redact;
mod set;
mod spans;
mod validate;
mod yaml;

pub use acme::{AcmeCertificate, AcmeChallenge, LETS_ENCRYPT};
pub use decode::{Bytes, SecretText, Untyped};
pub use document::{MAX_FILE_BYTES, ParseOptions, Parsed, Skipped, parse, parse_bytes, parse_mesh_config};
pub use duration::{Duration, DurationError};
pub use grant::{ReferenceGrant, ReferenceGrantFrom, ReferenceGrantTo, Referrer};
pub use kubernetes::{ConfigMap, EndpointSlice, Endpoints, IntOrString, Namespace, Pod, Secret, Service, ServiceType};
pub use mesh::{MeshConfig, NormalizationType, ProxyConfig, Topology};
pub use networking::*;
pub use object::{Metadata, Object, Spec};
pub use set::{ObjectChange, ResourceEvent, ResourceSet, creation_order, sort_by_creation};
pub use spans::Spans;
pub use validate::validate;
