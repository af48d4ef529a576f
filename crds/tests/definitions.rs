//! The custom resource definitions as the cluster gets them.

use kube::CustomResourceExt;
use observer_crds::v1alpha1::{GROUP, Observer, ObserverListener, VERSION};
use serde_json::{Value, json};

fn schema(crd: &Value) -> &Value {
    &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

/// One line for each field: path, type, bounds, and default; `!` marks a required one.
fn outline(path: &str, schema: &Value, required: bool, lines: &mut Vec<String>) {
    let mut line = format!("{path}{}", if required { "!" } else { "" });
    for keyword in [
        "type",
        "minimum",
        "maximum",
        "minItems",
        "maxItems",
        "maxProperties",
        "enum",
        "default",
    ] {
        if let Some(value) = schema.get(keyword) {
            let value = value
                .as_f64()
                .map_or_else(|| value.to_string(), |number| number.to_string());
            line.push(' ');
            if keyword != "type" {
                line.push_str(keyword);
                line.push('=');
            }
            line.push_str(value.trim_matches('"'));
        }
    }
    lines.push(line);
    let wanted = |name: &str| {
        let all = schema["required"].as_array();
        all.is_some_and(|all| all.iter().any(|one| one == name))
    };
    for (name, part) in schema["properties"].as_object().into_iter().flatten() {
        // Kubernetes' own.
        if path == "spec.podTemplate" {
            lines.push(format!("{path}.{name}"));
            continue;
        }
        // The same everywhere, and shown once by `url`.
        if !path.ends_with("signingSecret") && !path.ends_with("headers.*") {
            outline(&format!("{path}.{name}"), part, wanted(name), lines);
        }
    }
    if let Some(items) = schema.get("items") {
        outline(&format!("{path}[]"), items, false, lines);
    }
    if let Some(values) = schema.get("additionalProperties") {
        outline(&format!("{path}.*"), values, false, lines);
    }
}

fn outlined(crd: &Value) -> String {
    let mut lines = Vec::new();
    let spec = &schema(crd)["properties"]["spec"];
    outline("spec", spec, true, &mut lines);
    lines.join("\n")
}

const OBSERVER: &str = r#"spec! object
spec.actions! array minItems=1 maxItems=16
spec.actions[] object
spec.actions[].cache object
spec.actions[].cache.invalidateOn array maxItems=8
spec.actions[].cache.invalidateOn[] object
spec.actions[].cache.invalidateOn[].entity! string
spec.actions[].cache.invalidateOn[].key string
spec.actions[].cache.ttl string
spec.actions[].email object
spec.actions[].email.bcc array maxItems=32
spec.actions[].email.bcc[] string
spec.actions[].email.cc array maxItems=32
spec.actions[].email.cc[] string
spec.actions[].email.from! string
spec.actions[].email.html string
spec.actions[].email.replyTo string
spec.actions[].email.smtp! object
spec.actions[].email.smtp.ca object
spec.actions[].email.smtp.ca.secretKeyRef object
spec.actions[].email.smtp.ca.secretKeyRef.key! string
spec.actions[].email.smtp.ca.secretKeyRef.name! string
spec.actions[].email.smtp.ca.value string
spec.actions[].email.smtp.host! string
spec.actions[].email.smtp.password object
spec.actions[].email.smtp.password.secretKeyRef object
spec.actions[].email.smtp.password.secretKeyRef.key! string
spec.actions[].email.smtp.password.secretKeyRef.name! string
spec.actions[].email.smtp.password.value string
spec.actions[].email.smtp.port integer minimum=1 maximum=65535
spec.actions[].email.smtp.tls string enum=["Implicit","StartTls","None"] default=StartTls
spec.actions[].email.smtp.username object
spec.actions[].email.smtp.username.secretKeyRef object
spec.actions[].email.smtp.username.secretKeyRef.key! string
spec.actions[].email.smtp.username.secretKeyRef.name! string
spec.actions[].email.smtp.username.value string
spec.actions[].email.subject! string
spec.actions[].email.text string
spec.actions[].email.to! array minItems=1 maxItems=32
spec.actions[].email.to[] string
spec.actions[].kafka object
spec.actions[].kafka.batch object
spec.actions[].kafka.batch.linger string default=10ms
spec.actions[].kafka.batch.maxBytes integer minimum=1024 maximum=16777216 default=1048576
spec.actions[].kafka.batch.maxEvents integer minimum=1 maximum=1000 default=50
spec.actions[].kafka.brokers! array minItems=1 maxItems=16
spec.actions[].kafka.brokers[] string
spec.actions[].kafka.contentType string default=application/json
spec.actions[].kafka.format string enum=["Event","Debezium","CloudEvents","CloudEventsBinary"] default=Event
spec.actions[].kafka.key string
spec.actions[].kafka.message string
spec.actions[].kafka.sasl object
spec.actions[].kafka.sasl.mechanism string enum=["Plain","ScramSha256","ScramSha512"] default=ScramSha512
spec.actions[].kafka.sasl.password! object
spec.actions[].kafka.sasl.password.secretKeyRef object
spec.actions[].kafka.sasl.password.secretKeyRef.key! string
spec.actions[].kafka.sasl.password.secretKeyRef.name! string
spec.actions[].kafka.sasl.password.value string
spec.actions[].kafka.sasl.username! object
spec.actions[].kafka.sasl.username.secretKeyRef object
spec.actions[].kafka.sasl.username.secretKeyRef.key! string
spec.actions[].kafka.sasl.username.secretKeyRef.name! string
spec.actions[].kafka.sasl.username.value string
spec.actions[].kafka.tls object
spec.actions[].kafka.tls.ca object
spec.actions[].kafka.tls.ca.secretKeyRef object
spec.actions[].kafka.tls.ca.secretKeyRef.key! string
spec.actions[].kafka.tls.ca.secretKeyRef.name! string
spec.actions[].kafka.tls.ca.value string
spec.actions[].kafka.tls.certificate object
spec.actions[].kafka.tls.certificate.secretKeyRef object
spec.actions[].kafka.tls.certificate.secretKeyRef.key! string
spec.actions[].kafka.tls.certificate.secretKeyRef.name! string
spec.actions[].kafka.tls.certificate.value string
spec.actions[].kafka.tls.key object
spec.actions[].kafka.tls.key.secretKeyRef object
spec.actions[].kafka.tls.key.secretKeyRef.key! string
spec.actions[].kafka.tls.key.secretKeyRef.name! string
spec.actions[].kafka.tls.key.value string
spec.actions[].kafka.topic! string
spec.actions[].log object
spec.actions[].log.level string enum=["Warn","Info","Debug"] default=Info
spec.actions[].log.message string
spec.actions[].maxConcurrency integer minimum=1 maximum=4096
spec.actions[].maxConcurrencyTotal integer minimum=1 maximum=65536
spec.actions[].mode string enum=["Inline","Queued"] default=Inline
spec.actions[].name! string
spec.actions[].nats object
spec.actions[].nats.contentType string default=application/json
spec.actions[].nats.credentials object
spec.actions[].nats.credentials.secretKeyRef object
spec.actions[].nats.credentials.secretKeyRef.key! string
spec.actions[].nats.credentials.secretKeyRef.name! string
spec.actions[].nats.credentials.value string
spec.actions[].nats.format string enum=["Event","Debezium","CloudEvents","CloudEventsBinary"] default=Event
spec.actions[].nats.message string
spec.actions[].nats.subject! string
spec.actions[].nats.tls object
spec.actions[].nats.tls.ca object
spec.actions[].nats.tls.ca.secretKeyRef object
spec.actions[].nats.tls.ca.secretKeyRef.key! string
spec.actions[].nats.tls.ca.secretKeyRef.name! string
spec.actions[].nats.tls.ca.value string
spec.actions[].nats.tls.certificate object
spec.actions[].nats.tls.certificate.secretKeyRef object
spec.actions[].nats.tls.certificate.secretKeyRef.key! string
spec.actions[].nats.tls.certificate.secretKeyRef.name! string
spec.actions[].nats.tls.certificate.value string
spec.actions[].nats.tls.key object
spec.actions[].nats.tls.key.secretKeyRef object
spec.actions[].nats.tls.key.secretKeyRef.key! string
spec.actions[].nats.tls.key.secretKeyRef.name! string
spec.actions[].nats.tls.key.value string
spec.actions[].nats.url! object
spec.actions[].nats.url.secretKeyRef object
spec.actions[].nats.url.secretKeyRef.key! string
spec.actions[].nats.url.secretKeyRef.name! string
spec.actions[].nats.url.value string
spec.actions[].ordering string enum=["Key","None"] default=Key
spec.actions[].postgres object
spec.actions[].postgres.parameters array maxItems=32
spec.actions[].postgres.parameters[] string
spec.actions[].postgres.statement! string
spec.actions[].postgres.tls object
spec.actions[].postgres.tls.ca object
spec.actions[].postgres.tls.ca.secretKeyRef object
spec.actions[].postgres.tls.ca.secretKeyRef.key! string
spec.actions[].postgres.tls.ca.secretKeyRef.name! string
spec.actions[].postgres.tls.ca.value string
spec.actions[].postgres.tls.certificate object
spec.actions[].postgres.tls.certificate.secretKeyRef object
spec.actions[].postgres.tls.certificate.secretKeyRef.key! string
spec.actions[].postgres.tls.certificate.secretKeyRef.name! string
spec.actions[].postgres.tls.certificate.value string
spec.actions[].postgres.tls.key object
spec.actions[].postgres.tls.key.secretKeyRef object
spec.actions[].postgres.tls.key.secretKeyRef.key! string
spec.actions[].postgres.tls.key.secretKeyRef.name! string
spec.actions[].postgres.tls.key.value string
spec.actions[].postgres.url object
spec.actions[].postgres.url.secretKeyRef object
spec.actions[].postgres.url.secretKeyRef.key! string
spec.actions[].postgres.url.secretKeyRef.name! string
spec.actions[].postgres.url.value string
spec.actions[].priority string enum=["High","Normal","Low"] default=Normal
spec.actions[].rateLimit object
spec.actions[].rateLimit.attempts! integer minimum=1 maximum=1000000
spec.actions[].rateLimit.per string default=1s
spec.actions[].redis object
spec.actions[].redis.appendToStream object
spec.actions[].redis.appendToStream.format string enum=["Event","Debezium","CloudEvents","CloudEventsBinary"] default=Event
spec.actions[].redis.appendToStream.maxLength integer minimum=1 maximum=100000000
spec.actions[].redis.appendToStream.message string
spec.actions[].redis.appendToStream.stream! string
spec.actions[].redis.contentType string default=application/json
spec.actions[].redis.delete object
spec.actions[].redis.delete.keys array maxItems=16
spec.actions[].redis.delete.keys[] string
spec.actions[].redis.delete.tags array maxItems=16
spec.actions[].redis.delete.tags[] string
spec.actions[].redis.publish object
spec.actions[].redis.publish.channel! string
spec.actions[].redis.publish.message string
spec.actions[].redis.set object
spec.actions[].redis.set.key! string
spec.actions[].redis.set.ttl string
spec.actions[].redis.set.value string
spec.actions[].redis.tls object
spec.actions[].redis.tls.ca object
spec.actions[].redis.tls.ca.secretKeyRef object
spec.actions[].redis.tls.ca.secretKeyRef.key! string
spec.actions[].redis.tls.ca.secretKeyRef.name! string
spec.actions[].redis.tls.ca.value string
spec.actions[].redis.tls.certificate object
spec.actions[].redis.tls.certificate.secretKeyRef object
spec.actions[].redis.tls.certificate.secretKeyRef.key! string
spec.actions[].redis.tls.certificate.secretKeyRef.name! string
spec.actions[].redis.tls.certificate.value string
spec.actions[].redis.tls.key object
spec.actions[].redis.tls.key.secretKeyRef object
spec.actions[].redis.tls.key.secretKeyRef.key! string
spec.actions[].redis.tls.key.secretKeyRef.name! string
spec.actions[].redis.tls.key.value string
spec.actions[].redis.url! object
spec.actions[].redis.url.secretKeyRef object
spec.actions[].redis.url.secretKeyRef.key! string
spec.actions[].redis.url.secretKeyRef.name! string
spec.actions[].redis.url.value string
spec.actions[].retry object default={"attempts":8,"initialBackoff":"1s","maxBackoff":"10m"}
spec.actions[].retry.attempts integer minimum=1 maximum=100 default=8
spec.actions[].retry.deadline string
spec.actions[].retry.initialBackoff string default=1s
spec.actions[].retry.maxBackoff string default=10m
spec.actions[].slack object
spec.actions[].slack.blocks string
spec.actions[].slack.text string
spec.actions[].slack.url! object
spec.actions[].slack.url.secretKeyRef object
spec.actions[].slack.url.secretKeyRef.key! string
spec.actions[].slack.url.secretKeyRef.name! string
spec.actions[].slack.url.value string
spec.actions[].teams object
spec.actions[].teams.card string
spec.actions[].teams.text string
spec.actions[].teams.url! object
spec.actions[].teams.url.secretKeyRef object
spec.actions[].teams.url.secretKeyRef.key! string
spec.actions[].teams.url.secretKeyRef.name! string
spec.actions[].teams.url.value string
spec.actions[].timeout string default=10s
spec.actions[].webhook object
spec.actions[].webhook.batch object
spec.actions[].webhook.batch.linger string default=10ms
spec.actions[].webhook.batch.maxBytes integer minimum=1024 maximum=16777216 default=1048576
spec.actions[].webhook.batch.maxEvents integer minimum=1 maximum=1000 default=50
spec.actions[].webhook.body string
spec.actions[].webhook.contentType string default=application/json
spec.actions[].webhook.format string enum=["Event","Debezium","CloudEvents","CloudEventsBinary"] default=Event
spec.actions[].webhook.headers object maxProperties=32
spec.actions[].webhook.headers.* object
spec.actions[].webhook.method string enum=["POST","PUT","PATCH","DELETE"] default=POST
spec.actions[].webhook.signingSecret object
spec.actions[].webhook.signingSecrets array maxItems=4
spec.actions[].webhook.signingSecrets[] object
spec.actions[].webhook.signingSecrets[].secretKeyRef object
spec.actions[].webhook.signingSecrets[].secretKeyRef.key! string
spec.actions[].webhook.signingSecrets[].secretKeyRef.name! string
spec.actions[].webhook.signingSecrets[].value string
spec.actions[].webhook.tls object
spec.actions[].webhook.tls.ca object
spec.actions[].webhook.tls.ca.secretKeyRef object
spec.actions[].webhook.tls.ca.secretKeyRef.key! string
spec.actions[].webhook.tls.ca.secretKeyRef.name! string
spec.actions[].webhook.tls.ca.value string
spec.actions[].webhook.tls.certificate object
spec.actions[].webhook.tls.certificate.secretKeyRef object
spec.actions[].webhook.tls.certificate.secretKeyRef.key! string
spec.actions[].webhook.tls.certificate.secretKeyRef.name! string
spec.actions[].webhook.tls.certificate.value string
spec.actions[].webhook.tls.key object
spec.actions[].webhook.tls.key.secretKeyRef object
spec.actions[].webhook.tls.key.secretKeyRef.key! string
spec.actions[].webhook.tls.key.secretKeyRef.name! string
spec.actions[].webhook.tls.key.value string
spec.actions[].webhook.url! object
spec.actions[].webhook.url.secretKeyRef object
spec.actions[].webhook.url.secretKeyRef.key! string
spec.actions[].webhook.url.secretKeyRef.name! string
spec.actions[].webhook.url.value string
spec.actions[].when string
spec.enrich array maxItems=8
spec.enrich[] object
spec.enrich[].cache object
spec.enrich[].cache.invalidateOn array maxItems=8
spec.enrich[].cache.invalidateOn[] object
spec.enrich[].cache.invalidateOn[].entity! string
spec.enrich[].cache.invalidateOn[].key string
spec.enrich[].cache.negativeTtl string default=10s
spec.enrich[].cache.staleIfError string default=0s
spec.enrich[].cache.ttl string
spec.enrich[].http object
spec.enrich[].http.body string
spec.enrich[].http.contentType string default=application/json
spec.enrich[].http.headers object maxProperties=32
spec.enrich[].http.headers.* object
spec.enrich[].http.method string enum=["GET","POST"] default=GET
spec.enrich[].http.path string
spec.enrich[].http.tls object
spec.enrich[].http.tls.ca object
spec.enrich[].http.tls.ca.secretKeyRef object
spec.enrich[].http.tls.ca.secretKeyRef.key! string
spec.enrich[].http.tls.ca.secretKeyRef.name! string
spec.enrich[].http.tls.ca.value string
spec.enrich[].http.tls.certificate object
spec.enrich[].http.tls.certificate.secretKeyRef object
spec.enrich[].http.tls.certificate.secretKeyRef.key! string
spec.enrich[].http.tls.certificate.secretKeyRef.name! string
spec.enrich[].http.tls.certificate.value string
spec.enrich[].http.tls.key object
spec.enrich[].http.tls.key.secretKeyRef object
spec.enrich[].http.tls.key.secretKeyRef.key! string
spec.enrich[].http.tls.key.secretKeyRef.name! string
spec.enrich[].http.tls.key.value string
spec.enrich[].http.url! object
spec.enrich[].http.url.secretKeyRef object
spec.enrich[].http.url.secretKeyRef.key! string
spec.enrich[].http.url.secretKeyRef.name! string
spec.enrich[].http.url.value string
spec.enrich[].name! string
spec.enrich[].onError string enum=["Fail","Null","Stale"] default=Fail
spec.enrich[].postgres object
spec.enrich[].postgres.parameters array maxItems=32
spec.enrich[].postgres.parameters[] string
spec.enrich[].postgres.statement! string
spec.enrich[].postgres.tls object
spec.enrich[].postgres.tls.ca object
spec.enrich[].postgres.tls.ca.secretKeyRef object
spec.enrich[].postgres.tls.ca.secretKeyRef.key! string
spec.enrich[].postgres.tls.ca.secretKeyRef.name! string
spec.enrich[].postgres.tls.ca.value string
spec.enrich[].postgres.tls.certificate object
spec.enrich[].postgres.tls.certificate.secretKeyRef object
spec.enrich[].postgres.tls.certificate.secretKeyRef.key! string
spec.enrich[].postgres.tls.certificate.secretKeyRef.name! string
spec.enrich[].postgres.tls.certificate.value string
spec.enrich[].postgres.tls.key object
spec.enrich[].postgres.tls.key.secretKeyRef object
spec.enrich[].postgres.tls.key.secretKeyRef.key! string
spec.enrich[].postgres.tls.key.secretKeyRef.name! string
spec.enrich[].postgres.tls.key.value string
spec.enrich[].postgres.url object
spec.enrich[].postgres.url.secretKeyRef object
spec.enrich[].postgres.url.secretKeyRef.key! string
spec.enrich[].postgres.url.secretKeyRef.name! string
spec.enrich[].postgres.url.value string
spec.enrich[].timeout string default=5s
spec.events! object
spec.events.entity! string
spec.events.operations array minItems=1 maxItems=6 default=["Insert","Update","Delete"]
spec.events.operations[] string enum=["Insert","Update","Delete","Truncate","Custom","Read"]
spec.onFailure string enum=["DeadLetter","Drop"] default=DeadLetter
spec.suspend boolean default=false
spec.tenant string
spec.when string"#;

const LISTENER: &str = r#"spec! object
spec.api object
spec.api.kubernetes object
spec.api.port integer minimum=1024 maximum=65535 default=9465
spec.api.tokens array maxItems=16
spec.api.tokens[] object
spec.api.tokens[].name! string
spec.api.tokens[].role! string enum=["Read","Operate"]
spec.api.tokens[].tenant string
spec.api.tokens[].token! object
spec.api.tokens[].token.secretKeyRef object
spec.api.tokens[].token.secretKeyRef.key! string
spec.api.tokens[].token.secretKeyRef.name! string
spec.api.tokens[].token.value string
spec.autoscaling object
spec.autoscaling.maxReplicas! integer minimum=1 maximum=256
spec.autoscaling.minReplicas integer minimum=1 maximum=256 default=1
spec.autoscaling.targetLag string default=10s
spec.cache object default={"ttl":"1m"}
spec.cache.ttl string default=1m
spec.checkpoint object default={"interval":"250ms"}
spec.checkpoint.interval string default=250ms
spec.console object
spec.console.readOnly boolean default=false
spec.database! object
spec.database.maxPollInterval string default=8ms
spec.database.retention string default=1h
spec.database.url! object
spec.database.url.secretKeyRef object
spec.database.url.secretKeyRef.key! string
spec.database.url.secretKeyRef.name! string
spec.database.url.value string
spec.deadLetters object default={}
spec.deadLetters.retention string
spec.deletionPolicy string enum=["Delete","Retain"] default=Delete
spec.delivery object default={"drainTimeout":"25s","maxConcurrency":64}
spec.delivery.drainTimeout string default=25s
spec.delivery.maxConcurrency integer minimum=1 maximum=4096 default=64
spec.egress object default={}
spec.egress.allow array maxItems=64
spec.egress.allow[] string
spec.egress.limits array maxItems=64
spec.egress.limits[] object
spec.egress.limits[].host! string
spec.egress.limits[].maxConcurrency integer minimum=1 maximum=65536
spec.egress.limits[].rateLimit object
spec.egress.limits[].rateLimit.attempts! integer minimum=1 maximum=1000000
spec.egress.limits[].rateLimit.per string default=1s
spec.egress.ownDatabase object
spec.egress.ownDatabase.url! object
spec.egress.ownDatabase.url.secretKeyRef object
spec.egress.ownDatabase.url.secretKeyRef.key! string
spec.egress.ownDatabase.url.secretKeyRef.name! string
spec.egress.ownDatabase.url.value string
spec.egress.proxy object
spec.egress.proxy.noProxy array maxItems=64
spec.egress.proxy.noProxy[] string
spec.egress.proxy.url! object
spec.egress.proxy.url.secretKeyRef object
spec.egress.proxy.url.secretKeyRef.key! string
spec.egress.proxy.url.secretKeyRef.name! string
spec.egress.proxy.url.value string
spec.identity string
spec.lease object default={"duration":"15s","renewDeadline":"10s","retryPeriod":"2s"}
spec.lease.duration string default=15s
spec.lease.renewDeadline string default=10s
spec.lease.retryPeriod string default=2s
spec.networkPolicy object default={"egress":"Open"}
spec.networkPolicy.egress string enum=["Open","Derived"] default=Open
spec.observerNamespaces object default={"from":"Same"}
spec.observerNamespaces.from string enum=["Same","All","Selector"] default=Same
spec.observerNamespaces.selector object
spec.observerNamespaces.selector.matchExpressions array maxItems=32
spec.observerNamespaces.selector.matchExpressions[] object
spec.observerNamespaces.selector.matchExpressions[].key! string
spec.observerNamespaces.selector.matchExpressions[].operator! string enum=["In","NotIn","Exists","DoesNotExist"]
spec.observerNamespaces.selector.matchExpressions[].values array maxItems=64
spec.observerNamespaces.selector.matchExpressions[].values[] string
spec.observerNamespaces.selector.matchLabels object
spec.observerNamespaces.selector.matchLabels.* string
spec.observerSelector object
spec.observerSelector.matchExpressions array maxItems=32
spec.observerSelector.matchExpressions[] object
spec.observerSelector.matchExpressions[].key! string
spec.observerSelector.matchExpressions[].operator! string enum=["In","NotIn","Exists","DoesNotExist"]
spec.observerSelector.matchExpressions[].values array maxItems=64
spec.observerSelector.matchExpressions[].values[] string
spec.observerSelector.matchLabels object
spec.observerSelector.matchLabels.* string
spec.podTemplate object
spec.podTemplate.affinity
spec.podTemplate.annotations
spec.podTemplate.env
spec.podTemplate.image
spec.podTemplate.imagePullSecrets
spec.podTemplate.labels
spec.podTemplate.nodeSelector
spec.podTemplate.priorityClassName
spec.podTemplate.resources
spec.podTemplate.tolerations
spec.podTemplate.topologySpreadConstraints
spec.queue object default={"backend":"Postgres","completedJobRetention":"0s","workerLeaseDuration":"15s","workers":{"concurrency":16,"replicas":0}}
spec.queue.backend string enum=["Postgres","Redis"] default=Postgres
spec.queue.completedJobRetention string default=0s
spec.queue.maxConcurrencyTotal integer minimum=1 maximum=65536
spec.queue.workerLeaseDuration string default=15s
spec.queue.workers object default={"concurrency":16,"replicas":0}
spec.queue.workers.concurrency integer minimum=1 maximum=1024 default=16
spec.queue.workers.replicas integer minimum=0 maximum=256 default=0
spec.redis object
spec.redis.cluster object
spec.redis.cluster.nodes array maxItems=16
spec.redis.cluster.nodes[] string
spec.redis.sentinel object
spec.redis.sentinel.masterName string default=mymaster
spec.redis.sentinel.nodes array maxItems=16
spec.redis.sentinel.nodes[] string
spec.redis.sentinel.password object
spec.redis.sentinel.password.secretKeyRef object
spec.redis.sentinel.password.secretKeyRef.key! string
spec.redis.sentinel.password.secretKeyRef.name! string
spec.redis.sentinel.password.value string
spec.redis.sentinel.username object
spec.redis.sentinel.username.secretKeyRef object
spec.redis.sentinel.username.secretKeyRef.key! string
spec.redis.sentinel.username.secretKeyRef.name! string
spec.redis.sentinel.username.value string
spec.redis.tls object
spec.redis.tls.ca object
spec.redis.tls.ca.secretKeyRef object
spec.redis.tls.ca.secretKeyRef.key! string
spec.redis.tls.ca.secretKeyRef.name! string
spec.redis.tls.ca.value string
spec.redis.tls.certificate object
spec.redis.tls.certificate.secretKeyRef object
spec.redis.tls.certificate.secretKeyRef.key! string
spec.redis.tls.certificate.secretKeyRef.name! string
spec.redis.tls.certificate.value string
spec.redis.tls.key object
spec.redis.tls.key.secretKeyRef object
spec.redis.tls.key.secretKeyRef.key! string
spec.redis.tls.key.secretKeyRef.name! string
spec.redis.tls.key.value string
spec.redis.url! object
spec.redis.url.secretKeyRef object
spec.redis.url.secretKeyRef.key! string
spec.redis.url.secretKeyRef.name! string
spec.redis.url.value string
spec.replicas integer minimum=0 maximum=256 default=1
spec.search object
spec.search.documents string enum=["Events","EventsAndOutcomes"] default=EventsAndOutcomes
spec.search.elasticsearch object
spec.search.elasticsearch.apiKey object
spec.search.elasticsearch.apiKey.secretKeyRef object
spec.search.elasticsearch.apiKey.secretKeyRef.key! string
spec.search.elasticsearch.apiKey.secretKeyRef.name! string
spec.search.elasticsearch.apiKey.value string
spec.search.elasticsearch.index string default=observer-events
spec.search.elasticsearch.password object
spec.search.elasticsearch.password.secretKeyRef object
spec.search.elasticsearch.password.secretKeyRef.key! string
spec.search.elasticsearch.password.secretKeyRef.name! string
spec.search.elasticsearch.password.value string
spec.search.elasticsearch.tls object
spec.search.elasticsearch.tls.ca object
spec.search.elasticsearch.tls.ca.secretKeyRef object
spec.search.elasticsearch.tls.ca.secretKeyRef.key! string
spec.search.elasticsearch.tls.ca.secretKeyRef.name! string
spec.search.elasticsearch.tls.ca.value string
spec.search.elasticsearch.tls.certificate object
spec.search.elasticsearch.tls.certificate.secretKeyRef object
spec.search.elasticsearch.tls.certificate.secretKeyRef.key! string
spec.search.elasticsearch.tls.certificate.secretKeyRef.name! string
spec.search.elasticsearch.tls.certificate.value string
spec.search.elasticsearch.tls.key object
spec.search.elasticsearch.tls.key.secretKeyRef object
spec.search.elasticsearch.tls.key.secretKeyRef.key! string
spec.search.elasticsearch.tls.key.secretKeyRef.name! string
spec.search.elasticsearch.tls.key.value string
spec.search.elasticsearch.url! object
spec.search.elasticsearch.url.secretKeyRef object
spec.search.elasticsearch.url.secretKeyRef.key! string
spec.search.elasticsearch.url.secretKeyRef.name! string
spec.search.elasticsearch.url.value string
spec.search.elasticsearch.username object
spec.search.elasticsearch.username.secretKeyRef object
spec.search.elasticsearch.username.secretKeyRef.key! string
spec.search.elasticsearch.username.secretKeyRef.name! string
spec.search.elasticsearch.username.value string
spec.search.maxLag string default=24h
spec.search.postgres object
spec.search.redact array maxItems=64
spec.search.redact[] string
spec.search.retention string default=720h
spec.shards integer minimum=1 maximum=256 default=8
spec.source object default={"triggers":{}}
spec.source.kafka object
spec.source.kafka.brokers! array minItems=1 maxItems=16
spec.source.kafka.brokers[] string
spec.source.kafka.initialOffset string enum=["Latest","Earliest"] default=Latest
spec.source.kafka.name string default=kafka
spec.source.kafka.onOffsetLost string enum=["Stop","Earliest"] default=Stop
spec.source.kafka.sasl object
spec.source.kafka.sasl.mechanism string enum=["Plain","ScramSha256","ScramSha512"] default=ScramSha512
spec.source.kafka.sasl.password! object
spec.source.kafka.sasl.password.secretKeyRef object
spec.source.kafka.sasl.password.secretKeyRef.key! string
spec.source.kafka.sasl.password.secretKeyRef.name! string
spec.source.kafka.sasl.password.value string
spec.source.kafka.sasl.username! object
spec.source.kafka.sasl.username.secretKeyRef object
spec.source.kafka.sasl.username.secretKeyRef.key! string
spec.source.kafka.sasl.username.secretKeyRef.name! string
spec.source.kafka.sasl.username.value string
spec.source.kafka.tls object
spec.source.kafka.tls.ca object
spec.source.kafka.tls.ca.secretKeyRef object
spec.source.kafka.tls.ca.secretKeyRef.key! string
spec.source.kafka.tls.ca.secretKeyRef.name! string
spec.source.kafka.tls.ca.value string
spec.source.kafka.tls.certificate object
spec.source.kafka.tls.certificate.secretKeyRef object
spec.source.kafka.tls.certificate.secretKeyRef.key! string
spec.source.kafka.tls.certificate.secretKeyRef.name! string
spec.source.kafka.tls.certificate.value string
spec.source.kafka.tls.key object
spec.source.kafka.tls.key.secretKeyRef object
spec.source.kafka.tls.key.secretKeyRef.key! string
spec.source.kafka.tls.key.secretKeyRef.name! string
spec.source.kafka.tls.key.value string
spec.source.kafka.topics! array minItems=1 maxItems=1000
spec.source.kafka.topics[] object
spec.source.kafka.topics[].contents string enum=["Debezium","Rows","Events"] default=Debezium
spec.source.kafka.topics[].entity string
spec.source.kafka.topics[].key array maxItems=32
spec.source.kafka.topics[].key[] string
spec.source.kafka.topics[].tenant string
spec.source.kafka.topics[].topic! string
spec.source.triggers object
spec.source.triggers.tables array maxItems=1000
spec.source.triggers.tables[] object
spec.source.triggers.tables[].contents string enum=["Rows","EntityChanges"] default=Rows
spec.source.triggers.tables[].exclude array maxItems=1000
spec.source.triggers.tables[].exclude[] string
spec.source.triggers.tables[].key array maxItems=32
spec.source.triggers.tables[].key[] string
spec.source.triggers.tables[].table! string
spec.source.triggers.tables[].tenant string
spec.source.wal object
spec.source.wal.database object
spec.source.wal.database.url! object
spec.source.wal.database.url.secretKeyRef object
spec.source.wal.database.url.secretKeyRef.key! string
spec.source.wal.database.url.secretKeyRef.name! string
spec.source.wal.database.url.value string
spec.source.wal.failover boolean default=false
spec.source.wal.onSlotLost string enum=["Stop","Recreate"] default=Stop
spec.source.wal.publication string default=observer
spec.source.wal.slot string
spec.source.wal.tables array maxItems=1000
spec.source.wal.tables[] object
spec.source.wal.tables[].contents string enum=["Rows","EntityChanges"] default=Rows
spec.source.wal.tables[].exclude array maxItems=1000
spec.source.wal.tables[].exclude[] string
spec.source.wal.tables[].key array maxItems=32
spec.source.wal.tables[].key[] string
spec.source.wal.tables[].table! string
spec.source.wal.tables[].tenant string
spec.stalledAfter string default=1m
spec.startAt string enum=["Beginning","Now","Backfill"] default=Beginning"#;

#[test]
fn observers_have_these_fields() {
    assert_eq!(outlined(&json!(Observer::crd())), OBSERVER);
}

#[test]
fn listeners_have_these_fields() {
    assert_eq!(outlined(&json!(ObserverListener::crd())), LISTENER);
}

#[test]
fn names_are_those_that_users_type() {
    for (crd, kind, plural, short) in [
        (json!(Observer::crd()), "Observer", "observers", "obs"),
        (
            json!(ObserverListener::crd()),
            "ObserverListener",
            "observerlisteners",
            "ol",
        ),
    ] {
        assert_eq!(crd["spec"]["group"], GROUP);
        assert_eq!(crd["spec"]["scope"], "Namespaced");
        assert_eq!(crd["spec"]["versions"][0]["name"], VERSION);
        let names = &crd["spec"]["names"];
        assert_eq!(names["kind"], kind);
        assert_eq!(names["plural"], plural);
        assert_eq!(names["shortNames"], json!([short]));
    }
}

#[test]
fn a_listener_can_be_scaled() {
    let crd = json!(ObserverListener::crd());
    let scale = &crd["spec"]["versions"][0]["subresources"]["scale"];
    assert_eq!(scale["specReplicasPath"], ".spec.replicas");
    assert_eq!(scale["statusReplicasPath"], ".status.replicas");
}

/// What a structural schema may not have, or what would let null through.
const ODDITIES: [&str; 7] = [
    "anyOf",
    "oneOf",
    "allOf",
    "not",
    "$ref",
    "nullable",
    "x-kubernetes-preserve-unknown-fields",
];

fn check_structure(path: &str, schema: &Value) {
    // What is below a field of the pod template is Kubernetes' own.
    if path.matches('.').count() > 2 && path.contains(".podTemplate.") {
        return;
    }
    for oddity in ODDITIES {
        assert!(schema.get(oddity).is_none(), "{path} has {oddity}");
    }
    assert!(schema["type"].is_string(), "{path} has no single type");
    for (name, part) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let words = part["description"].as_str().unwrap_or_default();
        let own = !path.starts_with("spec.podTemplate.") || path.matches('.').count() == 2;
        assert!(
            !own || words.ends_with('.'),
            "{path} is not explained: {words:?}"
        );
        check_structure(&path, part);
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(part) = schema.get(keyword) {
            check_structure(&format!("{path}.{keyword}"), part);
        }
    }
}

