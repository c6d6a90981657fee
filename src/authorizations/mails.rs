//! What mails say of requests and revocations, and to whom they go: put in by the changes that they tell of, and written
//! when they are sent.

use askama::Template;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use diesel::{
    QueryableByName,
    prelude::*,
    sql_types::{Array, BigInt, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use secrecy::zeroize::Zeroizing;
use uuid::Uuid;

use super::{
    applications::RunAs,
    consent::CONSENT,
    requests::{AuthorizationRequest, Outcome, Wish},
};
use crate::{
    error::Result,
    keys::master::MasterKey,
    mail::{Letter, Verdict},
    rpc::mutate::Change,
    schema::mails,
    tenants::model::TenantState,
};

/// How many mails ask a tenant in a day: for one account, and for all. Enough for all who have reason to, too few to flood
/// it, and none can use up what is for others.
const MAILS_OF_ASKER_MAX: i64 = 5;
const MAILS_OF_TENANT_MAX: i64 = 100;
const MAILS_WITHIN: TimeDelta = TimeDelta::days(1);

/// After which time it is pointless to tell of a revocation.
const REVOCATION_IS_NEWS_FOR: TimeDelta = TimeDelta::days(14);

const REQUESTED: &str = "AUTHORIZATION_REQUESTED";
const REVOKED: &str = "AUTHORIZATION_REVOKED";

/// Puts in the mail of a request with its link; of one that reaches nobody too, so that it is as any other.
pub(super) async fn put_request(change: &mut Change<'_>, row: &AuthorizationRequest) -> Result<()> {
    let of_request = (
        mails::kind.eq(REQUESTED),
        mails::tenant_uid.eq(row.tenant_uid),
        mails::authorization_request_id.eq(row.authorization_request_id),
        mails::generation.eq(row.generation),
    );
    let waits = waiting(change);
    diesel::insert_into(mails::table).values((of_request, waits)).execute(change.conn()).await?;
    Ok(())
}

/// Puts in the mail that tells a tenant of a revocation.
pub(super) async fn put_revoked(
    change: &mut Change<'_>,
    tenant_uid: Uuid,
    authorization_id: Uuid,
) -> Result<()> {
    let of_authorization = (
        mails::kind.eq(REVOKED),
        mails::tenant_uid.eq(tenant_uid),
        mails::authorization_id.eq(authorization_id),
    );
    let waits = waiting(change);
    diesel::insert_into(mails::table)
        .values((of_authorization, waits))
        .execute(change.conn())
        .await?;
    Ok(())
}

type Waiting = (
    diesel::dsl::Eq<mails::mail_id, Uuid>,
    diesel::dsl::Eq<mails::state, &'static str>,
    diesel::dsl::Eq<mails::attempts, i32>,
    diesel::dsl::Eq<mails::next_attempt_time, DateTime<Utc>>,
    diesel::dsl::Eq<mails::recipients, Vec<Option<String>>>,
    diesel::dsl::Eq<mails::outcome, &'static str>,
    diesel::dsl::Eq<mails::correlation_id, String>,
    diesel::dsl::Eq<mails::create_time, DateTime<Utc>>,
    diesel::dsl::Eq<mails::update_time, DateTime<Utc>>,
);

fn waiting(change: &Change<'_>) -> Waiting {
    (
        mails::mail_id.eq(change.uuid()),
        mails::state.eq("WAITING"),
        mails::attempts.eq(0),
        mails::next_attempt_time.eq(change.now),
        mails::recipients.eq(Vec::new()),
        mails::outcome.eq(""),
        mails::correlation_id.eq(change.call.correlation_id.to_string()),
        mails::create_time.eq(change.now),
        mails::update_time.eq(change.now),
    )
}

/// To whom the mail went that has the link of a request; nobody where it is not sent yet.
pub(super) async fn recipients_of(
    conn: &mut AsyncPgConnection,
    row: &AuthorizationRequest,
) -> Result<Vec<String>> {
    let found: Option<Vec<Option<String>>> = mails::table
        .filter(mails::authorization_request_id.eq(row.authorization_request_id))
        .filter(mails::generation.eq(row.generation))
        .select(mails::recipients)
        .get_result(conn)
        .await
        .optional()?;
    Ok(found.into_iter().flatten().flatten().collect())
}

/// The link by which a request is decided on.
pub(super) fn link(
    public_url: &str,
    master: &MasterKey,
    request: Uuid,
    generation: i32,
) -> Zeroizing<String> {
    let secret = master.consent(request, generation);
    let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(*secret));
    Zeroizing::new(format!("{}{CONSENT}{}", public_url.trim_end_matches('/'), *secret))
}

/// Reads the secret of a link; nothing where it is none.
pub(super) fn read_secret(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let secret = URL_SAFE_NO_PAD.decode(text).ok().map(Zeroizing::new)?;
    (secret.len() == 32).then_some(secret)
}

/// What is known of a mail and of what it tells.
#[derive(QueryableByName)]
struct Known {
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Timestamptz)]
    create_time: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Integer>)]
    generation: Option<i32>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    authorization_request_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Integer>)]
    latest_generation: Option<i32>,
    #[diesel(sql_type = Nullable<Text>)]
    request_kind: Option<Wish>,
    #[diesel(sql_type = Nullable<Text>)]
    request_state: Option<Outcome>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expire_time: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Text>)]
    run_as: Option<RunAs>,
    #[diesel(sql_type = Nullable<Text>)]
    additional_info: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    on_behalf_of: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    contact: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    revoke_reason: Option<String>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    revoke_time: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Array<Nullable<Text>>>)]
    scopes: Option<Vec<Option<String>>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    valid_until: Option<DateTime<Utc>>,
    #[diesel(sql_type = Text)]
    application_name: String,
    #[diesel(sql_type = Text)]
    account_name: String,
    #[diesel(sql_type = Text)]
    environment_name: String,
    #[diesel(sql_type = Nullable<Text>)]
    tenant_name: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    tenant_state: Option<TenantState>,
    #[diesel(sql_type = Array<Text>)]
    addresses: Vec<String>,
    /// What the tenant lets the application do so far, of what is to be changed, while it is live.
    #[diesel(sql_type = Nullable<Array<Nullable<Text>>>)]
    granted: Option<Vec<Option<String>>>,
    #[diesel(sql_type = BigInt)]
    asked: i64,
    #[diesel(sql_type = BigInt)]
    asked_by_account: i64,
    #[diesel(sql_type = Text)]
    correlation_id: String,
}

