//! How far a listener's history is.

use crds::duration::HumanDuration;
use crds::pod_status::SearchReport;

use super::StatusInput;
use crate::conditions::{ConditionStatus, ConditionValue};

impl StatusInput<'_> {
    /// Reports whether events are missing in the history for longer than they should be; nothing where
    /// there is no history.
    pub(super) fn history_lagging(&self) -> Option<ConditionValue> {
        self.search.then(|| self.history())
    }

    fn history(&self) -> ConditionValue {
        if self.wanted == 0 {
            return ConditionValue::new(ConditionStatus::False, "ScaledToZero", "no pod runs");
        }
        let reports: Vec<_> = self
            .working()
            .filter_map(|report| Some((&report.pod, report.search.as_ref()?)))
            .collect();
        // The pods come in no order, and the message should stay as it is.
        let furthest = |&(pod, search): &(&String, &SearchReport)| {
            (search.lag_seconds, search.message.clone(), pod.clone())
        };
        let gap = reports
            .iter()
            .filter_map(|(_, search)| search.gap_since.clone())
            .max();
        let Some((pod, worst)) = reports.into_iter().max_by_key(furthest) else {
            return ConditionValue::new(
                ConditionStatus::Unknown,
                "NoActivePod",
                "no active pod has told how far the history is",
            );
        };
        if worst.lag_seconds > self.stalled_after.as_secs() {
            return self.lagging(pod, worst);
        }
        match gap {
            Some(at) => ConditionValue::new(
                ConditionStatus::False,
                "HistoryHasGaps",
                format!(
                    "the history is up to date, but lacks events that had left the change log before the search \
                     index could take them, the last ones at {at}"
                ),
            ),
            None => ConditionValue::new(
                ConditionStatus::False,
                "AsExpected",
                "the history is up to date",
            ),
        }
    }

    fn lagging(&self, pod: &str, worst: &SearchReport) -> ConditionValue {
        let long = HumanDuration::from(self.stalled_after);
        let missing = format!(
            "events are missing in the history for more than {long}, and are added later from the change log"
        );
        match &worst.message {
            Some(why) => ConditionValue::new(
                ConditionStatus::True,
                "SearchIndexFailing",
                format!("{missing}; pod {pod}: {why}"),
            ),
            None => ConditionValue::new(ConditionStatus::True, "CatchingUp", missing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Case, change_report};
    use super::*;
    use crate::listener::status::carry_over_numbers;

    fn case(search: impl Into<Option<SearchReport>>) -> Case {
        Case::but(|case| {
            case.search = true;
            change_report(case, |report| report.search = search.into());
        })
    }

    fn report(lag_seconds: u64, message: Option<&str>, gap: Option<&str>) -> SearchReport {
        SearchReport {
            lag_seconds,
            message: message.map(str::to_owned),
            gap_since: gap.map(str::to_owned),
        }
    }

    fn last(case: &Case) -> String {
        let says = case.says();
        says.rsplit(' ').next().unwrap_or_default().to_owned()
    }

    #[test]
    fn history_has_a_condition_where_there_is_one() {
        assert_eq!(Case::well().says().split(' ').count(), 4);
        let with = case(report(0, None, None));
        assert_eq!(with.says().split(' ').count(), 5);
        for (search, says) in [
            (report(60, None, None), "False:AsExpected"),
            // A moment's failure is no lag.
            (report(5, Some("it is away"), None), "False:AsExpected"),
            (report(61, None, None), "True:CatchingUp"),
            (
                report(61, Some("it is away"), Some("2026-01-01T00:00:00Z")),
                "True:SearchIndexFailing",
            ),
            (
                report(0, None, Some("2026-01-01T00:00:00Z")),
                "False:HistoryHasGaps",
            ),
        ] {
            assert_eq!(last(&case(search)), says);
        }
        assert_eq!(last(&case(None)), "Unknown:NoActivePod");
        let mut none = case(report(900, None, None));
        none.wanted = 0;
        assert_eq!(last(&none), "False:ScaledToZero");
    }

    #[test]
    fn history_that_lags_leaves_the_listener_ready() {
        let lagging = case(report(900, Some("it is away"), None));
        let says = "True:Delivering False:UpToDate False:AsExpected False:MakingProgress True:SearchIndexFailing";
        assert_eq!(lagging.says(), says);
        assert_eq!(
            lagging.message("HistoryLagging"),
            "events are missing in the history for more than 1m, and are added later from the change log; \
             pod p1: it is away"
        );
    }

    #[test]
    fn another_lag_alone_writes_no_status() {
        let of = |lag, why| case(report(lag, Some(why), None)).status();
        assert_eq!(of(100, "it is away"), of(200, "it is away"));
        let before = of(100, "it is away since 100 s");
        let mut after = of(200, "it is away since 200 s");
        assert_ne!(after, before);
        carry_over_numbers(&mut after, &before);
        assert_eq!(after, before);
    }
}
