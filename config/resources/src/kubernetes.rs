//! Kubernetes' core kinds and EndpointSlice. What a gateway reads is typed; the other fields that the API server knows
//! are listed as [`Accepted`], so that a typo is still found, and their values are not kept (the text is in
//! [`Object::source`](crate::Object)).

mod endpoints;
mod pod;
mod secret;
mod service;

pub use endpoints::{
    Endpoint, EndpointAddress, EndpointConditions, EndpointPort, EndpointSlice, EndpointSubset, Endpoints, TargetRef,
};
pub use pod::{Container, ContainerPort, Pod, PodCondition, PodIp, PodSpec, PodStatus};
pub use secret::{ConfigMap, Namespace, Secret};
pub use service::{IntOrString, Service, ServicePort, ServiceType};

use crate::decode::{Decode, Decoder};
use crate::node::Node;

/// A field that is known and that nothing here reads; any value is accepted and dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Accepted;

impl Decode for Accepted {
    const EXPECTS: &'static str = "any value";

    fn decode<'n>(_: &'n Node, _: &mut Decoder<'n>) -> Option<Self> {
        Some(Accepted)
    }
}
