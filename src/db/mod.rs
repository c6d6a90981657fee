//! The way to Postgres: a pool, and transactions that can see only what their scope allows.
//!
//! A connection of the pool has no right to anything by itself. [`Database::begin`] opens a
//! transaction, takes on the [`Role`] that the work needs and names the [`Scope`] that the policies
//! of the tables read; both end with the transaction. What forgets its `WHERE` therefore meets the
//! second wall, and what forgets its scope sees nothing at all.

pub mod cluster;
mod connect;
pub mod migrate;

pub use connect::connect;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use diesel::sql_types;
use diesel_async::{
    AnsiTransactionManager, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _,
    TransactionManager,
    pooled_connection::{
        AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
        deadpool::{Object, Pool},
    },
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;
use uuid::Uuid;

use crate::error::{Error, Result};

/// How long a call waits for a connection before it is told that the database is too busy.
const POOL_WAIT: Duration = Duration::from_secs(2);

/// How long a new connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What a transaction may see of the tables, as their policies have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    System,
    /// What belongs to an account, its tenants included.
    Account(String),
    /// One tenant and what it owns.
    Tenant(Uuid),
    /// Exactly these tenants, read-only: for reads gathered from several calls.
    Tenants(Vec<Uuid>),
    /// A tenant and all below it.
    Provider(Uuid),
    /// The tenants of an account that belong to one reseller (2-30).
    Reseller {
        /// The account.
        account: String,
        /// The reseller's id within it.
        reseller: String,
    },
    /// What concerns the applications of an account, whichever tenant it belongs to.
    Publisher(String),
}

impl Scope {
    /// The setting that each kind of scope puts its value into, and the value.
    ///
    /// All other settings are emptied with it, so that no two kinds ever add up.
    fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        match self {
            Self::System => "on".clone_into(&mut settings.system),
            Self::Account(account) => settings.account.clone_from(account),
            Self::Tenant(tenant) => settings.tenant = tenant.to_string(),
            Self::Tenants(tenants) => {
                let tenants = tenants.iter().map(Uuid::to_string).collect::<Vec<_>>();
                settings.tenants = format!("{{{}}}", tenants.join(","));
                settings.read_only = true;
            }
            Self::Provider(tenant) => settings.provider = tenant.to_string(),
            Self::Reseller { account, reseller } => {
                settings.reseller_account.clone_from(account);
                settings.reseller.clone_from(reseller);
            }
            Self::Publisher(account) => settings.publisher.clone_from(account),
        }
        settings
    }
}

#[derive(Default)]
struct Settings {
    system: String,
    account: String,
    tenant: String,
    tenants: String,
    provider: String,
    reseller_account: String,
    reseller: String,
    publisher: String,
    read_only: bool,
}

/// Whose rights a transaction takes on. None of them owns a table or may bypass a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Serves calls, within a scope.
    Service,
    /// Resolves keys and what is authorized, of whichever tenant; sees only what a verdict needs.
    Verifier,
    /// Clears away what has expired.
    Worker,
    /// Finds the operations that are not done, and says of them that they are worked on or failed.
    Operator,
    /// Removes what is left of deleted tenants.
    Purger,
    /// Reads what happened, for whoever follows it.
    Feed,
    /// Finds what ends soon, and tells of it.
    Expiry,
    /// Counts how often and when keys are used, and when authorizations are.
    Meter,
    /// Sends mails.
    Mailer,
}

impl Role {
    fn take_on_sql(self) -> &'static str {
        match self {
            Self::Service => "set local role tenantry_service",
            Self::Verifier => "set local role tenantry_verifier",
            Self::Worker => "set local role tenantry_worker",
            Self::Operator => "set local role tenantry_operator",
            Self::Purger => "set local role tenantry_purger",
            Self::Feed => "set local role tenantry_feed",
            Self::Expiry => "set local role tenantry_expiry",
            Self::Meter => "set local role tenantry_meter",
            Self::Mailer => "set local role tenantry_mailer",
        }
    }
}

/// The pool of connections.
#[derive(Clone)]
pub struct Database {
    pool: Pool<AsyncPgConnection>,
    url: SecretString,
    encrypted: bool,
    statement_timeout: Duration,
    begun: Arc<AtomicU64>,
}

impl Database {
    /// Prepares a pool; connections are made when they are first needed.
    ///
    /// # Errors
    ///
    /// When the pool's own settings contradict each other.
    pub fn new(url: &SecretString, size: usize, statement_timeout: Duration) -> Result<Self> {
        let pool = pool(url, size, String::new())?;
        let encrypted = connect::is_encrypted(url.expose_secret());
        let (url, begun) = (url.clone(), Arc::default());
        Ok(Self { pool, url, encrypted, statement_timeout, begun })
    }

    /// How many transactions were begun through this pool.
    pub fn transactions(&self) -> u64 {
        AtomicU64::load(&self.begun, Ordering::Relaxed)
    }

