//! The page of a link: who asks for what, and a yes or a no to that.
//!
//! The secret of the link is all that it asks for. There is no cookie that another site could make use of, and nothing
//! is decided but by a form that was sent: programs that follow the links of mails decide nothing. It works without
//! scripts, of which its policy lets none run.

use std::sync::{Arc, LazyLock};

use askama::Template;
use axum::{
    Extension, Form, Router,
    extract::{DefaultBodyLimit, Path, State, rejection::FormRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    prelude::*,
    sql_types::{Bytea, Text, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use secrecy::SecretString;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{
    applications::RunAs,
    asking::{Offer, offer_of},
    deciding::{self, Decider, read_reason},
    grants::{self, Authorization},
    mails::{day_and_time, read_secret, recipients_of},
    requests::{self, AuthorizationRequest, Outcome, Side, Wish, digest_of},
};
use crate::{
    db::Scope,
    directory::environments,
    error::{Error, Result, causes},
    keys::model::KeyScope,
    pb,
    rpc::{Call, Caller, TenantOfCall, mutate::Change, observe::Observed},
    server::Shared,
    tenants as rooms,
    wire::text,
};

/// What the paths of links begin with. What follows is a secret.
pub const CONSENT: &str = "/consent/";

/// How much a form may hold.
const FORM_MAX: usize = 16 << 10;

const NAME_MAX: usize = 80;

/// The pages behind links.
pub fn pages(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(&format!("{CONSENT}{{secret}}"), get(show).post(answer))
        .layer(DefaultBodyLimit::max(FORM_MAX))
        // Of refusals too that are not ours.
        .layer(map_response(async |response: Response| protect(response)))
        .with_state(shared)
}

/// Where a link leads.
#[derive(QueryableByName)]
struct Place {
    #[diesel(sql_type = SqlUuid)]
    authorization_request_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    tenant_uid: Uuid,
    #[diesel(sql_type = Text)]
    tenant_id: String,
    #[diesel(sql_type = Text)]
    account_id: String,
}

async fn find_place(conn: &mut AsyncPgConnection, digest: Vec<u8>) -> Result<Option<Place>> {
    Ok(diesel::sql_query("select * from find_consent($1)")
        .bind::<Bytea, _>(digest)
        .get_result(conn)
        .await
        .optional()?)
}

/// What a page shows of a request.
struct Asked {
    request: AuthorizationRequest,
    offer: Option<Offer>,
    tenant: String,
    /// Whether the tenant decides anything at all at the moment.
    tenant_acts: bool,
    environment: String,
    /// What the tenant authorized last, be it over or not.
    last: Option<Authorization>,
    recipients: Vec<String>,
}

impl Asked {
    fn is_allowed(&self, now: DateTime<Utc>) -> bool {
        self.last.as_ref().is_some_and(|last| last.is_live_at(now))
    }

    /// Why nothing can be decided though nobody has, in words for whoever is asked.
    fn obstacle(&self, now: DateTime<Utc>) -> Option<&'static str> {
        let had = self.last.iter().filter(|last| last.is_live_at(now));
        let had = had.flat_map(Authorization::granted).collect::<Vec<_>>();
        let stands = |offer: &Offer| offer.stands(&self.request, |scope| had.contains(&scope));
        let is_offered = |offer: &Offer| offer.is_published && stands(offer);
        if !self.offer.as_ref().is_some_and(is_offered) {
            Some("The application is not offered any more as it was when you were asked.")
        } else if !self.tenant_acts {
            Some(
                "Your company is not active or is locked at the moment. Please come back when it is not.",
            )
        } else {
            match (self.request.kind, self.is_allowed(now)) {
                (Wish::New, true) => Some("This is allowed already."),
                (Wish::Update, false) => Some("What was to be changed has ended."),
                _ => None,
            }
        }
    }

    /// Each scope, and whether the tenant has not said yes to it before.
    fn scopes(&self) -> Vec<(String, bool)> {
        let had = self.last.iter().flat_map(Authorization::granted).collect::<Vec<_>>();
        let is_new = |scope: &String| self.last.is_some() && !had.contains(&scope);
        let scopes = self.request.scopes().into_iter();
        scopes.map(|scope| (is_new(&scope), scope)).map(|(is_new, scope)| (scope, is_new)).collect()
    }

    /// The address that the link went to, where that is the one that whoever asked gave; others are none of their
    /// business.
    fn known_address(&self) -> Option<&String> {
        let given = &self.request.contact_email;
        match &self.recipients[..] {
            [one] if one.eq_ignore_ascii_case(given) => Some(one),
            _ => None,
        }
    }

    /// Who decides by the link.
    fn decider(&self, name: &str) -> Decider {
        let email = self.known_address().cloned().unwrap_or_default();
        Decider { name: name.to_owned(), actor: format!("mail:{email}"), email }
    }
}

/// A visit to a link that leads somewhere: a call of whoever has it, within the tenant that is asked.
struct Visit {
    call: Call,
    id: Uuid,
    tenant_uid: Uuid,
}

impl Visit {
    /// Finds where a link leads; nothing where it leads nowhere.
    async fn begin(shared: &Shared, observed: &Observed, secret: &str) -> Result<Option<Self>> {
        let Some(secret) = read_secret(secret) else {
            return Ok(None);
        };
        let digest = digest_of(&secret);
        let nobody = Scope::Tenants(Vec::new());
        let find = async |conn: &mut _| find_place(conn, digest).await;
        let place = shared.database.read(&nobody, observed.deadline, find).await?;
        let Some(Place { authorization_request_id: id, tenant_uid, tenant_id, account_id }) = place
        else {
            return Ok(None);
        };
        let tenant = TenantOfCall {
            uid: tenant_uid,
            tenant_id,
            account_id: account_id.clone(),
            named: false,
        };
        let caller = Caller {
            key_id: id,
            scope: KeyScope::Tenant,
            account: Some(account_id.clone()),
            tenant: Some(tenant.clone()),
            reseller: None,
            backends: Vec::new(),
            environment: None,
            expire_time: None,
            roles: Vec::new(),
            link: Some(id),
        };
        let call = Call {
            correlation_id: observed.correlation_id.clone(),
            deadline: observed.deadline,
            method: "consent",
            client: observed.client,
            caller: Arc::new(caller),
            // Nothing is sealed for whoever comes by a link.
            bearer: SecretString::from(shared.clock.uuid().to_string()),
            account: Some(account_id),
            tenant: Some(tenant),
            scope: Scope::Tenant(tenant_uid),
        };
        Ok(Some(Self { call, id, tenant_uid }))
    }

    /// Reads what the page shows.
    async fn asked(&self, shared: &Shared) -> Result<Asked> {
        let now = shared.clock.now();
        shared.read(&self.call, async |conn| self.read(conn, now).await).await
    }

    async fn read(&self, conn: &mut AsyncPgConnection, now: DateTime<Utc>) -> Result<Asked> {
        let request = requests::find(conn, &self.call, Side::Tenant, self.id).await?;
        let tenant = rooms::store::by_uid(conn, &self.call.scope, self.tenant_uid).await?;
        let tenant = tenant.ok_or_else(|| Error::internal("a request of a tenant that is gone"))?;
        let tenant = rooms::store::complete_one(conn, now, tenant).await?;
        let AuthorizationRequest { application_id, environment, .. } = &request;
        let offer = offer_of(conn, application_id, environment).await?;
        let last = grants::latest(conn, self.tenant_uid, application_id, environment).await?;
        let environment = environments::find(conn, environment).await?.name;
        let recipients = recipients_of(conn, &request).await?;
        let tenant_acts = deciding::refusal(&tenant, now).is_none();
        let tenant = tenant.tenant.name;
        Ok(Asked { request, offer, tenant, tenant_acts, environment, last, recipients })
    }
}

/// Shows what a link leads to. Decides nothing.
async fn show(
    State(shared): State<Arc<Shared>>,
    Extension(observed): Extension<Observed>,
    Path(secret): Path<String>,
) -> Response {
    let shown = async {
        let Some(visit) = Visit::begin(&shared, &observed, &secret).await? else {
            return Ok(unknown());
        };
        let asked = visit.asked(&shared).await?;
        Ok(page_of(&shared, &asked, &Answer::default(), None))
    };
    shown.await.unwrap_or_else(|error| failed(&error))
}

/// What somebody answers.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    decision: String,
    name: String,
    reason: String,
}

/// Takes an answer.
async fn answer(
    State(shared): State<Arc<Shared>>,
    Extension(observed): Extension<Observed>,
    Path(secret): Path<String>,
    headers: HeaderMap,
    form: Result<Form<Answer>, FormRejection>,
) -> Response {
    let taken = async {
        let Some(visit) = Visit::begin(&shared, &observed, &secret).await? else {
            return Ok(unknown());
        };
        let asked = visit.asked(&shared).await?;
        let refuse = |answer: &Answer, why: &str| Ok(page_of(&shared, &asked, answer, Some(why)));
        let Ok(Form(answer)) = form else {
            return refuse(&Answer::default(), "The answer could not be read. Please try again.");
        };
        // Browsers say where a form comes from.
        let from = headers.get("sec-fetch-site").and_then(|from| from.to_str().ok());
        if from.is_some_and(|from| !matches!(from, "same-origin" | "none")) {
            return refuse(&answer, "The answer did not come from this page. Please answer here.");
        }
        let Ok(name) = text(&answer.name, 1, NAME_MAX) else {
            return refuse(&answer, "Please give your name, of at most 80 characters.");
        };
        let (call, place) = (&visit.call, (visit.id, visit.tenant_uid));
        let done = match &*answer.decision {
            "approve" => {
                let request = pb::ApproveAuthorizationRequestRequest::default();
                let act = async |change: &mut Change<'_>| {
                    deciding::approve(change, place, asked.decider(&name), "").await
                };
                shared.mutator.mutate(call, &request, act).await.map(|_| ())
            }
            "decline" => {
                let Ok(reason) = read_reason(&answer.reason) else {
                    return refuse(&answer, "Please say why, in at most 500 characters.");
                };
                let request = pb::DeclineAuthorizationRequestRequest::default();
                let act = async |change: &mut Change<'_>| {
                    let declined =
                        deciding::decline(change, place, asked.decider(&name), &reason, "").await?;
                    let authorization_request = Some(declined);
                    Ok(pb::DeclineAuthorizationRequestResponse { authorization_request })
                };
                shared.mutator.mutate(call, &request, act).await.map(|_| ())
            }
            _ => return refuse(&answer, "Please say yes or no."),
        };
        match done {
            // The page of what was decided stands where the question stood: to load it again asks nothing twice.
            Ok(()) => Ok(see_other(&secret)),
            Err(Error::WrongState { .. } | Error::AlreadyExists { .. }) => {
                // Another was faster, or something has happened since the page was shown: it says what.
                let asked = visit.asked(&shared).await?;
                let why = "Something has changed in the meantime. Please look again.";
                Ok(with_status(StatusCode::CONFLICT, page_of(&shared, &asked, &answer, Some(why))))
            }
            Err(error) => Err(error),
        }
    };
    taken.await.unwrap_or_else(|error: Error| failed(&error))
}