const KNOWN: &str = "\
select mail.kind, mail.create_time, mail.generation, mail.authorization_request_id,
       request.generation as latest_generation, request.kind as request_kind, request.state as request_state,
       request.expire_time, request.run_as, request.additional_info, request.on_behalf_of,
       coalesce(request.contact_email, granted.revoke_contact) as contact, granted.revoke_reason,
       granted.revoke_time, coalesce(request.scopes, granted.granted_scopes) as scopes, request.valid_until,
       coalesce(application.name, request.application_id, granted.application_id) as application_name,
       coalesce(account.name, request.publisher_account_id, granted.publisher_account_id) as account_name,
       coalesce(environment.name, request.environment, granted.environment) as environment_name,
       tenant.name as tenant_name, tenant.state as tenant_state,
       array_remove(array[coalesce(tenant.contact_email, ''), coalesce(tenant.support_email, ''),
           coalesce(tenant.admin_user ->> 'email', '')], '') as addresses,
       updated.granted_scopes as granted,
       (select count(*) from mails as sent
            where sent.tenant_uid = mail.tenant_uid and sent.state = 'SENT' and sent.update_time > $2
                and sent.kind = 'AUTHORIZATION_REQUESTED') as asked,
       (select count(*) from mails as sent
            join authorization_requests as other
                on other.authorization_request_id = sent.authorization_request_id
            where sent.tenant_uid = mail.tenant_uid and sent.state = 'SENT' and sent.update_time > $2
                and other.publisher_account_id = request.publisher_account_id) as asked_by_account,
       mail.correlation_id
    from mails as mail
    left join authorization_requests as request
        on request.authorization_request_id = mail.authorization_request_id
    left join tenant_authorizations as granted
        on mail.authorization_request_id is null and granted.tenant_uid = mail.tenant_uid
            and granted.authorization_id = mail.authorization_id
    left join tenant_authorizations as updated
        on updated.tenant_uid = mail.tenant_uid and updated.authorization_id = request.authorization_id
            and updated.state = 'ACTIVE' and (updated.valid_until is null or updated.valid_until > $3)
    left join tenants as tenant on tenant.uid = mail.tenant_uid
    left join applications as application
        on application.application_id = coalesce(request.application_id, granted.application_id)
    left join accounts as account
        on account.account_id = coalesce(request.publisher_account_id, granted.publisher_account_id)
    left join environments as environment
        on environment.environment_id = coalesce(request.environment, granted.environment)
    where mail.mail_id = $1";

