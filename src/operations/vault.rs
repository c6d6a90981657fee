//! Who can read what an operation holds.
//!
//! Each operation has a data key of its own, which encrypts its request and its result. The row has that
//! key twice, encrypted: for its creator, under a key derived from the creator's own secret, which is
//! stored nowhere; and for whoever works on it, under the master key. The latter goes when the operation
//! is done. From then on the result opens with the text of the creator's key and with nothing else.

use secrecy::{ExposeSecret as _, zeroize::Zeroizing};
use uuid::Uuid;

use crate::{keys::secret::random, rpc::Call, sealed::Cipher};

/// The key of what one operation holds. Wiped when dropped; it cannot be printed.
pub(super) struct DataKey(Zeroizing<[u8; 32]>);

impl DataKey {
    /// Draws a key.
    pub(super) fn generate() -> Self {
        Self(Zeroizing::new(random()))
    }

    /// Encrypts the key itself.
    pub(super) fn wrap(&self, under: &Cipher, operation_id: Uuid) -> Vec<u8> {
        under.seal(self.0.as_slice(), operation_id.as_bytes())
    }

    /// Undoes [`DataKey::wrap`]; `None` with another cipher or for another operation.
    pub(super) fn unwrap(under: &Cipher, operation_id: Uuid, wrapped: &[u8]) -> Option<Self> {
        let key = Zeroizing::new(under.open(wrapped, operation_id.as_bytes())?);
        Some(Self(Zeroizing::new(key.as_slice().try_into().ok()?)))
    }

    /// Encrypts what was asked for.
    pub(super) fn seal_request(&self, request: &[u8]) -> Vec<u8> {
        Cipher::new(&self.0).seal(request, b"request")
    }

    /// Undoes [`DataKey::seal_request`].
    pub(super) fn open_request(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        Cipher::new(&self.0).open(sealed, b"request")
    }

    /// Encrypts what came of it.
    pub(super) fn seal_result(&self, result: &[u8]) -> Vec<u8> {
        Cipher::new(&self.0).seal(result, b"result")
    }

    /// Undoes [`DataKey::seal_result`].
    pub(super) fn open_result(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        Cipher::new(&self.0).open(sealed, b"result")
    }
}

/// The cipher that only who has the text of the caller's key can make.
pub(super) fn cipher_of(call: &Call, operation_id: Uuid) -> Cipher {
    let bearer = call.bearer.expose_secret().as_bytes();
    Cipher::derive(bearer, operation_id.as_bytes(), b"tenantry operation v1")
}
