//! The Job that removes the rows of a deleted listener. The operator itself connects to no database, so
//! the Job runs where the listener ran, with its service account, limits and placement.

use std::time::Duration;

use crds::bundle::LISTENER_KEY;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, KeyToPath, PodSpec, PodTemplateSpec, SecretVolumeSource, Volume, VolumeMount,
};

use super::pod::{self, plain};
use super::{COMPONENT, ListenerResources, MANAGED_BY, PodRole, cleanup_job_name};

/// Deadline of the Job, including image pulls and all attempts.
pub const DEADLINE: Duration = Duration::from_mins(2);

/// Attempts after the first. Kubernetes waits ten seconds before the second and doubles that.
const RETRIES: i32 = 2;

/// Value of [`COMPONENT`].
const CLEANUP: &str = "removal";

/// Where the bundle is.
const FOLDER: &str = "/observers";

/// Builds the Job.
#[must_use]
pub fn build(resources: &ListenerResources) -> Job {
    Job {
        metadata: resources.metadata(cleanup_job_name(&resources.name)),
        spec: Some(JobSpec {
            active_deadline_seconds: i64::try_from(DEADLINE.as_secs()).ok(),
            backoff_limit: Some(RETRIES),
            template: pod(resources),
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// Builds its pod. It has the labels by which users let the listener's pods reach the database, but not
/// the operator's own, so the operator does not take it for one of them.
fn pod(resources: &ListenerResources) -> PodTemplateSpec {
    let mut labels = resources.template.labels.clone();
    labels.remove(MANAGED_BY);
    labels.extend(resources.selector_labels(PodRole::Listener));
    labels.insert(COMPONENT.to_owned(), CLEANUP.to_owned());
    let spec = PodSpec {
        // It asks the API server nothing.
        automount_service_account_token: Some(false),
        restart_policy: Some("Never".to_owned()),
        volumes: Some(vec![Volume {
            name: "bundle".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(resources.bundle_name()),
                // No more of it than it needs: not what the observers refer to.
                items: Some(vec![KeyToPath {
                    key: LISTENER_KEY.to_owned(),
                    path: LISTENER_KEY.to_owned(),
                    mode: None,
                }]),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        }]),
        ..pod::spec(resources, container(resources))
    };
    pod::template(resources, labels, spec)
}

fn container(resources: &ListenerResources) -> Container {
    let file = format!("{FOLDER}/{LISTENER_KEY}");
    let command = ["drop-listener", "--yes", "--gone", "--file", &file];
    Container {
        volume_mounts: Some(vec![VolumeMount {
            name: "bundle".to_owned(),
            mount_path: FOLDER.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }]),
        // What it said last is why it failed.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..pod::container(
            resources,
            "drop-listener",
            &command,
            vec![plain("OBSERVER_LOG_FORMAT", "json")],
        )
    }
}
