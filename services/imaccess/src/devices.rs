//! Devices as people and scripts name them, and what became of each: any number, in calls of as many as the push API takes.
//!
//! `list` reads them, `calls` sends them on, `outcome` words the answers, `results` counts and shows them.

mod calls;
mod list;
mod outcome;
mod results;

use std::path::PathBuf;

pub(crate) use self::calls::in_calls;
pub(crate) use self::list::read;
pub(crate) use self::outcome::{of_join, of_kick, of_leave, of_presence, of_push};

/// Devices by flags.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct DeviceFlags {
    /// Devices
    #[arg(long, value_name = "DEVICE", value_delimiter = ',')]
    pub(crate) device: Vec<String>,
    /// File with devices, one a line; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) devices: Option<PathBuf>,
}

/// Devices by themselves.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct DeviceNames {
    /// Devices
    #[arg(value_name = "DEVICE")]
    pub(crate) device: Vec<String>,
    /// File with devices, one a line; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) devices: Option<PathBuf>,
}

impl DeviceFlags {
    /// All of them.
    pub(crate) fn read(&self) -> anyhow::Result<Vec<String>> {
        read(&self.device, self.devices.as_deref())
    }
}

impl DeviceNames {
    /// All of them.
    pub(crate) fn read(&self) -> anyhow::Result<Vec<String>> {
        read(&self.device, self.devices.as_deref())
    }
}
