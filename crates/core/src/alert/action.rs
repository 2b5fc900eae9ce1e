//! What an operator does about a condition: a sentence, and the exact commands (SPEC §6). Pure.

use super::{Action, Condition};
use crate::chain::{ChainName, Kind};
use crate::provider::Profile;
use crate::reason::Reason;

/// What an action depends on besides the condition.
#[derive(Debug, Clone, Copy)]
pub struct ActionContext<'c> {
    /// The chain.
    pub chain: &'c ChainName,
    /// How its grant is renewed.
    pub kind: Kind,
    /// Its provider.
    pub profile: &'c Profile,
    /// The reason behind the condition, if one is known.
    pub reason: Option<Reason>,
    /// The folder on the workstation in which the chain's login is made, if it is known.
    pub config_dir: Option<&'c str>,
}

/// What to do about a condition.
pub fn action(condition: Condition, context: &ActionContext<'_>) -> Option<Action> {
    let chain = context.chain;
    let status = || "evergrant status".to_owned();
    let agent = |what: &str| format!("evergrant agent {what}");
    let probe = || probe(chain);
    let (text, commands) = match condition {
        Condition::MacSilent => (
            "On the workstation: see whether it is awake and the agent runs; install the agent again if it is missing. \
             Is it off on purpose? Then announce that there: evergrant agent pause --for 8h."
                .to_owned(),
            vec![
                agent("status"),
                "launchctl print gui/$UID/dev.evergrant.agent".to_owned(),
                agent("install"),
            ],
        ),
        Condition::Failed => (
            "On the workstation: this tries name, connection, TLS, clock, key and last contact, and says which fails."
                .to_owned(),
            vec![agent("doctor")],
        ),
        Condition::Stale => (
            "On the server first: it is the authoritative refresher. If its renewals fail, repair that. If they succeed \
             and this alert stays, the workstation's flow is at fault: see its last reasons there."
                .to_owned(),
            vec![status(), agent("status")],
        ),
        Condition::ReauthRequired => login(context, "Usual cause: a login on another machine."),
        Condition::RenewalInDoubt => login(
            context,
            "Requests are still served. To be safe, make a new login before the access token ends.",
        ),
        Condition::LoginExpiring => login(context, "No renewal makes this login live longer; make a new one in time."),
        Condition::NotServing => {
            let (text, mut commands) = no_reserve(context, "Requests fail until the chain or a fallback key works.");
            commands.push(try_again(context));
            (text, commands)
        }
        Condition::FallbackUnusable => no_reserve(context, "Requests are served, but nothing stands behind the grant."),
        Condition::FallbackActive => (
            "The chain does not serve. See why, and mend that; requests use it again by themselves.".to_owned(),
            vec![status(), try_again(context)],
        ),
        Condition::RenewalFailing => renewal(context),
        Condition::VaultUnwritable => (
            "On the server: the status says what cannot be written: the auth file, its folder, the state folder or the \
             database. See that it has free space and may be written. Nothing is sent until then, and nothing was spent."
                .to_owned(),
            vec![status(), "df -h".to_owned(), try_again(context)],
        ),
        Condition::Quarantined => (
            "The vault is older than what this machine has seen, so its pair may be spent. Make a new login and bring it \
             in."
                .to_owned(),
            vec![status(), import(chain)],
        ),
        Condition::GrantRefused => (
            with_console(
                context,
                "The token lives, but the API refuses what the grant asks for: its organization, scopes or usage. See \
                 what the API says, then change that at the provider",
            ),
            vec![probe(), status()],
        ),
        Condition::FallbackHalfUsed | Condition::FallbackNearlyUsed => (
            "Bring the chain back, so that the fallback key is not needed; or raise \
             gateway.fallback.max_requests_per_day."
                .to_owned(),
            vec![status(), try_again(context)],
        ),
        Condition::ProbeFailing => (
            "See what the API answers. No answer is the network's or the provider's fault, not the token's.".to_owned(),
            vec![probe()],
        ),
        Condition::SecondWriter => login(
            context,
            "Find what else renews this pair (a copy of the auth file, the client on the workstation) and stop it. Give \
             the server a login of its own:",
        ),
        Condition::AgentBlind => (
            "On the workstation: unlock the login keychain, and see that it is not locked while somebody is logged in."
                .to_owned(),
            vec!["security unlock-keychain".to_owned(), agent("status")],
        ),
        Condition::ClockSkew => (
            "On the server: set the clock, and see that it is kept in time. Ends of tokens are misjudged until then."
                .to_owned(),
            vec!["timedatectl status".to_owned()],
        ),
    };
    Some(Action { text, commands })
}

