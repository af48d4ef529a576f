//! Schema of the indices: mapping, template and alias; and checks that their names are not taken by
//! others.

use std::collections::BTreeMap;

use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ElasticsearchIndex;
use super::names::{self, IndexName, MAPPING_VERSION};
use super::transport::SERVER_TIMEOUT;
use crate::error::SearchError;

/// Oldest versions that are supported.
const OLDEST_ELASTICSEARCH: (u32, u32) = (7, 17);
const OLDEST_OPENSEARCH: (u32, u32) = (2, 0);

/// How often new documents become findable. They are to be within a second of a write; a shard that has a
/// fixed interval is also never left alone for not being searched. Each refresh of a shard with new
/// documents writes a small segment, which costs some milliseconds of CPU and is merged later.
const REFRESH_INTERVAL: &str = "500ms";

/// Priority of our template among others whose patterns match as well.
const PRIORITY: u32 = 300;

/// Length of the longest values of fields that are here for the people that look with other tools; ours
/// finds by terms.
const LONGEST_KEYWORD: u32 = 1024;

/// Key of what we tell of ourselves in `_meta`.
const META: &str = "observers";

#[derive(Deserialize)]
struct Root {
    version: ServerVersion,
}

#[derive(Deserialize)]
struct ServerVersion {
    number: String,
    distribution: Option<String>,
}

#[derive(Deserialize)]
struct MappingOf {
    mappings: Value,
}

impl ElasticsearchIndex {
    /// Refuses a server that is too old or something else.
    pub(super) async fn check_version(&self) -> Result<(), SearchError> {
        // Credentials that may write and search may lack the right to ask for this.
        let Some(reply) = self.server.root().await? else {
            return Ok(());
        };
        let Root { version } = reply.parse()?;
        check_version(&version).map_err(SearchError::Refused)
    }

    /// Installs the template of our indices, unless there is one.
    pub(super) async fn install_template(&self) -> Result<(), SearchError> {
        let path = format!("/_index_template/{}", names::template(&self.index));
        let existing = self.server.bare(Method::Get, &path, &[]).await?;
        if existing.status != 404 {
            let existing: Value = existing.parse()?;
            let meta = existing.pointer("/index_templates/0/index_template/_meta");
            return match meta.and_then(|meta| meta.get(META)) {
                Some(_) => Ok(()),
                None => Err(SearchError::Refused(format!(
                    "the index template {} was made by others: give another `index`",
                    names::template(&self.index)
                ))),
            };
        }
        let template = json!({
            "index_patterns": names::template_patterns(&self.index),
            "version": MAPPING_VERSION,
            "priority": PRIORITY,
            "_meta": meta(),
            "template": {
                "settings": {
                    "number_of_shards": 1,
                    "auto_expand_replicas": "0-1",
                    "refresh_interval": REFRESH_INTERVAL,
                },
                "mappings": mapping(),
                "aliases": self.aliases(),
            },
        });
        let query = [("master_timeout", SERVER_TIMEOUT)];
        let reply = self
            .server
            .json(Method::Put, &path, &query, &template)
            .await?;
        reply.done()
    }

    /// Creates an index of ours, unless it is there. Its settings come from a template, ours or one of a
    /// higher priority; its mapping is always this.
    pub(super) async fn create_index(&self, name: &str) -> Result<(), SearchError> {
        let body = json!({"mappings": mapping(), "aliases": self.aliases()});
        let query = [
            ("master_timeout", SERVER_TIMEOUT),
            ("timeout", SERVER_TIMEOUT),
        ];
        let path = format!("/{name}");
        let reply = self.server.json(Method::Put, &path, &query, &body).await?;
        if reply.status < 300 {
            return Ok(());
        }
        match reply.error_type().as_deref() {
            Some("resource_already_exists_exception") => self.own_indices(name).await.map(drop),
            Some("invalid_alias_name_exception" | "invalid_index_name_exception") => {
                Err(taken(&self.index))
            }
            // Too many shards in the cluster: an operator may remove some.
            Some("validation_exception") => Err(SearchError::Unavailable(format!(
                "it creates no index {name}: validation_exception (400)"
            ))),
            _ => Err(reply.refused()),
        }
    }

    /// Returns the indices of this project, of any mapping version, that match `pattern` or have the alias.
    /// Refuses indices that others have made.
    pub(super) async fn own_indices(
        &self,
        pattern: &str,
    ) -> Result<BTreeMap<String, IndexName>, SearchError> {
        let path = format!("/{},{pattern}/_mapping", self.index);
        let query = [
            ("ignore_unavailable", "true"),
            ("allow_no_indices", "true"),
            ("master_timeout", SERVER_TIMEOUT),
        ];
        let reply = self.server.bare(Method::Get, &path, &query).await?;
        if reply.status == 404 {
            return Ok(BTreeMap::new());
        }
        let all: BTreeMap<String, MappingOf> = reply.parse()?;
        let mut own = BTreeMap::new();
        for (name, MappingOf { mappings }) in all {
            let version = mappings.pointer("/_meta/observers/mappingVersion");
            let version = version.and_then(Value::as_u64);
            match IndexName::parse(&self.index, &name) {
                Some(parsed)
                    if version == Some(parsed.version.into())
                        && (parsed.version != MAPPING_VERSION || has_our_fields(&mappings)) =>
                {
                    own.insert(name, parsed);
                }
                Some(_) => {
                    return Err(SearchError::Refused(format!(
                        "the index {name} was made by others, with another mapping: remove it, or give another `index`"
                    )));
                }
                // The name of an index that is called `shop` begins with that of `shop-v1` as well.
                None if name.starts_with(&format!("{}-v", self.index)) => {}
                None => return Err(taken(&self.index)),
            }
        }
        Ok(own)
    }

