//! A process's memory and CPU as the kernel counts them: for the metrics page and the load generator.

use std::fs;
use std::io;
use std::time::Duration;

/// Memory and CPU of one process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessSample {
    /// Resident memory with shared pages in their share, mapped files included (PSS).
    pub pss_bytes: u64,
    /// The anonymous part of it, in its share: heap, stacks, anonymous mappings.
    pub user_bytes: u64,
    /// User and system time of all threads since the start, ended ones included; see [`cpu_of`].
    pub cpu: Duration,
}

impl ProcessSample {
    /// Samples the process `pid`: memory from `smaps_rollup`, CPU by [`cpu_of`].
    pub fn of(pid: u32) -> io::Result<ProcessSample> {
        let memory = Memory::read(&format!("/proc/{pid}/smaps_rollup"))?;
        Ok(ProcessSample {
            pss_bytes: memory.proportional_bytes,
            user_bytes: memory.anonymous_bytes,
            cpu: cpu_of(pid)?,
        })
    }
}

/// User and system time of all threads of `pid`, ended ones included.
///
/// Two sources, both at or below the truth, so the higher counts: `stat` has ended threads too but counts in clock
/// ticks (10 ms each, user and system rounded down), `schedstat` of the living threads has nanoseconds. For a
/// process whose threads all live, as ours, a difference of two samples is exact to the scheduler's last tick
/// (≤ 4 ms); otherwise, and on kernels without schedstat, to 20 ms.
pub fn cpu_of(pid: u32) -> io::Result<Duration> {
    cpu(&format!("/proc/{pid}"))
}

pub(crate) fn cpu_of_self() -> io::Result<Duration> {
    cpu("/proc/self")
}

/// Open descriptors of this process. Since Linux 6.2 the directory's size is their number; before, it has to be read.
pub(crate) fn open_descriptors() -> io::Result<u64> {
    const DIRECTORY: &str = "/proc/self/fd";
    match fs::metadata(DIRECTORY)?.len() {
        // Reading the directory takes a descriptor itself.
        0 => Ok(entries(DIRECTORY)?.saturating_sub(1)),
        open => Ok(open),
    }
}

/// How many entries a directory has.
pub(crate) fn entries(path: &str) -> io::Result<u64> {
    Ok(fs::read_dir(path)?.count() as u64)
}

/// The figures of a `smaps_rollup` that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Memory {
    pub(crate) resident_bytes: u64,
    pub(crate) proportional_bytes: u64,
    pub(crate) anonymous_bytes: u64,
}

impl Memory {
    pub(crate) fn of_self() -> io::Result<Memory> {
        Memory::read("/proc/self/smaps_rollup")
    }

    fn read(path: &str) -> io::Result<Memory> {
        Memory::parse(&fs::read_to_string(path)?).ok_or_else(|| malformed(path))
    }

    fn parse(rollup: &str) -> Option<Memory> {
        // Pss_Anon came with Linux 5.9; before it Anonymous (not in its share) is the nearest.
        let anonymous = kib(rollup, "Pss_Anon:").or_else(|| kib(rollup, "Anonymous:"))?;
        Some(Memory {
            resident_bytes: kib(rollup, "Rss:")?,
            proportional_bytes: kib(rollup, "Pss:")?,
            anonymous_bytes: anonymous,
        })
    }
}

/// The value of the line `<key> <number> kB`, in bytes.
fn kib(rollup: &str, key: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1_024)
}

fn cpu(directory: &str) -> io::Result<Duration> {
    let path = format!("{directory}/stat");
    let ticks = stat_ticks(&fs::read_to_string(&path)?).ok_or_else(|| malformed(&path))?;
    let by_stat = Duration::from_nanos(ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second()));
    Ok(by_stat.max(living_threads(directory).unwrap_or_default()))
}

/// `utime` + `stime` of a `stat` line: fields 14 and 15, counted after the command's closing bracket, because the
/// command may itself have spaces and brackets.
fn stat_ticks(stat: &str) -> Option<u64> {
    let (_, after_command) = stat.rsplit_once(')')?;
    let mut fields = after_command.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The sum of the living threads' run times; a thread that ends meanwhile is left out.
fn living_threads(directory: &str) -> io::Result<Duration> {
    let mut total = Duration::ZERO;
    for task in fs::read_dir(format!("{directory}/task"))? {
        let Ok(schedstat) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let run_time = schedstat
            .split_ascii_whitespace()
            .next()
            .and_then(|field| field.parse().ok());
        total += Duration::from_nanos(run_time.unwrap_or(0));
    }
    Ok(total)
}

fn malformed(path: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{path} doesn't look as this kernel interface should"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_as_cpu_time() {
        let pid = std::process::id();
        let before = ProcessSample::of(pid).unwrap();
        // A state, not a sleep: burn until the kernel has counted 50 ms.
        let mut burnt = 0_u64;
        while cpu_of(pid).unwrap() < before.cpu + Duration::from_millis(50) {
            burnt = std::hint::black_box(burnt.wrapping_mul(31) + 1);
        }
        let after = ProcessSample::of(pid).unwrap();
        assert!(after.cpu >= before.cpu + Duration::from_millis(50));
        assert!(after.pss_bytes > after.user_bytes && after.user_bytes > 0);
    }

    #[test]
    fn time_of_ended_threads_counts() {
        let before = cpu_of_self().unwrap();
        let spent = std::thread::spawn(
            move || {
                while cpu_of_self().unwrap() < before + Duration::from_millis(100) {}
            },
        );
        spent.join().unwrap();
        // What stat rounds away is at most two ticks.
        assert!(cpu_of_self().unwrap() + Duration::from_millis(20) >= before + Duration::from_millis(100));
    }

    #[test]
    fn a_strange_command_name_is_no_trouble() {
        let stat = "7 (a) b (c) R 1 1 1 0 -1 4194304 99 0 0 0 12 30 0 0 20 0 1 0 106073 3133440 357";
        assert_eq!(stat_ticks(stat), Some(42));
        assert_eq!(stat_ticks("7 (x) R 1"), None);
    }

    #[test]
    fn a_rollup_without_the_newer_fields_still_reads() {
        let old = "x [rollup]\nRss:  20 kB\nPss:  10 kB\nAnonymous:   4 kB\n";
        let memory = Memory::parse(old).unwrap();
        assert_eq!(
            memory,
            Memory {
                resident_bytes: 20_480,
                proportional_bytes: 10_240,
                anonymous_bytes: 4_096
            }
        );
        assert_eq!(Memory::parse("Rss: 20 kB"), None);
        assert!(ProcessSample::of(u32::MAX).is_err());
    }
}
