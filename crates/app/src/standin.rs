//! `evergrant stand-in` and `evergrant demo`: the parts that need no provider.

use std::process::ExitCode;
use std::time::Duration;

use evergrant_core::provider::Profile;
use evergrant_lab::demo::Demo;
use evergrant_standin::{GraceSuccessor, LoginOptions, ReuseClass, Settings, StandIn};
use serde_json::json;

use crate::cli::{ReuseArg, StandInArgs};
use crate::commands::write_private;
use crate::output;

/// The stand-in with the built-in profile's own words, so that its tokens pass where that profile's do.
fn settings(args: &StandInArgs) -> Settings {
    let mut settings = evergrant_lab::like(&Profile::claude());
    settings.lives.access_secs = args.access_secs;
    settings.reuse = match args.reuse {
        ReuseArg::Strict => ReuseClass::Strict,
        ReuseArg::Grace => ReuseClass::Grace { secs: 30, successor: GraceSuccessor::New },
        ReuseArg::None => ReuseClass::None,
    };
    settings
}

/// Runs a stand-in provider until it is ended.
pub(crate) async fn stand_in(args: StandInArgs, as_json: bool) -> ExitCode {
    let standin = match StandIn::start_at(args.listen, settings(&args)).await {
        Ok(standin) => standin,
        Err(error) => return output::failed(error),
    };
    let (base, token, probe) = (standin.url(), standin.token_url(), standin.probe_url());
    if let Some(file) = &args.auth_file {
        let login = standin.engine().login(LoginOptions::default()).auth_file();
        if let Err(why) = write_private(file, format!("{login:#}\n").as_bytes()) {
            return output::failed(why);
        }
    }
    if as_json {
        output::json(
            &json!({ "url": base, "token_url": token, "probe_url": probe, "auth_file": args.auth_file }),
        );
    } else {
        anstream::println!("a stand-in provider listens on {base}; it is scripted at {base}/_stand-in/");
        anstream::println!("\nto keep a chain of it, put this into a configuration file:\n");
        anstream::println!("[providers.stand-in]\nextends = \"claude\"\ntoken_url = \"{token}\"");
        anstream::println!("api_base = \"{base}\"\nprobe_url = \"{probe}\"\n");
        anstream::println!("[chains.claude]\nprovider = \"stand-in\"\naccept_provider_terms = true");
        if let Some(file) = &args.auth_file {
            anstream::println!("auth_file = \"{}\"", file.display());
        }
    }
    let _ = tokio::signal::ctrl_c().await;
    standin.stop().await;
    ExitCode::SUCCESS
}

/// Shows what Evergrant does, with token lives of seconds.
pub(crate) async fn demo(span: Option<Duration>, as_json: bool) -> ExitCode {
    let say = move |line: evergrant_lab::demo::Line| {
        if as_json {
            anstream::println!("{}", serde_json::to_string(&line).unwrap_or_default());
            return;
        }
        let style = match line.mood {
            evergrant_lab::demo::Mood::Good => output::GOOD,
            evergrant_lab::demo::Mood::Bad => output::BAD,
            evergrant_lab::demo::Mood::Warn => output::WARN,
            evergrant_lab::demo::Mood::Plain => anstyle::Style::new(),
        };
        let dim = output::DIM;
        anstream::println!(
            "{dim}{:>6.1} s{dim:#}  {:<8} {style}{}{style:#}",
            line.at_secs,
            line.who,
            line.what
        );
    };
    let demo = match Demo::start(say).await {
        Ok(demo) => demo,
        Err(why) => return output::failed(why),
    };
    let end = async {
        match span {
            Some(span) => tokio::time::sleep(span).await,
            None => std::future::pending().await,
        }
    };
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(end, interrupted);
    let outcome = tokio::select! {
        outcome = demo.run() => outcome,
        () = &mut end => demo.end().await,
        _ = &mut interrupted => demo.end().await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => output::failed(why),
    }
}
