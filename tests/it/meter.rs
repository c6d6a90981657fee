//! How often a key may be used: nodes take small portions of its limits, and together no more than those.

use std::{sync::Arc, time::Duration};

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _};
use futures_util::future::join_all;
use secrecy::SecretString;
use tenantry::{
    db::Database,
    error::Error,
    keys::{
        limits::{Credits, Limits, Rate},
        meter::{Meter, MeteredKey, Taken},
        secret::{self, KeyRef},
    },
};
use tokio::time::Instant;

use crate::app::{App, count};

/// A node: what it knows, and its own connections.
#[derive(Clone)]
struct Node {
    meter: Arc<Meter>,
    database: Database,
}

impl Node {
    fn of(app: &App) -> Self {
        let database = app.shared.database.apart(3).unwrap();
        Self { meter: Arc::default(), database }
    }

    fn three_of(app: &App) -> [Self; 3] {
        std::array::from_fn(|_| Self::of(app))
    }

    async fn take(&self, key: &Limited) -> Taken {
        self.try_take(key).await.unwrap()
    }

    async fn try_take(&self, key: &Limited) -> Result<Taken, Error> {
        let Limited { key_ref, limits, limits_version } = key;
        let (key_ref, limits_version) = (*key_ref, *limits_version);
        let key = MeteredKey { key_ref, tenant_uid: None, limits, limits_version };
        self.meter.take(&self.database, key, Instant::now() + Duration::from_secs(20)).await
    }

    /// Takes until there is nothing; answers how often there was something.
    async fn drain(&self, key: &Limited) -> usize {
        let mut granted = 0;
        while self.take(key).await == Taken::Granted {
            granted += 1;
        }
        granted
    }
}

/// A key with limits of its own.
#[derive(Clone, Copy)]
struct Limited {
    key_ref: KeyRef,
    limits: Limits,
    limits_version: i64,
}

impl Limited {
    async fn new(app: &App, limits: Limits) -> Self {
        let text = app.as_root().create_key(&["system-admin"]).await;
        let key_ref = secret::parse(&app.shared.master, &text).unwrap().key_ref;
        Self { key_ref, limits, limits_version: 1 }
    }

    async fn with_rate(app: &App, requests: i64, window_seconds: i32) -> Self {
        let rate = Some(Rate { requests, window_seconds });
        Self::new(app, Limits { rate, credits: None }).await
    }

    /// A key with credits, of which so many are left, `age` after they were last refilled.
    async fn with_credits(app: &App, credits: Credits, remaining: i64, age: &str) -> Self {
        let key = Self::new(app, Limits { rate: None, credits: Some(credits) }).await;
        let KeyRef { route, number } = key.key_ref;
        run(
            app,
            &format!(
                "insert into key_credits
                     (route, number, limits_version, remaining, granted, refill_time)
                 values ({route}, {number}, 1, {remaining}, 0, clock_timestamp() - interval '{age}')"
            ),
        )
        .await;
        key
    }

    /// A number that a row of the key has.
    async fn stored(&self, app: &App, table: &str, column: &str) -> i64 {
        let KeyRef { route, number } = self.key_ref;
        let query = format!(
            "select {column} as number from {table} where route = {route} and number = {number}"
        );
        count(app, &query).await
    }

    async fn store_window(&self, app: &App, limits_version: i64, window: &str, used: i64) {
        let KeyRef { route, number } = self.key_ref;
        let seconds = self.limits.rate.unwrap().window_seconds;
        run(
            app,
            &format!(
                "insert into key_rate_windows
                     (route, number, limits_version, window_number, used, granted)
                 values ({route}, {number}, {limits_version},
                     floor(extract(epoch from clock_timestamp()) / {seconds})::bigint {window}, {used}, 0)"
            ),
        )
        .await;
    }
}

async fn run(app: &App, statement: &str) {
    app.superuser().await.batch_execute(statement).await.unwrap();
}

async fn window(app: &App, seconds: i64) -> i64 {
    let query = format!(
        "select floor(extract(epoch from clock_timestamp()) / {seconds})::bigint as number"
    );
    count(app, &query).await
}

/// Takes so many times at once, from each node in turn.
async fn take_at_once(nodes: &[Node], key: Limited, times: usize) -> Vec<Taken> {
    let takes = (0..times).map(|number| {
        let node = nodes[number % nodes.len()].clone();
        tokio::spawn(async move { node.take(&key).await })
    });
    join_all(takes).await.into_iter().map(Result::unwrap).collect()
}

