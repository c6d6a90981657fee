//! When keys were used last: noted in memory, written once a minute.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel_async::SimpleAsyncConnection as _;
use secrecy::SecretString;
use tenantry::{
    db::Database,
    keys::{secret::KeyRef, usage::Usage},
};

use crate::app::{App, count};

fn key(number: i64) -> KeyRef {
    KeyRef { route: 7, number }
}

fn at(time: &str) -> DateTime<Utc> {
    format!("2026-11-29T{time}Z").parse().unwrap()
}

/// How many keys were used last at a time.
async fn used_at(app: &App, time: &str) -> i64 {
    count(
        app,
        &format!(
            "select count(*) as number from key_usage where last_used_time = '2026-11-29T{time}Z'"
        ),
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_written_once_for_a_minute_in_which_it_was_used() {
    let app = App::start().await;
    let (usage, database) = (Usage::default(), &app.shared.database);

    for second in 10..50 {
        usage.note_use(key(1), None, at(&format!("12:00:{second}")));
    }
    assert_eq!(usage.flush(database).await.unwrap(), 1);
    usage.note_use(key(1), None, at("12:00:55"));
    assert_eq!(usage.flush(database).await.unwrap(), 0);
    assert_eq!(used_at(&app, "12:00:00").await, 1);

    usage.note_use(key(1), None, at("12:01:05"));
    assert_eq!(usage.flush(database).await.unwrap(), 1);
    assert_eq!(used_at(&app, "12:01:00").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_use_nothing_is_asked_of_the_database() {
    let app = App::start().await;
    let database = app.shared.database.apart(1).unwrap();
    let usage = Usage::default();
    for number in 0..1_500 {
        usage.note_use(key(number), None, at("12:00:10"));
    }

    assert_eq!(usage.flush(&database).await.unwrap(), 1_500);
    assert_eq!(database.transactions(), 2);
    assert_eq!(usage.flush(&database).await.unwrap(), 0);
    assert_eq!(database.transactions(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_nodes_write_the_newest_time_stays() {
    let app = App::start().await;
    let database = &app.shared.database;
    let (ahead, behind) = (Usage::default(), Usage::default());
    ahead.note_use(key(1), None, at("12:05:10"));
    behind.note_use(key(1), None, at("12:03:10"));

    assert_eq!(ahead.flush(database).await.unwrap(), 1);
    assert_eq!(behind.flush(database).await.unwrap(), 0);

    assert_eq!(used_at(&app, "12:05:00").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_written_is_written_the_next_time() {
    let app = App::start().await;
    let url = SecretString::from("postgres://tenantry@127.0.0.1:1/nowhere".to_owned());
    let away = Database::new(&url, 1, Duration::from_secs(1)).unwrap();
    let usage = Usage::default();
    for number in 0..1_500 {
        usage.note_use(key(number), None, at("12:00:10"));
    }

    assert!(usage.flush(&away).await.is_err());
    usage.note_use(key(0), None, at("12:01:10"));
    assert!(usage.flush(&away).await.is_err());
    assert_eq!(usage.flush(&app.shared.database).await.unwrap(), 1_500);

    assert_eq!(used_at(&app, "12:00:00").await, 1_499);
    assert_eq!(used_at(&app, "12:01:00").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_transaction_did_not_keep_is_written_the_next_time() {
    let app = App::start().await;
    let (usage, database) = (Usage::default(), &app.shared.database);
    usage.note_use(key(1), None, at("12:00:10"));
    let mut conn = app.superuser().await;

    conn.batch_execute("revoke insert on key_usage from tenantry_meter").await.unwrap();
    assert!(usage.flush(database).await.is_err());
    conn.batch_execute("grant insert on key_usage to tenantry_meter").await.unwrap();

    assert_eq!(usage.flush(database).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_tenants_that_are_gone_are_left_out() {
    let app = App::start().await;
    let (usage, database) = (Usage::default(), &app.shared.database);
    for number in 0..1_200 {
        let gone = (number % 500 == 3).then(|| app.shared.clock.uuid());
        usage.note_use(key(number), gone, at("12:00:10"));
    }

    assert_eq!(usage.flush(database).await.unwrap(), 1_197);
    assert_eq!(usage.flush(database).await.unwrap(), 0);

    assert_eq!(used_at(&app, "12:00:00").await, 1_197);
}
