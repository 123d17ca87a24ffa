//! The archive around a layer, in the form of `docker save`: `manifest.json`, the image's configuration, the layer, compressed. Both are
//! named by their digests.

use std::fmt::Write as _;
use std::io::Write;

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType};

use crate::elf::Architecture;
use crate::layer::{Layer, header};

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Writes the archive.
pub(crate) fn write(
    output: impl Write,
    layer: &Layer,
    name: &str,
    entrypoint: &[String],
    architecture: Architecture,
) -> Result<()> {
    let diff = digest(layer.bytes());
    let config = json!({
        "architecture": architecture.name(),
        "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff}")]},
        "history": [{"created_by": "tortie-image"}],
    })
    .to_string();
    let config_path = format!("{}.json", digest(config.as_bytes()));
    let layer_path = format!("{diff}.tar.gz");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(layer.bytes())?;
    let compressed = encoder.finish()?;
    let manifest = json!([{"Config": config_path, "RepoTags": [name], "Layers": [layer_path]}]).to_string();

    let mut builder = Builder::new(output);
    let files: [(&str, &[u8]); 3] =
        [("manifest.json", manifest.as_bytes()), (&config_path, config.as_bytes()), (&layer_path, &compressed)];
    for (path, bytes) in files {
        builder.append_data(&mut header(EntryType::Regular, 0o644, bytes.len() as u64), path, bytes)?;
    }
    builder.into_inner()?.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use flate2::read::GzDecoder;
    use serde_json::Value;
    use tar::Archive;

    use super::*;
    use crate::elf::tests::program;
    use crate::layer::{Item, architecture};

    fn unpack(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = Archive::new(bytes);
        let entries = archive.entries().expect("an archive");
        entries
            .map(|entry| {
                let mut entry = entry.expect("an entry");
                let path = entry.path().expect("a path").display().to_string();
                let link = entry.link_name().expect("a link name").map(|target| target.display().to_string());
                let mut content = link.unwrap_or_default().into_bytes();
                entry.read_to_end(&mut content).expect("content");
                (path, content)
            })
            .collect()
    }

    #[test]
    fn an_image_holds_what_it_was_given_under_true_digests() {
        let root = std::env::temp_dir().join(format!("tortie-image-{}", std::process::id()));
        let content = program(183, &[1]);
        std::fs::create_dir_all(root.join("usr/bin")).expect("a writable folder");
        std::fs::create_dir_all(root.join("var")).expect("a writable folder");
        std::fs::write(root.join("usr/bin/agent"), &content).expect("a writable folder");
        std::os::unix::fs::symlink("/run", root.join("var/run")).expect("a writable folder");
        let make = || {
            let items = Item::below(&root).expect("a readable folder");
            let machine = architecture(&items).expect("a static program");
            let layer = Layer::pack(&items).expect("a layer");
            let mut archive = Vec::new();
            let entrypoint = ["/usr/bin/agent".to_owned(), "run".to_owned()];
            write(&mut archive, &layer, "docker.io/a/b:v1", &entrypoint, machine).expect("memory");
            archive
        };
        let archive = make();
        assert_eq!(archive, make(), "the same input gives other bytes");
        std::fs::write(root.join("usr/bin/script"), "#!/bin/sh").expect("a writable folder");
        let refused = architecture(&Item::below(&root).expect("a readable folder")).expect_err("a script");
        assert!(refused.to_string().contains("usr/bin/script: it is no"), "{refused}");
        std::fs::remove_dir_all(&root).expect("it is ours");

        let files = unpack(&archive);
        let manifest: Value = serde_json::from_slice(&files["manifest.json"]).expect("JSON");
        assert_eq!(manifest[0]["RepoTags"], json!(["docker.io/a/b:v1"]));
        let config = &files[manifest[0]["Config"].as_str().expect("a path")];
        assert_eq!(manifest[0]["Config"], format!("{}.json", digest(config)));
        let compressed = &files[manifest[0]["Layers"][0].as_str().expect("a path")];
        let mut layer = Vec::new();
        GzDecoder::new(compressed.as_slice()).read_to_end(&mut layer).expect("a compressed layer");
        let config: Value = serde_json::from_slice(config).expect("JSON");
        assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", digest(&layer))]));
        assert_eq!(config["architecture"], "arm64");
        assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/agent", "run"]));

        let inside = unpack(&layer);
        assert_eq!(inside["usr/bin/agent"], content);
        assert_eq!(inside["var/run"], b"/run");
        for folder in ["usr", "usr/bin", "tmp", "proc"] {
            assert!(
                inside.keys().any(|path| path.trim_end_matches('/') == folder),
                "{folder} is missing: {:?}",
                inside.keys()
            );
        }
    }
}