/// Writes a mail as it is to be sent now, or says why it is not.
pub(crate) async fn compose(
    conn: &mut AsyncPgConnection,
    master: &MasterKey,
    public_url: &str,
    mail_id: Uuid,
    now: DateTime<Utc>,
) -> Result<Verdict> {
    let known: Option<Known> = diesel::sql_query(KNOWN)
        .bind::<SqlUuid, _>(mail_id)
        .bind::<Timestamptz, _>(now - MAILS_WITHIN)
        .bind::<Timestamptz, _>(now)
        .get_result(conn)
        .await
        .optional()?;
    let Some(known) = known else {
        return Ok(Verdict::Drop("what it tells of is gone"));
    };
    let Some(tenant_name) = known.tenant_name.clone() else {
        return Ok(Verdict::Drop("the customer is not known"));
    };
    if known.tenant_state == Some(TenantState::Deleted) {
        return Ok(Verdict::Drop("the tenant is deleted"));
    }
    let (to, given) = recipients(&known.addresses, known.contact.as_deref().unwrap_or_default());
    if to.is_empty() {
        return Ok(Verdict::Drop("the tenant has no address"));
    }
    let said = Said {
        account: &known.account_name,
        application: &known.application_name,
        environment: &known.environment_name,
        tenant: &tenant_name,
        scopes: known.scopes.iter().flatten().flatten().map(String::as_str).collect(),
        until: known.valid_until.map(day_and_time),
        given,
    };
    if known.kind == REVOKED {
        if known.create_time + REVOCATION_IS_NEWS_FOR < now {
            return Ok(Verdict::Drop("it could not be sent for too long"));
        }
        let reason = known.revoke_reason.as_deref().unwrap_or_default();
        let time = known.revoke_time.map(day_and_time).unwrap_or_default();
        let letter = Letter {
            to,
            subject: format!("{} may not access {tenant_name} any more", said.application),
            text: write(&RevokedText { said: &said, reason, time: &time }),
            html: write(&RevokedPage { said: &said, reason, time: &time }),
            correlation_id: known.correlation_id,
        };
        return Ok(Verdict::Send(letter));
    }
    let waits = known.request_state == Some(Outcome::Pending)
        && known.expire_time.is_some_and(|end| now < end);
    let (Some(request), Some(generation), true) =
        (known.authorization_request_id, known.generation, waits)
    else {
        return Ok(Verdict::Drop("the request is not pending any more"));
    };
    if known.latest_generation != Some(generation) {
        return Ok(Verdict::Drop("another link took the place of its own"));
    }
    let is_update = known.request_kind == Some(Wish::Update);
    if is_update && known.granted.is_none() {
        return Ok(Verdict::Drop("what it asks to change has ended"));
    }
    if known.asked >= MAILS_OF_TENANT_MAX || known.asked_by_account >= MAILS_OF_ASKER_MAX {
        return Ok(Verdict::Later("the tenant was asked as often as a day may have"));
    }
    let link = link(public_url, master, request, generation);
    let had = known.granted.iter().flatten().flatten().collect::<Vec<_>>();
    let is_new = |scope: &&str| is_update && !had.iter().any(|had| had == scope);
    let scopes = said.scopes.iter().map(|scope| (*scope, is_new(scope))).collect();
    let info = known.additional_info.as_deref().unwrap_or_default();
    let asked = Asked {
        said: &said,
        is_update,
        acts_as_itself: known.run_as == Some(RunAs::System),
        info,
        lines: info.lines().collect(),
        scopes,
        on_behalf_of: known.on_behalf_of.as_deref().unwrap_or_default(),
        expires: known.expire_time.map(day_and_time).unwrap_or_default(),
        link: &link,
    };
    let more = if is_update { "more access" } else { "access" };
    let letter = Letter {
        to,
        subject: format!("{} asks for {more} to {tenant_name}", said.application),
        text: write(&RequestedText { asked: &asked }),
        html: write(&RequestedPage { asked: &asked }),
        correlation_id: known.correlation_id,
    };
    Ok(Verdict::Send(letter))
}

