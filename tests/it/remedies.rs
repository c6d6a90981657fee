//! What errors tell people who did what people do.

use serde_json::json;

use crate::app::{App, fields, tenant, told};

#[tokio::test]
async fn a_uid_where_an_id_belongs_points_to_where_uids_are_looked_up() {
    let app = App::start().await;
    let root = app.as_root();
    let foo = root.create(tenant("foo")).await.unwrap();

    let refusal = root.get(&foo.uid).await.unwrap_err();

    assert_eq!(fields(&refusal), ["tenant_id"]);
    assert!(refusal.message().contains("LookupTenant"), "{}", refusal.message());
}

/// 3-21
#[tokio::test]
async fn usage_of_a_period_that_has_not_begun_is_refused_and_a_second_record_says_why() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let on_foo = root.with("x-tenant-id", "foo");
    let record = |start: &str| {
        let usage = json!({"usage_type": "USAGE_TYPE_USERS", "start_time": start,
            "aggregation_period": "AGGREGATION_PERIOD_DAILY"});
        on_foo.call("RecordUsage", json!({"usage_record": usage}))
    };
    let today = app.shared.clock.now().format("%Y-%m-%dT00:00:00Z").to_string();

    let future = record("2999-01-01T00:00:00Z").await.unwrap_err();
    record(&today).await.unwrap();
    let again = record(&today).await.unwrap_err();

    assert_eq!(told(&future), "InvalidArgument INVALID_FIELD");
    assert_eq!(fields(&future), ["usage_record.start_time"]);
    assert!(again.message().ends_with("never changes"), "{}", again.message());
}

#[tokio::test]
async fn a_filter_on_backends_says_what_stands_against_it() {
    let app = App::start().await;
    let in_account = app.as_root().with("x-account-id", "default");

    let refusal = in_account.list("backend_id = b", "").await.unwrap_err();

    assert_eq!(told(&refusal), "InvalidArgument INVALID_FILTER");
    assert!(refusal.message().contains("leave out x-account-id"), "{}", refusal.message());
}

#[tokio::test]
async fn a_filter_with_a_small_and_is_told_that_it_is_written_in_capitals() {
    let app = App::start().await;

    let refusal = app.as_root().list("name:\"x\" and state = ACTIVE", "").await.unwrap_err();

    assert!(refusal.message().contains("capitals"), "{}", refusal.message());
}
