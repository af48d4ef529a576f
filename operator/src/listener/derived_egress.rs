//! Derives what the pods of a listener may connect to from what it and its observers name: a pure function.
//!
//! A `NetworkPolicy` knows pods by their labels and everything else by its address, and it is checked after a Service's
//! address was replaced by that of a pod. So:
//!
//! - a literal address is admitted with its port;
//! - a name of a Service admits all pods of its namespace, at any port, as theirs may differ from the Service's;
//! - any other name, and one that may be either, admits its port: for the listener's own servers everywhere, and for
//!   those of observers at the addresses that `spec.egress` lets them dial. Which of these the name resolves to, the
//!   listener checks itself.
//!
//! A namespace that an observer names is admitted only where `spec.egress` has the name, or any range. Literal
//! addresses that `spec.egress` denies are not admitted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crds::config::Egress;
use crds::endpoints::{Endpoint, EndpointAccess, EndpointHost};
use ipnet::IpNet;

/// Most entries of a kind. More are replaced by all of that kind, so that thousands of observers make no large policy.
pub const MAX_ENTRIES: usize = 100;

/// What the pods of a listener may connect to, besides DNS and the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DerivedEgress {
    /// Ports of every address.
    pub anywhere: Entries<u16>,
    /// Ports of public addresses and of [`Self::allowed`].
    pub public: Entries<u16>,
    /// Ranges that `spec.egress.allow` names.
    pub allowed: BTreeSet<IpNet>,
    /// Namespaces whose pods are admitted.
    pub namespaces: Entries<String>,
    /// Single addresses.
    pub addresses: Addresses,
}

/// Addresses by port.
type Addresses = BTreeMap<u16, BTreeSet<IpAddr>>;

/// Some of a kind, or all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entries<T> {
    /// These; maybe none.
    Some(BTreeSet<T>),
    /// All that there are.
    All,
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self::Some(BTreeSet::new())
    }
}

impl<T: Ord> Entries<T> {
    fn insert(&mut self, entry: T) {
        if let Self::Some(entries) = self {
            entries.insert(entry);
            if entries.len() > MAX_ENTRIES {
                *self = Self::All;
            }
        }
    }

    fn contains(&self, entry: &T) -> bool {
        match self {
            Self::Some(entries) => entries.contains(entry),
            Self::All => true,
        }
    }

    /// Removes what others hold.
    fn remove_all(&mut self, others: &Self) {
        match (&mut *self, others) {
            (_, Self::All) => *self = Self::default(),
            (Self::Some(entries), Self::Some(others)) => {
                entries.retain(|entry| !others.contains(entry));
            }
            (Self::All, Self::Some(_)) => {}
        }
    }
}

