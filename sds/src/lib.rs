//! Secrets: one slot per name, its material swapped in place.
//!
//! It owns material (certificates with their keys, authorities, revocation lists), the checks before a swap, the last
//! good of every name and what is told of all this. It does not own what a secret is used for: listeners and clusters
//! name secrets, and ask at every handshake what the name holds now. Sources (Secret documents, files, ACME, an SDS
//! server) offer; the store decides.
//!
//! Invariants: a slot never loses working material to a worse one; no key leaves through `Debug`, a log or a dump; a
//! handshake sees a certificate and its own key, never a mixed pair.

mod chain;
mod challenges;
mod coverage;
mod facts;
mod findings;
mod ledger;
mod material;
mod ocsp;
mod offer;
mod pem;
mod problem;
mod proof;
mod revocation;
mod signature;
mod slot;
pub mod sources;
mod status;
mod store;
mod time;

pub use challenges::Challenges;
pub use facts::{CertificateFacts, Fingerprint, KeyKind, NotACertificate, SubjectName, Validity, WeakDigest};
pub use ledger::SecretCounters;
pub use material::{CertificateMaterial, Content, RevocationLists, TrustMaterial};
pub use offer::{Offer, Payload, Place, Places, SourceKind};
pub use problem::{Flaw, Found, MaterialError, Part, StapleFlaw};
pub use slot::{Secret, SecretSlot};
pub use status::{ContentKind, Refusal, SecretGauge, SecretState, SecretStatus};
pub use store::SecretStore;
pub use time::{Clock, Timestamp};