/// The page of a request, by what became of it.
fn page_of(shared: &Shared, asked: &Asked, answer: &Answer, problem: Option<&str>) -> Response {
    let (request, now) = (&asked.request, shared.clock.now());
    let state = request.state_at(now);
    let obstacle = asked.obstacle(now);
    let open = state == Outcome::Pending && obstacle.is_none();
    let is_update = request.kind == Wish::Update;
    let offer = asked.offer.as_ref();
    let account = offer.map_or(&*request.publisher_account_id, |offer| &*offer.account_name);
    let application = offer.map_or(&*request.application_id, |offer| &*offer.name);
    let decided = request.decide_time.map(day_and_time).unwrap_or_default();
    let name = request.decider_name.as_deref().unwrap_or_default();
    let by = if name.is_empty() { String::new() } else { format!(" by {name}") };
    let (heading, outcome) = match (state, obstacle) {
        (Outcome::Pending, None) => {
            let more = if is_update { "more " } else { "" };
            (format!("{application} asks for {more}access to {}", asked.tenant), String::new())
        }
        (Outcome::Pending, Some(why)) => ("There is nothing to decide".to_owned(), why.to_owned()),
        (Outcome::Approved, _) => {
            let ended = if asked.is_allowed(now) { "" } else { " It has ended since." };
            ("You said yes".to_owned(), format!("Approved{by} on {decided}.{ended}"))
        }
        (Outcome::Declined, _) => ("You said no".to_owned(), format!("Declined{by} on {decided}.")),
        (Outcome::Expired, _) => (
            "This link has expired".to_owned(),
            format!(
                "It was good until {}. If you still want to answer, ask {account} to send a new request.",
                day_and_time(request.expire_time)
            ),
        ),
        (Outcome::Cancelled, _) => (
            "This request was taken back".to_owned(),
            format!("That was on {decided}. There is nothing to decide."),
        ),
    };
    let status = match (open, problem, state) {
        (true, None, _) | (false, _, Outcome::Approved | Outcome::Declined) => StatusCode::OK,
        (true, Some(_), _) => StatusCode::UNPROCESSABLE_ENTITY,
        (false, ..) => StatusCode::GONE,
    };
    let scopes = asked.scopes();
    let has_new = open && scopes.iter().any(|(_, is_new)| *is_new);
    let until = |end: Option<DateTime<Utc>>| {
        end.map_or("until it is revoked".to_owned(), |end| format!("until {}", day_and_time(end)))
    };
    let so_far = asked.last.as_ref().filter(|_| open && is_update);
    let page = Page {
        style: STYLE,
        heading,
        outcome,
        problem: problem.filter(|_| open),
        open,
        account,
        application,
        description: offer.map_or("", |offer| &*offer.description),
        homepage_url: offer.map_or("", |offer| &*offer.homepage_url),
        tenant: &asked.tenant,
        environment: &asked.environment,
        acts: match request.run_as {
            RunAs::System => "as itself, with nobody signed in",
            RunAs::User => "as the user who is signed in",
        },
        is_update,
        scopes: &scopes,
        has_new,
        until: until(request.valid_until),
        until_so_far: so_far.map(|last| until(last.valid_until())).unwrap_or_default(),
        info: &request.additional_info,
        on_behalf_of: &request.on_behalf_of,
        expires: day_and_time(request.expire_time),
        known_address: asked.known_address().map_or("", |address| &**address),
        answer,
    };
    respond(status, &page)
}