#[test]
fn schemas_are_structural_explained_and_never_null() {
    for crd in [json!(Observer::crd()), json!(ObserverListener::crd())] {
        let schema = schema(&crd);
        assert_ne!(schema["description"], Value::Null);
        check_structure("spec", &schema["properties"]["spec"]);
    }
}

/// Every default and bound in a schema, as its explanation has to give it.
fn stated(part: &Value) -> Vec<String> {
    let mut stated = Vec::new();
    match &part["default"] {
        Value::String(default) => stated.push(default.clone()),
        default @ (Value::Number(_) | Value::Bool(_)) => stated.push(default.to_string()),
        _ => {}
    }
    let is_duration = part["pattern"]
        .as_str()
        .is_some_and(|it| it.contains("ms|s|m|h"));
    for bound in [
        "minimum",
        "maximum",
        "maxItems",
        "maxProperties",
        "maxLength",
    ] {
        if let Some(bound) = part[bound].as_f64().filter(|_| !is_duration) {
            stated.push(bound.to_string());
        }
    }
    stated
}

fn check_explanations(path: &str, schema: &Value) {
    for (name, part) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let words = part["description"].as_str().unwrap_or_default();
        for stated in stated(part) {
            assert!(
                words.contains(&stated),
                "{path} does not say {stated}: {words:?}"
            );
        }
        if path != "spec.podTemplate" {
            check_explanations(&path, part);
        }
    }
    if let Some(items) = schema.get("items") {
        check_explanations(&format!("{path}[]"), items);
    }
}

