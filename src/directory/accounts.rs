//! Accounts: the organisations that operate tenants.

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{Filter, exists, not},
    pg::Pg,
    prelude::*,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::still_in_use;
use crate::{
    db::Scope,
    error::{Error, Kind, Result},
    events::outbox::Event,
    filter::{self, Condition, Field, FieldKind, Test},
    keys::model::KeyScope,
    listing::{Listing, no_condition},
    mask::masked,
    page::{Asked, Place},
    pb,
    rpc::{
        Call,
        mutate::{Change, check_etag, etag},
        permit::json_of,
    },
    schema::{accounts, application_ids},
    seek,
    wire::{Fields, id, request_id, text, timestamp},
};

/// An organisation that operates tenants and publishes applications.
#[derive(Clone, Debug, PartialEq, Eq, HasQuery, Insertable, AsChangeset)]
#[diesel(table_name = accounts, primary_key(account_id), treat_none_as_null = true)]
#[diesel(check_for_backend(Pg))]
pub struct Account {
    /// Chosen, immutable.
    pub account_id: String,
    /// Display name.
    pub name: String,
    /// Whether its new tenants wait for approval (4-08).
    pub tenant_creation_approval_required: bool,
    /// How many tenants it may have; no limit where none (4-18).
    pub max_tenants: Option<i32>,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it was changed last.
    pub update_time: DateTime<Utc>,
    /// Counts the changes.
    pub version: i64,
}

/// The accounts that a call may see: all, or its own. Every query of this file starts from it.
fn accounts_of(call: &Call) -> Filter<accounts::table, Condition<accounts::table>> {
    let within: Condition<accounts::table> = match (&call.scope, &call.account) {
        (Scope::System, _) => Box::new(accounts::account_id.eq(accounts::account_id)),
        (_, Some(account)) => Box::new(accounts::account_id.eq(account.clone())),
        (_, None) => Box::new(accounts::account_id.ne(accounts::account_id)),
    };
    QueryDsl::filter(accounts::table, within)
}

/// Reads what an account asks of its new tenants: whether they wait for approval, and how many it may
/// have.
///
/// # Errors
///
/// Not found within the scope of the transaction, or what the database reports.
pub async fn terms(conn: &mut AsyncPgConnection, account_id: &str) -> Result<(bool, Option<i32>)> {
    accounts::table
        .find(account_id)
        .select((accounts::tenant_creation_approval_required, accounts::max_tenants))
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Account, account_id))
}

/// Checks that an account exists within the scope of the transaction.
///
/// # Errors
///
/// Not found, or what the database reports.
pub async fn require(conn: &mut AsyncPgConnection, account_id: &str) -> Result<()> {
    let found: i64 = accounts::table.find(account_id).count().get_result(conn).await?;
    if found == 1 { Ok(()) } else { Err(Error::not_found(Kind::Account, account_id)) }
}

/// Finds an account.
pub(super) async fn find(
    conn: &mut AsyncPgConnection,
    call: &Call,
    account_id: &str,
) -> Result<Account> {
    accounts_of(call)
        .filter(accounts::account_id.eq(account_id))
        .select(Account::as_select())
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Account, account_id))
}

/// Finds an account and keeps others from changing it until the transaction ends.
async fn hold(change: &mut Change<'_>, account_id: &str) -> Result<Account> {
    accounts_of(change.call)
        .filter(accounts::account_id.eq(account_id))
        .select(Account::as_select())
        .for_update()
        .get_result(change.conn())
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Account, account_id))
}

/// What a caller may say of a new account.
pub(super) struct NewAccount {
    account_id: String,
    name: String,
    approval_required: bool,
    max_tenants: Option<i32>,
}

impl TryFrom<&pb::CreateAccountRequest> for NewAccount {
    type Error = Error;

    fn try_from(request: &pb::CreateAccountRequest) -> Result<Self> {
        let pb = request.account.as_ref().ok_or(Error::invalid("account", "is required"))?;
        let mut fields = Fields::default();
        fields.take("request_id", request_id(&request.request_id));
        let account_id = fields.take("account.account_id", id(&pb.account_id));
        let name = fields.take("account.name", read_name(pb));
        let max_tenants = fields.take("account.max_tenants", read_limit(pb.max_tenants));
        fields.finish()?;
        let (Some(account_id), Some(name), Some(max_tenants)) = (account_id, name, max_tenants)
        else {
            return Err(Error::internal("a field was refused without a violation"));
        };
        let approval_required = pb.tenant_creation_approval_required.unwrap_or_default();
        Ok(Self { account_id, name, approval_required, max_tenants })
    }
}