fn unknown() -> Response {
    let outcome = "It may be incomplete, or a later e-mail has another in its place. Please look for the newest \
                   e-mail, and open its link as a whole.";
    respond(
        StatusCode::NOT_FOUND,
        &Note { style: STYLE, heading: "This link is not known", outcome },
    )
}

/// What there is to say where nothing can be said of the request.
fn failed(error: &Error) -> Response {
    let (status, outcome) = if error.may_pass() {
        let outcome =
            "Please try again in a moment: the page then shows what was decided, if anything was.";
        (StatusCode::SERVICE_UNAVAILABLE, outcome)
    } else {
        (
            StatusCode::INTERNAL_SERVER_ERROR,
            "Please try again later, or answer whoever sent you the link.",
        )
    };
    tracing::error!(error = causes(error), "the page of a link could not be shown");
    respond(status, &Note { style: STYLE, heading: "This did not work", outcome })
}

fn see_other(secret: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    // Beside where it is, whatever path a proxy put before that.
    if let Ok(place) = HeaderValue::from_str(secret) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

fn with_status(status: StatusCode, mut response: Response) -> Response {
    *response.status_mut() = status;
    response
}

fn respond(status: StatusCode, page: &impl Template) -> Response {
    let text =
        page.render().expect("templates write into memory, and all that they show can be shown");
    (status, Html(text)).into_response()
}

const STYLE: &str = include_str!("../../templates/page.css");

/// Nothing but the style of the page itself is loaded, nothing runs, nobody shows it within another page.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    );
    HeaderValue::from_str(&policy).expect("it is ASCII")
});

/// Keeps the link from whoever it is no business of.
fn protect(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    for (name, value) in [
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("x-robots-tag"), "noindex, nofollow"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[derive(Template)]
#[template(path = "consent.html")]
struct Page<'a> {
    style: &'static str,
    heading: String,
    outcome: String,
    problem: Option<&'a str>,
    open: bool,
    account: &'a str,
    application: &'a str,
    description: &'a str,
    homepage_url: &'a str,
    tenant: &'a str,
    environment: &'a str,
    acts: &'static str,
    is_update: bool,
    scopes: &'a [(String, bool)],
    has_new: bool,
    until: String,
    until_so_far: String,
    info: &'a str,
    on_behalf_of: &'a str,
    expires: String,
    known_address: &'a str,
    answer: &'a Answer,
}

#[derive(Template)]
#[template(path = "note.html")]
struct Note<'a> {
    style: &'static str,
    heading: &'a str,
    outcome: &'a str,
}
