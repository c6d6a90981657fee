//! Whether keys are good: the methods that tell.

use super::{
    model::{ResolvedKey, is_secret_of, roles_named},
    roles::permissions_of,
    secret,
    store::{self, Resolved, ResolvedTenant},
    verdict::{self, Check, Question},
};
use crate::{
    allowlist::model::address,
    db::{Role as DatabaseRole, Scope},
    error::{Error, Result},
    pb::{self, VerifyCode},
    rpc::Call,
    server::Shared,
    wire::timestamp,
};

/// Tells whether a key is good.
///
/// # Errors
///
/// What the method says.
pub async fn verify(
    shared: &Shared,
    call: &Call,
    request: &pb::VerifyKeyRequest,
) -> Result<pb::VerifyKeyResponse> {
    let environment =
        crate::wire::id(&request.environment).map_err(|why| Error::invalid("environment", why))?;
    let client_ip = match &*request.client_ip {
        "" => None,
        ip => Some(address(ip).map_err(|why| Error::invalid("client_ip", why))?),
    };
    let question = Question {
        environment: &environment,
        client_ip,
        required_permissions: &request.required_permissions,
        now: shared.clock.now(),
    };

    let found = resolve(shared, call, &request.key).await?;

    Ok(match found {
        Ok(resolved) => answer(shared, resolved, &question, request.explain),
        Err(why) => not_found(why, request.explain),
    })
}

/// Tells whether each of several keys is good.
///
/// # Errors
///
/// What the method says.
pub async fn batch(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::BatchVerifyKeysRequest,
) -> Result<pb::BatchVerifyKeysResponse> {
    Err(Error::MethodUnknown)
}

/// Finds the key that a text is of, if the caller's scope covers it; else why not.
async fn resolve(shared: &Shared, call: &Call, text: &str) -> Result<Result<Resolved, String>> {
    let master = &shared.master;
    let parsed = match secret::parse(master, text) {
        Ok(parsed) => parsed,
        Err(malformed) => return Ok(Err(malformed.to_string())),
    };
    let mut transaction = shared.database.begin_as(DatabaseRole::Verifier, call.deadline).await?;
    let found = store::resolve(transaction.conn(), parsed.key_ref).await?;
    transaction.commit().await?;

    let unknown = || "no such key within the scope of the caller".to_owned();
    Ok(found
        .filter(|found| is_secret_of(master, &found.key, &parsed.secret))
        .filter(|found| covers(&call.scope, &found.key, found.tenant.as_ref()))
        .ok_or_else(unknown))
}

fn answer(
    shared: &Shared,
    resolved: Resolved,
    question: &Question<'_>,
    explain: bool,
) -> pb::VerifyKeyResponse {
    let Resolved { key, tenant, allowlist } = resolved;
    let standing = tenant.as_ref().map(|tenant| &tenant.standing);
    let checks = verdict::checks(&key, standing, &allowlist, question);
    let code = verdict::code(&checks);
    let lock = tenant.as_ref().and_then(|tenant| tenant.standing.lock(question.now));
    let id = secret::KeyRef { route: key.route, number: key.number };
    let roles = roles_named(&key.roles);
    let (tenant_id, uid) =
        tenant.map(|tenant| (tenant.tenant_id, tenant.uid.to_string())).unwrap_or_default();
    pb::VerifyKeyResponse {
        valid: code == VerifyCode::Valid,
        code: code.into(),
        account_id: key.account_id.unwrap_or_default(),
        tenant_id,
        tenant_uid: uid,
        environment: key.environment.unwrap_or_default(),
        credential_kind: pb::CredentialKind::ApiKey.into(),
        credential_id: id.public_id(&shared.master).to_string(),
        roles: roles.iter().map(|role| role.id.to_owned()).collect(),
        permissions: permissions_of(&roles).into_iter().map(str::to_owned).collect(),
        read_only: code == VerifyCode::Valid && lock.is_some(),
        expire_time: key.expire_time.map(timestamp),
        checks: if explain { checks.into_iter().map(Into::into).collect() } else { vec![] },
        ..Default::default()
    }
}

/// Whether a verifier's scope covers a key: one that it does not cover does not exist for it.
fn covers(scope: &Scope, key: &ResolvedKey, tenant: Option<&ResolvedTenant>) -> bool {
    match scope {
        Scope::System => true,
        Scope::Account(account) => key.account_id.as_ref() == Some(account),
        Scope::Tenant(uid) => key.tenant_uid == Some(*uid),
        Scope::Provider(uid) => tenant
            .is_some_and(|tenant| tenant.uid == *uid || tenant.ancestors.contains(&Some(*uid))),
        Scope::Tenants(_) | Scope::Reseller { .. } | Scope::Publisher(_) => false,
    }
}

fn not_found(why: String, explain: bool) -> pb::VerifyKeyResponse {
    let check = Check { name: "found", code: VerifyCode::NotFound, passed: false, message: why };
    pb::VerifyKeyResponse {
        code: VerifyCode::NotFound.into(),
        checks: if explain { vec![check.into()] } else { vec![] },
        ..Default::default()
    }
}
