//! The database file: opening, moving a broken one aside, transactions.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, ffi::ErrorCode};
use serde::{Serialize, de::DeserializeOwned};

use super::schema;

/// How long to wait for another process that reads the file, such as a backup.
const BUSY: Duration = Duration::from_millis(500);
/// The write-ahead log is folded into the file at this size, in pages of 4 KiB.
const CHECKPOINT_PAGES: i64 = 256;

/// The database could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file or its directory.
    #[error("cannot {operation} database {path}: {cause}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// SQLite.
    #[error("database: cannot {operation}: {cause}")]
    Sql {
        /// What was tried.
        operation: &'static str,
        /// What SQLite said.
        cause: rusqlite::Error,
    },
    /// A record that this version cannot write or read.
    #[error("database: cannot {operation}: {cause}")]
    Document {
        /// What was tried.
        operation: &'static str,
        /// What is wrong with it.
        cause: serde_json::Error,
    },
}

impl StoreError {
    /// Whether the disk is full: worth a try later.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Sql { cause, .. } if cause.sqlite_error_code() == Some(ErrorCode::DiskFull))
    }
}

/// How safe a transaction is once it has been committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Survives the end of the agent; a power cut may take the last moments.
    Process,
    /// On the disk, survives a power cut.
    Disk,
}

/// A database that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MovedAside {
    /// Where it is now.
    pub to: PathBuf,
    /// What was wrong.
    pub cause: String,
}

/// The database.
#[derive(Debug)]
pub struct Store {
    pub(super) connection: Connection,
    moved_aside: Option<MovedAside>,
}

impl Store {
    /// Opens the database at `path` or makes it, mode 0600. A file that is not a sound database of this or an earlier version is
    /// renamed to `NAME.corrupt-TIME` or `NAME.newer-TIME` and replaced by an empty one; see [`Self::moved_aside`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = |operation| move |cause| StoreError::File { operation, path: path.to_owned(), cause };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(file("make the directory of"))?;
        }
        let broken = match Self::try_open(path) {
            Ok(connection) => return Ok(Self { connection, moved_aside: None }),
            Err(Unusable::Broken(broken)) => broken,
            Err(Unusable::Failed(error)) => return Err(error),
        };
        let to = move_aside(path, broken.kind).map_err(file("move aside"))?;
        let moved_aside = Some(MovedAside { to, cause: broken.cause });
        match Self::try_open(path) {
            Ok(connection) => Ok(Self { connection, moved_aside }),
            Err(Unusable::Failed(error)) => Err(error),
            Err(Unusable::Broken(broken)) => {
                let cause = io::Error::other(broken.cause);
                Err(file("make")(cause))
            }
        }
    }

    /// A database that ends with the process, for replay.
    pub fn in_memory() -> Result<Self, StoreError> {
        let mut connection = Connection::open_in_memory().map_err(sql("open"))?;
        prepare(&mut connection).map_err(sql("prepare"))?;
        Ok(Self { connection, moved_aside: None })
    }

    fn try_open(path: &Path) -> Result<Connection, Unusable> {
        // SQLite would create it readable for everyone.
        fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(|cause| {
            Unusable::Failed(StoreError::File { operation: "open", path: path.to_owned(), cause })
        })?;
        let mut connection = Connection::open(path).map_err(Unusable::from)?;
        let version = schema::version(&connection)?;
        if version > schema::VERSION {
            let cause =
                format!("schema {version} is newer than {}, which this version knows", schema::VERSION);
            return Err(Unusable::Broken(Broken { kind: "newer", cause }));
        }
        connection.busy_timeout(BUSY)?;
        let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(Unusable::Broken(Broken { kind: "corrupt", cause: verdict }));
        }
        prepare(&mut connection)?;
        Ok(connection)
    }

    /// The file that was found unusable when this database was opened. Report it: devices, incidents and lists begin anew.
    pub const fn moved_aside(&self) -> Option<&MovedAside> {
        self.moved_aside.as_ref()
    }

    /// Runs `work` as one transaction: all of it is kept, or nothing. Not to be nested.
    pub fn batch<R>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Self) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let synchronous = |level| self.connection.pragma_update(None, "synchronous", level);
        if durability == Durability::Disk {
            synchronous("FULL").map_err(sql("prepare a transaction"))?;
        }
        let done = self.connection.unchecked_transaction().map_err(sql("begin a transaction")).and_then(
            |transaction| {
                let result = work(self)?;
                transaction.commit().map_err(sql("commit a transaction"))?;
                Ok(result)
            },
        );
        if durability == Durability::Disk {
            synchronous("NORMAL").map_err(sql("end a transaction"))?;
        }
        done
    }

    /// A setting of the agent, by name.
    pub fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.connection
            .prepare_cached("SELECT value FROM meta WHERE key = ?1")
            .and_then(|mut statement| statement.query_row([key], |row| row.get(0)).optional())
            .map_err(sql("read a setting"))
    }

    /// Writes a setting of the agent.
    pub fn set_meta(&self, key: &str, value: &str) -> Result<(), StoreError> {
        const SQL: &str = "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value";
        self.write("write a setting", SQL, &[&key, &value]).map(drop)
    }

    /// Forgets ended enforcements, closed incidents and audit entries older than `before`, and devices not seen since. Returns how many
    /// rows went.
    pub fn prune(&self, before: Timestamp) -> Result<usize, StoreError> {
        const STATEMENTS: [&str; 4] = [
            "DELETE FROM enforcement WHERE NOT live AND ended_us < ?1",
            "DELETE FROM incident WHERE NOT open AND last_us < ?1",
            "DELETE FROM audit WHERE at_us < ?1",
            "DELETE FROM device WHERE last_us < ?1",
        ];
        STATEMENTS.iter().try_fold(0, |total, statement| {
            Ok(total + self.write("delete old records", statement, &[&before.as_microsecond()])?)
        })
    }

    /// Whether every page and index of the file is sound.
    pub fn check(&self) -> Result<(), String> {
        let verdict =
            self.connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
        match verdict {
            Ok(verdict) if verdict == "ok" => Ok(()),
            Ok(verdict) => Err(verdict),
            Err(cause) => Err(cause.to_string()),
        }
    }

    pub(super) fn write(
        &self,
        operation: &'static str,
        statement: &str,
        values: &[&dyn ToSql],
    ) -> Result<usize, StoreError> {
        self.connection
            .prepare_cached(statement)
            .and_then(|mut statement| statement.execute(values))
            .map_err(sql(operation))
    }

    pub(super) fn rows<R>(
        &self,
        operation: &'static str,
        query: &str,
        values: &[&dyn ToSql],
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<R>,
    ) -> Result<Vec<R>, StoreError> {
        self.connection
            .prepare_cached(query)
            .and_then(|mut statement| statement.query_map(values, read)?.collect())
            .map_err(sql(operation))
    }

    /// The `document` column of every row. A document that this version cannot read fails the call: nothing is skipped.
    pub(super) fn documents<D: DeserializeOwned>(
        &self,
        operation: &'static str,
        query: &str,
        values: &[&dyn ToSql],
    ) -> Result<Vec<D>, StoreError> {
        let texts = self.rows(operation, query, values, |row| row.get::<_, String>(0))?;
        let parse = |text: &String| {
            serde_json::from_str(text).map_err(|cause| StoreError::Document { operation, cause })
        };
        texts.iter().map(parse).collect()
    }
}

