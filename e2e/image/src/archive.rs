//! Layers and configuration, put together as an OCI layout in one tar.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::layer::{Layer, gzip};

/// An image: what is in it, and how its program is started.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Full reference, as a pod names it: `registry/name:tag`.
    pub reference: String,
    /// From the one that changes least to the one that changes most: unchanged ones are shared between images.
    pub layers: Vec<Layer>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Environment of the program, `NAME=value`.
    pub environment: Vec<String>,
    /// Numeric user, and group after a colon: a name could not be checked by `runAsNonRoot`.
    pub user: String,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Digest of the image's manifest, `sha256:…`: the image's identity.
    pub digest: String,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Bytes of the files in the image, uncompressed.
    pub content_bytes: u64,
}

impl Image {
    /// Writes the archive to a file, replacing what was there.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, path: &Path) -> Result<Written> {
        let (archive, written) = self.archive()?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        }
        // Renamed into place: whoever reads the path meanwhile gets the old archive or the new one.
        let partial = path.with_extension("partial");
        fs::write(&partial, archive).with_context(|| format!("cannot write {}", partial.display()))?;
        fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(written)
    }

    /// The archive's bytes.
    ///
    /// # Errors
    /// When an entry can't be expressed in a tar (a path of more than 255 bytes).
    pub fn archive(&self) -> Result<(Vec<u8>, Written)> {
        let mut blobs = BTreeMap::new();
        let mut layers = Vec::new();
        let mut identities = Vec::new();
        let mut content_bytes = 0;
        for layer in &self.layers {
            let plain = layer.tar()?;
            content_bytes += plain.len() as u64;
            identities.push(digest(&plain));
            layers.push(descriptor(
                "application/vnd.oci.image.layer.v1.tar+gzip",
                gzip(&plain)?,
                &mut blobs,
            ));
        }
        let config = descriptor(
            "application/vnd.oci.image.config.v1+json",
            serde_json::to_vec(&self.config(&identities))?,
            &mut blobs,
        );
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        });
        let mut manifest = descriptor(
            "application/vnd.oci.image.manifest.v1+json",
            serde_json::to_vec(&manifest)?,
            &mut blobs,
        );
        let identity = manifest["digest"].as_str().unwrap_or_default().to_owned();
        // The first is what containerd names the image by; the second is the layout's own name for it.
        manifest["annotations"] = json!({
            "io.containerd.image.name": full_reference(&self.reference),
            "org.opencontainers.image.ref.name": full_reference(&self.reference),
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [manifest],
        });
        // What `docker load` of before 2024 reads instead of the layout.
        let blob_path = |value: &Value| {
            let digest = value["digest"].as_str().unwrap_or_default();
            digest.replacen("sha256:", "blobs/sha256/", 1)
        };
        let docker = json!([{
            "Config": blob_path(&config),
            "RepoTags": [self.reference],
            "Layers": layers.iter().map(blob_path).collect::<Vec<_>>(),
        }]);

        let mut files = blobs;
        files.insert(
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        );
        files.insert("index.json".to_owned(), serde_json::to_vec(&index)?);
        files.insert("manifest.json".to_owned(), serde_json::to_vec(&docker)?);
        let archive = tar_of(&files)?;
        let written = Written {
            digest: identity,
            archive_bytes: archive.len() as u64,
            content_bytes,
        };
        Ok((archive, written))
    }

    fn config(&self, identities: &[String]) -> Value {
        json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "User": self.user,
                "Env": self.environment,
                "Entrypoint": self.entrypoint,
                "WorkingDir": "/",
                "Labels": self.labels,
            },
            "rootfs": { "type": "layers", "diff_ids": identities },
        })
    }
}

/// The architecture under the name that images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold("sha256:".to_owned(), |mut text, byte| {
            // Writing to a string can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Puts a blob into the layout and returns what refers to it.
fn descriptor(media_type: &str, bytes: Vec<u8>, blobs: &mut BTreeMap<String, Vec<u8>>) -> Value {
    let digest = digest(&bytes);
    let value = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
    blobs.insert(digest.replacen("sha256:", "blobs/sha256/", 1), bytes);
    value
}

fn tar_of(files: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for directory in ["blobs/", "blobs/sha256/"] {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(0o755);
        header.set_mtime(0);
        header.set_size(0);
        builder
            .append_data(&mut header, directory, &[][..])
            .context("the archive's directories")?;
    }
    for (path, content) in files {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        builder
            .append_data(&mut header, path, content.as_slice())
            .with_context(|| format!("the archive's entry {path}"))?;
    }
    builder.into_inner().context("the archive's end")
}

