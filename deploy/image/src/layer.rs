//! The layer of an image: what its root folder holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tar::{Builder, EntryType, Header};

use crate::elf::{self, Architecture};

/// Folders that every image has: where runtimes mount something, and what programs expect.
const FOLDERS: &[&str] = &["dev", "etc", "proc", "run", "sys", "tmp", "var"];

/// One thing in an image, at its path.
pub(crate) struct Item {
    path: PathBuf,
    content: Content,
}

enum Content {
    Folder,
    Program(Vec<u8>),
    Link(PathBuf),
}

impl Item {
    /// Everything below a folder, and the folders that every image has, each folder before what is in it.
    pub(crate) fn below(root: &Path) -> Result<Vec<Self>> {
        let mut found: BTreeMap<PathBuf, Content> =
            FOLDERS.iter().map(|folder| (PathBuf::from(folder), Content::Folder)).collect();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let place = root.join(&folder);
            let failed = || format!("cannot read {}", place.display());
            for entry in fs::read_dir(&place).with_context(failed)? {
                let entry = entry.with_context(failed)?;
                let (path, place) = (folder.join(entry.file_name()), entry.path());
                let failed = || format!("cannot read {}", place.display());
                let kind = entry.file_type().with_context(failed)?;
                let content = if kind.is_dir() {
                    folders.push(path.clone());
                    Content::Folder
                } else if kind.is_symlink() {
                    Content::Link(fs::read_link(&place).with_context(failed)?)
                } else if kind.is_file() {
                    Content::Program(fs::read(&place).with_context(failed)?)
                } else {
                    bail!("{}: an image holds folders, links and programs only", place.display());
                };
                found.insert(path, content);
            }
        }
        Ok(found.into_iter().map(|(path, content)| Self { path, content }).collect())
    }
}

/// For which machine the programs are: all for the same, and each static or with its loader beside it.
pub(crate) fn architecture(items: &[Item]) -> Result<Architecture> {
    let mut found: Option<(&Path, Architecture)> = None;
    for item in items {
        let Content::Program(bytes) = &item.content else { continue };
        let (machine, loader) = match elf::machine(bytes) {
            Ok(machine) => machine,
            Err(reason) => bail!("{}: {reason}", item.path.display()),
        };
        if let Some(loader) = loader
            && !items.iter().any(|item| Path::new("/").join(&item.path) == loader)
        {
            bail!(
                "{} is linked dynamically, and the image has no {}: build it statically",
                item.path.display(),
                loader.display()
            );
        }
        match found {
            Some((other, first)) if first != machine => bail!(
                "{} is for {}, {} for {}: an image has one architecture",
                other.display(),
                first.name(),
                item.path.display(),
                machine.name()
            ),
            _ => found = Some((&item.path, machine)),
        }
    }
    found.map(|(_, machine)| machine).context("the folder holds no program")
}

/// A layer, packed.
pub(crate) struct Layer(Vec<u8>);

impl Layer {
    /// Packs the items.
    pub(crate) fn pack(items: &[Item]) -> Result<Self> {
        let mut builder = Builder::new(Vec::new());
        for Item { path, content } in items {
            match content {
                Content::Folder => {
                    let mode = if path == Path::new("tmp") { 0o1777 } else { 0o755 };
                    builder.append_data(&mut header(EntryType::Directory, mode, 0), path, std::io::empty())?;
                }
                Content::Program(bytes) => {
                    let mut header = header(EntryType::Regular, 0o755, bytes.len() as u64);
                    builder.append_data(&mut header, path, bytes.as_slice())?;
                }
                Content::Link(target) => {
                    builder.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)?;
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
