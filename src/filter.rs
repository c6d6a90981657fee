//! The filter and order grammar of every list: a part of AIP-160, read once for all.
//!
//! A filter is terms joined by `AND`; a term is `field operator value`, possibly after `NOT`. A list
//! declares its fields and their kinds; everything else about a filter is checked here, so that every
//! list refuses the same things in the same words.

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::{
    expression::{BoxableExpression, ValidGrouping, is_aggregate},
    pg::Pg,
    prelude::*,
    query_builder::QueryFragment,
    sql_types::{Bool, Text, Timestamptz},
};
use winnow::{
    ascii::{multispace0, multispace1},
    combinator::{alt, cut_err, delimited, opt, peek, preceded, repeat, separated},
    error::{StrContext, StrContextValue},
    prelude::*,
    token::{any, none_of, one_of, take_while},
};

use crate::{
    error::{Error, Result, Violation},
    pb::ErrorReason,
};

/// How long a filter may be, in bytes.
pub const FILTER_BYTES_MAX: usize = 4096;
const TERMS_MAX: usize = 20;
/// How long a value may be, in characters (3-17).
const VALUE_MAX: usize = 100;

/// A field that a list can be filtered by.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name in filters.
    pub name: &'static str,
    /// What can be asked of it.
    pub kind: FieldKind,
}

/// What can be asked of a field.
#[derive(Clone, Copy, Debug)]
pub enum FieldKind {
    /// `=` and `!=`, with `*` at either end, and `:`.
    Text,
    /// As `Text`, for the entries of a map: `labels.K`.
    Entry,
    /// Only `:`.
    Keyword,
    /// `=`, with the value as it is.
    Id,
    /// `=` with `true` or `false`.
    Bool,
    /// `=` and `!=` with one of the words, with or without the prefix.
    Choice {
        /// What the words start with in the proto.
        prefix: &'static str,
        /// The words.
        words: &'static [&'static str],
    },
    /// `=` with one of the words, with or without the prefix.
    Word {
        /// What the words start with in the proto.
        prefix: &'static str,
        /// The words.
        words: &'static [&'static str],
    },
    /// `<`, `<=`, `>` and `>=` with a time: nobody knows one to the microsecond.
    Time,
}

/// One term of a filter, checked against the fields of its list.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// Which field.
    pub field: &'static str,
    /// Which entry of it, where it is a map.
    pub key: String,
    /// Whether the rest is to be false.
    pub negated: bool,
    /// What is to be true of it.
    pub test: Test,
}

/// What is to be true of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// Of text.
    Text(TextTest),
    /// It is this.
    Bool(bool),
    /// It is this word.
    Choice(&'static str),
    /// It stands so to this time.
    Time(Comparison, DateTime<Utc>),
}

/// What is to be true of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextTest {
    /// It is this.
    Equals(String),
    /// It is like this pattern of `LIKE`.
    Like(String),
    /// It is like this pattern, whatever the case.
    LikeAnyCase(String),
}

/// How two values stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Reads a filter for a list with these fields; an empty one has no terms.
///
/// # Errors
///
/// `INVALID_FILTER`, with what is wrong, where, and what would be right.
pub fn read(text: &str, fields: &'static [Field]) -> Result<Vec<Term>> {
    check(text, fields).map_err(|why| refuse("filter", why))
}

/// Checks that a filter says something of a field without which its list would be too long. What it
/// negates does not count: that bounds nothing.
///
/// # Errors
///
/// `INVALID_FILTER`, naming the field.
pub fn demand(terms: &[Term], field: &str) -> Result<()> {
    if terms.iter().any(|term| term.field == field && !term.negated) {
        return Ok(());
    }
    Err(refuse("filter", format!("needs a term on \"{field}\" without NOT")))
}

