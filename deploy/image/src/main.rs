//! `tortie-image`: packs a folder of static programs into a container image that `ctr images import`, `docker load` and `podman load` take.
//!
//! An image of this kind is one layer: folders, links and files, with a configuration that says what to run. That is a tar archive in a
//! tar archive with two JSON files, so no image builder, no daemon and no registry is needed. The same input gives the same bytes.

mod archive;
mod elf;
mod layer;

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;

use crate::layer::{Item, Layer};

/// Packs a folder of static programs into a container image archive.
#[derive(Parser)]
struct Args {
    /// The archive to write.
    output: PathBuf,
    /// The folder that becomes the image's root.
    root: PathBuf,
    /// The image's name with its tag, such as `docker.io/tortie/tortie-node:v0.0.1`.
    #[arg(long)]
    name: String,
    /// The program that a container runs, with its first arguments.
    #[arg(long, value_delimiter = ' ', required = true)]
    entrypoint: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let items = Item::below(&args.root)?;
    let architecture = layer::architecture(&items)?;
    let layer = Layer::pack(&items)?;
    if let Some(folder) = args.output.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // Beside its place first: whoever loads the archive never sees half of one.
    let part = args.output.with_extension("part");
    let file = File::create(&part).with_context(|| format!("cannot write {}", part.display()))?;
    archive::write(BufWriter::new(file), &layer, &args.name, &args.entrypoint, architecture)
        .with_context(|| format!("cannot write {}", part.display()))?;
    std::fs::rename(&part, &args.output).with_context(|| format!("cannot write {}", args.output.display()))?;
    let size = std::fs::metadata(&args.output).map_or(0, |file| file.len());
    println!("{}: {}, {} KiB", args.output.display(), args.name, size / 1024);
    Ok(())
}
