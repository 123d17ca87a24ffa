//! The four witnesses: who may reach whom by the hand-written table, the oracle, the compiled rulesets and real packets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tortie_api::{Kind, Object};
use tortie_datastore::Datastore;
use tortie_datastore::directory::Directory;
use tortie_nft::Family;
use tortie_policy::matrix::{self, Engine, Query};
use tortie_policy::offline::Offline;
use tortie_policy::oracle::{self, End, Question, Traffic};

use super::expected::Expected;
use super::stage::Stage;
use crate::grid;
use crate::ports::Port;
use crate::probe::Pace;
use crate::query::{self, OUTSIDE, Wanted};
use crate::state::State;
use crate::verdict::{Row, Verdict};
use crate::{Error, Lab};

/// From, to, port.
type Pair = (String, String, Port);

fn pair(row: &Row) -> Pair {
    (row.from.clone(), row.to.clone(), Port { protocol: row.protocol, port: row.port })
}

/// Shows the expected and the real matrix after a step, and says where any witness differs.
pub(super) async fn compare(lab: &Lab, stage: &mut Stage, step: &str) -> Result<(), Error> {
    let state = lab.state()?;
    let expected = Expected::after(step);
    lab.say("sending packets between all pods");
    let (ipv4, ipv6) = tokio::try_join!(packets(lab, false), packets(lab, true))?;
    let wanted: Vec<Row> = ipv4
        .iter()
        .map(|row| {
            let (from, to, port) = pair(row);
            Row { verdict: expected.verdict(&from, &to, port), reason: None, ..row.clone() }
        })
        .collect();
    stage.block(&grid::draw_side_by_side(&[("EXPECTED", &wanted), ("REAL PACKETS", &ipv4)], stage.style));

    let verdicts: BTreeMap<Pair, Verdict> = wanted.iter().map(|row| (pair(row), row.verdict)).collect();
    let cluster = cluster(lab).await?;
    let witnesses = [
        ("packets over IPv4", ipv4),
        ("packets over IPv6", ipv6),
        ("the compiled ruleset", offline(&cluster, Engine::Compiled)?),
        ("the evaluator", [offline(&cluster, Engine::Oracle)?, outside(&cluster, &state)?].concat()),
    ];
    let mut differences = 0;
    for (witness, rows) in &witnesses {
        for row in rows {
            let key = pair(row);
            let Some(verdict) = verdicts.get(&key).filter(|verdict| **verdict != row.verdict) else { continue };
            differences += 1;
            // The first ones tell the story; a hundred would hide it.
            if differences <= 10 {
                let reason = row.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
                let (from, to, port) = key;
                stage.fail(&format!(
                    "{from} to {to} on {port}: expected {verdict}, {witness} say {}{reason}",
                    row.verdict
                ));
            }
        }
    }
    let pairs: usize = witnesses.iter().map(|(_, rows)| rows.len()).sum();
    // Who is asked too little proves nothing.
    let pods = state.pods.len();
    if witnesses.iter().any(|(_, rows)| rows.len() < pods * pods) {
        stage.fail("not every pair was asked");
    }
    let result = match differences {
        0 => format!("{pairs} verdicts: IPv4, IPv6, compiled ruleset and evaluator agree with the table"),
        _ => format!("{differences} of {pairs} verdicts differ"),
    };
    stage.end(&result);
    Ok(())
}

/// The matrix by real packets, also from outside.
async fn packets(lab: &Lab, ipv6: bool) -> Result<Vec<Row>, Error> {
    let pods = Wanted { ipv6, ..Wanted::default() };
    let outside = Wanted { from: Some(OUTSIDE.to_owned()), ipv6, ..Wanted::default() };
    let (pods, outside) =
        tokio::try_join!(query::probe(lab, &pods, Pace::default()), query::probe(lab, &outside, Pace::default()))?;
    Ok([outside, pods].concat())
}

/// The cluster as the datastore has it, pods with their addresses.
async fn cluster(lab: &Lab) -> Result<Offline, Error> {
    let failed = |error: tortie_datastore::Error| Error::Failed(error.to_string());
    let datastore = Directory::open(lab.paths().datastore()).map_err(failed)?;
    let mut objects: Vec<Object> = Vec::new();
    for kind in [Kind::Namespace, Kind::Node, Kind::Pod, Kind::NetworkPolicy] {
        objects.extend(datastore.list(kind).await.map_err(failed)?);
    }
    Ok(Offline::new(&objects))
}

fn offline(cluster: &Offline, engine: Engine) -> Result<Vec<Row>, Error> {
    let query = Query { ports: None, family: Family::V4, engine };
    let rows = matrix::matrix(cluster, &query).map_err(|error| Error::Failed(error.to_string()))?;
    let verdict = |verdict| if verdict == matrix::Verdict::Allow { Verdict::Allow } else { Verdict::Deny };
    Ok(rows
        .into_iter()
        .map(|row| Row {
            from: row.from,
            to: row.to,
            protocol: row.protocol,
            port: row.port,
            verdict: verdict(row.verdict),
            reason: None,
        })
        .collect())
}

/// The evaluator's word on the outside world, which is no pod and so in no matrix.
fn outside(cluster: &Offline, state: &State) -> Result<Vec<Row>, Error> {
    let Some(address) = state.outside().into_iter().find(IpAddr::is_ipv4) else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    for pod in &state.pods {
        for port in &pod.ports {
            let question = Question {
                from: End::Address(address),
                to: End::Pod { namespace: pod.namespace.clone(), name: pod.name.clone() },
                traffic: Traffic::to_port(port.protocol, port.port),
                family: Some(Family::V4),
            };
            let decision =
                oracle::verdict(cluster.world(), &question).map_err(|error| Error::Failed(error.to_string()))?;
            rows.push(Row {
                from: OUTSIDE.to_owned(),
                to: pod.full_name(),
                protocol: port.protocol,
                port: port.port,
                verdict: if decision.allowed { Verdict::Allow } else { Verdict::Deny },
                reason: None,
            });
        }
    }
    Ok(rows)
}
