//! The text of a key: `tk_<environment or any>_<ref>_<secret>_<check>`.
//!
//! * **environment**: where the key is good, or `any`.
//! * **ref**: 16 bytes that lead to the row by its primary key. What is printed is a keyed
//!   permutation of it, so that neither the order nor the time of the keys' making shows.
//! * **secret**: 32 random bytes. Only their digest is stored.
//! * **check**: one character for the version of the master key, a CRC-32 by which scanners and
//!   clients tell a key from a typo, and a MAC by which the service tells its own key from a guess.
//!
//! So a text that was never minted here is refused without a look-up. One that was is still only a
//! claim: the row decides, by the digest of the secret.
//!
//! The bytes are in base62 of fixed width, and a value that does not fit is refused, so that a key
//! has exactly one text. `docs/key-format.md` tells all this to those who run secret scanners.

use std::fmt;

use rand::{TryRngCore as _, rngs::OsRng};
use secrecy::{
    ExposeSecret as _, SecretString,
    zeroize::{Zeroize as _, Zeroizing},
};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::master::MasterKey;

/// Finds keys in text, for secret scanners; a find counts if its CRC-32 is right too.
pub const PATTERN: &str =
    r"\btk_[a-z0-9-]{1,30}_[0-9A-Za-z]{22}_[0-9A-Za-z]{43}_[1-9A-Za-z][0-9A-Za-z]{17}\b";

/// The longest code of an environment that a key's text can carry.
pub const ENVIRONMENT_LENGTH_MAX: usize = 30;

/// Stands in the text of a key that is bound to no environment, and so is no environment's code.
pub const ANY_ENVIRONMENT: &str = "any";

const PREFIX: &str = "tk_";

/// The digits in the order of their values, which is also their order in ASCII.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

const REF_WIDTH: usize = 22;
const SECRET_WIDTH: usize = 43;
const VERSION_WIDTH: usize = 1;
const CHECKSUM_WIDTH: usize = 6;
const TAG_WIDTH: usize = 11;
const CHECK_WIDTH: usize = VERSION_WIDTH + CHECKSUM_WIDTH + TAG_WIDTH;

/// What the ref of a key leads to: the primary key of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRef {
    /// The route of the owner, a tenant or an account: the first part of the primary key.
    pub route: i64,
    /// The key's number, which grows with time so that an owner's keys list in the order of making.
    pub number: i64,
}

impl KeyRef {
    /// Gives the id by which a key is known outside: its ref as the text shows it.
    ///
    /// All of its 128 bits come from the permutation, so it names no UUID version.
    pub fn public_id(&self, master: &MasterKey) -> Uuid {
        let plain = Uuid::from_u64_pair(self.route.cast_unsigned(), self.number.cast_unsigned());
        Uuid::from_bytes(master.permute(plain.into_bytes()))
    }

    /// Finds what a public id leads to. Every id leads somewhere, most of them to no row.
    pub fn from_public_id(public_id: Uuid, master: &MasterKey) -> Self {
        let plain = Uuid::from_bytes(master.unpermute(public_id.into_bytes()));
        let (route, number) = plain.as_u64_pair();
        Self { route: route.cast_signed(), number: number.cast_signed() }
    }
}

/// The secret of a key, which whoever holds may act as the key. Wiped when dropped.
pub struct KeySecret([u8; 32]);

impl KeySecret {
    /// Draws a secret from the operating system's random numbers.
    pub fn generate() -> Self {
        Self(random())
    }

    /// Takes bytes that are already random.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }
}

impl Drop for KeySecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySecret(…)")
    }
}

/// What is stored of a secret. Compared in constant time.
///
/// It opens nothing without the master key, yet it is nobody's business and so is not printed.
#[derive(Clone, Copy)]
pub struct Digest([u8; 32]);

impl Digest {
    pub(super) fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads a stored digest; `None` if it is not of a digest's length.
    pub fn from_slice(stored: &[u8]) -> Option<Self> {
        stored.try_into().ok().map(Self)
    }

