//! Certificates from ACME authorities (RFC 8555): accounts, orders, challenges, renewal.
//!
//! It owns when and how a certificate is ordered, and the state directory that lets an order, an account and a
//! certificate survive the process. It does not own slots (they are the store's, which may refuse what was issued) nor
//! the answers to challenges on the wire (the data plane reads them from [`tidegate_sds::Challenges`]).
//!
//! Invariants: a certificate serves on until a newer one is taken; one key registers one account, however often the
//! process dies; an attempt that is cut off anywhere is gone on with; no key leaves the state directory but into the
//! store; every wait is bounded, and every failure waits longer than the one before.

mod account;
mod archive;
mod call;
mod certificate;
mod challenge;
mod clock;
mod failure;
mod issuer;
mod key;
mod leaf;
mod order;
mod renewal_info;
mod request;
mod schedule;
mod state;
mod status;
mod transport;

pub use clock::{Clock, Sleep, SystemClock};
pub use issuer::{Issuer, IssuerOptions, Report};
pub use request::{CertificateRequest, ChallengeKind};
pub use state::StateError;
pub use status::{CertificateState, CertificateStatus};