fn import(chain: &ChainName) -> String {
    format!("evergrant import FILE --chain {chain} --move")
}

fn probe(chain: &ChainName) -> String {
    format!("evergrant probe --chain {chain}")
}

/// A command shows whether the chain works now: a login is renewed with it for the server, too. What mints its tokens keeps
/// them to itself, and other chains have nothing to renew.
fn try_again(context: &ActionContext<'_>) -> String {
    match context.kind {
        Kind::RefreshToken => format!("evergrant refresh --chain {} --force", context.chain),
        Kind::Static | Kind::JwtBearer | Kind::ClientCredentials | Kind::ApiKey => probe(context.chain),
    }
}

/// A new login, and how it gets to the server; for a chain that has no login, what takes its place.
fn login(context: &ActionContext<'_>, first: &str) -> (String, Vec<String>) {
    let chain = context.chain;
    match context.kind {
        Kind::RefreshToken | Kind::Static => {}
        Kind::JwtBearer | Kind::ClientCredentials | Kind::ApiKey => {
            let text = with_console(
                context,
                "The provider refuses what this chain proves itself with; replace it there",
            );
            return (text, vec!["evergrant config check".into(), probe(chain)]);
        }
    }
    let Some(login) = &context.profile.login else {
        let text = format!("{first} Log in again at the provider, then bring the login to the server.");
        return (text, vec![import(chain)]);
    };
    if context.kind == Kind::Static {
        let text = format!(
            "{first} Make a new token on the workstation, and give what it prints to the second command."
        );
        return (
            text,
            vec![login.long_lived.clone(), format!("evergrant agent push --chain {chain} --stdin")],
        );
    }
    let push = format!("evergrant agent push --chain {chain}");
    let (text, command) = match context.config_dir {
        Some(folder) => (
            format!("{first} Log in again on the workstation, then push that login to the server."),
            format!("{}={} {}", login.folder_variable, quoted(folder), login.command),
        ),
        None => (
            format!(
                "{first} Log in again on the workstation, with {}=FOLDER in front if [agent.chains.{chain}] there has \
                 config_dir = FOLDER, then push that login to the server.",
                login.folder_variable
            ),
            login.command.clone(),
        ),
    };
    (text, vec![command, push])
}

/// A word of the shell; `~/` at its beginning stays what it is.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%,".contains(&byte);
    let (home, rest) = word.strip_prefix("~/").map_or(("", word), |rest| ("~/", rest));
    if !rest.is_empty() && rest.bytes().all(plain) {
        return word.to_owned();
    }
    format!("{home}'{}'", rest.replace('\'', r"'\''"))
}

fn with_console(context: &ActionContext<'_>, text: &str) -> String {
    match &context.profile.console {
        Some(console) => format!("{text}: {console}"),
        None => format!("{text}."),
    }
}

/// How to get an API key, and where it goes.
fn no_reserve(context: &ActionContext<'_>, first: &str) -> (String, Vec<String>) {
    let text = match &context.profile.console {
        Some(console) => format!("{first} Make an API key at {console}"),
        None => format!("{first} Make an API key at the provider"),
    };
    let rules = context.profile.gateway.as_ref();
    let variable = rules.and_then(|rules| rules.fallback_variable.as_deref());
    let chain = context.chain;
    let file = format!("a file that fallback_key_file of [chains.{chain}] names");
    let place = match (context.kind, variable) {
        (Kind::ApiKey, _) => format!("the file that api_key_file of [chains.{chain}] names"),
        (Kind::RefreshToken | Kind::Static | Kind::JwtBearer | Kind::ClientCredentials, Some(variable)) => {
            format!("{variable} in the server's environment, or into {file}")
        }
        (Kind::RefreshToken | Kind::Static | Kind::JwtBearer | Kind::ClientCredentials, None) => file,
    };
    (format!("{text}, and put it into {place}."), vec!["evergrant status".into()])
}