/// Checks that a filter negates none of the fields that its list takes `=` for and nothing else.
///
/// # Errors
///
/// `INVALID_FILTER`, naming the field.
pub fn refuse_negated(terms: &[Term], fields: &[&str]) -> Result<()> {
    match terms.iter().find(|term| term.negated && fields.contains(&term.field)) {
        None => Ok(()),
        Some(term) => Err(refuse("filter", format!("\"{}\" takes =, not NOT", term.field))),
    }
}

/// By what a list is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The field.
    pub field: &'static str,
    /// From the highest down.
    pub descending: bool,
}

/// Reads an order: one of the fields, possibly followed by `asc` or `desc`. Empty means the first.
///
/// # Errors
///
/// `INVALID_FILTER`, naming the fields there are.
pub fn read_order(text: &str, fields: &[&'static str]) -> Result<Order> {
    let words = text.split_whitespace().collect::<Vec<_>>();
    let (name, descending) = match words[..] {
        [] => (fields[0], false),
        [name] | [name, "asc"] => (name, false),
        [name, "desc"] => (name, true),
        _ => ("", false),
    };
    let field = fields.iter().find(|field| **field == name).ok_or_else(|| {
        let what = format!("is not one of {}, possibly followed by \" desc\"", fields.join(", "));
        refuse("order_by", what)
    })?;
    Ok(Order { field, descending })
}

fn refuse(field: &str, why: String) -> Error {
    Error::Invalid(vec![Violation::of(ErrorReason::InvalidFilter, field, why)])
}

fn check(text: &str, fields: &'static [Field]) -> Result<Vec<Term>, String> {
    if text.len() > FILTER_BYTES_MAX {
        return Err(format!(
            "has {} bytes, of which at most {FILTER_BYTES_MAX} are allowed",
            text.len()
        ));
    }
    let terms = parse(text)?;
    if terms.len() > TERMS_MAX {
        return Err(format!("has {} terms, of which at most {TERMS_MAX} are allowed", terms.len()));
    }
    terms.into_iter().map(|term| term.check(fields)).collect()
}

// What is written, before it is known which fields there are.

#[derive(Debug, PartialEq)]
struct RawTerm {
    negated: bool,
    field: String,
    key: Option<String>,
    operator: &'static str,
    value: Vec<Character>,
}

/// A character of a value; a star that was not escaped is a wildcard.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Character {
    Plain(char),
    Star,
}

fn parse(text: &str) -> Result<Vec<RawTerm>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let terms = separated(1.., term, (multispace1, "AND", multispace1));
    delimited(multispace0, terms, multispace0).parse(text).map_err(|error| {
        let position = text[..error.offset()].chars().count() + 1;
        let rest = text[error.offset()..].trim_start();
        if rest.starts_with("OR") || rest.starts_with('(') || rest.starts_with(')') {
            return format!(
                "at character {position}: OR and parentheses are not part of the grammar; send \
                     a request for each alternative"
            );
        }
        if rest.get(..3).is_some_and(|word| word.eq_ignore_ascii_case("and")) {
            return format!("at character {position}: AND is written in capitals");
        }
        let expected = error.inner().to_string();
        let expected = expected.lines().last().unwrap_or_default();
        format!(
            "at character {position}: {}a filter is terms `field operator value` joined by \
                 AND, such as `name:\"acme\" AND type = PRODUCT`",
            if expected.is_empty() { String::new() } else { format!("{expected}; ") }
        )
    })
}

fn term(input: &mut &str) -> ModalResult<RawTerm> {
    let negated = opt(alt((("NOT", multispace1).void(), '-'.void()))).parse_next(input)?.is_some();
    let field = word.context(expected("a field name")).parse_next(input)?.to_owned();
    let key = opt(preceded(
        '.',
        cut_err(alt((quoted.map(|characters| plain(&characters)), dotted.map(str::to_owned))))
            .context(expected("the key of an entry after the dot")),
    ))
    .parse_next(input)?;
    let operator = delimited(multispace0, alt(("!=", "<=", ">=", "=", ":", "<", ">")), multispace0)
        .context(expected("one of the operators = != : < <= > >="))
        .parse_next(input)?;
    let operator = OPERATORS.iter().copied().find(|known| *known == operator).unwrap_or("=");
    let value = cut_err(alt((quoted, bare)).context(expected("a value, quoted if need be")))
        .parse_next(input)?;
    Ok(RawTerm { negated, field, key, operator, value })
}