    /// Gives the bytes to store.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Digest {}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

/// A key as its holder gets it, once.
pub struct KeyText(SecretString);

impl KeyText {
    /// Shows the text. For the answer to the call that made the key, and for nothing else.
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyText(…)")
    }
}

/// What a text that was minted here says.
#[derive(Debug)]
pub struct ParsedKey<'a> {
    /// The code of the environment that the key is bound to, if it is bound to one.
    pub environment: Option<&'a str>,
    /// Where the key's row is, if it still is.
    pub key_ref: KeyRef,
    /// The secret, to be compared by its digest.
    pub secret: KeySecret,
    /// The version of the master key that the text was minted under.
    pub version: i16,
}

/// Why a text is no key of ours, found without a look-up.
///
/// Callers may log which it was; the sender of the text learns only that there is no such key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It does not look like a key.
    #[error("the text is not in the form of a key: send all of it, and nothing around it")]
    Form,
    /// It looks like a key, but was mistyped or cut.
    #[error("the key's checksum is wrong: copy the key again")]
    Checksum,
    /// Its version of the master key is not known here.
    #[error("the key is of a master key version that this service lacks: add it to the master key")]
    Version,
    /// It was not minted under this master key.
    #[error("the key was not made by this service: create one here")]
    Forged,
}

/// Tells whether a key's text can carry the code of an environment.
pub fn is_environment(code: &str) -> bool {
    code != ANY_ENVIRONMENT && has_environment_form(code)
}

/// Writes the text of a key under the current version of the master key.
///
/// # Panics
///
/// If [`is_environment`] refuses the environment. Codes are held to it when environments are
/// created; a key minted against it would never verify.
pub fn mint(
    master: &MasterKey,
    environment: Option<&str>,
    key_ref: KeyRef,
    secret: &KeySecret,
) -> KeyText {
    assert!(environment.is_none_or(is_environment), "the environment does not fit into a key");
    let environment = environment.unwrap_or(ANY_ENVIRONMENT);
    let version = master.current_version();
    let public_ref = key_ref.public_id(master).into_bytes();
    let tag = master
        .tag(version, environment, &public_ref, secret)
        .expect("the master key has its current version");

    // Of exactly the length it will have: a text that grows leaves copies of itself behind.
    let mut text = String::with_capacity(
        PREFIX.len() + environment.len() + REF_WIDTH + SECRET_WIDTH + CHECK_WIDTH + 3,
    );
    text.push_str(PREFIX);
    text.push_str(environment);
    text.push('_');
    push_base62(&mut text, public_ref, REF_WIDTH);
    text.push('_');
    push_base62(&mut text, *secret.as_bytes(), SECRET_WIDTH);
    text.push('_');
    text.push(version_digit(version));
    let checksum = crc32fast::hash(text.as_bytes());
    push_base62(&mut text, checksum.to_be_bytes(), CHECKSUM_WIDTH);
    push_base62(&mut text, tag, TAG_WIDTH);
    KeyText(text.into())
}

/// Reads the text of a key, and refuses without a look-up what was not minted here.
pub fn parse<'a>(master: &MasterKey, text: &'a str) -> Result<ParsedKey<'a>, Malformed> {
    let parts = Parts::split(text).ok_or(Malformed::Form)?;
    if crc32fast::hash(parts.summed) != parts.checksum {
        return Err(Malformed::Checksum);
    }
    let tag = master
        .tag(parts.version, parts.environment, &parts.public_ref, &parts.secret)
        .ok_or(Malformed::Version)?;
    if !bool::from(tag.ct_eq(&parts.tag)) {
        return Err(Malformed::Forged);
    }

    let environment = Some(parts.environment).filter(|&code| code != ANY_ENVIRONMENT);
    Ok(ParsedKey {
        environment,
        key_ref: KeyRef::from_public_id(Uuid::from_bytes(parts.public_ref), master),
        secret: parts.secret,
        version: parts.version,
    })
}

