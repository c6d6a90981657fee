//! Which tenants a list shows, in which order (3-17 to 3-19, 1-40).

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{self, not},
    pg::Pg,
    prelude::*,
    sql_types::{Bool, Nullable, Text, Timestamptz},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use prost::Message as _;
use uuid::Uuid;

use super::{
    model::{ContractMode, OrganizationKind, ServiceLine, Tenant, TenantState, TenantType},
    placement::PLACE,
    search,
    store::{Claim, Condition, complete, tenants_in},
};
use crate::{
    config::Settings,
    db::Scope,
    error::{Error, Result, Violation},
    filter::{self, Field, FieldKind, Term, Test, TextTest},
    listing::{Listing, no_condition},
    page::{Asked, Place},
    pb::{self, ErrorReason},
    rpc::Call,
    schema::{backends, tenant_directory, tenant_external_ids, tenants},
    seek,
};

const fn word(prefix: &'static str, words: &'static [&'static str]) -> FieldKind {
    FieldKind::Word { prefix, words }
}

const FIELDS: &[Field] = &[
    Field { name: "tenant_id", kind: FieldKind::Text },
    Field { name: "name", kind: FieldKind::Text },
    Field { name: "hostname", kind: FieldKind::Text },
    Field { name: "code", kind: FieldKind::Text },
    Field { name: "tag", kind: FieldKind::Text },
    Field { name: "parent_tenant_id", kind: FieldKind::Text },
    Field { name: "keyword", kind: FieldKind::Keyword },
    Field { name: "external_ids", kind: FieldKind::Entry },
    Field { name: "reseller_id", kind: FieldKind::Text },
    Field { name: "backend_id", kind: FieldKind::Text },
    Field { name: "backend_external_name", kind: FieldKind::Text },
    Field { name: "labels", kind: FieldKind::Entry },
    Field { name: "locked", kind: FieldKind::Bool },
    Field { name: "effective_locked", kind: FieldKind::Bool },
    Field { name: "protected", kind: FieldKind::Bool },
    Field { name: "service_provider", kind: FieldKind::Bool },
    Field { name: "authentication_account", kind: FieldKind::Bool },
    Field { name: "issuance_account", kind: FieldKind::Bool },
    Field { name: "sp_idp", kind: FieldKind::Bool },
    Field { name: "console", kind: FieldKind::Bool },
    // UNKNOWN is asked for by callers of an older product; no tenant here has it (3-07).
    Field {
        name: "contract_mode",
        kind: word("CONTRACT_MODE_", &["PRODUCTION", "TRIAL", "UNKNOWN"]),
    },
    Field { name: "state", kind: word("TENANT_STATE_", TenantState::TEXTS) },
    Field { name: "type", kind: word("TENANT_TYPE_", TenantType::TEXTS) },
    Field { name: "organization_kind", kind: word("ORGANIZATION_KIND_", OrganizationKind::TEXTS) },
    Field { name: "create_time", kind: FieldKind::Time },
];

const ORDERS: &[&str] = &[
    "create_time",
    "name",
    "tenant_id",
    "hostname",
    "contract_mode",
    "locked",
    "service_provider",
    "authentication_account",
    "issuance_account",
    "sp_idp",
];

/// A list of tenants that was asked for.
pub struct TenantQuery {
    listing: Listing,
    show_deleted: bool,
    tells_backend: bool,
    /// Whether the telephony platform has data of all tenants (2-17).
    data_of_all: bool,
}

impl TenantQuery {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// What is wrong with its filter, order or page.
    pub fn read(
        call: &Call,
        request: &pb::ListTenantsRequest,
        settings: &Settings,
    ) -> Result<Self> {
        let pb::ListTenantsRequest { page_size, page_token, filter, order_by, show_deleted } =
            request;
        let more = if *show_deleted { "deleted" } else { "" };
        let asked = Asked { page_size: *page_size, page_token, filter, order_by, more };
        let listing = Listing::read(call, asked, FIELDS, ORDERS)?;
        // Where tenants are placed is for those who place them, in a search of the whole system (2-28).
        let places = call.scope == Scope::System && call.caller.may(PLACE);
        if !places && listing.terms.iter().any(|term| term.field.starts_with("backend_")) {
            if call.caller.may(PLACE) {
                let why = "says where tenants are placed, which is for searches of the whole system: \
                           leave out x-account-id";
                return Err(Error::Invalid(vec![Violation::of(
                    ErrorReason::InvalidFilter,
                    "filter",
                    why,
                )]));
            }
            return Err(Error::ParameterForbidden { field: "filter", permission: PLACE });
        }
        let tells_backend = places && settings.list.return_backend;
        let data_of_all = settings.auto_create.tenant_data;
        Ok(Self { listing, show_deleted: *show_deleted, tells_backend, data_of_all })
    }

    /// Reads the page; answers its tenants and the token of the next one.
    ///
    /// # Errors
    ///
    /// What the database reports.
    pub async fn run(
        &self,
        conn: &mut AsyncPgConnection,
        scope: &Scope,
        now: DateTime<Utc>,
    ) -> Result<(Vec<pb::Tenant>, String)> {
        let Listing { page, terms, order } = &self.listing;
        // A plan for any account and any filter cannot tell a small account, which is best sorted, from a
        // large one, which is best read in its order.
        conn.batch_execute("set local plan_cache_mode = force_custom_plan").await?;
        let mut query = tenants_in(scope).into_boxed::<Pg>();
        if !self.show_deleted {
            query = query.filter(tenants::state.ne(TenantState::Deleted));
        }
        for term in terms {
            let condition = condition(term, now)?;
            query =
                if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
        }
        if let Some(few) = search::few(conn, scope, terms).await? {
            query = query.filter(tenants::uid.eq_any(few));
        }
        let after = match &page.after {
            None => None,
            Some(Place { value, id }) => {
                Some((value.clone(), id.parse::<Uuid>().map_err(|_| page.misplaced())?))
            }
        };
        let text = |(value, uid): (String, Uuid)| (value, tenants::uid.gt(uid));
        let truth = |(value, uid): (String, Uuid)| (value == "true", tenants::uid.gt(uid));
        let down = order.descending;
        let query = match order.field {
            "name" => seek!(query, tenants::name, after.map(text), down),
            "tenant_id" => seek!(query, tenants::tenant_id, after.map(text), down),
            "hostname" => seek!(query, tenants::hostname, after.map(text), down),
            "contract_mode" => {
                let mode = |(value, uid): (String, Uuid)| {
                    let trial = value == ContractMode::Trial.as_str();
                    let mode = if trial { ContractMode::Trial } else { ContractMode::Production };
                    (mode, tenants::uid.gt(uid))
                };
                seek!(query, tenants::contract_mode, after.map(mode), down)
            }
            "locked" => seek!(query, locked_at(now), after.map(truth), down),
            "service_provider" => {
                let is_provider =
                    || tenants::organization_kind.eq(OrganizationKind::ServiceProvider);
                seek!(query, is_provider(), after.map(truth), down)
            }
            "authentication_account" => {
                let is_line = || tenants::service_line.eq(ServiceLine::Authentication);
                seek!(query, is_line(), after.map(truth), down)
            }
            "issuance_account" => {
                let is_line = || tenants::service_line.eq(ServiceLine::Issuance);
                seek!(query, is_line(), after.map(truth), down)
            }
            "sp_idp" => seek!(query, tenants::sp_idp, after.map(truth), down),
            _ => {
                let time = match (&page.after, after) {
                    (Some(place), Some((_, uid))) => {
                        Some((page.time(place)?, tenants::uid.gt(uid)))
                    }
                    _ => None,
                };
                seek!(query, tenants::create_time, time, down)
            }
        };
        let found: Vec<Tenant> = query
            .then_order_by(tenants::uid)
            .limit(page.limit())
            .select(Tenant::as_select())
            .load(conn)
            .await?;
        let places = found.iter().map(|tenant| self.place(tenant, now)).collect::<Vec<_>>();
        let told = complete(conn, now, found).await?.into_iter().map(|record| {
            let backend = record.tenant.backend_id.clone().filter(|_| self.tells_backend);
            pb::Tenant { backend_id: backend, ..record.with_data(self.data_of_all).into() }
        });
        let mut told = told.zip(places).collect::<Vec<_>>();
        let bytes = |(tenant, _): &(pb::Tenant, Place)| tenant.encoded_len();
        let token = page.finish_within(&mut told, bytes, |(_, place)| place.clone());
        Ok((told.into_iter().map(|(tenant, _)| tenant).collect(), token))
    }

    fn place(&self, tenant: &Tenant, now: DateTime<Utc>) -> Place {
        let value = match self.listing.order.field {
            "name" => tenant.name.clone(),
            "tenant_id" => tenant.tenant_id.clone(),
            "hostname" => tenant.hostname.clone(),
            "contract_mode" => tenant.contract_mode.as_str().to_owned(),
            "locked" => tenant.lock.at(now).is_some().to_string(),
            "service_provider" => {
                (tenant.organization_kind == OrganizationKind::ServiceProvider).to_string()
            }
            "authentication_account" => {
                (tenant.service_line == ServiceLine::Authentication).to_string()
            }
            "issuance_account" => (tenant.service_line == ServiceLine::Issuance).to_string(),
            "sp_idp" => tenant.sp_idp.to_string(),
            _ => tenant.create_time.timestamp_micros().to_string(),
        };
        Place { value, id: tenant.uid.to_string() }
    }
}

diesel::define_sql_function! {
    /// The first of two that is there.
    fn coalesce(value: Nullable<Text>, otherwise: Text) -> Text;
}

/// Hostnames are stored in lower case, so they are compared in it.
fn lower(test: &TextTest) -> TextTest {
    match test {
        TextTest::Equals(value) => TextTest::Equals(value.to_ascii_lowercase()),
        TextTest::Like(pattern) => TextTest::Like(pattern.to_ascii_lowercase()),
        TextTest::LikeAnyCase(pattern) => TextTest::LikeAnyCase(pattern.clone()),
    }
}

/// Whether a tenant's own lock is in force.
#[diesel::dsl::auto_type(no_type_alias)]
fn locked_at(now: DateTime<Utc>) -> _ {
    let goes_on = tenants::unlock_time.assume_not_null().gt(now);
    tenants::lock_mode.is_not_null().and(tenants::unlock_time.is_null().or(goes_on))
}

/// Whether a tenant or one above it is locked, also above what the scope sees (3-22).
fn effectively_locked_at(now: DateTime<Utc>) -> Condition {
    let above = dsl::sql::<Bool>("tenants.ancestors && array(select locked_tenants(")
        .bind::<Timestamptz, _>(now)
        .sql("))");
    Box::new(locked_at(now).or(above))
}

/// Whether a tenant is the one that claims a key: a question to an index.
fn claimed(kind: Claim, key: &str) -> Condition {
    let holder = tenant_directory::table
        .filter(tenant_directory::kind.eq(kind.as_str()))
        .filter(tenant_directory::key.eq(key.to_owned()))
        .select(tenant_directory::tenant_uid);
    Box::new(tenants::uid.eq_any(holder))
}

fn condition(term: &Term, now: DateTime<Utc>) -> Result<Condition> {
    let Term { field, key, negated: _, test } = term;
    Ok(match (*field, test) {
        ("tenant_id", Test::Text(TextTest::Equals(id))) => claimed(Claim::TenantId, id),
        ("code", Test::Text(TextTest::Equals(code))) => claimed(Claim::Code, code),
        // The claims know nothing of those without one.
        ("hostname", Test::Text(TextTest::Equals(name))) if !name.is_empty() => {
            claimed(Claim::Hostname, &name.to_ascii_lowercase())
        }
        ("tenant_id", Test::Text(test)) => filter::text(tenants::tenant_id, test),
        ("name", Test::Text(test)) => filter::text(tenants::name, test),
        ("hostname", Test::Text(test)) => filter::text(tenants::hostname, &lower(test)),
        ("code", Test::Text(test)) => filter::text(tenants::code, test),
        ("tag", Test::Text(test)) => filter::text(tenants::tag, test),
        ("keyword", Test::Text(test)) => {
            let in_name: Condition = filter::text(tenants::name, test);
            Box::new(in_name.or(filter::text(tenants::code, test)))
        }
        ("parent_tenant_id", Test::Text(test)) => {
            let above = tenant_directory::table
                .into_boxed::<Pg>()
                .filter(tenant_directory::kind.eq(Claim::TenantId.as_str()))
                .filter(filter::text(tenant_directory::key, test))
                .select(tenant_directory::tenant_uid);
            // Without a parent the answer is no, not unknown: it must stand being negated.
            let parent = tenants::parent_uid;
            Box::new(parent.is_not_null().and(parent.assume_not_null().eq_any(above)))
        }
        ("external_ids", Test::Text(test)) => {
            let having = tenant_external_ids::table
                .into_boxed::<Pg>()
                .filter(tenant_external_ids::key.eq(key.clone()))
                .filter(filter::text(tenant_external_ids::value, test))
                .select(tenant_external_ids::tenant_uid);
            Box::new(tenants::uid.eq_any(having))
        }
        // Without one the answer is no, as above.
        ("reseller_id", Test::Text(test)) => {
            let there: Condition = Box::new(tenants::reseller_id.is_not_null());
            Box::new(there.and(filter::text(tenants::reseller_id.assume_not_null(), test)))
        }
        ("backend_id", Test::Text(test)) => {
            let there: Condition = Box::new(tenants::backend_id.is_not_null());
            Box::new(there.and(filter::text(tenants::backend_id.assume_not_null(), test)))
        }
        ("backend_external_name", Test::Text(test)) => {
            let named = backends::table
                .into_boxed::<Pg>()
                .filter(filter::text(backends::external_name, test))
                .select(backends::backend_id);
            let there: Condition = Box::new(tenants::backend_id.is_not_null());
            Box::new(there.and(tenants::backend_id.assume_not_null().eq_any(named)))
        }
        // As of an external id: without the entry the answer is no, whatever is asked of it.
        ("labels", Test::Text(test)) => {
            let label = || tenants::labels.retrieve_as_text(key.clone()).nullable();
            let there: Condition = Box::new(label().is_not_null());
            Box::new(there.and(filter::text(coalesce(label(), String::new()), test)))
        }
        ("locked", Test::Bool(value)) => Box::new(locked_at(now).eq(*value)),
        ("effective_locked", Test::Bool(value)) => Box::new(effectively_locked_at(now).eq(*value)),
        ("protected", Test::Bool(value)) => Box::new(tenants::protected.eq(*value)),
        ("service_provider", Test::Bool(value)) => {
            Box::new(tenants::organization_kind.eq(OrganizationKind::ServiceProvider).eq(*value))
        }
        ("authentication_account", Test::Bool(value)) => {
            Box::new(tenants::service_line.eq(ServiceLine::Authentication).eq(*value))
        }
        ("issuance_account", Test::Bool(value)) => {
            Box::new(tenants::service_line.eq(ServiceLine::Issuance).eq(*value))
        }
        ("sp_idp", Test::Bool(value)) => Box::new(tenants::sp_idp.eq(*value)),
        ("console", Test::Bool(value)) => Box::new(tenants::console.eq(*value)),
        ("contract_mode", Test::Choice(word)) => Box::new(tenants::contract_mode.eq(*word)),
        ("state", Test::Choice(word)) => Box::new(tenants::state.eq(*word)),
        ("type", Test::Choice(word)) => Box::new(tenants::type_.eq(*word)),
        ("organization_kind", Test::Choice(word)) => Box::new(tenants::organization_kind.eq(*word)),
        ("create_time", Test::Time(comparison, time)) => {
            filter::time(tenants::create_time, *comparison, *time)
        }
        (field, _) => return Err(no_condition(field)),
    })
}
