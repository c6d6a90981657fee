//! Encryption of what is stored and must not be readable there: AES-256-GCM, under keys that come from
//! elsewhere.

use aes_gcm::{
    Aes256Gcm, KeyInit as _,
    aead::{Aead as _, Payload},
};
use hkdf::Hkdf;
use sha2::Sha256;

/// A key, ready to be used. It cannot be printed.
pub(crate) struct Cipher(Aes256Gcm);

impl Cipher {
    /// Takes bytes that are a key already.
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(Aes256Gcm::new(key.into()))
    }

    /// Derives a key from a secret, for one thing (`salt`) and one use (`label`).
    pub(crate) fn derive(secret: &[u8], salt: &[u8], label: &[u8]) -> Self {
        let mut key = [0; 32];
        Hkdf::<Sha256>::new(Some(salt), secret)
            .expand(label, &mut key)
            .expect("32 bytes are less than the limit of HKDF");
        Self::new(&key)
    }

    /// Encrypts a text, which opens only together with what it is `about`.
    pub(crate) fn seal(&self, text: &[u8], about: &[u8]) -> Vec<u8> {
        let nonce: [u8; 12] = rand::random();
        let sealed = self
            .0
            .encrypt(&nonce.into(), Payload { msg: text, aad: about })
            .expect("what is stored is shorter than the limit of the cipher");
        [&nonce[..], &sealed].concat()
    }

    /// Undoes [`Cipher::seal`]; `None` with another key or about something else.
    pub(crate) fn open(&self, sealed: &[u8], about: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<12>()?;
        self.0.decrypt(nonce.into(), Payload { msg: sealed, aad: about }).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_about_the_same_thing_only() {
        let cipher = Cipher::derive(b"secret", b"one", b"use");
        let sealed = cipher.seal(b"text", b"thing");

        assert_eq!(cipher.open(&sealed, b"thing").as_deref(), Some(&b"text"[..]));
        assert_eq!(cipher.open(&sealed, b"another"), None);
        assert_eq!(cipher.open(&sealed[1..], b"thing"), None);
        assert_eq!(cipher.open(b"", b"thing"), None);
        for other in [(&b"guess"[..], &b"one"[..]), (b"secret", b"two")] {
            assert_eq!(Cipher::derive(other.0, other.1, b"use").open(&sealed, b"thing"), None);
        }
    }
}
