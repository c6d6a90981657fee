//! The master key: the one secret that the service holds and the database does not.
//!
//! It serves five ends, each with a key of its own derived by HKDF-SHA256, so that what one of them
//! shows teaches nothing about another:
//!
//! * the **tag** in a key's text, by which a guessed key is refused without a look-up;
//! * the **digest** that is stored in place of a key's secret, so that a dump of the database alone
//!   cannot be tested against guesses;
//! * the **fingerprint** of a request's body, by which a repeated request is recognised;
//! * the **operation cipher**, under which the key of what an operation holds is stored while it is
//!   worked on;
//! * the **check**, stored in the database, so that a service with another master key refuses to
//!   start.
//!
//! Tag, digest and check belong to a *version*. To rotate, add a version to the file on every node,
//! and only then name it as `current`: new keys are minted under it while the old ones verify under
//! theirs. A version may go when no key of it is left.
//!
//! The permutation of refs, the fingerprint and the operation cipher hang on `ref_key`, which never changes: another
//! permutation would lead every key that is out there to the wrong row.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use aes::{
    Aes128,
    cipher::{BlockDecrypt as _, BlockEncrypt as _, KeyInit as _},
};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret as _, SecretString, zeroize::Zeroizing};
use serde::Deserialize;
use sha2::Sha256;

use super::secret::{Digest, KeySecret, random};
use crate::sealed::Cipher;

/// The highest version: the last that one character of a key's text can name.
pub const VERSION_MAX: i16 = 61;

/// What the operator reads first when opening the file.
const FILE_HEADER: &str = "\
# The master key of a Tenantry installation. It is a secret: keep it readable by the service alone.
# Back it up; without it no key verifies. Every node needs the same file.
#
# To rotate: add a version (`2 = \"<64 hex digits>\"`) on every node, restart them, and only then
# set `current` to it. `ref_key` never changes.
";

/// The master key: versions for rotation, and the key of the ref permutation (which never changes).
///
/// Holds derived keys only, not the bytes of the file.
pub struct MasterKey {
    current: i16,
    versions: Vec<Version>,
    permutation: Aes128,
    permutation_check: [u8; 32],
    fingerprint: Hmac<Sha256>,
    consents: Hmac<Sha256>,
    operations: Cipher,
}

/// What one version derives: MACs that have taken in their keys and wait for the message.
struct Version {
    number: i16,
    tag: Hmac<Sha256>,
    digest: Hmac<Sha256>,
    check: [u8; 32],
}

/// Why there is no master key.
///
/// No message repeats anything of the file, since a misplaced quote can turn a key into a name.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// The file is missing or cannot be read.
    #[error(
        "cannot read the master key file {}: restore it from its backup, \
         or point `keys.master_key_file` at it", .path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },

    /// A new file cannot be written.
    #[error(
        "cannot create the master key file {}: let the service write to its folder, \
         or create the file yourself", .path.display()
    )]
    Create {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },

    /// Others than the owner may read or change the file.
    #[error(
        "the master key file {} is open to others (mode {mode:04o}): run `chmod 600 {}`",
        .path.display(), .path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },

    /// The file is not in its form.
    #[error(
        "the master key file {} is broken near line {line}: it holds `ref_key`, `current` and the \
         table `[versions]`, and nothing else; restore it from its backup", .path.display()
    )]
    Form {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },

    /// The file is in its form, but says something that cannot be.
    #[error(
        "the master key file {} is wrong: {problem}; correct it, or restore it from its backup",
        .path.display()
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// What must be otherwise.
        problem: &'static str,
    },
}

impl MasterKey {
    /// Makes a key that nobody else has and that is gone with the process, for tests and trials.
    pub fn generate() -> Self {
        Self::from(&Material::generate())
    }

    /// Reads the key from its file, and refuses a file that others than its owner can reach.
    pub fn load(path: &Path) -> Result<Self, MasterKeyError> {
        let text = read_private(path)?;
        Ok(Self::from(&Material::parse(&text, path)?))
    }

