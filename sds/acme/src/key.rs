use data_encoding::BASE64;
use instant_acme::{Error, Key};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::failure::Failure;

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----\n";
const END: &str = "-----END PRIVATE KEY-----\n";
/// Symbols of a line of PEM (RFC 7468 section 2).
const LINE: usize = 64;

/// A key of P-256 that was made here, of an account or of a certificate: PKCS#8, wiped when dropped. Reads and writes
/// PEM itself, as the buffers of libraries keep copies.
pub(crate) struct PrivateKey(Zeroizing<Vec<u8>>);

impl PrivateKey {
    pub(crate) fn generate() -> Result<Self, Failure> {
        match KeyPair::generate() {
            Ok(pair) => Ok(Self(Zeroizing::new(Zeroizing::new(pair).serialized_der().to_vec()))),
            Err(error) => Err(Failure::internal(format!("a key cannot be made: {error}"))),
        }
    }

    /// What [`Self::to_pem`] gave.
    ///
    /// # Errors
    /// In words, what is wrong; nothing of the text.
    pub(crate) fn of_pem(text: &str) -> Result<Self, String> {
        let body = text.strip_prefix(BEGIN).and_then(|rest| rest.split_once(END)).ok_or("there is none")?.0;
        let mut symbols = Zeroizing::new(Vec::with_capacity(body.len()));
        symbols.extend(body.bytes().filter(|byte| *byte != b'\n'));
        let room = BASE64.decode_len(symbols.len()).map_err(|_| "it is no base64")?;
        let mut der = Zeroizing::new(vec![0; room]);
        let length = BASE64.decode_mut(&symbols, &mut der).map_err(|_| "it is no base64")?;
        der.truncate(length);
        let key = Self(der);
        key.pair().map_err(|error| error.to_string())?;
        Ok(key)
    }

    pub(crate) fn to_pem(&self) -> Zeroizing<String> {
        let mut symbols = Zeroizing::new(vec![0; BASE64.encode_len(self.0.len())]);
        BASE64.encode_mut(&self.0, &mut symbols);
        let lines = symbols.len().div_ceil(LINE);
        let mut pem = Zeroizing::new(String::with_capacity(BEGIN.len() + symbols.len() + lines + END.len()));
        pem.push_str(BEGIN);
        for line in symbols.chunks(LINE) {
            pem.extend(line.iter().map(|byte| char::from(*byte)));
            pem.push('\n');
        }
        pem.push_str(END);
        pem
    }

    /// To sign requests for certificates.
    pub(crate) fn pair(&self) -> Result<Zeroizing<KeyPair>, rcgen::Error> {
        let der = PrivateKeyDer::Pkcs8(self.pkcs8());
        KeyPair::from_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).map(Zeroizing::new)
    }

    /// To sign what an account asks for.
    pub(crate) fn of_account(&self) -> Result<Key, Error> {
        Key::from_pkcs8_der(self.pkcs8())
    }

    pub(crate) fn pkcs8(&self) -> PrivatePkcs8KeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.0.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_from_pem_and_openssl_would_read_it() {
        let key = PrivateKey::generate().unwrap();
        let pem = key.to_pem();
        assert!(PrivateKey::of_pem(&pem).unwrap().0 == key.0);
        assert!(KeyPair::from_pem(&pem).unwrap().serialized_der() == key.0.as_slice());
        assert!(pem.lines().all(|line| line.len() <= LINE));
        for text in
            ["", BEGIN, &pem[1..], &pem[..pem.len() - 2], &pem.replacen('M', "*", 1), &format!("{BEGIN}MIGH\n{END}")]
        {
            assert!(PrivateKey::of_pem(text).is_err());
        }
    }
}
