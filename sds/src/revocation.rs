//! Revocation lists: whether they can be used, by whom they are and until when.

use rustls_pki_types::CertificateRevocationListDer;
use webpki::BorrowedCertRevocationList;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::Timestamp;
use crate::problem::{Flaw, MaterialError};
use crate::signature::list_is_by;

/// What is known of several lists.
#[derive(Debug, Default)]
pub(crate) struct ListFacts {
    /// Of each list, when its issuer promised the next one.
    next_updates: Box<[Option<Timestamp>]>,
    /// What is wrong with them at any time.
    flaws: Box<[Flaw]>,
}

impl ListFacts {
    /// Checks lists as those do who verify certificates with them. Issuers are looked for among `authorities`, unless
    /// there are none.
    pub(crate) fn check(
        lists: &[CertificateRevocationListDer<'_>],
        authorities: &[X509Certificate<'_>],
    ) -> Result<Self, MaterialError> {
        let mut next_updates = Vec::with_capacity(lists.len());
        let mut flaws = Vec::new();
        let mut unknown = Vec::new();
        for (number, der) in (1..).zip(lists) {
            let bad = |reason: String| MaterialError::BadCrl { number, reason };
            BorrowedCertRevocationList::from_der(der).map_err(|error| bad(reason(&error)))?;
            let (_, list) =
                CertificateRevocationList::from_der(der).map_err(|_| bad("its structure is broken".to_owned()))?;
            next_updates.push(list.next_update().map(|time| Timestamp::from_seconds(time.timestamp())));
            if authorities.is_empty() {
                continue;
            }
            let mut issuers = authorities
                .iter()
                .filter(|authority| authority.subject().as_raw() == list.issuer().as_raw())
                .peekable();
            if issuers.peek().is_none() {
                unknown.push(Flaw::CrlIssuerUnknown { number });
            } else if issuers.all(|issuer| list_is_by(&list, issuer) == Some(false)) {
                flaws.push(Flaw::CrlNotSigned { number });
            }
        }
        if !lists.is_empty() && unknown.len() == lists.len() {
            flaws.push(Flaw::CrlsForeign);
        } else {
            flaws.append(&mut unknown);
        }
        Ok(Self { next_updates: next_updates.into(), flaws: flaws.into() })
    }

    pub(crate) fn flaws(&self, now: Timestamp, flaws: &mut Vec<Flaw>) {
        flaws.extend_from_slice(&self.flaws);
        for (number, next_update) in (1..).zip(&self.next_updates) {
            if let Some(at) = next_update.filter(|at| *at < now) {
                flaws.push(Flaw::CrlExpired { number, at });
            }
        }
    }

    /// When the first of them should be replaced.
    pub(crate) fn first_end(&self) -> Option<Timestamp> {
        self.next_updates.iter().copied().flatten().min()
    }
}

fn reason(error: &webpki::Error) -> String {
    match error {
        webpki::Error::UnsupportedDeltaCrl => "it is a delta list".to_owned(),
        webpki::Error::UnsupportedIndirectCrl => "it is an indirect list".to_owned(),
        webpki::Error::UnsupportedCrlVersion => "it is not of version 2".to_owned(),
        error => error.to_string(),
    }
}
