//! The IPPools of a cluster that has none, as the environment asks for them: by Calico's variables.
//!
//! | variable | default |
//! |---|---|
//! | `NO_DEFAULT_POOLS` | `false` |
//! | `CALICO_IPV4POOL_CIDR`, `CALICO_IPV6POOL_CIDR` | `10.244.0.0/16`, `fd00:10:244::/48`; of the families that nodes have |
//! | `CALICO_IPV4POOL_BLOCK_SIZE`, `CALICO_IPV6POOL_BLOCK_SIZE` | 26, 122 |
//! | `CALICO_IPV4POOL_IPIP`, `CALICO_IPV4POOL_VXLAN`, `CALICO_IPV6POOL_VXLAN` | `Never` |
//! | `CALICO_IPV4POOL_NAT_OUTGOING`, `CALICO_IPV6POOL_NAT_OUTGOING` | `true`, `false` |
//! | `CALICO_IPV4POOL_NODE_SELECTOR`, `CALICO_IPV6POOL_NODE_SELECTOR` | `all()` |

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tortie_api::k8s::Node;
use tortie_api::{Decoded, Kind, Object, decode};
use tortie_datastore::{Datastore, Error};

/// What is made of a family.
#[derive(Debug, Clone)]
struct Family {
    pool: Object,
    /// Whether the range was asked for, so that it is made whatever addresses nodes have.
    asked: bool,
    ipv4: bool,
}

/// The default pools.
#[derive(Debug, Clone)]
pub(crate) struct DefaultPools(Vec<Family>);

impl DefaultPools {
    /// What the variables say. `unasked` is whether pools are made of which no range was asked for.
    ///
    /// # Errors
    /// When a variable says what cannot be.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>, unasked: bool) -> Result<Self> {
        let variable =
            |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        if truth(&variable, "NO_DEFAULT_POOLS", false)? {
            return Ok(Self(Vec::new()));
        }
        let families = [
            family(&variable, true, ("default-ipv4-ippool", "10.244.0.0/16", 26))?,
            family(&variable, false, ("default-ipv6-ippool", "fd00:10:244::/48", 122))?,
        ];
        Ok(Self(families.into_iter().filter(|family| family.asked || unasked).collect()))
    }

    /// The pools to make: none where there is one already.
    pub(crate) async fn missing(&self, datastore: &dyn Datastore) -> Result<Vec<Object>, Error> {
        if self.0.is_empty() || !datastore.list(Kind::IpPool).await?.is_empty() {
            return Ok(Vec::new());
        }
        let mut has = [false, false];
        datastore
            .visit(Kind::Node, &mut |object| {
                if let Object::Node(node) = object {
                    for (has, ipv4) in has.iter_mut().zip([true, false]) {
                        *has |= has_address(&node, ipv4);
                    }
                }
            })
            .await?;
        // Where nodes say nothing of themselves (yet), IPv4 is the better guess.
        let has = if has == [false, false] { [true, false] } else { has };
        let wanted = self.0.iter().filter(|family| family.asked || has[usize::from(!family.ipv4)]);
        Ok(wanted.map(|family| family.pool.clone()).collect())
    }
}

fn has_address(node: &Node, ipv4: bool) -> bool {
    node.internal_ips().iter().any(|ip| ip.is_ipv4() == ipv4)
}

fn family(
    variable: &impl Fn(&str) -> Option<String>,
    ipv4: bool,
    (name, cidr, block): (&str, &str, u8),
) -> Result<Family> {
    let number = if ipv4 { 4 } else { 6 };
    let named = |what: &str| format!("CALICO_IPV{number}POOL_{what}");
    let asked = variable(&named("CIDR"));
    let size = match variable(&named("BLOCK_SIZE")) {
        None => block,
        Some(text) => text.parse().with_context(|| {
            format!("{} is {text:?}: it must be the length of a block's prefix, such as {block}", named("BLOCK_SIZE"))
        })?,
    };
    let mut spec = json!({
        "cidr": asked.as_deref().unwrap_or(cidr),
        "blockSize": size,
        "vxlanMode": mode(variable, &named("VXLAN"))?,
        "natOutgoing": truth(variable, &named("NAT_OUTGOING"), ipv4)?,
        "nodeSelector": variable(&named("NODE_SELECTOR")).unwrap_or_else(|| "all()".to_owned()),
    });
    if ipv4 {
        spec["ipipMode"] = mode(variable, &named("IPIP"))?.into();
    }
    let manifest = json!({"apiVersion": Kind::IpPool.api_version(), "kind": Kind::IpPool.manifest_kind(),
        "metadata": {"name": name}, "spec": spec});
    Ok(Family { pool: pool(&manifest, &named(""))?, asked: asked.is_some(), ipv4 })
}

/// The pool, if the variables make a valid one.
fn pool(manifest: &Value, prefix: &str) -> Result<Object> {
    match decode(manifest) {
        Ok(Decoded::Object(object)) => {
            if let Object::IpPool(pool) = &*object
                && pool.spec.cidr.addr().is_ipv4() != prefix.contains("IPV4")
            {
                bail!("{prefix}CIDR is {}, a range of the other family", pool.spec.cidr);
            }
            Ok(*object)
        }
        Ok(other) => bail!("the default pool is {other:?}"),
        Err(errors) => {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            bail!("the variables {prefix}* make no valid IPPool: {}", errors.join("; "))
        }
    }
}