/// The parts of a text in the form of a key, before anything in it is believed.
struct Parts<'a> {
    environment: &'a str,
    public_ref: [u8; 16],
    secret: KeySecret,
    version: i16,
    /// What the checksum is of: all that stands before it.
    summed: &'a [u8],
    checksum: u32,
    tag: [u8; 8],
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Option<Self> {
        let mut fields = text.strip_prefix(PREFIX)?.split('_');
        let environment = fields.next().filter(|code| has_environment_form(code))?;
        let public_ref = read_base62(fields.next()?.as_bytes(), REF_WIDTH)?;
        let secret = KeySecret(read_base62(fields.next()?.as_bytes(), SECRET_WIDTH)?);
        let check = fields.next().filter(|check| check.len() == CHECK_WIDTH)?.as_bytes();
        if fields.next().is_some() {
            return None;
        }

        let (version, check) = check.split_at(VERSION_WIDTH);
        let (checksum, tag) = check.split_at(CHECKSUM_WIDTH);
        Some(Self {
            environment,
            public_ref,
            secret,
            version: i16::from(digit_value(version[0])?),
            summed: &text.as_bytes()[..text.len() - CHECKSUM_WIDTH - TAG_WIDTH],
            checksum: u32::from_be_bytes(read_base62(checksum, CHECKSUM_WIDTH)?),
            tag: read_base62(tag, TAG_WIDTH)?,
        })
    }
}

fn has_environment_form(code: &str) -> bool {
    let fits = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=ENVIRONMENT_LENGTH_MAX).contains(&code.len()) && code.bytes().all(fits)
}

fn version_digit(version: i16) -> char {
    usize::try_from(version)
        .ok()
        .and_then(|version| DIGITS.get(version))
        .map(|&digit| char::from(digit))
        .expect("the master key has no version beyond the digits")
}

/// Appends a number, big-endian and of a multiple of four bytes, in so many digits of base62.
fn push_base62<const N: usize>(text: &mut String, mut number: [u8; N], width: usize) {
    let mut digits = Zeroizing::new([0; SECRET_WIDTH]);
    for digit in digits[..width].iter_mut().rev() {
        // Long division by 62, a limb of 32 bits at a time; the remainder is the next digit.
        let mut remainder = 0;
        for limb in number.as_chunks_mut().0 {
            let dividend = remainder << 32 | u64::from(u32::from_be_bytes(*limb));
            let quotient = u32::try_from(dividend / 62).expect("a remainder is less than 62");
            *limb = quotient.to_be_bytes();
            remainder = dividend % 62;
        }
        *digit = DIGITS[usize::try_from(remainder).expect("a remainder is less than 62")];
    }
    // The divisions have also wiped this copy of the number.
    debug_assert_eq!(number, [0; N], "the width holds every number of this length");
    text.extend(digits[..width].iter().map(|&digit| char::from(digit)));
}

/// Reads a number of so many digits; `None` for another width, another digit or too great a number.
fn read_base62<const N: usize>(digits: &[u8], width: usize) -> Option<[u8; N]> {
    if digits.len() != width {
        return None;
    }
    let mut number = [0; N];
    // Five digits at a time, which are the most that a limb of 32 bits holds.
    for digits in digits.chunks(5) {
        let (mut factor, mut carry) = (1, 0);
        for &digit in digits {
            factor *= 62;
            carry = carry * 62 + u64::from(digit_value(digit)?);
        }
        for limb in number.as_chunks_mut().0.iter_mut().rev() {
            let sum = u64::from(u32::from_be_bytes(*limb)) * factor + carry;
            *limb =
                u32::try_from(sum & 0xffff_ffff).expect("the mask leaves 32 bits").to_be_bytes();
            carry = sum >> 32;
        }
        // What is carried out does not fit; to drop it would give the number a second text.
        if carry != 0 {
            return None;
        }
    }
    Some(number)
}

fn digit_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'Z' => Some(digit - b'A' + 10),
        b'a'..=b'z' => Some(digit - b'a' + 36),
        _ => None,
    }
}

