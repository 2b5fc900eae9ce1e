//! The command line (SPEC §11).

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use evergrant_core::ChainName;
use evergrant_core::caller::{CallerName, KeyId, Scope};

/// Keeps OAuth grants alive on servers.
///
/// Exit status: 0 fine, 1 failed, 2 usage or a refused configuration, 3 a chain needs somebody now.
#[derive(Debug, Parser)]
#[command(name = "evergrant", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Configuration file; without one the usual places are searched, and it runs without any.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON in place of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// You own the logins of all chains, and the provider's terms let you use them here.
    #[arg(long, global = true)]
    pub(crate) accept_provider_terms: bool,
}

/// Which chain.
#[derive(Debug, Clone, Args)]
pub(crate) struct OneChain {
    /// The chain; may be left out where there is only one.
    #[arg(long, value_name = "NAME")]
    pub(crate) chain: Option<ChainName>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Keep the chains: renew them in time, until SIGTERM.
    Serve,
    /// Show a stand-in provider, a keeper and the failures that it survives; needs nothing.
    Demo {
        /// End by itself after so long, e.g. `20s` or `2m`.
        #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
        span: Option<Duration>,
    },
    /// Run a stand-in provider on loopback.
    StandIn(StandInArgs),
    /// Show what state the chains are in: what serves, what is wrong, and what to do.
    Status {
        /// Show what happened, in order: rotations, push events, episodes and their alerts.
        #[arg(long)]
        timeline: bool,
        /// Of this chain only; it needs no section of its own.
        #[arg(long, value_name = "NAME")]
        chain: Option<ChainName>,
    },
    /// Look at a chain now, and renew it if that is due.
    Refresh {
        #[command(flatten)]
        chain: OneChain,
        /// Renew it even if it is not due.
        #[arg(long)]
        force: bool,
        /// Let the pair of a quarantined chain count as its newest first: the database was restored from a backup, and
        /// nothing newer exists.
        #[arg(long, requires = "force")]
        accept_stale: bool,
    },
    /// Prove that a chain's access token works.
    Probe {
        #[command(flatten)]
        chain: OneChain,
    },
    /// Print a chain's access token, for scripts.
    Token {
        #[command(flatten)]
        chain: OneChain,
    },
    /// Take over a login from a file; the file must not be used by anybody else afterwards.
    Import(ImportArgs),
    /// Write a chain's grant as an auth file, without its refresh token.
    Export {
        /// Where to; standard output if left out.
        file: Option<PathBuf>,
        #[command(flatten)]
        chain: OneChain,
        /// Hand out the refresh token too: whoever uses it becomes a second writer and breaks the chain.
        #[arg(long)]
        include_refresh_token: bool,
    },
    /// Make, list, revoke and rotate the keys of callers of the gateway and the admin API.
    ///
    /// Works on the state of this machine, whether or not a server runs; a running one knows it within 1 s.
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Make keys that seal pairs in a database, count what is sealed under which, and change to another.
    Seal {
        #[command(subcommand)]
        command: SealCommand,
    },
    /// Show what is and was wrong, acknowledge it, and hold alerts back for maintenance.
    Alerts {
        #[command(subcommand)]
        command: AlertsCommand,
    },
    /// Rehearse a failure against a stand-in provider, and check what should come of it.
    Drill {
        /// Which failure.
        #[arg(value_enum)]
        name: DrillName,
    },
    /// Run, install and ask the agent: the program on a workstation that pushes a fresh login to the server.
    ///
    /// It reads `[agent]` of the configuration, and nothing of a server's state.
    Agent {
        #[command(subcommand)]
        command: AgentCommand,
    },
    /// Check, show and describe the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print a completion script.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SealCommand {
    /// Print a new key: a line of the file that `[seal] key_file` names.
    NewKey,
    /// Show the keys, and how many rows are sealed under each.
    Status,
    /// Seal all rows under the first key; renewals go on meanwhile, and it may be cut short and run again.
    ///
    /// Before that, every server has to know the new key: add it behind the old one everywhere and restart, then put it
    /// in front everywhere and restart.
    RotateKey,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AlertsCommand {
    /// Show the episodes, the newest last, and how the sinks fare.
    List {
        /// Of this chain only.
        #[arg(long, value_name = "NAME")]
        chain: Option<ChainName>,
        /// Only those that are open.
        #[arg(long)]
        open: bool,
    },
    /// Say that somebody looks after an episode: no reminders, but a word when it is over.
    Ack {
        /// Which one, as `alerts list` shows it.
        episode: String,
        /// Remind again after so long, e.g. `2h`.
        #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
        span: Option<Duration>,
        /// Take it back.
        #[arg(long, conflicts_with = "span")]
        undo: bool,
    },
    /// Send one of each status to the sinks, marked as a test, and say what came of it.
    Test {
        /// To this sink only.
        sink: Option<String>,
    },
    /// Hold alerts about a chain back; what is still wrong at the end is told then.
    Mute {
        /// Which chain.
        chain: ChainName,
        /// For so long, e.g. `2h`; `0s` ends it.
        #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
        span: Duration,
    },
}

/// A failure that can be rehearsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DrillName {
    /// A forced exchange: a new generation that works.
    ForceRefresh,
    /// A worthless refresh token: one alert, then recovery.
    Revoked,
    /// A silent agent: one alert after 60 minutes, then recovery.
    Silence,
    /// The auth file gone under load: no request fails.
    Fallback,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say every fault with its line and what to do about it.
    Check,
    /// Print the configuration that is in force.
    Show,
    /// Print the JSON schema of the file.
    Schema,
    /// Print the reference of all settings as Markdown.
    Reference,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Look every minute, push a fresh login, and beat every half hour, until SIGTERM.
    Run,
    /// Push what waits, or beat, now.
    Once {
        #[command(flatten)]
        chain: AgentChainArg,
    },
    /// Push the login now, however old it is.
    Push {
        #[command(flatten)]
        chain: AgentChainArg,
        /// Take the login from standard input: what a command printed, or an auth file.
        #[arg(long)]
        stdin: bool,
        /// Another account or organization than before is meant.
        #[arg(long)]
        accept_new_identity: bool,
    },
    /// Announce that this workstation will be silent, so that nobody is alerted.
    Pause {
        /// For how long, e.g. `8h`.
        #[arg(long = "for", value_name = "TIME", value_parser = parse_duration, required_unless_present = "off")]
        span: Option<Duration>,
        /// Why.
        #[arg(long, default_value = "", requires = "span")]
        reason: String,
        /// It is back: take the announcement back.
        #[arg(long, conflicts_with = "span")]
        off: bool,
    },
    /// Show what the agent sees, and what came of it.
    Status {
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// Try the way to the server step by step, and say what to do next.
    Doctor,
    /// Install it as a service of your session: it starts now, and whenever you log in.
    Install {
        #[command(flatten)]
        service: ServiceArgs,
        /// Only print what would be written, and where.
        #[arg(long)]
        print: bool,
        /// Let it run while you are logged out, too (systemd only).
        #[arg(long)]
        linger: bool,
    },
    /// Take the service away, with all that the agent kept.
    Uninstall {
        #[command(flatten)]
        service: ServiceArgs,
    },
    /// Show the end of the agent's own log.
    Logs {
        /// So many lines.
        #[arg(long, short = 'n', default_value_t = 50)]
        lines: usize,
    },
}

/// Which chain of the agent.
#[derive(Debug, Clone, Args)]
pub(crate) struct AgentChainArg {
    /// The chain; may be left out where `[agent.chains]` has only one.
    #[arg(long, value_name = "NAME")]
    pub(crate) chain: Option<ChainName>,
}

/// What is imported, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct ImportArgs {
    /// An auth file, or `-` for standard input.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) chain: OneChain,
    /// Remove the file once the login is taken.
    #[arg(long = "move")]
    pub(crate) remove: bool,
    /// Take it although the provider cannot be asked whether it works.
    #[arg(long)]
    pub(crate) skip_probe: bool,
    /// Take the login of another account or organization than the chain's.
    #[arg(long)]
    pub(crate) accept_new_identity: bool,
}