    /// Reads the key from its file, or creates the file with a new key where there is none.
    ///
    /// For the private cluster only, where data and key are born together. Anywhere else a missing
    /// file is a mistake, and a new key in its place would refuse every key there is.
    pub fn load_or_create(path: &Path) -> Result<Self, MasterKeyError> {
        match Self::load(path) {
            Err(MasterKeyError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {
                create_private(path, &Material::generate().render())?;
                Self::load(path)
            }
            loaded => loaded,
        }
    }

    /// Says under which version new keys are minted.
    pub fn current_version(&self) -> i16 {
        self.current
    }

    /// Lists the versions that keys may have, in ascending order.
    pub fn versions(&self) -> impl Iterator<Item = i16> {
        self.versions.iter().map(|version| version.number)
    }

    /// Proves possession of a version without showing it.
    ///
    /// The database keeps this value, so that a service with another key refuses to start.
    pub fn check(&self, version: i16) -> Option<[u8; 32]> {
        self.version(version).map(|version| version.check)
    }

    /// Proves possession of the permutation's key without showing it, as [`MasterKey::check`] does.
    pub fn permutation_check(&self) -> [u8; 32] {
        self.permutation_check
    }

    /// Computes what is stored in place of a secret; `None` if there is no such version.
    pub fn digest(&self, version: i16, secret: &KeySecret) -> Option<Digest> {
        self.digest_of_sha256(version, &secret.sha256())
    }

    /// Computes the digest of a secret that is known by its SHA-256 only, as imported keys are.
    pub fn digest_of_sha256(&self, version: i16, sha256: &[u8; 32]) -> Option<Digest> {
        let version = self.version(version)?;
        Some(Digest::new(mac(&version.digest, &[sha256])))
    }

    /// Computes what is stored from now on in place of a secret, with the version that it is computed with.
    pub fn digest_now(&self, sha256: &[u8; 32]) -> (Digest, i16) {
        let version = self.current_version();
        let digest = self.digest_of_sha256(version, sha256);
        (digest.expect("the master key has its current version"), version)
    }

    /// Computes the short MAC over a key's parts; `None` if there is no such version.
    ///
    /// Eight bytes are too few to stand alone and need not: they only spare the look-up, and the
    /// digest decides. `environment` must not hold a zero byte, which here ends it.
    pub fn tag(
        &self,
        version: i16,
        environment: &str,
        public_ref: &[u8; 16],
        secret: &KeySecret,
    ) -> Option<[u8; 8]> {
        let version = self.version(version)?;
        let parts = [environment.as_bytes(), &[0], public_ref, secret.as_bytes()];
        let mut tag = [0; 8];
        tag.copy_from_slice(&mac(&version.tag, &parts)[..8]);
        Some(tag)
    }

    /// Computes a keyed hash of a request's body, by which a repeated request is recognised.
    ///
    /// Keyed, so that a dump does not let anyone test guesses at what was asked; independent of the
    /// version, so that a retry across a rotation is still the same request.
    pub fn fingerprint(&self, body: &[u8]) -> [u8; 32] {
        mac(&self.fingerprint, &[body])
    }

    /// Computes the secret of the link by which a customer decides on a request, as often as its mail is built.
    ///
    /// Independent of the version, so that a mail that waits goes out across a rotation.
    pub(crate) fn consent(&self, request: uuid::Uuid, generation: i32) -> Zeroizing<[u8; 32]> {
        let parts: [&[u8]; 2] = [request.as_bytes(), &generation.to_be_bytes()];
        Zeroizing::new(mac(&self.consents, &parts))
    }

    /// Encrypts the key of what an operation holds, for whichever node works on it.
    pub(crate) fn operation_cipher(&self) -> &Cipher {
        &self.operations
    }

    /// Turns what leads to a row into what the outside sees: one block of AES, a permutation.
    pub(crate) fn permute(&self, reference: [u8; 16]) -> [u8; 16] {
        let mut block = reference.into();
        self.permutation.encrypt_block(&mut block);
        block.into()
    }

    /// Undoes [`MasterKey::permute`].
    pub(crate) fn unpermute(&self, public_ref: [u8; 16]) -> [u8; 16] {
        let mut block = public_ref.into();
        self.permutation.decrypt_block(&mut block);
        block.into()
    }

    fn version(&self, number: i16) -> Option<&Version> {
        self.versions.iter().find(|version| version.number == number)
    }
}

impl From<&Material> for MasterKey {
    fn from(material: &Material) -> Self {
        let ref_keys = Hkdf::new(Some(SALT), material.ref_key.as_slice());
        let versions = material
            .versions
            .iter()
            .map(|(&number, key)| Version::derive(number, &Hkdf::new(Some(SALT), key.as_slice())));

        Self {
            current: material.current,
            versions: versions.collect(),
            permutation: Aes128::new((&*derive::<16>(&ref_keys, "ref permutation")).into()),
            permutation_check: mac(&derive_mac(&ref_keys, "ref check"), &[CHECK_LABEL]),
            fingerprint: derive_mac(&ref_keys, "request fingerprint"),
            consents: derive_mac(&ref_keys, "consent link"),
            operations: Cipher::new(&derive::<32>(&ref_keys, "operation")),
        }
    }
}

impl Version {
    fn derive(number: i16, keys: &Hkdf<Sha256>) -> Self {
        Self {
            number,
            tag: derive_mac(keys, "key tag"),
            digest: derive_mac(keys, "key digest"),
            check: mac(&derive_mac(keys, "master key check"), &[CHECK_LABEL]),
        }
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").field("current", &self.current).finish_non_exhaustive()
    }
}

/// Sets these derivations apart from any other use of the same bytes; must never change.
const SALT: &[u8] = b"tenantry master key";

/// The message of both checks; must never change.
const CHECK_LABEL: &[u8] = b"tenantry holds this key";

/// Derives the key of one use; the label names the use and must never change.
fn derive<const N: usize>(keys: &Hkdf<Sha256>, label: &str) -> Zeroizing<[u8; N]> {
    let mut key = Zeroizing::new([0; N]);
    keys.expand(label.as_bytes(), key.as_mut_slice())
        .expect("HKDF-SHA256 gives up to 8,160 bytes, and this asks for 32 at most");
    key
}

fn derive_mac(keys: &Hkdf<Sha256>, label: &str) -> Hmac<Sha256> {
    <Hmac<_> as Mac>::new_from_slice(derive::<32>(keys, label).as_slice())
        .expect("HMAC takes keys of any length")
}

fn mac(keyed: &Hmac<Sha256>, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = keyed.clone();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// What the file says: the bytes that everything else derives from.
struct Material {
    ref_key: Zeroizing<[u8; 32]>,
    current: i16,
    versions: BTreeMap<i16, Zeroizing<[u8; 32]>>,
}

/// The file as TOML has it, before its values are looked at.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MasterKeyFile {
    ref_key: SecretString,
    current: i16,
    versions: BTreeMap<String, SecretString>,
}

impl Material {
    fn generate() -> Self {
        let fresh = || Zeroizing::new(random());
        Self { ref_key: fresh(), current: 1, versions: BTreeMap::from([(1, fresh())]) }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, MasterKeyError> {
        // The parser's own message quotes the line, and with it the key.
        let file: MasterKeyFile = toml::from_str(text).map_err(|error| {
            let place = error.span().map_or(0, |span| span.start);
            let line = text.bytes().take(place).filter(|&byte| byte == b'\n').count() + 1;
            MasterKeyError::Form { path: path.to_owned(), line }
        })?;
        Self::try_from(file)
            .map_err(|problem| MasterKeyError::Content { path: path.to_owned(), problem })
    }

    fn render(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(1024));
        let write = |text: &mut String| {
            let ref_key = Zeroizing::new(hex::encode(self.ref_key.as_slice()));
            write!(text, "{FILE_HEADER}\nref_key = \"{}\"\n", *ref_key)?;
            write!(text, "current = {}\n\n[versions]\n", self.current)?;
            self.versions.iter().try_for_each(|(number, key)| {
                writeln!(text, "{number} = \"{}\"", *Zeroizing::new(hex::encode(key.as_slice())))
            })
        };
        write(&mut text).expect("writing to a string does not fail");
        text
    }
}

impl TryFrom<MasterKeyFile> for Material {
    type Error = &'static str;

