//! The dead-man: how long a workstation has been silent, counted only while a server listened and something was
//! expected (SPEC §6).

use std::time::Duration;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// From an instant until another, which does not belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// Its beginning.
    pub from: Timestamp,
    /// Its end.
    pub until: Timestamp,
}

impl Span {
    fn within(self, other: Self) -> Option<Self> {
        let cut = Self { from: self.from.max(other.from), until: self.until.min(other.until) };
        (cut.from < cut.until).then_some(cut)
    }

    fn lasts(self) -> Duration {
        Duration::try_from(self.until.duration_since(self.from)).unwrap_or_default()
    }

    /// What of it lies outside `other`.
    fn without(self, other: Self) -> impl Iterator<Item = Self> {
        let before = Self { from: self.from, until: self.until.min(other.from) };
        let after = Self { from: self.from.max(other.until), until: self.until };
        let apart = if other.from < other.until {
            [before, after]
        } else {
            [self, Self { until: self.from, ..self }]
        };
        apart.into_iter().filter(|span| span.from < span.until)
    }
}

/// When push events are expected.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Expected {
    /// Day and night.
    #[default]
    Always,
    /// At some hours of some days.
    Hours(Hours),
}

/// Hours of days, by the clock of a place.
#[derive(Debug, Clone, PartialEq)]
pub struct Hours {
    days: Vec<Weekday>,
    from: Time,
    until: Time,
    zone: TimeZone,
}

/// No hours at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotHours {
    /// No day is named.
    #[error("name at least one day")]
    NoDay,
    /// They end before they begin.
    #[error("the hours have to begin before they end, on the same day")]
    Backwards,
}

impl Hours {
    /// Of at least one day; `from` is before `until`.
    pub fn new(days: Vec<Weekday>, from: Time, until: Time, zone: TimeZone) -> Result<Self, NotHours> {
        if days.is_empty() {
            return Err(NotHours::NoDay);
        }
        if from >= until {
            return Err(NotHours::Backwards);
        }
        Ok(Self { days, from, until, zone })
    }

    /// The expected spans that touch `span`, in order. Where a day skips an hour, they are shorter.
    fn spans(&self, span: Span) -> impl Iterator<Item = Span> {
        let date = |at: Timestamp| at.to_zoned_datetime(self.zone.clone()).date();
        let (mut day, last) = (Some(date(span.from)), date(span.until));
        let days = std::iter::from_fn(move || {
            let today: Date = day.filter(|day| *day <= last)?;
            day = today.tomorrow().ok();
            Some(today)
        });
        days.filter(|day| self.days.contains(&day.weekday())).filter_map(move |day| {
            let at = |time| {
                day.to_datetime(time).to_zoned_datetime(self.zone.clone()).ok().map(|zoned| zoned.timestamp())
            };
            Span { from: at(self.from)?, until: at(self.until)? }.within(span)
        })
    }
}

/// How long nothing was heard since `heard`, of the time in which a server listened, something was expected and no
/// absence was announced. `listened` is in order and apart.
pub fn silence(
    heard: Timestamp,
    listened: &[Span],
    absences: &[Span],
    expected: &Expected,
    now: Timestamp,
) -> Duration {
    let quiet = Span { from: heard, until: now };
    let mut spans: Vec<_> = listened.iter().filter_map(|span| span.within(quiet)).collect();
    for absence in absences {
        spans = spans.into_iter().flat_map(|span| span.without(*absence)).collect();
    }
    match expected {
        Expected::Always => spans.into_iter().map(Span::lasts).sum(),
        // Longer than a week is silent, or nothing of a week is expected.
        Expected::Hours(hours) => {
            let since = now.checked_sub(SignedDuration::from_hours(24 * 15)).unwrap_or(heard);
            let lately = Span { from: since.max(heard), until: now };
            let lately = spans.into_iter().filter_map(|span| span.within(lately));
            lately.flat_map(|span| hours.spans(span).collect::<Vec<_>>()).map(Span::lasts).sum()
        }
    }
}
