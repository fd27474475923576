//! Secret discovery over gRPC: Envoy's `SecretDiscoveryService`, as a server over our slots and as a client that fills
//! them. Protobuf stays in this crate.