/// Which service manager.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServiceArgs {
    /// The service manager; without it this machine's own.
    #[arg(long, value_enum)]
    pub(crate) manager: Option<ManagerArg>,
    /// In place of launchctl or systemctl.
    #[arg(long, hide = true, value_name = "FILE")]
    pub(crate) manager_program: Option<PathBuf>,
}

/// The service managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ManagerArg {
    /// macOS.
    Launchd,
    /// Linux.
    Systemd,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a key; it is printed once and not stored.
    Create(NewKeyArgs),
    /// Show all keys, without what they are.
    List,
    /// End a key at once.
    Revoke {
        /// Which one, as `keys list` shows it.
        id: KeyId,
    },
    /// Make another key for the same caller, in place of one.
    Rotate {
        /// Which one, as `keys list` shows it.
        id: KeyId,
        /// Let the old key work for so long, e.g. `1h`.
        #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "0s")]
        overlap: Duration,
    },
}

/// What a new key is to be.
#[derive(Debug, Clone, Args)]
pub(crate) struct NewKeyArgs {
    /// What you call its holder.
    #[arg(long, default_value = "unnamed")]
    pub(crate) name: CallerName,
    /// What it may be used for: gateway (if none is named), push, admin:read, admin:write or token:read. May be
    /// given several times.
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(crate) scopes: Vec<Scope>,
    /// The chain whose grant serves it.
    #[arg(long, value_name = "NAME")]
    pub(crate) chain: Option<ChainName>,
    /// Let it end by itself after so long, e.g. `30d`.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) expires_in: Option<Duration>,
    /// So many requests a minute at most.
    #[arg(long, value_name = "N")]
    pub(crate) requests_per_minute: Option<NonZeroU32>,
    /// So many requests at the same time at most.
    #[arg(long, value_name = "N")]
    pub(crate) concurrent: Option<NonZeroU32>,
    /// Never serve it by the fallback key.
    #[arg(long)]
    pub(crate) no_fallback: bool,
}