/// Reads when to encapsulate, in any case, as Calico does.
fn mode(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Result<&'static str> {
    let Some(text) = variable(name) else { return Ok("Never") };
    match text.to_lowercase().as_str() {
        "never" | "off" => Ok("Never"),
        "always" => Ok("Always"),
        "crosssubnet" | "cross-subnet" => Ok("CrossSubnet"),
        _ => bail!("{name} is {text:?}: use Never, Always or CrossSubnet"),
    }
}

fn truth(variable: &impl Fn(&str) -> Option<String>, name: &str, default: bool) -> Result<bool> {
    let Some(text) = variable(name) else { return Ok(default) };
    match text.to_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => bail!("{name} is {text:?}: use true or false"),
    }
}

#[cfg(test)]
mod tests {
    use tortie_datastore::directory::Directory;

    use super::*;

    fn read(variables: &[(&str, &str)], unasked: bool) -> Result<DefaultPools> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        DefaultPools::read(find, unasked)
    }

    async fn missing(variables: &[(&str, &str)], unasked: bool, manifests: &[Value]) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        for (number, manifest) in manifests.iter().enumerate() {
            std::fs::write(folder.path().join(format!("{number}.json")), manifest.to_string()).expect("written");
        }
        let directory = Directory::open(folder.path()).expect("a directory");
        let pools = read(variables, unasked).expect("sound").missing(&directory).await.expect("read");
        pools
            .iter()
            .map(|object| match object {
                Object::IpPool(pool) => format!("{} {}", pool.metadata.name, pool.spec.cidr),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn node(ips: &[&str]) -> Value {
        let addresses: Vec<Value> = ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {"addresses": addresses}})
    }

    #[tokio::test]
    async fn pools_are_made_of_the_families_that_nodes_have() {
        let [four, six] = ["default-ipv4-ippool 10.244.0.0/16", "default-ipv6-ippool fd00:10:244::/48"];
        assert_eq!(missing(&[], true, &[]).await, [four]);
        assert_eq!(missing(&[], true, &[node(&["172.31.0.2"])]).await, [four]);
        assert_eq!(missing(&[], true, &[node(&["172.31.0.2", "fd00::2"])]).await, [four, six]);
        assert_eq!(missing(&[], true, &[node(&["fd00::2"])]).await, [six]);
        let asked = [("CALICO_IPV6POOL_CIDR", "fd01::/64")];
        assert_eq!(missing(&asked, true, &[node(&["172.31.0.2"])]).await, [four, "default-ipv6-ippool fd01::/64"]);
        // Where there are implicit ones, only what was asked for.
        assert!(missing(&[], false, &[node(&["172.31.0.2"])]).await.is_empty());
        assert_eq!(missing(&asked, false, &[]).await, ["default-ipv6-ippool fd01::/64"]);
        assert!(missing(&[("NO_DEFAULT_POOLS", "true")], true, &[]).await.is_empty());
        let pool = json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "p"},
            "spec": {"cidr": "10.1.0.0/16", "disabled": true}});
        assert!(missing(&asked, true, &[pool]).await.is_empty(), "not a single one, disabled or not");
    }

    #[test]
    fn variables_are_calicos() {
        let pools = read(
            &[
                ("CALICO_IPV4POOL_CIDR", " 192.168.0.0/16 "),
                ("CALICO_IPV4POOL_BLOCK_SIZE", "24"),
                ("CALICO_IPV4POOL_NAT_OUTGOING", "false"),
                ("CALICO_IPV4POOL_IPIP", "never"),
                ("CALICO_IPV4POOL_NODE_SELECTOR", "has(pods)"),
                ("CALICO_IPV6POOL_VXLAN", ""),
            ],
            true,
        )
        .expect("sound");
        let Object::IpPool(four) = &pools.0[0].pool else { panic!() };
        assert_eq!((four.spec.cidr.to_string().as_str(), four.spec.block_size), ("192.168.0.0/16", Some(24)));
        assert_eq!((four.spec.nat_outgoing, four.spec.node_selector.as_deref()), (false, Some("has(pods)")));
        let Object::IpPool(six) = &pools.0[1].pool else { panic!() };
        assert_eq!((six.spec.nat_outgoing, six.spec.block_size), (false, Some(122)));
    }

    #[test]
    fn mistakes_name_the_variable() {
        for (variable, value, want) in [
            ("CALICO_IPV4POOL_CIDR", "10.0.0/8", "CALICO_IPV4POOL_"),
            ("CALICO_IPV4POOL_CIDR", "fd00::/64", "CALICO_IPV4POOL_CIDR is fd00::/64, a range of the other family"),
            ("CALICO_IPV4POOL_BLOCK_SIZE", "big", "CALICO_IPV4POOL_BLOCK_SIZE is \"big\""),
            ("CALICO_IPV6POOL_BLOCK_SIZE", "64", "spec.blockSize"),
            ("CALICO_IPV4POOL_VXLAN", "sometimes", "use Never, Always or CrossSubnet"),
            ("NO_DEFAULT_POOLS", "maybe", "use true or false"),
        ] {
            let mut variables = vec![(variable, value)];
            if variable == "CALICO_IPV4POOL_CIDR" && value.contains(':') {
                variables.push(("CALICO_IPV4POOL_BLOCK_SIZE", "122"));
            }
            let error = read(&variables, true).expect_err(value).to_string();
            assert!(error.contains(want), "{variable}={value}: {error}");
        }
    }
}
