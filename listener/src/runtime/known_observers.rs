//! The observers of the newest bundle by their documents, so that a change of one among thousands compiles that one:
//! to have all of them twice is what memory does not allow, and to compile all takes too long.

use std::collections::HashMap;
use std::sync::Arc;

use crds::config::{ListenerConfig, ObserverConfig};
use crds::loader::{BundleReader, ObserverHeader};
use crds::manifest::Diagnostics;
use sha2::{Digest, Sha256};

use crate::admission::action_runtime::ActionRuntime;
use crate::observers::{CompileProblem, CompiledObserver};

/// Observers that were compiled, by the digests of their documents.
#[derive(Debug, Default)]
pub(super) struct KnownObservers {
    by_document: HashMap<[u8; 32], Known>,
    /// Revision of the runtime that they were compiled for.
    revision: u64,
}

/// An observer, and whether it compiles.
#[derive(Debug)]
struct Known {
    header: ObserverHeader,
    compiled: Result<Arc<CompiledObserver>, Vec<CompileProblem>>,
}

/// What a bundle has a listener run.
pub(super) struct LoadedObservers {
    /// The listener.
    pub(super) listener: ListenerConfig,
    /// Observers that compile, by namespace and name.
    pub(super) observers: Vec<Arc<CompiledObserver>>,
    /// What is wrong with the others.
    pub(super) problems: Vec<CompileProblem>,
}

impl KnownObservers {
    /// Loads the observers of a bundle for a runtime, or says everything that is wrong with the bundle.
    pub(super) fn load(
        &mut self,
        mut reader: BundleReader<'_>,
        shared: &ActionRuntime,
    ) -> Result<LoadedObservers, Diagnostics> {
        if self.revision != shared.revision {
            self.by_document.clear();
            self.revision = shared.revision;
        }
        let (mut reused, mut compiled) = (HashMap::new(), HashMap::new());
        for document in reader.documents() {
            let digest: [u8; 32] = Sha256::digest(document).into();
            let known = self.by_document.remove(&digest);
            if let Some(known) = known.filter(|known| reader.reuse(&known.header)) {
                reused.insert(digest, known);
            } else if let Some(one) = reader.read(document) {
                compiled.insert(digest, Known::compile(one, shared));
            }
        }
        let others = reader.others().into_iter();
        let others: Vec<Known> = others.map(|one| Known::compile(one, shared)).collect();
        let all = reused.values().chain(compiled.values()).chain(&others);
        let selected = all.filter(|known| reader.selects(&known.header));
        let (observers, problems) = split(selected.collect());
        match reader.finish() {
            Ok(listener) => {
                reused.extend(compiled);
                self.by_document = reused;
                Ok(LoadedObservers {
                    listener,
                    observers,
                    problems,
                })
            }
            // The bundle before stays, and the next one may have what it has.
            Err(diagnostics) => {
                self.by_document.extend(reused);
                Err(diagnostics)
            }
        }
    }
}

/// Returns those that compile, by namespace and name, and what is wrong with the others.
fn split(mut all: Vec<&Known>) -> (Vec<Arc<CompiledObserver>>, Vec<CompileProblem>) {
    all.sort_by(|a, b| {
        let (a, b) = (&a.header, &b.header);
        (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name))
    });
    let (mut observers, mut problems) = (Vec::with_capacity(all.len()), Vec::new());
    for known in all {
        match &known.compiled {
            Ok(observer) => observers.push(Arc::clone(observer)),
            Err(wrong) => problems.extend(wrong.iter().cloned()),
        }
    }
    (observers, problems)
}

impl Known {
    fn compile((header, config): (ObserverHeader, ObserverConfig), shared: &ActionRuntime) -> Self {
        Self {
            header,
            compiled: CompiledObserver::compile(&config, shared).map(Arc::new),
        }
    }
}

#[cfg(test)]
mod tests;
