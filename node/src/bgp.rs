//! The task that runs the speaker as the core wants it, and hands its best paths back.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tortie_admin::types::{BgpPeer, BgpRoute, FamilyCounts};
use tortie_bird_speaker::{Awaited, Config, Handle, PeerStatus, RestartStatus, RibUpdate, RouteView, Speaker};
use tortie_felix::Event;

use crate::owner::OwnerHandle;

/// Starts the speaker with the first configuration and changes it with each further one. `current` shows it to the admin API.
pub(crate) async fn run(
    mut configs: mpsc::UnboundedReceiver<Box<Config>>,
    current: watch::Sender<Option<Handle>>,
    owner: OwnerHandle,
) {
    while let Some(config) = configs.recv().await {
        let running = current.borrow().clone();
        if let Some(handle) = running {
            handle.configure(*config).await;
        } else {
            let (handle, updates) = Speaker::spawn(*config);
            current.send_replace(Some(handle));
            tokio::spawn(forward(updates, owner.clone()));
        }
        owner.event(Event::BgpConfigured(Ok(()))).await;
    }
}

async fn forward(mut updates: mpsc::Receiver<RibUpdate>, owner: OwnerHandle) {
    while let Some(update) = updates.recv().await {
        owner.event(Event::Rib(update)).await;
    }
}

pub(crate) fn peer(node: &str, status: PeerStatus) -> BgpPeer {
    let families = status.families.into_iter().map(|(family, counts)| {
        let counts =
            FamilyCounts { received: counts.received, accepted: counts.accepted, advertised: counts.advertised };
        (family, counts)
    });
    BgpPeer {
        node: node.to_owned(),
        peer: status.address,
        peer_name: Some(status.name),
        as_number: status.remote_as,
        kind: status.kind.to_string(),
        state: status.state.to_string(),
        since: rfc3339(status.since),
        families: families.collect(),
        last_error: status.last_error,
    }
}

/// What a restart waits for, in a sentence.
pub(crate) fn restart(status: &RestartStatus) -> String {
    let count = status.waiting.len();
    let mut peers: Vec<String> = status.waiting.iter().take(10).map(|(name, awaited)| awaits(name, *awaited)).collect();
    if count > peers.len() {
        peers.push(format!("{} more", count - peers.len()));
    }
    let (peers, seconds) = (peers.join(", "), status.remaining.as_secs());
    match status.unconfirmed {
        0 => format!("BGP has restarted and waits for {peers}: at most {seconds} s more"),
        routes => format!(
            "BGP has restarted and waits for {peers}: at most {seconds} s more, then routes of the earlier run go that nobody has \
             confirmed ({routes} now)"
        ),
    }
}

fn awaits(name: &str, awaited: Awaited) -> String {
    match awaited {
        Awaited::Expected => format!("{name} (no session yet)"),
        Awaited::Absent => format!("{name} (absent)"),
        Awaited::Telling => name.to_owned(),
    }
}

pub(crate) fn route(node: &str, view: RouteView) -> BgpRoute {
    BgpRoute {
        node: node.to_owned(),
        prefix: view.prefix,
        next_hop: view.next_hop,
        from: view.from,
        as_path: view.as_path,
        local_pref: view.local_pref,
        med: view.med,
        communities: view.communities,
        best: view.best,
        reason: view.reason,
    }
}

/// A time as RFC 3339 writes it, in UTC and whole seconds.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The date that is `days` after 1970-01-01, in the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    // Years that begin in March have the leap day at their end, so a month's length depends on its number alone: 31, 30, 31, 30, 31,
    // and again. 719,468 days lie between 0000-03-01 and 1970-01-01; 400 years have 146,097.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_restart_names_whom_it_waits_for() {
        let waiting = |count| (0..count).map(|number| (format!("n{number}"), Awaited::Absent)).collect();
        let remaining = Duration::from_millis(42_900);
        let text = restart(&RestartStatus { waiting: waiting(1), unconfirmed: 2, remaining });
        assert_eq!(
            text,
            "BGP has restarted and waits for n0 (absent): at most 42 s more, then routes of the earlier run go that nobody has confirmed \
             (2 now)"
        );
        let text = restart(&RestartStatus { waiting: waiting(12), unconfirmed: 0, remaining });
        assert!(text.contains("n9 (absent), 2 more: at most 42 s more") && !text.contains("n10"), "{text}");
    }

    #[test]
    fn times_are_written_as_rfc_3339_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
