//! The tenants that authorize an application, or any of an account, in an environment, or once did (0-04, 0-05, 0-06).
//!
//! Which those are is read under the policies. Their names and states are not: the account of an application does not
//! see tenants of other accounts. Three functions of the database tell it those of the tenants that authorize it, and
//! find them by their names as `tenants/search.rs` finds tenants: what is found there makes a list faster and decides
//! nothing.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{exists, not},
    pg::Pg,
    prelude::*,
    sql_query,
    sql_types::{self, Array, Bool, Integer, Text, Timestamptz},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use uuid::Uuid;

use super::{counts::Published, grants::Fate};
use crate::{
    directory::environments,
    error::{Error, Result},
    filter::{self, Condition, Field, FieldKind, Term, Test},
    listing::{Listing, no_condition},
    page::{Asked, Place},
    pb,
    rpc::Call,
    schema::{authorized_tenants, tenant_authorizations},
    seek,
    tenants::{model::TenantState, search},
    wire::id,
};

const FIELDS: &[Field] = &[
    Field { name: "tenant_id", kind: FieldKind::Text },
    Field { name: "name", kind: FieldKind::Text },
    Field { name: "has_revoked", kind: FieldKind::Bool },
    Field {
        name: "authorization_state",
        kind: FieldKind::Choice {
            prefix: "AUTHORIZATION_STATE_",
            words: &["ACTIVE", "REVOKED", "EXPIRED"],
        },
    },
];

/// How many tenants are few enough for each to be asked whether it fits.
const FEW: i32 = 1000;

diesel::define_sql_function! {
    /// The name of a tenant that authorizes an application of the scope's account, or once did.
    fn name_of_authorized_tenant(tenant: sql_types::Uuid) -> Text;
}

diesel::define_sql_function! {
    /// The tenants that authorize an application and have such texts; null where they are more.
    fn search_authorized_tenants(
        publisher: Text,
        application: Text,
        environment: Text,
        fields: Array<Text>,
        patterns: Array<Text>,
        at_most: Integer,
    ) -> Nullable<Array<sql_types::Uuid>>;
}

/// That a tenant authorizes an application, or any of an account, or once did.
#[derive(HasQuery)]
#[diesel(table_name = authorized_tenants, check_for_backend(Pg))]
struct Row {
    tenant_uid: Uuid,
    tenant_id: String,
    has_revoked: bool,
}

/// What else is told of a tenant.
#[derive(QueryableByName)]
struct Told {
    #[diesel(sql_type = sql_types::Uuid)]
    tenant_uid: Uuid,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    state: TenantState,
    #[diesel(sql_type = Bool)]
    is_live: bool,
}

/// A list that was asked for.
pub(super) struct Query {
    listing: Listing,
    environment: String,
    application_id: String,
    account_id: String,
    now: DateTime<Utc>,
}