#[test]
fn explanations_state_defaults_and_bounds() {
    for crd in [json!(Observer::crd()), json!(ObserverListener::crd())] {
        check_explanations("spec", &schema(&crd)["properties"]["spec"]);
    }
}

#[test]
fn exactly_one_is_a_rule_of_the_cluster_too() {
    let crd = json!(Observer::crd());
    let action = &schema(&crd)["properties"]["spec"]["properties"]["actions"]["items"];
    let common = [
        "cache",
        "maxConcurrency",
        "maxConcurrencyTotal",
        "mode",
        "name",
        "ordering",
        "priority",
        "rateLimit",
        "retry",
        "timeout",
        "when",
    ];
    let fields = action["properties"].as_object().unwrap().keys();
    let things: Vec<_> = fields
        .filter(|field| !common.contains(&field.as_str()))
        .collect();
    assert!(things.len() > 1);
    let rule = action["x-kubernetes-validations"][0]["rule"].as_str();
    let (asked, counted) = rule.unwrap().rsplit_once(']').unwrap();
    assert_eq!(counted, ".filter(given, given).size() == 1");
    assert_eq!(asked.matches("has(").count(), things.len());
    for thing in things {
        assert!(asked.contains(&format!("has(self.{thing})")), "{thing}");
    }
    let url = &action["properties"]["webhook"]["properties"]["url"];
    assert_eq!(
        url["x-kubernetes-validations"][0]["rule"],
        "has(self.value) != has(self.secretKeyRef)"
    );
}
