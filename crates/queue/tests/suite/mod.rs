//! What both backends keep true. Each test is a function of a [`Fixture`](crate::support::Fixture);
//! [`suite`] makes them all into tests of one backend.

pub(crate) mod adversity;
pub(crate) mod commands;
pub(crate) mod fair;
pub(crate) mod lanes;
pub(crate) mod order;
pub(crate) mod workers;

/// All tests of the suite. `$start` gives a fixture on a shared server, `$own` one with a server
/// of its own, which may be stopped.
macro_rules! suite {
    ($start:path, $own:path) => {
        $crate::suite::suite!(@each $start;
            lanes::job_goes_through_the_queue,
            lanes::lane_has_one_batch_at_a_time,
            lanes::retry_blocks_the_rest_of_its_batch,
            lanes::repeated_enqueue_adds_once,
            lanes::claims_are_bounded_in_bytes,
            order::lanes_keep_order_under_failures_and_lease_expiry,
            workers::expired_lease_makes_jobs_available_and_is_recorded,
            workers::results_after_lease_expiry_are_stale,
            workers::heartbeats_keep_claims,
            workers::deregister_releases_without_counting_attempts,
            workers::registering_again_releases_earlier_claims,
            workers::unregistered_worker_claims_nothing,
            workers::scheduled_jobs_become_available_when_due,
            workers::discarded_job_is_written_to_the_sink_once,
            fair::backlog_of_one_observer_does_not_delay_others,
            fair::tenants_are_claimed_round_robin,
            fair::higher_priority_is_claimed_first,
            fair::unknown_actions_are_not_claimed,
            fair::running_limits_hold_under_concurrent_claims,
            commands::pending_jobs_are_cancelled,
            commands::cancelled_running_jobs_are_cut_off,
            commands::retry_makes_scheduled_jobs_due,
            commands::jobs_are_listed_shown_and_counted,
            commands::lanes_with_jobs_are_listed_by_shard,
            commands::completed_jobs_are_kept_for_their_retention,
            commands::listeners_do_not_see_each_others_jobs,
            commands::filter_by_tenant_holds_for_lists_and_commands,
            adversity::broken_connections_lose_nothing,
        );
        $crate::suite::suite!(@each $own;
            adversity::restarted_server_loses_nothing,
        );
    };
    (@each $start:path; $($module:ident::$name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::suite::$module::$name(&$start().await).await;
            }
        )*
    };
}
pub(crate) use suite;
