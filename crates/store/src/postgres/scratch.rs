//! A PostgreSQL that a test or benchmark starts itself, from Debian's binaries, in a folder of its own. It ends with the
//! process that started it, however that ends: a small shell process waits for that.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const USER: &str = "evergrant";
/// Of the only role. It is in the URLs, so that tests can look for it where it must not be.
pub const PASSWORD: &str = "canary-of-a-scratch-server";
const START_TIMEOUT_SECS: u32 = 60;

/// Waits until standard input ends, as it does when the process at its other end dies; then nothing is left.
const WATCH: &str = r#"cat >/dev/null
"$1/pg_ctl" -D "$2/data" -m immediate -w stop
rm -rf "$2""#;

/// Waits until nobody has locked `users` for some seconds, then stops the server. Who comes meanwhile waits at the door.
const WATCH_SHARED: &str = r#"cd "$2"
exec 8<>door 9<>users
while :; do
  flock -x 9; flock -u 9; sleep 5
  flock -x 8
  if flock -n -x 9; then
    "$1/pg_ctl" -D "$2/data" -m immediate -w stop
    rm -rf data port log
    exit
  fi
  flock -u 8
done"#;

/// What a server is to be like.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    settings: Vec<(String, String)>,
    tls: Option<(String, String)>,
}

impl Setup {
    /// As PostgreSQL is by default: every commit is synced.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a line of its `postgresql.conf`.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With TLS, by a certificate and its key, both PEM.
    #[must_use]
    pub fn with_tls(mut self, cert: &str, key: &str) -> Self {
        self.tls = Some((cert.to_owned(), key.to_owned()));
        self
    }

    /// Starts it, and waits until it answers.
    pub fn start(&self) -> io::Result<ScratchPostgres> {
        let found = Found::look()?;
        let folder = tempfile::Builder::new().prefix("evergrant-postgres-").tempdir()?.keep();
        let mut server = Server { found, folder, port: 0 };
        server.give(&server.folder)?;
        // First, so that a start that fails leaves nothing either.
        let watcher = server.watch(WATCH, Stdio::piped())?;
        let mut scratch = ScratchPostgres { server: server.clone(), watcher };
        server.make(self)?;
        scratch.server = server;
        Ok(scratch)
    }
}

/// A server of one test, which may do with it what it likes.
#[derive(Debug)]
pub struct ScratchPostgres {
    server: Server,
    watcher: Child,
}

impl ScratchPostgres {
    /// The URL of its first database.
    pub fn url(&self) -> String {
        self.server.url("postgres")
    }

    /// A new database; gives its URL.
    pub fn new_database(&self) -> io::Result<String> {
        self.server.new_database()
    }

    /// Where everything of it lies; it is removed in the end.
    pub fn folder(&self) -> &Path {
        &self.server.folder
    }

    /// Its port on the loopback address; it keeps it.
    pub fn port(&self) -> u16 {
        self.server.port
    }

    /// Stops it in good order: transactions are undone, connections closed.
    pub fn stop(&self) -> io::Result<()> {
        self.server.pg_ctl(&["-m", "fast", "-w", "stop"])
    }

    /// Stops it as a crash would: nothing is written any more, and it recovers when it is started.
    pub fn kill(&self) -> io::Result<()> {
        self.server.pg_ctl(&["-m", "immediate", "-w", "stop"])
    }

    /// Starts it again, and waits until it answers.
    pub fn start(&self) -> io::Result<()> {
        self.server.start()
    }

    /// Stops it in good order, and starts it again.
    pub fn restart(&self) -> io::Result<()> {
        self.stop()?;
        self.start()
    }
}

impl Drop for ScratchPostgres {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}

/// A server that all tests of this machine's user share, each with databases of its own: one that runs is used, and it
/// ends some seconds after its last user. It does not sync.
#[derive(Debug)]
pub struct SharedPostgres {
    server: Server,
    /// Locked, which says that somebody uses it.
    _users: File,
}

impl SharedPostgres {
    /// Starts it, or joins those who use it.
    pub fn join() -> io::Result<Self> {
        let found = Found::look()?;
        let me = rustix::process::getuid().as_raw();
        let folder = std::env::temp_dir().join(format!("evergrant-postgres-of-{me}"));
        match fs::create_dir(&folder) {
            Ok(()) => fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let owner = fs::symlink_metadata(&folder)?.uid();
        if owner != me && found.runs_as.is_none_or(|(user, _)| owner != user) {
            return Err(io::Error::other(format!("{} belongs to somebody else", folder.display())));
        }
        let mut server = Server { found, folder, port: 0 };
        server.give(&server.folder)?;
        let door = server.lock_file("door")?;
        door.lock()?;
        let users = server.lock_file("users")?;
        users.lock_shared()?;
        let port = fs::read_to_string(server.folder.join("port")).ok().and_then(|text| text.parse().ok());
        match port.filter(|port| answers(*port)) {
            Some(port) => server.port = port,
            None => {
                match fs::remove_dir_all(server.folder.join("data")) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
                server.make(
                    &Setup::new()
                        .with("fsync", "off")
                        .with("full_page_writes", "off")
                        .with("max_connections", "400"),
                )?;
                server.watch(WATCH_SHARED, Stdio::null())?;
                fs::write(server.folder.join("port"), server.port.to_string())?;
                server.give(&server.folder.join("port"))?;
            }
        }
        Ok(Self { server, _users: users })
    }

    /// A new database; gives its URL.
    pub fn new_database(&self) -> io::Result<String> {
        self.server.new_database()
    }
}

fn answers(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok()
}

/// Debian's binaries, and as whom they run.
#[derive(Debug, Clone)]
struct Found {
    binaries: PathBuf,
    version: u32,
    /// Not as root: PostgreSQL refuses that.
    runs_as: Option<(u32, u32)>,
}

impl Found {
    fn look() -> io::Result<Self> {
        let all = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let versions = all.filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            let binaries = entry.path().join("bin");
            binaries.join("initdb").is_file().then_some((version, binaries))
        });
        let newest = versions.max_by_key(|(version, _)| *version);
        let none = || io::Error::other("no /usr/lib/postgresql/*/bin/initdb: apt-get install postgresql");
        let (version, binaries) = newest.ok_or_else(none)?;
        let runs_as = if rustix::process::getuid().is_root() {
            Some(ids_of_postgres().ok_or_else(|| io::Error::other("there is no user postgres"))?)
        } else {
            None
        };
        Ok(Self { binaries, version, runs_as })
    }
}