fn read_name(pb: &pb::Account) -> Result<String, String> {
    text(pb.name.as_deref().unwrap_or_default(), 1, 80)
}

fn read_limit(limit: Option<i32>) -> Result<Option<i32>, String> {
    match limit {
        Some(limit) if !(0..=MAX_TENANTS_MAX).contains(&limit) => {
            Err(format!("is not 0 to {MAX_TENANTS_MAX}"))
        }
        limit => Ok(limit),
    }
}

/// Creates an account.
pub(super) async fn create(change: &mut Change<'_>, new: &NewAccount) -> Result<Account> {
    let account = Account {
        account_id: new.account_id.clone(),
        name: new.name.clone(),
        tenant_creation_approval_required: new.approval_required,
        max_tenants: new.max_tenants,
        create_time: change.now,
        update_time: change.now,
        version: 1,
    };
    // The history of other accounts' tenants names it: who has that id sees, and ends, what is of it.
    let published =
        application_ids::table.filter(application_ids::account_id.eq(&account.account_id));
    let has_been: bool = diesel::select(exists(published)).get_result(change.conn()).await?;
    if has_been {
        let id = account.account_id;
        return Err(Error::AlreadyExists { kind: Kind::Account, what: "account_id", id });
    }
    let rows = diesel::insert_into(accounts::table)
        .values(&account)
        .on_conflict_do_nothing()
        .execute(change.conn())
        .await?;
    if rows == 0 {
        let id = account.account_id;
        return Err(Error::AlreadyExists { kind: Kind::Account, what: "account_id", id });
    }
    tell(change, "account.created", None, Some(&account)).await?;
    Ok(account)
}

/// Changes an account. Its limit is the operator's: no account raises itself.
pub(super) async fn update(
    change: &mut Change<'_>,
    request: &pb::UpdateAccountRequest,
) -> Result<Account> {
    let pb = request.account.as_ref().ok_or(Error::invalid("account", "is required"))?;
    let present = [
        ("name", pb.name.is_some()),
        ("tenant_creation_approval_required", pb.tenant_creation_approval_required.is_some()),
        ("max_tenants", pb.max_tenants.is_some()),
    ];
    let paths = masked(request.update_mask.as_ref(), &present, FIXED)?;
    let mut fields = Fields::default();
    let named = |path| paths.contains(&path);
    let name = named("name").then(|| fields.take("account.name", read_name(pb)));
    let max_tenants = named("max_tenants")
        .then(|| fields.take("account.max_tenants", read_limit(pb.max_tenants)));
    fields.finish()?;
    let call = change.call;
    let account_id = call.account_id("account.account_id", &pb.account_id)?;
    let before = hold(change, account_id).await?;
    let sent = if request.etag.is_empty() { &pb.etag } else { &request.etag };
    check_etag(sent, before.version, Kind::Account, account_id)?;
    let mut after = before.clone();
    after.name = name.flatten().unwrap_or(after.name);
    after.max_tenants = max_tenants.flatten().unwrap_or(after.max_tenants);
    if named("tenant_creation_approval_required") {
        after.tenant_creation_approval_required =
            pb.tenant_creation_approval_required.unwrap_or_default();
    }
    if after == before {
        return Ok(before);
    }
    if after.max_tenants != before.max_tenants && call.caller.scope != KeyScope::System {
        return Err(Error::Forbidden {
            permission: "DIRECTORY:EDIT".to_owned(),
            message: "max_tenants is the operator's: use a key with the scope SYSTEM".to_owned(),
        });
    }
    after.update_time = change.now;
    after.version += 1;
    diesel::update(accounts::table.find(&after.account_id))
        .set(&after)
        .execute(change.conn())
        .await?;
    tell(change, "account.updated", Some(&before), Some(&after)).await?;
    Ok(after)
}

