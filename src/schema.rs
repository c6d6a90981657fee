// @generated automatically by Diesel CLI.

pub mod sql_types {
    #[derive(diesel::sql_types::SqlType)]
    #[diesel(postgres_type(name = "xid8", schema = "pg_catalog"))]
    pub struct Xid8;
}

diesel::table! {
    /// From where the API keys of an account itself work (4-13); no row: from anywhere.
    account_ip_allowlists (account_id) {
        account_id -> Text,
        /// Whether the rules bind; if not, they are kept and ignored (4-12).
        enabled -> Bool,
        /// As in tenant_ip_allowlists.
        rules -> Jsonb,
        update_time -> Timestamptz,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
    }
}

diesel::table! {
    /// The organisations that operate tenants and publish applications.
    accounts (account_id) {
        /// Chosen by its creator, immutable.
        account_id -> Text,
        /// Display name.
        name -> Text,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
        /// Whether new tenants wait for approval (4-08).
        tenant_creation_approval_required -> Bool,
        /// How many tenants it may have that are not deleted; null: no limit (4-18).
        max_tenants -> Nullable<Int4>,
    }
}

diesel::table! {
    /// Keys with roles, of the system, an account or a tenant (4-15).
    api_keys (route, number) {
        /// Leads from the text of a key to its owner: 0 for the system, else the first 64 bits of the tenant's uid or of a hash of the account's id.
        route -> Int8,
        /// Milliseconds since 1970 in the upper 48 bits, chance in the lower 16: keys of one owner lie in the order of their creation.
        number -> Int8,
        scope -> Text,
        /// Null for a key of the system.
        account_id -> Nullable<Text>,
        /// Null unless the key is a tenant's.
        tenant_uid -> Nullable<Uuid>,
        name -> Text,
        roles -> Array<Nullable<Text>>,
        /// Null: good in any environment.
        environment -> Nullable<Text>,
        /// Binds a key with the role reseller to the tenants of that reseller (2-30).
        reseller_id -> Nullable<Text>,
        /// HMAC under the master key of the SHA-256 of the secret; the secret itself is nowhere.
        digest -> Bytea,
        /// The version of the master key that the digest was made with.
        master_key_version -> Int2,
        expire_time -> Nullable<Timestamptz>,
        created_by -> Text,
        create_time -> Timestamptz,
        /// A revoked key stays revoked; the row is kept for history.
        revoke_time -> Nullable<Timestamptz>,
        revoked_by -> Nullable<Text>,
        revoke_reason -> Nullable<Text>,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
        /// On which backends the role multi-backend-admin places tenants (2-23).
        backend_ids -> Array<Nullable<Text>>,
        /// What the key is for.
        description -> Text,
        /// Whether the key is good at all; unlike a revoked key it can be enabled again.
        enabled -> Bool,
        /// What digest was before the last rotation; good until old_end_time.
        old_digest -> Nullable<Bytea>,
        /// The version of the master key that old_digest was made with.
        old_master_key_version -> Nullable<Int2>,
        /// The end of the overlap of the last rotation.
        old_end_time -> Nullable<Timestamptz>,
        /// How many verifications of a window find the key VALID; null: any number.
        rate_requests -> Nullable<Int8>,
        /// How long a window is; windows begin at multiples of it since 1970.
        rate_window_seconds -> Nullable<Int4>,
        /// How many uses there are, and up to how many refills go; null: any number.
        credits_amount -> Nullable<Int8>,
        /// How many uses a refill adds; null: there are none.
        credits_refill_amount -> Nullable<Int8>,
        /// How often it is refilled, counted from when credits were set.
        credits_refill_seconds -> Nullable<Int4>,
        /// Counts how often the limits were set: what was handed out before counts for nothing.
        limits_version -> Int8,
    }
}