/// To whom a mail goes, and the address that was given, where it does not go there: only to addresses of the tenant's
/// own, whoever may have named another.
fn recipients<'a>(own: &[String], given: &'a str) -> (Vec<String>, Option<&'a str>) {
    let is_given = |address: &&String| address.eq_ignore_ascii_case(given);
    if let Some(address) = own.iter().find(is_given) {
        return (vec![address.clone()], None);
    }
    let mut all = Vec::<String>::new();
    for address in own {
        if !all.iter().any(|it| it.eq_ignore_ascii_case(address)) {
            all.push(address.clone());
        }
    }
    (all, Some(given))
}

/// A time as people read it.
pub(super) fn day_and_time(time: DateTime<Utc>) -> String {
    time.format("%-d %B %Y, %H:%M UTC").to_string()
}

fn write(template: &impl Template) -> String {
    template.render().expect("templates write into memory, and all that they show can be shown")
}

/// What every mail says.
struct Said<'a> {
    account: &'a str,
    application: &'a str,
    environment: &'a str,
    tenant: &'a str,
    scopes: Vec<&'a str>,
    until: Option<String>,
    /// The address that was given and is none of the tenant's.
    given: Option<&'a str>,
}

/// What a mail says that asks.
struct Asked<'a> {
    said: &'a Said<'a>,
    is_update: bool,
    acts_as_itself: bool,
    info: &'a str,
    /// The lines of that.
    lines: Vec<&'a str>,
    /// Each scope, and whether it is new.
    scopes: Vec<(&'a str, bool)>,
    on_behalf_of: &'a str,
    expires: String,
    link: &'a str,
}

#[derive(Template)]
#[template(path = "mail/requested.txt", escape = "none")]
struct RequestedText<'a> {
    asked: &'a Asked<'a>,
}

#[derive(Template)]
#[template(path = "mail/requested.html")]
struct RequestedPage<'a> {
    asked: &'a Asked<'a>,
}

#[derive(Template)]
#[template(path = "mail/revoked.txt", escape = "none")]
struct RevokedText<'a> {
    said: &'a Said<'a>,
    reason: &'a str,
    time: &'a str,
}

#[derive(Template)]
#[template(path = "mail/revoked.html")]
struct RevokedPage<'a> {
    said: &'a Said<'a>,
    reason: &'a str,
    time: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_goes_to_addresses_of_the_tenants_own_alone() {
        let own = ["a@foo.com", "help@foo.com", "A@foo.com"].map(str::to_owned);

        let there = recipients(&own, "HELP@foo.com");
        let elsewhere = recipients(&own, "me@asker.com");
        let nowhere = recipients(&[], "me@asker.com");

        assert_eq!(there, (vec!["help@foo.com".to_owned()], None));
        let both = vec!["a@foo.com".to_owned(), "help@foo.com".to_owned()];
        assert_eq!(elsewhere, (both, Some("me@asker.com")));
        assert_eq!(nowhere.0, Vec::<String>::new());
    }

    #[test]
    fn a_link_leads_to_its_secret() {
        let (master, request) = (MasterKey::sample(), Uuid::from_u128(7));

        let first = link("https://a.b/", &master, request, 1);
        let second = link("https://a.b", &master, request, 2);

        let secret = first.strip_prefix("https://a.b/consent/").unwrap();
        assert_eq!(*read_secret(secret).unwrap(), *master.consent(request, 1));
        assert_ne!(first, second);
        for wrong in ["", "a", &secret[1..], &format!("{secret}A"), "ä"] {
            assert!(read_secret(wrong).is_none(), "{wrong}");
        }
    }
}
