//! Certificates from ACME authorities (RFC 8555): accounts, orders, challenges, renewal.
