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
                route.via.map_or_else(|| "-".to_owned(), |via| via.to_string()),
                route.device.clone(),
                route.protocol.to_string(),
                route.source.clone(),
                route.state.clone(),
            ];
            (route.node.clone(), cells)
        });
        with_node(answers.many, ["DESTINATION", "VIA", "DEVICE", "PROTOCOL", "SOURCE", "STATE"], rows)
    })?;
    answers.check()
}