    /// Connections that resolve keys and do nothing else: each has the role of the verifier from its
    /// beginning to its end, so that a key is resolved by one statement, within a time.
    ///
    /// # Errors
    ///
    /// As [`Database::new`].
    pub fn resolving(&self, size: usize, within: Duration) -> Result<Resolving> {
        // A statement that nobody waits for any more makes room for the next. A key and all that it hangs on is
        // found by index, whatever the statistics say: to plan that anew each time takes longer than to do it.
        let timeout = self.statement_timeout.min(within).as_millis().max(1);
        let session = format!(
            "set role tenantry_verifier; set statement_timeout = '{timeout}ms'; set jit = off; \
             set default_transaction_read_only = on; set plan_cache_mode = force_generic_plan; \
             set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off"
        );
        Ok(Resolving { pool: pool(&self.url, size, session)?, within })
    }

    /// The same database through a pool of its own.
    ///
    /// # Errors
    ///
    /// As [`Database::new`].
    pub fn apart(&self, size: usize) -> Result<Self> {
        Self::new(&self.url, size, self.statement_timeout)
    }

    /// Begins a transaction of the service within `scope`.
    ///
    /// `credential` is the key that calls, for its idempotency records; no statement runs beyond
    /// `deadline`.
    ///
    /// # Errors
    ///
    /// [`Error::DatabaseAway`] when there is no connection to be had, [`Error::DeadlineExceeded`]
    /// when it is too late already.
    pub async fn begin(
        &self,
        scope: &Scope,
        credential: Option<Uuid>,
        deadline: Instant,
    ) -> Result<Transaction> {
        let mut transaction = self.open(Role::Service, deadline).await?;
        let Settings {
            system,
            account,
            tenant,
            tenants,
            provider,
            reseller_account,
            reseller,
            publisher,
            read_only,
        } = scope.settings();
        let read_only = if read_only { "on" } else { "off" };
        let credential = credential.map(|id| id.to_string()).unwrap_or_default();
        diesel::select((
            set_config("tenantry.system", system, true),
            set_config("tenantry.account", account, true),
            set_config("tenantry.tenant", tenant, true),
            set_config("tenantry.tenants", tenants, true),
            set_config("tenantry.provider", provider, true),
            set_config("tenantry.reseller_account", reseller_account, true),
            set_config("tenantry.reseller", reseller, true),
            set_config("tenantry.publisher", publisher, true),
            set_config("tenantry.credential", credential, true),
            // Both pay off for statements that take seconds, which no call waits for.
            set_config("jit", "off", true),
            set_config("max_parallel_workers_per_gather", "0", true),
            // Postgres lets no statement take this back.
            set_config("transaction_read_only", read_only, true),
            set_config("statement_timeout", self.timeout(deadline)?, true),
        ))
        .execute(transaction.conn())
        .await?;
        Ok(transaction)
    }

    /// Reads within `scope`, in one transaction; a refusal gives the connection back too.
    ///
    /// # Errors
    ///
    /// What `act` refuses or the database reports.
    pub async fn read<T>(
        &self,
        scope: &Scope,
        deadline: Instant,
        act: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T>,
    ) -> Result<T> {
        let mut transaction = self.begin(scope, None, deadline).await?;
        match act(transaction.conn()).await {
            Ok(found) => transaction.commit().await.map(|()| found),
            Err(error) => {
                // Refused is refused, whether or not the connection survives.
                let _ = transaction.rollback().await;
                Err(error)
            }
        }
    }

    /// Begins a transaction of a role that has policies of its own and no scope.
    ///
    /// # Errors
    ///
    /// As [`Database::begin`].
    pub async fn begin_as(&self, role: Role, deadline: Instant) -> Result<Transaction> {
        let mut transaction = self.open(role, deadline).await?;
        diesel::select(set_config("statement_timeout", self.timeout(deadline)?, true))
            .execute(transaction.conn())
            .await?;
        Ok(transaction)
    }

    async fn open(&self, role: Role, deadline: Instant) -> Result<Transaction> {
        let connection = tokio::time::timeout_at(deadline, self.pool.get())
            .await
            .map_err(|_| Error::DeadlineExceeded)??;
        // Before it begins, so that it is also closed when it is dropped while it begins.
        let encrypted = self.encrypted;
        let mut transaction = Transaction { connection: Some(connection), encrypted, ended: false };
        let begin = format!("begin; {}", role.take_on_sql());
        AnsiTransactionManager::begin_transaction_sql(transaction.conn(), &begin).await?;
        self.begun.fetch_add(1, Ordering::Relaxed);
        Ok(transaction)
    }

    /// The time that a statement may take: the setting, or less where the call has less left.
    fn timeout(&self, deadline: Instant) -> Result<String> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::DeadlineExceeded);
        }
        // At least a millisecond: 0 would mean no limit.
        Ok(format!("{}ms", left.min(self.statement_timeout).as_millis().max(1)))
    }
}

