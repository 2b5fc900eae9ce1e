//! Processes that are measured: their CPU time and memory as `/proc` tells them, and their end.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::run::now;

/// `/proc` counts CPU time in hundredths of a second, whatever the kernel's own tick is.
const NS_PER_TICK: u64 = 10_000_000;
const TO_END: Duration = Duration::from_secs(3);

/// A process that does not outlive its measurement.
#[derive(Debug)]
pub(super) struct Running(Child);

impl Running {
    pub(super) fn new(child: Child) -> Self {
        Self(child)
    }

    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// It has ended already, and how.
    pub(super) fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        self.0.try_wait().context("looking at the process")
    }
}

impl Drop for Running {
    /// Asks first: a master that is killed leaves its workers behind.
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let asked = Pid::from_raw(self.0.id().cast_signed());
            let asked = asked.is_some_and(|id| kill_process(id, Signal::TERM).is_ok());
            let since = now();
            while asked && since.elapsed() < TO_END && matches!(self.0.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process and all that descend from it.
pub(super) fn family(id: u32) -> Result<Vec<u32>> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let name = entry.context("reading /proc")?.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // It may have ended meanwhile.
        let Ok(text) = fs::read_to_string(format!("/proc/{process}/stat")) else {
            continue;
        };
        parents.insert(process, Stat::parse(&text)?.parent);
    }
    Ok(descendants(id, &parents))
}

fn descendants(id: u32, parents: &BTreeMap<u32, u32>) -> Vec<u32> {
    let mut found = vec![id];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, its)| **its == parent).map(|(process, _)| *process));
        next += 1;
    }
    found
}

/// What is used of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// Time in user and kernel mode of all threads, those that have ended included.
    ticks: u64,
}

impl Stat {
    fn parse(text: &str) -> Result<Self> {
        // The name in parentheses may hold anything, also parentheses and spaces.
        let (_, behind) = text.rsplit_once(')').context("a stat without a name")?;
        let fields: Vec<&str> = behind.split_whitespace().collect();
        let field = |number: usize| -> Result<u64> {
            // Numbered as in proc(5), where the state behind the name is the third.
            let field =
                number.checked_sub(3).and_then(|at| fields.get(at)).context("a stat that is short")?;
            field.parse().with_context(|| format!("field {number} of a stat is {field:?}"))
        };
        Ok(Self {
            parent: u32::try_from(field(4)?).context("a parent's id")?,
            ticks: field(14)? + field(15)?,
        })
    }
}

/// CPU time of all of them so far, in nanoseconds.
///
/// `stat` has hundredths of a second, too coarse for a second at a low rate; `schedstat` has the same sum (user and
/// kernel) in nanoseconds, but a thread that has ended takes its own along. The larger one is the nearer one.
pub(super) fn cpu_ns(processes: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for process in processes {
        let path = format!("/proc/{process}/stat");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let coarse = Stat::parse(&text)?.ticks * NS_PER_TICK;
        sum += coarse.max(by_schedstat(*process).unwrap_or(0));
    }
    Ok(sum)
}

fn by_schedstat(process: u32) -> Option<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task")).ok()? {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        sum += on_cpu(&text)?;
    }
    Some(sum)
}

fn on_cpu(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// Resident memory of all of them, in bytes.
pub(super) fn resident_bytes(processes: &[u32]) -> Result<u64> {
    status_sum(processes, "VmRSS")
}

/// The most that was resident since [`forget_peak`], in bytes.
pub(super) fn peak_bytes(processes: &[u32]) -> Result<u64> {
    status_sum(processes, "VmHWM")
}

/// Lets the peaks begin anew at what is resident now.
pub(super) fn forget_peak(processes: &[u32]) -> Result<()> {
    for process in processes {
        let path = format!("/proc/{process}/clear_refs");
        fs::write(&path, "5").with_context(|| format!("writing {path}"))?;
    }
    Ok(())
}

fn status_sum(processes: &[u32], field: &str) -> Result<u64> {
    let mut sum = 0;
    for process in processes {
        let path = format!("/proc/{process}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        sum += status_bytes(&status, field).with_context(|| format!("{path} has no {field}"))?;
    }
    Ok(sum)
}

fn status_bytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kilobytes: u64 = line?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// An address of loopback that nobody listens on.
pub(super) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    listener.local_addr().context("looking for a free port")
}

/// Waits until `ready` says so. Fails when the process ends before, or when it takes too long; `said` tells why.
pub(super) fn wait_until(
    running: &mut Running,
    patience: Duration,
    said: impl Fn() -> String,
    ready: impl Fn() -> bool,
) -> Result<()> {
    let since = now();
    while !ready() {
        let ended = running.ended()?;
        if let Some(status) = ended {
            bail!("it ended instead of serving ({status}):\n{}", said());
        }
        if since.elapsed() > patience {
            bail!("it did not serve within {} s:\n{}", patience.as_secs(), said());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Stat, cpu_ns, descendants, family, on_cpu, peak_bytes, resident_bytes, status_bytes};

    #[test]
    fn a_stat_is_read_whatever_the_name_is() {
        let text = "42 (a) b (c)) S 7 42 42 0 -1 4194560 100 0 0 0 250 31 0 0 20 0 1 0 100 0 0";
        assert_eq!(Stat::parse(text).unwrap(), Stat { parent: 7, ticks: 281 });
        assert!(Stat::parse("42 (short) S 7").is_err());
        assert!(Stat::parse("nothing").is_err());
    }

    #[test]
    fn the_other_files_are_read() {
        assert_eq!(on_cpu("106310 84858 2\n"), Some(106_310));
        assert_eq!(on_cpu(""), None);
        let status = "Name:\tx\nVmHWM:\t    200 kB\nVmRSS:\t    100 kB\n";
        assert_eq!(status_bytes(status, "VmRSS"), Some(102_400));
        assert_eq!(status_bytes(status, "VmHWM"), Some(204_800));
        assert_eq!(status_bytes(status, "VmSwap"), None);
    }

    #[test]
    fn a_family_is_all_generations() {
        let parents = BTreeMap::from([(2, 1), (3, 1), (4, 2), (5, 4), (6, 9)]);
        assert_eq!(descendants(2, &parents), [2, 4, 5]);
    }

    #[test]
    fn this_process_is_seen() {
        let own = std::process::id();
        assert!(family(own).unwrap().contains(&own));
        assert!(resident_bytes(&[own]).unwrap() > 0);
        assert!(peak_bytes(&[own]).unwrap() > 0);
        let before = cpu_ns(&[own]).unwrap();
        assert!(cpu_ns(&[own]).unwrap() >= before);
    }
}