/// Draws bytes from the operating system, the only source that is good enough for secrets.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    OsRng
        .try_fill_bytes(&mut bytes)
        .expect("the operating system has random numbers; without them no secret may be made");
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;
    use crate::keys::master::VERSION_MAX;

    /// The sample of `docs/key-format.md`, computed by another implementation too.
    const SAMPLE: &str = concat!(
        "tk_production_50w3Dsr5IbHp3vEyWlj8uo_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf",
        "_14JVDwD7j0G0GMutYa"
    );

    fn any_ref() -> impl Strategy<Value = KeyRef> {
        any::<(i64, i64)>().prop_map(|(route, number)| KeyRef { route, number })
    }

    fn any_environment() -> impl Strategy<Value = Option<String>> {
        proptest::option::of("[a-z0-9-]{1,30}".prop_filter("reserved", |code| is_environment(code)))
    }

    /// What a key is made of.
    fn any_key() -> impl Strategy<Value = (Option<String>, KeyRef, [u8; 32])> {
        (any_environment(), any_ref(), any::<[u8; 32]>())
    }

    fn mint_text(master: &MasterKey, key: &(Option<String>, KeyRef, [u8; 32])) -> String {
        let (environment, key_ref, secret) = key;
        let secret = KeySecret::from_bytes(*secret);
        mint(master, environment.as_deref(), *key_ref, &secret).reveal().to_owned()
    }

    fn sample_text(master: &MasterKey) -> String {
        let environment = Some("production".to_owned());
        let secret = std::array::from_fn(|place| u8::try_from(place).unwrap());
        mint_text(master, &(environment, KeyRef { route: 1, number: 2 }, secret))
    }

    /// Puts a right checksum into a text whose other parts were changed.
    fn with_checksum(text: &str) -> String {
        let (summed, rest) = text.split_at(text.len() - CHECKSUM_WIDTH - TAG_WIDTH);
        let mut mended = summed.to_owned();
        push_base62(&mut mended, crc32fast::hash(summed.as_bytes()).to_be_bytes(), CHECKSUM_WIDTH);
        mended + &rest[CHECKSUM_WIDTH..]
    }

    /// Changes the character so many places before the end.
    fn with_changed(text: &str, before_end: usize) -> String {
        let mut bytes = text.as_bytes().to_vec();
        let place = bytes.len() - before_end;
        bytes[place] = if bytes[place] == b'1' { b'2' } else { b'1' };
        String::from_utf8(bytes).unwrap()
    }

    /// The text of the next number, if the last digit is not the last there is.
    fn with_next_digit(text: &str) -> String {
        let (head, last) = text.split_at(text.len() - 1);
        let value = usize::from(digit_value(last.as_bytes()[0]).unwrap());
        format!("{head}{}", char::from(DIGITS[value + 1]))
    }

    fn refusal(master: &MasterKey, text: &str) -> Option<Malformed> {
        parse(master, text).err()
    }

    #[test]
    fn the_form_never_changes_with_the_code() {
        assert_eq!(sample_text(&MasterKey::sample()), SAMPLE);
    }

    #[test]
    fn the_page_for_scanners_tells_of_this_form() {
        let page = include_str!("../../docs/key-format.md");
        let master = MasterKey::sample();
        let public_id = parse(&master, SAMPLE).unwrap().key_ref.public_id(&master).to_string();

        for said in [PATTERN, SAMPLE, &public_id] {
            assert!(page.contains(said), "{said}");
        }
    }

    #[test]
    fn a_key_of_no_environment_says_any() {
        let master = MasterKey::sample();
        let secret = KeySecret::generate();

        let text = mint(&master, None, KeyRef { route: 1, number: 2 }, &secret);

        assert!(text.reveal().starts_with("tk_any_"));
        assert_eq!(parse(&master, text.reveal()).unwrap().environment, None);
    }

    #[test]
    fn a_key_minted_before_a_rotation_still_parses() {
        let before = MasterKey::sample();
        let text = sample_text(&before);
        let after = before.with_current(VERSION_MAX);

        assert_eq!(parse(&after, &text).unwrap().version, 1);
        assert_eq!(parse(&after, &sample_text(&after)).unwrap().version, VERSION_MAX);
        assert_ne!(text, sample_text(&after));
    }

    #[test]
    fn a_forged_tag_is_refused() {
        let master = MasterKey::sample();

        let forged = with_changed(&sample_text(&master), 1);

        assert_eq!(refusal(&master, &forged), Some(Malformed::Forged));
    }

    #[test]
    fn a_guess_with_a_right_checksum_is_refused_by_the_tag() {
        let master = MasterKey::sample();
        let text = sample_text(&master);

        let other_environment = with_checksum(&text.replace("production", "staging"));
        let other_secret = with_checksum(&with_changed(&text, CHECK_WIDTH + 3));
        let other_ref = with_checksum(&with_changed(&text, CHECK_WIDTH + SECRET_WIDTH + 5));

        for guess in [other_environment, other_secret, other_ref] {
            assert_eq!(refusal(&master, &guess), Some(Malformed::Forged), "{guess}");
        }
    }

    #[test]
    fn another_master_key_refuses() {
        let text = sample_text(&MasterKey::generate());

        assert_eq!(refusal(&MasterKey::generate(), &text), Some(Malformed::Forged));
    }

    #[test]
    fn an_unknown_version_is_refused() {
        let text = sample_text(&MasterKey::sample().with_current(VERSION_MAX));

        assert_eq!(refusal(&MasterKey::generate(), &text), Some(Malformed::Version));
    }

    #[test]
    fn a_mistyped_key_fails_by_its_checksum() {
        let master = MasterKey::sample();
        let text = sample_text(&master);

        for before_end in [TAG_WIDTH + 1, CHECK_WIDTH, CHECK_WIDTH + 2, CHECK_WIDTH + 46] {
            let mistyped = with_changed(&text, before_end);
            assert_eq!(refusal(&master, &mistyped), Some(Malformed::Checksum), "{mistyped}");
        }
    }

    #[test]
    fn what_has_not_the_form_of_a_key_is_refused() {
        let master = MasterKey::sample();
        let text = sample_text(&master);
        let texts = [
            String::new(),
            "tk_".to_owned(),
            "tk____".to_owned(),
            "tk_any_é".to_owned(),
            format!(" {text}"),
            format!("{text}\n"),
            format!("{text}_"),
            text.replace("tk_", "TK_"),
            text.replace("production", ""),
            text.replace("production", "Production"),
            text.replace("production", &"p".repeat(31)),
            format!("{}é", &text[..text.len() - 2]),
            format!("{}z", "zzzzzzzzzzz".repeat(100_000)),
        ];

        for text in texts {
            assert_eq!(refusal(&master, &text), Some(Malformed::Form), "{text:.100}");
        }
    }

    #[test]
    fn the_greatest_number_is_the_last_that_is_read() {
        let mut greatest = String::new();
        push_base62(&mut greatest, [0xff; 8], TAG_WIDTH);
        let next = with_next_digit(&greatest);

        assert_eq!(read_base62(greatest.as_bytes(), TAG_WIDTH), Some([0xff; 8]));
        assert_eq!(read_base62::<8>(next.as_bytes(), TAG_WIDTH), None);
    }

    #[test]
    fn an_environment_fits_or_is_refused() {
        for code in ["a", "production", "eu-1", "0", &"x".repeat(30)] {
            assert!(is_environment(code), "{code}");
        }
        for code in ["", "any", "Dev", "a_b", "a b", "é", &"x".repeat(31)] {
            assert!(!is_environment(code), "{code}");
        }
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_key_that_could_not_be_read_again_is_not_minted() {
        let secret = KeySecret::generate();

        mint(&MasterKey::sample(), Some("a_b"), KeyRef { route: 1, number: 2 }, &secret);
    }

    #[test]
    fn debug_shows_no_secret() {
        let master = MasterKey::sample();
        let text = sample_text(&master);
        let parsed = parse(&master, &text).unwrap();
        let digest = master.digest(1, &parsed.secret).unwrap();

        assert_eq!(format!("{:?}", parsed.secret), "KeySecret(…)");
        assert_eq!(format!("{digest:?}"), "Digest(…)");
        assert_eq!(format!("{:?}", KeyText(text.clone().into())), "KeyText(…)");
        assert_eq!(
            format!("{parsed:?}"),
            "ParsedKey { environment: Some(\"production\"), key_ref: KeyRef { route: 1, \
             number: 2 }, secret: KeySecret(…), version: 1 }"
        );
    }

    #[test]
    fn a_digest_is_read_back_from_what_is_stored() {
        let digest = Digest::new([7; 32]);

        assert_eq!(Digest::from_slice(digest.as_bytes()), Some(digest));
        assert_eq!(Digest::from_slice(&[7; 31]), None);
        assert_ne!(Digest::new([8; 32]), digest);
    }

    #[test]
    fn two_secrets_are_not_alike() {
        assert_ne!(KeySecret::generate().as_bytes(), KeySecret::generate().as_bytes());
    }

    #[test]
    fn the_pattern_is_bounded_by_words() {
        let pattern = Regex::new(PATTERN).unwrap();

        assert!(pattern.is_match(&format!("KEY=\"{SAMPLE}\";")));
        assert!(!pattern.is_match(&format!("{SAMPLE}0")));
        assert!(!pattern.is_match(&SAMPLE[..SAMPLE.len() - 1]));
    }

    proptest! {
        #[test]
        fn parsing_undoes_minting(key in any_key(), rotated: bool) {
            let master = MasterKey::sample().with_current(if rotated { VERSION_MAX } else { 1 });

            let text = mint_text(&master, &key);
            let parsed = parse(&master, &text).unwrap();

            prop_assert_eq!(parsed.version, master.current_version());
            let environment = parsed.environment.map(str::to_owned);
            prop_assert_eq!((environment, parsed.key_ref, *parsed.secret.as_bytes()), key);
        }

        #[test]
        fn a_change_of_any_one_character_is_refused(
            key in any_key(),
            place: prop::sample::Index,
            character in "[ -~é]",
        ) {
            let master = MasterKey::sample();
            let text = mint_text(&master, &key);
            let place = place.index(text.len());
            prop_assume!(text[place..=place] != character);

            let mut changed = text.clone();
            changed.replace_range(place..=place, &character);
            let mut longer = text.clone();
            longer.insert_str(place, &character);
            let mut shorter = text;
            shorter.remove(place);

            prop_assert!(refusal(&master, &changed).is_some());
            prop_assert!(refusal(&master, &longer).is_some());
            prop_assert!(refusal(&master, &shorter).is_some());
        }

        #[test]
        fn a_number_has_one_text(
            tag in "[0-9A-Za-z]{11}",
            reference in "[0-9A-Za-z]{22}",
            secret in "[0-9A-Za-z]{43}",
        ) {
            fn one_text<const N: usize>(text: &str) -> bool {
                read_base62::<N>(text.as_bytes(), text.len()).is_none_or(|number| {
                    let mut again = String::new();
                    push_base62(&mut again, number, text.len());
                    again == text
                })
            }

            prop_assert!(one_text::<8>(&tag));
            prop_assert!(one_text::<16>(&reference));
            prop_assert!(one_text::<32>(&secret));
        }

        #[test]
        fn a_text_is_read_as_the_number_it_was_written_from(number: [u8; 32]) {
            let mut text = String::new();
            push_base62(&mut text, number, SECRET_WIDTH);

            prop_assert_eq!(read_base62(text.as_bytes(), SECRET_WIDTH), Some(number));
        }

        #[test]
        fn a_public_id_leads_back_to_its_key(key_ref in any_ref()) {
            let master = MasterKey::sample();

            let public_id = key_ref.public_id(&master);

            prop_assert_eq!(KeyRef::from_public_id(public_id, &master), key_ref);
        }

        #[test]
        fn the_pattern_finds_what_is_minted(key in any_key()) {
            let master = MasterKey::sample();
            let text = mint_text(&master, &key);
            let line = format!("key: {text}, found");

            let pattern = Regex::new(PATTERN).unwrap();
            let found = pattern.find(&line).map(|found| found.as_str());

            prop_assert_eq!(found, Some(text.as_str()));
        }

        #[test]
        fn no_text_makes_parsing_panic(text in "(tk_)?[ -~é_]{0,120}") {
            prop_assert!(parse(&MasterKey::sample(), &text).is_err());
        }
    }
}