impl DerivedEgress {
    /// Derives the rules of a listener in a namespace, by what observers may dial and by all endpoints.
    #[must_use]
    pub fn new<'a>(
        namespace: &str,
        egress: &Egress,
        endpoints: impl IntoIterator<Item = &'a Endpoint>,
    ) -> Self {
        let mut derived = Self {
            allowed: egress.cidrs.iter().copied().collect(),
            ..Self::default()
        };
        let mut restricted = Addresses::new();
        // No server has port 0, and the API server refuses a policy with it.
        for endpoint in endpoints.into_iter().filter(|one| one.port != 0) {
            derived.admit(namespace, egress, endpoint, &mut restricted);
        }
        derived.bound(restricted);
        derived
    }

    /// Admits an endpoint. Literal addresses of observers are kept apart.
    fn admit(
        &mut self,
        namespace: &str,
        egress: &Egress,
        endpoint: &Endpoint,
        restricted: &mut Addresses,
    ) {
        let host = match &endpoint.host {
            EndpointHost::Address(address) => address.to_string(),
            EndpointHost::Name(name) => name.clone(),
            EndpointHost::Unknown => String::new(),
        };
        if endpoint.access == EndpointAccess::RestrictedHttp
            && let Some(proxy) = &egress.proxy
            && !proxy.is_bypassed(&host)
        {
            return;
        }
        let is_own = endpoint.access == EndpointAccess::Any;
        // Whether it may be at any address.
        let is_free = is_own || egress.is_allowed_host(&host);
        let ports = if is_free {
            &mut self.anywhere
        } else {
            &mut self.public
        };
        match &endpoint.host {
            EndpointHost::Address(address)
                if is_local(*address) || (!is_own && egress.denied(&host, *address).is_some()) => {}
            EndpointHost::Address(address) => {
                if endpoint.is_bootstrap {
                    ports.insert(endpoint.port);
                }
                let addresses = if is_own {
                    &mut self.addresses
                } else {
                    restricted
                };
                let of_port = addresses.entry(endpoint.port).or_default();
                of_port.insert(*address);
            }
            EndpointHost::Name(name) if is_local_name(name) => {}
            EndpointHost::Name(name) => {
                let service = ServiceName::parse(name, namespace);
                let is_certain = service.as_ref().is_some_and(|service| service.is_certain);
                if !is_free || !is_certain {
                    ports.insert(endpoint.port);
                }
                // Services have private addresses.
                if let Some(service) = service
                    && (is_free || !egress.cidrs.is_empty())
                {
                    self.namespaces.insert(service.namespace);
                }
            }
            EndpointHost::Unknown => ports.insert(endpoint.port),
        }
    }

    /// Bounds the size, and removes what is admitted twice.
    fn bound(&mut self, restricted: Addresses) {
        let are_many = |addresses: &Addresses| {
            addresses.values().map(BTreeSet::len).sum::<usize>() > MAX_ENTRIES
        };
        if are_many(&self.addresses) {
            for port in std::mem::take(&mut self.addresses).into_keys() {
                self.anywhere.insert(port);
            }
        }
        let are_many = are_many(&restricted);
        for (port, addresses) in restricted {
            if are_many {
                // All of them are public or in a range that is allowed.
                self.public.insert(port);
            } else {
                self.addresses.entry(port).or_default().extend(addresses);
            }
        }
        let anywhere = &self.anywhere;
        self.addresses.retain(|port, _| !anywhere.contains(port));
        self.public.remove_all(anywhere);
        if self.public == Entries::default() {
            self.allowed.clear();
        }
    }
}

/// A name that may be that of a Service.
#[derive(Debug, PartialEq, Eq)]
struct ServiceName {
    namespace: String,
    /// Whether it can be nothing else.
    is_certain: bool,
}

impl ServiceName {
    /// Parses a name as the pods of a namespace resolve it: one label is a Service beside them, two are a Service and
    /// its namespace, and three a pod of such a Service. Each of these may also be a name of the outside, the first by
    /// a search domain of the node.
    fn parse(name: &str, own: &str) -> Option<Self> {
        let name = name.strip_suffix(".cluster.local").unwrap_or(name);
        let labels: Vec<&str> = name.split('.').collect();
        let is_address = |label: &&str| label.bytes().all(|byte| byte.is_ascii_digit());
        if !labels.iter().all(|label| crds::is_domain_label(label))
            || labels.last().is_some_and(is_address)
        {
            return None;
        }
        let (namespace, is_certain) = match &*labels {
            [_] => (own, false),
            [_, .., namespace, "svc"] => (*namespace, true),
            [_, namespace] | [_, _, namespace] => (*namespace, false),
            // A cluster may have another domain than `cluster.local`.
            [_, .., _] => {
                let at = labels.iter().skip(2).position(|label| *label == "svc")?;
                (labels[at + 1], false)
            }
            [] => return None,
        };
        Some(Self {
            namespace: namespace.to_owned(),
            is_certain,
        })
    }
}

/// Returns whether an address is the pod itself, which no policy concerns.
fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

fn is_local_name(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_services_tell_their_namespace() {
        for (name, expected) in [
            ("db", Some(("shop", false))),
            ("db.prod", Some(("prod", false))),
            ("example.com", Some(("com", false))),
            ("db.prod.svc", Some(("prod", true))),
            ("db.prod.svc.cluster.local", Some(("prod", true))),
            ("db-0.db.prod.svc.cluster.local", Some(("prod", true))),
            ("db.prod.svc.corp.example", Some(("prod", false))),
            ("db.svc", Some(("svc", false))),
            ("db-0.db.prod", Some(("prod", false))),
            ("hooks.example.com", Some(("com", false))),
            ("eu.hooks.example.com", None),
            ("$(host_ip)", None),
            ("0x7f.1", None),
            ("a_b.prod", None),
            ("-a.prod.svc", None),
        ] {
            let parsed = ServiceName::parse(name, "shop");
            let found = parsed.as_ref().map(|one| (&*one.namespace, one.is_certain));
            assert_eq!(found, expected, "{name}");
        }
    }
}
