//! Wires the chains of a database vault: who this machine is, what holds for each chain, and who tells other servers
//! (SPEC §4).

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evergrant_core::{ChainName, Reason};
use evergrant_server::metrics::Metrics;
use evergrant_server::published::Published;
use evergrant_server::rows::{Paces, RowParts, RowPolicy};
use evergrant_server::{RowKeeper, Snapshots, World as _};
use evergrant_store::marks::Marks;
use evergrant_store::receipts::Receipts;
use evergrant_store::secret_file::{self, Tightened};
use evergrant_store::vault::Holder;
use evergrant_store::{AnyState, OsDisk, PostgresState};
use futures_channel::mpsc::{self, UnboundedReceiver, UnboundedSender};
use futures_util::StreamExt as _;
use rand::RngExt as _;
use tokio::task::JoinHandle;

use crate::config::{ChainSettings, Settings};
use crate::host::{World, reaching};

/// The file in the state folder that holds the machine's id.
const MACHINE_ID: &str = "machine-id";
/// So many rows are in work at once at most.
const MOST_AT_ONCE: usize = 64;
/// For so long a machine's name is its server's, if that says nothing more.
const NAME_LEASE: Duration = Duration::from_secs(10);
const NAME_EVERY: Duration = Duration::from_millis(2500);
/// How often a start looks whether the name is free.
const NAME_AGAIN: Duration = Duration::from_millis(500);
/// Other servers are told once in so long at most.
const TELL_EVERY: Duration = Duration::from_millis(20);

/// The keeper of the database's chains in this process.
pub(crate) struct Rows {
    pub(crate) keeper: RowKeeper<World>,
    name: Name,
    receipts: Receipts<OsDisk>,
    book: Arc<Published<Book>>,
    /// Something was committed that other servers were not told of.
    committed: Mutex<Option<UnboundedReceiver<()>>>,
}

/// What a machine is called, and what tells it from a copy that is called the same.
#[derive(Debug, Clone)]
struct Name {
    machine: String,
    /// Of the system that runs, and of the file that holds the machine's id.
    instance: String,
    state_dir: PathBuf,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Rows").field(&self.keeper).finish()
    }
}

/// What holds for the chains of one configuration.
#[derive(Default)]
pub(crate) struct Book {
    named: HashMap<ChainName, Arc<RowPolicy<World>>>,
    /// The longest beginning first.
    by_prefix: Vec<(String, Arc<RowPolicy<World>>)>,
}

impl Book {
    pub(crate) fn of(settings: &Settings, world: &World) -> Result<Self, String> {
        let policy = |chain: &ChainSettings| {
            let world = reaching(world, chain)?;
            Ok::<_, String>(Arc::new(RowPolicy {
                policy: chain.policy.clone(),
                accepted: chain.accepted,
                world,
            }))
        };
        let mut book = Self::default();
        for chain in settings.chains.iter().filter(|chain| chain.in_database()) {
            book.named.insert(chain.name.clone(), policy(chain)?);
        }
        for template in &settings.templates {
            book.by_prefix.push((template.prefix.clone(), policy(template.common())?));
        }
        Ok(book)
    }

    fn find(&self, name: &ChainName) -> Option<Arc<RowPolicy<World>>> {
        let begins = |(prefix, _): &&(String, _)| name.as_str().starts_with(prefix.as_str());
        let found =
            self.named.get(name).or_else(|| self.by_prefix.iter().find(begins).map(|(_, policy)| policy));
        found.cloned()
    }
}

impl Rows {
    /// The keeper of this process, if the configuration has a database and what seals pairs in it.
    pub(crate) fn open(
        settings: &Settings,
        world: &World,
        snapshots: &Snapshots,
        metrics: &Metrics,
    ) -> Result<Option<Self>, String> {
        let Some(database) = &settings.database else { return Ok(None) };
        let Some(seal) = &database.seal else { return Ok(None) };
        if let Some(file) = &seal.file {
            match secret_file::tighten(file) {
                Tightened::Fine => {}
                Tightened::Done => {
                    tracing::warn!(file = %file.display(), "the seal keys were open to others; tightened to 0600");
                }
                Tightened::Failed(why) => {
                    tracing::warn!(file = %file.display(), why, "the seal keys are open to others: make the file 0600");
                }
            }
        }
        let book = Arc::new(Published::new(Book::of(settings, world)?));
        let machine = machine_id(&settings.state_dir, world.machine())?;
        let name = Name {
            machine: machine.clone(),
            instance: instance(&settings.state_dir),
            state_dir: settings.state_dir.clone(),
        };
        let process = format!("{machine}-{}-{}", std::process::id(), world.now().as_nanosecond());
        let receipts = Receipts::open(OsDisk, settings.state_dir.join("receipts"), seal.ring.clone());
        let receipts = receipts.map_err(|error| error.to_string())?;
        let known = book.clone();
        let (committed, tell) = mpsc::unbounded();
        let keeper = RowKeeper::new(RowParts {
            world: world.clone(),
            holder: Holder { process, machine },
            policies: Arc::new(move |name| known.current().find(name)),
            receipts: receipts.clone(),
            marks: marks(&database.marks_file)?,
            snapshots: snapshots.clone(),
            metrics: metrics.clone(),
            most_at_once: MOST_AT_ONCE,
            paces: Paces::default(),
            committed: Some(committed),
        });
        Ok(Some(Self { keeper, name, receipts, book, committed: Mutex::new(Some(tell)) }))
    }

