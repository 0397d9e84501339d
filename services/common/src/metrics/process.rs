//! What a process says of itself on its page: memory, CPU, descriptors, threads, version.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, IntGauge, IntGaugeVec, Opts, Registry};

use crate::process;
use crate::stamp::stamp;

/// How often `smaps_rollup` and the descriptors are read at most. The first walks every page of the process under
/// its memory lock, a millisecond per few hundred megabytes; ipconfig reads a gateway's page every second, and at
/// once a second both together took 1.7 % of a core of a gateway with 15,000 connections.
const COSTLY_READ_INTERVAL: Duration = Duration::from_secs(10);

/// A collector that reads `/proc/self` when, and only when, the page is asked for.
pub struct ProcessMetrics {
    resident: IntGauge,
    proportional: IntGauge,
    user: IntGauge,
    cpu: Counter,
    open_fds: IntGauge,
    threads: IntGauge,
    /// Serialises refreshes, so that two scrapes don't both advance the CPU counter.
    costly_read: Mutex<Option<Instant>>,
}

impl ProcessMetrics {
    /// Registers the process's metrics and `imaccess_build_info{version,part,stamp}`.
    pub fn register(registry: &Registry, part: &str, version: &str) {
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect("the name is a valid literal");
        let metrics = ProcessMetrics {
            resident: gauge(
                "imaccess_process_resident_memory_bytes",
                "Resident memory, pages shared with others in full.",
            ),
            proportional: gauge(
                "imaccess_process_proportional_memory_bytes",
                "Resident memory, pages shared with others in their share (PSS).",
            ),
            user: gauge(
                "imaccess_process_anonymous_memory_bytes",
                "Memory of the process's own, without mapped files.",
            ),
            cpu: Counter::new(
                "imaccess_process_cpu_seconds_total",
                "User and system time of all threads, ended ones too.",
            )
            .expect("the name is a valid literal"),
            open_fds: gauge("imaccess_process_open_fds", "Open file descriptors."),
            threads: gauge("imaccess_process_threads", "Threads."),
            costly_read: Mutex::new(None),
        };
        let build_info = IntGaugeVec::new(
            Opts::new("imaccess_build_info", "Always 1."),
            &["version", "part", "stamp"],
        )
        .expect("the name is a valid literal");
        build_info.with_label_values(&[version, part, stamp()]).set(1);
        registry
            .register(Box::new(build_info))
            .expect("a registry belongs to one part");
        registry
            .register(Box::new(metrics))
            .expect("a registry belongs to one part");
    }

    /// Reads what can be read; a figure that can't be keeps its last value.
    fn refresh(&self) {
        let mut costly_read = self.costly_read.lock().unwrap_or_else(PoisonError::into_inner);
        if costly_read.is_none_or(|last| last.elapsed() >= COSTLY_READ_INTERVAL)
            && let Ok(memory) = process::Memory::of_self()
        {
            self.resident.set(signed(memory.resident_bytes));
            self.proportional.set(signed(memory.proportional_bytes));
            self.user.set(signed(memory.anonymous_bytes));
            if let Ok(open) = process::open_descriptors() {
                self.open_fds.set(signed(open));
            }
            *costly_read = Some(Instant::now());
        }
        if let Ok(cpu) = process::cpu_of_self() {
            let growth = cpu.as_secs_f64() - self.cpu.get();
            if growth > 0.0 {
                self.cpu.inc_by(growth);
            }
        }
        if let Ok(threads) = process::entries("/proc/self/task") {
            self.threads.set(signed(threads));
        }
    }

    fn parts(&self) -> [&dyn Collector; 6] {
        [
            &self.resident,
            &self.proportional,
            &self.user,
            &self.cpu,
            &self.open_fds,
            &self.threads,
        ]
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway_page::exposition;
    use crate::metrics::render;

    #[test]
    fn a_page_tells_of_its_process() {
        let registry = Registry::new();
        ProcessMetrics::register(&registry, "gateway", "1.2.3");
        let page = render(&registry);
        let value = |name: &str| {
            exposition::samples(&page)
                .map(Result::unwrap)
                .find(|sample| sample.name == name)
                .expect(name)
                .value
        };
        assert!(value("imaccess_process_resident_memory_bytes") > 100_000.0);
        assert!(value("imaccess_process_proportional_memory_bytes") > 10_000.0);
        assert!(value("imaccess_process_anonymous_memory_bytes") > 10_000.0);
        assert!(value("imaccess_process_open_fds") >= 3.0);
        assert!(value("imaccess_process_threads") >= 1.0);
        assert!(value("imaccess_process_cpu_seconds_total") >= 0.0);
        assert!(
            page.contains("imaccess_build_info{part=\"gateway\",stamp=\"\",version=\"1.2.3\"} 1"),
            "{page}"
        );
    }
}
