//! How operations are kept: all SQL on them.

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{Filter, not},
    pg::Pg,
    prelude::*,
    sql_types::Bool,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::model::{Operation, OperationState};
use crate::{
    db::Scope,
    error::{Error, Kind, Result},
    filter::{self, Field, FieldKind, Term, Test, TextTest},
    listing::no_condition,
    longrunning,
    page::{Asked, Page, Place},
    rpc::Call,
    schema::{operations, tenants},
    tenants::store::tenants_in,
};

type Condition = Box<dyn BoxableExpression<operations::table, Pg, SqlType = Bool>>;

/// The operations within a scope: an account's, and those begun from the tenants that are within it.
fn operations_in(scope: &Scope) -> Filter<operations::table, Condition> {
    let within: Condition = match scope {
        Scope::System => Box::new(operations::operation_id.eq(operations::operation_id)),
        Scope::Account(account) => Box::new(operations::account_id.eq(account.clone())),
        Scope::Tenant(_) | Scope::Tenants(_) | Scope::Provider(_) => {
            let tenants = tenants_in(scope).into_boxed::<Pg>().select(tenants::uid);
            let of_tenant = operations::tenant_uid.assume_not_null().eq_any(tenants);
            Box::new(operations::tenant_uid.is_not_null().and(of_tenant))
        }
        // They see tenants, and not what becomes of them for others.
        Scope::Reseller { .. } | Scope::Publisher(_) => {
            Box::new(operations::operation_id.ne(operations::operation_id))
        }
    };
    QueryDsl::filter(operations::table, within)
}

/// Stores a new operation.
pub(super) async fn insert(conn: &mut AsyncPgConnection, operation: &Operation) -> Result<()> {
    diesel::insert_into(operations::table).values(operation).execute(conn).await?;
    Ok(())
}

/// Finds an operation.
pub(super) async fn find(
    conn: &mut AsyncPgConnection,
    scope: &Scope,
    id: Uuid,
) -> Result<Operation> {
    operations_in(scope)
        .filter(operations::operation_id.eq(id))
        .select(Operation::as_select())
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| not_found(id))
}

/// Finds an operation, once nobody works on it, and keeps others from it until the transaction ends.
pub(super) async fn find_for_update(
    conn: &mut AsyncPgConnection,
    scope: &Scope,
    id: Uuid,
) -> Result<Operation> {
    operations_in(scope)
        .filter(operations::operation_id.eq(id))
        .select(Operation::as_select())
        .for_update()
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| not_found(id))
}

fn not_found(id: Uuid) -> Error {
    Error::not_found(Kind::Operation, format!("operations/{id}"))
}

/// Finds the next operation to work on, and keeps others from it until the transaction ends: one that
/// is not done and that nobody works on, first those that were tried least. What was begun after
/// `recently` is left to whoever began it, and has yet to lock it.
pub(super) async fn next_open(
    conn: &mut AsyncPgConnection,
    recently: DateTime<Utc>,
) -> Result<Option<Operation>> {
    let open = [OperationState::Scheduled, OperationState::Processing];
    let is_left = operations::attempt_time
        .is_null()
        .or(operations::attempt_time.assume_not_null().le(recently));
    Ok(operations::table
        .filter(operations::state.eq_any(open))
        .filter(is_left)
        .order((operations::attempts, operations::operation_id))
        .select(Operation::as_select())
        .for_update()
        .skip_locked()
        .first(conn)
        .await
        .optional()?)
}

/// Takes an operation that is worked on, until the transaction ends; none where somebody else has it, or
/// it is done or gone.
pub(super) async fn take_processing(
    conn: &mut AsyncPgConnection,
    id: Uuid,
) -> Result<Option<Operation>> {
    Ok(operations::table
        .find(id)
        .filter(operations::state.eq(OperationState::Processing))
        .select(Operation::as_select())
        .for_update()
        .skip_locked()
        .first(conn)
        .await
        .optional()?)
}

/// Stores that work on an operation begins.
pub(super) async fn begin(conn: &mut AsyncPgConnection, operation: &Operation) -> Result<()> {
    diesel::update(operations::table.find(operation.operation_id))
        .set((
            operations::state.eq(operation.state),
            operations::attempts.eq(operation.attempts),
            operations::attempt_time.eq(operation.attempt_time),
            operations::processing_start_time.eq(operation.processing_start_time),
        ))
        .execute(conn)
        .await?;
    Ok(())
}