    /// Takes this machine's name, or says that another one goes by it that lives. One that may have died is waited for.
    pub(crate) async fn take_name(&self, state: &PostgresState) -> Result<(), String> {
        let Name { machine, instance, state_dir } = &self.name;
        let mut first = None;
        loop {
            let taken = state.hold_machine(machine, instance, NAME_LEASE).await;
            let Some(taken) = taken.map_err(|error| error.to_string())? else { return Ok(()) };
            let beats = *first.get_or_insert_with(|| {
                let secs = taken.left.as_secs();
                tracing::warn!(%machine, secs, "another one went by the name of this machine; waiting whether it lives");
                taken.beats
            });
            if taken.beats != beats {
                let id = state_dir.join(MACHINE_ID);
                return Err(format!(
                    "another server that runs now goes by the name of this machine, {machine}: is {} a copy of its state \
                     folder? Two of one name would take each other's answers for lost. Where the copy is, remove {}",
                    state_dir.display(),
                    id.display()
                ));
            }
            tokio::time::sleep(NAME_AGAIN).await;
        }
    }

    /// Goes on with another configuration.
    pub(crate) fn take_up(&self, book: Book) {
        self.book.replace(|_| Some(book));
    }

    /// Keeps all chains of the database, until the end.
    pub(crate) fn keep(&self, state: &PostgresState) -> Keeping {
        let (wake, wakes) = mpsc::unbounded();
        let (poke, pokes) = mpsc::unbounded();
        let (keeper, follower) = (self.keeper.clone(), self.keeper.clone());
        tokio::spawn(async move { keeper.run(wakes).await });
        let mut others = vec![tokio::spawn(async move { follower.keep_following(pokes).await })];
        let listening = state.clone();
        others.push(tokio::spawn(async move { listening.listen(poke).await }));
        let committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(committed) = committed {
            others.push(tokio::spawn(tell(state.clone(), committed)));
        }
        others.push(tokio::spawn(stay(state.clone(), self.keeper.clone(), self.name.clone())));
        let receipts = self.receipts.clone();
        // Before anybody takes an older key out.
        tokio::task::spawn_blocking(move || match reseal(&receipts) {
            (0, 0) => {}
            (resealed, 0) => {
                tracing::info!(resealed, "receipts on this machine were sealed under the newest key")
            }
            (resealed, failed) => {
                tracing::warn!(resealed, failed, "receipts on this machine do not open: keep all seal keys");
            }
        });
        Keeping { wake, others }
    }

    /// Seals the receipts on this machine under the newest key. Gives how many were not, and of how many chains some do not
    /// open.
    pub(crate) async fn reseal_receipts(&self, world: &World) -> (u64, u64) {
        let receipts = self.receipts.clone();
        world.offload(move || reseal(&receipts)).await
    }

    /// Tells other servers of what a command has committed.
    pub(crate) async fn tell_at_last(&self, state: &AnyState) {
        let committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let any = committed.is_some_and(|mut committed| committed.try_recv().is_ok());
        match state {
            // Whoever is not told asks every half second.
            AnyState::Postgres(state) if any => drop(state.tell().await),
            AnyState::Postgres(_) | AnyState::Sqlite(_) => {}
        }
    }
}

/// What runs while the chains of the database are kept.
#[derive(Debug)]
pub(crate) struct Keeping {
    wake: UnboundedSender<()>,
    /// Loops that may be ended anywhere.
    others: Vec<JoinHandle<()>>,
}

impl Keeping {
    /// Claims nothing any more; what is in work is let finish.
    pub(crate) fn stop(&self) {
        self.wake.close_channel();
    }

    /// Ends the rest.
    pub(crate) fn end(self) {
        self.others.iter().for_each(JoinHandle::abort);
    }
}