const OPERATORS: &[&str] = &["!=", "<=", ">=", "=", ":", "<", ">"];

fn expected(what: &'static str) -> StrContext {
    StrContext::Expected(StrContextValue::Description(what))
}

fn word<'a>(input: &mut &'a str) -> ModalResult<&'a str> {
    take_while(1.., |c: char| c.is_ascii_alphanumeric() || c == '_').parse_next(input)
}

fn dotted<'a>(input: &mut &'a str) -> ModalResult<&'a str> {
    take_while(1.., |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c)).parse_next(input)
}

fn bare(input: &mut &str) -> ModalResult<Vec<Character>> {
    let characters = take_while(1.., |c: char| c.is_alphanumeric() || "_-.:@/+*".contains(c))
        .parse_next(input)?;
    Ok(characters
        .chars()
        .map(|c| if c == '*' { Character::Star } else { Character::Plain(c) })
        .collect())
}

fn quoted(input: &mut &str) -> ModalResult<Vec<Character>> {
    let quote = peek(one_of(['"', '\''])).parse_next(input)?;
    let character = alt((
        preceded('\\', any).map(Character::Plain),
        none_of([quote, '\\', '*']).map(Character::Plain),
        '*'.value(Character::Star),
    ));
    delimited(quote, repeat(0.., character), cut_err(quote.context(expected("the closing quote"))))
        .parse_next(input)
}

fn plain(characters: &[Character]) -> String {
    let plain = |character: &Character| match character {
        Character::Plain(c) => *c,
        Character::Star => '*',
    };
    characters.iter().map(plain).collect()
}

impl RawTerm {
    fn check(self, fields: &'static [Field]) -> Result<Term, String> {
        let RawTerm { negated, field: name, key, operator, value } = self;
        let Some(field) = fields.iter().find(|field| field.name == name) else {
            let names = fields.iter().map(|field| match field.kind {
                FieldKind::Entry => format!("{}.K", field.name),
                _ => field.name.to_owned(),
            });
            let names = names.collect::<Vec<_>>().join(", ");
            return Err(format!("names the field \"{name}\", which is none of {names}"));
        };
        let key = match (field.kind, key) {
            (FieldKind::Entry, None) => {
                return Err(format!("\"{name}\" needs the key of an entry: {name}.K"));
            }
            (FieldKind::Entry, Some(key)) => key,
            (_, None) => String::new(),
            (_, Some(key)) => {
                return Err(format!("\"{name}\" has no entries: leave out \".{key}\""));
            }
        };
        // A star at an end says how to compare and is not of the value; within `:` it is itself.
        let counts = |character: &&Character| **character != Character::Star || operator == ":";
        let length = value.iter().filter(counts).count();
        if length > VALUE_MAX {
            return Err(format!(
                "\"{name}\" is compared with {length} characters, of which at most {VALUE_MAX} are \
                 allowed"
            ));
        }
        if key.contains('\0') || key.chars().count() > VALUE_MAX {
            return Err(format!(
                "the key of \"{name}\" has a NUL, or more than {VALUE_MAX} characters"
            ));
        }
        if value.contains(&Character::Plain('\0')) {
            return Err(format!("\"{name}\" is compared with a NUL, which no value holds"));
        }
        let operators =
            |allowed: &str| Err(format!("\"{name}\" takes {allowed}, not \"{operator}\""));
        let (test, differs) = match (field.kind, operator) {
            (FieldKind::Text | FieldKind::Entry | FieldKind::Keyword, ":") => {
                (Test::Text(TextTest::LikeAnyCase(pattern(&value, true))), false)
            }
            (FieldKind::Text | FieldKind::Entry, "=" | "!=") => {
                let test = if value.contains(&Character::Star) {
                    check_stars(&name, &value)?;
                    TextTest::Like(pattern(&value, false))
                } else {
                    TextTest::Equals(plain(&value))
                };
                (Test::Text(test), operator == "!=")
            }
            (FieldKind::Id, "=") => (Test::Text(TextTest::Equals(plain(&value))), false),
            (FieldKind::Bool, "=") => match &*plain(&value) {
                "true" => (Test::Bool(true), false),
                "false" => (Test::Bool(false), false),
                _ => return Err(format!("\"{name}\" is true or false")),
            },
            (FieldKind::Choice { prefix, words }, "=" | "!=")
            | (FieldKind::Word { prefix, words }, "=") => {
                let value = plain(&value);
                let bare = value.strip_prefix(prefix).unwrap_or(&value);
                let word = words.iter().find(|word| **word == bare);
                let word =
                    word.ok_or_else(|| format!("\"{name}\" is one of {}", words.join(", ")))?;
                (Test::Choice(word), operator == "!=")
            }
            (FieldKind::Time, ":" | "=" | "!=") => return operators("<, <=, > and >="),
            (FieldKind::Time, _) => {
                let time = read_time(&plain(&value)).ok_or_else(|| {
                    format!("\"{name}\" is compared with a time such as 2026-11-23T12:00:00Z")
                })?;
                (Test::Time(comparison(operator), time), false)
            }
            (FieldKind::Text | FieldKind::Entry, _) => return operators("=, != and :"),
            (FieldKind::Keyword, _) => return operators(":"),
            (FieldKind::Id | FieldKind::Bool | FieldKind::Word { .. }, _) => {
                return operators("=");
            }
            (FieldKind::Choice { .. }, _) => return operators("= and !="),
        };
        Ok(Term { field: field.name, key, negated: negated != differs, test })
    }
}

