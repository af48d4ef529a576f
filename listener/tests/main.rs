//! What the parts do together, against a real Postgres: one test binary, one server.

#![allow(
    clippy::disallowed_methods,
    reason = "no test cuts off a transaction that it begins"
)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod adversity;
mod api;
mod backfill;
mod bad_input;
mod batches;
mod caching;
mod capture;
mod careful;
mod chaos;
mod checks;
mod cloudnative_pg;
mod connections;
mod console;
mod crowds;
mod dead_letters;
mod effects;
mod enrich;
mod events;
mod examples;
mod exemplars;
mod faults;
mod figures;
mod floods;
mod getting_started;
mod history;
mod history_removal;
mod hostile;
mod instructions;
mod jobs;
mod kafka;
mod kubectl;
mod large;
mod letters;
mod life;
mod migrate;
mod move_between_clusters;
mod odd_roles;
mod operate;
mod order;
mod otlp;
mod outdated;
mod own_database;
mod poison;
mod poolers;
mod printed_resources;
mod read_only;
mod receivers;
mod reload;
mod replay;
mod replicas;
mod restore;
mod retention;
mod rows;
mod samples;
mod search_cli;
mod stalls;
mod status;
mod supervisor;
mod support;
mod tail;
mod tenants;
mod terminal;
mod traces;
mod tracked_tables;
mod unread;
mod untracked;
mod wal;
mod watched_files;