/// Tells other servers after commits, in one word for all that came meanwhile.
async fn tell(state: PostgresState, mut committed: UnboundedReceiver<()>) {
    while committed.next().await.is_some() {
        while committed.try_recv().is_ok() {}
        if let Err(error) = state.tell().await {
            tracing::debug!(%error, "other servers were not told; they ask every half second");
        }
        tokio::time::sleep(TELL_EVERY).await;
    }
}

/// Keeps this machine's name. While another one has it, which was started when this one seemed to be dead, nothing is renewed
/// here.
async fn stay(state: PostgresState, keeper: RowKeeper<World>, name: Name) {
    let mut rests = false;
    loop {
        tokio::time::sleep(NAME_EVERY).await;
        match state.hold_machine(&name.machine, &name.instance, NAME_LEASE).await {
            Ok(taken) => {
                if taken.is_some() && !rests {
                    let (reason, machine) = (Reason::VaultUnwritable, &name.machine);
                    tracing::error!(%reason, %machine, "another server goes by the name of this machine: nothing is renewed here until that one ends; is its state folder a copy?");
                } else if taken.is_none() && rests {
                    tracing::info!(
                        machine = name.machine,
                        "nobody else goes by the name of this machine any more"
                    );
                }
                rests = taken.is_some();
                keeper.rest(rests);
            }
            // Nobody claims anything either.
            Err(error) => tracing::debug!(%error, "the name of this machine was not kept"),
        }
    }
}

fn reseal(receipts: &Receipts<OsDisk>) -> (u64, u64) {
    let mut rng = rand::make_rng::<rand::rngs::StdRng>();
    let (mut resealed, mut failed) = (0, 0);
    let chains = receipts.chains().unwrap_or_else(|error| {
        tracing::warn!(%error, "the receipts cannot be gone through");
        failed += 1;
        Vec::new()
    });
    for chain in chains {
        match receipts.reseal(&chain, &mut rng) {
            Ok(count) => resealed += count,
            Err(error) => {
                tracing::warn!(%chain, %error, "its receipts stay as they are");
                failed += 1;
            }
        }
    }
    (resealed, failed)
}

fn marks(file: &Path) -> Result<Marks, String> {
    let unusable = |why: String| {
        let file = file.display();
        format!("the marks {file} cannot be used: {why}; set marks_file to a place that is writable")
    };
    if let Some(folder) = file.parent() {
        use std::os::unix::fs::DirBuilderExt as _;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| unusable(error.to_string()))?;
    }
    Marks::open(file).map_err(|error| unusable(error.to_string()))
}

/// What tells this state folder from a copy of it: where the file lies that both have, and the start of the system that it lies
/// on.
fn instance(state_dir: &Path) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let file = fs::metadata(state_dir.join(MACHINE_ID)).map_or((0, 0), |file| (file.dev(), file.ino()));
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("{}-{:x}-{:x}", boot.trim(), file.0, file.1)
}

/// What the machine is called whose receipts lie in this state folder: by the host that made the folder, which may have
/// another name since, as a container has that is made anew.
fn machine_id(state_dir: &Path, host: &str) -> Result<String, String> {
    let file = state_dir.join(MACHINE_ID);
    let failed = |error: std::io::Error| format!("{} cannot be used: {error}", file.display());
    let fits = |id: &str| {
        let number = id.rsplit('-').next().unwrap_or_default();
        number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    for _ in 0..2 {
        match fs::read_to_string(&file) {
            Ok(id) if fits(id.trim()) => return Ok(id.trim().to_owned()),
            Ok(_) => {
                let file = file.display();
                return Err(format!(
                    "{file} holds no machine id: restore it, or remove it once no chain is in doubt"
                ));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        // Linked into its place whole: another process may make one at the same time.
        let id: u64 = rand::rng().random();
        let staged = state_dir.join(format!("machine-id.{id:016x}"));
        let mut options = fs::OpenOptions::new();
        let mut opened = options.write(true).create_new(true).mode(0o600).open(&staged).map_err(failed)?;
        writeln!(opened, "{host}-{id:016x}").and_then(|()| opened.sync_all()).map_err(failed)?;
        let linked = fs::hard_link(&staged, &file);
        fs::remove_file(&staged).map_err(failed)?;
        match linked {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
    }
    Err(format!("{} comes and goes", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_stays_and_is_one_for_all_who_make_it() {
        let folder = tempfile::tempdir().unwrap();
        let ids: Vec<_> = std::thread::scope(|scope| {
            let made = (0..8).map(|n| {
                let (folder, host) = (folder.path(), format!("host-{n}"));
                scope.spawn(move || machine_id(folder, &host).unwrap())
            });
            let made: Vec<_> = made.collect();
            made.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::write(folder.path().join("machine-id"), "nonsense").unwrap();
        assert!(machine_id(folder.path(), "host").unwrap_err().contains("holds no machine id"));
    }
}
