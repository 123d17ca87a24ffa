//! `tortie bgp peers` and `tortie bgp routes`.

use anyhow::{Result, anyhow};
use ipnet::IpNet;
use tortie_admin::types::{BgpPeer, BgpRoute};

use crate::ask::{self, with_node};
use crate::cli::Bgp;
use crate::output::{self, Output};
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, output: Output, command: Bgp) -> Result<()> {
    match command {
        Bgp::Peers => peers(settings, output).await,
        Bgp::Routes { why } => routes(settings, output, why.as_deref()).await,
    }
}

async fn peers(settings: &Settings, output: Output) -> Result<()> {
    let answers = ask::all::<Vec<BgpPeer>>(settings, "/v1/bgp/peers").await?;
    let peers: Vec<&BgpPeer> = answers.rows.iter().flatten().collect();
    output.print(&peers, |output| {
        let count = |peer: &BgpPeer, family: &str| {
            peer.families.get(family).map_or_else(String::new, |counts| {
                format!("{}/{}/{}", counts.received, counts.accepted, counts.advertised)
            })
        };
        if output.wide() {
            let header =
                ["PEER", "NAME", "AS", "TYPE", "STATE", "SINCE", "IPV4 RCV/ACC/ADV", "IPV6 RCV/ACC/ADV", "LAST ERROR"];
            let rows = peers.iter().map(|peer| {
                let [address, asn, kind, state, since] = common(peer);
                let name = peer.peer_name.clone().unwrap_or_default();
                let (ipv4, ipv6) = (count(peer, "ipv4"), count(peer, "ipv6"));
                (peer.node.clone(), [address, name, asn, kind, state, since, ipv4, ipv6, peer.last_error.clone()])
            });
            return with_node(answers.many, header, rows);
        }
        let rows = peers.iter().map(|peer| (peer.node.clone(), common(peer)));
        with_node(answers.many, ["PEER", "AS", "TYPE", "STATE", "SINCE"], rows)
    })?;
    answers.check()
}

fn common(peer: &BgpPeer) -> [String; 5] {
    [peer.peer.to_string(), peer.as_number.to_string(), peer.kind.clone(), peer.state.clone(), peer.since.clone()]
}

async fn routes(settings: &Settings, output: Output, why: Option<&str>) -> Result<()> {
    let about = why.map(prefix).transpose()?;
    let answers = ask::all::<Vec<BgpRoute>>(settings, "/v1/bgp/routes").await?;
    let routes: Vec<&BgpRoute> =
        answers.rows.iter().flatten().filter(|route| about.is_none_or(|about| route.prefix.contains(&about))).collect();
    output.print(&routes, |output| {
        let base = |route: &BgpRoute| {
            [
                route.prefix.to_string(),
                route.next_hop.map_or_else(|| "-".to_owned(), |hop| hop.to_string()),
                route.from.clone(),
                if route.best { "*" } else { "" }.to_owned(),
            ]
        };
        if about.is_none() && !output.wide() {
            let rows = routes.iter().map(|route| (route.node.clone(), base(route)));
            return with_node(answers.many, ["PREFIX", "NEXT HOP", "FROM", "BEST"], rows);
        }
        let header = ["PREFIX", "NEXT HOP", "FROM", "BEST", "AS PATH", "PREF", "MED", "COMMUNITIES", "REASON"];
        let rows = routes.iter().map(|route| {
            let [prefix, hop, from, best] = base(route);
            let path: Vec<String> = route.as_path.iter().map(ToString::to_string).collect();
            let number = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
            let (pref, med) = (number(route.local_pref), number(route.med));
            let cells =
                [prefix, hop, from, best, path.join(" "), pref, med, route.communities.join(" "), route.reason.clone()];
            (route.node.clone(), cells)
        });
        with_node(answers.many, header, rows)
    })?;
    if let Some(about) = about
        && routes.is_empty()
    {
        output::note(&format!("tortie: no path covers {about}"));
    }
    answers.check()
}

/// Reads a prefix, or an address as a prefix of its own.
fn prefix(text: &str) -> Result<IpNet> {
    let address = || text.parse::<std::net::IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>()
        .ok()
        .map(|net| net.trunc())
        .or_else(address)
        .ok_or_else(|| anyhow!("--why {text:?} is no prefix and no address: write 10.244.0.0/26 or 10.244.0.1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_addresses() {
        assert_eq!(prefix("10.244.0.7").unwrap().to_string(), "10.244.0.7/32");
        assert_eq!(prefix("10.244.0.7/26").unwrap().to_string(), "10.244.0.0/26");
        assert_eq!(prefix("fd00::1").unwrap().to_string(), "fd00::1/128");
        assert!(prefix("10.244").is_err());
    }
}