    fn try_from(file: MasterKeyFile) -> Result<Self, Self::Error> {
        let MasterKeyFile { ref_key, current, versions } = file;

        let ref_key = read_key(&ref_key)?;
        let versions = versions
            .iter()
            .map(|(number, key)| Ok((read_version(number)?, read_key(key)?)))
            .collect::<Result<BTreeMap<_, _>, Self::Error>>()?;
        if !versions.contains_key(&current) {
            return Err("`current` must be one of `[versions]`");
        }

        Ok(Self { ref_key, current, versions })
    }
}

fn read_key(hexadecimal: &SecretString) -> Result<Zeroizing<[u8; 32]>, &'static str> {
    let mut key = Zeroizing::new([0; 32]);
    hex::decode_to_slice(hexadecimal.expose_secret(), key.as_mut_slice())
        .map_err(|_| "`ref_key` and every version must be 64 hexadecimal digits in quotes")?;
    Ok(key)
}

fn read_version(text: &str) -> Result<i16, &'static str> {
    text.parse()
        .ok()
        .filter(|number: &i16| (1..=VERSION_MAX).contains(number) && number.to_string() == text)
        .ok_or("the names in `[versions]` must be numbers from 1 to 61")
}

/// Reads a file that only its owner can reach.
fn read_private(path: &Path) -> Result<Zeroizing<String>, MasterKeyError> {
    let failed = |source| MasterKeyError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;

    // Asked of the open file, so that it cannot be exchanged between the question and the reading.
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(MasterKeyError::Exposed { path: path.to_owned(), mode });
    }

    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Creates a file that only its owner can reach, whole or not at all.
