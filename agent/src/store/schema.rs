//! Tables of the database, as a list of migrations: `user_version` is how many of them a file has been through.
//!
//! Columns hold what is searched or sorted by; everything else is in `document` as JSON. Times are wall-clock microseconds since 1970.

use rusqlite::Connection;

/// Each one is applied once, in order, and never edited after a release.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE meta (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE device (
        mac TEXT NOT NULL,
        interface TEXT NOT NULL,
        last_us INTEGER NOT NULL,
        document TEXT NOT NULL,
        PRIMARY KEY (mac, interface)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE incident (
        id TEXT PRIMARY KEY,
        subject TEXT NOT NULL,
        technique TEXT NOT NULL,
        open INTEGER NOT NULL,
        last_us INTEGER NOT NULL,
        document TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX incident_open ON incident (subject, technique) WHERE open;
    CREATE INDEX incident_last ON incident (last_us);

    CREATE TABLE evidence (
        number INTEGER PRIMARY KEY,
        incident TEXT NOT NULL REFERENCES incident (id) ON DELETE CASCADE,
        at_us INTEGER NOT NULL,
        document TEXT NOT NULL
    ) STRICT;
    CREATE INDEX evidence_incident ON evidence (incident, number);

    CREATE TABLE enforcement (
        id TEXT PRIMARY KEY,
        target TEXT NOT NULL,
        state TEXT NOT NULL,
        live INTEGER NOT NULL,
        incident TEXT,
        ended_us INTEGER,
        document TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX enforcement_live ON enforcement (live) WHERE live;
    CREATE INDEX enforcement_target ON enforcement (target);
    CREATE INDEX enforcement_ended ON enforcement (ended_us);

    CREATE TABLE enforcement_step (
        enforcement TEXT NOT NULL REFERENCES enforcement (id) ON DELETE CASCADE,
        state TEXT NOT NULL,
        at_us INTEGER NOT NULL,
        hits INTEGER NOT NULL,
        hit_bytes INTEGER NOT NULL,
        PRIMARY KEY (enforcement, state)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE allow (
        target TEXT PRIMARY KEY,
        document TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE audit (
        number INTEGER PRIMARY KEY,
        at_us INTEGER NOT NULL,
        who TEXT NOT NULL,
        what TEXT NOT NULL,
        target TEXT NOT NULL,
        detail TEXT NOT NULL,
        result TEXT NOT NULL
    ) STRICT;
    CREATE INDEX audit_at ON audit (at_us);

    CREATE TABLE baseline (
        device TEXT NOT NULL,
        version INTEGER NOT NULL,
        created_us INTEGER NOT NULL,
        retired INTEGER NOT NULL DEFAULT 0,
        document BLOB NOT NULL,
        PRIMARY KEY (device, version)
    ) STRICT;
",
    "
    CREATE TABLE profile (
        device TEXT PRIMARY KEY,
        document TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE outbox (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        device TEXT NOT NULL,
        kind INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        at_us INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX outbox_least ON outbox (kind, sequence);

    CREATE TABLE outbox_tally (
        kind INTEGER PRIMARY KEY,
        added INTEGER NOT NULL DEFAULT 0,
        acknowledged INTEGER NOT NULL DEFAULT 0,
        dropped INTEGER NOT NULL DEFAULT 0,
        waiting INTEGER NOT NULL DEFAULT 0,
        bytes INTEGER NOT NULL DEFAULT 0
    ) STRICT;

    CREATE TABLE policy (
        version INTEGER PRIMARY KEY,
        applied_us INTEGER NOT NULL,
        in_force INTEGER NOT NULL,
        who TEXT NOT NULL,
        document BLOB NOT NULL
    ) STRICT;
",
    "
    CREATE TABLE command_seen (
        key BLOB NOT NULL,
        nonce BLOB NOT NULL,
        issued_us INTEGER NOT NULL,
        PRIMARY KEY (key, nonce)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE command_floor (
        key BLOB PRIMARY KEY,
        floor_us INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE command_habit (
        device TEXT PRIMARY KEY,
        document TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE command_desk (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        alive_us INTEGER NOT NULL,
        is_clean INTEGER NOT NULL
    ) STRICT;
",
    // Telemetry became the least kind of message; by way of negative numbers, as keys may not collide on the way.
    "
    UPDATE outbox SET kind = kind + 1;
    UPDATE outbox_tally SET kind = -(kind + 1);
    UPDATE outbox_tally SET kind = -kind;

    CREATE TABLE telemetry (
        topic TEXT PRIMARY KEY,
        device TEXT NOT NULL,
        stored_us INTEGER NOT NULL,
        document TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX telemetry_stored ON telemetry (stored_us);
",
    "
    CREATE TABLE neighbour_notice (
        key BLOB NOT NULL,
        id TEXT NOT NULL,
        until_us INTEGER NOT NULL,
        target TEXT NOT NULL,
        enforcement TEXT,
        PRIMARY KEY (key, id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX neighbour_notice_until ON neighbour_notice (until_us);
",
    "
    CREATE TABLE command_held (
        id INTEGER PRIMARY KEY,
        document TEXT NOT NULL,
        packet BLOB NOT NULL
    ) STRICT;
",
    "
    ALTER TABLE command_held ADD COLUMN released_us INTEGER;
",
];

/// Version of a database that went through every migration.
pub(super) const VERSION: usize = MIGRATIONS.len();

/// Which version `connection` has.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<usize> {
    connection
        .pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
        .map(|version| version as usize)
}

/// Brings the database to [`VERSION`], all or nothing.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    let done = version(&transaction)?;
    for migration in MIGRATIONS.iter().skip(done) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", VERSION as i64)?;
    transaction.commit()
}
