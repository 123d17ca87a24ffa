//! The layer of an image: what its root folder holds.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tar::{Builder, EntryType, Header};

use crate::elf::{self, Architecture};

/// Folders that every image has: where runtimes mount something, and what programs expect.
const FOLDERS: &[&str] = &["dev", "etc", "proc", "run", "sys", "tmp", "var"];

/// One thing in an image.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    path: String,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    File(PathBuf),
    Link(String),
}

impl Item {
    /// A program at `path`, as it is in `source` on this machine.
    pub(crate) fn file(path: &str, source: &str) -> Self {
        Self { path: path.trim_start_matches('/').to_owned(), content: Content::File(source.into()) }
    }

    /// A symbolic link.
    pub(crate) fn link(path: &str, target: &str) -> Self {
        Self { path: path.trim_start_matches('/').to_owned(), content: Content::Link(target.to_owned()) }
    }
}

/// For which machine the programs are: all for the same, and all static.
pub(crate) fn architecture(items: &[Item]) -> Result<Architecture> {
    let mut found: Option<(&Path, Architecture)> = None;
    for item in items {
        let Content::File(source) = &item.content else { continue };
        let bytes = std::fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        let machine = match elf::machine(&bytes) {
            Ok(machine) => machine,
            Err(reason) => bail!("{}: {reason}", source.display()),
        };
        match found {
            Some((other, first)) if first != machine => bail!(
                "{} is for {}, {} for {}: an image has one architecture",
                other.display(),
                first.name(),
                source.display(),
                machine.name()
            ),
            _ => found = Some((source, machine)),
        }
    }
    found.map(|(_, machine)| machine).context("an image needs a program")
}

/// A layer, packed.
pub(crate) struct Layer(Vec<u8>);

impl Layer {
    /// Packs the items, the folders that they are in, and those that every image has.
    pub(crate) fn pack(items: &[Item]) -> Result<Self> {
        let mut builder = Builder::new(Vec::new());
        let mut folders: BTreeSet<PathBuf> = FOLDERS.iter().map(PathBuf::from).collect();
        for item in items {
            let parents = Path::new(&item.path).ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
            folders.extend(parents.map(Path::to_owned));
        }
        for folder in &folders {
            let mode = if folder == Path::new("tmp") { 0o1777 } else { 0o755 };
            builder.append_data(&mut header(EntryType::Directory, mode, 0), folder, std::io::empty())?;
        }
        for item in items {
            match &item.content {
                Content::File(source) => {
                    let bytes = std::fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
                    let mut header = header(EntryType::Regular, 0o755, bytes.len() as u64);
                    builder.append_data(&mut header, &item.path, bytes.as_slice())?;
                }
                Content::Link(target) => {
                    builder.append_link(&mut header(EntryType::Symlink, 0o777, 0), &item.path, target)?;
                }
            }
        }
        Ok(Self(builder.into_inner()?))
    }

    /// The layer's archive.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A header that says nothing of when and by whom, so that the same input gives the same bytes.
pub(crate) fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
