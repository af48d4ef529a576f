//! What both backends keep true. Each test is a function of a [`Fixture`](crate::support::Fixture);
//! [`suite`] makes them all into tests of one backend.

pub(crate) mod lanes;
pub(crate) mod order;

/// All tests of the suite. `$start` gives a fixture on a shared server, `$own` one with a server
/// of its own, which may be stopped.
macro_rules! suite {
    ($start:path, $own:path) => {
        $crate::suite::suite!(@each $start;
            lanes::a_job_goes_in_and_out,
            lanes::a_lane_has_one_run_at_a_time,
            lanes::a_run_ends_where_one_is_to_be_attempted_again,
            order::order_is_kept_by_many_workers_with_failures_and_takeovers,
        );
        $crate::suite::suite!(@each $own;
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
