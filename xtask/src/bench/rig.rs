//! What every measurement of the gateway stands on: the upstream, the callers' keys, a scratch folder, and the load
//! generator with the proxy's counters read around it.
//!
//! The proxy under test is alone on one core; load and upstream share another.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::peer::{KEY_HEADER, Site, TOKEN};
use super::process::{Running, cpu_ns, family, forget_peak, peak_bytes, resident_bytes};
use super::release_build;
use crate::prerequisites::{self, Needed};

/// The core of load and upstream.
pub(super) const LOAD_CORE: u32 = 0;
/// The core of the proxy under test.
pub(super) const PROXY_CORE: u32 = 1;
/// So many callers are known.
pub(super) const CALLERS: usize = 1000;

/// Files that a process may hold open: two for each of some thousand streams.
const OPEN_FILES: u32 = 16_384;
const TOOLS: [Needed; 2] = [
    Needed { program: "taskset", packages: &["util-linux"], for_what: "keeps each process on its core" },
    Needed {
        program: "prlimit",
        packages: &["util-linux"],
        for_what: "lets a proxy hold thousands of streams",
    },
];

/// What stays up through a whole benchmark.
#[derive(Debug)]
pub(super) struct Rig {
    /// Before the folder: what runs ends before its files go.
    _upstream: Running,
    _upstream_input: Option<ChildStdin>,
    scratch: TempDir,
    benches: PathBuf,
    address: SocketAddr,
    keys: Vec<String>,
    /// The release build of Evergrant, when it takes part.
    pub(super) evergrant: Option<PathBuf>,
    /// Streams of events are measured, not requests.
    pub(super) streams: bool,
}

/// What a run of the load generator gave.
#[derive(Debug)]
pub(super) struct Measured {
    result: Value,
    /// CPU time of the proxy while it was measured.
    pub(super) cpu_ns: u64,
    /// Resident memory before anything was connected.
    pub(super) before_bytes: u64,
    /// When everything was connected: with streams that are held, all are open.
    pub(super) ready_bytes: u64,
    /// The most since.
    pub(super) peak_bytes: u64,
}

impl Measured {
    pub(super) fn number(&self, member: &str) -> Result<f64> {
        let number = self.result.get(member).and_then(Value::as_f64);
        number.with_context(|| format!("the load generator says no {member}: {}", self.result))
    }
}

/// A command that will run on one core, with enough open files.
pub(super) fn pinned(core: u32, program: &Path) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={OPEN_FILES}:{OPEN_FILES}"));
    command.args(["taskset", "--cpu-list", &core.to_string()]).arg(program);
    command
}

impl Rig {
    /// Builds both ends and starts the upstream.
    pub(super) fn new(streams: bool) -> Result<Self> {
        let cores = std::thread::available_parallelism().context("counting the cores")?.get();
        ensure!(cores >= 2, "this needs two cores: one for the proxy, one for load and upstream");
        prerequisites::for_bench(&TOOLS)?;
        let benches = release_build("evergrant-benches", "evergrant-benches")?;
        let scratch = tempfile::tempdir().context("making a scratch folder")?;
        let keys: Vec<String> = (0..CALLERS).map(key).collect();
        fs::write(scratch.path().join("keys"), keys.join("\n")).context("writing the keys")?;
        let child = pinned(LOAD_CORE, &benches)
            .args(["upstream", "--token", TOKEN])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the upstream")?;
        let mut upstream = Running::new(child);
        let input = upstream.child().stdin.take();
        let output = upstream.child().stdout.take().context("the upstream's output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).context("asking the upstream for its address")?;
        let address = line.trim().parse().with_context(|| format!("the upstream said {line:?}"))?;
        let (_upstream, _upstream_input) = (upstream, input);
        Ok(Self { _upstream, _upstream_input, scratch, benches, address, keys, evergrant: None, streams })
    }

    pub(super) fn upstream(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn keys(&self) -> &[String] {
        &self.keys
    }

    /// The keys, one a line.
    pub(super) fn keys_file(&self) -> PathBuf {
        self.scratch.path().join("keys")
    }

    /// Where installed peers are kept from one benchmark to the next: in the target folder.
    pub(super) fn cache(&self) -> PathBuf {
        let target = self.benches.parent().and_then(Path::parent).unwrap_or(self.scratch.path());
        target.join("bench-peers")
    }

    /// A folder of that name below the scratch folder.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.scratch.path().join(name);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    /// Runs the load generator against a site. Any answer that is not right is an error: with errors there is no
    /// measurement.
    pub(super) fn load(&self, site: &Site, path: &str, what: &[&str]) -> Result<Measured> {
        let measured = self.run_load(site, path, what);
        let measured = measured.with_context(|| format!("{}: load {}", site.peer.name(), what.join(" ")))?;
        if measured.number("errors")? > 0.0 {
            let first = measured.result.get("error").and_then(Value::as_str).unwrap_or_default();
            bail!("{}: load {}: {first}", site.peer.name(), what.join(" "));
        }
        Ok(measured)
    }

    fn run_load(&self, site: &Site, path: &str, what: &[&str]) -> Result<Measured> {
        let processes = site.id().map(family).transpose()?.unwrap_or_default();
        let before_bytes = resident_bytes(&processes)?;
        forget_peak(&processes)?;
        let mut command = pinned(LOAD_CORE, &self.benches);
        command.args([
            "load",
            "--address",
            &site.address.to_string(),
            "--path",
            &format!("{}{path}", site.prefix),
        ]);
        command.args(["--key-header", KEY_HEADER]);
        for header in &site.headers {
            command.args(["--header", header]);
        }
        if let Some(keys) = &site.keys {
            command.arg("--keys").arg(keys);
        }
        command.args(what).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = Running::new(command.spawn().context("starting the load generator")?);
        let mut input = running.child().stdin.take().context("the load generator's input")?;
        let output = running.child().stdout.take().context("the load generator's output")?;
        let mut lines = BufReader::new(output).lines();
        let mut line =
            lines.next().context("the load generator said nothing")?.context("reading its output")?;
        let (mut ready_bytes, mut began) = (before_bytes, cpu_ns(&processes)?);
        if line == "ready" {
            ready_bytes = resident_bytes(&processes)?;
            began = cpu_ns(&processes)?;
            input.write_all(b"go\n").context("telling the load generator to go")?;
            line =
                lines.next().context("the load generator gave no result")?.context("reading its output")?;
        }
        // All that were asked have answered: the proxy is quiet.
        let cpu_ns = cpu_ns(&processes)? - began;
        let peak_bytes = peak_bytes(&processes)?;
        drop(input);
        let result =
            serde_json::from_str(&line).with_context(|| format!("the load generator said {line:?}"))?;
        running.child().wait().context("waiting for the load generator")?;
        Ok(Measured { result, cpu_ns, before_bytes, ready_bytes, peak_bytes })
    }
}

/// A key of the length that Evergrant's have; what it is made of does not matter.
fn key(number: usize) -> String {
    let mixed = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("bench_{number:04}_{mixed:016x}{:016x}", mixed.rotate_left(29))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{CALLERS, key};

    #[test]
    fn keys_differ() {
        let keys: BTreeSet<String> = (0..CALLERS).map(key).collect();
        assert_eq!(keys.len(), CALLERS);
    }
}
