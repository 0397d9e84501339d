//! Images that the cluster needs itself, and how images come to the nodes: no registry, no pull.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use imaccess_image::{Image, Layer};

use crate::layout::{Layout, NODES, PAUSE_IMAGE, TOOLBOX_IMAGE};
use crate::node::ctr;
use crate::packages::{System, busybox};
use crate::process::{command, output};
use crate::record::Record;

/// The image of pods' sandboxes: one static program.
pub(crate) fn pause(layout: &Layout) -> Result<PathBuf> {
    let mut layer = Layer::default();
    layer.copy("/pause", 0o755, &layout.program("pause"))?;
    let image = Image {
        reference: PAUSE_IMAGE.to_owned(),
        layers: vec![layer],
        entrypoint: vec!["/pause".to_owned()],
        user: "65535:65535".to_owned(),
        ..Image::default()
    };
    let path = layout.path("images/pause.tar");
    image.write(&path)?;
    Ok(path)
}

/// Writes the image `imaccess.io/toolbox:1`, for tests that need a shell, `nslookup`, `wget` or `nc` in a pod: busybox.
///
/// # Errors
/// When busybox can't be had.
pub fn toolbox(layout: &Layout) -> Result<PathBuf> {
    let program = busybox(&layout.tools())?;
    let mut layer = Layer::default();
    layer.copy("/bin/busybox", 0o755, &program)?;
    layer
        .directory("/tmp", 0o1777)
        // A static program can't load what other sources of names would need.
        .file(
            "/etc/nsswitch.conf",
            0o644,
            *b"hosts: files dns\nservices: files\n",
        );
    for applet in output(&mut command(&program, ["--list"]))?.lines() {
        if applet != "busybox" {
            layer.link(&format!("/bin/{applet}"), "busybox");
        }
    }
    let image = Image {
        reference: TOOLBOX_IMAGE.to_owned(),
        layers: vec![layer],
        entrypoint: vec!["/bin/sh".to_owned()],
        environment: vec!["PATH=/bin".to_owned()],
        user: "65532:65532".to_owned(),
        ..Image::default()
    };
    let path = layout.path("images/toolbox.tar");
    image.write(&path)?;
    Ok(path)
}

/// Imports an archive on every node of the running local cluster.
///
/// # Errors
/// When it can't be read, or containerd refuses it.
pub fn load(layout: &Layout, record: &Record, archive: &Path) -> Result<()> {
    import(layout, record, &System::find(&layout.tools())?, archive)
}

pub(crate) fn import(layout: &Layout, record: &Record, system: &System, archive: &Path) -> Result<()> {
    // Through the cluster's own directory, which is seen inside under a short name, wherever the archive is.
    let name = "images/loading.tar";
    fs::copy(archive, layout.path(name)).with_context(|| format!("cannot copy {}", archive.display()))?;
    for node in &NODES {
        ctr(
            record,
            node,
            system,
            &format!("images import {}", Layout::inside(name)),
        )
        .with_context(|| format!("cannot import {} on {}", archive.display(), node.name))?;
    }
    fs::remove_file(layout.path(name)).context("cannot remove the copied archive")
}