/// What a stand-in provider does with a refresh token that is presented twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReuseArg {
    /// Revoke the whole family.
    Strict,
    /// Let it pass for 30 s.
    Grace,
    /// Refuse it, and no more.
    None,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct StandInArgs {
    /// Where to listen; loopback only.
    #[arg(long, default_value = "127.0.0.1:8788")]
    pub(crate) listen: SocketAddr,
    /// Life of an access token, in seconds.
    #[arg(long, default_value_t = 3600)]
    pub(crate) access_secs: u64,
    /// What happens to a refresh token that is presented twice.
    #[arg(long, value_enum, default_value_t = ReuseArg::Strict)]
    pub(crate) reuse: ReuseArg,
    /// Log in, and write the auth file there.
    #[arg(long, value_name = "FILE")]
    pub(crate) auth_file: Option<PathBuf>,
}

/// `20s`, `5m`, `2h`, `1d`, or plain seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| "use a number with s, m, h or d, such as 20s".to_owned())?;
    let secs = match &text[digits.len()..] {
        "" | "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        _ => None,
    };
    secs.and_then(|unit| number.checked_mul(unit))
        .map(Duration::from_secs)
        .ok_or_else(|| "use a number with s, m, h or d, such as 20s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        for (text, secs) in [
            ("20s", Some(20)),
            ("2m", Some(120)),
            ("1h", Some(3600)),
            ("7", Some(7)),
            ("x", None),
            ("3y", None),
        ] {
            assert_eq!(parse_duration(text).ok().map(|span| span.as_secs()), secs, "{text}");
        }
    }

    #[test]
    fn every_command_that_an_alert_shows_is_understood() {
        use evergrant_core::alert::{ActionContext, Condition, action};
        use evergrant_core::chain::Kind;
        use evergrant_core::provider::Profile;
        let (chain, profile) = ("claude".parse().unwrap(), Profile::claude());
        let reasons = evergrant_core::Reason::ALL.iter().copied().map(Some).chain([None]);
        let kinds =
            [Kind::RefreshToken, Kind::Static, Kind::JwtBearer, Kind::ClientCredentials, Kind::ApiKey];
        let mut parsed = 0;
        for (reason, kind) in reasons.flat_map(|reason| kinds.map(|kind| (reason, kind))) {
            for condition in Condition::ALL {
                let context =
                    ActionContext { chain: &chain, kind, profile: &profile, reason, config_dir: None };
                let action = action(*condition, &context).unwrap();
                for command in action.commands.iter().filter(|command| command.starts_with("evergrant ")) {
                    let words = command.split(' ');
                    if let Err(error) = Cli::try_parse_from(words) {
                        panic!("{condition}: {command}: {error}");
                    }
                    parsed += 1;
                }
            }
        }
        assert!(parsed > 100, "{parsed}");
        assert!(Cli::try_parse_from("evergrant agent pause --for 8h".split(' ')).is_ok());
    }
}