impl Query {
    pub(super) fn read(
        call: &Call,
        request: &pb::ListAuthorizedTenantsRequest,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let pb::ListAuthorizedTenantsRequest {
            page_size,
            page_token,
            filter,
            order_by,
            environment,
            application_id,
            account_id,
        } = request;
        let environment = match &*environment.to_ascii_lowercase() {
            "" => Err("is required".to_owned()),
            environment => id(environment),
        };
        let environment = environment.map_err(|why| Error::invalid("environment", why))?;
        let more = format!("{environment}/{application_id}/{account_id}");
        let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: &more };
        let listing = Listing::read(call, asked, FIELDS, &["tenant_id"])?;
        let (application_id, account_id) = (application_id.clone(), account_id.clone());
        Ok(Self { listing, environment, application_id, account_id, now })
    }

    /// Reads the page; answers its tenants and the token of the next one.
    pub(super) async fn run(
        &self,
        conn: &mut AsyncPgConnection,
        call: &Call,
    ) -> Result<(Vec<pb::AuthorizedTenant>, String)> {
        let published = Published::find(conn, call, &self.application_id, &self.account_id).await?;
        environments::find(conn, &self.environment).await?;
        let Listing { page, terms, order } = &self.listing;
        let mut query = authorized_tenants::table
            .filter(authorized_tenants::publisher_account_id.eq(&published.account_id))
            .filter(authorized_tenants::application_id.eq(&published.application_id))
            .filter(authorized_tenants::environment.eq(&self.environment))
            .into_boxed::<Pg>();
        if let Some(tenant) = call.tenant.as_ref().filter(|tenant| tenant.named) {
            query = query.filter(authorized_tenants::tenant_uid.eq(tenant.uid));
        }
        if let Some(few) = self.few(conn, &published, terms).await? {
            query = query.filter(authorized_tenants::tenant_uid.eq_any(few));
        }
        for term in terms {
            let condition = self.condition(term)?;
            query =
                if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
        }
        let after = page.after.as_ref();
        let after = after.map(|place| {
            (place.value.clone(), authorized_tenants::tenant_id.ne(place.value.clone()))
        });
        let query = seek!(query, authorized_tenants::tenant_id, after, order.descending);
        let mut found: Vec<Row> =
            query.limit(page.limit()).select(Row::as_select()).load(conn).await?;
        let token = page.finish(&mut found, |row| Place {
            value: row.tenant_id.clone(),
            id: row.tenant_id.clone(),
        });
        Ok((self.tell(conn, &published, found).await?, token))
    }

    /// The tenants among which all are that the texts of a filter find, where they are few. Where they are many, a
    /// page is full soon, and is read in its order.
    async fn few(
        &self,
        conn: &mut AsyncPgConnection,
        published: &Published,
        terms: &[Term],
    ) -> Result<Option<Vec<Uuid>>> {
        let of = |term: &Term| search::pattern(term).map(|pattern| (term.field, pattern));
        let (fields, patterns): (Vec<_>, Vec<_>) = terms.iter().filter_map(of).unzip();
        if fields.is_empty() || terms.iter().any(search::is_look_up) {
            return Ok(None);
        }
        let Published { account_id, application_id } = published;
        let search = search_authorized_tenants(
            account_id,
            application_id,
            &self.environment,
            fields,
            patterns,
            FEW,
        );
        let found: Option<Vec<Uuid>> = diesel::select(search).get_result(conn).await?;
        if found.is_none() {
            conn.batch_execute("set local enable_sort = off").await?;
        }
        Ok(found)
    }

    fn condition(&self, term: &Term) -> Result<Condition<authorized_tenants::table>> {
        let end = tenant_authorizations::valid_until;
        let lasts = end.is_null().or(end.is_not_null().and(end.assume_not_null().gt(self.now)));
        let is_of_list = authorized_tenants::application_id
            .eq("")
            .or(tenant_authorizations::application_id.eq(authorized_tenants::application_id));
        let live = || {
            exists(
                tenant_authorizations::table
                    .filter(tenant_authorizations::tenant_uid.eq(authorized_tenants::tenant_uid))
                    .filter(
                        tenant_authorizations::publisher_account_id
                            .eq(authorized_tenants::publisher_account_id),
                    )
                    .filter(tenant_authorizations::environment.eq(authorized_tenants::environment))
                    .filter(is_of_list)
                    .filter(tenant_authorizations::state.eq(Fate::Active))
                    .filter(lasts),
            )
        };
        let has_revoked = authorized_tenants::has_revoked;
        Ok(match (term.field, &term.test) {
            ("tenant_id", Test::Text(test)) => filter::text(authorized_tenants::tenant_id, test),
            ("name", Test::Text(test)) => {
                filter::text(name_of_authorized_tenant(authorized_tenants::tenant_uid), test)
            }
            ("has_revoked", Test::Bool(is)) => Box::new(has_revoked.eq(*is)),
            ("authorization_state", Test::Choice("ACTIVE")) => Box::new(live()),
            ("authorization_state", Test::Choice("REVOKED")) => {
                Box::new(has_revoked.eq(true).and(not(live())))
            }
            ("authorization_state", Test::Choice(_)) => {
                Box::new(has_revoked.eq(false).and(not(live())))
            }
            (field, _) => return Err(no_condition(field)),
        })
    }

    /// Adds what is told of each tenant.
    async fn tell(
        &self,
        conn: &mut AsyncPgConnection,
        published: &Published,
        found: Vec<Row>,
    ) -> Result<Vec<pb::AuthorizedTenant>> {
        let uids = found.iter().map(|row| row.tenant_uid).collect::<Vec<_>>();
        let told: Vec<Told> =
            sql_query("select * from tell_authorized_tenants($1, $2, $3, $4, $5)")
                .bind::<Text, _>(&published.account_id)
                .bind::<Text, _>(&published.application_id)
                .bind::<Text, _>(&self.environment)
                .bind::<Array<sql_types::Uuid>, _>(uids)
                .bind::<Timestamptz, _>(self.now)
                .load(conn)
                .await?;
        let mut told =
            told.into_iter().map(|told| (told.tenant_uid, told)).collect::<HashMap<_, _>>();
        // One that was purged between the two statements is gone.
        let tell = |row: Row| {
            let Told { tenant_uid: _, name, state, is_live } = told.remove(&row.tenant_uid)?;
            let Row { tenant_uid: _, tenant_id, has_revoked } = row;
            let authorization_state = match (is_live, has_revoked) {
                (true, _) => pb::AuthorizationState::Active,
                (false, true) => pb::AuthorizationState::Revoked,
                (false, false) => pb::AuthorizationState::Expired,
            };
            Some(pb::AuthorizedTenant {
                tenant_id,
                name,
                state: pb::TenantState::from(state).into(),
                has_revoked,
                authorization_state: authorization_state.into(),
            })
        };
        Ok(found.into_iter().filter_map(tell).collect())
    }
}
