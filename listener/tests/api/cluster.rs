//! Users and service accounts of a cluster.
