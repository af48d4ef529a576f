//! What every backend keeps true. Each test is a function of a [`Fixture`](crate::support::Fixture);
//! [`suite`] makes them all into tests of one backend.

pub(crate) mod concurrent;
pub(crate) mod corpus;
pub(crate) mod documents;
pub(crate) mod facets;
pub(crate) mod filters;
pub(crate) mod highlights;
pub(crate) mod paging;
pub(crate) mod queries;
pub(crate) mod tenants;

/// All tests of the suite: `suite!(start)` makes each a test, whose fixture `start` gives;
/// `suite!(run fixture)` runs them here one after the other, for servers that are slow to start.
macro_rules! suite {
    ($start:path) => {
        $crate::suite::suite!(@list each $start;);
    };
    (run $fixture:ident) => {
        $crate::suite::suite!(@list run $fixture;);
    };
    (@list $how:ident $start:path;) => {
        $crate::suite::suite!(@$how $start;
            documents::document_is_found_and_read_as_it_was_written,
            documents::writing_again_adds_and_never_goes_back,
            documents::document_that_cannot_be_stored_is_rejected_alone,
            documents::unfinished_documents_are_listed_oldest_first,
            documents::expired_documents_are_removed,
            documents::listener_is_removed_and_no_other,
            documents::large_documents_are_bounded_in_a_page,
            concurrent::pieces_of_many_writers_are_merged,
            queries::table_of_queries_finds_the_expected_documents,
            queries::invalid_queries_are_refused_with_their_position,
            queries::words_and_values_beyond_the_bounds_do_no_harm,
            queries::any_text_is_searched_or_refused,
            filters::each_filter_finds_its_documents,
            filters::observer_action_and_state_are_of_one_delivery,
            tenants::tenants_see_their_own_documents_whatever_they_ask_for,
            paging::pages_of_equal_times_are_complete_in_both_orders,
            facets::facets_are_counted_exactly,
            facets::intervals_follow_the_times_asked_for,
            highlights::highlights_show_where_the_text_is_found,
        );
    };
    (@run $fixture:path; $($module:ident::$name:ident,)*) => {
        $(
            println!("{}", stringify!($name));
            $crate::suite::$module::$name(&$fixture).await;
        )*
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