fn comparison(operator: &str) -> Comparison {
    match operator {
        "<" => Comparison::Less,
        "<=" => Comparison::LessOrEqual,
        ">" => Comparison::Greater,
        _ => Comparison::GreaterOrEqual,
    }
}

fn check_stars(name: &str, value: &[Character]) -> Result<(), String> {
    let inner = value.get(1..value.len().saturating_sub(1)).unwrap_or_default();
    if inner.contains(&Character::Star) {
        return Err(format!(
            "\"{name}\" is compared with a value with * inside: * stands at either end only, and \
             \\* in quotes for a star itself"
        ));
    }
    Ok(())
}

/// The pattern of `LIKE` for a value; `contains` puts it anywhere.
fn pattern(value: &[Character], contains: bool) -> String {
    let mut pattern = String::new();
    if contains {
        pattern.push('%');
    }
    for character in value {
        match character {
            Character::Star if !contains => pattern.push('%'),
            Character::Star => pattern.push('*'),
            Character::Plain(c) => {
                if matches!(c, '\\' | '%' | '_') {
                    pattern.push('\\');
                }
                pattern.push(*c);
            }
        }
    }
    if contains {
        pattern.push('%');
    }
    pattern
}

/// A time as in RFC 3339; without a zone, UTC (3-20).
fn read_time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc())
        .or_else(|_| {
            NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").map(|time| time.and_utc())
        })
        .ok()
        .filter(|time| (0..253_402_300_800).contains(&time.timestamp()))
}

/// A condition on the rows of a table.
pub type Condition<T> = Box<dyn BoxableExpression<T, Pg, SqlType = Bool>>;

/// What a term asks of a text column.
pub fn text<T, C>(column: C, test: &TextTest) -> Condition<T>
where
    C: Expression<SqlType = Text>
        + SelectableExpression<T>
        + QueryFragment<Pg>
        + ValidGrouping<(), IsAggregate = is_aggregate::No>
        + Send
        + 'static,
{
    match test.clone() {
        TextTest::Equals(value) => Box::new(column.eq(value)),
        TextTest::Like(pattern) => Box::new(column.like(pattern)),
        TextTest::LikeAnyCase(pattern) => Box::new(column.ilike(pattern)),
    }
}

