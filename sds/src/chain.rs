//! The order of a chain: leaf first, each certificate signed by the next.

use x509_parser::certificate::X509Certificate;

use crate::problem::Flaw;
use crate::signature::certificate_is_by;

/// A chain as it is to be served.
pub(crate) struct Order {
    /// Places in the chain as it was written, leaf first. Duplicates are left out; what does not belong comes last.
    pub(crate) places: Vec<usize>,
    pub(crate) flaws: Vec<Flaw>,
}

impl Order {
    /// Whether it is the order in which the certificates were written, none left out.
    pub(crate) fn is_as_written(&self, length: usize) -> bool {
        self.places.iter().copied().eq(0..length)
    }
}

/// Orders `chain`, whose certificate at `leaf` is the one with the key.
pub(crate) fn order(chain: &[X509Certificate<'_>], leaf: usize) -> Order {
    let mut flaws = Vec::new();
    let mut unused = Vec::new();
    for (place, certificate) in chain.iter().enumerate() {
        let earlier = &chain[..place];
        if earlier.iter().any(|other| other.as_raw() == certificate.as_raw()) {
            flaws.push(Flaw::ChainDuplicate { number: place + 1 });
        } else if certificate.as_raw() != chain[leaf].as_raw() {
            unused.push(place);
        }
    }
    let leaf = chain.iter().position(|other| other.as_raw() == chain[leaf].as_raw()).unwrap_or(leaf);
    let mut written: Vec<usize> = unused.iter().copied().chain([leaf]).collect();
    written.sort_unstable();

    let mut places = vec![leaf];
    let mut broken = false;
    let mut last = leaf;
    while !is_self_issued(&chain[last]) {
        let named = |place: &usize| is_named_issuer(&chain[last], &chain[*place]);
        if !unused.iter().any(named) {
            break;
        }
        let signs = |place: &usize| named(place) && certificate_is_by(&chain[last], &chain[*place]) != Some(false);
        let Some(at) = unused.iter().position(signs) else {
            flaws.push(Flaw::ChainBroken { number: last + 1 });
            broken = true;
            break;
        };
        last = unused.remove(at);
        places.push(last);
    }
    for place in unused {
        // Another certificate of an authority in the chain, as cross-signing makes them.
        let is_alternative = places.iter().any(|member| {
            is_named_issuer(&chain[*member], &chain[place])
                && certificate_is_by(&chain[*member], &chain[place]) != Some(false)
        });
        if !broken && !is_alternative {
            flaws.push(Flaw::ChainUnrelated { number: place + 1 });
        }
        places.push(place);
    }
    if places != written {
        flaws.push(Flaw::ChainOutOfOrder);
    }
    Order { places, flaws }
}

fn is_self_issued(certificate: &X509Certificate<'_>) -> bool {
    is_named_issuer(certificate, certificate)
}

fn is_named_issuer(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    certificate.issuer().as_raw() == issuer.subject().as_raw()
}
