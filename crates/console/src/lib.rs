//! Console of a listener: pages that show what happened and let people act.
//!
//! It is a client of the listener's HTTP API and has no other source of truth: each page asks the API with the
//! token of the person who looks, in the same process and without a connection. So nobody sees or changes here
//! what the API does not show or change for that token, and roles, tenants and limits are the API's.
//!
//! What there is, is listed in [`routes`]: the router and the checks of requests follow from that list. Pages
//! are rendered here and work without JavaScript; htmx only renews parts of them.

mod acts;
mod api;
mod assets;
mod failure;
mod host;
mod layout;
mod login;
mod pages;
mod params;
mod respond;
mod routes;
mod security;
mod session;
mod session_store;
mod value;
mod visit;

pub use host::{Host, HostState};
pub use respond::router;
pub use routes::{RouteInfo, route_list};
pub use session_store::{SESSION_LIFETIME, delete_expired};

/// Where all paths of the console begin.
pub const BASE: &str = "/console";
