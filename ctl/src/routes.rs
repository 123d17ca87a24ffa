//! `tortie routes`: what each node wants in its FIB, and what is there.

use anyhow::Result;
use tortie_admin::types::Route;

use crate::ask::{self, with_node};
use crate::output::Output;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, output: Output) -> Result<()> {
    let answers = ask::all::<Vec<Route>>(settings, "/v1/routes").await?;
    let routes: Vec<&Route> = answers.rows.iter().flatten().collect();
    output.print(&routes, |_| {
        let rows = routes.iter().map(|route| {
            let cells = [
                route.destination.to_string(),
                via(route),
                device(route),
                route.protocol.to_string(),
                route.source.clone(),
                route.state.clone(),
                route.reason.clone().unwrap_or_default(),
            ];
            (route.node.clone(), cells)
        });
        with_node(answers.many, ["DESTINATION", "VIA", "DEVICE", "PROTOCOL", "SOURCE", "STATE", "REASON"], rows)
    })?;
    answers.check()
}

/// The gateways, one or several.
fn via(route: &Route) -> String {
    let several: Vec<String> = route.next_hops.iter().map(|hop| hop.via.to_string()).collect();
    match (several.is_empty(), route.via) {
        (false, _) => several.join(","),
        (true, Some(via)) => via.to_string(),
        (true, None) => "-".to_owned(),
    }
}

/// Their devices, each once.
fn device(route: &Route) -> String {
    let mut several: Vec<&str> = route.next_hops.iter().map(|hop| hop.device.as_str()).collect();
    several.sort_unstable();
    several.dedup();
    if several.is_empty() { route.device.clone() } else { several.join(",") }
}
