//! One layer: a tar of files at their places in the image.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

/// What stands at a path.
#[derive(Clone, Debug)]
enum Entry {
    Directory { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { target: String },
}

/// Files, directories and symbolic links of one layer. Parents of what is added appear by themselves.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    /// By path without the leading slash: the order in the tar.
    entries: BTreeMap<String, Entry>,
}

impl Layer {
    /// Adds a directory with these permission bits (`0o1777` for a `/tmp`).
    pub fn directory(&mut self, path: &str, mode: u32) -> &mut Self {
        self.add(path, Entry::Directory { mode })
    }

    /// Adds a file with this content and these permission bits.
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> &mut Self {
        let content = content.into();
        self.add(path, Entry::File { mode, content })
    }

    /// Adds a copy of a file of this machine; symbolic links are followed.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn copy(&mut self, path: &str, mode: u32, source: &Path) -> Result<&mut Self> {
        let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        Ok(self.file(path, mode, content))
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        let target = target.to_owned();
        self.add(path, Entry::Link { target })
    }

    fn add(&mut self, path: &str, entry: Entry) -> &mut Self {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            self.entries
                .entry(path[..at].to_owned())
                .or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(path.to_owned(), entry);
        self
    }

    /// The layer's tar, uncompressed: its digest is the layer's identity in the image's configuration.
    pub(crate) fn tar(&self) -> Result<Vec<u8>> {
        let mut builder = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            let mut header = Header::new_ustar();
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            let context = || format!("the layer's entry {path}");
            match entry {
                Entry::Directory { mode } => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    builder
                        .append_data(&mut header, format!("{path}/"), &[][..])
                        .with_context(context)?;
                }
                Entry::File { mode, content } => {
                    header.set_entry_type(EntryType::Regular);
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    builder
                        .append_data(&mut header, path, content.as_slice())
                        .with_context(context)?;
                }
                Entry::Link { target } => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    builder
                        .append_link(&mut header, path, target)
                        .with_context(context)?;
                }
            }
        }
        builder.into_inner().context("the layer's end")
    }
}

/// Compresses as every run does: no name and no time in the header, a fixed level.
pub(crate) fn gzip(plain: &[u8]) -> Result<Vec<u8>> {
    // 6 is the compressor's own default: 9 takes three times as long for one per cent.
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(6));
    encoder.write_all(plain).context("compressing a layer")?;
    encoder.finish().context("compressing a layer")
}
