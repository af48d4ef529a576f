//! Settings of the listener's sessions and migrations, so that the defaults of a role or a database change
//! nothing of what they do.
//!
//! Not set: what only a superuser may set, the costs and memory of plans, and the durability of commits,
//! which are the choice of the server's operator.

use std::fmt::Write as _;

/// Set first: what resolves the names in the rest, and settings that the server does not know before its
/// module for plpgsql is loaded.
const NAMES: [(&str, &str); 3] = [
    ("search_path", "pg_catalog, pg_temp"),
    ("plpgsql.extra_errors", "'none'"),
    ("plpgsql.extra_warnings", "'none'"),
];

/// The others; those that the server's version does not have are skipped.
const VALUES: [(&str, &str); 57] = [
    // The log's functions look at the present with each statement.
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    // A statement's own time is the bound of all.
    ("lock_timeout", "0"),
    ("transaction_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("exit_on_error", "off"),
    // How texts are read.
    ("standard_conforming_strings", "on"),
    ("backslash_quote", "safe_encoding"),
    ("escape_string_warning", "on"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    ("quote_all_identifiers", "off"),
    // How values are written.
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("xmlbinary", "base64"),
    ("xmloption", "content"),
    ("client_min_messages", "warning"),
    // What may be seen, and where tables are made.
    ("row_security", "on"),
    ("restrict_nonsystem_relation_kind", ""),
    ("check_function_bodies", "on"),
    ("default_table_access_method", "heap"),
    ("default_tablespace", ""),
    ("temp_tablespaces", ""),
    // Ways to find rows.
    ("constraint_exclusion", "partition"),
    ("from_collapse_limit", "8"),
    ("join_collapse_limit", "8"),
    ("plan_cache_mode", "auto"),
    ("debug_parallel_query", "off"),
    ("force_parallel_mode", "off"),
    ("enable_async_append", "on"),
    ("enable_bitmapscan", "on"),
    ("enable_distinct_reordering", "on"),
    ("enable_gathermerge", "on"),
    ("enable_group_by_reordering", "on"),
    ("enable_hashagg", "on"),
    ("enable_hashjoin", "on"),
    ("enable_incremental_sort", "on"),
    ("enable_indexonlyscan", "on"),
    ("enable_indexscan", "on"),
    ("enable_material", "on"),
    ("enable_memoize", "on"),
    ("enable_mergejoin", "on"),
    ("enable_nestloop", "on"),
    ("enable_parallel_append", "on"),
    ("enable_parallel_hash", "on"),
    ("enable_partition_pruning", "on"),
    ("enable_partitionwise_aggregate", "off"),
    ("enable_partitionwise_join", "off"),
    ("enable_presorted_aggregate", "on"),
    ("enable_self_join_elimination", "on"),
    ("enable_seqscan", "on"),
    ("enable_sort", "on"),
    ("enable_tidscan", "on"),
    ("jit", "off"),
];

/// A process that is paused during a commit holds its checkpoint's lock, which must not delay a takeover
/// for longer than some seconds.
const OF_SESSIONS: [(&str, &str); 2] = [
    ("statement_timeout", "'60s'"),
    ("idle_in_transaction_session_timeout", "'5s'"),
];

/// An index may have to be created on a large table.
const OF_MIGRATIONS: [(&str, &str); 2] = [
    ("statement_timeout", "'10min'"),
    ("idle_in_transaction_session_timeout", "'1min'"),
];

/// Pins a new session's settings.
pub(crate) fn of_session() -> String {
    all("set", &OF_SESSIONS)
}

/// Pins settings for the transaction of a migration.
pub(crate) fn of_migration() -> String {
    all("set local", &OF_MIGRATIONS)
}

/// Returns the statements. The bounds come first: the role's may be too narrow for what follows.
fn all(set: &str, bounds: &[(&str, &str)]) -> String {
    let mut sql = String::new();
    for (name, value) in bounds.iter().chain(&NAMES) {
        // Writing to a string cannot fail.
        let _ = write!(sql, "{set} {name} = {value}; ");
    }
    let values = VALUES.map(|(name, value)| format!("('{name}', '{value}')"));
    let local = set != "set";
    let _ = write!(
        sql,
        "select count(set_config(pinned.name, pinned.value, {local}))
         from (values {}) as pinned(name, value)
         where exists (select from pg_settings s where s.name = pinned.name)",
        values.join(", ")
    );
    sql
}
