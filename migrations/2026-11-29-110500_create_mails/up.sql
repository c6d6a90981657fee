create table mails (
    mail_id uuid not null,
    kind text not null,
    tenant_uid uuid,
    authorization_request_id uuid,
    generation integer,
    authorization_id uuid,
    state text not null,
    attempts integer not null,
    next_attempt_time timestamptz not null,
    recipients text[] not null,
    outcome text not null,
    correlation_id text not null,
    create_time timestamptz not null,
    update_time timestamptz not null,
    constraint mails_pkey primary key (mail_id),
    constraint mails_tenant_uid_fkey foreign key (tenant_uid) references tenants (uid) on delete cascade,
    constraint mails_authorization_request_id_fkey
        foreign key (authorization_request_id)
        references authorization_requests (authorization_request_id) on delete cascade,
    constraint mails_authorization_fkey
        foreign key (tenant_uid, authorization_id)
        references tenant_authorizations (tenant_uid, authorization_id) on delete cascade,
    constraint mails_kind_check check (
        (kind = 'AUTHORIZATION_REQUESTED' and authorization_request_id is not null and generation is not null)
        or (kind = 'AUTHORIZATION_REVOKED' and tenant_uid is not null and authorization_id is not null)
    ),
    constraint mails_state_check check (state in ('WAITING', 'SENT', 'DROPPED'))
);

comment on table mails is 'The mails that are to be sent, written in the transactions that want them sent. A row says of what a mail is to tell; its text, and to whom it goes, is found when it is sent.';
comment on column mails.mail_id is 'Its Message-ID is made from it: who gets a mail twice can tell.';
comment on column mails.tenant_uid is 'The tenant whose addresses it goes to; null where a request reaches nobody.';
comment on column mails.generation is 'Of the request: a link that was replaced is not sent any more.';
comment on column mails.next_attempt_time is 'From when on it may be sent. Whoever sends it puts this off first, so that no other does meanwhile.';
comment on column mails.recipients is 'To whom it goes, as its last attempt found; written before it is sent.';
comment on column mails.outcome is 'Why it was dropped, or is late.';

create unique index mails_request_key on mails (authorization_request_id, generation);
create unique index mails_authorization_key on mails (tenant_uid, authorization_id)
    where kind = 'AUTHORIZATION_REVOKED';
create index mails_waiting_idx on mails (next_attempt_time) where state = 'WAITING';
create index mails_tenant_idx on mails (tenant_uid, update_time);

alter table mails enable row level security;
alter table mails force row level security;

create policy mails_owner on mails to tenantry_owner
    using (true) with check (true);

-- Whoever asks puts a mail in, and never sees whether it reaches anybody.
create policy mails_append on mails for insert to tenantry_service
    with check (
        exists (
            select 1 from authorization_requests as request
            where request.authorization_request_id = mails.authorization_request_id
                and request.tenant_uid is not distinct from mails.tenant_uid
                and request.generation = mails.generation
        )
        or (authorization_request_id is null
            and exists (select 1 from tenants where tenants.uid = mails.tenant_uid))
    );

create policy mails_of_tenant on mails for select to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = mails.tenant_uid));

grant select, insert on mails to tenantry_service;

create policy mails_mailer on mails to tenantry_mailer
    using (true) with check (true);
grant select, delete on mails to tenantry_mailer;
grant update (state, attempts, next_attempt_time, recipients, outcome, update_time) on mails to tenantry_mailer;

create policy authorization_requests_mailer on authorization_requests for select to tenantry_mailer
    using (true);
grant select (authorization_request_id, kind, application_id, publisher_account_id, environment, contact_email,
        additional_info, on_behalf_of, scopes, run_as, valid_until, tenant_uid, authorization_id, state, expire_time,
        generation)
    on authorization_requests to tenantry_mailer;

create policy tenant_authorizations_mailer on tenant_authorizations for select to tenantry_mailer
    using (true);
grant select (tenant_uid, authorization_id, application_id, publisher_account_id, environment, granted_scopes,
        state, valid_until, revoke_time, revoke_reason, revoke_contact)
    on tenant_authorizations to tenantry_mailer;

create policy tenants_mailer on tenants for select to tenantry_mailer
    using (true);
grant select (uid, name, state, contact_email, support_email, admin_user) on tenants to tenantry_mailer;

create policy applications_mailer on applications for select to tenantry_mailer
    using (true);
grant select (application_id, name) on applications to tenantry_mailer;

create policy accounts_mailer on accounts for select to tenantry_mailer
    using (true);
grant select (account_id, name) on accounts to tenantry_mailer;

create policy environments_mailer on environments for select to tenantry_mailer
    using (true);
grant select (environment_id, name) on environments to tenantry_mailer;

create policy mails_purger on mails to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones where tenant_tombstones.tenant_uid = mails.tenant_uid
    ))
    with check (false);
grant select (tenant_uid, mail_id), delete on mails to tenantry_purger;

-- Whoever asks sees no mail: it is told how many there were, be the customer known or not.
create function count_mails(application text, customer text, since timestamptz)
    returns table (of_customer bigint, of_application bigint)
    language sql stable security definer set search_path = public, pg_temp
    as $$
        select count(*) filter (where request.customer_id = customer), count(*)
        from authorization_requests as request
        join mails on mails.authorization_request_id = request.authorization_request_id
        where request.application_id = application
            and request.update_time > since and mails.create_time > since
    $$;

comment on function count_mails is 'How many mails were put in for requests of an application since a time, and how many of those for one customer.';

revoke execute on function count_mails from public;
grant execute on function count_mails to tenantry_service;
