//! The observers of the newest bundle by their documents, so that a change of one among thousands compiles only that
//! one: compiling all takes too long, and memory has no room for two copies.

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
    by_document: HashMap<[u8; 32], Arc<Known>>,
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
    /// Loads the observers of a bundle for a runtime, or says everything that is wrong with the bundle, which changes
    /// nothing then.
    pub(super) fn load(
        &mut self,
        mut reader: BundleReader<'_>,
        shared: &ActionRuntime,
    ) -> Result<LoadedObservers, Diagnostics> {
        let same_runtime = self.revision == shared.revision;
        let mut by_document = HashMap::new();
        for document in reader.documents() {
            let digest: [u8; 32] = Sha256::digest(document).into();
            let known = self.by_document.get(&digest).filter(|known| {
                // The reason why one does not compile may have passed.
                same_runtime && known.compiled.is_ok() && !by_document.contains_key(&digest)
            });
            if let Some(known) = known.filter(|known| reader.reuse(&known.header)) {
                by_document.insert(digest, Arc::clone(known));
            } else if let Some(one) = reader.read(document) {
                by_document.insert(digest, Arc::new(Known::compile(one, shared)));
            }
        }
        let others = reader.others().into_iter();
        let others: Vec<Arc<Known>> = others
            .map(|one| Arc::new(Known::compile(one, shared)))
            .collect();
        let mut selected: Vec<Arc<Known>> = by_document.values().chain(&others).cloned().collect();
        selected.retain(|known| reader.selects(&known.header));
        let listener = reader.finish()?;
        (self.by_document, self.revision) = (by_document, shared.revision);
        let (observers, problems) = split(selected);
        Ok(LoadedObservers {
            listener,
            observers,
            problems,
        })
    }
}

/// Returns the observers that compile, sorted by namespace and name, and the problems of the others.
fn split(mut all: Vec<Arc<Known>>) -> (Vec<Arc<CompiledObserver>>, Vec<CompileProblem>) {
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
