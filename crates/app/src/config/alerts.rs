//! What the file says of alerts, of the hours in which a workstation is expected, and of the outside dead-man.

use std::net::SocketAddr;
use std::time::Duration;

use evergrant_core::address::is_loopback;
use evergrant_core::alert::{Links, Reminding};
use evergrant_core::health::{Expected, Hours};
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use url::Url;

use super::fault::Fault;
use super::file::{Chain, Config, Day};
use super::resolve::Resolve;
use super::settings::AlertSettings;

/// `listen`: where the server is reached if nothing else is said.
pub(crate) fn settings(raw: &Config, listen: SocketAddr, resolve: &mut Resolve<'_>) -> Option<AlertSettings> {
    let scheme = if raw.http.tls_cert.is_some() { "https" } else { "http" };
    let of = |field: &str, text: &Option<String>, resolve: &mut Resolve<'_>| match text {
        None => Some(None),
        Some(text) => web_address(text, &["alerts", field], resolve).map(Some),
    };
    let public = of("public_url", &raw.alerts.public_url, resolve)?;
    let runbook = of("runbook_url", &raw.alerts.runbook_url, resolve)?;
    let server = public.map_or_else(|| format!("{scheme}://{listen}"), |url| trimmed(&url));
    let runbook = runbook.map_or_else(|| format!("{server}/runbook"), |url| trimmed(&url));
    let reminding = Reminding { after: Duration::from_secs(raw.alerts.remind_after_secs) };
    Some(AlertSettings { links: Links { runbook, server }, reminding })
}

fn trimmed(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

/// The outer `None`: it is faulty. The inner one: there is none.
pub(crate) fn watchdog(raw: &Config, resolve: &mut Resolve<'_>) -> Option<Option<(Url, Duration)>> {
    let Some(text) = &raw.watchdog.ping_url else { return Some(None) };
    let keys = ["watchdog", "ping_url"];
    let url = web_address(text, &keys, resolve)?;
    if url.scheme() != "https" && !is_loopback(&url) {
        let fault = Fault::error("ping_url must begin with https://");
        resolve.fault(&keys, fault.help("plain http is only for addresses of this machine"));
        return None;
    }
    Some(Some((url, Duration::from_secs(raw.watchdog.every_secs))))
}

fn web_address(text: &str, keys: &[&str], resolve: &mut Resolve<'_>) -> Option<Url> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if url.is_none() {
        let field = keys.last().copied().unwrap_or_default();
        let fault = Fault::error(format!("{field} must be a web address, not {text:?}"));
        resolve.fault(keys, fault.help("for example \"https://evergrant.example.com\""));
    }
    url
}

/// When push events of a chain are expected.
pub(crate) fn expected(name: &str, chain: &Chain, resolve: &mut Resolve<'_>) -> Option<Expected> {
    let Some(hours) = &chain.expected else { return Some(Expected::Always) };
    let keys = |field: &'static str| ["chains", name, "expected", field];
    let from = clock("from", &hours.from, &keys("from"), resolve);
    let until = clock("until", &hours.until, &keys("until"), resolve);
    let zone = TimeZone::get(&hours.time_zone);
    if zone.is_err() {
        let message = format!("time_zone {:?} is not known", hours.time_zone);
        let help = "use a name of the IANA database such as \"Europe/Berlin\", or \"UTC\"";
        resolve.fault(&keys("time_zone"), Fault::error(message).help(help));
    }
    let days = hours.days.iter().map(|day| weekday(*day)).collect();
    match Hours::new(days, from?, until?, zone.ok()?) {
        Ok(hours) => Some(Expected::Hours(hours)),
        Err(error) => {
            resolve.fault(&["chains", name, "expected"], Fault::error(error.to_string()));
            None
        }
    }
}

fn clock(field: &str, text: &str, keys: &[&str], resolve: &mut Resolve<'_>) -> Option<Time> {
    let time = Time::strptime("%H:%M", text).ok();
    if time.is_none() {
        let fault = Fault::error(format!("{field} must be a time of day, not {text:?}"));
        resolve.fault(keys, fault.help("for example \"09:00\""));
    }
    time
}

fn weekday(day: Day) -> Weekday {
    match day {
        Day::Mon => Weekday::Monday,
        Day::Tue => Weekday::Tuesday,
        Day::Wed => Weekday::Wednesday,
        Day::Thu => Weekday::Thursday,
        Day::Fri => Weekday::Friday,
        Day::Sat => Weekday::Saturday,
        Day::Sun => Weekday::Sunday,
    }
}