/// Deletes an account to which nothing points.
pub(super) async fn delete(
    change: &mut Change<'_>,
    account_id: &str,
    sent_etag: &str,
) -> Result<()> {
    let account = hold(change, account_id).await?;
    check_etag(sent_etag, account.version, Kind::Account, account_id)?;
    diesel::delete(accounts::table.find(account_id)).execute(change.conn()).await.map_err(
        |error| {
            still_in_use(
                error,
                Kind::Account,
                account_id,
                "tenants, keys, applications, resellers, products or templates",
            )
        },
    )?;
    tell(change, "account.deleted", Some(&account), None).await
}

async fn tell(
    change: &mut Change<'_>,
    kind: &'static str,
    before: Option<&Account>,
    after: Option<&Account>,
) -> Result<()> {
    let json = |account: &Account| json_of(&pb::Account::from(account.clone()));
    let Some(Account { account_id, .. }) = after.or(before) else {
        return Err(Error::internal("an event of nothing"));
    };
    change
        .record(Event {
            kind,
            account_id: Some(account_id),
            tenant: None,
            resource_type: "account",
            resource_id: account_id,
            before: before.map(json),
            after: after.map(json),
        })
        .await
}

/// More than any account will have.
const MAX_TENANTS_MAX: i32 = 100_000_000;

const FIXED: &[&str] = &["account_id", "create_time", "update_time", "etag"];

const FIELDS: &[Field] = &[
    Field { name: "account_id", kind: FieldKind::Text },
    Field { name: "name", kind: FieldKind::Text },
    Field { name: "create_time", kind: FieldKind::Time },
];

const ORDERS: &[&str] = &["account_id", "name", "create_time"];

/// A list of accounts that was asked for.
pub(super) struct Query(Listing);

impl Query {
    /// Reads a request.
    pub(super) fn read(call: &Call, request: &pb::ListAccountsRequest) -> Result<Self> {
        let pb::ListAccountsRequest { page_size, page_token, filter, order_by } = request;
        let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
        Listing::read(call, asked, FIELDS, ORDERS).map(Self)
    }

    /// Reads the page.
    pub(super) async fn run(
        &self,
        conn: &mut AsyncPgConnection,
        call: &Call,
    ) -> Result<(Vec<Account>, String)> {
        let Listing { page, terms, order } = &self.0;
        let mut query = accounts_of(call).into_boxed::<Pg>();
        for term in terms {
            let condition: Condition<accounts::table> = match (term.field, &term.test) {
                ("account_id", Test::Text(test)) => filter::text(accounts::account_id, test),
                ("name", Test::Text(test)) => filter::text(accounts::name, test),
                ("create_time", Test::Time(comparison, time)) => {
                    filter::time(accounts::create_time, *comparison, *time)
                }
                (field, _) => {
                    return Err(no_condition(field));
                }
            };
            query =
                if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
        }
        let behind = |place: &Place| accounts::account_id.gt(place.id.clone());
        let after = page.after.as_ref();
        let down = order.descending;
        let query = match order.field {
            "name" => {
                let after = after.map(|place| (place.value.clone(), behind(place)));
                seek!(query, accounts::name, after, down)
            }
            "create_time" => {
                let after = match after {
                    Some(place) => Some((page.time(place)?, behind(place))),
                    None => None,
                };
                seek!(query, accounts::create_time, after, down)
            }
            _ => {
                let after = after.map(|place| (place.value.clone(), behind(place)));
                seek!(query, accounts::account_id, after, down)
            }
        };
        let mut found: Vec<Account> = query
            .then_order_by(accounts::account_id)
            .limit(page.limit())
            .select(Account::as_select())
            .load(conn)
            .await?;
        let token = page.finish(&mut found, |row| {
            let value = match order.field {
                "name" => row.name.clone(),
                "create_time" => row.create_time.timestamp_micros().to_string(),
                _ => row.account_id.clone(),
            };
            Place { value, id: row.account_id.clone() }
        });
        Ok((found, token))
    }
}

impl From<Account> for pb::Account {
    fn from(account: Account) -> Self {
        let Account {
            account_id,
            name,
            tenant_creation_approval_required,
            max_tenants,
            create_time,
            update_time,
            version,
        } = account;
        Self {
            account_id,
            name: Some(name),
            tenant_creation_approval_required: Some(tenant_creation_approval_required),
            max_tenants,
            create_time: Some(timestamp(create_time)),
            update_time: Some(timestamp(update_time)),
            etag: etag(version),
        }
    }
}