fn ids_of_postgres() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let mut fields = users.lines().find(|line| line.starts_with("postgres:"))?.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[derive(Debug, Clone)]
struct Server {
    found: Found,
    folder: PathBuf,
    port: u16,
}

impl Server {
    fn url(&self, database: &str) -> String {
        let port = self.port;
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{port}/{database}?sslmode=disable")
    }

    fn new_database(&self) -> io::Result<String> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let mut tries = 0;
        loop {
            let name = format!("of_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
            let mut createdb = self.command("createdb");
            createdb.arg("--host").arg(&self.folder).args(["--port", &self.port.to_string()]);
            tries += 1;
            match run(createdb.args(["--username", USER, "--maintenance-db", "postgres", &name])) {
                Ok(()) => return Ok(self.url(&name)),
                // An earlier process may have had the same number.
                Err(_) if tries < 3 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes a cluster and starts it.
    fn make(&mut self, setup: &Setup) -> io::Result<()> {
        let password = self.folder.join("password");
        fs::write(&password, PASSWORD)?;
        self.give(&password)?;
        let mut initdb = self.command("initdb");
        initdb.arg("--pgdata").arg(self.folder.join("data")).arg("--pwfile").arg(&password);
        initdb.args(["--no-sync", "--encoding=UTF8", "--username", USER]);
        initdb.args(["--auth-local=trust", "--auth-host=scram-sha-256", "--locale=C.UTF-8"]);
        if self.found.version >= 15 {
            // Words sort as people sort them: what relies on the order of bytes has to say so.
            initdb.args(["--locale-provider=icu", "--icu-locale=en"]);
        }
        run(&mut initdb)?;
        fs::remove_file(&password)?;
        let data = self.folder.join("data");
        let mut lines = vec![
            ("listen_addresses".to_owned(), "127.0.0.1".to_owned()),
            ("unix_socket_directories".to_owned(), self.folder.display().to_string()),
        ];
        if let Some((cert, key)) = &setup.tls {
            for (name, text) in [("server.crt", cert), ("server.key", key)] {
                fs::write(data.join(name), text)?;
                fs::set_permissions(data.join(name), fs::Permissions::from_mode(0o600))?;
                self.give(&data.join(name))?;
            }
            lines.push(("ssl".to_owned(), "on".to_owned()));
        }
        lines.extend(setup.settings.iter().cloned());
        for try_number in 0.. {
            // Free now; somebody else may take it in the next moment.
            self.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            lines.push(("port".to_owned(), self.port.to_string()));
            let mut conf = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf"))?;
            for (name, value) in lines.drain(..) {
                writeln!(conf, "{name} = '{}'", value.replace('\'', "''"))?;
            }
            match self.start() {
                Err(error) if try_number == 3 => return Err(error),
                Err(_) => {}
                Ok(()) => break,
            }
        }
        Ok(())
    }

    fn start(&self) -> io::Result<()> {
        let log = self.folder.join("log");
        let started = self.pg_ctl(&[
            "--wait",
            "--timeout",
            &START_TIMEOUT_SECS.to_string(),
            "--log",
            &log.display().to_string(),
            "start",
        ]);
        started.map_err(|error| {
            let log = fs::read_to_string(&log).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(5).collect();
            io::Error::other(format!("{error}; its log ends, backwards: {}", tail.join(" | ")))
        })
    }

    fn pg_ctl(&self, arguments: &[&str]) -> io::Result<()> {
        run(self.command("pg_ctl").arg("--pgdata").arg(self.folder.join("data")).args(arguments))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.found.binaries.join(program));
        self.as_its_user(&mut command);
        command
    }

    /// Nothing of what this starts may keep a test's output open, or it would seem to run on.
    fn as_its_user(&self, command: &mut Command) {
        command.current_dir(&self.folder).env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((user, group)) = self.found.runs_as {
            command.uid(user).gid(group);
        }
    }

    /// A shell process that outlives what kills a whole group of processes.
    fn watch(&self, script: &str, stdin: Stdio) -> io::Result<Child> {
        let mut watcher = Command::new("sh");
        watcher.args(["-c", script, "sh"]).arg(&self.found.binaries).arg(&self.folder);
        self.as_its_user(&mut watcher);
        watcher.stdin(stdin).process_group(0).spawn()
    }

    fn lock_file(&self, name: &str) -> io::Result<File> {
        let path = self.folder.join(name);
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
        self.give(&path)?;
        Ok(file)
    }

    /// To the user as whom the server runs.
    fn give(&self, path: &Path) -> io::Result<()> {
        match self.found.runs_as {
            Some((user, group)) => std::os::unix::fs::chown(path, Some(user), Some(group)),
            None => Ok(()),
        }
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let status = command.status()?;
    if status.success() {
        return Ok(());
    }
    let program = command.get_program().to_string_lossy().into_owned();
    Err(io::Error::other(format!("{program}: {status}")))
}