/// Depends on why.
fn renewal(context: &ActionContext<'_>) -> (String, Vec<String>) {
    let chain = context.chain;
    let (status, check) = ("evergrant status".to_owned(), "evergrant config check".to_owned());
    // A running server reads its configuration when it is told to.
    let reload = "systemctl reload evergrant".to_owned();
    let known: [(Reason, &str, Vec<String>); 12] = [
        (
            Reason::TokenAbsent,
            "The vault holds no grant any more: the auth file is gone or empty, or the database was restored from before \
             the grant came in. Put it back, or bring in a new login.",
            vec![import(chain), status.clone()],
        ),
        (
            Reason::AuthFileMalformed,
            "The auth file cannot be read as a grant. Repair it, or bring in a new login.",
            vec![status.clone(), import(chain)],
        ),
        (
            Reason::AuthFileRolledBack,
            "Something put an older auth file back; the newest pair was restored. Find it (a backup, a synchronised \
             folder) and take the auth file out of it.",
            vec![status.clone()],
        ),
        (
            Reason::ClientRejected,
            "The provider rejects the request itself: a setting is wrong, not the grant. Correct it, let the server read it \
             (SIGHUP), and try again.",
            vec![check.clone(), reload.clone(), try_again(context)],
        ),
        (
            Reason::ProviderBlocked,
            "Something in front of the provider refuses this machine; that is not worked around. Ask whoever runs the \
             network, then try again.",
            vec![probe(chain), try_again(context)],
        ),
        (
            Reason::LockForeign,
            "Another program holds the locks beside the auth file. End it, or see why it hangs.",
            vec![status.clone()],
        ),
        (
            Reason::TermsNotAccepted,
            "Nothing is done with this login until its owner accepts the provider's terms, and the server has read that \
             (SIGHUP).",
            vec![check.clone(), reload],
        ),
        (
            Reason::IdentityTokenUnusable,
            "See that this workload's platform writes its identity token into the file. It is read again at each look.",
            vec![check.clone(), probe(chain)],
        ),
        (
            Reason::ApiKeyUnusable,
            "The file of the chain's API key is missing, or holds none. Put the key into it, and nothing else; it is \
             taken at once.",
            vec![check, probe(chain)],
        ),
        (
            Reason::ApiKeyRefused,
            "The API refuses the chain's API key. Make another one at the provider and put it into the key's file; it is \
             taken at once.",
            vec![probe(chain)],
        ),
        (
            Reason::SealBroken,
            "The chain's row does not open: a seal key is missing on this server, or the row was changed by hand. Put the \
             key back, or make a new login and bring it in.",
            vec!["evergrant seal status".into(), import(chain)],
        ),
        (
            Reason::GrantSpent,
            "The vault holds a pair that was replaced already. Bring in a new login.",
            vec![import(chain)],
        ),
    ];
    let found = context.reason.and_then(|reason| known.into_iter().find(|(known, _, _)| *known == reason));
    found.map_or_else(
        || {
            let text = "The provider does not answer as it should. Requests are served until the access token ends; see \
                        why, and try again.";
            (text.to_owned(), vec![status, try_again(context)])
        },
        |(_, text, commands)| (text.to_owned(), commands),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context<'c>(chain: &'c ChainName, profile: &'c Profile) -> ActionContext<'c> {
        ActionContext { chain, kind: Kind::RefreshToken, profile, reason: None, config_dir: None }
    }

    #[test]
    fn every_condition_has_an_action_with_a_command() {
        let (chain, profile) = ("my-team".parse().unwrap(), Profile::claude());
        let bare = Profile { console: None, login: None, gateway: None, terms: None, ..Profile::claude() };
        for condition in Condition::ALL {
            for kind in
                [Kind::RefreshToken, Kind::Static, Kind::JwtBearer, Kind::ClientCredentials, Kind::ApiKey]
            {
                for profile in [&profile, &bare] {
                    let context = ActionContext { kind, ..context(&chain, profile) };
                    let action = action(*condition, &context).unwrap();
                    assert!(!action.commands.is_empty(), "{condition}");
                    assert!(
                        action.text.len() > 20 && action.text.len() < 400,
                        "{condition}: {}",
                        action.text
                    );
                    assert!(!format!("{action:?}").contains("None"), "{condition}");
                }
            }
        }
    }

    #[test]
    fn a_dead_grant_asks_for_a_login_in_the_chains_own_folder() {
        let (chain, profile) = ("claude".parse().unwrap(), Profile::claude());
        let login = profile.login.clone().unwrap();
        let context = ActionContext { config_dir: Some("~/Evergrant's login"), ..context(&chain, &profile) };
        let commands =
            |context: &ActionContext<'_>| action(Condition::ReauthRequired, context).unwrap().commands;
        let own = format!("{}=~/'Evergrant'\\''s login' {}", login.folder_variable, login.command);
        assert_eq!(commands(&context), [own, "evergrant agent push --chain claude".into()]);
        let unknown = ActionContext { config_dir: None, ..context };
        let action = action(Condition::ReauthRequired, &unknown).unwrap();
        let told = format!("{}=FOLDER in front if [agent.chains.claude]", login.folder_variable);
        assert!(action.text.contains(&told), "{}", action.text);
        assert_eq!(action.commands, [login.command.clone(), "evergrant agent push --chain claude".into()]);
        let fixed = ActionContext { kind: Kind::Static, ..context };
        assert_eq!(
            commands(&fixed),
            [login.long_lived, "evergrant agent push --chain claude --stdin".into()]
        );
    }

    #[test]
    fn without_a_source_the_action_says_where_an_api_key_comes_from_and_goes() {
        let (chain, profile) = ("claude".parse().unwrap(), Profile::claude());
        let action = action(Condition::NotServing, &context(&chain, &profile)).unwrap();
        let variable = profile.gateway.clone().unwrap().fallback_variable.unwrap();
        for part in [profile.console.as_deref().unwrap(), &variable, "[chains.claude]"] {
            assert!(action.text.contains(part), "{}", action.text);
        }
    }

    #[test]
    fn a_failing_renewal_is_told_by_its_reason() {
        let (chain, profile) = ("claude".parse().unwrap(), Profile::claude());
        let of = |reason| {
            action(Condition::RenewalFailing, &ActionContext { reason, ..context(&chain, &profile) }).unwrap()
        };
        assert_eq!(of(Some(Reason::ClientRejected)).commands[0], "evergrant config check");
        assert_eq!(of(Some(Reason::TokenAbsent)).commands[0], "evergrant import FILE --chain claude --move");
        assert_eq!(of(Some(Reason::ProviderUnavailable)), of(None));
        for own in [Reason::ApiKeyUnusable, Reason::ApiKeyRefused, Reason::SealBroken] {
            assert_ne!(of(Some(own)).text, of(None).text, "{own}");
        }
    }

    #[test]
    fn what_has_nothing_to_renew_is_not_renewed() {
        let (chain, profile) = ("claude".parse().unwrap(), Profile::claude());
        for condition in Condition::ALL {
            for kind in [Kind::Static, Kind::JwtBearer, Kind::ClientCredentials, Kind::ApiKey] {
                let context = ActionContext { kind, ..context(&chain, &profile) };
                let commands = action(*condition, &context).unwrap().commands;
                assert!(!commands.iter().any(|command| command.contains("refresh")), "{condition} {kind:?}");
            }
        }
        let key = ActionContext { kind: Kind::ApiKey, ..context(&chain, &profile) };
        let text = action(Condition::NotServing, &key).unwrap().text;
        assert!(
            text.contains("api_key_file of [chains.claude]") && !text.contains("fallback_key_file"),
            "{text}"
        );
    }
}