///
/// If another process was faster, its file stays and this is no error.
fn create_private(path: &Path, text: &str) -> Result<(), MasterKeyError> {
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = folder.join(format!(".master-key-{}", hex::encode(random::<8>())));

    let created = write_new(&draft, text)
        // A link, unlike a rename, never replaces a key that is already there.
        .and_then(|()| match fs::hard_link(&draft, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        })
        .and_then(|()| fs::remove_file(&draft))
        .and_then(|()| File::open(folder)?.sync_all());

    created.map_err(|source| {
        // The first failure is the one to tell; the draft may not even exist.
        let _ = fs::remove_file(&draft);
        MasterKeyError::Create { path: path.to_owned(), source }
    })
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
impl MasterKey {
    /// A key that is always the same, for tests that pin what is derived from it.
    pub(crate) fn sample() -> Self {
        Self::from(&Material {
            ref_key: Zeroizing::new([1; 32]),
            current: 1,
            versions: BTreeMap::from([
                (1, Zeroizing::new([2; 32])),
                (VERSION_MAX, Zeroizing::new([3; 32])),
            ]),
        })
    }

    /// The same key after a rotation.
    pub(crate) fn with_current(mut self, version: i16) -> Self {
        assert!(self.version(version).is_some());
        self.current = version;
        self
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, error::Error as _, thread};

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    /// A key file in a folder of its own.
    struct KeyFile {
        folder: TempDir,
        path: PathBuf,
    }

    impl KeyFile {
        fn absent() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("master.key");
            Self { folder, path }
        }

        fn holding(text: &str) -> Self {
            let file = Self::absent();
            write_new(&file.path, text).unwrap();
            file
        }

        fn set_mode(&self, mode: u32) {
            fs::set_permissions(&self.path, fs::Permissions::from_mode(mode)).unwrap();
        }

        fn mode(&self) -> u32 {
            fs::metadata(&self.path).unwrap().permissions().mode() & 0o777
        }
    }

    /// The message with those of its sources, as a log line prints it.
    fn chain(error: &MasterKeyError) -> String {
        error.source().map_or(error.to_string(), |source| format!("{error}: {source}"))
    }

    fn everything_about(key: &MasterKey) -> impl PartialEq + fmt::Debug {
        let secret = KeySecret::from_bytes([9; 32]);
        (
            key.current_version(),
            key.versions().map(|version| key.check(version)).collect::<Vec<_>>(),
            key.permutation_check(),
            key.digest(key.current_version(), &secret),
            key.tag(key.current_version(), "any", &[7; 16], &secret),
            key.fingerprint(b"body"),
            key.permute([5; 16]),
        )
    }

    fn hex_key(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    #[test]
    fn a_created_file_is_loaded_as_the_same_key() {
        let file = KeyFile::absent();

        let created = MasterKey::load_or_create(&file.path).unwrap();
        let again = MasterKey::load_or_create(&file.path).unwrap();
        let loaded = MasterKey::load(&file.path).unwrap();

        assert_eq!(everything_about(&created), everything_about(&again));
        assert_eq!(everything_about(&created), everything_about(&loaded));
    }

    #[test]
    fn a_created_file_is_its_owners_alone_and_says_what_it_is() {
        let file = KeyFile::absent();

        MasterKey::load_or_create(&file.path).unwrap();

        assert_eq!(file.mode(), 0o600);
        let text = fs::read_to_string(&file.path).unwrap();
        assert!(text.contains("Back it up; without it no key verifies."));
        assert_eq!(fs::read_dir(file.folder.path()).unwrap().count(), 1, "no draft stays behind");
    }

    #[test]
    fn processes_that_start_together_end_up_with_one_key() {
        let file = KeyFile::absent();

        let checks: HashSet<_> = thread::scope(|scope| {
            let start = || MasterKey::load_or_create(&file.path).unwrap().check(1).unwrap();
            let racers: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });

        assert_eq!(checks.len(), 1);
        assert_eq!(fs::read_dir(file.folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_file_is_not_replaced_by_load() {
        let file = KeyFile::absent();

        let error = MasterKey::load(&file.path).unwrap_err();

        assert!(matches!(error, MasterKeyError::Read { .. }));
        assert!(!file.path.exists());
    }

    #[test]
    fn a_file_that_others_can_reach_is_refused_with_the_remedy() {
        let file = KeyFile::absent();
        MasterKey::load_or_create(&file.path).unwrap();

        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666] {
            file.set_mode(mode);
            let error = MasterKey::load_or_create(&file.path).unwrap_err();
            assert!(matches!(error, MasterKeyError::Exposed { mode: seen, .. } if seen == mode));
            assert!(error.to_string().contains(&format!("chmod 600 {}", file.path.display())));
        }
        for mode in [0o400, 0o600] {
            file.set_mode(mode);
            MasterKey::load(&file.path).unwrap();
        }
    }

    #[test]
    fn a_file_with_several_versions_keeps_them_all() {
        let [a, b, c] = ['a', 'b', 'c'].map(hex_key);
        let file = KeyFile::holding(&format!(
            "ref_key = \"{a}\"\ncurrent = 61\n[versions]\n1 = \"{b}\"\n61 = \"{c}\"\n"
        ));

        let key = MasterKey::load(&file.path).unwrap();

        assert_eq!(key.current_version(), 61);
        assert_eq!(key.versions().collect::<Vec<_>>(), [1, 61]);
        assert_ne!(key.check(1), key.check(61));
        assert_eq!(key.check(2), None);
    }

    #[test]
    fn a_wrong_file_is_refused_without_repeating_a_key() {
        let (a, b) = (hex_key('a'), hex_key('b'));
        let short = &b[1..];
        let texts = [
            String::new(),
            format!("ref_key = \"{a}\"\ncurrent = 1\n"),
            format!("ref_key = \"{a}\"\ncurrent = 1\n[versions]\n"),
            format!("current = 1\n[versions]\n1 = \"{b}\"\n"),
            format!("ref_key = \"{a}\"\n[versions]\n1 = \"{b}\"\n"),
            format!("ref_key = \"{a}\"\ncurrent = 2\n[versions]\n1 = \"{b}\"\n"),
            format!("ref_key = \"{a}\"\ncurrent = \"{b}\"\n[versions]\n1 = \"{b}\"\n"),
            format!("ref_key = \"{a}\"\ncurrent = 0\n[versions]\n0 = \"{b}\"\n"),
            format!("ref_key = \"{a}\"\ncurrent = 62\n[versions]\n62 = \"{b}\"\n"),
            format!("ref_key = \"{a}\"\ncurrent = 1\n[versions]\n01 = \"{b}\"\n"),
            format!("ref_key = \"{a}\"\ncurrent = 1\n[versions]\n1 = \"{short}\"\n"),
            format!("ref_key = \"{a}\"\ncurrent = 1\n[versions]\n1 = {b}\n"),
            format!("ref_key = \"{a}\"\ncurrent = 1\n[versions]\n1 = \"{b}\"\n1 = \"{b}\"\n"),
            format!("ref_key = \"{a}\"\ncurrent = 1\n[versions]\n1 = \"{b}\"\n{a} = \"{b}\"\n"),
            format!("ref_key = \"{a}\"\ncurrent = 1\n{b} = 1\n[versions]\n1 = \"{b}\"\n"),
            format!("ref_key = \"{a}\ncurrent = 1\n[versions]\n1 = \"{b}\"\n"),
        ];

        for text in texts {
            let file = KeyFile::holding(&text);
            let error = MasterKey::load(&file.path).expect_err(&text);
            for seen in [chain(&error), format!("{error:?}")] {
                assert!(!seen.contains("aaaaaaaa") && !seen.contains("bbbbbbbb"), "{seen}");
            }
        }
    }

    #[test]
    fn a_broken_file_is_refused_with_its_line() {
        let text = format!("ref_key = \"{}\"\ncurrent = 1\nextra = 1\n[versions]\n", hex_key('a'));
        let file = KeyFile::holding(&text);

        let error = MasterKey::load(&file.path).unwrap_err();

        assert!(matches!(error, MasterKeyError::Form { line: 3, .. }), "{error}");
    }

    #[test]
    fn two_master_keys_share_nothing() {
        let (one, other) = (MasterKey::generate(), MasterKey::generate());
        let secret = KeySecret::from_bytes([9; 32]);

        assert_ne!(one.check(1), other.check(1));
        assert_ne!(one.permutation_check(), other.permutation_check());
        assert_ne!(one.digest(1, &secret), other.digest(1, &secret));
        assert_ne!(one.fingerprint(b"body"), other.fingerprint(b"body"));
        assert_ne!(one.permute([0; 16]), other.permute([0; 16]));
    }

    #[test]
    fn what_is_stored_or_handed_out_never_changes_with_the_code() {
        let key = MasterKey::sample();
        let secret = KeySecret::from_bytes([9; 32]);

        let kept = [
            hex::encode(key.check(1).unwrap()),
            hex::encode(key.permutation_check()),
            hex::encode(key.digest(1, &secret).unwrap().as_bytes()),
            hex::encode(key.fingerprint(b"body")),
            hex::encode(key.permute([0; 16])),
            hex::encode(key.tag(1, "any", &[7; 16], &secret).unwrap()),
        ];

        // Computed by another implementation of HKDF, HMAC and AES.
        let expected = [
            "b03339d00ced6380433f97700825f932809749368bdfe3947a15adfa0b228c14",
            "ba32cf178dafd41be711f2db43fabaf6a125448015171b6dbea20d81dac1740a",
            "4007d8fe68b45f956ee53c751cb295b46e421e297c445c4a4a048eb6bdbf800c",
            "0f82789a0d85acff8ccdcc0acceeb38dfc86b36acf4c9f7074e9e451183021b1",
            "1ec088ac8530b1b8f8e845243182c996",
            "bc9c6189cd1e1710",
        ];
        assert_eq!(kept, expected);
    }

    #[test]
    fn a_fingerprint_survives_a_rotation() {
        let before = MasterKey::sample();
        let after = MasterKey::sample().with_current(VERSION_MAX);

        assert_eq!(before.fingerprint(b"body"), after.fingerprint(b"body"));
        assert_eq!(before.permute([5; 16]), after.permute([5; 16]));
    }

    #[test]
    fn an_imported_sha256_has_the_digest_of_its_secret() {
        let key = MasterKey::sample();
        let secret = KeySecret::from_bytes([9; 32]);

        assert_eq!(key.digest(1, &secret), key.digest_of_sha256(1, &secret.sha256()));
        assert_eq!(key.digest(2, &secret), None);
    }

    #[test]
    fn debug_shows_no_key() {
        let key = MasterKey::sample();

        assert_eq!(format!("{key:?}"), "MasterKey { current: 1, .. }");
    }

    proptest! {
        #[test]
        fn the_permutation_is_undone_by_its_inverse(reference: [u8; 16]) {
            let key = MasterKey::sample();

            prop_assert_eq!(key.unpermute(key.permute(reference)), reference);
        }
    }
}