diesel::table! {
    /// In which environments applications are published, and as which client each proves itself there (0-26).
    application_clients (application_id, environment) {
        application_id -> Text,
        environment -> Text,
        client_id -> Text,
        /// HMAC under the master key of the SHA-256 of the secret; the secret itself is nowhere.
        secret_digest -> Bytea,
        master_key_version -> Int2,
        /// That of the secret before it, until old_end_time.
        old_secret_digest -> Nullable<Bytea>,
        old_master_key_version -> Nullable<Int2>,
        old_end_time -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    /// The ids of all applications that there ever were: who trusts one must not meet another under its id.
    application_ids (application_id) {
        application_id -> Text,
        /// Whose it was. No foreign key: it outlives the account.
        account_id -> Text,
    }
}

diesel::table! {
    /// What accounts publish, and what tenants authorize (0-26).
    applications (application_id) {
        application_id -> Text,
        account_id -> Text,
        name -> Text,
        description -> Text,
        homepage_url -> Text,
        run_as -> Text,
        /// What it asks for, in the order in which it was said.
        scopes -> Array<Nullable<Text>>,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        /// Counts the changes of the row and of its clients; the etag is made from it.
        version -> Int8,
    }
}

diesel::table! {
    /// What accounts ask of tenants for their applications (0-10, 0-13), and what came of it.
    authorization_requests (authorization_request_id) {
        authorization_request_id -> Uuid,
        /// NEW where nothing was authorized; UPDATE of what is.
        kind -> Text,
        application_id -> Text,
        publisher_account_id -> Text,
        environment -> Text,
        /// As it was said: the id of a tenant, or one of its external ids.
        customer_id -> Text,
        customer_name -> Text,
        contact_email -> Text,
        additional_info -> Text,
        on_behalf_of -> Text,
        scopes -> Array<Nullable<Text>>,
        /// As whom the application acted when it asked: a yes is to that.
        run_as -> Text,
        valid_until -> Nullable<Timestamptz>,
        /// Null where the customer is unknown, has such a request by another name already, or was purged. Whoever asks is not told which.
        tenant_uid -> Nullable<Uuid>,
        /// The authorization that is to be changed, or came of it.
        authorization_id -> Nullable<Uuid>,
        /// PENDING until it is decided on; one whose expire_time has passed is over.
        state -> Text,
        requested_by -> Text,
        request_time -> Timestamptz,
        expire_time -> Timestamptz,
        /// How often a link was made for it; only the last one is good.
        generation -> Int4,
        /// The SHA-256 of the secret in that link.
        token_digest -> Bytea,
        decided_by -> Nullable<Text>,
        decider_name -> Nullable<Text>,
        decide_time -> Nullable<Timestamptz>,
        decline_reason -> Nullable<Text>,
        update_time -> Timestamptz,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
    }
}

diesel::table! {
    /// How many tenants authorize an application, or any of an account, in an environment (0-02, 0-03): the sum of the slots, less those whose time is over and that nobody has marked yet.
    authorized_tenant_counts (publisher_account_id, application_id, environment, slot) {
        publisher_account_id -> Text,
        /// Empty: any application of the account.
        application_id -> Text,
        environment -> Text,
        /// Which tenants it counts, by the last byte of their uid: so that changes of several tenants seldom wait for each other.
        slot -> Int4,
        tenants -> Int8,
    }
}

diesel::table! {
    /// Which tenants authorize an application, or any of an account, in an environment, or once did (0-02, 0-03): a row for the application and one for its account, kept by book_authorizations.
    authorized_tenants (tenant_uid, publisher_account_id, application_id, environment) {
        tenant_uid -> Uuid,
        publisher_account_id -> Text,
        /// Empty: any application of the account.
        application_id -> Text,
        environment -> Text,
        /// That of the tenant, by which the rows are listed.
        tenant_id -> Text,
        /// How many of its authorizations are stored as live; the time of some of these may be over.
        live -> Int4,
        /// Whether at least one was revoked (0-17).
        has_revoked -> Bool,
    }
}

diesel::table! {
    /// Parts of the platform that tenants are placed on (2-20).
    backends (backend_id) {
        backend_id -> Text,
        /// What others call it; unique too.
        external_name -> Text,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
    }
}

diesel::table! {
    /// The DNS domains at system level that tenants may have as their default (2-05, 2-19).
    domains (domain_id) {
        /// The DNS name itself, in lower case.
        domain_id -> Text,
        create_time -> Timestamptz,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
    }
}

diesel::table! {
    /// The ordered set of environments that keys and authorizations belong to (0-01).
    environments (environment_id) {
        /// Chosen by its creator, immutable; part of the text of a key, hence never "any".
        environment_id -> Text,
        name -> Text,
        /// Place in every list that goes by environment, ascending.
        position -> Int4,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
    }
}

diesel::table! {
    /// Which events lie in which partition, by the time in their ids: what is before the first one was dropped.
    event_partitions (partition) {
        partition -> Text,
        from_time -> Timestamptz,
        until_time -> Timestamptz,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::sql_types::Xid8;

    /// Audit log and change feed: one row for each change, written in the transaction of the change. A partition for each week, by the time in the id.
    events (event_id) {
        /// UUIDv7 made by the service.
        event_id -> Uuid,
        /// The transaction that wrote the row: what the feed compares with a snapshot, so that a late commit is not skipped.
        transaction_id -> Xid8,
        /// Resource and what happened to it, such as tenant.created.
        #[sql_name = "type"]
        type_ -> Text,
        /// The RPC that changed it, such as tenantry.v1.TenantService/CreateTenant.
        method -> Text,
        /// Null for what belongs to the system.
        account_id -> Nullable<Text>,
        /// Null where no tenant is concerned. No foreign key: events outlive what they tell of.
        tenant_uid -> Nullable<Uuid>,
        /// The same tenant by the id that people use.
        tenant_id -> Nullable<Text>,
        resource_type -> Text,
        resource_id -> Text,
        /// The key that called, as "api_key:" and its id; "system" for the service itself.
        actor -> Text,
        correlation_id -> Text,
        /// The resource before the change, without secrets; null when it was created.
        before -> Nullable<Jsonb>,
        /// The resource after the change, without secrets; null when it is gone.
        after -> Nullable<Jsonb>,
        event_time -> Timestamptz,
        /// First part of the order in which events are told: the higher of the transaction that wrote the row, and the first that had not begun by then.
        position -> Int8,
        /// Second part of that order, by the clock of the database; the id of the event is the third.
        recorded_time -> Timestamptz,
        /// The tenants above the one concerned, at that time; of a move, those before it too. Null where no tenant is concerned.
        ancestors -> Nullable<Array<Nullable<Uuid>>>,
        /// For whom the actor did it, where it was not for itself.
        on_behalf_of -> Nullable<Text>,
    }
}

diesel::table! {
    /// What was told ahead of the end of keys and trials, so that it is told once.
    expiry_notices (resource_type, resource, expire_time, days_ahead) {
        resource_type -> Text,
        /// Its primary key, as text.
        resource -> Text,
        expire_time -> Timestamptz,
        days_ahead -> Int4,
        notice_time -> Timestamptz,
    }
}

diesel::table! {
    /// The keys that clients of an installation send (1-25, 1-29).
    external_keys (route, number) {
        /// The first 64 bits of the tenant's uid: what the text of a key leads to.
        route -> Int8,
        /// Milliseconds since 1970 in the upper 48 bits, chance in the lower 16.
        number -> Int8,
        tenant_uid -> Uuid,
        app_key_id -> Text,
        label -> Text,
        /// The only one that the key is good in (1-29).
        environment -> Text,
        /// The end of its last day, in UTC; null: never (1-30).
        expire_time -> Nullable<Timestamptz>,
        /// A DeviceRules as JSON; null: any device (1-37).
        device -> Nullable<Jsonb>,
        /// A GeoRules as JSON; null: from anywhere (1-36).
        geo -> Nullable<Jsonb>,
        enabled -> Bool,
        /// HMAC under the master key of the SHA-256 of the secret; the secret itself is nowhere.
        digest -> Bytea,
        master_key_version -> Int2,
        created_by -> Text,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        revoke_time -> Nullable<Timestamptz>,
        revoked_by -> Nullable<Text>,
        revoke_reason -> Nullable<Text>,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
        /// What digest was before the last rotation; good until old_end_time.
        old_digest -> Nullable<Bytea>,
        /// The version of the master key that old_digest was made with.
        old_master_key_version -> Nullable<Int2>,
        /// The end of the overlap of the last rotation.
        old_end_time -> Nullable<Timestamptz>,
        /// As in api_keys.
        rate_requests -> Nullable<Int8>,
        /// As in api_keys.
        rate_window_seconds -> Nullable<Int4>,
        /// As in api_keys.
        credits_amount -> Nullable<Int8>,
        /// As in api_keys.
        credits_refill_amount -> Nullable<Int8>,
        /// As in api_keys.
        credits_refill_seconds -> Nullable<Int4>,
        /// As in api_keys.
        limits_version -> Int8,
    }
}

diesel::table! {
    /// What was answered to a mutation with a request_id, so that a repetition gets the same answer and has no second effect.
    idempotency_records (credential_id, account_id, tenant_uid, method, request_id) {
        /// The key that called.
        credential_id -> Uuid,
        /// The account of the call, empty where it had none.
        account_id -> Text,
        /// The tenant of the call, all zeros where it had none.
        tenant_uid -> Uuid,
        method -> Text,
        request_id -> Text,
        /// Keyed hash of the request without validate_only.
        fingerprint -> Bytea,
        /// The encoded answer, encrypted under a key made from the caller's own secret and the request_id.
        answer -> Bytea,
        expire_time -> Timestamptz,
    }
}

diesel::table! {
    /// Keys that were made elsewhere: their texts lead to no row, so they are found by what is stored of them.
    imported_keys (digest) {
        /// HMAC under the master key of the SHA-256 of the whole text.
        digest -> Bytea,
        /// The version of the master key that the digest was made with.
        master_key_version -> Int2,
        route -> Int8,
        number -> Int8,
        tenant_uid -> Uuid,
    }
}

diesel::table! {
    /// How many uses of a key are left that no node has taken a portion of.
    key_credits (route, number) {
        route -> Int8,
        number -> Int8,
        /// Whose key it is; null for a key of the system or an account.
        tenant_uid -> Nullable<Uuid>,
        /// The limits that it counts against.
        limits_version -> Int8,
        remaining -> Int8,
        /// How many uses were handed out the last time.
        granted -> Int8,
        /// Up to when refills are counted in remaining.
        refill_time -> Timestamptz,
    }
}

diesel::table! {
    /// How much of the newest window of a key was handed out to nodes, which take small portions of it.
    key_rate_windows (route, number) {
        route -> Int8,
        number -> Int8,
        /// Whose key it is; null for a key of the system or an account.
        tenant_uid -> Nullable<Uuid>,
        /// The limits that it counts against.
        limits_version -> Int8,
        /// Seconds since 1970, by the clock of the database, divided by the length of the window.
        window_number -> Int8,
        /// How many uses of it were handed out.
        used -> Int8,
        /// How many of them the last time.
        granted -> Int8,
    }
}

diesel::table! {
    /// When keys were used last. Written at most once a minute for a key, so that the keys themselves never are.
    key_usage (route, number) {
        route -> Int8,
        number -> Int8,
        /// Whose key it is; null for a key of the system or an account.
        tenant_uid -> Nullable<Uuid>,
        /// To the minute. No index has it: an update stays on its page.
        last_used_time -> Timestamptz,
    }
}

diesel::table! {
    /// The mails that are to be sent, written in the transactions that want them sent. A row says of what a mail is to tell; its text, and to whom it goes, is found when it is sent.
    mails (mail_id) {
        /// Its Message-ID is made from it: who gets a mail twice can tell.
        mail_id -> Uuid,
        kind -> Text,
        /// The tenant whose addresses it goes to; null where a request reaches nobody.
        tenant_uid -> Nullable<Uuid>,
        authorization_request_id -> Nullable<Uuid>,
        /// Of the request: a link that was replaced is not sent any more.
        generation -> Nullable<Int4>,
        authorization_id -> Nullable<Uuid>,
        state -> Text,
        attempts -> Int4,
        /// From when on it may be sent. Whoever sends it puts this off first, so that no other does meanwhile.
        next_attempt_time -> Timestamptz,
        /// To whom it goes, as its last attempt found; written before it is sent.
        recipients -> Array<Nullable<Text>>,
        /// Why it was dropped, or is late.
        outcome -> Text,
        correlation_id -> Text,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
    }
}

diesel::table! {
    /// Tells whether a service holds the master key that the keys in this database were made with.
    master_key_checks (version) {
        /// Version of the master key; 0 stands for the permutation of key ids.
        version -> Int2,
        /// HMAC of a fixed label; tells nothing of the key.
        check_value -> Bytea,
        create_time -> Timestamptz,
    }
}

diesel::table! {
    /// The nodes that answer from what they know, and up to where each has applied what happened.
    nodes (node_id) {
        /// Made anew whenever a node begins to know anything.
        node_id -> Uuid,
        /// For how long after the beginning of a poll the node trusts what it knows.
        lease_milliseconds -> Int8,
        /// A pg_snapshot: everything that it sees was applied.
        applied -> Text,
        /// When the node last said that it is there, by the clock of the database.
        renew_time -> Timestamptz,
    }
}

diesel::table! {
    /// What goes on after the call that asked for it: tenants that are created by CreateTenantAsync (3-02).
    operations (operation_id) {
        /// UUIDv7, so that the order is that of their making.
        operation_id -> Uuid,
        /// The account of the tenant to be.
        account_id -> Text,
        /// The tenant of the call, which is not the tenant to be; null where it had none.
        tenant_uid -> Nullable<Uuid>,
        /// The same tenant by its id.
        tenant_of_call -> Nullable<Text>,
        /// Whether the call named it in its metadata.
        names_tenant -> Bool,
        /// The account that a key of the system named in its metadata.
        names_account -> Nullable<Text>,
        /// The key that called: its rights count, and it alone takes the result.
        credential_id -> Uuid,
        correlation_id -> Text,
        state -> Text,
        /// The name of the tenant to be.
        subject -> Text,
        /// The id of the tenant to be; null while it is not known.
        tenant_id -> Nullable<Text>,
        /// How often work on it was begun.
        attempts -> Int4,
        /// When work on it was begun last; others leave it alone for a while.
        attempt_time -> Nullable<Timestamptz>,
        init_time -> Timestamptz,
        processing_start_time -> Nullable<Timestamptz>,
        processing_end_time -> Nullable<Timestamptz>,
        /// Why there is no tenant: an encoded google.rpc.Status.
        error -> Nullable<Bytea>,
        /// The key of request and result, encrypted under one made from the caller's own secret.
        creator_key -> Bytea,
        /// The same key, encrypted under the master key until the operation is done.
        worker_key -> Nullable<Bytea>,
        /// The encrypted request, until the operation is done.
        request -> Nullable<Bytea>,
        /// The encrypted answer, until it is taken.
        result -> Nullable<Bytea>,
        /// When the result was taken.
        take_time -> Nullable<Timestamptz>,
        /// When it is forgotten; null until it is done.
        expire_time -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    /// The forms in which products are sold (1-51).
    product_packages (account_id, product_code, package_code) {
        account_id -> Text,
        product_code -> Text,
        /// Without the code of the product before it (1-21).
        package_code -> Text,
        name -> Text,
        description -> Text,
        /// Place among the packages of the product, as they were given.
        position -> Int4,
    }
}

diesel::table! {
    /// What an account sells, and what installations are of (1-51).
    products (account_id, product_code) {
        account_id -> Text,
        product_code -> Text,
        name -> Text,
        description -> Text,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        /// Counts the changes of the row and of its packages; the etag is made from it.
        version -> Int8,
    }
}

diesel::table! {
    /// Who sells the tenants of an account on (2-31).
    resellers (account_id, reseller_id) {
        account_id -> Text,
        reseller_id -> Text,
        /// What others call it; may be empty.
        external_name -> Text,
        /// A JSON object of the caller's own, replaced whole.
        extra_data -> Nullable<Jsonb>,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
    }
}

diesel::table! {
    /// What an app key says to services, a document for each environment (1-26).
    tenant_app_key_configs (tenant_uid, app_key_id, environment) {
        tenant_uid -> Uuid,
        app_key_id -> Text,
        environment -> Text,
        /// By the name of the service; "commonFields" for all of them.
        config -> Jsonb,
        update_time -> Timestamptz,
        version -> Int8,
    }
}

diesel::table! {
    /// The internal keys of installations (1-25): what external keys are of.
    tenant_app_keys (tenant_uid, app_key_id) {
        tenant_uid -> Uuid,
        /// 16 random bytes as hexadecimal digits. An id, not a secret.
        app_key_id -> Text,
        installation_id -> Text,
        create_time -> Timestamptz,
    }
}

diesel::table! {
    /// When what tenants authorize was used last (0-09). Written at most once a minute for an authorization, so that the authorizations themselves never are.
    tenant_authorization_usage (tenant_uid, authorization_id) {
        tenant_uid -> Uuid,
        authorization_id -> Uuid,
        /// To the minute. No index has it: an update stays on its page.
        last_used_time -> Timestamptz,
    }
}

diesel::table! {
    /// Which application a tenant lets act on it in which environment, and which it once did: nothing goes but with the tenant (0-16).
    tenant_authorizations (tenant_uid, authorization_id) {
        tenant_uid -> Uuid,
        authorization_id -> Uuid,
        /// That of the tenant, for the account of the application, which does not see tenants of other accounts.
        tenant_id -> Text,
        /// It outlives the application, whose id is never given twice.
        application_id -> Text,
        /// The account of the application, which sees the row as the tenant does.
        publisher_account_id -> Text,
        environment -> Text,
        /// ACTIVE until it is revoked, or another takes the place of one whose time is over; the first of these is told by valid_until.
        state -> Text,
        /// What the application may do, in the order in which it was granted.
        granted_scopes -> Array<Nullable<Text>>,
        /// Who decided: an operator of the platform, or an administrator of the tenant (0-21).
        path -> Text,
        authorizer_name -> Text,
        authorizer_email -> Text,
        /// The key, or whoever else, that granted it (0-19).
        authorizer -> Text,
        grant_time -> Timestamptz,
        valid_until -> Nullable<Timestamptz>,
        revoke_time -> Nullable<Timestamptz>,
        revoked_by -> Nullable<Text>,
        revoke_reason -> Nullable<Text>,
        revoke_contact -> Nullable<Text>,
        update_time -> Timestamptz,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
        /// What the application asks for besides, until its tenant says yes or no (0-22).
        requested_scopes -> Array<Nullable<Text>>,
    }
}

diesel::table! {
    /// What must be unique across tenants, keyed by itself: a claim is taken by inserting it.
    tenant_directory (kind, key) {
        /// TENANT_ID claims stay for ever; CODE and HOSTNAME until purge; NAME (1-05) as long as it is the name of a tenant that was created without a code.
        kind -> Text,
        /// The id, code or hostname; for NAME the account, the console namespace and the name.
        key -> Text,
        /// Who holds the claim. No foreign key: a claim may outlive its tenant, and is distributed by its own key.
        tenant_uid -> Uuid,
        create_time -> Timestamptz,
    }
}

diesel::table! {
    /// What applications keep of the end users of a tenant, one document for each (2-27).
    tenant_end_user_app_data (tenant_uid, application_id, end_user_id) {
        /// No foreign key: what a deletion leaves of excluded applications outlives the tenant.
        tenant_uid -> Uuid,
        application_id -> Text,
        /// Opaque; the application's own.
        end_user_id -> Text,
        data -> Jsonb,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
    }
}

diesel::table! {
    /// How much of the platform a tenant may use, one row for each type (3-11).
    tenant_entitlements (tenant_uid, type_) {
        tenant_uid -> Uuid,
        #[sql_name = "type"]
        type_ -> Text,
        /// UUIDv7 made by the service.
        entitlement_id -> Uuid,
        status -> Text,
        /// What the direct children of a service provider hold of it together is never more (3-08).
        quantity -> Int8,
        contract_mode -> Text,
        contract_number -> Text,
        start_time -> Timestamptz,
        /// Null: no end.
        end_time -> Nullable<Timestamptz>,
        /// What an ISSUANCE tenant may issue (3-09).
        service_bundles -> Array<Nullable<Text>>,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
    }
}

diesel::table! {
    /// Ids that others gave to a tenant; no logic of ours, hence not unique (2-10).
    tenant_external_ids (tenant_uid, key) {
        tenant_uid -> Uuid,
        /// Whose id it is; "1" to "4" are the four of the telephony platform.
        key -> Text,
        /// Opaque, may be empty; an empty one is never found by look-up.
        value -> Text,
    }
}

diesel::table! {
    /// The groups of users within a tenant, each of exactly one (2-32).
    tenant_groups (tenant_uid, group_id) {
        tenant_uid -> Uuid,
        /// Given or generated, immutable; unique within the tenant.
        group_id -> Text,
        name -> Text,
        /// Null: no limit.
        user_limit -> Nullable<Int4>,
        user_count -> Int4,
        /// Null where none.
        default_domain -> Nullable<Text>,
        cli_name -> Text,
        cli_phone_number -> Text,
        location_dialing_code -> Text,
        /// A name of the IANA time zone database, or empty.
        time_zone -> Text,
        contact_name -> Text,
        contact_phone_number -> Text,
        contact_email -> Text,
        address_street_address -> Text,
        address_extended_address -> Text,
        address_locality -> Text,
        address_region -> Text,
        address_post_code -> Text,
        address_country -> Text,
        /// Null where none; a reseller sees the groups with its own.
        reseller_id -> Nullable<Text>,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
        /// The account of the tenant, where the group has a reseller: the first half of the reseller's key.
        reseller_account_id -> Nullable<Text>,
    }
}

diesel::table! {
    /// What tenants run of products (1-20); holds app keys.
    tenant_installations (tenant_uid, installation_id) {
        tenant_uid -> Uuid,
        /// Generated, immutable; unique within the tenant.
        installation_id -> Text,
        /// The account of the tenant: the product is one of it.
        account_id -> Text,
        description -> Text,
        product_code -> Text,
        /// Without the code of the product before it (1-21).
        package_code -> Text,
        /// How long verifiers may keep what a key resolves to (1-22, 1-23); never when a key ends.
        ttl_hours -> Int2,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
        /// Whose keys they are: they are good only while the tenant authorizes it. Null where they are nobody's.
        application_id -> Nullable<Text>,
    }
}

diesel::table! {
    /// From where the API keys of a tenant work (4-10); no row: from anywhere.
    tenant_ip_allowlists (tenant_uid) {
        tenant_uid -> Uuid,
        /// Whether the rules bind; if not, they are kept and ignored (4-12).
        enabled -> Bool,
        /// An array of {"name", "start", "end"}: inclusive ranges of IP addresses, IPv4 or IPv6.
        rules -> Jsonb,
        update_time -> Timestamptz,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
    }
}

diesel::table! {
    /// As which OAuth client a tenant's users sign in, one for each tenant (1-14).
    tenant_oauth_clients (tenant_uid) {
        tenant_uid -> Uuid,
        /// HMAC under the master key of the SHA-256 of the secret; the secret itself is nowhere.
        secret_digest -> Bytea,
        master_key_version -> Int2,
        redirect_uri -> Text,
        grants -> Array<Nullable<Text>>,
        disabled -> Bool,
        #[sql_name = "type"]
        type_ -> Int2,
        login_mode -> Text,
        /// For which products a PIN is asked, by product code (1-19).
        pin -> Jsonb,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
    }
}

diesel::table! {
    /// Which services of the platform are on for a tenant (4-14).
    tenant_service_settings (tenant_uid, name) {
        tenant_uid -> Uuid,
        name -> Text,
        enabled -> Bool,
    }
}

diesel::table! {
    /// What new tenants have unless their creator says otherwise (2-18).
    tenant_templates (account_id, template_id) {
        account_id -> Text,
        template_id -> Text,
        category -> Text,
        /// A Tenant as JSON, with the names of the proto; only what is a default is in it.
        defaults -> Jsonb,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
    }
}

diesel::table! {
    /// Tenants whose purge has begun, and those purged of which app data is left: who may still reach that.
    tenant_tombstones (tenant_uid) {
        /// No foreign key: it outlives the row in tenants.
        tenant_uid -> Uuid,
        /// The id that people use, which stays claimed in tenant_directory.
        tenant_id -> Text,
        account_id -> Text,
        /// As in tenants: what a service provider's sight rests on; kept when a tenant above is moved.
        ancestors -> Array<Nullable<Uuid>>,
        /// From here on there is no way back, whatever a node's clock says.
        purge_begin_time -> Timestamptz,
    }
}

diesel::table! {
    /// How much of the platform a tenant used in a period (3-21).
    tenant_usage_records (tenant_uid, usage_id) {
        tenant_uid -> Uuid,
        /// UUIDv7 made by the service.
        usage_id -> Uuid,
        usage_type -> Text,
        aggregation_period -> Text,
        /// The start of a UTC day, of a week from Monday, or of a month: periods of one kind have either one start or nothing in common, so that they never overlap.
        start_time -> Timestamptz,
        end_time -> Timestamptz,
        count -> Int8,
        trial -> Bool,
        /// What was bought with it; empty where none.
        bundle_type -> Text,
    }
}

diesel::table! {
    /// One customer environment of the platform each.
    tenants (uid) {
        /// UUIDv7 made by the service; first in every key of what a tenant owns.
        uid -> Uuid,
        /// The organisation that operates the tenant.
        account_id -> Text,
        /// The id people use; claimed in tenant_directory, never given twice.
        tenant_id -> Text,
        /// Given or generated, immutable (1-03, 1-04); claimed in tenant_directory.
        code -> Text,
        name -> Text,
        description -> Text,
        /// Place in the product hierarchy (1-06).
        #[sql_name = "type"]
        type_ -> Text,
        organization_kind -> Text,
        service_line -> Text,
        /// The tenant directly above; a CLIENT always has one.
        parent_uid -> Nullable<Uuid>,
        /// From the root down to the parent; what a service provider's sight and the depth limit rest on.
        ancestors -> Array<Nullable<Uuid>>,
        /// Console tenants are a namespace of their own for names (1-08).
        console -> Bool,
        tag -> Text,
        state -> Text,
        /// What undelete brings back.
        state_before_delete -> Nullable<Text>,
        /// Null unless the tenant itself is locked; what is locked above it is computed, never copied (3-22).
        lock_mode -> Nullable<Text>,
        contract_mode -> Text,
        /// Empty where none; claimed in tenant_directory.
        hostname -> Text,
        /// Null where none (2-05).
        default_domain -> Nullable<Text>,
        support_email -> Text,
        contact_name -> Text,
        contact_phone_number -> Text,
        contact_email -> Text,
        address_street_address -> Text,
        address_extended_address -> Text,
        address_locality -> Text,
        address_region -> Text,
        address_post_code -> Text,
        address_country -> Text,
        /// The reseller that the tenant belongs to, within its account.
        reseller_id -> Nullable<Text>,
        use_custom_routing_profile -> Bool,
        use_tenant_languages -> Bool,
        sp_idp -> Bool,
        /// A JSON object of the caller's own, replaced whole (1-13).
        profile -> Nullable<Jsonb>,
        /// A JSON object of text values.
        labels -> Jsonb,
        created_by -> Text,
        /// Each transition stamps its own time and actor; none is ever cleared (4-07).
        approve_time -> Nullable<Timestamptz>,
        approved_by -> Nullable<Text>,
        reject_time -> Nullable<Timestamptz>,
        rejection_reason -> Nullable<Text>,
        rejected_by -> Nullable<Text>,
        delete_time -> Nullable<Timestamptz>,
        deleted_by -> Nullable<Text>,
        /// Until then a deleted tenant can be undeleted.
        purge_time -> Nullable<Timestamptz>,
        create_time -> Timestamptz,
        update_time -> Timestamptz,
        /// Counts the changes of the row; the etag is made from it.
        version -> Int8,
        lock_reason -> Nullable<Text>,
        /// When the lock was set; the five columns of a lock come and go together, but for the end.
        lock_time -> Nullable<Timestamptz>,
        locked_by -> Nullable<Text>,
        /// When the lock ends by itself; null: not before it is unlocked.
        unlock_time -> Nullable<Timestamptz>,
        /// Whether only a protected caller may change or delete it (1-46).
        protected -> Bool,
        /// When its keys stop because the trial is over; null for PRODUCTION (3-14).
        trial_expire_time -> Nullable<Timestamptz>,
        /// Where the tenant is placed; null: nowhere in particular (2-20).
        backend_id -> Nullable<Text>,
        /// The first administrator as a JSON object; null where none was named (3-04).
        admin_user -> Nullable<Jsonb>,
    }
}

diesel::joinable!(account_ip_allowlists -> accounts (account_id));
diesel::joinable!(api_keys -> accounts (account_id));
diesel::joinable!(api_keys -> environments (environment));
diesel::joinable!(api_keys -> tenants (tenant_uid));
diesel::joinable!(application_clients -> applications (application_id));
diesel::joinable!(application_clients -> environments (environment));
diesel::joinable!(applications -> accounts (account_id));
diesel::joinable!(authorization_requests -> environments (environment));
diesel::joinable!(authorization_requests -> tenants (tenant_uid));
diesel::joinable!(authorized_tenants -> tenants (tenant_uid));
diesel::joinable!(external_keys -> environments (environment));
diesel::joinable!(imported_keys -> tenants (tenant_uid));
diesel::joinable!(key_credits -> tenants (tenant_uid));
diesel::joinable!(key_rate_windows -> tenants (tenant_uid));
diesel::joinable!(key_usage -> tenants (tenant_uid));
diesel::joinable!(mails -> authorization_requests (authorization_request_id));
diesel::joinable!(mails -> tenants (tenant_uid));
diesel::joinable!(operations -> accounts (account_id));
diesel::joinable!(operations -> tenants (tenant_uid));
diesel::joinable!(products -> accounts (account_id));
diesel::joinable!(resellers -> accounts (account_id));
diesel::joinable!(tenant_app_key_configs -> environments (environment));
diesel::joinable!(tenant_authorizations -> environments (environment));
diesel::joinable!(tenant_authorizations -> tenants (tenant_uid));
diesel::joinable!(tenant_entitlements -> tenants (tenant_uid));
diesel::joinable!(tenant_external_ids -> tenants (tenant_uid));
diesel::joinable!(tenant_groups -> domains (default_domain));
diesel::joinable!(tenant_installations -> application_ids (application_id));
diesel::joinable!(tenant_ip_allowlists -> tenants (tenant_uid));
diesel::joinable!(tenant_oauth_clients -> tenants (tenant_uid));
diesel::joinable!(tenant_service_settings -> tenants (tenant_uid));
diesel::joinable!(tenant_templates -> accounts (account_id));
diesel::joinable!(tenant_tombstones -> accounts (account_id));
diesel::joinable!(tenant_usage_records -> tenants (tenant_uid));
diesel::joinable!(tenants -> accounts (account_id));
diesel::joinable!(tenants -> backends (backend_id));
diesel::joinable!(tenants -> domains (default_domain));

diesel::allow_tables_to_appear_in_same_query!(
    account_ip_allowlists,
    accounts,
    api_keys,
    application_clients,
    application_ids,
    applications,
    authorization_requests,
    authorized_tenant_counts,
    authorized_tenants,
    backends,
    domains,
    environments,
    event_partitions,
    events,
    expiry_notices,
    external_keys,
    idempotency_records,
    imported_keys,
    key_credits,
    key_rate_windows,
    key_usage,
    mails,
    master_key_checks,
    nodes,
    operations,
    product_packages,
    products,
    resellers,
    tenant_app_key_configs,
    tenant_app_keys,
    tenant_authorization_usage,
    tenant_authorizations,
    tenant_directory,
    tenant_end_user_app_data,
    tenant_entitlements,
    tenant_external_ids,
    tenant_groups,
    tenant_installations,
    tenant_ip_allowlists,
    tenant_oauth_clients,
    tenant_service_settings,
    tenant_templates,
    tenant_tombstones,
    tenant_usage_records,
    tenants,
);
