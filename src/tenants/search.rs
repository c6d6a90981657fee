//! Finds the few tenants that a filter can mean, by index, before a list is read.
//!
//! A policy keeps Postgres from asking an index about `like`, so a list of a million tenants with a text
//! in its filter would be read from end to end. The function `search_tenants` looks first, at the texts
//! alone and within the scope, and tells the uids of those that may fit. Two things can happen:
//!
//! - They are few. The list is read from them alone.
//! - They are many. Then they lie close together in every order of the list, and the page is full soon
//!   after its place: the list is read in its order.
//!
//! Either way the conditions of the filter are asked of each tenant under its policies. What is found here
//! makes a list faster and decides nothing, so it may be wider than the filter: it ignores case, and what
//! is negated.

use diesel::sql_types::{self, Array, Integer, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use uuid::Uuid;

use crate::{
    db::Scope,
    error::Result,
    filter::{Term, Test, TextTest},
};

/// How many tenants are few. Reading as many one by one takes about as long as filling a page from a
/// million in their order, of which as many fit.
const FEW: i32 = 3000;

/// The fields that the function knows.
const FIELDS: &[&str] =
    &["tenant_id", "name", "code", "hostname", "tag", "keyword", "external_ids"];

diesel::define_sql_function! {
    /// The tenants within the scope that have such texts; null where they are more.
    fn search_tenants(
        fields: Array<Text>,
        keys: Array<Text>,
        patterns: Array<Text>,
        at_most: Integer,
    ) -> Nullable<Array<sql_types::Uuid>>;
}

/// The tenants among which all are that a filter finds, where they are few.
///
/// Where they are many, what else the transaction reads is read in its order: the planner, which cannot
/// know how many tenants a policy hides, would rather read and sort them all.
///
/// # Errors
///
/// What the database reports.
pub(super) async fn few(
    conn: &mut AsyncPgConnection,
    scope: &Scope,
    terms: &[Term],
) -> Result<Option<Vec<Uuid>>> {
    let (mut fields, mut keys, mut patterns) = (Vec::new(), Vec::new(), Vec::new());
    for term in terms {
        if is_look_up(term) {
            return Ok(None);
        }
        if let Some(pattern) = pattern(term) {
            fields.push(term.field);
            keys.push(&*term.key);
            patterns.push(pattern);
        }
    }
    let helps = match scope {
        Scope::System | Scope::Account(_) => !fields.is_empty(),
        // Its tenants are found by what is above them, of which under a policy no index is asked either.
        Scope::Provider(_) => true,
        _ => false,
    };
    if !helps {
        return Ok(None);
    }
    let search = search_tenants(fields, keys, patterns, FEW);
    let found: Option<Vec<Uuid>> = diesel::select(search).get_result(conn).await?;
    if found.is_none() {
        conn.batch_execute("set local enable_sort = off").await?;
    }
    Ok(found)
}

/// Whether Postgres by itself asks an index for the few tenants that can fit a term.
pub(crate) fn is_look_up(term: &Term) -> bool {
    let equals = matches!(&term.test, Test::Text(TextTest::Equals(value)) if !value.is_empty());
    equals
        && !term.negated
        && matches!(term.field, "tenant_id" | "code" | "hostname" | "external_ids")
}

/// What the text that a term wants is like, where the index of texts can tell.
pub(crate) fn pattern(term: &Term) -> Option<String> {
    let Test::Text(test) = &term.test else { return None };
    if term.negated || !FIELDS.contains(&term.field) {
        return None;
    }
    let pattern = match test {
        TextTest::Equals(value) => {
            value.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_")
        }
        TextTest::Like(pattern) | TextTest::LikeAnyCase(pattern) => pattern.clone(),
    };
    has_trigram(&pattern).then_some(pattern)
}

/// Whether three letters or digits in a row stand in a pattern: what the index is made of.
fn has_trigram(pattern: &str) -> bool {
    pattern.split(|c: char| !c.is_alphanumeric()).any(|run| run.chars().count() >= 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(test: TextTest) -> Term {
        Term { field: "name", key: String::new(), negated: false, test: Test::Text(test) }
    }

    #[test]
    fn the_index_is_asked_only_where_it_can_tell() {
        let asked = |test| pattern(&term(test));

        assert_eq!(asked(TextTest::Equals(r"10%_\abc".into())).unwrap(), r"10\%\_\\abc");
        assert_eq!(asked(TextTest::Like("%abc".into())).unwrap(), "%abc");
        assert_eq!(asked(TextTest::LikeAnyCase("%ab-c%".into())), None);
        assert_eq!(asked(TextTest::Equals("ab".into())), None);
        assert!(asked(TextTest::LikeAnyCase("%ärz%".into())).is_some());
    }

    #[test]
    fn what_is_negated_or_has_no_such_index_is_not_asked() {
        let wanted = term(TextTest::Equals("abc".into()));

        assert_eq!(pattern(&Term { negated: true, ..wanted.clone() }), None);
        assert_eq!(pattern(&Term { field: "labels", ..wanted }), None);
    }

    #[test]
    fn what_postgres_looks_up_by_itself_is_not_searched_for() {
        let named = |field| Term { field, ..term(TextTest::Equals("abcd".into())) };

        assert!(is_look_up(&named("code")));
        assert!(!is_look_up(&named("name")));
        assert!(!is_look_up(&Term { negated: true, ..named("code") }));
        assert!(!is_look_up(&Term { field: "code", ..term(TextTest::Like("abcd%".into())) }));
        assert!(!is_look_up(&Term { field: "code", ..term(TextTest::Equals(String::new())) }));
    }
}
