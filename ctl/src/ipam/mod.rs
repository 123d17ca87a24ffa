//! `tortie ipam`: what IPAM keeps, whether it is true, and how to put it right.

mod change;
mod check;
mod show;

use anyhow::Result;

use crate::cli::Ipam;
use crate::output::Output;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, output: Output, command: Ipam) -> Result<()> {
    let store = settings.store().await?;
    match command {
        Ipam::Show { ip, show_blocks, show_borrowed, show_configuration } => {
            let wish =
                show::Wish { ip, blocks: show_blocks, borrowed: show_borrowed, configuration: show_configuration };
            show::run(&store, output, &wish).await
        }
        Ipam::Check { show_all_ips, show_problem_ips } => {
            let detail = check::Detail { all: show_all_ips, problems: show_all_ips || show_problem_ips };
            check::run(&store, output, detail).await
        }
        Ipam::Release(args) => change::release(&store, &args).await,
        Ipam::Configure { strictaffinity, max_blocks_per_host, ip_cooldown_seconds } => {
            let wish = change::Wish {
                strict_affinity: strictaffinity,
                max_blocks: max_blocks_per_host,
                cooldown: ip_cooldown_seconds,
            };
            change::configure(&store, &wish).await
        }
    }
}
