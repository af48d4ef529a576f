//! Pages. Each asks the API for what it shows.

mod activity;
pub(crate) mod acts;
mod acts_extent;
pub(crate) mod audit;
pub(crate) mod backfills;
pub(crate) mod caches;
pub(crate) mod dead_letters;
mod delivery;
pub(crate) mod event;
pub(crate) mod events;
mod facets;
mod fields;
mod filters;
#[cfg(test)]
mod fixture;
pub(crate) mod jobs;
pub(crate) mod live;
pub(crate) mod observer;
pub(crate) mod observers;
pub(crate) mod overview;
mod row;
#[cfg(test)]
mod testing;
mod way;
