//! Who takes part in a listener's work and who works on which shard, as the Leases say: one of
//! each pod, and one of each shard that names the identity of its owner.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use kube::api::ListParams;

use super::room::Room;

/// Label that says of which sort a Lease is.
const SORT: &str = "observers.fraiseql.dev/lease";

/// A shard and its division, as in the name of its Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shard {
    /// Its number.
    pub(crate) number: u16,
    /// Into how many the keys are divided.
    pub(crate) of: u16,
}

/// A listener's Leases at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fleet {
    /// The pod of each identity that takes part.
    pub(crate) members: BTreeMap<String, String>,
    /// The identity that holds each shard's Lease, if any does.
    pub(crate) shards: BTreeMap<Shard, Option<String>>,
    /// The name and the uid of each shard's Lease.
    pub(crate) leases: BTreeMap<Shard, (String, String)>,
}

impl Fleet {
    /// Looks at the Leases of a listener.
    pub(crate) async fn look(room: &Room, listener: &str) -> Result<Self> {
        let labels = format!("app.kubernetes.io/instance={listener},{SORT}");
        let list = ListParams::default().labels(&labels);
        let mut fleet = Self::default();
        for lease in room.api::<Lease>().list(&list).await?.items {
            let name = lease.name_any();
            let spec = lease.spec.as_ref();
            let holder = spec
                .and_then(|spec| spec.holder_identity.clone())
                .filter(|holder| !holder.is_empty());
            match lease.labels().get(SORT).map(String::as_str) {
                Some("member") => {
                    if let Some(identity) = holder {
                        fleet.members.insert(identity, name);
                    }
                }
                Some("shard") => {
                    let shard = Shard::of_lease(listener, &name)?;
                    let uid = lease.uid().unwrap_or_default();
                    fleet.leases.insert(shard, (name, uid));
                    fleet.shards.insert(shard, holder);
                }
                other => bail!("Lease {name} is of an unknown sort, {other:?}"),
            }
        }
        Ok(fleet)
    }

    /// Fails unless every shard of a division into so many, and of no other, has an owner that
    /// takes part and is none of those that are gone.
    pub(crate) fn owned(&self, shards: u16, gone: &BTreeSet<String>) -> Result<()> {
        for (shard, holder) in &self.shards {
            if shard.of != shards {
                ensure!(holder.is_none(), "{shard:?} is still held by {holder:?}");
                continue;
            }
            let holder = holder.as_ref();
            let holder = holder.with_context(|| format!("{shard:?} has no owner"))?;
            ensure!(
                !gone.contains(holder),
                "{shard:?} belongs to {holder}, which is gone"
            );
            ensure!(
                self.members.contains_key(holder),
                "{shard:?} belongs to {holder}, which does not take part"
            );
        }
        let found = self.shards.keys().filter(|shard| shard.of == shards);
        let found = found.count();
        ensure!(
            found == usize::from(shards),
            "{found} of {shards} shards have a Lease"
        );
        Ok(())
    }

    /// Fails unless so many take part and none has more than one shard more than another.
    pub(crate) fn shared(&self, shards: u16, members: usize) -> Result<()> {
        ensure!(
            self.members.len() == members,
            "{} members take part, not {members}: {:?}",
            self.members.len(),
            self.members.values()
        );
        let counts = self.members.keys().map(|member| {
            let owned = self.shards.iter().filter(|(shard, holder)| {
                shard.of == shards && holder.as_deref() == Some(member.as_str())
            });
            owned.count()
        });
        let counts: Vec<usize> = counts.collect();
        let (least, most) = (counts.iter().min(), counts.iter().max());
        let (least, most) = (least.context("nobody")?, most.context("nobody")?);
        ensure!(most - least <= 1, "the members own {counts:?} shards");
        Ok(())
    }

    /// The identity under which a pod takes part.
    pub(crate) fn identity(&self, pod: &str) -> Result<String> {
        let mut all = self.members.iter();
        let found = all.find_map(|(identity, name)| (name == pod).then(|| identity.clone()));
        found.with_context(|| format!("{pod} does not take part"))
    }

    /// The pod that owns a shard.
    pub(crate) fn pod_of(&self, shard: Shard) -> Option<&str> {
        let holder = self.shards.get(&shard)?.as_ref()?;
        Some(self.members.get(holder)?.as_str())
    }

    /// The pods that own a shard, those with most first.
    pub(crate) fn owners(&self) -> Vec<String> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for shard in self.shards.keys() {
            if let Some(pod) = self.pod_of(*shard) {
                *counts.entry(pod).or_default() += 1;
            }
        }
        let mut pods: Vec<(&str, usize)> = counts.into_iter().collect();
        pods.sort_by_key(|(pod, count)| (std::cmp::Reverse(*count), *pod));
        pods.into_iter().map(|(pod, _)| pod.to_owned()).collect()
    }
}

impl Shard {
    /// The shard of a Lease, `<listener>-shard-<number>-of-<all>`.
    fn of_lease(listener: &str, name: &str) -> Result<Self> {
        let parse = || {
            let rest = name.strip_prefix(listener)?.strip_prefix("-shard-")?;
            let (number, of) = rest.split_once("-of-")?;
            Some(Self {
                number: number.parse().ok()?,
                of: of.parse().ok()?,
            })
        };
        parse().with_context(|| format!("{name} is not the name of a shard's Lease"))
    }
}
