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
            lanes::a_job_goes_in_and_out,
            lanes::a_lane_has_one_run_at_a_time,
            lanes::a_run_ends_where_one_is_to_be_attempted_again,
            lanes::a_save_that_is_made_again_adds_once,
            lanes::claims_stop_at_their_bytes,
            order::order_is_kept_by_many_workers_with_failures_and_takeovers,
            workers::a_dead_workers_jobs_come_again_and_tell_of_it,
            workers::a_worker_that_stood_still_is_refused,
            workers::signs_of_life_keep_what_is_held,
            workers::leave_gives_back_without_counting,
            workers::registering_again_forgets_what_was_held,
            workers::who_is_not_registered_gets_nothing,
            workers::what_is_delayed_comes_when_it_is_due,
            workers::what_is_given_up_is_buried_once,
            fair::one_observers_many_jobs_do_not_delay_anothers,
            fair::tenants_take_turns,
            fair::the_important_comes_first,
            fair::unknown_actions_are_left_alone,
            fair::limits_hold_under_many_that_claim_at_once,
            commands::pending_jobs_are_cancelled,
            commands::running_jobs_are_cut_off,
            commands::retry_makes_delayed_jobs_due,
            commands::jobs_are_listed_shown_and_counted,
            commands::lanes_with_jobs_are_named_by_shard,
            commands::finished_jobs_are_kept_for_a_while,
            commands::listeners_do_not_see_each_others_jobs,
            adversity::broken_connections_lose_nothing,
        );
        $crate::suite::suite!(@each $own;
            adversity::a_restarted_server_loses_nothing,
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