/// Stores that an operation is done, or its result taken.
pub(super) async fn end(conn: &mut AsyncPgConnection, operation: &Operation) -> Result<()> {
    diesel::update(operations::table.find(operation.operation_id))
        .set((
            operations::state.eq(operation.state),
            operations::tenant_id.eq(&operation.tenant_id),
            operations::processing_end_time.eq(operation.processing_end_time),
            operations::error.eq(&operation.error),
            operations::worker_key.eq(&operation.worker_key),
            operations::request.eq(&operation.request),
            operations::result.eq(&operation.result),
            operations::take_time.eq(operation.take_time),
            operations::expire_time.eq(operation.expire_time),
        ))
        .execute(conn)
        .await?;
    Ok(())
}

/// Deletes an operation.
pub(super) async fn delete(conn: &mut AsyncPgConnection, id: Uuid) -> Result<()> {
    diesel::delete(operations::table.find(id)).execute(conn).await?;
    Ok(())
}

/// Deletes the operations that are kept no longer; answers how many.
///
/// # Errors
///
/// What the database reports.
pub(crate) async fn delete_expired(conn: &mut AsyncPgConnection) -> Result<usize> {
    let expired = operations::expire_time.assume_not_null().lt(diesel::dsl::now);
    Ok(diesel::delete(operations::table.filter(expired)).execute(conn).await?)
}

const FIELDS: &[Field] = &[
    Field {
        name: "state",
        kind: FieldKind::Choice { prefix: "OPERATION_STATE_", words: OperationState::TEXTS },
    },
    Field { name: "done", kind: FieldKind::Bool },
    Field { name: "tenant_id", kind: FieldKind::Id },
    Field { name: "init_time", kind: FieldKind::Time },
];

/// A list of operations that was asked for.
pub(super) struct Query {
    page: Page,
    terms: Vec<Term>,
}

impl Query {
    /// Reads a request.
    pub(super) fn read(call: &Call, request: &longrunning::ListOperationsRequest) -> Result<Self> {
        let longrunning::ListOperationsRequest {
            name,
            filter,
            page_size,
            page_token,
            return_partial_success,
        } = request;
        if !["", "operations"].contains(&&**name) {
            return Err(Error::invalid("name", "is neither empty nor \"operations\""));
        }
        if *return_partial_success {
            let why = "cannot be true: all operations are in one place";
            return Err(Error::invalid("return_partial_success", why));
        }
        let asked = Asked { page_size: *page_size, page_token, filter, ..Asked::default() };
        let page = Page::read(call, asked)?;
        let terms = filter::read(&page.filter, FIELDS)?;
        Ok(Self { page, terms })
    }

    /// Reads the page; answers its operations, the oldest first, and the token of the next one.
    pub(super) async fn run(
        &self,
        conn: &mut AsyncPgConnection,
        scope: &Scope,
    ) -> Result<(Vec<Operation>, String)> {
        let mut query = operations_in(scope).into_boxed::<Pg>();
        for term in &self.terms {
            let condition = condition(term)?;
            query =
                if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
        }
        if let Some(place) = &self.page.after {
            let last = place.id.parse::<Uuid>().map_err(|_| self.page.misplaced())?;
            query = query.filter(operations::operation_id.gt(last));
        }
        // Made by one clock, the ids are in the order of their making.
        let mut found: Vec<Operation> = query
            .order(operations::operation_id)
            .limit(self.page.limit())
            .select(Operation::as_select())
            .load(conn)
            .await?;
        let token = self.page.finish(&mut found, |operation| Place {
            value: String::new(),
            id: operation.operation_id.to_string(),
        });
        Ok((found, token))
    }
}

fn condition(term: &Term) -> Result<Condition> {
    Ok(match (term.field, &term.test) {
        ("state", Test::Choice(word)) => Box::new(operations::state.eq(*word)),
        ("done", Test::Bool(true)) => Box::new(operations::processing_end_time.is_not_null()),
        ("done", Test::Bool(false)) => Box::new(operations::processing_end_time.is_null()),
        ("tenant_id", Test::Text(TextTest::Equals(id))) => {
            Box::new(operations::tenant_id.is_not_distinct_from(Some(id.clone())))
        }
        ("init_time", Test::Time(comparison, time)) => {
            filter::time(operations::init_time, *comparison, *time)
        }
        (field, _) => return Err(no_condition(field)),
    })
}