/// A reference with what people leave out: containerd takes names as they are, and the kubelet asks for whole ones.
fn full_reference(reference: &str) -> String {
    let mut full = match reference.split_once('/') {
        None => format!("docker.io/library/{reference}"),
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => reference.to_owned(),
        Some(_) => format!("docker.io/{reference}"),
    };
    let last = full.rsplit('/').next().unwrap_or_default();
    if !last.contains([':', '@']) {
        full.push_str(":latest");
    }
    full
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn references_are_whole_as_the_kubelet_asks_for_them() {
        for (short, whole) in [
            ("imaccess:0.1.0", "docker.io/library/imaccess:0.1.0"),
            ("imaccess", "docker.io/library/imaccess:latest"),
            ("team/imaccess:1", "docker.io/team/imaccess:1"),
            ("imaccess.io/imaccess:dev", "imaccess.io/imaccess:dev"),
            ("localhost/imaccess:1", "localhost/imaccess:1"),
            ("registry:5000/imaccess", "registry:5000/imaccess:latest"),
            ("example.com/a@sha256:00", "example.com/a@sha256:00"),
        ] {
            assert_eq!(full_reference(short), whole);
        }
    }

    fn image() -> Image {
        let mut libraries = Layer::default();
        libraries
            .file("/lib/libone.so", 0o755, *b"one")
            .directory("/tmp", 0o1777);
        let mut program = Layer::default();
        program
            .file("/program", 0o755, *b"program")
            .link("/bin/sh", "/program");
        Image {
            reference: "example.com/one:2".to_owned(),
            layers: vec![libraries, program],
            entrypoint: vec!["/program".to_owned()],
            environment: vec!["STAMP=3".to_owned()],
            user: "65532:65532".to_owned(),
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        }
    }

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap();
        entries
            .map(|entry| {
                let mut entry = entry.unwrap();
                assert_eq!(entry.header().mtime().unwrap(), 0);
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (entry.path().unwrap().display().to_string(), content)
            })
            .collect()
    }

    fn parsed(files: &BTreeMap<String, Vec<u8>>, path: &str) -> Value {
        serde_json::from_slice(&files[path]).unwrap()
    }

    fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let wanted = descriptor["digest"].as_str().unwrap();
        let bytes = &files[&wanted.replacen("sha256:", "blobs/sha256/", 1)];
        assert_eq!(digest(bytes), wanted);
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    }

    #[test]
    fn the_same_image_gives_the_same_bytes() {
        assert_eq!(image().archive().unwrap(), image().archive().unwrap());
    }

    #[test]
    fn another_stamp_is_another_image_with_the_same_layers() {
        let mut other = image();
        other.environment = vec!["STAMP=4".to_owned()];
        let ((one, first), (two, second)) = (image().archive().unwrap(), other.archive().unwrap());
        assert_ne!(first.digest, second.digest);
        let blobs = |archive: &[u8]| {
            files(archive)
                .into_keys()
                .collect::<std::collections::BTreeSet<_>>()
        };
        // Two layers, the two directories and three named files are shared; configuration and manifest are not.
        assert_eq!(blobs(&one).intersection(&blobs(&two)).count(), 7);
    }

    #[test]
    fn every_reference_leads_to_a_blob_of_its_digest_and_size() {
        let (archive, written) = image().archive().unwrap();
        let files = files(&archive);
        let index = parsed(&files, "index.json");
        let entry = &index["manifests"][0];
        assert_eq!(entry["digest"], written.digest);
        assert_eq!(
            entry["annotations"]["io.containerd.image.name"],
            "example.com/one:2"
        );
        let manifest: Value = serde_json::from_slice(blob(&files, entry)).unwrap();
        let config: Value = serde_json::from_slice(blob(&files, &manifest["config"])).unwrap();
        assert_eq!(config["config"]["Entrypoint"], json!(["/program"]));
        assert_eq!(config["config"]["User"], "65532:65532");
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 2);
        for (layer, identity) in layers
            .iter()
            .zip(config["rootfs"]["diff_ids"].as_array().unwrap())
        {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(blob(&files, layer))
                .read_to_end(&mut plain)
                .unwrap();
            assert_eq!(identity.as_str().unwrap(), digest(&plain));
        }
        let docker = parsed(&files, "manifest.json");
        assert_eq!(docker[0]["RepoTags"], json!(["example.com/one:2"]));
        for layer in docker[0]["Layers"].as_array().unwrap() {
            assert!(files.contains_key(layer.as_str().unwrap()));
        }
    }

    #[test]
    fn a_layer_is_sorted_and_has_the_parents_of_its_files() {
        let mut layer = Layer::default();
        layer.file("/z", 0o644, *b"z").file("/a/b/c", 0o600, *b"c");
        let tar = layer.tar().unwrap();
        let mut archive = tar::Archive::new(tar.as_slice());
        let paths: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(paths, ["a/", "a/b/", "a/b/c", "z"]);
    }

    #[test]
    fn a_known_digest() {
        assert_eq!(
            digest(b"abc"),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
