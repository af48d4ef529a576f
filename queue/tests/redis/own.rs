//! What only the backend in Redis has.