    /// Pattern of the names of our indices, of any mapping version; and of some that are not ours.
    pub(super) fn pattern(&self) -> String {
        format!("{}-v*", self.index)
    }

    fn aliases(&self) -> Value {
        json!({self.index.as_str(): {}})
    }
}

fn taken(index: &str) -> SearchError {
    SearchError::Refused(format!(
        "`{index}` is, or names, an index that others have made: give another `index`"
    ))
}

fn check_version(version: &ServerVersion) -> Result<(), String> {
    let mut parts = version.number.split('.').map(|part| part.parse().ok());
    let number = match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor),
        _ => return Err("it tells no version: is it a search server?".to_owned()),
    };
    let (name, oldest) = match version.distribution.as_deref() {
        // It may be set to call itself 7.10.2 to its clients.
        Some("opensearch") if number == (7, 10) => return Ok(()),
        Some("opensearch") => ("OpenSearch", OLDEST_OPENSEARCH),
        _ => ("Elasticsearch", OLDEST_ELASTICSEARCH),
    };
    if number < oldest {
        return Err(format!(
            "it is {name} {}.{}: {}.{} or later is needed",
            number.0, number.1, oldest.0, oldest.1
        ));
    }
    Ok(())
}

fn meta() -> Value {
    json!({META: {"mappingVersion": MAPPING_VERSION}})
}

/// Returns the mapping. It knows no field of a row, however many there are: what is searched are terms
/// and words that are computed here.
fn mapping() -> Value {
    let keyword = json!({"type": "keyword", "ignore_above": LONGEST_KEYWORD});
    json!({
        "dynamic": false,
        "_meta": meta(),
        "properties": {
            "id": {"type": "keyword"},
            "listener": keyword,
            "entity": keyword,
            "operation": keyword,
            "key": keyword,
            "tenant": keyword,
            "observers": keyword,
            "outcomes": keyword,
            // Found, and neither counted nor sorted by.
            "terms": {"type": "keyword", "doc_values": false},
            "words": {"type": "text", "analyzer": "whitespace", "norms": false},
            "occurredAt": {"type": "date", "ignore_malformed": true},
            "occurredAtMicros": {"type": "long"},
            "logId": {"type": "long"},
            "unfinished": {"type": "boolean"},
            // Length of the body.
            "bytes": {"type": "long", "index": false},
            // As text, so that its numbers stay as they are and its fields are none of the mapping's.
            "body": {"type": "keyword", "index": false, "doc_values": false},
        },
    })
}

/// Returns whether a mapping has our fields with their types; it may have more.
fn has_our_fields(mappings: &Value) -> bool {
    let ours = mapping();
    let ours = ours["properties"].as_object().into_iter().flatten();
    let mut types = ours.map(|(name, field)| (name, &field["type"]));
    types.all(|(name, kind)| &mappings["properties"][name]["type"] == kind)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn mappings_of_others_are_told_from_ours() {
        let mut more = mapping();
        more["properties"]["color"] = json!({"type": "text"});
        assert!(has_our_fields(&mapping()) && has_our_fields(&more));
        let mut other = mapping();
        other["properties"]["logId"] = json!({"type": "text"});
        assert!(!has_our_fields(&other));
        let mut fewer = mapping();
        fewer["properties"].as_object_mut().unwrap().remove("terms");
        assert!(!has_our_fields(&fewer));
        assert!(!has_our_fields(&json!({})));
    }

    #[test]
    fn old_servers_are_refused() {
        let check = |number: &str, distribution: Option<&str>| {
            check_version(&ServerVersion {
                number: number.to_owned(),
                distribution: distribution.map(str::to_owned),
            })
        };
        for number in ["7.17.0", "8.19.21", "9.5.3", "10.0.0-alpha1"] {
            assert_eq!(check(number, None), Ok(()), "{number}");
        }
        for number in ["2.0.0", "3.9.0", "7.10.2"] {
            assert_eq!(check(number, Some("opensearch")), Ok(()), "{number}");
        }
        assert_eq!(
            check("7.16.3", None).unwrap_err(),
            "it is Elasticsearch 7.16: 7.17 or later is needed"
        );
        assert_eq!(
            check("1.3.20", Some("opensearch")).unwrap_err(),
            "it is OpenSearch 1.3: 2.0 or later is needed"
        );
        for number in ["", "x", "9", "<html>"] {
            assert!(check(number, None).is_err(), "{number}");
        }
    }
}