/// What a term asks of a column of times.
pub fn time<T, C>(column: C, comparison: Comparison, value: DateTime<Utc>) -> Condition<T>
where
    C: Expression<SqlType = Timestamptz>
        + SelectableExpression<T>
        + QueryFragment<Pg>
        + ValidGrouping<(), IsAggregate = is_aggregate::No>
        + Send
        + 'static,
{
    match comparison {
        Comparison::Less => Box::new(column.lt(value)),
        Comparison::LessOrEqual => Box::new(column.le(value)),
        Comparison::Greater => Box::new(column.gt(value)),
        Comparison::GreaterOrEqual => Box::new(column.ge(value)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIELDS: &[Field] = &[
        Field { name: "name", kind: FieldKind::Text },
        Field { name: "labels", kind: FieldKind::Entry },
        Field { name: "keyword", kind: FieldKind::Keyword },
        Field { name: "locked", kind: FieldKind::Bool },
        Field {
            name: "type",
            kind: FieldKind::Choice { prefix: "TENANT_TYPE_", words: &["PRODUCT", "CLIENT"] },
        },
        Field { name: "create_time", kind: FieldKind::Time },
    ];

    fn one(text: &str) -> Term {
        let mut terms = check(text, FIELDS).unwrap_or_else(|why| panic!("{text}: {why}"));
        assert_eq!(terms.len(), 1, "{text}");
        terms.remove(0)
    }

    fn text_of(filter: &str) -> TextTest {
        match one(filter).test {
            Test::Text(test) => test,
            other => panic!("{filter}: {other:?}"),
        }
    }

    #[test]
    fn an_id_and_a_word_are_compared_with_nothing_but_equals() {
        const ONLY: &[Field] = &[
            Field { name: "tenant_id", kind: FieldKind::Id },
            Field {
                name: "usage_type",
                kind: FieldKind::Word { prefix: "USAGE_TYPE_", words: &["USERS"] },
            },
        ];

        let terms = check("tenant_id = a* AND usage_type = USAGE_TYPE_USERS", ONLY).unwrap();

        assert_eq!(terms[0].test, Test::Text(TextTest::Equals("a*".to_owned())));
        assert_eq!(terms[1].test, Test::Choice("USERS"));
        for operator in ["!=", ":", "<", ">="] {
            for field in ["tenant_id", "usage_type"] {
                let refusal = check(&format!("{field} {operator} USERS"), ONLY).unwrap_err();
                assert!(refusal.contains("takes =, not"), "{refusal}");
            }
        }
        assert!(demand(&terms, "tenant_id").is_ok());
        assert!(demand(&terms, "start_time").is_err());
    }

    #[test]
    fn a_list_can_refuse_to_have_a_field_negated_and_what_is_negated_is_not_what_it_demands() {
        let terms = check("name = a AND NOT locked = true", FIELDS).unwrap();

        assert!(demand(&terms, "name").is_ok());
        assert!(demand(&terms, "locked").is_err());
        assert!(refuse_negated(&terms, &["name", "type"]).is_ok());
        let refusal = refuse_negated(&terms, &["name", "locked"]).unwrap_err();
        assert!(refusal.to_string().contains("\"locked\" takes =, not NOT"), "{refusal}");
    }

    #[test]
    fn text_is_compared_whole_at_its_ends_or_anywhere() {
        assert_eq!(text_of("name = foo"), TextTest::Equals("foo".into()));
        assert_eq!(text_of("name=\"a b\""), TextTest::Equals("a b".into()));
        assert_eq!(text_of("name = 'it\\'s'"), TextTest::Equals("it's".into()));
        assert_eq!(text_of("name = Ent*"), TextTest::Like("Ent%".into()));
        assert_eq!(text_of("name = \"*est\""), TextTest::Like("%est".into()));
        assert_eq!(text_of("name:\"enter\""), TextTest::LikeAnyCase("%enter%".into()));
        assert_eq!(text_of("keyword : x"), TextTest::LikeAnyCase("%x%".into()));
    }

    #[test]
    fn what_like_reads_as_special_is_escaped() {
        assert_eq!(text_of(r#"name:"10%_\\""#), TextTest::LikeAnyCase(r"%10\%\_\\%".into()));
        assert_eq!(text_of(r#"name = "\*x*""#), TextTest::Like("*x%".into()));
    }

    #[test]
    fn not_and_unequal_negate_and_undo_each_other() {
        assert!(one("NOT name = x").negated);
        assert!(one("-name = x").negated);
        assert!(one("name != x").negated);
        assert!(!one("NOT name != x").negated);
    }

    #[test]
    fn entries_words_truths_and_times_are_read() {
        assert_eq!(one("labels.tier = gold").key, "tier");
        assert_eq!(one("labels.\"a b\" = gold").key, "a b");
        assert_eq!(one("locked = true").test, Test::Bool(true));
        assert_eq!(one("type = CLIENT").test, Test::Choice("CLIENT"));
        assert_eq!(one("type = TENANT_TYPE_CLIENT").test, Test::Choice("CLIENT"));
        let then = DateTime::from_timestamp(1_533_396_930, 0).unwrap();
        let at = Test::Time(Comparison::GreaterOrEqual, then);
        assert_eq!(one("create_time >= 2018-08-04T15:35:30Z").test, at);
        assert_eq!(one("create_time >= \"2018-08-04T15:35:30\"").test, at);
    }

    #[test]
    fn several_terms_are_joined_by_and() {
        assert_eq!(
            check("name = a AND type=CLIENT AND NOT locked = true", FIELDS).unwrap().len(),
            3
        );
        assert!(check("   ", FIELDS).unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_remedy() {
        for (filter, told) in [
            ("nonsense = 1", "none of name, labels.K"),
            ("name > 1", "takes =, != and :"),
            ("locked != true", "takes =,"),
            ("locked = yes", "true or false"),
            ("type = X", "PRODUCT, CLIENT"),
            ("create_time > yesterday", "2026-11-23T12:00:00Z"),
            ("name = a*b*c", "either end"),
            ("labels = x", "labels.K"),
            ("name.x = y", "has no entries"),
            ("name = a OR name = b", "OR and parentheses"),
            ("(name = a)", "OR and parentheses"),
            ("foo", "operators"),
            ("name =", "a value"),
            ("name = \"a", "closing quote"),
            ("name = a b", "joined by"),
            ("name = a\0", "joined by"),
            ("name = \"a\0\"", "NUL"),
            (&format!("name = {}", "a".repeat(101)), "at most 100"),
            (&format!("name = *{}*", "a".repeat(101)), "101 characters"),
            (&format!("name:{}*", "a".repeat(100)), "101 characters"),
            (&"a".repeat(5000), "at most 4096"),
            (&vec!["name = a"; 21].join(" AND "), "at most 20"),
        ] {
            let why = check(filter, FIELDS).unwrap_err();

            assert!(why.contains(told), "{filter}: {why}");
        }
    }

    #[test]
    fn an_order_is_one_field_and_a_direction() {
        let order = |text| read_order(text, &["name", "create_time"]);

        assert_eq!(order("").unwrap(), Order { field: "name", descending: false });
        assert!(order(" create_time  desc").unwrap().descending);
        for wrong in ["x", "name up", "name, create_time", "name desc desc"] {
            assert!(order(wrong).unwrap_err().to_string().contains("name, create_time"), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text: String) {
            let _ = check(&text, FIELDS);
        }

        #[test]
        fn any_text_can_be_quoted(value in "[^\0]{0,100}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"").replace('*', "\\*");
            let filter = format!("name = \"{quoted}\"");

            prop_assert_eq!(text_of(&filter), TextTest::Equals(value));
        }
    }
}
