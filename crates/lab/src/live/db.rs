//! Connections to MariaDB and MySQL, and in what they differ.

use futures_util::future::BoxFuture;
use mysql_async::{
    Conn, Opts,
    prelude::{FromRow, Queryable as _},
};
use tokio::sync::Mutex;

/// Which dialect.
///
/// Example: see [`WorldOptions`](super::WorldOptions).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavor {
    /// MariaDB 10.11 or newer.
    MariaDb,
    /// MySQL 8.4 or newer.
    MySql,
}

impl Flavor {
    /// Of a semi-synchronous primary: its part in the names of variables.
    pub(super) fn semisync_role(self) -> &'static str {
        match self {
            Self::MariaDb => "master",
            Self::MySql => "source",
        }
    }

    pub(super) fn replica_word(self) -> &'static str {
        match self {
            Self::MariaDb => "SLAVE",
            Self::MySql => "REPLICA",
        }
    }

    pub(super) fn newest(self) -> &'static str {
        match self {
            Self::MariaDb => "SHOW MASTER STATUS",
            Self::MySql => "SHOW BINARY LOG STATUS",
        }
    }
}

/// One connection, made when it is first needed, and again after it broke. Statements of several tasks follow one another. Never in a
/// transaction between two of them, so that what is read is the newest.
#[derive(Debug)]
pub(super) struct Link {
    opts: Opts,
    conn: Mutex<Option<Conn>>,
}

/// Whether an error is the server's word that the statement has no effect. After others that is unknown.
pub(super) fn is_refusal(error: &mysql_async::Error) -> bool {
    matches!(error, mysql_async::Error::Server(_))
}

impl Link {
    pub(super) fn new(opts: Opts) -> Self {
        Self { opts, conn: Mutex::new(None) }
    }

    /// Takes the connection out: what is dropped in the middle of a statement isn't used again.
    async fn take(slot: &mut Option<Conn>, opts: &Opts) -> mysql_async::Result<Conn> {
        match slot.take() {
            Some(conn) => Ok(conn),
            None => Conn::new(opts.clone()).await,
        }
    }

    fn keep<T>(slot: &mut Option<Conn>, conn: Conn, done: &mysql_async::Result<T>) {
        if done.as_ref().err().is_none_or(is_refusal) {
            *slot = Some(conn);
        }
    }

    /// The first row.
    pub(super) async fn first<T: FromRow + Send + 'static>(
        &self,
        sql: &str,
    ) -> mysql_async::Result<Option<T>> {
        let mut slot = self.conn.lock().await;
        let mut conn = Self::take(&mut slot, &self.opts).await?;
        let done = conn.query_first(sql).await;
        Self::keep(&mut slot, conn, &done);
        done
    }

    /// All rows.
    pub(super) async fn all<T: FromRow + Send + 'static>(&self, sql: &str) -> mysql_async::Result<Vec<T>> {
        let mut slot = self.conn.lock().await;
        let mut conn = Self::take(&mut slot, &self.opts).await?;
        let done = conn.query(sql).await;
        Self::keep(&mut slot, conn, &done);
        done
    }

    /// Runs statements one after the other; the last one's `LAST_INSERT_ID(…)`, 0 without one.
    pub(super) fn run(&self, statements: Vec<String>) -> BoxFuture<'_, mysql_async::Result<u64>> {
        Box::pin(async move {
            let mut slot = self.conn.lock().await;
            let mut conn = Self::take(&mut slot, &self.opts).await?;
            let mut done = Ok(0);
            for sql in &statements {
                done = conn.query_drop(sql).await.map(|()| conn.last_insert_id().unwrap_or(0));
                if done.is_err() {
                    break;
                }
            }
            Self::keep(&mut slot, conn, &done);
            done
        })
    }

    /// Runs `work` in a transaction, and commits. After a refusal it is rolled back; after another error that is unknown.
    pub(super) fn transaction<'l, T: Send + 'l>(
        &'l self,
        work: impl for<'c> FnOnce(&'c mut Conn) -> BoxFuture<'c, mysql_async::Result<T>> + Send + 'l,
    ) -> BoxFuture<'l, mysql_async::Result<T>> {
        Box::pin(async move {
            let mut slot = self.conn.lock().await;
            let mut conn = Self::take(&mut slot, &self.opts).await?;
            let done = async {
                conn.query_drop("BEGIN").await?;
                let value = work(&mut conn).await?;
                conn.query_drop("COMMIT").await?;
                Ok(value)
            }
            .await;
            if done.as_ref().err().is_some_and(is_refusal) && conn.query_drop("ROLLBACK").await.is_err() {
                return done;
            }
            Self::keep(&mut slot, conn, &done);
            done
        })
    }
}