/// JSON of a record, for its `document` column.
pub(super) fn document<D: Serialize>(operation: &'static str, record: &D) -> Result<String, StoreError> {
    serde_json::to_string(record).map_err(|cause| StoreError::Document { operation, cause })
}

pub(super) fn sql(operation: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |cause| StoreError::Sql { operation, cause }
}

struct Broken {
    kind: &'static str,
    cause: String,
}

enum Unusable {
    /// Moving the file aside helps.
    Broken(Broken),
    /// It would not.
    Failed(StoreError),
}

impl From<rusqlite::Error> for Unusable {
    fn from(cause: rusqlite::Error) -> Self {
        match cause.sqlite_error_code() {
            // The file may be sound: it is its surroundings that are not.
            Some(
                ErrorCode::CannotOpen
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::OutOfMemory
                | ErrorCode::PermissionDenied
                | ErrorCode::ReadOnly
                | ErrorCode::SystemIoFailure,
            ) => Self::Failed(StoreError::Sql { operation: "open", cause }),
            _ => Self::Broken(Broken { kind: "corrupt", cause: cause.to_string() }),
        }
    }
}

fn prepare(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    schema::migrate(connection)
}

/// Renames the database and its journals, so that nothing of them is lost to whoever wants to look.
fn move_aside(path: &Path, kind: &str) -> io::Result<PathBuf> {
    let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let with = |suffix: &str| {
        let mut name: OsString = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let mut to = with(&format!(".{kind}-{stamp}"));
    for number in 1.. {
        if !to.exists() {
            break;
        }
        to = with(&format!(".{kind}-{stamp}-{number}"));
    }
    fs::rename(path, &to)?;
    for journal in ["-wal", "-shm"] {
        let mut aside = to.clone().into_os_string();
        aside.push(journal);
        match fs::rename(with(journal), aside) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
    }
    Ok(to)
}
