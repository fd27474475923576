//! Secrets: one slot per name, its material swapped in place.
//!
//! It owns material (certificates with their keys, authorities, revocation lists), the checks before a swap, the last
//! good of every name and what is told of all this. It does not own what a secret is used for: listeners and clusters
//! name secrets, and ask at every handshake what the name holds now. Sources (Secret documents, files, ACME, an SDS
//! server) offer; the store decides.
//!
//! Invariants: a slot never loses working material to a worse one; no key leaves through `Debug`, a log or a dump; a
//! handshake sees a certificate and its own key, never a mixed pair.

mod challenges;
mod material;
mod slot;
mod store;

pub use challenges::Challenges;
pub use material::{CertificateMaterial, Content, MaterialError, RevocationLists, TrustMaterial};
pub use slot::{Secret, SecretSlot};
pub use store::{Offer, Payload, Place, Places, SecretStore, SourceKind};