diesel::define_sql_function! {
    /// Sets a parameter of Postgres; `local` ends it with the transaction.
    fn set_config(name: sql_types::Text, value: sql_types::Text, local: sql_types::Bool) -> sql_types::Text;
}

/// Makes a pool, each connection of which begins with some statements.
fn pool(url: &SecretString, size: usize, session: String) -> Result<Pool<AsyncPgConnection>> {
    let mut config = ManagerConfig::<AsyncPgConnection>::default();
    // The default asks the server at each checkout, which doubles the round trips of a read.
    // `Fast` looks at the socket and at transactions left open, which costs nothing.
    config.recycling_method = RecyclingMethod::Fast;
    config.custom_setup = Box::new(move |url| {
        let (url, session) = (url.to_owned(), session.clone());
        Box::pin(async move {
            let connected = async {
                let mut conn = connect(&url).await?;
                if !session.is_empty() {
                    let bad = diesel::ConnectionError::CouldntSetupConfiguration;
                    conn.batch_execute(&session).await.map_err(bad)?;
                }
                Ok(conn)
            };
            tokio::time::timeout(CONNECT_TIMEOUT, connected).await.unwrap_or_else(|_| {
                Err(diesel::ConnectionError::BadConnection(format!(
                    "no connection within {CONNECT_TIMEOUT:?}"
                )))
            })
        })
    });
    let manager = AsyncDieselConnectionManager::new_with_config(url.expose_secret(), config);
    Pool::builder(manager)
        .max_size(size)
        .wait_timeout(Some(POOL_WAIT))
        .runtime(deadpool::Runtime::Tokio1)
        .build()
        .map_err(Error::internal)
}

/// Connections with the role of the verifier.
#[derive(Clone)]
pub struct Resolving {
    pool: Pool<AsyncPgConnection>,
    /// How long a statement may take.
    within: Duration,
}

impl Resolving {
    /// Runs a statement within its time. A connection on which it did not end in time, or failed, is
    /// given up: nobody knows what it would answer next.
    ///
    /// # Errors
    ///
    /// [`Error::DatabaseAway`] where there is no answer in time, or what the database reports.
    pub async fn run<T>(
        &self,
        statement: impl AsyncFnOnce(&mut AsyncPgConnection) -> diesel::QueryResult<T>,
    ) -> Result<T> {
        let within = self.within;
        let late = |_| Error::DatabaseAway(format!("no answer within {within:?}").into());
        let until = Instant::now() + within;
        let mut conn = tokio::time::timeout_at(until, self.pool.get()).await.map_err(late)??;
        match tokio::time::timeout_at(until, statement(&mut conn)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => {
                drop(Object::take(conn));
                Err(error.into())
            }
            Err(elapsed) => {
                drop(Object::take(conn));
                Err(late(elapsed))
            }
        }
    }
}

/// An open transaction. Dropped without [`Transaction::commit`], its connection is closed and
/// Postgres rolls it back: a call that is cancelled half-way leaves nothing.
pub struct Transaction {
    /// Absent only while it is dropped.
    connection: Option<Object<AsyncPgConnection>>,
    encrypted: bool,
    ended: bool,
}

impl Transaction {
    /// The connection, for the statements of the stores.
    pub fn conn(&mut self) -> &mut AsyncPgConnection {
        self.connection.as_mut().expect("only drop takes it")
    }

    /// Takes on another role for what comes next; the scope stays as it is.
    ///
    /// # Errors
    ///
    /// What Postgres reports.
    pub async fn take_on(&mut self, role: Role) -> Result<()> {
        Ok(self.conn().batch_execute(role.take_on_sql()).await?)
    }

    /// Makes the changes durable.
    ///
    /// # Errors
    ///
    /// What Postgres reports; after a lost connection it is unknown whether the commit happened.
    pub async fn commit(mut self) -> Result<()> {
        AnsiTransactionManager::commit_transaction(self.conn()).await?;
        self.ended = true;
        Ok(())
    }

    /// Undoes the changes and gives the connection back.
    ///
    /// # Errors
    ///
    /// What Postgres reports; the changes are undone in any case.
    pub async fn rollback(mut self) -> Result<()> {
        AnsiTransactionManager::rollback_transaction(self.conn()).await?;
        self.ended = true;
        Ok(())
    }
}

impl Drop for Transaction {
    /// Takes a connection whose transaction is still open away from the pool, which would keep it, and
    /// with it the locks of the transaction, until somebody needs a connection.
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take().filter(|_| !self.ended) {
            let connection = Object::take(connection);
            let token = connection.cancel_token();
            drop(connection);
            // A closed socket does not end a statement that runs: it would keep its locks until its
            // timeout, beyond the deadline of the call.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(connect::cancel(token, self.encrypted));
            }
        }
    }
}
