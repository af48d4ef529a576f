//! What all processes did in each minute of the last hour, as small plots.

use maud::{Markup, html};
use serde::Deserialize;

use crate::api::ApiError;
use crate::params::Params;
use crate::value::{duration, number};
use crate::visit::Visit;

/// Height of a plot, in units of its own.
const HEIGHT: u64 = 40;

/// The last hour, as `GET /activity` has it.
#[derive(Debug, Deserialize)]
pub(super) struct Activity {
    /// The oldest minute first.
    items: Vec<Minute>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Minute {
    events: u64,
    delivered: u64,
    failed: u64,
    dead_letters: u64,
    lag_seconds: u64,
}

/// One plot.
struct Plot {
    title: &'static str,
    values: Vec<u64>,
    /// What stands for the hour: a sum, or the latest value.
    figure: String,
    is_bad: bool,
}

impl Activity {
    /// Asks for it; nothing for those who see one tenant alone.
    pub(super) async fn ask(visit: &Visit) -> Result<Option<Self>, ApiError> {
        visit
            .api
            .get_if_allowed("/activity", &Params::default())
            .await
    }

    /// Returns the plots.
    pub(super) fn plots(&self) -> Markup {
        let plots = [
            self.sum("events", false, |minute| minute.events),
            self.sum("deliveries", false, |minute| minute.delivered),
            self.sum("failed attempts", true, |minute| minute.failed),
            self.sum("given up", true, |minute| minute.dead_letters),
            self.lag(),
        ];
        html! {
            h2 { "The last hour" }
            ul.figures { @for plot in &plots { li { (plot.draw()) } } }
            p.hint { "Each bar is a minute; the latest may not be complete. What a process did is forgotten when it ends." }
        }
    }

    /// Returns the values of whole minutes: processes tell once a minute.
    fn values(&self, value: fn(&Minute) -> u64) -> Vec<u64> {
        let whole = self.items.split_last().map_or(&[][..], |(_, whole)| whole);
        whole.iter().map(value).collect()
    }

    fn sum(&self, title: &'static str, is_bad: bool, value: fn(&Minute) -> u64) -> Plot {
        let values = self.values(value);
        let sum = values
            .iter()
            .fold(0, |sum: u64, one| sum.saturating_add(*one));
        Plot {
            title,
            values,
            figure: number(sum),
            is_bad,
        }
    }

    fn lag(&self) -> Plot {
        let values = self.values(|minute| minute.lag_seconds);
        let worst = values.iter().copied().max().unwrap_or_default();
        Plot {
            title: "greatest lag",
            values,
            figure: duration(worst),
            is_bad: false,
        }
    }
}

impl Plot {
    fn draw(&self) -> Markup {
        let most = self.values.iter().copied().max().unwrap_or_default();
        let last = self.values.last().copied().unwrap_or_default();
        let told = format!(
            "{} in each of {} minutes: at most {}, in the last one {}",
            self.title,
            self.values.len(),
            number(most),
            number(last)
        );
        html! {
            b { (self.figure) } (self.title)
            svg.plot role="img" aria-label=(told) viewBox={ "0 0 " (self.values.len()) " " (HEIGHT) } preserveAspectRatio="none" {
                @for (at, height) in self.values.iter().map(|value| height(*value, most)).enumerate() {
                    @if height > 0 {
                        rect.bad[self.is_bad] x=(at) y=(HEIGHT - height) width="0.8" height=(height) {}
                    }
                }
            }
        }
    }
}

/// Returns the height of a bar: any value above 0 is to be seen.
fn height(value: u64, most: u64) -> u64 {
    if value == 0 || most == 0 {
        return 0;
    }
    let part = u128::from(value) * u128::from(HEIGHT) / u128::from(most);
    u64::try_from(part).unwrap_or(HEIGHT).max(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::*;

    #[test]
    fn bars_are_in_proportion_and_never_vanish() {
        let all = [
            (0, 10, 0),
            (10, 10, 40),
            (5, 10, 20),
            (1, u64::MAX, 1),
            (u64::MAX, u64::MAX, 40),
            (0, 0, 0),
        ];
        for (value, most, expected) in all {
            assert_eq!(height(value, most), expected, "{value} of {most}");
        }
    }

    #[test]
    fn plots_have_words_and_exact_sums() {
        let minute = |events: u64, lag: u64| {
            json!({"at": "2026-11-30T22:00:00Z", "events": events, "delivered": 2, "failed": 0, "deadLetters": 1,
                "lagSeconds": lag})
        };
        let activity = json!({"items": [minute(1000, 0), minute(234, 75), minute(9, 900)]});
        let activity: Activity = serde_json::from_value(activity).unwrap();
        let shown = activity.plots().into_string();
        for part in [
            "<b>1,234</b>events",
            "events in each of 2 minutes: at most 1,000, in the last one 234",
            "<b>1 min 15 s</b>greatest lag",
            r#"<rect class="bad" x="0" y="0" width="0.8" height="40">"#,
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }
}