fn granted(taken: &[Taken]) -> usize {
    taken.iter().filter(|taken| **taken == Taken::Granted).count()
}

fn hourly(amount: i64, added: i64) -> Credits {
    Credits { amount, refill: Some((added, 3_600)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_together_give_exactly_the_rate_of_a_window() {
    let app = App::start().await;
    let nodes = Node::three_of(&app);

    // Until all of it lies in one window.
    let taken = loop {
        let key = Limited::with_rate(&app, 50, 60).await;
        let before = window(&app, 60).await;
        let taken = take_at_once(&nodes, key, 300).await;
        if window(&app, 60).await == before {
            break taken;
        }
    };

    assert_eq!(granted(&taken), 50);
    let is_later = |taken: &&Taken| {
        matches!(taken, Taken::RateLimited { retry_after }
            if *retry_after > Duration::ZERO && *retry_after <= Duration::from_secs(60))
    };
    assert_eq!(taken.iter().filter(is_later).count(), 250);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_uses_cost_some_twenty_statements() {
    let app = App::start().await;
    let key = Limited::with_rate(&app, 1_000, 86_400).await;
    let node = Node::of(&app);

    let taken = take_at_once(std::slice::from_ref(&node), key, 1_000).await;

    assert_eq!(granted(&taken), 1_000);
    assert!(node.database.transactions() <= 21, "{}", node.database.transactions());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_window_begins_anew_and_an_old_one_never_comes_back() {
    let app = App::start().await;
    let node = Node::of(&app);
    let before = Limited::with_rate(&app, 40, 86_400).await;
    before.store_window(&app, 1, "- 1", 40).await;
    // As after the clock of the database was set back.
    let ahead = Limited::with_rate(&app, 40, 86_400).await;
    ahead.store_window(&app, 1, "+ 1", 39).await;

    assert_eq!(node.drain(&before).await, 40);
    assert_eq!(node.take(&ahead).await, Taken::Granted);
    let Taken::RateLimited { retry_after } = node.take(&ahead).await else {
        panic!("the newest window is exhausted");
    };

    assert!(retry_after > Duration::from_secs(86_400), "{retry_after:?}");
    assert_eq!(ahead.stored(&app, "key_rate_windows", "used").await, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_waited_counts_in_the_window_in_which_it_is_answered() {
    let app = App::start().await;
    let node = Node::of(&app);
    let key = Limited::with_rate(&app, 40, 6).await;
    let KeyRef { route, number } = key.key_ref;
    let mut holder: AsyncPgConnection = app.superuser().await;
    // The end of a window comes while the question waits for the row.
    let near_its_end =
        "select pg_sleep(greatest(5.6 - mod(extract(epoch from clock_timestamp()), 6), 0))";
    holder.batch_execute(near_its_end).await.unwrap();
    key.store_window(&app, 1, "", 40).await;
    let asked = key.stored(&app, "key_rate_windows", "window_number").await;
    let hold = format!(
        "begin; select from key_rate_windows where route = {route} and number = {number} for update"
    );
    holder.batch_execute(&hold).await.unwrap();

    let taker = node.clone();
    let taken = tokio::spawn(async move { taker.take(&key).await });
    holder.batch_execute("select pg_sleep(0.8); commit").await.unwrap();

    assert_eq!(taken.await.unwrap(), Taken::Granted);
    assert_eq!(node.database.transactions(), 1);
    assert_eq!(key.stored(&app, "key_rate_windows", "window_number").await, asked + 1);
    assert_eq!(key.stored(&app, "key_rate_windows", "used").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_are_not_those_of_the_key_are_unknown() {
    let app = App::start().await;
    let node = Node::of(&app);
    let rate = Limited::with_rate(&app, 40, 86_400).await;
    rate.store_window(&app, 5, "", 40).await;
    let credits = Limited::with_credits(&app, hourly(10, 10), 10, "0").await;
    let none = Limited::new(&app, Limits { rate: None, credits: Some(hourly(10, 10)) }).await;

    assert_eq!(node.take(&Limited { limits_version: 4, ..rate }).await, Taken::Unknown);
    assert_eq!(node.drain(&Limited { limits_version: 6, ..rate }).await, 40);
    assert_eq!(node.take(&Limited { limits_version: 2, ..credits }).await, Taken::Unknown);
    assert_eq!(node.take(&none).await, Taken::Unknown);
    assert_eq!(node.take(&Limited { limits: Limits::default(), ..none }).await, Taken::Granted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_a_tenant_that_is_gone_is_unknown() {
    let app = App::start().await;
    let node = Node::of(&app);
    let Limited { key_ref, limits, .. } = Limited::with_rate(&app, 40, 60).await;

    let tenant_uid = Some(app.shared.clock.uuid());
    let key = MeteredKey { key_ref, tenant_uid, limits: &limits, limits_version: 1 };
    let deadline = Instant::now() + Duration::from_secs(5);
    let taken = node.meter.take(&node.database, key, deadline).await.unwrap();

    assert_eq!(taken, Taken::Unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_together_give_exactly_the_credits() {
    let app = App::start().await;
    let credits = Credits { amount: 100, refill: None };
    let key = Limited::with_credits(&app, credits, 100, "0").await;
    let nodes = Node::three_of(&app);

    let taken = take_at_once(&nodes, key, 300).await;

    assert_eq!(granted(&taken), 100);
    assert_eq!(
        taken.iter().filter(|taken| **taken == Taken::UsageExceeded { retry_after: None }).count(),
        200
    );
    assert_eq!(key.stored(&app, "key_credits", "remaining").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn credits_are_refilled_in_whole_intervals_up_to_their_amount() {
    let app = App::start().await;
    let node = Node::of(&app);
    let twice = Limited::with_credits(&app, hourly(10, 3), 0, "150 minutes").await;
    let often = Limited::with_credits(&app, hourly(10, 3), 0, "90 days").await;

    assert_eq!(node.drain(&twice).await, 6);
    assert_eq!(node.drain(&often).await, 10);

    let Taken::UsageExceeded { retry_after: Some(again) } = node.take(&twice).await else {
        panic!("the credits are used up");
    };
    assert!((1_790..=1_800).contains(&again.as_secs()), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_refill_there_are_no_more_than_the_amount() {
    let app = App::start().await;
    let nodes = Node::three_of(&app);
    let key = Limited::with_credits(&app, hourly(100, 100), 100, "3597 seconds").await;
    assert_eq!(nodes[0].take(&key).await, Taken::Granted);
    assert_eq!(key.stored(&app, "key_credits", "remaining").await, 95);

    // The refill is not there to be waited for.
    tokio::time::sleep(Duration::from_millis(3_200)).await;
    let taken = take_at_once(&nodes, key, 300).await;

    assert_eq!(granted(&taken), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn unused_credits_are_given_back_once_and_only_to_the_same_limits() {
    let app = App::start().await;
    let node = Node::of(&app);
    let credits = Credits { amount: 100, refill: None };
    let key = Limited::with_credits(&app, credits, 100, "0").await;

    node.take(&key).await;
    assert_eq!(node.meter.give_back(&node.database).await.unwrap(), 1);
    assert_eq!(key.stored(&app, "key_credits", "remaining").await, 99);
    assert_eq!(node.meter.give_back(&node.database).await.unwrap(), 0);

    node.take(&key).await;
    node.meter.forget(key.key_ref);
    assert_eq!(node.meter.tidy(&node.database).await.unwrap(), 1);
    assert_eq!(key.stored(&app, "key_credits", "remaining").await, 98);

    node.take(&key).await;
    run(&app, "update key_credits set limits_version = 2, remaining = 7").await;
    assert_eq!(node.meter.give_back(&node.database).await.unwrap(), 0);
    assert_eq!(key.stored(&app, "key_credits", "remaining").await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_takes_no_credits_with_it() {
    let app = App::start().await;
    let credits = Credits { amount: 100, refill: None };
    let key = Limited::with_credits(&app, credits, 100, "0").await;
    let node = Node::of(&app);

    for _ in 0..30 {
        // Polled once: it has asked, and does not wait for the answer.
        let _ = tokio::time::timeout(Duration::ZERO, node.take(&key)).await;
    }
    let granted = node.drain(&key).await;

    assert!(granted >= 70, "{granted}");
    assert_eq!(key.stored(&app, "key_credits", "remaining").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_not_asked_by_each_caller_in_turn() {
    let app = App::start().await;
    let credits = Credits { amount: 100, refill: None };
    let key = Limited::with_credits(&app, credits, 100, "0").await;
    // Takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = SecretString::from(format!("postgres://tenantry@127.0.0.1:{port}/nowhere"));
    let away = Database::new(&url, 1, Duration::from_secs(1)).unwrap();
    let node = Node::of(&app);
    let lost = Node { meter: node.meter.clone(), database: away };

    let begun = Instant::now();
    let takes = (0..100).map(|_| lost.try_take(&key));
    let refused = join_all(takes).await.iter().filter(|taken| taken.is_err()).count();

    assert_eq!(refused, 100);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(node.drain(&key).await, 100);
}
